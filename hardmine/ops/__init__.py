"""hardmine's ops: functional, differentiable, fused. Importing this module needs the compiled library."""

from hardmine.ops.batch_all_triplet_loss import batch_all_triplet_loss
from hardmine.ops.circle_loss import circle_loss
from hardmine.ops.global_loss import global_loss
from hardmine.ops.indexed_triplet_loss import indexed_triplet_loss
from hardmine.ops.info_nce_loss import info_nce_loss
from hardmine.ops.knn import knn
from hardmine.ops.logsumexp import logsumexp
from hardmine.ops.multi_similarity_loss import multi_similarity_loss
from hardmine.ops.sct_loss import sct_loss
from hardmine.ops.select_triplets import select_triplets
from hardmine.ops.sigmoid_loss import sigmoid_loss
from hardmine.ops.supcon_loss import supcon_loss
from hardmine.ops.triplet_loss import triplet_loss
from hardmine.ops.tuplet_loss import tuplet_loss
from hardmine.types import Neighbors, PairSelection, Selection, TripletCounts, TupletTerms

__all__ = [
    "Neighbors",
    "PairSelection",
    "Selection",
    "TripletCounts",
    "TupletTerms",
    "batch_all_triplet_loss",
    "circle_loss",
    "global_loss",
    "indexed_triplet_loss",
    "info_nce_loss",
    "knn",
    "logsumexp",
    "multi_similarity_loss",
    "sct_loss",
    "select_triplets",
    "sigmoid_loss",
    "supcon_loss",
    "triplet_loss",
    "tuplet_loss",
]
