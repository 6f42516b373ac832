"""Checks of labels, shared by all parts of mining."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from hardmine.ops._arguments import INTEGER_DTYPES, check_has_values, check_int64, check_tensor, shape_of


def check_labels(labels: Tensor | Sequence[int], name: str = "labels") -> Tensor:
    """``labels`` are integers [N]; returned as an int64 copy on the CPU, because the caller may change theirs."""
    if not isinstance(labels, Tensor):
        try:
            labels = torch.as_tensor(labels, device="cpu")
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise TypeError(f"{name} must be integers [N], a tensor or a sequence, got {_describe(labels)}") from error
    check_tensor(name, labels)
    check_has_values(name, labels)
    if labels.ndim != 1 or labels.dtype not in INTEGER_DTYPES:
        raise ValueError(f"{name} must be integers [N], got {labels.dtype} {shape_of(labels)}")
    return check_int64(name, labels).to("cpu", torch.int64, copy=True)


def _describe(labels: Any) -> str:
    """Invalid labels as errors name them: their type, and the first element that is not an int64."""
    name = type(labels).__name__
    if hasattr(labels, "dtype"):
        return f"{name} of {labels.dtype}"
    if isinstance(labels, (list, tuple)):
        for i, label in enumerate(labels):
            if not isinstance(label, Integral) or not -(2**63) <= int(label) < 2**63:
                return f"{name} with {label!r} at [{i}]"
    return name
