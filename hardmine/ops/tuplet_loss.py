"""The tuplet losses: an anchor's positive, or all its positives, against all its negatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine._hooks import observed
from hardmine.ops._anchor_losses import AnchorLosses, loss_of_anchors
from hardmine.ops._arguments import (
    ALL_SIMILARITIES,
    NEGATIVES,
    REDUCTIONS,
    TUPLET_REDUCTIONS,
    allow_tf32,
    check_choice,
    check_ids,
    check_labeled_rows,
    temperature_tensor,
)
from hardmine.ops._autograd import forbid_double_backward, register_autograd
from hardmine.ops._fakes import accumulate_dtype, fake_gradients
from hardmine.ops._hyperbolic import takes_hyperbolic
from hardmine.ops._ignored import drops_ignored
from hardmine.ops._known_options import labeled_tensors, remember, remembers_options
from hardmine.ops._labeled_losses import has_labeled_losses, tuplet_loss_with_gradients
from hardmine.ops._numbers import check_flag, check_temperature, optional_number
from hardmine.ops._ranks import GroupLoss, all_rows, with_requested
from hardmine.ops._shared_losses import TUPLET_OPTIONS, split_options
from hardmine.ops._soft import SoftSums, soft_sums
from hardmine.ops._sums import expand_in_order, softplus
from hardmine.types import (
    AnySimilarity,
    GradientReduction,
    LossResult,
    TupletLossOptions,
    TupletPositiveRule,
    TupletReduction,
    TupletTerms,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack


# The overloads differ in the flags and the result: the layout shows only these side by side.
# fmt: off
@overload
def tuplet_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    return_terms: Literal[False] = False, return_count: Literal[False] = False,
    **options: Unpack[TupletLossOptions],
) -> Tensor: ...
@overload
def tuplet_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    return_terms: Literal[True], return_count: Literal[False] = False,
    **options: Unpack[TupletLossOptions],
) -> tuple[Tensor, TupletTerms]: ...
@overload
def tuplet_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    return_terms: Literal[False] = False, return_count: Literal[True],
    **options: Unpack[TupletLossOptions],
) -> tuple[Tensor, Tensor]: ...
@overload
def tuplet_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    return_terms: Literal[True], return_count: Literal[True],
    **options: Unpack[TupletLossOptions],
) -> tuple[Tensor, TupletTerms, Tensor]: ...
@overload
def tuplet_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    return_terms: bool = False, return_count: bool = False,
    **options: Unpack[TupletLossOptions],
) -> LossResult[TupletTerms]: ...
# fmt: on
@remembers_options(tuplet_loss_with_gradients, labeled_tensors)
@observed("tuplet_loss")
@drops_ignored
@takes_hyperbolic
def tuplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
    positive: TupletPositiveRule = "easiest",
    temperature: float | Tensor = 0.1,
    similarity: AnySimilarity = "cosine",
    duplicate_threshold: float | None = None,
    reduction: TupletReduction = "mean",
    weights: Tensor | None = None,
    return_terms: bool = False,
    return_count: bool = False,
    group: ProcessGroup | None = None,
    gradient_reduction: GradientReduction | None = None,
) -> LossResult[TupletTerms]:
    """A softmax loss of each anchor's positive against all its negatives, without the matrix of similarities.

    Replaces, with ``x = F.normalize(embeddings)`` and its masks::

        s = x @ x.T / temperature
        level = s.masked_fill(same_class, -inf).logsumexp(1)
        loss = F.softplus(level - s[anchors, positive_index]).mean()

    Args:
        embeddings: The anchors, [B, D], float32, float64, float16 or bfloat16.
        labels: The anchors' classes, [B], any integer dtype.
        ref_embeddings: Rows to compare with, such as a memory bank: [M, D], dtype and device of ``embeddings``. None
            compares the anchors among themselves, where a sample is never its own positive. Gets a gradient if it
            requires one.
        ref_labels: The refs' classes, [M], any integer dtype.
        ids: [B], any integer dtype; a pair of equal ids >= 0 is no candidate, as in
            :func:`hardmine.ops.select_triplets`. With refs, only this excludes an anchor's own copy.
        ref_ids: [M], the refs' ids; given together with ``ids`` if there are refs.
        ignore_index: Rows with this label are neither anchors nor candidates, as in
            :func:`hardmine.ops.select_triplets`; they do not count in a mean.
        positive: ``"easiest"`` (EP), ``"hardest"`` (HP), or ``"all"`` (Batch All): the mean of the loss over every
            positive of the anchor. With two samples per class all three are N-pair.
        temperature: A number from 1e-30 to 1e30, because float32 must be able to divide similarities by it. Or a tensor
            [] of a floating-point dtype on the device of ``embeddings``, which gets a gradient if it requires one; see
            :func:`hardmine.ops.logsumexp`. A tensor takes a second pass for the positives; with ``positive="all"`` it
            also takes memory for a number per pair of an anchor and one of its positives, and on a GPU the host waits
            for their number.
        similarity: ``"cosine"``, ``"dot"``, ``"euclidean"`` or ``"hyperbolic"``, as in
            :func:`hardmine.ops.select_triplets`.
        duplicate_threshold: Positives more similar than this are excluded as near duplicates.
        reduction: ``"mean"`` over the valid anchors, ``"sum"``, or ``"none"``: [B], 0 for anchors that do not count.
            With ``positive="all"`` also ``"mean_pairs"``: the mean over all pairs of a valid anchor and a positive, in
            which anchors of large classes count more, as in ``NTXentLoss`` of pytorch-metric-learning.
        weights: [B], a floating-point dtype: finite and at least 0: a number per anchor that multiplies its loss. Means
            are divided by the sum of the weights of the anchors that count. Gets a gradient if it requires one, which
            is an error with ``group``.
        return_terms: Also return the :class:`hardmine.types.TupletTerms`, at no further cost. They hold the selected
            positives, with index -1 and similarity NaN if there is none, and always with ``"all"``. They also hold the
            log-sum-exp of ``s_an / temperature`` over all negatives, which is -infinity if there is none.
        return_count: Also return the number of anchors that count in the mean, int64 []; with ``"mean_pairs"``, the
            number of pairs. This does not synchronize a GPU.
        group: A ``torch.distributed`` process group, such as ``torch.distributed.group.WORLD``: candidates are the rows
            of all its ranks, or with refs, the refs of all ranks. The loss is that of one process with all rows, on
            every rank, except that ``reduction="none"`` returns the losses of this rank's anchors. Indices are row
            numbers of all ranks, and the count is that of all. None: this process alone.
        gradient_reduction: Only with ``group``: how the trainer reduces the parameters' gradients over the ranks,
            ``"mean"`` as DDP and FSDP do (and the default), or ``"sum"``. Both give the gradient of one process. The
            gradients of ``reduction="none"`` are never scaled.

    Returns:
        The loss, float64 for float64 inputs, else float32; with ``return_terms`` or ``return_count``, a tuple of the
        loss and what was requested: the terms, then the count.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value.
        NotImplementedError: A second derivative is requested.

    Note:
        An anchor without a positive or a negative is excluded from the loss and the mean. Without any valid anchor the
        loss and its gradient are 0. A non-finite element, or a row whose norm overflows, makes the loss and all
        gradients NaN. Ties between positives go to the lowest index. The Euclidean similarity of equal embeddings takes
        the subgradient 0. Memory is O((B + M) D): large batches compute the similarities twice. Results are bitwise
        equal on every repeat, for any number of threads and at every SIMD level. The op is fastest with the cosine
        similarity and a temperature of at least 0.0451, where one pass over the similarities suffices.

    Reference:
        Xuan et al., "Improved Embeddings with Easy Positive Triplet Mining", WACV 2020, sections 2.2 and 4.

    Example:
        >>> import torch
        >>> from hardmine import ops
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]], requires_grad=True)
        >>> loss, count = ops.tuplet_loss(embeddings, torch.tensor([0, 0, 1, 1]), return_count=True)
        >>> loss, count
        (tensor(0.0638, grad_fn=<TupletLossBackward>), tensor(4))
        >>> loss.backward()
    """
    options = {
        "positive": positive,
        "temperature": temperature,
        "similarity": similarity,
        "duplicate_threshold": duplicate_threshold,
        "reduction": reduction,
    }
    inputs = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
    flags = {"return_terms": return_terms, "return_count": return_count}
    composed = isinstance(temperature, Tensor) or (isinstance(similarity, str) and similarity == "hyperbolic")
    of_pairs = isinstance(reduction, str) and reduction == "mean_pairs"
    if group is None and gradient_reduction is None and weights is None and not composed and not of_pairs:
        for name, flag in flags.items():
            check_flag(name, flag)
        if not (return_terms or return_count or (isinstance(reduction, str) and reduction == "none")):
            rows, compiled_options = _checked(inputs), _check_options(embeddings, options)
            if has_labeled_losses(embeddings):
                remember(compiled_options)
                return tuplet_loss_with_gradients((*rows, *compiled_options))
        loss, terms, positive_count = _compute(inputs, options)
        return with_requested(
            loss,
            (terms() if return_terms else None, (positive_count > 0).sum() if return_count else None),
            (return_terms, return_count),
        )

    def share(call: GroupLoss, same: dict[str, Any]) -> tuple[Tensor, Any, Tensor]:
        compiled_options = split_options(_check_options(embeddings, options), TUPLET_OPTIONS)
        rows, anchors = all_rows(call.group, "tuplet_loss", same, inputs)
        loss, *outputs = torch.ops.hardmine.tuplet_loss_in_parts(
            *rows, *compiled_options, call.scale, call.group.group_name
        )
        terms = _terms(*(outputs[i][anchors.own] for i in (5, 1, 0)))
        return loss, terms, (outputs[6] > 0).sum()

    loss, terms, count = loss_of_anchors(
        "tuplet_loss",
        inputs,
        options,
        flags,
        (group, gradient_reduction),
        weights,
        _check_options,
        _composed_losses if composed else _losses,
        None if composed or of_pairs else share,
        TUPLET_REDUCTIONS,
    )
    return with_requested(loss, (terms, count), (return_terms, return_count))


def _check_options(embeddings: Tensor, options: dict[str, Any]) -> list[int | float]:
    """Checks the options; returns them in the order of the compiled op's schema, with 1 for a temperature tensor."""
    temperature = options["temperature"]
    if isinstance(temperature, Tensor):
        temperature_tensor(temperature, embeddings)
        temperature = 1.0
    return [
        check_choice("similarity", options["similarity"], ALL_SIMILARITIES),
        check_choice("positive", options["positive"], get_args(TupletPositiveRule)),
        check_temperature(temperature),
        optional_number("duplicate_threshold", options["duplicate_threshold"], math.inf, like=embeddings),
        _check_reduction(options),
        allow_tf32(embeddings),
    ]


