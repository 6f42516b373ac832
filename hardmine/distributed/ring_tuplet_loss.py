"""The tuplet losses with refs that are spread over the ranks, and that no rank holds all of."""

from __future__ import annotations

import math
from typing import Any, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from hardmine._hooks import mixes_dtypes
from hardmine.distributed._ring import (
    GradientRing,
    agree_on_candidates,
    as_candidates,
    check_candidates,
    needs_gradient,
    sum_dtype,
    travel,
)
from hardmine.distributed.all_reduce_loss import all_reduce_loss
from hardmine.distributed.ring_select_triplets import Best
from hardmine.ops._arguments import NEGATIVES, REDUCTIONS, SIMILARITIES, allow_tf32, check_choice
from hardmine.ops._autograd import forbid_double_backward, register_autograd
from hardmine.ops._fakes import accumulate_dtype, fake_gradients
from hardmine.ops._groups import check_group, fail_everywhere, group_of
from hardmine.ops._numbers import check_temperature, optional_number
from hardmine.ops._ranks import GRADIENT_REDUCTIONS
from hardmine.ops._sums import softplus
from hardmine.types import GradientReduction, Reduction, Similarity, TupletPositiveRule

_RULES = get_args(TupletPositiveRule)
_ALL, _NONE = _RULES.index("all"), REDUCTIONS.index("none")


@mixes_dtypes
def ring_tuplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    positive: TupletPositiveRule = "easiest",
    temperature: float = 0.1,
    similarity: Similarity = "cosine",
    duplicate_threshold: float | None = None,
    reduction: Reduction = "mean",
    gradient_reduction: GradientReduction | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """The tuplet loss of the anchors of all ranks against the refs of all ranks, of which no rank holds all.

    The blocks of refs travel around a ring, and each rank merges its anchors' log-sum-exps over the blocks. A rank
    compares its anchors with one block while the next one arrives, and holds no more than these two besides its own.
    The loss is that of :func:`hardmine.ops.tuplet_loss` with all anchors and all refs, to rounding, on every rank.
    Averaging the parameters' gradients over the ranks, as DDP and FSDP do, gives the gradient of one process.

    Every rank must call this, and every rank must run the backward pass if one does.

    Args:
        embeddings: The anchors of this rank, as in :func:`ring_select_triplets`, like ``labels``, ``ref_embeddings``,
            ``ref_labels``, ``ids`` and ``ref_ids``.
        labels: Integers [B].
        ref_embeddings: This rank's block of the refs, [M, D]; None on every rank: the anchors of all ranks.
        ref_labels: Integers [M].
        ids: Integers [B]; a pair of equal ids >= 0 is no candidate.
        ref_ids: Integers [M].
        positive: ``"easiest"``, ``"hardest"`` or ``"all"``, as in :func:`hardmine.ops.tuplet_loss`, like
            ``temperature``, ``similarity`` and ``duplicate_threshold``. With ``"all"`` the blocks travel twice.
        temperature: From 1e-30 to 1e30.
        similarity: ``"cosine"``, ``"dot"`` or ``"euclidean"``.
        duplicate_threshold: Positives more similar than this are excluded.
        reduction: ``"mean"`` over the valid anchors of all ranks, ``"sum"`` over the anchors of all ranks, or
            ``"none"``: [B], the terms of this rank's anchors, 0 for those that do not count.
        gradient_reduction: How the trainer reduces gradients over the ranks, as in :func:`all_reduce_loss`: ``"mean"``,
            the default, or ``"sum"``. None with ``reduction="none"``, whose gradients are not scaled.
        group: The process group, by default that of all processes.

    Returns:
        The loss, float64 for float64 inputs, else float32.

    Raises:
        TypeError: An argument has the wrong type or dtype, on any rank.
        ValueError: An argument has the wrong shape, value or device, on any rank; ranks differ in an option, in dtype,
            D or type of device, or in which arguments are given or need gradients; or this process is not in ``group``.
        NotImplementedError: A second derivative is requested.
        RuntimeError: ``group`` is not initialized.

    Note:
        Positives are selected as in one process, bit for bit. An anchor without a positive or a negative is excluded
        from the loss and the mean. A non-finite element makes the loss NaN.

        The backward pass sends the blocks around the ring once more, and with each block the sum of its gradients so
        far, in float32, or in float64 for float64. A rank then holds two blocks and three gradients of blocks besides
        its own. The order of the additions is fixed: results repeat bit for bit. The notes on
        :func:`ring_select_triplets` and :func:`all_gather_rows` about errors, hanging and backends apply.

    Reference:
        Xuan et al., "Improved Embeddings with Easy Positive Triplet Mining", WACV 2020, sections 2.2 and 4.

    Example:
        >>> import tempfile, torch
        >>> from hardmine.distributed import ring_tuplet_loss
        >>> store = torch.distributed.FileStore(tempfile.mkstemp()[1], 1)
        >>> torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)  # torchrun: no arguments
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]], requires_grad=True)
        >>> loss = ring_tuplet_loss(embeddings, torch.tensor([0, 0, 1, 1]))
        >>> loss
        tensor(0.0638, grad_fn=<ToCopyBackward0>)
        >>> loss.backward()
        >>> torch.distributed.destroy_process_group()
    """
    group = check_group(group)
    inputs = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
    try:
        if not torch.compiler.is_compiling():  # the op checks as well
            check_candidates(inputs, group)
        check_choice("reduction", reduction, REDUCTIONS)
        if gradient_reduction is not None:
            check_choice("gradient_reduction", gradient_reduction, GRADIENT_REDUCTIONS)
            if reduction == "none":
                raise ValueError(f"gradient_reduction must be None with reduction='none', got {gradient_reduction!r}")
        numbers = (
            check_choice("similarity", similarity, SIMILARITIES),
            check_choice("positive", positive, _RULES),
            check_temperature(temperature),
            optional_number("duplicate_threshold", duplicate_threshold, math.inf, like=embeddings),
            allow_tf32(embeddings),
        )
    except Exception as error:
        if torch.compiler.is_compiling():
            raise
        fail_everywhere(group, error)
    needs = needs_gradient(embeddings), needs_gradient(ref_embeddings)
    value, *_, positive_count, _ = torch.ops.hardmine.ring_tuplet_loss(
        *inputs, *numbers, f"{reduction}/{gradient_reduction or 'mean'}", *needs, group.group_name
    )
    if reduction == "none":
        return value
    count = (positive_count > 0).sum() if reduction == "mean" else None
    total = value.sum(dtype=torch.float64)
    loss = all_reduce_loss(total, count, group=group, gradient_reduction=gradient_reduction or "mean")
    return loss.to(value.dtype)


