"""Sums over the steps of an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hardmine.mining._states import check_entries, check_real


class EpochMeasures:
    """Mean loss, mean similarities of triplets and share of hard triplets, over the steps of an epoch so far."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(("steps", "loss", "triplets", "s_ap", "s_an", "hard"), 0.0)

    def add(self, loss: float, s_ap: Tensor, s_an: Tensor) -> None:
        """Add a step: its loss, and the similarities of its triplets [B], NaN where there is none."""
        valid = ~(s_ap.isnan() | s_an.isnan())
        s_ap, s_an = s_ap[valid].double(), s_an[valid].double()
        added = {
            "steps": 1,
            "loss": loss,
            "triplets": len(s_ap),
            "s_ap": s_ap.sum().item(),
            "s_an": s_an.sum().item(),
            "hard": int((s_an > s_ap).sum()),
        }
        for name, value in added.items():
            self._sums[name] += value

    def means(self) -> dict[str, float]:
        """`loss`, `s_ap`, `s_an` and `hard_share`; NaN without steps or triplets."""
        sums = self._sums
        triplets = sums["triplets"] or math.nan
        return {
            "loss": sums["loss"] / (sums["steps"] or math.nan),
            "s_ap": sums["s_ap"] / triplets,
            "s_an": sums["s_an"] / triplets,
            "hard_share": sums["hard"] / triplets,
        }

    def state_dict(self) -> dict[str, Any]:
        """The sums."""
        return dict(self._sums)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the sums.

        Raises:
            TypeError: A sum is not a number.
            ValueError: `state` lacks a sum or has an unknown one, or a count is negative.
        """
        check_entries("state", state, self._sums)
        counts = ("steps", "triplets", "hard")
        sums = {name: check_real(f"state['{name}']", state[name], 0 if name in counts else -math.inf) for name in state}
        self._sums = {name: sums[name] for name in self._sums}


def triplet_similarities(embeddings: Tensor, triplets: Tensor) -> tuple[Tensor, Tensor]:
    """The cosine similarities of triplets [T, 3] of rows of embeddings [B, D]: `(s_ap, s_an)`, each [T]."""
    rows = torch.nn.functional.normalize(embeddings.float())
    anchor, positive, negative = rows[triplets].unbind(1)
    return (anchor * positive).sum(1), (anchor * negative).sum(1)
