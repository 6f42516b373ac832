"""Shares of hard triplets."""

from __future__ import annotations

import torch
from torch import Tensor

from hardmine import ops
from hardmine.metrics._search import all_finite, without_ignored
from hardmine.ops._arguments import shape_of
from hardmine.types import NegativeRule, PositiveRule


def hard_share(positive_similarity: Tensor, negative_similarity: Tensor) -> float:
    """Share of hard triplets, those with s_an > s_ap (SCT section 3), among those with both similarities.

    Args:
        positive_similarity: s_ap per anchor [B], NaN without a positive.
        negative_similarity: s_an per anchor [B], NaN without a negative.

    Returns:
        The share in [0, 1]; NaN if there is no triplet.

    Raises:
        TypeError: An argument is not a floating-point tensor.
        ValueError: The arguments differ in shape.

    Example:
        >>> import torch
        >>> hard_share(torch.tensor([0.9, 0.5]), torch.tensor([0.3, 0.6]))
        0.5
    """
    similarities = {"positive_similarity": positive_similarity, "negative_similarity": negative_similarity}
    for name, similarity in similarities.items():
        if not isinstance(similarity, Tensor) or not similarity.is_floating_point():
            given = similarity.dtype if isinstance(similarity, Tensor) else type(similarity).__name__
            raise TypeError(f"{name} must be a floating-point tensor, got {given}")
    if positive_similarity.shape != negative_similarity.shape:
        raise ValueError(
            f"negative_similarity must be {shape_of(positive_similarity)}, as positive_similarity, "
            f"got {shape_of(negative_similarity)}"
        )
    valid = ~(positive_similarity.isnan() | negative_similarity.isnan())
    return (negative_similarity > positive_similarity)[valid].double().mean().item()


def hard_triplet_share(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
    positive: PositiveRule = "easiest",
    negative: NegativeRule = "hardest",
) -> float:
    """Share of anchors whose triplet is hard: its negative is more similar to the anchor than its positive.

    Args:
        embeddings: Anchors [B, D], of a batch or of a whole set; float32, float64, float16 or bfloat16.
        labels: The anchors' classes [B], any integer dtype.
        ref_embeddings: Rows to select positives and negatives from, [M, D]. None: the anchors themselves.
        ref_labels: The refs' classes [M].
        ids: The anchors' ids [B], as in :func:`hardmine.ops.select_triplets`: with refs, only this excludes an anchor's
            own copy.
        ref_ids: The refs' ids [M]; given together with ``ids`` if there are refs.
        ignore_index: Rows with this label are neither anchors nor refs.
        positive: As in :func:`hardmine.ops.select_triplets`.
        negative: As in :func:`hardmine.ops.select_triplets`.

    Returns:
        The share in [0, 1] of the anchors that have both a positive and a negative; NaN if no anchor has, or if an
        embedding is not finite.

    Raises:
        TypeError: As in :func:`hardmine.ops.select_triplets`.
        ValueError: As in :func:`hardmine.ops.select_triplets`.

    Note:
        Memory is O((B + M) D). For similarities that are already computed, use :func:`hard_share`.

    Reference:
        SCT section 3 and figure 6, for the easiest positive and the hardest negative in a batch.

    Example:
        >>> import torch
        >>> from hardmine import metrics
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> metrics.hard_triplet_share(embeddings, labels)
        0.5
    """
    with torch.no_grad():
        embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids = without_ignored(
            ignore_index, embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
        )
        selection = ops.select_triplets(
            embeddings,
            labels,
            ref_embeddings,
            ref_labels,
            ids=ids,
            ref_ids=ref_ids,
            positive=positive,
            negative=negative,
        )
        if not all_finite(embeddings, ref_embeddings):
            return float("nan")
        return hard_share(selection.positive_similarity, selection.negative_similarity)