class LogSumExp:
    """Log-sum-exps over all blocks so far: shift / temperature + log(sum), in float64. No pair exceeds its shift."""

    def __init__(self, embeddings: Tensor, temperature: float) -> None:
        self.temperature = temperature
        self.shift = torch.full((len(embeddings),), -math.inf, dtype=torch.float64, device=embeddings.device)
        self.sum = torch.zeros_like(self.shift)

    def add(self, shift: Tensor, total: Tensor) -> None:
        """Merges those of a block; without a negative in it, the sum is 0, and the shift is meaningless."""
        total = total.double()
        shift = torch.where(total == 0, -math.inf, shift.double())
        largest = torch.maximum(self.shift, shift)
        self.sum = self._relative_to(largest, self.shift, self.sum) + self._relative_to(largest, shift, total)
        self.shift = largest

    def _relative_to(self, largest: Tensor, shift: Tensor, total: Tensor) -> Tensor:
        return torch.where(shift == -math.inf, 0.0, total * ((shift - largest) / self.temperature).exp())


def _loss(*arguments: Any) -> tuple[Tensor, ...]:
    similarity, positive, temperature, threshold, tf32, reductions = arguments[6:12]
    needs_grad, ref_needs_grad, group_name = arguments[12:]
    group = group_of(group_name)
    options = {
        "op": "ring_tuplet_loss",
        "similarity": SIMILARITIES[similarity],
        "positive": _RULES[positive],
        "temperature": temperature,
        "duplicate_threshold": threshold,
        **dict(zip(("reduction", "gradient_reduction"), reductions.split("/"), strict=True)),
    }
    candidates, counts, starts = agree_on_candidates(arguments[:6], needs_grad, ref_needs_grad, options, group)
    embeddings = candidates.embeddings
    dtype = accumulate_dtype(embeddings.dtype)

    best = Best(embeddings, _RULES[positive] == "hardest", keeps_rows=False)
    level = LogSumExp(embeddings, temperature)
    # With semi-hard negatives and no key, the op selects positives only.
    rule = (similarity, positive, NEGATIVES.index("semihard"), 0, threshold, math.inf, tf32)
    for owner, block in travel(candidates.block, counts, group):
        compared = candidates.against(block, is_own=owner == group.rank())
        level.add(*torch.ops.hardmine.tuplet_logsumexp(*compared, similarity, temperature, tf32))
        if positive != _ALL:
            found, _, index, _, key, _ = torch.ops.hardmine.select_triplets_block(*compared, None, *rule)
            best.offer(found, key, index, block[0], starts[owner])

    has_negative = level.sum > 0
    shift, total = torch.where(has_negative, level.shift, 0.0).to(dtype), level.sum.to(dtype)
    if positive != _ALL:
        # As tuplet_term in csrc/core/losses/tuplet_terms.h has it
        excess = (shift.double() - best.similarity.double()) / temperature + total.double().log()
        count = (has_negative & (best.index >= 0)).to(torch.int64)
        value, slope = softplus(excess), excess.sigmoid()
    else:
        value, slope = torch.zeros_like(level.sum), torch.zeros_like(level.sum)
        count = torch.zeros_like(best.index)
        for owner, block in travel(candidates.block, counts, group):
            compared = candidates.against(block, is_own=owner == group.rank())
            values, slopes, some = torch.ops.hardmine.tuplet_positives(
                *compared, shift, total, similarity, temperature, threshold, tf32
            )
            value, slope, count = value + some * values.double(), slope + some * slopes.double(), count + some
        value, slope = value / count, slope / count
    diverged = level.sum.isnan().any()
    value, slope = (
        torch.where(diverged, math.nan, torch.where(count > 0, part, 0.0)).to(dtype) for part in (value, slope)
    )
    all_counts = torch.tensor(counts, dtype=torch.int64, device="cpu")
    return value, shift, total, slope, best.index, count, all_counts


