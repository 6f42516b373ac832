"""The arguments of the graph index: checks, defaults, and the progress bar of a build."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hardmine._extras import require
from hardmine.ops._arguments import check_int64, check_rows, shape_of
from hardmine.ops._numbers import check_flag, check_integer

if TYPE_CHECKING:
    import numpy as np


def as_rows(name: str, rows: Any) -> Tensor:
    """A checked matrix, a tensor or a NumPy array, as contiguous float32 on the CPU."""
    if is_array(rows):
        rows = _as_tensor(name, rows)
    elif not isinstance(rows, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor or a NumPy array, got {type(rows).__name__}")
    check_rows(name, rows, None)
    if rows.device.type != "cpu":
        raise ValueError(f"{name} must be on the CPU, got {rows.device}")
    return rows.detach().to(torch.float32).contiguous()


def is_array(rows: Any) -> bool:
    """Whether these are rows in a NumPy array, memory-mapped ones included."""
    numpy = sys.modules.get("numpy")  # no import: without NumPy there are no arrays
    return numpy is not None and isinstance(rows, numpy.ndarray)


def _as_tensor(name: str, rows: np.ndarray) -> Tensor:
    """A copy of the array, which may be read-only, of either byte order or with negative strides."""
    if rows.dtype.name not in ("float16", "float32", "float64"):
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16, got {rows.dtype}")
    return torch.from_numpy(rows.astype(rows.dtype.newbyteorder("="), order="C"))


def check_k(k: Any) -> int:
    """``k`` is a number of neighbors."""
    return check_integer("k", k, 1, 2**31 - 1)


def check_threads(threads: Any) -> int:
    """The number of threads; None is torch's."""
    return torch.get_num_threads() if threads is None else check_integer("threads", threads, 1, 1024)


def check_start(start: Any, queries: int, rows: int) -> Any:
    """Row numbers [Q] as numpy; the compiled search checks their range."""
    if isinstance(start, Tensor):
        if start.is_floating_point() or start.is_complex() or start.dtype == torch.bool:
            raise TypeError(f"start must have an integer dtype, got {start.dtype}")
        if start.shape != (queries,):
            raise ValueError(f"start must be [Q] = [{queries}], got {shape_of(start)}")
        return check_int64("start", start).to("cpu", torch.int64).numpy()
    if not isinstance(start, Integral) or isinstance(start, bool):
        raise TypeError(f"start must be an integer, a tensor of integers or None, got {type(start).__name__}")
    if rows == 0:
        raise ValueError(f"start must be None for an index without rows, got {start}")
    return torch.full((queries,), check_integer("start", start, 0, rows - 1), dtype=torch.int64, device="cpu").numpy()


def check_filter(allowed: Any, ids: Any, row_ids: Any, queries: int, rows: int) -> tuple[Any, Any, Any]:
    """Allowed rows [N] as uint8, ids [Q] and row ids [N] as int64, each as numpy or None."""
    if (ids is None) != (row_ids is None):
        missing, given = ("ids", "row_ids") if ids is None else ("row_ids", "ids")
        raise ValueError(f"{missing} must be given together with {given}, got None")
    if allowed is not None:
        allowed = _as_vector("allowed", allowed, "N", rows)
        if allowed.dtype != torch.bool:
            raise TypeError(f"allowed must be bool, got {allowed.dtype}")
        allowed = allowed.to(torch.uint8).numpy()
    if ids is None:
        return allowed, None, None
    return allowed, _as_ids("ids", ids, "Q", queries), _as_ids("row_ids", row_ids, "N", rows)


def _as_ids(name: str, given: Any, size: str, count: int) -> Any:
    ids = _as_vector(name, given, size, count)
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"{name} must have an integer dtype, got {ids.dtype}")
    return check_int64(name, ids).to(torch.int64).numpy()


def _as_vector(name: str, given: Any, size: str, count: int) -> Tensor:
    """A tensor or a NumPy array [count] as a contiguous tensor on the CPU."""
    if is_array(given):
        if given.dtype.kind not in "biuf":
            raise TypeError(f"{name} must have an integer dtype or bool, got {given.dtype}")
        given = torch.from_numpy(given.astype(given.dtype.newbyteorder("="), order="C"))
    elif not isinstance(given, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor or a NumPy array, got {type(given).__name__}")
    if given.shape != (count,):
        raise ValueError(f"{name} must be [{size}] = [{count}], got {shape_of(given)}")
    return given.detach().cpu().contiguous()


def check_row_numbers(name: str, rows: Any, count: int) -> Tensor:
    """Row numbers from 0 to ``count`` - 1 as an int64 tensor [R] on the CPU."""
    if isinstance(rows, Tensor):
        if rows.is_floating_point() or rows.is_complex() or rows.dtype == torch.bool:
            raise TypeError(f"{name} must have an integer dtype, got {rows.dtype}")
        if rows.ndim != 1:
            raise ValueError(f"{name} must be [R], got {shape_of(rows)}")
        numbers = rows.to("cpu", torch.int64)
    elif isinstance(rows, Sequence) and not isinstance(rows, str | bytes):
        numbers = torch.tensor(
            [check_integer(name, row, 0, count - 1) for row in rows], dtype=torch.int64, device="cpu"
        )
    else:
        raise TypeError(f"{name} must be a tensor or a sequence of integers, got {type(rows).__name__}")
    outside = numbers[(numbers < 0) | (numbers >= count)]
    if len(outside):
        raise ValueError(f"{name} must be rows of the index, 0 to {count - 1}, got {int(outside[0])}")
    return numbers


@contextmanager
def build_progress(progress: Any, success_rate: float) -> Iterator[Callable[[float, int], object] | None]:
    """The progress function that the build calls; its bar is full when the success rate reaches the target."""
    if callable(progress):
        yield progress
    elif progress is None or not check_flag("progress", progress, "True, False, None or a function"):
        yield None
    else:
        with require("tqdm").tqdm(total=round(100 * success_rate), desc="graph", unit="%") as bar:

            def show(success: float, traversals: int) -> None:
                bar.set_postfix(traversals=traversals, refresh=False)
                bar.update(min(bar.total, round(100 * success)) - bar.n)

            yield show
