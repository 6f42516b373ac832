"""Rows that a checked call ignores: the rest of its arguments and results, which are then compared as usual."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hardmine.types import PairSelection

_ANCHORS = ("embeddings", "labels", "ids", "weights")
_REFS = ("ref_embeddings", "ref_labels", "ref_ids")


class IgnoredRows:
    """Which rows of a call are kept, and whether its results for the others are as documented.

    Attributes:
        keep: Whether each anchor is kept, bool [B].
        candidates: Whether each candidate is kept: the refs, or the anchors if there are none.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        ignored, ref_labels = arguments["ignore_index"], arguments.get("ref_labels")
        self.keep = arguments["labels"] != ignored
        self.candidates = self.keep if ref_labels is None else ref_labels != ignored

    def mask_of(self, name: str) -> Tensor:
        """Which rows of an argument are kept."""
        return self.keep if name in _ANCHORS else self.candidates

    def rest(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments without the ignored rows."""
        given = {name: arguments[name] for name in (*_ANCHORS, *_REFS) if arguments.get(name) is not None}
        kept = {name: rows[self.mask_of(name)] for name, rows in given.items()}
        return {**arguments, **kept, "ignore_index": None}

    def restrict(self, loss: Tensor, returned: Any) -> tuple[Tensor, Any]:
        """The results for the kept anchors, with indices among the kept candidates.

        Raises:
            ValueError: A result for an ignored anchor is wrong, or an index is that of an ignored row.
        """
        if isinstance(returned, PairSelection):  # ignored rows have no entries
            fields = zip(returned._fields, returned, strict=True)
            return loss, PairSelection(*(self._renumber(name, field) for name, field in fields))
        if loss.dim():
            self._check("loss", loss, 0.0)
            loss = loss[self.keep]
        if hasattr(returned, "positive_index"):
            fields = returned._asdict()
            returned = type(returned)(**{name: self._restrict_field(name, field) for name, field in fields.items()})
        return loss, returned

    def restrict_gradients(self, names: list[str], gradients: Any) -> list[Tensor]:
        """The gradients of the kept rows."""
        for name, gradient in zip(names, gradients, strict=True):
            if (gradient[~self.mask_of(name)] != 0).any():
                raise ValueError(f"the gradient of {name} must be 0 for ignored rows")
        return [gradient[self.mask_of(name)] for name, gradient in zip(names, gradients, strict=True)]

    def _restrict_field(self, name: str, values: Tensor) -> Tensor:
        if values.is_floating_point():
            self._check(name, values, -math.inf if "logsumexp" in name else math.nan)
            return values[self.keep]
        self._check(name, values, -1)
        return self._renumber(name, values[self.keep])

    def _renumber(self, name: str, index: Tensor) -> Tensor:
        """Indices as those among the kept rows; similarities stay as they are."""
        if index.is_floating_point():
            return index
        kept = self.keep if name == "anchor_index" else self.candidates
        found = index >= 0
        if not kept[index[found]].all():
            raise ValueError(f"{name} must not be an ignored row, got {index[found].tolist()}")
        rows = torch.full_like(index, -1)
        rows[found] = (kept.cumsum(0) - 1)[index[found]]
        return rows

    def _check(self, name: str, values: Tensor, expected: float) -> None:
        ignored = values.detach()[~self.keep]
        if not torch.equal(ignored.nan_to_num(1e9), torch.full_like(ignored, expected).nan_to_num(1e9)):
            raise ValueError(f"{name} must be {expected} for ignored anchors, got {ignored.tolist()}")
