"""Neighbor lists for the tests of smart_triplets."""

from __future__ import annotations

import math

import torch

from hardmine import reference
from hardmine.mining import smart_triplets
from support.inputs import seeded


def lists_from_text(text: str, unlisted: str = "") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lists, distances and labels in which only sample 0 has neighbors, those of `text`.

    In "p1 n2.5", sample 1 is a positive at distance 1, and sample 2 is a negative at distance 2.5. "s0" is sample 0
    itself. The samples of `unlisted`, such as "pn", come after those.
    """
    kinds, distances = [item[0] for item in text.split()], [float(item[1:]) for item in text.split()]
    numbers = [0 if kind == "s" else 1 + i - ("s" in kinds[:i]) for i, kind in enumerate(kinds)]
    labels = [7] + [7 if kind == "p" else 9 for kind in [*(k for k in kinds if k != "s"), *unlisted]]
    lists = torch.full((len(labels), len(kinds)), -1)
    lists[0] = torch.tensor(numbers)
    sq_dist = torch.full(lists.shape, math.nan)
    sq_dist[0] = torch.tensor(distances)
    return lists, sq_dist, torch.tensor(labels)


def triplets_of_sample_0(
    text: str, unlisted: str = "", kappa: float = 1.0, per_anchor: int = 1, seed: int = 0
) -> list[tuple]:
    """(positive, negative, mined, mined_positive) of sample 0's triplets, which must equal those of the reference."""
    arguments = (*lists_from_text(text, unlisted), kappa, per_anchor)
    found = smart_triplets(*arguments, seeded(seed))
    for value, expected in zip(found, reference.smart_triplets(*arguments, seeded(seed)), strict=True):
        assert torch.equal(value, expected)
    own = found.triplets[:, 0] == 0
    rows = torch.cat([found.triplets[own, 1:], found.mined[own, None], found.mined_positive[own, None]], 1)
    return [(p, n, bool(m), bool(q)) for p, n, m, q in rows.tolist()]


def random_lists(
    rows: int, k: int, classes: int, seed: int, *, ties: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lists of random samples, at random distances; lists end after a random number of entries."""
    generator = seeded(seed)
    lists = torch.rand(rows, rows, generator=generator).argsort(1)[:, :k]
    if ties:
        sq_dist = torch.randint(4, lists.shape, generator=generator).float()
    else:
        sq_dist = torch.rand(lists.shape, generator=generator)
    ended = torch.arange(lists.shape[1]) >= torch.randint(k + 1, (rows, 1), generator=generator)
    lists, sq_dist = lists.masked_fill(ended, -1), sq_dist.sort(1).values.masked_fill(ended, math.nan)
    return lists, sq_dist, torch.randint(classes, (rows,), generator=generator) * 3 - 4
