"""InfoNCE of a batch as one compiled op on the CPU, whose forward pass also computes the gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hardmine.ops._arguments import SIMILARITIES
from hardmine.ops._autograd import forbid_double_backward, register_autograd
from hardmine.ops._fakes import accumulate_dtype, fake_gradients

# On an emulated GPU, the CPU ops are those of GPUs.
_HAS_CPU_OP = torch._C._dispatch_has_kernel_for_dispatch_key("hardmine::info_nce_loss", "CPU")
_NEEDED = ("need_query", "need_key", "need_temperature")


def has_info_nce_op(query: Tensor) -> bool:
    """Whether the device of ``query`` has the op."""
    return query.is_cpu and _HAS_CPU_OP


def info_nce_of_pairs(
    query: Tensor, key: Tensor, temperature: Tensor, similarity: str, symmetric: bool, reduction: str
) -> Tensor:
    """The mean or the sum over the queries, whose keys are the first of ``key``; the others are negatives of all."""
    has_grad = torch.is_grad_enabled()
    return torch.ops.hardmine.info_nce_loss(
        query,
        key,
        temperature,
        SIMILARITIES.index(similarity),
        bool(symmetric),
        reduction == "mean",
        *(has_grad and tensor.requires_grad for tensor in (query, key, temperature)),
    )[0]


@torch.library.register_fake("hardmine::info_nce_loss")
def _(query, key, temperature, similarity, symmetric, is_mean, need_query, need_key, need_temperature):
    computed = query.new_empty(query.shape, dtype=accumulate_dtype(query.dtype))
    gradients = fake_gradients(computed, key, need_query, need_key)
    return computed.new_empty(()), *gradients, temperature.new_empty(() if need_temperature else (0,))


@torch.library.register_fake("hardmine::info_nce_loss_backward")
def _(grad_loss, grad_query, grad_key, grad_temperature, query, key, temperature, *needed):
    need_query, need_key, need_temperature = needed
    gradients = fake_gradients(grad_query, grad_key, need_query, need_key)
    return *gradients, grad_temperature.new_empty(() if need_temperature else (0,))


def _setup_context(ctx: Any, arguments: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
    ctx.computed, ctx.dtype = arguments[-3:], arguments[0].dtype
    ctx.mark_non_differentiable(*outputs[1:])
    ctx.save_for_backward(*outputs[1:], *arguments[:3])
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, saved: tuple[Tensor, ...], grad_loss: Tensor | None, *_: Any
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    need = ctx.needs_input_grad[:3]
    if grad_loss is None:
        return None, None, None
    for name, needed, computed in zip(_NEEDED, need, ctx.computed, strict=True):
        if needed and not computed:
            raise RuntimeError(f"hardmine::info_nce_loss was called with {name}=False")
    of_query, of_key, of_temperature = torch.ops.hardmine.info_nce_loss_backward(grad_loss, *saved, *need)
    return (
        of_query.to(ctx.dtype) if need[0] else None,
        of_key.to(ctx.dtype) if need[1] else None,
        of_temperature if need[2] else None,
    )


register_autograd("info_nce_loss", (0, 1, 2), _setup_context, _backward)
forbid_double_backward("info_nce_loss", range(7))
