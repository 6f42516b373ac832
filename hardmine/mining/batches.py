"""Batches of triplets, in which every image of a batch stands once."""

from __future__ import annotations

import torch
from torch import Tensor

from hardmine.mining.smart_triplets import random_triplets
from hardmine.types import TripletBatch


def mixed_batches(
    labels: Tensor,
    mined_triplets: Tensor,
    *,
    batches: int,
    batch_size: int,
    mined_share: float,
    generator: torch.Generator,
) -> list[TripletBatch]:
    """Batches of a share of mined triplets and the rest random ones.

    Args:
        labels: int64 [N].
        mined_triplets: int64 [M, 3], image numbers. Where there are more than are wanted, those used are drawn; where
            there are fewer, each is used once, and all batches get equally many, give or take one.
        batches: Number of batches.
        batch_size: Number of triplets in each.
        mined_share: Share of mined triplets wanted in each batch; rounded to whole triplets.
        generator: Where random numbers come from.

    Returns:
        The batches, with the mined triplets before the random ones.
    """
    used = min(len(mined_triplets), batches * round(mined_share * batch_size))
    mined = mined_triplets[torch.randperm(len(mined_triplets), generator=generator)[:used]]
    others = shuffled_random_triplets(labels, batches * batch_size - used, generator)
    made = []
    for batch in range(batches):
        first, last = (edge * used // batches for edge in (batch, batch + 1))
        first_other, last_other = (edge * batch_size - edge * used // batches for edge in (batch, batch + 1))
        triplets = torch.cat([mined[first:last], others[first_other:last_other]])
        rows, positions = triplets.unique(return_inverse=True)
        made.append(TripletBatch(rows, positions, torch.arange(batch_size) < last - first))
    return made


def shuffled_random_triplets(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random triplets [count, 3] in random order, in which each anchor stands once before any stands again."""
    if count == 0:
        return torch.empty(0, 3, dtype=torch.int64)
    _, which, sizes = labels.unique(return_inverse=True, return_counts=True)
    own = sizes[which]
    anchors = int(((own > 1) & (own < len(labels))).sum())
    rounds = -(-count // anchors)
    triplets = random_triplets(labels, rounds, generator).view(anchors, rounds, 3)
    order = [torch.randperm(anchors, generator=generator) for _ in range(rounds)]
    return torch.cat([triplets[some, i] for i, some in enumerate(order)])[:count]
