"""When a hardmine op computes a class of pytorch-metric-learning (PML), and when PML's own code does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pytorch_metric_learning import distances
from torch import Tensor

from hardmine.integrations._fallback import (
    NotFused,
    forbid_refused_labels,
    forbid_refused_rows,
    forbid_zero_rows,
    fused_or_theirs,
)
from hardmine.ops import _all_positives_of_blocks
from hardmine.types import Similarity

LIBRARY = "pytorch-metric-learning"


def fused_or_pml(module: Any, own: type, fused: Callable[..., Any], pml: Callable[..., Any], *inputs: Any) -> Any:
    """:func:`fused_or_theirs`. The first input is the embeddings, the last two are refs and their labels."""

    def checked(*inputs: Any) -> Any:
        embeddings, labels, *_, refs, ref_labels = inputs
        forbid_refused_rows(embeddings, refs)
        for given in (labels, ref_labels):
            if given is not None:
                forbid_refused_labels(given)
        return fused(*inputs)

    return fused_or_theirs(LIBRARY, module, own, checked, pml, *inputs)


def loss_or_pml(module: Any, own: type, fused: Callable[..., Any], pml: Callable[..., Any], *inputs: Any) -> Any:
    """:func:`fused_or_pml` of a loss, which takes embeddings, labels, indices_tuple, refs and their labels."""
    embeddings, _, indices, refs, _ = inputs
    check_indices(indices, len(embeddings), len(refs))
    return fused_or_pml(module, own, fused, pml, *inputs)


class Geometry(NamedTuple):
    """A distance of PML as hardmine's ops see it.

    Attributes:
        similarity: ``"cosine"`` and ``"dot"`` for similarities; ``"euclidean"`` for distances of rows that
            :meth:`rows` gives.
        normalized: Whether the distance normalizes the rows first.
        squared: Whether it is a squared distance.
    """

    similarity: Similarity
    normalized: bool
    squared: bool

    def rows(self, embeddings: Tensor) -> Tensor:
        """What an op takes with ``similarity``: ``"cosine"`` normalizes inside, the others do not."""
        if self.normalized and self.similarity != "cosine":
            return torch.nn.functional.normalize(embeddings)
        return embeddings


def geometry_of(distance: Any) -> Geometry:
    """What a distance of PML computes, or NotFused."""
    kind = type(distance)
    if kind not in (distances.CosineSimilarity, distances.DotProductSimilarity, distances.LpDistance):
        raise NotFused(f"its distance is {kind.__name__}")
    if distance.p != 2:
        raise NotFused(f"its distance has p={distance.p!r}")
    powers = (1, 2) if kind is distances.LpDistance else (1,)
    if distance.power not in powers:
        raise NotFused(f"its distance has power={distance.power!r}")
    normalized = bool(distance.normalize_embeddings)
    if kind is distances.LpDistance:
        return Geometry("euclidean", normalized, distance.power == 2)
    return Geometry("cosine" if normalized else "dot", normalized, False)


def as_cosine(geometry: Geometry, embeddings: Tensor, refs: Tensor) -> Geometry:
    """Squared distances of unit rows are 2 - 2 cos: the cosine in their place. A row of norm 0 is no unit row."""
    if not (geometry.squared and geometry.normalized):
        raise NotFused("its distance is squared but not normalized")
    forbid_zero_rows(embeddings, refs)
    return Geometry("cosine", True, False)


def record_distance(distance: Any, embeddings: Tensor, refs: Tensor) -> None:
    """The statistics that a call of the distance would leave."""
    if distance.collect_stats:
        distance.reset_stats()
        normalized = (distance.maybe_normalize(rows) for rows in (embeddings, refs))
        distance.set_default_stats(embeddings, refs, *normalized)


def refs_of(embeddings: Tensor, labels: Tensor, refs: Tensor, ref_labels: Tensor) -> dict[str, Any]:
    """The refs of an op, and the ids that exclude what PML excludes: the pairs (i, i) if labels are one tensor."""
    if ref_labels is labels and refs is embeddings:
        return {}
    found: dict[str, Any] = {"ref_embeddings": refs, "ref_labels": ref_labels}
    if ref_labels is labels:
        own = torch.arange(len(labels), device=labels.device)
        found |= {"ids": own, "ref_ids": own}
    return found


def positive_pairs(labels: Tensor, ref_labels: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs of equal labels that PML lists, in its order, without the matrix of labels: int64 [P] each."""
    return _all_positives_of_blocks.positive_pairs(labels.contiguous(), ref_labels, None, None, ref_labels is labels)


def pair_distances(distance: Any, geometry: Geometry, rows: Tensor, refs: Tensor, pairs: tuple[Any, Any]) -> Tensor:
    """The distance of each of P pairs, from the rows of the pairs: [P]."""
    first, second = rows[pairs[0]], refs[pairs[1]]
    if geometry.similarity == "euclidean":
        return (first - second).norm(dim=1) ** distance.power
    return (first * second).sum(1)


def check_indices(indices: Any, count: int, ref_count: int) -> None:
    """``indices`` is None or index tensors that fit [B] embeddings and [M] refs.

    Raises:
        ValueError: It is from another batch: an index is out of range. Checked on the CPU only.
    """
    if not isinstance(indices, (tuple, list)) or not all(isinstance(each, Tensor) for each in indices):
        return  # None, or what PML has errors for
    if len(indices) not in (3, 4):
        raise ValueError(f"indices_tuple must have 3 tensors (a, p, n) or 4 (a1, p, a2, n), got {len(indices)}")
    names = ("a", "p", "n") if len(indices) == 3 else ("a1", "p", "a2", "n")
    pairs = ((0, 1), (0, 2)) if len(indices) == 3 else ((0, 1), (2, 3))
    for one, other in pairs:
        if len(indices[one]) != len(indices[other]):
            raise ValueError(
                f"{names[other]} of indices_tuple must be as long as {names[one]}, {len(indices[one])}, "
                f"got {len(indices[other])}"
            )
    for name, index in zip(names, indices, strict=True):
        rows, limit = ("embeddings", count) if name.startswith("a") else ("ref_emb, or else embeddings", ref_count)
        if len(index) and index.device.type == "cpu" and not 0 <= index.min() <= index.max() < limit:
            wrong = index[(index < 0) | (index >= limit)][0].item()
            raise ValueError(
                f"{name} of indices_tuple must be rows of {rows}, 0 to {limit - 1}, got {wrong}: "
                "is it from another batch?"
            )
