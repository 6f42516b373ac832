"""Scores of an embedding: how well classes are found again."""

from __future__ import annotations

import torch

from hardmine import ops


def recall_at_1(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    ref_embeddings: torch.Tensor | None = None,
    ref_labels: torch.Tensor | None = None,
) -> float:
    """Share of queries whose most similar gallery sample, by cosine similarity, has the query's class.

    The nearest sample has the query's class exactly when the easiest positive beats the hardest negative. So this is
    one `hardmine.ops.select_triplets`, which streams the similarities, instead of
    `(ref_labels[(queries @ gallery.T).argmax(1)] == labels).float().mean()`, which holds all of them.

    Args:
        embeddings: Queries [B, D], float32, float64, float16 or bfloat16. They need not have unit length.
        labels: Classes of the queries [B], any integer dtype.
        ref_embeddings: Gallery [M, D]. Without it the queries are the gallery, each query itself left out.
        ref_labels: Classes of the gallery [M].

    Returns:
        Recall@1 in [0, 1]; NaN if an embedding is not finite, so that divergence is not hidden.

    Raises:
        ValueError: No query has a positive in the gallery, so there is nothing to find, or, from `select_triplets`,
            an argument has the wrong shape, dtype or device.

    Note:
        A query without any positive in the gallery counts as a miss. Between equal similarities the lowest
        gallery index is the nearest. Memory is O((B + M) D).

    Reference:
        Recall@K with K = 1, as in SCT section 5.2 and EP section 5.1.
    """
    with torch.no_grad():
        selection = ops.select_triplets(
            embeddings, labels, ref_embeddings, ref_labels, positive="easiest", negative="hardest"
        )
        for given in (embeddings, ref_embeddings):
            if given is not None and not torch.isfinite(given).all():
                return float("nan")
        has_positive = selection.positive_index >= 0
        if not has_positive.any():
            raise ValueError(f"labels: none of the {len(labels)} queries has a gallery sample of its class")
        positive, negative = selection.positive_similarity, selection.negative_similarity
        tie_won = (positive == negative) & (selection.positive_index < selection.negative_index)
        found = (positive > negative) | tie_won | (selection.negative_index < 0)
        return (found & has_positive).double().mean().item()
