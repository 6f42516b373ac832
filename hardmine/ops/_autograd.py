"""Derivatives of the compiled ops: torch.library.register_autograd with less overhead per call.

torch's function reads an op's schema twice per argument in every call (fill_defaults of torch/_library/utils.py). Each
reading takes time proportional to the number of arguments. This module gives only the differentiable arguments to
torch.autograd.Function, passes all arguments in one tuple, and never reads the schema.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad

from hardmine import _library


def has_tangent(tensor: Tensor | None) -> bool:
    """Whether a forward-mode derivative is taken at the current level, which would otherwise be a silent zero."""
    return tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None


_library.load()
_REGISTRATIONS = torch.library.Library("hardmine", "FRAGMENT")


def register_autograd(
    name: str,
    differentiable: Sequence[int],
    setup_context: Callable[[Any, tuple[Any, ...], Any], None] | None,
    backward: Callable[..., tuple[Tensor | None, ...]],
) -> None:
    """Registers the derivative of ``torch.ops.hardmine.<name>``.

    Args:
        name: The op, whose arguments have no defaults.
        differentiable: Positions of the arguments, tensors or None, that may require a gradient.
        setup_context: Called with ``(ctx, arguments, outputs)`` after a forward pass that needs a gradient.
        backward: Called with ``(ctx, saved tensors, *gradients of the outputs)``; returns the gradients of the
            ``differentiable`` arguments. ``ctx.needs_input_grad`` says which are needed.
    """
    op = getattr(torch.ops.hardmine, name).default

    def saveable(argument: Any) -> Any:
        """The argument; a clone if it is an inference tensor, which autograd cannot save."""
        made_in_inference = isinstance(argument, Tensor) and argument.is_inference()
        return argument.clone() if made_in_inference else argument

    def call(keyset: torch._C.DispatchKeySet, arguments: tuple[Any, ...]) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return op.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)

    def forward(ctx: Any, *inputs: Any) -> Any:
        keyset, arguments = inputs[-2:]
        outputs = call(keyset, arguments)
        if setup_context is not None:
            setup_context(ctx, tuple(map(saveable, arguments)), outputs)
        return outputs

    def function_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # torch.utils.checkpoint reruns the forward pass here, which needs autograd
        if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            # A second derivative may be requested, and transforms have their own dispatch.
            return (*backward(ctx, saved, *grads), None, None)
        with torch._C._AutoDispatchBelowAutograd():
            return (*backward(ctx, saved, *grads), None, None)

    def forward_in_transform(ctx: Any, *inputs: Any) -> Any:
        with torch.enable_grad():  # for the transforms further out
            return forward(ctx, *inputs)

    def named(base: Any, forward: Callable[..., Any]) -> Any:
        methods = {"forward": staticmethod(forward), "backward": staticmethod(function_backward)}
        return type("".join(map(str.capitalize, name.split("_"))), (base,), methods)

    function = named(torch.autograd.Function, forward)
    function_in_transform = named(torch.autograd.function._SingleLevelFunction, forward_in_transform)

    def kernel(keyset: torch._C.DispatchKeySet, *arguments: Any) -> Any:
        inputs = [arguments[position] for position in differentiable]
        if forward_ad._current_level >= 0 and any(map(has_tangent, inputs)):
            raise NotImplementedError(f"hardmine::{name} has no forward-mode derivative")
        if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in inputs):
            if not torch._C._are_functorch_transforms_active():
                return function.apply(*inputs, keyset, arguments)
            # The dispatcher has entered one level of torch.func, whose tensors these are.
            with enable_single_level_autograd_function():
                return function_in_transform.apply(*inputs, keyset, arguments)
        return call(keyset, arguments)

    def each_problem(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        """The op on each problem of ``torch.vmap``: of a backward pass, or in a compiled graph."""
        results = [
            op(*(value if dim is None else value.select(dim, i) for value, dim in zip(arguments, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])

    _REGISTRATIONS.impl(name, kernel, "Autograd", with_keyset=True)
    torch.library.register_vmap(f"hardmine::{name}", each_problem, lib=_REGISTRATIONS)


def forbid_double_backward(name: str, differentiable: Sequence[int]) -> None:
    """Makes a second derivative of ``name`` raise an error; it would otherwise be a silent zero."""

    def backward(ctx: Any, saved: tuple[Tensor, ...], *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        raise NotImplementedError(f"hardmine::{name} has no second derivative")

    register_autograd(f"{name}_backward", differentiable, None, backward)


def register_triplet_loss(name: str) -> None:
    """Registers fake backward and autograd of an op ``(embeddings, triplets, *options) -> (loss, [T], [T])``."""
    packet = getattr(torch.ops.hardmine, f"{name}_backward")

    @torch.library.register_fake(f"hardmine::{name}_backward")
    def _(grad_loss, grad_positive, grad_negative, embeddings, *rest):
        return embeddings.new_empty(embeddings.shape)

    def setup_context(ctx, arguments, outputs):
        embeddings, triplets, *ctx.options = arguments
        ctx.save_for_backward(embeddings, triplets, *outputs[1:])
        ctx.loss_shape = outputs[0].shape
        ctx.set_materialize_grads(False)

    def backward(ctx, saved, grad_loss, grad_positive, grad_negative):
        embeddings, triplets, positive, negative = saved
        if grad_loss is None:  # only the measures were used
            grad_loss = positive.new_zeros(ctx.loss_shape)
        return (
            packet(grad_loss, grad_positive, grad_negative, embeddings, triplets, positive, negative, *ctx.options),
        )

    register_autograd(name, (0,), setup_context, backward)
    forbid_double_backward(name, (0, 1, 2, 3, 5, 6))
