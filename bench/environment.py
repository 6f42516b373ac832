"""Describes the machine and the software that a benchmark's numbers depend on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import torch

import hardmine


def first_line_after(path: str, prefix: str) -> str | None:
    """The value of the first "prefix : value" line of a file; None if there is no such line or file."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(prefix)), None)


def git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def commit() -> str:
    """The measured commit, with "+ changes" if any file differs from it, documents and results aside.

    Without a .git folder, the environment variable HARDMINE_COMMIT names the commit.
    """
    name = git("rev-parse", "--short=12", "HEAD")
    if name is None:
        return os.environ.get("HARDMINE_COMMIT") or "unknown"
    return name + (
        " + changes" if git("status", "--porcelain", "--", ":/", ":!/bench/results", ":!/docs", ":!/README.md") else ""
    )


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def transparent_huge_pages() -> str:
    """The mode of transparent huge pages, which decides the cost of every newly allocated N x N matrix."""
    try:
        modes = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return "unknown"
    return modes[modes.index("[") + 1 : modes.index("]")]


def describe() -> dict[str, str]:
    cpu = first_line_after("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
    forced = os.environ.get("HARDMINE_SIMD")
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "CPU": f"{cpu}, {os.cpu_count()} cores",
        "SIMD level of hardmine": hardmine.simd_level() + (f" (HARDMINE_SIMD={forced})" if forced else ""),
        "SIMD level of torch": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        **{package: version(package) for package in ("pytorch-metric-learning", "faiss-cpu", "hnswlib")},
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, transparent huge pages: {transparent_huge_pages()}",
    }