def _check_reduction(options: dict[str, Any]) -> int:
    reduction, positive = options["reduction"], options["positive"]
    code = check_choice("reduction", reduction, TUPLET_REDUCTIONS)
    if reduction == "mean_pairs" and positive != "all":
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none' with positive={positive!r}, got 'mean_pairs'")
    return code


def _checked(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids = inputs
    labels, ref_labels = check_labeled_rows(embeddings, labels, ref_embeddings, ref_labels)
    ids, ref_ids = check_ids(ids, embeddings, ref_ids, ref_embeddings)
    return embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids


def _compute(inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[Tensor, Callable[[], TupletTerms], Tensor]:
    """The reduced loss, a function that returns the terms, and the number of positives of each anchor that counts."""
    inputs = _checked(inputs)
    loss, level, s_ap, _, _, _, index, positive_count = torch.ops.hardmine.tuplet_loss(
        *inputs, *_check_options(inputs[0], options)
    )
    return loss, lambda: _terms(index, s_ap, level), positive_count


def _losses(inputs: tuple[Any, ...], options: dict[str, Any]) -> AnchorLosses:
    _check_reduction(options)
    values, terms, positive_count = _compute(inputs, {**options, "reduction": "none"})
    sizes = positive_count if options["reduction"] == "mean_pairs" else None
    return AnchorLosses(values, positive_count > 0, terms(), sizes)


def _composed_losses(inputs: tuple[Any, ...], options: dict[str, Any]) -> AnchorLosses:
    """The losses at a temperature tensor, or hyperbolic ones: from chosen positives, and log-sum-exps of negatives."""
    inputs = _checked(inputs)
    similarity, positive, _, threshold, _, tf32 = _check_options(inputs[0], options)
    hardest = NEGATIVES.index("hardest")
    sums, _ = soft_sums(inputs, options["temperature"], options["similarity"], "negative")
    if options["positive"] == "all":
        s_ap, _, anchor, _, _ = torch.ops.hardmine.select_all_positives(
            *inputs, similarity, hardest, 0, 0, threshold, math.inf, tf32
        )
        value, positive_count = _means_over_pairs(sums, s_ap, anchor)
        has_positive = positive_count > 0
        index, s_ap = torch.full_like(has_positive, -1, dtype=torch.int64), sums.shift
    else:
        positive_count = None
        s_ap, _, index, _ = torch.ops.hardmine.select_triplets(
            *inputs, None, similarity, positive, hardest, 0, 0, threshold, math.inf, tf32
        )
        has_positive = index >= 0
        value = softplus(sums.logsumexp_minus(torch.where(has_positive, s_ap, 0.0)))
    sizes = positive_count if options["reduction"] == "mean_pairs" else None
    counts = has_positive & (sums.log_sum > -math.inf)
    value = torch.where(sums.log_sum.isnan(), sums.log_sum, value)  # divergence is never hidden
    value = torch.where(counts | sums.log_sum.isnan(), value, 0.0)
    return AnchorLosses(value, counts, _terms(index, s_ap, sums.logsumexp()), sizes)


def _means_over_pairs(sums: SoftSums, positive_similarity: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
    """The mean loss over the listed positives of each anchor, and their number, int64.

    In float64, in which torch gathers and scatters one number after another: float32 is added up in any order.
    """
    shift, log_sum = sums.shift.double()[anchor], sums.log_sum.double()[anchor]
    temperature = expand_in_order(sums.temperature, anchor.shape[0])
    each = softplus((shift - positive_similarity.double()) / temperature + log_sum)
    nothing = torch.zeros_like(sums.shift, dtype=torch.float64)
    totals, counts = (nothing.index_put((anchor,), v, accumulate=True) for v in (each, torch.ones_like(each)))
    return (totals / counts.clamp(min=1)).to(sums.shift.dtype), counts.long()


def _terms(index: Tensor, positive_similarity: Tensor, level: Tensor) -> TupletTerms:
    # The compiled op returns 0 for a missing similarity, because opcheck cannot compare NaN.
    return TupletTerms(index, torch.where(index >= 0, positive_similarity, math.nan).detach(), level.detach())


@torch.library.register_fake("hardmine::tuplet_loss")
def _(embeddings, labels, *options):
    values = embeddings.new_empty(embeddings.shape[0], dtype=accumulate_dtype(embeddings.dtype))
    index = labels.new_empty(embeddings.shape[0])
    loss = torch.empty_like(values) if REDUCTIONS[options[-2]] == "none" else values.new_empty(())
    return loss, *(torch.empty_like(values) for _ in range(5)), index, torch.empty_like(index)


@torch.library.register_fake("hardmine::tuplet_loss_backward")
def _(grad_loss, embeddings, labels, ref_embeddings, *options):
    return fake_gradients(embeddings, ref_embeddings, *options[-2:])


def _setup_context(ctx, arguments, outputs):
    tensors, ctx.options = arguments[:6], arguments[6:]
    ctx.mark_non_differentiable(*outputs[1:])
    ctx.save_for_backward(*tensors, *outputs[3:])
    ctx.set_materialize_grads(False)


def _backward(ctx, saved, grad_loss, *_):
    need, need_ref, *_ = ctx.needs_input_grad
    if grad_loss is None:
        return None, None
    grad, grad_ref = torch.ops.hardmine.tuplet_loss_backward(grad_loss, *saved, *ctx.options, need, need_ref)
    return grad if need else None, grad_ref if need_ref else None


register_autograd("tuplet_loss", (0, 2), _setup_context, _backward)
forbid_double_backward("tuplet_loss", (0, 1, 3, 7, 8, 9))
