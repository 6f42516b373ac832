"""Plain Python of :func:`hardmine.mining.smart_triplets`."""

from __future__ import annotations

import torch
from torch import Tensor

from hardmine.types import MinedTriplets


def random_unit(seed: int, i: int) -> float:
    """Number ``i`` of the sequence of ``seed``, in [0, 1): csrc/core/random.h."""
    z = seed * 0xD1342543DE82EF95 + (i + 1) * 0x9E3779B97F4A7C15 & 2**64 - 1
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & 2**64 - 1
    z = (z ^ z >> 27) * 0x94D049BB133111EB & 2**64 - 1
    return ((z ^ z >> 31) >> 11) * 2.0**-53


def pick(candidates: Tensor, u: float) -> int:
    """The floor(u * count)-th of the indices that ``candidates``, bool [N], marks."""
    index = candidates.nonzero().flatten()
    return int(index[min(int(u * len(index)), len(index) - 1)])


def smart_triplets(
    neighbor_lists: Tensor,
    distances: Tensor,
    labels: Tensor,
    kappa: float,
    per_anchor: int = 1,
    generator: torch.Generator | None = None,
    *,
    threads: int | None = None,
) -> MinedTriplets:
    """As :func:`hardmine.mining.smart_triplets`, line by line as in the paper's Algorithm 1.

    Example:
        >>> import torch
        >>> from hardmine import mining, ops, reference
        >>> embeddings, labels = torch.randn(12, 4), torch.arange(12) // 3
        >>> similarity, index = ops.knn(embeddings, k=8)
        >>> lists = (index, (2 - 2 * similarity).clamp(min=0), labels, 1.0)
        >>> seeds = [torch.Generator().manual_seed(0) for _ in range(2)]
        >>> expected = reference.smart_triplets(*lists, generator=seeds[0])
        >>> torch.equal(mining.smart_triplets(*lists, generator=seeds[1]).triplets, expected.triplets)
        True
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device="cpu"))
    labels = labels.to(torch.int64)
    classes = labels.tolist()
    triplets, mined, mined_positive = [], [], []
    for i, (neighbors, lengths) in enumerate(zip(neighbor_lists.tolist(), distances.tolist(), strict=True)):
        positives, negatives = labels == classes[i], labels != classes[i]
        positives[i] = False
        if not positives.any() or not negatives.any():
            continue

        neg: list[int] = []
        pos: list[tuple[int, list[int]]] = []
        for neighbor, distance in zip(neighbors, lengths, strict=True):
            if neighbor in (i, -1):
                continue
            if not pos:
                if negatives[neighbor]:
                    continue
                bound = kappa * distance
                pos.append((neighbor, []))
                continue
            if distance < bound:
                continue
            if negatives[neighbor]:
                neg.append(neighbor)
            else:
                pos.append((neighbor, list(neg)))

        listed = [positive for positive, _ in pos]
        for j in range(per_anchor):
            draw = 2 * (i * per_anchor + j)
            u, v = random_unit(seed, draw), random_unit(seed, draw + 1)
            mined.append(bool(neg))
            if not neg:
                triplets.append((i, pick(positives, u), pick(negatives, v)))
                mined_positive.append(False)
                continue
            others = positives.clone()
            others[listed] = False
            valid = [positive for positive, valid_range in pos if neg[0] in valid_range]
            if not valid and not others.any():
                valid = listed[-1:]
            triplets.append((i, valid[0] if valid else pick(others, u), neg.pop(0)))
            mined_positive.append(bool(valid))
    return MinedTriplets(
        torch.tensor(triplets, dtype=torch.int64, device="cpu").reshape(-1, 3),
        torch.tensor(mined, dtype=torch.bool, device="cpu"),
        torch.tensor(mined_positive, dtype=torch.bool, device="cpu"),
    )
