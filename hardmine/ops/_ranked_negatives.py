"""``negative_ranks=(first, last)``: negatives by their rank among an anchor's negatives, most similar first.

With ``negative="hardest"`` an anchor has an entry per rank; with ``"random"`` it has one negative, drawn from them.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from hardmine.ops._arguments import ALL_SIMILARITIES, allow_tf32
from hardmine.types import AnySelection, PairSelection, Selection

MAX_RANK = 1024  # what knn keeps per row


def has_ranks(options: dict[str, Any]) -> bool:
    """Whether the resolved options name ranks."""
    return options.get("negative_ranks") is not None


def lists_ranks(options: dict[str, Any]) -> bool:
    """Whether the result has an entry per anchor and rank."""
    return has_ranks(options) and options["negative"] != "random"


def check_ranks(options: dict[str, Any]) -> tuple[int, int]:
    """``negative_ranks`` is a pair of ranks."""
    ranks = options["negative_ranks"]
    if options["positive"] == "all":
        raise ValueError(f"negative_ranks must be None with positive='all', got {ranks!r}")
    if not isinstance(ranks, (tuple, list)):
        raise TypeError(f"negative_ranks must be a tuple (first, last), got {type(ranks).__name__}")
    for rank in ranks:
        if not isinstance(rank, Integral) or isinstance(rank, bool):
            raise TypeError(f"negative_ranks must hold integers, got {type(rank).__name__}")
    if len(ranks) != 2 or not 1 <= ranks[0] <= ranks[1] <= MAX_RANK:
        raise ValueError(
            f"negative_ranks must be (first, last) with 1 <= first <= last <= {MAX_RANK}, got {tuple(ranks)!r}"
        )
    return int(ranks[0]), int(ranks[1])


def without_ranks(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a selection of the same positives, with one negative that is not used."""
    return {**options, "negative": "hardest", "negative_ranks": None}


def of_positives(random: Tensor | None, options: dict[str, Any]) -> Tensor | None:
    """The numbers of draw_random that draw positives, [1, B]."""
    return random[:1] if random is not None and options["positive"] == "random" else None


def of_negatives(random: Tensor | None, options: dict[str, Any]) -> Tensor | None:
    """Those that draw negatives, [B]."""
    return random[-1] if random is not None and options["negative"] == "random" else None


def with_ranked_negatives(
    inputs: tuple[Any, ...], options: dict[str, Any], positives: tuple[Tensor, Tensor], random: Tensor | None
) -> AnySelection:
    """The selection with the given positives, similarities and indices [B]. ``random``: uniform numbers [B]."""
    s_ap, positive = positives
    first, last = check_ranks(options)
    s_an, negative = _most_similar_negatives(inputs, options, last)
    s_an, negative = s_an[:, first - 1 :], negative[:, first - 1 :]
    if lists_ranks(options):
        ranks = negative.shape[1]
        anchor = torch.arange(len(positive), device=positive.device)
        anchor, positive, s_ap = (each.repeat_interleave(ranks) for each in (anchor, positive, s_ap))
        return PairSelection(anchor, positive, negative.reshape(-1), s_ap, s_an.reshape(-1))
    assert random is not None
    count = (negative >= 0).sum(1)  # ranks that exist come first
    pick = torch.minimum((random * count).long(), (count - 1).clamp(min=0))[:, None]
    return Selection(positive, negative.gather(1, pick).squeeze(1), s_ap, s_an.gather(1, pick).squeeze(1))


def _most_similar_negatives(inputs: tuple[Any, ...], options: dict[str, Any], k: int) -> tuple[Tensor, Tensor]:
    """Similarities and indices [B, k] of the k most similar negatives: neighbors whose ids are the labels."""
    embeddings, labels, refs, ref_labels, ids, ref_ids = inputs
    others, of_others = (labels, ids) if refs is None else (ref_labels, ref_ids)
    classes, other_classes = _positions(labels, others)
    similarity, tf32 = ALL_SIMILARITIES.index(options["similarity"]), allow_tf32(embeddings)
    extra = 0 if ids is None else _most_excluded(ids, of_others, classes, other_classes)
    if k + extra > MAX_RANK:
        raise ValueError(
            f"negative_ranks must end by {MAX_RANK - extra} if ids exclude {extra} negatives of an anchor, got {k}"
        )
    found, index = torch.ops.hardmine.knn(
        embeddings, refs, classes, None if refs is None else other_classes, k + extra, refs is None, similarity, tf32
    )
    if extra:
        excluded = (index >= 0) & (ids[:, None] >= 0) & (ids[:, None] == of_others[index.clamp(min=0)])
        order = excluded.int().argsort(dim=1, stable=True)
        dropped = excluded.gather(1, order)
        index = torch.where(dropped, -1, index.gather(1, order))[:, :k]
        found = torch.where(dropped, math.nan, found.gather(1, order))[:, :k]
    return found, index


def _positions(labels: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Ids of classes, at least 0."""
    ascending = others.sort().values
    if others is labels:
        positions = torch.searchsorted(ascending, labels)
        return positions, positions
    # Positions of labels that no ref has must differ from those of the refs' labels.
    ascending = torch.cat([labels, others]).sort().values
    return torch.searchsorted(ascending, labels), torch.searchsorted(ascending, others)


def _most_excluded(ids: Tensor, other_ids: Tensor, classes: Tensor, other_classes: Tensor) -> int:
    """The largest number of an anchor's negatives that ids exclude. On a GPU the host reads it."""
    if not len(ids) or not len(other_ids):
        return 0
    size = int(max(classes.shape[0] + other_classes.shape[0], 1)) + 1
    number, other_number = _positions(ids, other_ids)

    def count(keys: Tensor, of: Tensor) -> Tensor:
        ascending = of.sort().values
        return torch.searchsorted(ascending, keys, right=True) - torch.searchsorted(ascending, keys)

    of_class = count(number * size + classes, other_number * size + other_classes)
    excluded = torch.where(ids >= 0, count(number, other_number) - of_class, 0)
    return int(excluded.max())
