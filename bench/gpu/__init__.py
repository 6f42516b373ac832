"""Checks that need a GPU: `run.sh` runs all of them, `report` measures, compute-sanitizer watches `small_shapes`."""
