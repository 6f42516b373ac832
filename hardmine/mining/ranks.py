"""Which rows of a global batch each process trains on."""

from __future__ import annotations

import torch.distributed as dist

from hardmine.ops._numbers import check_integer

_INT32_MAX = 2**31 - 1


def check_ranks(num_replicas: int | None, rank: int | None) -> tuple[int, int]:
    """The number of processes and the rank of this one; None: those of the default process group, or 1 and 0."""
    if num_replicas is None and rank is None:
        initialized = dist.is_available() and dist.is_initialized()
        return (dist.get_world_size(), dist.get_rank()) if initialized else (1, 0)
    if num_replicas is None:
        raise ValueError(f"num_replicas must be given together with rank={rank!r}, got None")
    num_replicas = check_integer("num_replicas", num_replicas, 1, _INT32_MAX)
    if rank is None:
        raise ValueError(f"rank must be given together with num_replicas={num_replicas}, got None")
    return num_replicas, check_integer("rank", rank, 0, num_replicas - 1)


def rows_of_rank(rows: int, num_replicas: int, rank: int) -> slice:
    """The rows of one rank, as ``torch.tensor_split`` splits: the first ``rows % num_replicas`` ranks have one more."""
    size, larger = divmod(rows, num_replicas)
    start = rank * size + min(rank, larger)
    return slice(start, start + size + (rank < larger))
