"""Batches of triplets, each of which lists its images once."""

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
    """Batches that mix a share of mined triplets with random ones.

    Args:
        labels: int64 [N].
        mined_triplets: int64 [M, 3], image numbers. If there are more than needed, a random subset is used. If there
            are fewer, each is used once, and the batches' numbers of mined triplets differ by at most one.
        batches: Number of batches.
        batch_size: Number of triplets per batch.
        mined_share: Target share of mined triplets per batch, rounded to whole triplets.
        generator: Source of random numbers.

    Returns:
        The batches, with the mined triplets before the random ones.
    """
    used = min(len(mined_triplets), batches * round(mined_share * batch_size))
    drawn = torch.randperm(len(mined_triplets), generator=generator, device="cpu")
    mined = mined_triplets[drawn[:used]]
    random = shuffled_random_triplets(labels, batches * batch_size - used, generator)
    result = []
    for batch in range(batches):
        start, stop = (bound * used // batches for bound in (batch, batch + 1))
        random_start, random_stop = (bound * batch_size - bound * used // batches for bound in (batch, batch + 1))
        triplets = torch.cat([mined[start:stop], random[random_start:random_stop]])
        rows, positions = triplets.unique(return_inverse=True)
        result.append(TripletBatch(rows, positions, torch.arange(batch_size, device="cpu") < stop - start))
    return result


def shuffled_random_triplets(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random triplets [count, 3] in random order. No anchor repeats before every anchor has been used."""
    if count == 0:
        return torch.empty(0, 3, dtype=torch.int64, device="cpu")
    _, class_index, sizes = labels.unique(return_inverse=True, return_counts=True)
    class_size = sizes[class_index]
    anchors = int(((class_size > 1) & (class_size < len(labels))).sum())
    rounds = -(-count // anchors)
    triplets = random_triplets(labels, rounds, generator).view(anchors, rounds, 3)
    orders = [torch.randperm(anchors, generator=generator, device="cpu") for _ in range(rounds)]
    return torch.cat([triplets[order, i] for i, order in enumerate(orders)])[:count]
