"""The obvious PyTorch of every op, with the op's own signature: what the fused ops are checked against.

These build the whole [B, M] matrix, check no arguments and need no compiled library.
"""

from hardmine.reference.sct_loss import sct_loss
from hardmine.reference.select_triplets import select_triplets
from hardmine.reference.triplet_loss import triplet_loss

__all__ = ["sct_loss", "select_triplets", "triplet_loss"]
