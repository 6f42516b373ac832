"""Selection among the rows of all ranks, whose work the ranks share.

Every rank holds the same rows. Each unordered pair of them is computed by one rank, for both its rows. A rank's result
is the best candidate per row among the pairs of its part, as integers that ascend with the order of candidates. So the
maximum over the ranks is the selection among all pairs, with the same bits for any number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hardmine.ops._arguments import FALLBACKS, NEGATIVES, REDUCTIONS
from hardmine.ops._fakes import fake_selection


class Shares(NamedTuple):
    """How this rank shares the pairs with others.

    Attributes:
        part: The part of the pairs that this rank computes.
        num_parts: The number of ranks.
        maximum: ``maximum(compute, shape)`` is a collective: the elementwise maximum over the ranks of the int64
            tensors of that shape that their ``compute()`` returns. If one raises, every rank raises.
        total: The sum over the ranks of float64 tensors likewise, with the same bits on every rank.
    """

    part: int
    num_parts: int
    maximum: Callable[[Callable[[], Tensor], tuple[int, ...]], Tensor]
    total: Callable[[Callable[[], Tensor], tuple[int, ...]], Tensor]


class Rows(NamedTuple):
    """The rows of all ranks: embeddings [N, D], labels [N] int64, and ids [N] int64 or None."""

    embeddings: Tensor
    labels: Tensor
    ids: Tensor | None


def select_in_parts(rows: Rows, options: list[int | float], shares: Shares) -> Tensor:
    """The merged words of a selection without random rules, for ``selection_of_parts`` and ``triplet_loss_of_parts``.

    One collective; two for float64, and for semi-hard negatives on a GPU; four for both. All ranks pass the same rows
    and options.

    Args:
        rows: The rows of all ranks.
        options: As :func:`hardmine.ops._arguments.check_selection` returns them.
        shares: The part of this rank, and the collectives.
    """
    if NEGATIVES[int(options[2])] != "semihard":
        return _merged(rows, None, options, shares, 2)
    positives = positives_in_parts(rows, options, shares)
    selections = 1 if FALLBACKS[int(options[3])] is None else 2
    return torch.cat([positives, _merged(rows, positives, options, shares, selections)], 1)


def positives_in_parts(rows: Rows, options: list[int | float], shares: Shares) -> Tensor:
    """The merged words of positives alone; the arguments are those of :func:`select_in_parts`."""
    options = [*options[:2], NEGATIVES.index("semihard"), *options[3:]]  # whose positives come first
    if rows.embeddings.is_cpu:
        # Rows are sorted by label, so positives are in few tiles: finding all costs a rank less than a collective.
        return torch.ops.hardmine.select_triplets_part(*rows, None, *options, 0, 1)
    return _merged(rows, None, options, shares, 1)


def _merged(
    rows: Rows, positives: Tensor | None, options: list[int | float], shares: Shares, selections: int
) -> Tensor:
    """The lexicographic maximum over the ranks of the words [1 or 2, selections, N] of their parts."""
    shape = selections, rows.embeddings.shape[0]
    own: list[Tensor] = []

    def first() -> Tensor:
        select = torch.ops.hardmine.select_triplets_part
        own.extend(select(*rows, positives, *options, shares.part, shares.num_parts))
        return own[0]

    merged = [shares.maximum(first, shape)]
    if len(own) == 2:  # the second word counts only where the first is the largest
        is_best = own[0] == merged[0]
        least = torch.iinfo(torch.int64).min
        merged.append(shares.maximum(lambda: torch.where(is_best, own[1], least), shape))
    return torch.stack(merged)


@torch.library.register_fake("hardmine::select_triplets_part")
def _(embeddings, labels, ids, positives, similarity, positive, negative, semihard_fallback, *options):
    selections = 2
    if NEGATIVES[negative] == "semihard":
        selections = 1 if positives is None or FALLBACKS[semihard_fallback] is None else 2
    words = 2 if embeddings.dtype == torch.float64 else 1
    return labels.new_empty(words, selections, embeddings.shape[0])


@torch.library.register_fake("hardmine::selection_of_parts")
def _(words, *options):
    dtype = torch.float64 if words.shape[0] == 2 else torch.float32
    return fake_selection(words.new_empty(words.shape[2], 1, dtype=dtype))


@torch.library.register_fake("hardmine::triplet_loss_of_parts")
def _(embeddings, words, *options):
    selection = fake_selection(embeddings)
    values = selection[0]
    return torch.empty_like(values) if REDUCTIONS[options[-1]] == "none" else values.new_empty(()), *selection


@torch.library.register_fake("hardmine::triplet_loss_backward_rows")
def _(grad_loss, embeddings, *options):
    return embeddings.new_empty(options[-1], embeddings.shape[1])
