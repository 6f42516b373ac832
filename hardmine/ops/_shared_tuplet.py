"""The tuplet losses among the rows of all ranks, whose work the ranks share.

Each unordered pair of rows is computed by one rank, for both its rows. A rank's result is the sum of exponentials per
row among the pairs of its part. The sums of all ranks add up to those of the loss.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hardmine.ops._arguments import NEGATIVES, REDUCTIONS, SIMILARITIES
from hardmine.ops._fakes import accumulate_dtype
from hardmine.ops._shared_selection import Rows, Shares, positives_of_all_pairs, select_in_parts


def tuplet_in_parts(rows: Rows, options: list[int | float], shares: Shares) -> tuple[Tensor, ...]:
    """The outputs of the compiled op ``tuplet_loss``, the same bits on every rank.

    Args:
        rows: The rows of all ranks.
        options: The options of the compiled op, in the order of its schema.
        shares: The part of this rank, and the collectives.
    """
    similarity, positive, temperature, duplicate_threshold, _, tf32 = options
    all_positives = positive == 2
    selection = [similarity, 0 if all_positives else positive, NEGATIVES.index("hardest")]
    selection += [0, 0, duplicate_threshold, math.inf, tf32]
    words = None
    if not one_shift_suffices(SIMILARITIES[int(similarity)], temperature):
        words = select_in_parts(rows, selection, shares)
    elif not all_positives:
        words = positives_of_all_pairs(rows, selection)
    sums = shares.total(
        lambda: torch.ops.hardmine.tuplet_loss_part(
            *rows, words, similarity, positive, temperature, tf32, shares.part, shares.num_parts
        ),
        (rows.embeddings.shape[0],),
    )
    return torch.ops.hardmine.tuplet_loss_of_parts(*rows, words, sums, *options)


def one_shift_suffices(similarity: str, temperature: float) -> bool:
    """As in csrc/core/losses/tuplet_terms.h: whether the sums need no hardest negative per anchor."""
    return similarity == "cosine" and 2 * 1.4426950408889634 / temperature <= 64


@torch.library.register_fake("hardmine::tuplet_loss_part")
def _(embeddings, *options):
    return embeddings.new_empty(embeddings.shape[0], dtype=torch.float64)


@torch.library.register_fake("hardmine::tuplet_loss_of_parts")
def _(embeddings, labels, *options):
    values = embeddings.new_empty(embeddings.shape[0], dtype=accumulate_dtype(embeddings.dtype))
    index = labels.new_empty(embeddings.shape[0])
    loss = torch.empty_like(values) if REDUCTIONS[options[-2]] == "none" else values.new_empty(())
    return loss, *(torch.empty_like(values) for _ in range(5)), index, torch.empty_like(index)


@torch.library.register_fake("hardmine::tuplet_loss_backward_part")
def _(grad_loss, embeddings, *options):
    return embeddings.new_empty(embeddings.shape, dtype=accumulate_dtype(embeddings.dtype))
