"""What the losses on log-sum-exps share: the temperature as a tensor, and the compiled op with its derivative."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar, get_args

import torch
from torch import Tensor

from hardmine.ops._arguments import (
    ALL_SIMILARITIES,
    allow_tf32,
    check_choice,
    check_ids,
    check_labeled_rows,
    temperature_tensor,
)
from hardmine.ops._autograd import forbid_double_backward, register_autograd
from hardmine.ops._fakes import accumulate_dtype, fake_gradients
from hardmine.ops._sums import ordered_sum
from hardmine.types import LogSumExpPairs

PAIRS = get_args(LogSumExpPairs)
LOGITS = ("similarity", "dissimilarity", "circle")  # csrc/core/losses/pair_logit.h
_ROWS = ("query", "positive_key", "key", "negative_keys")
P = ParamSpec("P")
R = TypeVar("R")


def promotes_rows(op: Callable[P, R]) -> Callable[P, R]:
    """Under ``torch.autocast``, rows of different dtypes reach an op on pairs in the dtype that holds them all."""
    names = [name for name in inspect.signature(op).parameters if name in _ROWS]

    @functools.wraps(op)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        given: dict[str, Any] = dict(zip(names, args, strict=False)) | kwargs
        rows = {name: given[name] for name in names if isinstance(given.get(name), Tensor)}
        dtypes = {tensor.dtype for tensor in rows.values()}
        if len(args) > len(names) or len(dtypes) < 2 or not all(dtype.is_floating_point for dtype in dtypes):
            return op(*args, **kwargs)
        if not torch.is_autocast_enabled(next(iter(rows.values())).device.type):
            return op(*args, **kwargs)
        dtype = functools.reduce(torch.promote_types, dtypes)
        call: Any = op
        return call(**given | {name: tensor.to(dtype) for name, tensor in rows.items()})

    return run


class SoftSums(NamedTuple):
    """Log-sum-exps, and what losses need beside them.

    Attributes:
        shift: The largest logit of each anchor, [B]; 0 without a pair. Not differentiable. The logit of a pair is its
            similarity, unless the call names another.
        log_sum: The log-sum-exp of logits minus ``shift``, divided by the temperature: [B], -infinity without a pair.
            Its derivatives hold ``shift`` constant.
        temperature: float64 [].
        positive_similarity: The mean similarity of each anchor's positives, [B]; 0 if there is none.
        positive_count: Their number, int64 [B].
    """

    shift: Tensor
    log_sum: Tensor
    temperature: Tensor
    positive_similarity: Tensor
    positive_count: Tensor

    def logsumexp(self) -> Tensor:
        """The log-sum-exps, [B]."""
        return self.logsumexp_minus(torch.zeros_like(self.shift))

    def logsumexp_minus(self, similarity: Tensor) -> Tensor:
        """The log-sum-exps minus ``similarity / temperature``, without cancellation of large numbers."""
        # In float64, because the gradient of the temperature is a sum of large numbers over the anchors.
        value = (self.shift - similarity).double() / self.temperature + self.log_sum.double()
        return value.to(self.log_sum.dtype)


def check_soft_options(embeddings: Tensor, similarity: Any, pairs: Any = "all") -> tuple[int, int]:
    """The codes of the options."""
    return check_choice("similarity", similarity, ALL_SIMILARITIES), check_choice("pairs", pairs, PAIRS)


def soft_sums(
    inputs: tuple[Any, ...],
    temperature: Any,
    similarity: Any,
    pairs: Any,
    *,
    of_columns: bool = False,
    positives: bool = False,
    logit: str = "similarity",
    margin: float = 0.0,
    bound: Tensor | None = None,
) -> tuple[SoftSums, SoftSums]:
    """The sums of the anchors, and with ``of_columns`` those of the refs, which are else empty.

    ``logit`` and ``margin``: what is in the exponent (csrc/core/losses/pair_logit.h). ``bound`` [B], with refs: only
    pairs whose similarity, or dissimilarity, is above the bound of their anchor.
    """
    embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids = inputs
    labels, ref_labels = check_labeled_rows(embeddings, labels, ref_embeddings, ref_labels)
    ids, ref_ids = check_ids(ids, embeddings, ref_ids, ref_embeddings)
    codes = check_soft_options(embeddings, similarity, pairs)
    t = temperature_tensor(temperature, embeddings)
    log_sum, column_log_sum, positive_similarity, state, column_state, count = torch.ops.hardmine.logsumexp(
        embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids, t, bound, *codes, of_columns, positives,
        LOGITS.index(logit), margin, allow_tf32(embeddings),
    )  # fmt: skip
    nothing = count.new_empty(0)
    return (
        SoftSums(state[0], log_sum, t, positive_similarity, count),
        SoftSums(column_state[0], column_log_sum, t, nothing, nothing),
    )


@torch.library.register_fake("hardmine::logsumexp")
def _(
    embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids, temperature, bound, similarity, pairs, of_columns,
    positives, logit, margin, allow_tf32,
):  # fmt: skip
    dtype = accumulate_dtype(embeddings.dtype)
    rows, columns = embeddings.shape[0], ref_embeddings.shape[0] if of_columns else 0
    counted = rows if positives else 0
    sizes = ((rows,), (columns,), (counted,), (3, rows), (3, columns))
    return *(embeddings.new_empty(size, dtype=dtype) for size in sizes), labels.new_empty(counted)


@torch.library.register_fake("hardmine::logsumexp_backward")
def _(grad_log_sum, grad_column, grad_positive, embeddings, labels, ref_embeddings, *options):
    return fake_gradients(embeddings, ref_embeddings, *options[-2:])


def _temperature_backward(
    grad_log_sum: Tensor, grad_column: Tensor | None, state: Tensor, column_state: Tensor, temperature: Tensor
) -> Tensor:
    """The gradient of the temperature: d log_sum / d t = -mean_offset / t^2."""
    total = temperature.new_zeros(())
    for grad, (_, sums, mean_offset) in ((grad_log_sum, state), (grad_column, column_state)):
        if grad is not None:
            total = total + ordered_sum(torch.where(sums == 0, 0.0, grad * mean_offset).double())
    return -total / temperature.square()


torch.library.define(
    "hardmine::logsumexp_temperature_backward",
    "(Tensor grad_log_sum, Tensor? grad_column, Tensor state, Tensor column_state, Tensor temperature) -> Tensor",
)
torch.library.impl("hardmine::logsumexp_temperature_backward", ("cpu", "cuda"), _temperature_backward)
torch.library.register_fake(
    "hardmine::logsumexp_temperature_backward",
    lambda grad_log_sum, grad_column, state, column_state, temperature: torch.empty_like(temperature),
)


def _setup_context(ctx: Any, arguments: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
    tensors, ctx.codes, ctx.logit, ctx.allow_tf32 = arguments[:8], arguments[8:10], arguments[12:14], arguments[14]
    ctx.of_columns, ctx.positives = arguments[10:12]
    ctx.mark_non_differentiable(*outputs[3:])
    ctx.save_for_backward(*tensors, *outputs[3:])
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any,
    saved: tuple[Any, ...],
    grad: Tensor | None,
    grad_column: Tensor | None,
    grad_positive: Tensor | None,
    *_: Any,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    need, need_ref, need_temperature, *_ = ctx.needs_input_grad
    *inputs, temperature, bound, state, column_state, count = saved
    if grad is None and grad_column is None and grad_positive is None:
        return None, None, None
    grad = torch.zeros_like(state[0]) if grad is None else grad.contiguous()
    if ctx.of_columns:
        grad_column = torch.zeros_like(column_state[0]) if grad_column is None else grad_column.contiguous()
    else:
        grad_column = None
    grad_positive = grad_positive if ctx.positives else None
    of_rows = of_refs = of_temperature = None
    if need or need_ref:
        of_rows, of_refs = torch.ops.hardmine.logsumexp_backward(
            grad, grad_column, grad_positive, *inputs, temperature, bound, state, column_state, count, *ctx.codes,
            ctx.of_columns, *ctx.logit, ctx.allow_tf32, need, need_ref,
        )  # fmt: skip
    if need_temperature:
        of_temperature = torch.ops.hardmine.logsumexp_temperature_backward(
            grad, grad_column, state, column_state, temperature
        )
    return of_rows if need else None, of_refs if need_ref else None, of_temperature


register_autograd("logsumexp", (0, 2, 6), _setup_context, _backward)
forbid_double_backward("logsumexp", (0, 1, 2, 3, 5, 9))
forbid_double_backward("logsumexp_temperature", (0, 1, 4))
