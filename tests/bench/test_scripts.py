"""Every script in bench/ runs, at its smallest sizes; nothing is asserted about times."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import report
from rivals.inputs import SIFT_FILE

BENCH = report.ROOT / "bench"
LIBRARIES = ("environment", "measuring", "memory", "paired", "tables", "chart", "verdicts")  # not scripts
# The arguments of each script; ROWS is a file of vectors, OUT a file to write, TMP an empty folder.
SCRIPTS = {
    "class_trees": ("--sizes", "60x6"),
    "graph_growth": ("--sizes", "300", "600", "--output", "OUT"),
    "graph_lists": ("--data", "sift", "--rounds", "1"),
    "graph_report": (
        "--quick",
        "--data",
        "sift",
        "--parts",
        "curve",
        "--rows",
        "400",
        "--rounds",
        "1",
        "--output",
        "OUT",
    ),
    "graph_search": ("--data", "sift", "--rounds", "1", "--queries", "50"),
    "graph_warm": ("--data", "sift", "--rounds", "1"),
    "mining_share": ("ROWS", "--rows", "300", "--threads", "1"),
    "pml_integration": ("--sizes", "32", "--depth", "8", "--seconds", "0", "--threads", "1"),
    "ranks": ("--sizes", "64", "--ranks", "2", "--losses", "sct_loss", "--seconds", "0", "--output", "OUT"),
    "ranks_model": (),
    "report": ("--quick", "--seconds", "0", "--root", "TMP", "--state", "TMP"),
    "st_integration": ("--sizes", "32", "--depth", "8", "--seconds", "0", "--threads", "1"),
    "whole_sets": ("ROWS", "--rows", "300", "-k", "5", "--rounds", "1", "--threads", "1"),
    "whole_sets_killed": ("--rows", "400", "-k", "5", "--kill-after"),
}
IMAGES = "stanford_cars_train_128.tar"
LIBRARIES_OF = {
    "pml_integration": "pytorch_metric_learning",
    "st_integration": "open_clip",
    "graph_lists": "hnswlib",
    "graph_growth": "hnswlib",
    "graph_search": "hnswlib",
}


def test_scripts_are_all_listed():
    assert {path.stem for path in BENCH.glob("*.py")} <= {*SCRIPTS, *LIBRARIES}


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.parametrize("name", [name for name in SCRIPTS if (BENCH / f"{name}.py").exists()])
def test_script_runs_at_small_sizes(name, tmp_path):
    if name in LIBRARIES_OF and importlib.util.find_spec(LIBRARIES_OF[name]) is None:
        pytest.skip(f"{LIBRARIES_OF[name]} is not installed")
    data = Path(os.environ.get("HARDMINE_DATA", tmp_path))
    if name == "whole_sets_killed" and not (data / IMAGES).exists():
        pytest.skip(f"HARDMINE_DATA names no folder with {IMAGES}")
    if name == "report":
        (tmp_path / "docs").mkdir()
    rows, generator = tmp_path / "rows.npy", np.random.default_rng(0)
    np.save(rows, generator.standard_normal((400, 16), dtype=np.float32))
    np.save(tmp_path / SIFT_FILE, generator.integers(0, 256, (1300, 128), dtype=np.uint8))
    places = {"ROWS": str(rows), "OUT": str(tmp_path / "out.md"), "TMP": str(tmp_path)}
    arguments = [places.get(argument, argument) for argument in SCRIPTS[name]]
    variables = {key: value for key, value in os.environ.items() if key != "BENCH"}
    variables["PYTHONPATH"] = str(BENCH.parent / "tests" / "environment")  # open_clip imports torchvision
    variables["HARDMINE_DATA"] = str(data if name == "whole_sets_killed" else tmp_path)
    done = subprocess.run(
        [sys.executable, BENCH / f"{name}.py", *arguments],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.strip()
