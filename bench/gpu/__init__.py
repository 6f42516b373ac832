"""What only a GPU can show: `run.sh` does it all, `report` measures, compute-sanitizer watches `small_shapes`."""
