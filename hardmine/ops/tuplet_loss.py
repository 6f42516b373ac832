"""The tuplet losses: an anchor's positive, or all its positives, against all its negatives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine._hooks import observed
from hardmine.ops._arguments import (
    NEGATIVES,
    REDUCTIONS,
    SIMILARITIES,
    allow_tf32,
    check_choice,
    check_ids,
    check_labeled_rows,
)
from hardmine.ops._autograd import forbid_double_backward, register_autograd
from hardmine.ops._fakes import accumulate_dtype, fake_gradients
from hardmine.ops._groups import agree_on_checks
from hardmine.ops._ignored import drops_ignored
from hardmine.ops._numbers import check_flag, check_temperature, optional_number
from hardmine.ops._ranks import (
    PartialLoss,
    all_rows,
    check_tensors,
    group_loss,
    own_part,
    shares_pairs,
    with_requested,
)
from hardmine.ops._shared_losses import TUPLET_OPTIONS, split_options
from hardmine.ops._soft import reduced, soft_sums, temperature_tensor
from hardmine.types import (
    GradientReduction,
    LossResult,
    Reduction,
    Similarity,
    TupletLossOptions,
    TupletPositiveRule,
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
@observed("tuplet_loss")
@drops_ignored
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
    similarity: Similarity = "cosine",
    duplicate_threshold: float | None = None,
    reduction: Reduction = "mean",
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
        temperature: A number from 1e-30 to 1e30, because float32 must be able to divide similarities by it. Or, unless
            ``positive`` is ``"all"``, a tensor [] of a floating-point dtype on the device of ``embeddings``, which gets
            a gradient if it requires one; see :func:`hardmine.ops.logsumexp`. A tensor takes a second pass for the
            positives.
        similarity: ``"cosine"``, ``"dot"`` or ``"euclidean"``, as in :func:`hardmine.ops.select_triplets`.
        duplicate_threshold: Positives more similar than this are excluded as near duplicates.
        reduction: ``"mean"`` over the valid anchors, ``"sum"``, or ``"none"``: [B], 0 for anchors that do not count.
        return_terms: Also return the :class:`hardmine.types.TupletTerms`, at no further cost. They hold the selected
            positives, with index -1 and similarity NaN if there is none, and always with ``"all"``. They also hold the
            log-sum-exp of ``s_an / temperature`` over all negatives, which is -infinity if there is none.
        return_count: Also return the number of anchors that count in the mean, int64 []. This does not synchronize a
            GPU.
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
        the subgradient 0. Memory is O((B + M) D): the backward pass recomputes the similarities. Results are bitwise
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
    flags = return_terms, return_count
    call = group_loss("tuplet_loss", group, gradient_reduction, reduction)
    if call is None:
        loss, terms, count = _compute(inputs, options, flags)
    else:

        def check() -> None:
            check_tensors(inputs, call.group)
            _check_options(embeddings, options, flags)

        agree_on_checks(call.group, call.check, check)
        same = {**options, "gradient_reduction": gradient_reduction}
        if shares_pairs(inputs, options) and not isinstance(temperature, Tensor):
            compiled_options = split_options(_check_options(embeddings, options, flags), TUPLET_OPTIONS)
            rows, anchors = all_rows(call.group, "tuplet_loss", same, inputs)
            loss, *outputs = torch.ops.hardmine.tuplet_loss_in_parts(
                *rows, *compiled_options, call.scale, call.group.group_name
            )
            terms = _terms(*(outputs[i][anchors.own] for i in (5, 1, 0))) if return_terms else None
            count = (outputs[6] > 0).sum() if return_count else None
            return with_requested(loss, (terms, count), flags)
        part, _ = own_part(call.group, "tuplet_loss", same, inputs)
        part_options = {**options, "reduction": "none" if reduction == "none" else "sum"}
        loss, terms, count = call.add_up(
            lambda: PartialLoss(*_compute(part, part_options, (True, True))),
            embeddings.device,
            mean=reduction == "mean",
        )
        count = count.sum()
    return with_requested(loss, (terms, count), flags)


def _check_options(embeddings: Tensor, options: dict[str, Any], flags: tuple[Any, Any]) -> list[int | float]:
    """Checks the options and the flags; returns the options in the order of the compiled op's schema."""
    for name, flag in zip(("return_terms", "return_count"), flags, strict=True):
        check_flag(name, flag)
    return [
        check_choice("similarity", options["similarity"], SIMILARITIES),
        check_choice("positive", options["positive"], get_args(TupletPositiveRule)),
        _check_temperature(embeddings, options),
        optional_number("duplicate_threshold", options["duplicate_threshold"], math.inf, like=embeddings),
        check_choice("reduction", options["reduction"], REDUCTIONS),
        allow_tf32(embeddings),
    ]


def _check_temperature(embeddings: Tensor, options: dict[str, Any]) -> float:
    """The temperature; for a tensor, which the compiled op does not take, 1."""
    temperature = options["temperature"]
    if not isinstance(temperature, Tensor):
        return check_temperature(temperature)
    temperature_tensor(temperature, embeddings)
    if options["positive"] == "all":
        raise ValueError("temperature must be a number with positive='all', got a Tensor")
    return 1.0


def _compute(inputs: tuple[Any, ...], options: dict[str, Any], flags: tuple[Any, Any]) -> tuple[Tensor, Any, Any]:
    """The loss, and the terms and the count of anchors if their flags are set."""
    if isinstance(options["temperature"], Tensor):
        return _compute_with_tensor(inputs, options, flags)
    embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids = inputs
    labels, ref_labels = check_labeled_rows(embeddings, labels, ref_embeddings, ref_labels)
    ids, ref_ids = check_ids(ids, embeddings, ref_ids, ref_embeddings)
    loss, level, s_ap, _, _, _, index, positive_count = torch.ops.hardmine.tuplet_loss(
        embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids, *_check_options(embeddings, options, flags)
    )
    return loss, _terms(index, s_ap, level) if flags[0] else None, (positive_count > 0).sum() if flags[1] else None


def _compute_with_tensor(
    inputs: tuple[Any, ...], options: dict[str, Any], flags: tuple[Any, Any]
) -> tuple[Tensor, Any, Any]:
    """The same, composed of a selection of positives and the log-sum-exps of negatives."""
    embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids = inputs
    labels, ref_labels = check_labeled_rows(embeddings, labels, ref_embeddings, ref_labels)
    ids, ref_ids = check_ids(ids, embeddings, ref_ids, ref_embeddings)
    inputs = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
    similarity, positive, _, threshold, _, tf32 = _check_options(embeddings, options, flags)
    s_ap, _, index, _ = torch.ops.hardmine.select_triplets(
        *inputs, None, similarity, positive, NEGATIVES.index("hardest"), 0, 0, threshold, math.inf, tf32
    )
    sums, _ = soft_sums(inputs, options["temperature"], options["similarity"], "negative")
    has_positive = index >= 0
    valid = has_positive & (sums.log_sum > -math.inf)
    excess = sums.logsumexp_minus(torch.where(has_positive, s_ap, 0.0))
    counts = valid | sums.log_sum.isnan()  # divergence is never hidden
    value = torch.where(counts, -F.logsigmoid(-excess), 0.0)
    count = valid.sum()
    terms = _terms(index, s_ap, sums.logsumexp()) if flags[0] else None
    return reduced(value, count, options["reduction"]), terms, count if flags[1] else None


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
