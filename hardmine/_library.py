"""Loading of the compiled libraries that hold hardmine's torch ops."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])

_HOW_TO_BUILD = (
    "Build it in the environment that has torch, from the project's folder: `pip install --no-build-isolation .` "
    "(needs a C++20 compiler, and nanobind, cmake and ninja, which pip can install too)."
)
_HOW_TO_BUILD_CUDA = (
    "Build them from the project's folder, in an environment that has nvcc and a torch with CUDA: "
    "`HARDMINE_CUDA=on pip install --no-build-isolation .`"
)
_OLDEST_CAPABILITY = (8, 0)  # the kernels use asynchronous copies and matrix instructions of bfloat16 and TF32


def constant_in_graphs(function: F) -> F:
    """Mark the result as constant for ``torch.compile``.

    ``torch.compiler.assume_constant_result`` sets the same attribute, but it imports ``torch._dynamo``, which takes
    longer than the rest of hardmine.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def _reason(error: Exception) -> str:
    """The loader's message; torch's error names the file only."""
    return str(error.__cause__ or error)


@cache
def load() -> None:
    """Loads ``_C``, which registers ``torch.ops.hardmine``, and the CUDA kernels ``_C_cuda`` if possible.

    Raises:
        ImportError: The library is missing or cannot be loaded. The message says why, and how to build it.
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
            f"(2.11 or later is needed): {_reason(error)}. {_HOW_TO_BUILD}"
        ) from error
    _cuda_library_problem()


@cache
def _cuda_library_problem() -> str | None:
    """Loads the optional ``_C_cuda``; returns why there are no CUDA ops, or None if there are.

    The reason is kept for the first CUDA tensor: CPU users do not need the message.
    """
    path = Path(__file__).with_name("_C_cuda.so")
    if not path.exists():
        return f"are not built: there is no {path}. {_HOW_TO_BUILD_CUDA}"
    try:
        torch.ops.load_library(path)
    except Exception as error:  # the CPU ops work regardless
        return f"failed to load with torch {torch.__version__}, from {path}: {_reason(error)}. {_HOW_TO_BUILD_CUDA}"
    return None


@constant_in_graphs  # neither the library nor a GPU changes while a process runs
def cuda_problem(index: int | None) -> str | None:
    """Why hardmine's CUDA ops cannot run on the CUDA device ``index``; None if they can."""
    return _cuda_device_problem(index)


@cache
def _cuda_device_problem(index: int | None) -> str | None:
    """As :func:`cuda_problem`, cached per device. Reading the capability does not synchronize the device."""
    problem = _cuda_library_problem()
    if problem is not None:
        return f"CUDA tensors need hardmine's CUDA ops, which {problem}"
    if not torch.cuda.is_available():  # a fake tensor with a CUDA device
        return None
    capability = torch.cuda.get_device_capability(index)
    if capability < _OLDEST_CAPABILITY:
        found, needed = (".".join(map(str, version)) for version in (capability, _OLDEST_CAPABILITY))
        return (
            f"hardmine's CUDA ops need a GPU of compute capability {needed} or later, and "
            f"{torch.cuda.get_device_name(index)} has {found}"
        )
    return None


def simd_level() -> str:
    """The SIMD level that the CPU ops run at: ``"scalar"``, ``"avx2"``, ``"avx512"`` or ``"neon"``.

    The best level of the CPU, or the value of the environment variable ``HARDMINE_SIMD`` when the library was first
    used. Results do not depend on the level.

    Raises:
        RuntimeError: ``HARDMINE_SIMD`` names a level that is unknown or that this CPU lacks.

    Example:
        >>> import hardmine
        >>> hardmine.simd_level() in ("scalar", "avx2", "avx512", "neon")
        True
    """
    load()
    return torch.ops.hardmine.simd_level()
