"""Plain PyTorch versions of all ops, with the same arguments, to check the fused ops against.

The references build the whole [B, M] matrix and need no compiled library. They check which similarities and options an
op takes, and no other arguments.
"""

from hardmine.reference.batch_all_triplet_loss import batch_all_triplet_loss
from hardmine.reference.circle_loss import circle_loss
from hardmine.reference.global_loss import global_loss
from hardmine.reference.indexed_triplet_loss import indexed_triplet_loss
from hardmine.reference.info_nce_loss import info_nce_loss
from hardmine.reference.knn import knn
from hardmine.reference.logsumexp import logsumexp
from hardmine.reference.multi_similarity_loss import multi_similarity_loss
from hardmine.reference.sct_loss import sct_loss
from hardmine.reference.select_triplets import select_triplets
from hardmine.reference.sigmoid_loss import sigmoid_loss
from hardmine.reference.smart_triplets import smart_triplets
from hardmine.reference.supcon_loss import supcon_loss
from hardmine.reference.triplet_loss import triplet_loss
from hardmine.reference.tuplet_loss import tuplet_loss

__all__ = [
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
    "smart_triplets",
    "supcon_loss",
    "triplet_loss",
    "tuplet_loss",
]
