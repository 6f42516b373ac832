"""Checks of the states given to ``load_state_dict``. Each error names the entry, what it must be, and what came."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def check_entries(name: str, state: Any, entries: Iterable[str]) -> None:
    """``state`` is a dictionary with exactly these entries."""
    if not isinstance(state, Mapping):
        raise TypeError(f"{name} must be a dict, got {type(state).__name__}")
    expected = tuple(entries)
    if state.keys() != set(expected):
        raise ValueError(f"{name} must have the entries {', '.join(expected)}, got {', '.join(map(str, state))}")


def check_list(name: str, value: Any) -> list[Any]:
    """``value`` is a list or a tuple; returned as a new list."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name} must be a list, got {value!r}")
    return list(value)


def check_count(name: str, value: Any, minimum: int = 0) -> int:
    """``value`` is an integer, at least ``minimum``."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return int(value)


def check_real(name: str, value: Any, minimum: float = -math.inf, maximum: float = math.inf) -> float:
    """``value`` is a finite number from ``minimum`` to ``maximum``."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not (minimum <= value <= maximum and abs(value) <= sys.float_info.max):  # type: ignore[operator]  # typeshed: Real has no order
        limits = [f"{sign} {limit:g}" for sign, limit in ((">=", minimum), ("<=", maximum)) if math.isfinite(limit)]
        raise ValueError(f"{name} must be a finite number{' ' + ' and '.join(limits) if limits else ''}, got {value}")
    return float(value)


def check_tensor(name: str, value: Any, dtype: torch.dtype, shape: tuple[int | None, ...]) -> Tensor:
    """``value`` is a tensor of this dtype and shape, where None stands for any size."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {value!r}")
    if value.dtype != dtype:
        raise TypeError(f"{name} must have the dtype {dtype}, got {value.dtype}")
    if value.dim() != len(shape) or any(size not in (None, got) for size, got in zip(shape, value.shape, strict=True)):
        wanted = ", ".join("*" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must be [{wanted}], got {list(value.shape)}")
    return value


def check_range(name: str, value: Tensor, size: int) -> None:
    """All entries of an integer tensor are from 0 to ``size`` - 1."""
    outside = (value < 0) | (value >= size)
    if outside.any():
        raise ValueError(f"{name} must be from 0 to {size - 1}, got {value[outside][0].item()}")
