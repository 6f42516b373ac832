"""Selection among the rows of all ranks, whose work the ranks share.

Every rank holds the same rows. Each unordered pair of them is computed by one rank, for both its rows. A rank's result
is the best candidate per row among the pairs of its part, as integers that ascend with the order of candidates. So the
maximum over the ranks is the selection among all pairs, with the same bits for any number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hardmine.ops._arguments import FALLBACKS, NEGATIVES, TERM_REDUCTIONS
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

    One collective; two for float64. All ranks pass the same rows and options.

    Args:
        rows: The rows of all ranks.
        options: As :func:`hardmine.ops._arguments.check_selection` returns them.
        shares: The part of this rank, and the collectives.
    """
    complete = 1 if NEGATIVES[int(options[2])] == "semihard" else 0  # every rank has all positives
    own: list[Tensor] = []

    def first() -> Tensor:
        select = torch.ops.hardmine.select_triplets_part
        own.extend(select(*rows, *options, True, shares.part, shares.num_parts))
        return own[0][complete:]

    shape = _selections(options) - complete, rows.embeddings.shape[0]
    merged = [shares.maximum(first, shape)]
    if len(own) == 2:  # the second word counts only where the first is the largest
        is_best = own[0][complete:] == merged[0]
        least = torch.iinfo(torch.int64).min
        merged.append(shares.maximum(lambda: torch.where(is_best, own[1][complete:], least), shape))
    return torch.cat([torch.stack(own)[:, :complete], torch.stack(merged)], 1)


def positives_of_all_pairs(rows: Rows, options: list[int | float]) -> Tensor:
    """The words of the positives among all pairs, which are in few tiles of rows sorted by label: no collective."""
    return torch.ops.hardmine.select_triplets_part(*rows, *options, False, 0, 1)


def _selections(options: Sequence[int | float]) -> int:
    """As part_selections in csrc/core/selection.h."""
    semihard = NEGATIVES[int(options[2])] == "semihard"
    return 3 if semihard and FALLBACKS[int(options[3])] is not None else 2


@torch.library.register_fake("hardmine::select_triplets_part")
def _(embeddings, labels, ids, *options):
    words = 2 if embeddings.dtype == torch.float64 else 1
    return labels.new_empty(words, _selections(options) if options[8] else 1, embeddings.shape[0])


@torch.library.register_fake("hardmine::selection_of_parts")
def _(words, *options):
    dtype = torch.float64 if words.shape[0] == 2 else torch.float32
    return fake_selection(words.new_empty(words.shape[2], 1, dtype=dtype))


@torch.library.register_fake("hardmine::triplet_loss_of_parts")
def _(embeddings, words, *options):
    selection = fake_selection(embeddings)
    values = selection[0]
    return torch.empty_like(values) if TERM_REDUCTIONS[options[-1]] == "none" else values.new_empty(()), *selection


@torch.library.register_fake("hardmine::triplet_loss_backward_rows")
def _(grad_loss, embeddings, *options):
    return embeddings.new_empty(options[-1], embeddings.shape[1])
