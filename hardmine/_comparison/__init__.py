"""Comparisons of the fused ops with their references: what :class:`hardmine.verify` runs."""

from __future__ import annotations

from hardmine._comparison.base import OpComparison
from hardmine._comparison.selection import SelectionComparison

COMPARISONS: dict[str, type[OpComparison]] = {
    "select_triplets": SelectionComparison,
    "triplet_loss": SelectionComparison,
    "sct_loss": SelectionComparison,
}

__all__ = ["COMPARISONS", "OpComparison"]