def _loss_backward(*arguments: Any) -> tuple[Tensor, Tensor]:
    grad_value, inputs = arguments[0], arguments[1:7]
    shift, total, slope, positive_index, positive_count, all_counts = arguments[7:13]
    similarity, positive, temperature, threshold, tf32, need, need_refs, group_name = arguments[13:]
    group, embeddings, has_refs = group_of(group_name), inputs[0], inputs[2] is not None
    candidates = as_candidates(inputs)
    counts, sends = all_counts.tolist(), need_refs if has_refs else need
    options = (similarity, positive, temperature, threshold, _NONE, tf32)

    dtype = sum_dtype(embeddings)
    grad = torch.zeros_like(embeddings, dtype=dtype) if need else embeddings.new_empty(0)
    poison = slope.sum() * 0  # NaN if the loss diverged
    ring = GradientRing(counts, embeddings, group)

    def add(owner: int, block: list[Tensor]) -> None:
        """Adds the shares of one block. A function, so that no share lives longer."""
        has_own_gradient = has_refs or owner != group.rank()
        number = positive_index - sum(counts[:owner])
        index = torch.where((number >= 0) & (number < counts[owner]), number, -1)
        compared = candidates.against(block, is_own=owner == group.rank())
        saved = shift, total, slope, index, positive_count
        grad_anchors, grad_block = torch.ops.hardmine.tuplet_loss_backward(
            grad_value, *compared, *saved, *options, need, sends and has_own_gradient
        )
        if need:
            grad.add_(grad_anchors)
        if sends:
            ring.add(grad_block if has_own_gradient else None)

    for owner, block in travel(candidates.block, counts, group):
        add(owner, block)
    if need:
        grad += poison
    if not sends:
        return grad.to(embeddings.dtype), embeddings.new_empty(0)
    of_block = ring.arrived()
    of_block += poison
    if not has_refs:
        return grad.add_(of_block).to(embeddings.dtype), embeddings.new_empty(0)
    return grad.to(embeddings.dtype), of_block.to(embeddings.dtype)


def _loss_fake(*arguments: Any) -> tuple[Tensor, ...]:
    embeddings, group_name = arguments[0], arguments[-1]
    values = embeddings.new_empty(embeddings.shape[0], dtype=accumulate_dtype(embeddings.dtype))
    index = torch.empty_like(values, dtype=torch.int64)
    counts = torch.empty(group_of(group_name).size(), dtype=torch.int64, device="cpu")
    return values, *(torch.empty_like(values) for _ in range(3)), index, torch.empty_like(index), counts


def _setup_context(ctx: Any, arguments: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*arguments[:6], *outputs[1:])
    ctx.mark_non_differentiable(*outputs[1:])
    ctx.options, ctx.group_name = arguments[6:11], arguments[-1]


def _backward(ctx: Any, saved: tuple[Tensor, ...], grad_value: Tensor, *_: Any) -> tuple[Tensor | None, Tensor | None]:
    need, need_refs, *_ = ctx.needs_input_grad
    grad, grad_refs = torch.ops.hardmine.ring_tuplet_loss_backward(
        grad_value, *saved, *ctx.options, need, need_refs, ctx.group_name
    )
    return grad if need else None, grad_refs if need_refs else None


_INPUTS = "Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, Tensor? ids, Tensor? ref_ids, "
_OPTIONS = "int similarity, int positive, float temperature, float duplicate_threshold, bool allow_tf32, "
torch.library.define(
    "hardmine::ring_tuplet_loss",
    f"({_INPUTS}{_OPTIONS}str reductions, bool needs_grad, bool ref_needs_grad, str group_name) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.impl("hardmine::ring_tuplet_loss", ("cpu", "cuda"), _loss)
torch.library.register_fake("hardmine::ring_tuplet_loss", _loss_fake)
torch.library.define(
    "hardmine::ring_tuplet_loss_backward",
    f"(Tensor grad_value, {_INPUTS}Tensor shift, Tensor sum, Tensor slope, Tensor positive_index, "
    f"Tensor positive_count, Tensor counts, {_OPTIONS}bool need, bool need_refs, str group_name) -> (Tensor, Tensor)",
)
torch.library.impl("hardmine::ring_tuplet_loss_backward", ("cpu", "cuda"), _loss_backward)


@torch.library.register_fake("hardmine::ring_tuplet_loss_backward")
def _(*arguments: Any) -> tuple[Tensor, Tensor]:
    return fake_gradients(arguments[1], arguments[3], *arguments[-3:-1])


register_autograd("ring_tuplet_loss", (0, 2), _setup_context, _backward)
forbid_double_backward("ring_tuplet_loss", (0, 1, 3))
