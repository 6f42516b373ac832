"""Bounds on the gradient of a measure of two rows: scales for comparing gradients, and allowances.

A measure is ``"cosine"``, ``"dot"`` or ``"euclidean"`` (a similarity, or the distance), or ``"sq_dist"`` (the squared
distance). With ``normalize`` the rows are normalized first, as always for ``"cosine"``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK_ELEMENTS = 2**22


def inverse_norms(norms: Tensor) -> Tensor:
    """The factor of a gradient through normalization: 1 / norm, or 0 for rows without a direction."""
    return torch.where(norms > 1e-12, 1 / norms, 0.0)


def pair_sizes(norms_a: Tensor, norms_b: Tensor, measure: str, normalize: bool) -> Tensor:
    """A bound on the gradient's norm that a pair gives to either row, from broadcast norms."""
    if normalize or measure == "cosine":
        return (4.0 if measure == "sq_dist" else 1.0) * torch.maximum(inverse_norms(norms_a), inverse_norms(norms_b))
    norms_a, norms_b = torch.broadcast_tensors(norms_a.clamp(min=1e-12), norms_b.clamp(min=1e-12))
    if measure == "dot":
        return torch.maximum(norms_a, norms_b)
    if measure == "hyperbolic":  # the metric of the ball
        return 2 / (1 - torch.maximum(norms_a, norms_b).clamp(max=1 - 1e-12).square())
    return 2 * (norms_a + norms_b) if measure == "sq_dist" else torch.ones_like(norms_a)


def typical_element(slopes: Tensor, a: Tensor, b: Tensor, measure: str, normalize: bool = False) -> float:
    """The size of a gradient element from all pairs of rows a [B, D] and b [M, D], without cancellation.

    Parallel rows have a cosine gradient of 0, for which op and reference compute only rounding errors.
    ``slopes`` [B, M] are the derivatives with respect to the measure.
    """
    if not slopes.numel():
        return 0.0
    sizes = slopes.abs() * pair_sizes(a.norm(dim=1)[:, None], b.norm(dim=1)[None, :], measure, normalize)
    return max(sizes.sum(1).max().item(), sizes.sum(0).max().item()) / a.shape[1] ** 0.5


def direction_error(slopes: Tensor, s: Tensor, similarity: str, distance_error: float) -> float:
    """A bound on the error of gradient elements if distances err by ``distance_error``; 0 for other similarities.

    ``slopes`` [B, M] are the derivatives with respect to the similarities ``s``. Equal rows have no direction.
    """
    if similarity != "euclidean" or not slopes.numel():
        return 0.0
    errors = slopes.abs() * (distance_error / -s).clamp(max=2.0).masked_fill(s == 0, 0.0)
    return max(errors.sum(1).max().item(), errors.sum(0).max().item())


def gradient_bound(
    rows: Tensor, slopes: Tensor, measure: str, normalize: bool = False, distance_error: float = 0.0
) -> Tensor:
    """As :func:`gradient_bounds` of pairs of the same rows: [B, D], from both sides of each pair."""
    left, right = gradient_bounds(rows, rows, slopes, measure, normalize, distance_error)
    return left + right


def gradient_bounds(
    rows: Tensor, columns: Tensor, slopes: Tensor, measure: str, normalize: bool = False, distance_error: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The sums of the absolute gradients of ``rows`` [B, D] and ``columns`` [M, D], over nonzero ``slopes`` [B, M].

    With ``distance_error``, for ``"euclidean"`` only: a bound on the gradients' error if the difference of two rows
    errs by so much. The closer the rows, the more the unit vector between them turns.
    """
    normalize = normalize or measure == "cosine"
    sides = rows, columns
    scales = [inverse_norms(side.norm(dim=1)) for side in sides]
    f, g = (F.normalize(side) if normalize else side for side in sides)
    bounds = torch.zeros_like(rows), torch.zeros_like(columns)
    left, right = slopes.nonzero(as_tuple=True)
    chunk_pairs = max(1, _CHUNK_ELEMENTS // rows.shape[1])
    for a, b in zip(left.split(chunk_pairs), right.split(chunk_pairs), strict=True):
        weight = slopes[a, b].abs()[:, None]
        difference = (f[a] - g[b]).abs()
        if measure in ("cosine", "dot"):
            grad_a, grad_b = g[b].abs(), f[a].abs()
        elif measure == "sq_dist":
            grad_a = grad_b = 2 * difference
        elif distance_error:
            grad_a = grad_b = (
                (distance_error / difference.norm(dim=1, keepdim=True)).clamp(max=2.0).expand_as(difference)
            )
        else:
            grad_a = grad_b = difference / difference.norm(dim=1, keepdim=True).clamp(min=1e-300)
        for unit, scale, bound, index, gradient in zip((f, g), scales, bounds, (a, b), (grad_a, grad_b), strict=True):
            if normalize:  # (g - f (f . g)) / |x|
                radial = (unit[index].abs() * gradient).sum(1, keepdim=True)
                gradient = (gradient + unit[index].abs() * radial) * scale[index][:, None]
            bound.index_add_(0, index, weight * gradient)
    return bounds
