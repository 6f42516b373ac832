"""Comparisons of the fused ops with their references: what :class:`hardmine.verify` runs."""

from __future__ import annotations

from hardmine._comparison.base import OpComparison
from hardmine._comparison.batch_all import BatchAllComparison
from hardmine._comparison.mining import MiningComparison
from hardmine._comparison.neighbors import NeighborComparison
from hardmine._comparison.selection import SelectionComparison
from hardmine._comparison.triplets import GlobalComparison, TripletComparison
from hardmine._comparison.tuplet import TupletComparison

COMPARISONS: dict[str, type[OpComparison]] = {
    "select_triplets": SelectionComparison,
    "triplet_loss": SelectionComparison,
    "sct_loss": SelectionComparison,
    "tuplet_loss": TupletComparison,
    "batch_all_triplet_loss": BatchAllComparison,
    "knn": NeighborComparison,
    "indexed_triplet_loss": TripletComparison,
    "global_loss": GlobalComparison,
    "smart_triplets": MiningComparison,
}

__all__ = ["COMPARISONS", "OpComparison"]
