"""Triplet losses from the terms of all entries, which the compiled ops do not reduce: weights, tensors, ranks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hardmine.ops._anchor_losses import read_weights, weighted_mean
from hardmine.ops._arguments import check_ids, check_labeled_rows
from hardmine.ops._compiled_triplet_loss import check_options, compute
from hardmine.ops._random_draws import draw_random
from hardmine.ops._ranked_negatives import has_ranks, of_negatives, of_positives, with_ranked_negatives, without_ranks
from hardmine.ops._ranks import Anchors, PartialLoss
from hardmine.ops._sums import ordered_sum
from hardmine.ops._triplet_terms import SOFT_MARGINS, counts_of, is_hard, terms_of
from hardmine.types import AnySelection, PairSelection


def is_composed(options: dict[str, Any], weights: Any) -> bool:
    """Whether the loss is computed from the terms of all entries, because the compiled op does not reduce it."""
    return weights is not None or isinstance(options["temperature"], Tensor) or has_ranks(options)


class _Terms(NamedTuple):
    """The weighted terms of all entries of a selection, 0 where one does not count, and their weights."""

    terms: Tensor
    weights: Tensor
    counts: Tensor
    selection: AnySelection
    parts: tuple[Tensor, ...]  # whose means are added: all entries, or hard ones and others


def _weighted_terms(
    inputs: tuple[Any, ...], options: dict[str, Any], weights: Any, anchors: Anchors | None = None
) -> _Terms:
    """The terms, with weights of 1 if there are none."""
    if has_ranks(options):
        losses, selection = _terms_of_ranks(inputs, options, anchors)
    elif isinstance(options["temperature"], Tensor):
        losses, selection = _terms_at_tensor(inputs, options, anchors)
    else:
        losses, selection, _ = compute(inputs, {**options, "reduction": "none"}, (True, False), anchors)
    counts = counts_of(selection, options)
    if weights is None:
        weights = torch.ones_like(losses)
    else:
        weights = read_weights(weights, inputs[0], losses.dtype)
        if isinstance(selection, PairSelection):
            weights = weights[selection.anchor_index]
    # A loss is NaN if some row is not finite, whether the anchor counts or not.
    terms = torch.where(counts | losses.isnan(), losses, 0.0) * weights
    if options.get("separate_means"):
        hard = is_hard(selection, options)
        parts: tuple[Tensor, ...] = hard, ~hard
    else:
        parts = (torch.ones_like(counts),)
    return _Terms(terms, torch.where(counts, weights, 0.0), counts, selection, parts)


def _terms_at_tensor(
    inputs: tuple[Any, ...], options: dict[str, Any], anchors: Anchors | None
) -> tuple[Tensor, AnySelection]:
    """The terms nca or sct at a temperature tensor, from the similarities of the selection; and the selection."""
    soft_margins, selection, _ = compute(inputs, {**options, **SOFT_MARGINS}, (True, False), anchors)
    return terms_of(selection, options, soft_margins), selection


def _terms_of_ranks(
    inputs: tuple[Any, ...], options: dict[str, Any], anchors: Anchors | None
) -> tuple[Tensor, AnySelection]:
    """The terms of negatives by rank, with the positives of the compiled op; and the selection."""
    embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids = inputs
    labels, ref_labels = check_labeled_rows(embeddings, labels, ref_embeddings, ref_labels)
    ids, ref_ids = check_ids(ids, embeddings, ref_ids, ref_embeddings)
    rows = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
    random = draw_random(embeddings, options, anchors)
    plain = {**without_ranks(options), **SOFT_MARGINS}
    soft_margins, s_ap, _, positive, _ = torch.ops.hardmine.triplet_loss(
        *rows, of_positives(random, options), *check_options(embeddings, plain, (True, False))
    )
    selection = with_ranked_negatives(rows, options, (s_ap, positive), of_negatives(random, options))
    if isinstance(selection, PairSelection):
        soft_margins = soft_margins[selection.anchor_index]
    return terms_of(selection, options, soft_margins), selection


def weighted_loss(inputs: tuple[Any, ...], options: dict[str, Any], weights: Any) -> tuple[Tensor, Any, Tensor]:
    """The weighted loss, the selection, and whether each anchor counts."""
    terms, weights, counts, selection, parts = _weighted_terms(inputs, options, weights)
    if options["reduction"] == "none":
        return terms, selection, counts
    if options["reduction"] == "sum":
        return ordered_sum(terms.double()).to(terms.dtype), selection, counts
    means = []
    for part in parts:
        total, weight = (ordered_sum(torch.where(part, values, 0.0).double()) for values in (terms, weights))
        means.append(weighted_mean(total, weight))
    return sum(means[1:], means[0]).to(terms.dtype), selection, counts


def weighted_part(inputs: tuple[Any, ...], options: dict[str, Any], anchors: Anchors, weights: Any) -> PartialLoss:
    """The same of this rank's anchors: means divide by sums of weights. A last total of 0 carries the count."""
    terms, weights, counts, selection, parts = _weighted_terms(inputs, options, weights, anchors)
    if options["reduction"] == "none":
        return PartialLoss(terms, selection, counts.sum())
    if options["reduction"] == "sum":
        return PartialLoss(ordered_sum(terms), selection, counts.sum())
    totals, divisors = (
        torch.stack([*(ordered_sum(torch.where(part, values, 0.0)) for part in parts), last.to(terms.dtype)])
        for values, last in ((terms, torch.zeros_like(counts.sum())), (weights.double(), counts.sum()))
    )
    return PartialLoss(totals, selection, divisors)
