"""Threads, fresh interpreters and SIMD levels."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

import hardmine

SIMD_LEVELS = ("scalar", "avx2", "avx512", "neon")  # of all machines; simd_levels() are those of this one


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Runs torch, and therefore the ops, on ``count`` threads, which divide the work of small inputs, too.

    The latter is a setting of conftest.py.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_python(*arguments: str, package_root: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    """Runs a new Python process that imports this process's hardmine, or the one in ``package_root``."""
    root = package_root or Path(hardmine.__file__).parents[1]
    tests = Path(__file__).parents[1]
    path = os.pathsep.join(map(str, (root, tests, tests / "environment")))
    variables = {name: value for name, value in os.environ.items() if name != "HARDMINE_SIMD"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env={**variables, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def output_of(process: subprocess.CompletedProcess) -> str:
    """The stripped standard output of a process, which must have succeeded."""
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@functools.cache
def simd_levels() -> tuple[str, ...]:
    """The SIMD levels of this machine, read from the error message for an unknown level."""
    error = run_python("-c", "import hardmine; hardmine.simd_level()", HARDMINE_SIMD="unknown").stderr
    listed = re.search(r"HARDMINE_SIMD must be one of (.*) on this CPU", error)
    assert listed, error
    return tuple(re.findall(r"'(\w+)'", listed[1]))
