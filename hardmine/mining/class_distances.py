"""Mean squared distances between the samples of classes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine.mining.labels import check_labels
from hardmine.ops._arguments import FLOAT_DTYPES, INTEGER_DTYPES, check_rows, shape_of
from hardmine.types import ClassDistances

MAX_SQ_DIST = 4.0  # largest squared distance on the unit sphere

# Float64 elements per step: bounds the memory, and the delay before Ctrl-C is noticed.
_CHUNK_ELEMENTS = 2**22
_CHUNK_PRODUCTS = 2**32  # multiply-adds per step: bounds that delay too
_ROUNDING = 1e-4  # allowed error of distances, which may have been computed in float32


def class_distances(embeddings: Tensor, labels: Tensor | Sequence[int]) -> ClassDistances:
    """The mean squared distance between the samples of every pair of classes, in O(N D + C^2 D) time.

    Replaces, with ``x = F.normalize(embeddings)``, for all classes p and q, in O(N^2 D)::

        d = (x[labels == p][:, None] - x[labels == q][None, :]).square().sum(2)
        d.mean() if p != q else d.sum() / (len(d) * (len(d) - 1))

    by ``E|x|^2_p + E|x|^2_q - 2 mu_p . mu_q`` and ``2 n / (n - 1) (E|x|^2_p - |mu_p|^2)``, where E is the mean over the
    n samples of a class, and mu their mean.

    Args:
        embeddings: [N, D], float32, float64, float16 or bfloat16. They are normalized to unit length first.
        labels: Integers [N], the class of every row.

    Returns:
        :class:`ClassDistances`, on the CPU.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape.
        FloatingPointError: An embedding is not finite; the message names the row.

    Note:
        Sums are float64 for every dtype. Memory is O(C (C + D)), plus 32 MiB per temporary. Results are equal on every
        repeat; with another number of threads the last bits of ``torch.mm`` may differ. The work is done in steps, so
        that Ctrl-C can interrupt it.

    Reference:
        Ge et al., "Deep Metric Learning with Hierarchical Triplet Loss", ECCV 2018, section 4.1: d(p, q), and the terms
        of d_0.

    Example:
        >>> import torch
        >>> class_distances(torch.eye(3), torch.tensor([0, 0, 1])).sq_dist
        tensor([[2., 2.],
                [2., nan]], dtype=torch.float64)
    """
    check_rows("embeddings", embeddings, None)
    labels = check_labels(labels)
    if len(labels) != len(embeddings):
        raise ValueError(f"labels must be [N] = [{len(embeddings)}], got {shape_of(labels)}")
    classes, class_index, sizes = labels.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(classes), embeddings.shape[1], dtype=torch.float64, device="cpu")
    sq_norms = torch.zeros(len(classes), dtype=torch.float64, device="cpu")
    for rows in _slices(len(labels), embeddings.shape[1]):
        unit_rows = _unit_rows(embeddings.detach()[rows], rows.start)
        sums.index_add_(0, class_index[rows], unit_rows)
        sq_norms.index_add_(0, class_index[rows], unit_rows.square().sum(1))
    sizes = sizes.double()
    means, mean_sq_norms = sums / sizes[:, None], sq_norms / sizes
    products = means.new_empty(len(classes), len(classes))
    for rows in _slices(len(classes), max(len(classes), 1), depth=means.shape[1]):
        torch.mm(means[rows], means.T, out=products[rows])
    sq_dist = torch.empty_like(products)
    for rows in _slices(len(classes), max(len(classes), 1)):
        twice_products = products[rows] + products[:, rows].T  # makes the matrix bitwise symmetric
        sq_dist[rows] = (mean_sq_norms[rows, None] + mean_sq_norms - twice_products).clamp_(0, MAX_SQ_DIST)
    within = 2 * sizes / (sizes - 1) * (mean_sq_norms - means.square().sum(1))
    sq_dist.diagonal().copy_(torch.where(sizes > 1, within, math.nan).clamp_(0, MAX_SQ_DIST))
    return ClassDistances(classes, sq_dist)


def check_class_distances(distances: Any) -> ClassDistances:
    """``distances`` are valid :class:`ClassDistances`, computed here or elsewhere; returned on the CPU."""
    if not isinstance(distances, ClassDistances):
        raise TypeError(f"distances must be ClassDistances, got {type(distances).__name__}")
    for name, tensor, dtypes in (
        ("classes", distances.classes, INTEGER_DTYPES),
        ("sq_dist", distances.sq_dist, FLOAT_DTYPES),
    ):
        if not isinstance(tensor, Tensor) or tensor.dtype not in dtypes:
            expected = "integers" if dtypes is INTEGER_DTYPES else "floating-point numbers"
            given = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"distances.{name} must be a tensor of {expected}, got {given}")
    classes, sq_dist = distances.classes.to("cpu", torch.int64), distances.sq_dist.detach().to("cpu", torch.float64)
    if classes.dim() != 1:
        raise ValueError(f"distances.classes must be [C], got {shape_of(classes)}")
    if sq_dist.shape != (len(classes), len(classes)):
        raise ValueError(f"distances.sq_dist must be [C, C] with C = {len(classes)}, got {shape_of(sq_dist)}")
    descents = (classes[1:] <= classes[:-1]).nonzero()
    if len(descents):
        before, after = classes[descents[0, 0] :][:2].tolist()
        raise ValueError(f"distances.classes must be ascending, got {after} after {before}")
    diagonal = torch.eye(len(classes), dtype=torch.bool, device="cpu")
    in_range = (sq_dist >= -_ROUNDING) & (sq_dist <= MAX_SQ_DIST + _ROUNDING)
    for row, column in (~in_range & ~(diagonal & sq_dist.isnan())).nonzero()[:1].tolist():
        raise ValueError(
            "distances.sq_dist must be from 0 to 4, as for unit vectors, "
            f"got {sq_dist[row, column].item():g} at [{row}, {column}]"
        )
    for row, column in ((sq_dist - sq_dist.T).abs() > _ROUNDING).nonzero()[:1].tolist():
        raise ValueError(
            f"distances.sq_dist must be symmetric, got {sq_dist[row, column].item():g} at [{row}, {column}] "
            f"and {sq_dist[column, row].item():g} at [{column}, {row}]"
        )
    return ClassDistances(classes, ((sq_dist + sq_dist.T) / 2).clamp_(0, MAX_SQ_DIST))


def nearest_classes(sq_dist: Tensor, k: int) -> Tensor:
    """The k nearest other classes of every class, nearest first, int32 [C, k]; ties go to the lowest position.

    Args:
        sq_dist: float64 [C, C], finite except for the diagonal, which is ignored.
        k: From 0 to C - 1.
    """
    nearest = torch.empty(len(sq_dist), k, dtype=torch.int32, device="cpu")
    for rows in _slices(len(sq_dist), max(len(sq_dist), 1)):
        row_dist = sq_dist[rows].clone()
        row_dist.diagonal(rows.start).fill_(math.inf)  # a class is not its own neighbor
        nearest[rows] = row_dist.argsort(dim=1, stable=True)[:, :k].int()
    return nearest


def _slices(count: int, width: int, depth: int = 1) -> Iterator[slice]:
    """Ranges of ``count`` rows, with ``width`` elements per row and ``depth`` multiply-adds per element."""
    step = max(1, min(_CHUNK_ELEMENTS // width, _CHUNK_PRODUCTS // (width * depth)))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _unit_rows(rows: Tensor, first: int) -> Tensor:
    """The rows in float64, normalized; ``first`` is the number of the first row, for errors."""
    rows = rows.to("cpu", torch.float64)
    finite = rows.square().sum(1).isfinite()
    if not finite.all():
        row = first + int(finite.logical_not().nonzero()[0])
        raise FloatingPointError(f"embeddings must be finite, got a non-finite row {row}: has training diverged?")
    return F.normalize(rows)
