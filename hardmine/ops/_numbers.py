"""Checks of numbers and flags. Each error names the argument, what it must be, and what came."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

# Similarities are multiplied by 1 / temperature: float32 must hold both numbers, with room for the product.
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-30, 1e30


def check_number(
    name: str, value: Any, *, above: float = -math.inf, at_least: float = -math.inf, like: Tensor | None = None
) -> float:
    """``value`` is a number (not NaN) greater than ``above`` and no less than ``at_least``; returned as a float.

    ``like`` are the embeddings that the number is used with. The limits then hold in the dtype that the ops compute in,
    where a finite ``value`` must be finite too: in float32, 1e-50 is 0 and 1e50 is infinite.

    A compiled graph holds a number that changed between calls as a symbol, on which ``math.isinf`` breaks the graph.
    """
    number = _as_float(name, value)
    computed = number if like is None or like.dtype == torch.float64 else _in_float32(number)
    overflows = abs(computed) == math.inf and abs(number) != math.inf
    if overflows or not (computed > above or above == -math.inf) or not computed >= at_least:
        limit = f" > {above:g}" if above > -math.inf else f" >= {at_least:g}" if at_least > -math.inf else ""
        where = "" if computed == number or math.isnan(number) else f", which is {computed:g} in float32"
        raise ValueError(f"{name} must be a number{limit}, got {_short(value)}{where}")
    return number


def _in_float32(number: float) -> float:
    """``number``, or 0 or infinity where float32 rounds to that."""
    if abs(number) <= 2.0**-150:
        return 0.0
    if abs(number) < 2.0**128 - 2.0**103:
        return number
    return math.inf if number > 0 else -math.inf


def _as_float(name: str, value: Any) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} must be a number that a float can hold, got {_short(value)}") from None


def _short(value: Any) -> str:
    """A value as errors print it: an integer may have thousands of digits."""
    try:
        text = str(value)
    except ValueError:  # Python refuses to print very large integers
        return f"one of {value.bit_length()} bits"
    return text if len(text) <= 40 else f"{text[:20]}...{text[-10:]}"


def check_temperature(value: Any, name: str = "temperature") -> float:
    """``value`` is a number that float32 can hold together with its inverse; returned as a float."""
    number = _as_float(name, value)
    if not MIN_TEMPERATURE <= number <= MAX_TEMPERATURE:
        limits = f"from {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}"
        raise ValueError(f"{name} must be a number {limits}, got {_short(value)}")
    return number


def check_finite(name: str, value: Any, **limits: Any) -> float:
    """Like :func:`check_number`, but infinity is refused too."""
    number = check_number(name, value, **limits)
    if abs(number) == math.inf:
        raise ValueError(f"{name} must be a finite number, got {value}")
    return number


def check_integer(name: str, value: Any, lower: int, upper: int | None = None) -> int:
    """``value`` is an integer from ``lower`` to ``upper``; returned as an int."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if upper is None and value < lower:
        raise ValueError(f"{name} must be at least {lower}, got {value}")
    if upper is not None and not lower <= value <= upper:  # type: ignore[operator]  # typeshed: Integral has no reflected order
        raise ValueError(f"{name} must be from {lower} to {upper}, got {value}")
    return int(value)


def check_flag(name: str, value: Any, expected: str = "True or False") -> bool:
    """``value`` is True or False; returned as a bool. NumPy's booleans are valid, as its numbers are elsewhere."""
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    return bool(value)


def optional_number(name: str, value: Any, default: float, **limits: Any) -> float:
    """``default`` if ``value`` is None, else as :func:`check_number`."""
    return default if value is None else check_number(name, value, **limits)
