"""Checked options of earlier calls: their checks take a tenth of the step of a small batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

_PLAIN = {str, int, float, bool, type(None)}
_MAX_KNOWN = 1000  # an option may change in every call


class KnownOptions(NamedTuple):
    """Options that passed their checks.

    Attributes:
        resolved: The options, with the default of each that takes effect.
        compiled: The same in the order of the compiled op's schema.
    """

    resolved: dict[str, Any]
    compiled: list[int | float]


KNOWN_OPTIONS: dict[tuple[Any, ...] | None, KnownOptions] = {}


def key_of(op: str, embeddings: Any, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """What the checks of options depend on; None if the options need a check in every call."""
    types = tuple(map(type, values))
    if not _PLAIN.issuperset(types) or type(embeddings) not in (Tensor, torch.nn.Parameter):
        return None
    if torch.compiler.is_compiling() or not embeddings.is_cpu:
        return None
    if len(KNOWN_OPTIONS) >= _MAX_KNOWN:
        KNOWN_OPTIONS.clear()
    return op, embeddings.dtype, types, values  # the types, because 1, 1.0 and True are equal
