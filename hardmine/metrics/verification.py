"""Face verification: whether two images have the same class, judged by their similarity."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine.metrics._search import all_finite
from hardmine.ops._arguments import INTEGER_DTYPES, check_rows, shape_of
from hardmine.ops._numbers import check_integer
from hardmine.types import Verification

_CHUNK_PAIRS = 2**14


def verification_accuracy(embeddings: Tensor, pairs: Tensor, same: Tensor, *, folds: int | Tensor = 10) -> Verification:
    """Accuracy of a threshold on the cosine similarity that separates pairs of one class from pairs of two.

    Each fold is judged by the threshold that is right for most pairs of all other folds.

    Args:
        embeddings: [N, D], float32, float64, float16 or bfloat16. Rows need not have unit length.
        pairs: Rows of the embeddings, [P, 2], any integer dtype.
        same: Whether each pair is of one class, bool [P].
        folds: The fold of each pair, [P], any integer dtype; or a number of folds, at least 2, for equally large folds
            that are stored one after the other, as in LFW's ``pairs.txt``.

    Returns:
        :class:`Verification`; NaN everywhere if an embedding is not finite, so that divergence is not hidden.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value.

    Note:
        A threshold lies midway between two neighboring similarities of the other folds. It is infinite if all of their
        pairs, or none, are classified as the same. Among equally good thresholds the lowest is used. Similarities are
        computed in float64. Memory is O(N D + P). The standard error over n folds is that of LFW: the standard
        deviation of the accuracies (with n - 1 in the denominator), divided by the square root of n.

    Reference:
        HTL section 5.4; Huang et al., "Labeled Faces in the Wild", 2007, "View 2".

    Example:
        >>> import torch
        >>> from hardmine import metrics
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> pairs = torch.tensor([[0, 1], [0, 2], [2, 3], [1, 3]])
        >>> same = torch.tensor([True, False, True, False])
        >>> found = metrics.verification_accuracy(embeddings, pairs, same, folds=2)
        >>> found.accuracy, found.std_error
        (1.0, 0.0)
    """
    check_rows("embeddings", embeddings, None)
    pairs = _check_integers("pairs", pairs, "[P, 2]", lambda shape: len(shape) == 2 and shape[1] == 2)
    count = len(pairs)
    if not isinstance(same, Tensor) or same.dtype != torch.bool:
        raise TypeError(f"same must be a bool tensor, got {_type_name(same)}")
    if same.shape != (count,):
        raise ValueError(f"same must be [P] = [{count}], got {shape_of(same)}")
    if count and not 0 <= pairs.min() <= pairs.max() < len(embeddings):
        invalid = int(pairs.min() if pairs.min() < 0 else pairs.max())
        raise ValueError(f"pairs must be row numbers from 0 to {len(embeddings) - 1}, got {invalid}")
    fold_masks = _fold_masks(folds, count)
    if not all_finite(embeddings):
        nan_folds = (math.nan,) * len(fold_masks)
        return Verification(math.nan, math.nan, nan_folds, nan_folds)
    similarities, same = _similarities(embeddings.detach(), pairs), same.cpu()
    accuracies, thresholds = [], []
    for fold in fold_masks:
        threshold = _best_threshold(similarities[~fold], same[~fold])
        thresholds.append(threshold)
        accuracies.append(((similarities[fold] >= threshold) == same[fold]).double().mean().item())
    scores = torch.tensor(accuracies, dtype=torch.float64, device="cpu")
    std_error = (scores.std() / math.sqrt(len(scores))).item()
    return Verification(scores.mean().item(), std_error, tuple(accuracies), tuple(thresholds))


def _fold_masks(folds: Any, count: int) -> list[Tensor]:
    """The pairs of each fold: one bool [P] per fold."""
    if isinstance(folds, Tensor):
        folds = _check_integers("folds", folds, f"[P] = [{count}]", lambda shape: shape == (count,)).cpu()
        numbers = folds.unique()
        if len(numbers) < 2:
            raise ValueError(f"folds must have at least 2 distinct values, got {len(numbers)}")
        return [folds == number for number in numbers]
    if not isinstance(folds, Integral):
        raise TypeError(f"folds must be an integer or a tensor of integers, got {type(folds).__name__}")
    folds = check_integer("folds", folds, 2)
    if count == 0 or count % folds:
        raise ValueError(f"folds must divide the number of pairs, {count}, got {folds}")
    return [torch.arange(count, device="cpu") // (count // folds) == fold for fold in range(folds)]


def _similarities(embeddings: Tensor, pairs: Tensor) -> Tensor:
    """The cosine similarity of every pair, float64 [P] on the CPU."""
    parts = []
    for chunk in pairs.to(embeddings.device).split(_CHUNK_PAIRS):
        left, right = (F.normalize(embeddings[rows].double()) for rows in chunk.unbind(1))
        parts.append((left * right).sum(1).clamp(-1, 1).cpu())
    return torch.cat(parts)


def _best_threshold(similarities: Tensor, same: Tensor) -> float:
    """The lowest similarity at which classifying pairs as the same is right for the most pairs."""
    similarities, order = similarities.sort(descending=True)
    # For n = 0, 1, ...: the n most similar pairs are classified as the same, by a threshold before the next pair.
    gain = F.pad(torch.where(same[order], 1, -1).cumsum(0), (1, 0))
    bound = similarities.new_tensor([math.inf])
    upper, lower = torch.cat([bound, similarities]), torch.cat([similarities, -bound])
    is_separable = lower < upper  # no threshold separates equally similar pairs
    midpoint = (upper + lower) / 2
    # Adjacent numbers have no midpoint: rounding to the lower one would classify that pair as the same, too.
    threshold = torch.where((midpoint == lower) & lower.isfinite(), upper, midpoint)
    best = gain[is_separable].max()
    return threshold[is_separable & (gain == best)][-1].item()


def _check_integers(name: str, tensor: Any, expected: str, fits: Any) -> Tensor:
    """``tensor`` has an integer dtype and a shape that ``fits``; returned as int64."""
    if not isinstance(tensor, Tensor) or tensor.dtype not in INTEGER_DTYPES:
        raise TypeError(f"{name} must be a tensor of integers, got {_type_name(tensor)}")
    if not fits(tensor.shape):
        raise ValueError(f"{name} must be {expected}, got {shape_of(tensor)}")
    return tensor.to(torch.int64)


def _type_name(value: Any) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
