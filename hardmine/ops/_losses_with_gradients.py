"""Compiled ops whose forward pass also computes the gradients of a loss: one op per step of a small batch.

Such an op takes a flag per gradient after its other arguments, and returns ``(loss, *gradients, *others)``; the
compiled op ``<name>_backward`` takes ``(grad_loss, *gradients, *differentiable arguments, *flags)``. Most exist on the
CPU only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hardmine._problems import needs_gradient
from hardmine.ops._autograd import forbid_double_backward, register_autograd
from hardmine.ops._fakes import accumulate_dtype, fake_gradients


def has_cpu_op(name: str) -> bool:
    """Whether the CPU has the op. On an emulated GPU, the CPU ops are those of GPUs."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"hardmine::{name}", "CPU")


# The compiled op itself, without its registered derivative.
_BelowAutograd = torch._C._AutoDispatchBelowAutograd

# Whether the backward pass that runs keeps the graph: only then may it be run again.
_keeps_graph: Callable[[], bool] = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)


def _scaled(
    backward: Any,
    grad_loss: Tensor | None,
    gradients: Sequence[Tensor],
    inputs: Sequence[Tensor | None],
    need: Sequence[bool],
) -> Sequence[Tensor | None]:
    """The gradients of the inputs."""
    if grad_loss is None:
        return (None,) * len(need)
    if torch.is_grad_enabled():  # a second derivative may be requested, which the op refuses
        scaled = backward(grad_loss, *gradients, *inputs, *need)
    else:
        scaled = [grad * grad_loss if needed else None for grad, needed in zip(gradients, need, strict=True)]
    return _as_inputs(scaled, inputs, need)


def _as_inputs(
    gradients: Sequence[Tensor | None], inputs: Sequence[Tensor | None], need: Sequence[bool]
) -> Sequence[Tensor | None]:
    """The needed gradients in the dtypes of their inputs, None for the others."""
    found: list[Tensor | None] = []
    for grad, given, needed in zip(gradients, inputs, need, strict=True):
        if not needed or grad is None or given is None:
            found.append(None)
        else:
            found.append(grad if grad.dtype == given.dtype else grad.to(given.dtype))
    return found


def _may_overwrite(grad_loss: Tensor) -> bool:
    """Whether nobody needs the gradients of the forward pass again, and ``grad_loss`` is a number in memory."""
    if torch.is_grad_enabled() or _keeps_graph():
        return False
    return (
        type(grad_loss) is Tensor
        and not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()  # as when make_fx records the backward pass
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._functorch.is_legacy_batchedtensor(grad_loss)  # torch.autograd.grad(is_grads_batched=True)
    )


def register_loss_with_gradients(
    name: str, differentiable: Sequence[int], node: str
) -> Callable[[tuple[Any, ...]], Tensor]:
    """Registers the derivative of ``torch.ops.hardmine.<name>``; returns a function that computes its loss.

    The function takes the arguments without the flags. In eager mode it calls the compiled op once: the detour through
    the dispatcher and a registered derivative takes longer than a small batch. ``differentiable`` are the positions of
    the arguments that may require a gradient, and ``node`` names the node of the graph.
    """
    compiled, backward_name = torch.ops.hardmine, f"{name}_backward"
    count = len(differentiable)

    def setup_context(ctx: Any, arguments: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
        ctx.computed = arguments[-count:]
        ctx.mark_non_differentiable(*outputs[1:])
        ctx.save_for_backward(*outputs[1 : count + 1], *(arguments[position] for position in differentiable))
        ctx.set_materialize_grads(False)

    def backward(ctx: Any, saved: tuple[Any, ...], grad_loss: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        need = ctx.needs_input_grad[:count]
        if any(needed and not computed for needed, computed in zip(need, ctx.computed, strict=True)):
            raise RuntimeError(f"hardmine::{name} was called without a flag for a gradient that is needed")
        return (*_scaled(getattr(compiled, backward_name), grad_loss, saved[:count], saved[count:], need),)

    register_autograd(name, differentiable, setup_context, backward)
    forbid_double_backward(name, range(1 + 2 * count))

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, arguments: tuple[Any, ...], *inputs: Tensor | None) -> Tensor:
            with _BelowAutograd():
                loss, *found = getattr(compiled, name)(*arguments)
            ctx.gradients = found[:count]
            ctx.save_for_backward(*inputs)
            ctx.set_materialize_grads(False)
            return loss

        @staticmethod
        def backward(ctx: Any, grad_loss: Tensor | None) -> tuple[Tensor | None, ...]:
            inputs, (_, *need) = ctx.saved_tensors, ctx.needs_input_grad
            if grad_loss is None or not _may_overwrite(grad_loss):
                return None, *_scaled(getattr(compiled, backward_name), grad_loss, ctx.gradients, inputs, need)
            gradients, ctx.gradients = ctx.gradients, None
            if grad_loss.item() != 1:
                for grad in gradients:
                    grad.mul_(grad_loss)
            return None, *_as_inputs(gradients, inputs, need)

    function: Any = type(node, (Function,), {})
    # Without the method of torch.autograd.Function, whose work for transforms takes time: there are none here.
    apply = super(torch.autograd.Function, function).apply

    def loss_of(arguments: tuple[Any, ...]) -> Tensor:
        inputs = [arguments[position] for position in differentiable]
        if torch._C._are_functorch_transforms_active():
            return getattr(compiled, name)(*arguments, *map(needs_gradient, inputs))[0]
        has_grad = torch.is_grad_enabled()
        need = [has_grad and tensor is not None and tensor.requires_grad for tensor in inputs]
        if torch.compiler.is_compiling():
            return getattr(compiled, name)(*arguments, *need)[0]
        if True in need:
            saved = [tensor.clone() if tensor is not None and tensor.is_inference() else tensor for tensor in inputs]
            return apply((*arguments, *need), *saved)
        with _BelowAutograd():
            return getattr(compiled, name)(*arguments, *need)[0]

    return loss_of


def register_labeled_loss(name: str, node: str) -> Callable[[tuple[Any, ...]], Tensor]:
    """The same, and the fakes, for a loss of embeddings, labels and refs with the gradients of embeddings and refs."""

    @torch.library.register_fake(f"hardmine::{name}")
    def _(embeddings, labels, ref_embeddings, *options):
        computed = embeddings.new_empty(embeddings.shape, dtype=accumulate_dtype(embeddings.dtype))
        return computed.new_empty(()), *fake_gradients(computed, ref_embeddings, *options[-2:])

    @torch.library.register_fake(f"hardmine::{name}_backward")
    def _(grad_loss, grad_embeddings, grad_ref_embeddings, *options):
        return fake_gradients(grad_embeddings, grad_ref_embeddings, *options[-2:])

    return register_loss_with_gradients(name, (0, 2), node)
