"""The comparisons of the fused ops with their references, which :class:`hardmine.verify` runs."""

from __future__ import annotations

from hardmine.verification.base import OpComparison
from hardmine.verification.batch_all import BatchAllComparison
from hardmine.verification.mining import MiningComparison
from hardmine.verification.neighbors import NeighborComparison
from hardmine.verification.query_pairs import InfoNCEComparison, SigmoidComparison
from hardmine.verification.selection import SelectionComparison
from hardmine.verification.soft import SoftComparison
from hardmine.verification.triplets import GlobalComparison, TripletComparison
from hardmine.verification.tuplet import TupletComparison

COMPARISONS: dict[str, type[OpComparison]] = {
    "select_triplets": SelectionComparison,
    "triplet_loss": SelectionComparison,
    "sct_loss": SelectionComparison,
    "tuplet_loss": TupletComparison,
    "batch_all_triplet_loss": BatchAllComparison,
    "knn": NeighborComparison,
    "info_nce_loss": InfoNCEComparison,
    "sigmoid_loss": SigmoidComparison,
    "circle_loss": SoftComparison,
    "logsumexp": SoftComparison,
    "multi_similarity_loss": SoftComparison,
    "supcon_loss": SoftComparison,
    "indexed_triplet_loss": TripletComparison,
    "global_loss": GlobalComparison,
    "smart_triplets": MiningComparison,
}

__all__ = ["COMPARISONS", "OpComparison"]
