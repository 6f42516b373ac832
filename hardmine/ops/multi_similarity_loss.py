"""The multi-similarity loss."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine._hooks import observed
from hardmine.ops._anchor_losses import AnchorLosses, loss_of_anchors
from hardmine.ops._arguments import (
    FALLBACKS,
    NEGATIVES,
    POSITIVES,
    SIMILARITIES,
    allow_tf32,
    check_choice,
    check_ids,
    check_labeled_rows,
    with_row_numbers,
)
from hardmine.ops._ignored import drops_ignored
from hardmine.ops._known_options import labeled_tensors, remembers_options
from hardmine.ops._labeled_losses import loss_with_gradients, multi_similarity_loss_with_gradients
from hardmine.ops._numbers import MAX_TEMPERATURE, MIN_TEMPERATURE, check_finite, check_temperature
from hardmine.ops._soft import soft_sums
from hardmine.ops._sums import softplus
from hardmine.types import GradientReduction, ProductSimilarity, Reduction

PRODUCT_SIMILARITIES = ("cosine", "dot")


@remembers_options(multi_similarity_loss_with_gradients, labeled_tensors)
@observed("multi_similarity_loss")
@drops_ignored
def multi_similarity_loss(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float | None = None,
    similarity: ProductSimilarity = "cosine",
    reduction: Reduction = "mean",
    weights: Tensor | None = None,
    group: ProcessGroup | None = None,
    gradient_reduction: GradientReduction | None = None,
) -> Tensor:
    """The multi-similarity loss without the matrix of similarities.

    Replaces, with ``x = F.normalize(embeddings)`` and its masks::

        s = x @ x.T
        positive = (-alpha * (s - base)).masked_fill(~is_positive, -inf).logsumexp(1)
        negative = (beta * (s - base)).masked_fill(~is_negative, -inf).logsumexp(1)
        loss = (F.softplus(positive) / alpha + F.softplus(negative) / beta).mean()

    Defaults and values are those of ``MultiSimilarityLoss`` of pytorch-metric-learning 2.9.0; with ``epsilon``, those
    of this loss on the pairs of ``MultiSimilarityMiner(epsilon)``.

    Args:
        embeddings: The anchors, [B, D], float32, float64, float16 or bfloat16.
        labels: The anchors' classes, [B], any integer dtype.
        ref_embeddings: Rows to compare with, such as a memory bank: [M, D], dtype and device of ``embeddings``. None
            compares the anchors among themselves, where no sample is paired with itself. Gets a gradient if it requires
            one.
        ref_labels: The refs' classes, [M], any integer dtype.
        ids: [B], any integer dtype; a pair of equal ids >= 0 is left out, as in :func:`hardmine.ops.select_triplets`.
            With refs, only this excludes an anchor's own copy.
        ref_ids: [M], the refs' ids; given together with ``ids`` if there are refs.
        ignore_index: Rows with this label are neither anchors nor candidates, as in
            :func:`hardmine.ops.select_triplets`; they do not count in a mean.
        alpha: The weight of positives in the exponent, from 1e-30 to 1e30.
        beta: That of negatives.
        base: The similarity at which pairs are neither rewarded nor punished, finite.
        epsilon: A finite number turns on the paper's mining, with 0.1 in the paper. An anchor then has only the
            negatives more similar than its least similar positive minus ``epsilon``, and the positives less similar
            than its most similar negative plus ``epsilon``; none if it has no positive or no negative. No gradient
            flows through this choice. None: all pairs.
        similarity: ``"cosine"`` or ``"dot"``.
        reduction: ``"mean"`` over all anchors, ``"sum"``, or ``"none"``: [B].
        weights: [B], a floating-point dtype: finite and at least 0: a number per anchor that multiplies its loss. Means
            are divided by the sum of the weights of the anchors that count. Gets a gradient if it requires one, which
            is an error with ``group``.
        group: A ``torch.distributed`` process group: candidates are the rows of all its ranks, or with refs, the refs
            of all ranks. The loss is that of one process with all rows, on every rank, except that ``reduction="none"``
            returns the losses of this rank's anchors. None: this process alone.
        gradient_reduction: Only with ``group``: how the trainer reduces the parameters' gradients over the ranks,
            ``"mean"`` as DDP and FSDP do (and the default), or ``"sum"``. Both give the gradient of one process.

    Returns:
        The loss, float64 for float64 inputs, else float32.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value.
        NotImplementedError: A second derivative is requested.

    Note:
        Positives or negatives that an anchor does not have add 0. A non-finite element, or a row whose norm overflows,
        makes the loss and all gradients NaN. Memory is O((B + M) D): large batches compute the similarities twice.
        Results are bitwise equal on every repeat, for any number of threads and at every SIMD level.

    Reference:
        Wang et al., "Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning", CVPR 2019, equation
        15; the mining of ``epsilon`` is equations 11 and 12.

    Example:
        >>> import torch
        >>> from hardmine import ops
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]], requires_grad=True)
        >>> loss = ops.multi_similarity_loss(embeddings, torch.tensor([0, 0, 1, 1]))
        >>> round(loss.item(), 4)
        0.2688
        >>> loss.backward()
        >>> mined = ops.multi_similarity_loss(embeddings, torch.tensor([0, 0, 1, 1]), epsilon=0.3)
        >>> round(mined.item(), 4)
        0.1594
    """
    options = {
        "alpha": alpha,
        "beta": beta,
        "base": base,
        "epsilon": epsilon,
        "similarity": similarity,
        "reduction": reduction,
    }
    inputs = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
    if (
        all(given is None for given in (epsilon, weights, group, gradient_reduction))
        and isinstance(reduction, str)
        and reduction in ("mean", "sum")
    ):

        def check() -> list[Any]:
            numbers = _check_options(embeddings, options)
            code = PRODUCT_SIMILARITIES.index(similarity)
            return [code, numbers.alpha, numbers.beta, numbers.base, reduction == "mean"]

        if (alone := loss_with_gradients(multi_similarity_loss_with_gradients, inputs, check)) is not None:
            return alone
    loss, _, _ = loss_of_anchors(
        "multi_similarity_loss",
        inputs,
        options,
        {},
        (group, gradient_reduction),
        weights,
        _check_options,
        _losses,
    )
    return loss


class _Numbers(NamedTuple):
    alpha: float
    beta: float
    base: float
    epsilon: float | None


def _check_options(embeddings: Tensor, options: dict[str, Any]) -> _Numbers:
    """The numbers; all options are checked."""
    check_choice("similarity", options["similarity"], PRODUCT_SIMILARITIES)
    alpha, beta = (check_temperature(options[name], name) for name in ("alpha", "beta"))
    base = check_finite("base", options["base"], like=embeddings)
    epsilon = options["epsilon"]
    return _Numbers(alpha, beta, base, None if epsilon is None else check_finite("epsilon", epsilon, like=embeddings))


def _losses(inputs: tuple[Any, ...], options: dict[str, Any]) -> AnchorLosses:
    embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids = inputs
    labels, ref_labels = check_labeled_rows(embeddings, labels, ref_embeddings, ref_labels)
    ids, ref_ids = check_ids(ids, embeddings, ref_ids, ref_embeddings)
    alpha, beta, base, epsilon = _check_options(embeddings, options)
    similarity = options["similarity"]
    rows: tuple[Any, ...] = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
    of_positives = of_negatives = None
    if epsilon is not None:
        of_positives, of_negatives = _bounds(rows, similarity, epsilon)
        if ref_embeddings is None:  # a pair may count for one of its rows only: the engine then needs refs
            ids = _ids_of_rows(ids, labels)
            rows = embeddings, labels, embeddings, labels, ids, ids
    negatives, _ = soft_sums(rows, _inverse(beta), similarity, "negative", bound=of_negatives)
    positives, _ = soft_sums(rows, _inverse(alpha), similarity, "positive", logit="dissimilarity", bound=of_positives)
    at_base = torch.full_like(negatives.shift, base)
    value = softplus(positives.logsumexp_minus(-at_base)) / alpha
    value = value + softplus(negatives.logsumexp_minus(at_base)) / beta
    return AnchorLosses(value, torch.ones_like(value, dtype=torch.bool))


def _bounds(rows: tuple[Any, ...], similarity: str, epsilon: float) -> tuple[Tensor, Tensor]:
    """What the dissimilarities of positives and the similarities of negatives of each anchor must exceed, [B] each."""
    embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids = (
        part.detach() if isinstance(part, Tensor) else part for part in rows
    )
    hardest = POSITIVES.index("hardest"), NEGATIVES.index("hardest")
    s_ap, s_an, positive, negative = torch.ops.hardmine.select_triplets(
        embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids, None, SIMILARITIES.index(similarity), *hardest,
        FALLBACKS.index(None), 0, math.inf, math.inf, allow_tf32(embeddings),
    )  # fmt: skip
    of_negatives = torch.where(positive >= 0, s_ap - epsilon, math.inf)
    return torch.where(negative >= 0, -s_an - epsilon, math.inf), of_negatives


def _inverse(factor: float) -> float:
    """The temperature of a factor; at the limits, 1 / factor may be rounded to a number beyond them."""
    return min(max(1 / factor, MIN_TEMPERATURE), MAX_TEMPERATURE)


def _ids_of_rows(ids: Tensor | None, labels: Tensor) -> Tensor:
    """Ids that exclude what ``ids`` exclude, and each row itself."""
    number = torch.arange(labels.shape[0], device=labels.device)
    return number if ids is None else with_row_numbers(ids, number)
