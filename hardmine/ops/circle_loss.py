"""The circle loss."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine._hooks import observed
from hardmine.ops._anchor_losses import AnchorLosses, loss_of_anchors
from hardmine.ops._ignored import drops_ignored
from hardmine.ops._known_options import labeled_tensors, remembers_options
from hardmine.ops._labeled_losses import circle_loss_with_gradients, loss_with_gradients
from hardmine.ops._numbers import MAX_TEMPERATURE, MIN_TEMPERATURE, check_number, check_temperature
from hardmine.ops._ranks import with_requested
from hardmine.ops._soft import soft_sums
from hardmine.ops._sums import softplus
from hardmine.types import GradientReduction, Reduction


# The overloads differ in the flag and the result: the layout shows only these side by side.
# fmt: off
@overload
def circle_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    ids: Tensor | None = None, ref_ids: Tensor | None = None, ignore_index: int | None = None,
    m: float = 0.4, gamma: float = 80.0, reduction: Reduction = "mean", weights: Tensor | None = None,
    return_count: Literal[False] = False, group: ProcessGroup | None = None,
    gradient_reduction: GradientReduction | None = None,
) -> Tensor: ...
@overload
def circle_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    ids: Tensor | None = None, ref_ids: Tensor | None = None, ignore_index: int | None = None,
    m: float = 0.4, gamma: float = 80.0, reduction: Reduction = "mean", weights: Tensor | None = None,
    return_count: bool = False, group: ProcessGroup | None = None,
    gradient_reduction: GradientReduction | None = None,
) -> Tensor | tuple[Tensor, Tensor]: ...
# fmt: on
@remembers_options(circle_loss_with_gradients, labeled_tensors)
@observed("circle_loss")
@drops_ignored
def circle_loss(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
    m: float = 0.4,
    gamma: float = 80.0,
    reduction: Reduction = "mean",
    weights: Tensor | None = None,
    return_count: bool = False,
    group: ProcessGroup | None = None,
    gradient_reduction: GradientReduction | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The circle loss on cosine similarities, without their matrix.

    Replaces, with ``x = F.normalize(embeddings)`` and its masks::

        s = x @ x.T
        positive = -gamma * (1 + m - s).relu().detach() * (s - (1 - m))
        negative = gamma * (s + m).relu().detach() * (s - m)
        positive = positive.masked_fill(~is_positive, -inf).logsumexp(1)
        negative = negative.masked_fill(~is_negative, -inf).logsumexp(1)
        loss = F.softplus(positive + negative)[has_both].mean()

    Defaults, values and gradients are those of ``CircleLoss`` of pytorch-metric-learning 2.9.0: the weights ``relu()``
    are held constant. Its default reducer also leaves out losses that are rounded to 0.

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
        m: The relaxation of the margins, from -1 to 1: similarities of positives should be above 1 - m, and those of
            negatives below m. The paper takes 0.25 for faces and person re-identification, and 0.4 for images of
            fine-grained classes.
        gamma: The scale of the logits, from 1e-30 to 1e30. In the paper 256, 128 and 80 for these tasks.
        reduction: ``"mean"`` over the anchors that have a positive and a negative, ``"sum"``, or ``"none"``: [B], 0 for
            the others.
        weights: [B], a floating-point dtype: finite and at least 0. Each anchor's loss is multiplied with its weight,
            and means are divided by the sum of the weights of the anchors that count. Gets a gradient if it requires
            one, which is an error with ``group``.
        return_count: Also return the number of anchors that have a positive and a negative, int64 []. This does not
            synchronize a GPU.
        group: A ``torch.distributed`` process group: candidates are the rows of all its ranks, or with refs, the refs
            of all ranks. The loss is that of one process with all rows, on every rank, except that ``reduction="none"``
            returns the losses of this rank's anchors. None: this process alone.
        gradient_reduction: Only with ``group``: how the trainer reduces the parameters' gradients over the ranks,
            ``"mean"`` as DDP and FSDP do (and the default), or ``"sum"``. Both give the gradient of one process.

    Returns:
        The loss, float64 for float64 inputs, else float32; with ``return_count``, a tuple of the loss and the count.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value.
        NotImplementedError: A second derivative is requested.

    Note:
        Without any anchor that counts, the loss and its gradient are 0. A non-finite element, or a row whose norm
        overflows, makes the loss and all gradients NaN. Memory is O((B + M) D): large batches compute the similarities
        twice. Results are bitwise equal on every repeat, for any number of threads and at every SIMD level.

    Reference:
        Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization", CVPR 2020, equations 5 and 6
        with the margins of section 3.3.

    Example:
        >>> import torch
        >>> from hardmine import ops
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]], requires_grad=True)
        >>> loss, count = ops.circle_loss(embeddings, torch.tensor([0, 0, 1, 1]), gamma=8.0, return_count=True)
        >>> round(loss.item(), 4), count
        (0.749, tensor(4))
        >>> loss.backward()
    """
    inputs = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
    options = {"m": m, "gamma": gamma, "reduction": reduction}
    if (
        all(given is None for given in (weights, group, gradient_reduction))
        and return_count is False
        and isinstance(reduction, str)
        and reduction in ("mean", "sum")
    ):

        def check() -> list[Any]:
            return [*_check_options(embeddings, options), reduction == "mean"]

        if (alone := loss_with_gradients(circle_loss_with_gradients, inputs, check)) is not None:
            return alone
    loss, _, count = loss_of_anchors(
        "circle_loss",
        inputs,
        options,
        {"return_count": return_count},
        (group, gradient_reduction),
        weights,
        _check_options,
        _losses,
    )
    return with_requested(loss, (count, None), (return_count, False))


def _check_options(embeddings: Tensor, options: dict[str, Any]) -> tuple[float, float]:
    """``m`` and ``gamma``."""
    m = check_number("m", options["m"])
    if not -1 <= m <= 1:
        raise ValueError(f"m must be a number from -1 to 1, got {options['m']}")
    return m, check_temperature(options["gamma"], "gamma")


def _losses(inputs: tuple[Any, ...], options: dict[str, Any]) -> AnchorLosses:
    m, gamma = _check_options(inputs[0], options)
    temperature = min(max(1 / gamma, MIN_TEMPERATURE), MAX_TEMPERATURE)
    positives, negatives = (
        soft_sums(inputs, temperature, "cosine", pairs, logit="circle", margin=m)[0]
        for pairs in ("positive", "negative")
    )
    value = positives.logsumexp() + negatives.logsumexp()
    # Without a positive or a negative this is -infinity, and the loss 0. NaN counts in no mean, but stays.
    return AnchorLosses(softplus(value), value > -torch.inf)
