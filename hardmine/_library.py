"""Loading of the compiled library that holds hardmine's torch ops."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

_HOW_TO_BUILD = (
    "Build it in the environment that has torch, from the project's folder: `pip install --no-build-isolation .` "
    "(needs a C++20 compiler, and pybind11, cmake and ninja, which pip can install too)."
)


@cache
def load() -> None:
    """Loads ``_C`` and so registers ``torch.ops.hardmine``.

    Raises:
        ImportError: If the library is missing or cannot be loaded; says why and how to build it.
    """
    path = Path(__file__).with_name("_C.so")
    if not path.exists():
        hint = ""
        if path.parents[1].joinpath("setup.py").exists():
            hint = (
                " This is the source folder, whose hardmine/ hides an installed one: run from elsewhere, "
                "or install with `pip install --no-build-isolation -e .`."
            )
        raise ImportError(f"hardmine's compiled library is missing: there is no {path}. {_HOW_TO_BUILD}{hint}")
    try:
        torch.ops.load_library(path)
    except (OSError, RuntimeError) as error:
        raise ImportError(
            f"hardmine's compiled library {path} cannot be loaded with torch {torch.__version__} "
            f"(2.11 or later is needed): {error}. {_HOW_TO_BUILD}"
        ) from error


def simd_level() -> str:
    """The SIMD level that the CPU ops run at: ``"scalar"``, ``"avx2"``, ``"avx512"`` or ``"neon"``.

    The best one that the CPU has, or the one that the environment variable ``HARDMINE_SIMD`` named when the library
    was first used. Results do not depend on it.

    Raises:
        RuntimeError: If ``HARDMINE_SIMD`` names a level that is unknown or that this CPU lacks.
    """
    load()
    return torch.ops.hardmine.simd_level()
