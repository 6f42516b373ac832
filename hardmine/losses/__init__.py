"""Loss modules, also under the papers' names. All modules delegate to :mod:`hardmine.ops`."""

from hardmine.losses.batch_all import BatchAllTripletLoss
from hardmine.losses.circle import CircleLoss
from hardmine.losses.cross_batch_memory import CrossBatchMemory
from hardmine.losses.given_triplets import GlobalLoss, RatioTripletLoss
from hardmine.losses.hierarchical import HierarchicalTripletLoss
from hardmine.losses.info_nce import InfoNCELoss
from hardmine.losses.multi_similarity import MultiSimilarityLoss
from hardmine.losses.papers import (
    BatchAllLoss,
    EPHNLoss,
    EPLoss,
    EPSHNLoss,
    HNLoss,
    HPHNLoss,
    HPLoss,
    NPairLoss,
    SHNLoss,
)
from hardmine.losses.sct import SCTLoss
from hardmine.losses.sigmoid import SigmoidLoss
from hardmine.losses.supcon import SupConLoss
from hardmine.losses.triplet import TripletLoss
from hardmine.losses.tuplet import TupletLoss

__all__ = [
    "BatchAllLoss",
    "BatchAllTripletLoss",
    "CircleLoss",
    "CrossBatchMemory",
    "EPHNLoss",
    "EPLoss",
    "EPSHNLoss",
    "GlobalLoss",
    "HNLoss",
    "HPHNLoss",
    "HPLoss",
    "HierarchicalTripletLoss",
    "InfoNCELoss",
    "MultiSimilarityLoss",
    "NPairLoss",
    "RatioTripletLoss",
    "SCTLoss",
    "SHNLoss",
    "SigmoidLoss",
    "SupConLoss",
    "TripletLoss",
    "TupletLoss",
]
