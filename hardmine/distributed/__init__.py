"""Several processes: rows and losses of all ranks of a ``torch.distributed`` process group."""

from hardmine.distributed.all_gather_rows import all_gather_rows
from hardmine.distributed.all_reduce_loss import all_reduce_loss
from hardmine.distributed.ring_select_triplets import ring_select_triplets
from hardmine.distributed.ring_tuplet_loss import ring_tuplet_loss
from hardmine.types import GatheredRows

__all__ = ["GatheredRows", "all_gather_rows", "all_reduce_loss", "ring_select_triplets", "ring_tuplet_loss"]
