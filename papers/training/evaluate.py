"""Scores of a network on the classes that are only retrieved."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hardmine.metrics import hotel_recall, nmi, recall_at_k
from hardmine.mining.embedding import embed_all
from papers.recipes.sections import Evaluation
from papers.training.data import TrainingData

CHAIN_RECALL_AT = (1, 3, 5)


def evaluate(
    network: nn.Module, data: TrainingData, section: Evaluation, *, workers: int = 0, last: bool = False, seed: int = 0
) -> dict[str, float]:
    """Recall@K, for Hotels-50K also of chains, and at the end NMI if the recipe requests it.

    Returns:
        Scores by name: `recall_at_1`, `chain_recall_at_1`, `nmi`.

    Raises:
        FloatingPointError: An embedding is not finite.
    """
    query = embed_all(network, data.query.images, num_workers=workers)
    sizes = sorted({1, *section.recall_at})
    if data.gallery is data.query:
        recall = recall_at_k(query, data.query.labels, k=sizes, progress=False)
        scores = {f"recall_at_{k}": value for k, value in recall.items()}
    else:
        gallery = embed_all(network, data.gallery.images, num_workers=workers)
        scores = _recall_in_gallery(query, gallery, data, sizes)
    if section.nmi and last:
        scores["nmi"] = nmi(query, data.query.labels, seed=seed)
    return scores


def _recall_in_gallery(query: Tensor, gallery: Tensor, data: TrainingData, sizes: list[int]) -> dict[str, float]:
    labels: dict[str, Any] = {"ref_embeddings": gallery, "progress": False}
    chains, gallery_chains = data.query.coarse_labels, data.gallery.coarse_labels
    if chains is None or gallery_chains is None:
        recall = recall_at_k(query, data.query.labels, ref_labels=data.gallery.labels, k=sizes, **labels)
        return {f"recall_at_{k}": value for k, value in recall.items()}
    found = hotel_recall(
        query,
        data.query.labels,
        chains,
        ref_instances=data.gallery.labels,
        ref_chains=gallery_chains,
        instance_k=sizes,
        chain_k=CHAIN_RECALL_AT,
        **labels,
    )
    return {f"recall_at_{k}": value for k, value in found.instance.items()} | {
        f"chain_recall_at_{k}": value for k, value in found.chain.items()
    }
