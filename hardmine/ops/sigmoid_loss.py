"""The sigmoid loss of SigLIP."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine._hooks import observed
from hardmine.ops._anchor_losses import AnchorLosses, add_up_losses, check_group_weights, read_weights, reduce_losses
from hardmine.ops._arguments import (
    REDUCTIONS,
    SIMILARITIES,
    allow_tf32,
    check_choice,
    check_rows,
    has_values,
    scalar_tensor,
    shape_of,
)
from hardmine.ops._autograd import forbid_double_backward, register_autograd
from hardmine.ops._fakes import accumulate_dtype, fake_gradients
from hardmine.ops._gather import check_gathered
from hardmine.ops._groups import agree_on_checks
from hardmine.ops._numbers import check_finite
from hardmine.ops._ranks import gather, group_loss
from hardmine.ops._sigmoid_of_pairs import has_sigmoid_op, sigmoid_of_pairs
from hardmine.ops._soft import promotes_rows
from hardmine.types import GradientReduction, Reduction, Similarity


@promotes_rows
@observed("sigmoid_loss")
def sigmoid_loss(
    query: Tensor,
    key: Tensor,
    *,
    logit_scale: float | Tensor = 10.0,
    logit_bias: float | Tensor = -10.0,
    similarity: Similarity = "cosine",
    reduction: Reduction = "mean",
    weights: Tensor | None = None,
    group: ProcessGroup | None = None,
    gradient_reduction: GradientReduction | None = None,
) -> Tensor:
    """The sigmoid loss of pairs (SigLIP) without the matrix of similarities.

    Replaces, with ``q = F.normalize(query)`` and ``k = F.normalize(key)``::

        logits = logit_scale * q @ k.T + logit_bias
        loss = -F.logsigmoid(logits * (2 * torch.eye(B) - 1)).sum() / B

    Args:
        query: [B, D], float32, float64, float16 or bfloat16.
        key: The key of each query, [B, D], dtype and device of ``query``. Every other pair is a negative.
        logit_scale: A finite number, or a tensor [] of a floating-point dtype on the device of ``query``, which gets a
            gradient if it requires one. The value of a tensor on a GPU is not checked. The paper learns its logarithm:
            pass ``log_scale.exp()``. The default is the paper's initial value.
        logit_bias: Likewise.
        similarity: ``"cosine"``, ``"dot"`` or ``"euclidean"``, as in :func:`hardmine.ops.select_triplets`.
        reduction: ``"mean"``: the sum over all pairs divided by B; ``"sum"`` over all pairs; or ``"none"``: [B], the
            sum over the pairs of each query.
        weights: [B], a floating-point dtype: finite and at least 0: a number per query that multiplies its loss. Means
            are divided by the sum of the weights. Gets a gradient if it requires one, which is an error with ``group``.
        group: A ``torch.distributed`` process group: each query is also paired with the keys of all other ranks. The
            loss is that of one process with all pairs, on every rank, so a mean is the sum over all pairs divided by
            the number of queries of all ranks; ``reduction="none"`` returns the losses of this rank's queries. Where
            ranks have equally many pairs, the gradient is that of ``SigLipLoss`` of open_clip, which divides by the
            pairs of each rank. None: this process alone.
        gradient_reduction: Only with ``group``: how the trainer reduces the parameters' gradients over the ranks,
            ``"mean"`` as DDP and FSDP do (and the default), or ``"sum"``. Both give the gradient of one process.

    Returns:
        The loss, float64 for float64 inputs, else float32.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value.
        NotImplementedError: A second derivative is requested.

    Note:
        Without pairs the loss is 0. A non-finite element, or a row whose norm overflows, makes the loss and all
        gradients NaN. The Euclidean similarity of equal rows takes the subgradient 0. Memory is O(B D). Results are
        bitwise equal on every repeat, for any number of threads and at every SIMD level.

    Reference:
        Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, equation 1 and algorithm 1.

    Example:
        >>> import torch
        >>> from hardmine import ops
        >>> image = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8]], requires_grad=True)
        >>> text = torch.tensor([[0.8, 0.6], [0.6, 0.8], [-1.0, 0.0]], requires_grad=True)
        >>> loss = ops.sigmoid_loss(image, text)
        >>> round(loss.item(), 4)
        2.7697
        >>> loss.backward()
    """
    options = {
        "logit_scale": logit_scale,
        "logit_bias": logit_bias,
        "similarity": similarity,
        "reduction": reduction,
    }
    call = group_loss("sigmoid_loss", group, gradient_reduction, reduction)
    if call is None:
        logit = _check(query, key, options)
        if weights is None and reduction != "none" and has_sigmoid_op(query):
            return sigmoid_of_pairs(query, key, logit, similarity, reduction)
        number = torch.arange(query.shape[0], device=query.device)
        losses = _losses(query, number, key, number, logit, similarity)
        of_queries = None if weights is None else read_weights(weights, query, losses.values.dtype, "query")
        return reduce_losses(losses, of_queries, reduction)

    def check() -> None:
        _check(query, key, options)
        check_gathered(key, None, None, call.group, ("key", "labels", "ids"))
        check_group_weights(weights, query, "query")

    agree_on_checks(call.group, call.check, check)
    same = {**options, "weights": weights, "gradient_reduction": gradient_reduction}
    found = gather(call.group, call.name, same, key, None, names=("key", "labels", "ids"))
    logit = _check(query, key, options)

    def compute() -> AnchorLosses:
        return _losses(query, found.anchors.own, found.rows, found.anchors.number, logit, similarity)

    return add_up_losses(call, compute, weights, query)[0]


def _check(query: Tensor, key: Tensor, options: dict[str, Any]) -> Tensor:
    """Checks all arguments but the weights; returns scale and bias as a tensor [2]."""
    check_choice("reduction", options["reduction"], REDUCTIONS)
    check_rows("query", query, None)
    check_rows("key", key, query, "query")
    if key.shape[0] != query.shape[0]:
        raise ValueError(f"key must be [B, D] = {shape_of(query)}, got {shape_of(key)}")
    check_choice("similarity", options["similarity"], SIMILARITIES)
    names = ("logit_scale", "logit_bias")
    if not torch.compiler.is_compiling() and not any(isinstance(options[name], Tensor) for name in names):
        numbers = [check_finite(name, options[name], like=query) for name in names]
        return torch.tensor(numbers, dtype=torch.float64, device=query.device)
    logit = torch.stack([_number(name, options[name], query) for name in names])
    return logit if has_values(logit) else logit * torch.where(logit.isfinite().all(), 1.0, math.nan)


def _losses(
    query: Tensor, own: Tensor, key: Tensor, number: Tensor, logit: Tensor, similarity: Similarity
) -> AnchorLosses:
    """The losses of queries, whose own keys have their numbers."""
    value, _ = torch.ops.hardmine.sigmoid_loss(
        query, own, key, number, logit, SIMILARITIES.index(similarity), allow_tf32(query)
    )
    return AnchorLosses(value, torch.ones_like(value, dtype=torch.bool))


def _number(name: str, value: Any, query: Tensor) -> Tensor:
    return scalar_tensor(name, value, query, "query", lambda number: check_finite(name, number, like=query))


@torch.library.register_fake("hardmine::sigmoid_loss")
def _(query, labels, key, key_labels, logit, similarity, allow_tf32):
    dtype, count = accumulate_dtype(query.dtype), query.shape[0]
    return query.new_empty(count, dtype=dtype), query.new_empty(2, count, dtype=dtype)


@torch.library.register_fake("hardmine::sigmoid_loss_backward")
def _(grad_value, query, labels, key, *options):
    return fake_gradients(query, key, *options[-2:])


torch.library.define(
    "hardmine::sigmoid_loss_logit_backward", "(Tensor grad_value, Tensor slopes, Tensor logit) -> Tensor"
)
torch.library.impl(
    "hardmine::sigmoid_loss_logit_backward",
    ("cpu", "cuda"),
    lambda grad_value, slopes, logit: (grad_value * slopes).double().sum(1),
)
torch.library.register_fake(
    "hardmine::sigmoid_loss_logit_backward",
    lambda grad_value, slopes, logit: torch.empty_like(logit),
)


def _setup_context(ctx: Any, arguments: tuple[Any, ...], outputs: tuple[Tensor, Tensor]) -> None:
    tensors, ctx.options = arguments[:5], arguments[5:]
    ctx.mark_non_differentiable(outputs[1])
    ctx.save_for_backward(*tensors, outputs[1])


def _backward(
    ctx: Any, saved: tuple[Tensor, ...], grad: Tensor, *_: Any
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    need_query, need_key, need_logit, *_ = ctx.needs_input_grad
    *tensors, slopes = saved
    grad = grad.contiguous()
    of_query = of_key = of_logit = None
    if need_query or need_key:
        of_query, of_key = torch.ops.hardmine.sigmoid_loss_backward(grad, *tensors, *ctx.options, need_query, need_key)
    if need_logit:
        of_logit = torch.ops.hardmine.sigmoid_loss_logit_backward(grad, slopes, tensors[4])
    return of_query if need_query else None, of_key if need_key else None, of_logit


register_autograd("sigmoid_loss", (0, 2, 4), _setup_context, _backward)
forbid_double_backward("sigmoid_loss", (0, 1, 3, 5))
forbid_double_backward("sigmoid_loss_logit", (0, 2))
