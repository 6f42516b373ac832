"""Batches of problems: inside ``torch.vmap`` an op runs on each problem, as in a Python loop.

Every problem is then a plain batch: its errors, its bits and its memory are those of a call outside of ``torch.vmap``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _functorch
from torch.utils import _pytree


def is_batched(tensor: Tensor) -> bool:
    """Whether ``tensor`` has a hidden dimension of ``torch.vmap``, whose values cannot be read."""
    return torch._C._are_functorch_transforms_active() and bool(_levels(tensor))


def _levels(tensor: Tensor) -> list[int]:
    """The levels of ``torch.vmap`` at which ``tensor`` is batched."""
    levels = []
    while _functorch.is_functorch_wrapped_tensor(tensor):
        if _functorch.is_batchedtensor(tensor):
            levels.append(_functorch.maybe_get_level(tensor))
        tensor = _functorch.get_unwrapped(tensor)
    return levels


def needs_gradient(tensor: Tensor | None) -> bool:
    """Whether a derivative by ``tensor`` may be taken: by torch.autograd, or at any level of torch.func."""
    if not torch._C._are_functorch_transforms_active():
        return tensor is not None and tensor.requires_grad and torch.is_grad_enabled()
    if torch.compiler.is_compiling():
        return tensor is not None  # a traced tensor does not show the levels below it
    while tensor is not None:
        if tensor.requires_grad:
            return True
        tensor = _functorch.get_unwrapped(tensor) if _functorch.is_functorch_wrapped_tensor(tensor) else None
    return False


def _is_at(level: int) -> bool:
    """Whether a rule of ``torch.vmap``, which torch calls one level lower, is that of ``level``."""
    return _functorch.get_dynamic_layer_stack_depth() + 1 == level


class _Split(torch.autograd.Function):
    """``(name, level, like, tensor)`` -> the problems of a tensor that is batched at ``level``.

    The problems are not batched at this level. ``like`` is batched there, so that torch calls the rule below.
    """

    @staticmethod
    def forward(name: str, level: int, like: Tensor, tensor: Tensor) -> tuple[Tensor, ...]:
        raise AssertionError("like is batched")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.name, ctx.level, like, _ = inputs
        ctx.save_for_backward(like)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None, Tensor]:
        return None, None, None, _Join.apply(ctx.name, ctx.level, *ctx.saved_tensors, *grads)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(f"{ctx.name} must have no tangent: hardmine's ops have no forward-mode derivative")

    @staticmethod
    def vmap(info: Any, in_dims: Any, name: str, level: int, like: Tensor, tensor: Tensor) -> tuple[Any, Any]:
        if not _is_at(level):
            return _at_other_level(_Split, info.batch_size, in_dims, name, level, like, tensor)
        problems = tensor.unbind(in_dims[3]) if in_dims[3] is not None else (tensor,) * info.batch_size
        return problems, (None,) * info.batch_size


class _Join(torch.autograd.Function):
    """``(name, level, like, *problems)`` -> one tensor, batched at ``level``: the reverse of :class:`_Split`."""

    @staticmethod
    def forward(name: str, level: int, like: Tensor, *problems: Tensor) -> Tensor:
        raise AssertionError("like is batched")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name, ctx.level, like, *_ = inputs
        ctx.save_for_backward(like)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *_Split.apply(ctx.name, ctx.level, *ctx.saved_tensors, grad)

    @staticmethod
    def vmap(info: Any, in_dims: Any, name: str, level: int, like: Tensor, *problems: Tensor) -> tuple[Any, Any]:
        if not _is_at(level):
            return _at_other_level(_Join, info.batch_size, in_dims, name, level, like, *problems)
        return torch.stack(problems), 0


def _at_other_level(function: Any, size: int, in_dims: Any, name: str, level: int, *tensors: Tensor) -> tuple[Any, Any]:
    """The rule of another level, such as that of ``torch.func.jacrev``, which maps a backward pass: a loop as well."""
    dims = in_dims[2:]
    results = [
        function.apply(name, level, *(t if dim is None else t.select(dim, i) for t, dim in zip(tensors, dims)))  # noqa: B905
        for i in range(size)
    ]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])


class _Draws:
    """The random numbers of a loop over problems: drawn by the first problem, for all of them."""

    def __init__(self) -> None:
        self.numbers: list[Tensor] = []
        self.position = 0


class _Problem(NamedTuple):
    """The problem that a loop has reached, and the numbers that it and the loops around it draw."""

    level: int
    number: int
    draws: _Draws


class _Loops(threading.local):  # torch.compile traces it; it does not trace a contextvars.ContextVar
    """The loops over problems that this thread is in: the problem that each has reached, the outermost loop first."""

    problems: tuple[_Problem, ...] = ()


_loops = _Loops()


def has_problems(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a tensor among the arguments is batched by ``torch.vmap``."""
    return any(isinstance(value, Tensor) and is_batched(value) for value in (*args, *kwargs.values()))


def run_on_problems(names: Sequence[str], op: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``op(*args, **kwargs)`` on each problem of the last ``torch.vmap`` that batches one of the tensors.

    ``names`` are those of the op's parameters.
    """
    arguments: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
    levels = {key: _levels(value) for key, value in arguments.items() if isinstance(value, Tensor)}
    level = max(max(found, default=0) for found in levels.values())
    like = next(arguments[key] for key, found in levels.items() if level in found).detach()
    split = {}
    for key, found in levels.items():
        # A shared tensor is split as well: inside of the vmap, each problem has a gradient of its own.
        if level in found or arguments[key].is_floating_point():
            name = key if isinstance(key, str) else names[min(key, len(names) - 1)]
            split[key] = _Split.apply(name, level, like, arguments[key])
    num_problems = len(next(iter(split.values())))
    if num_problems == 0:
        raise ValueError("torch.vmap must run over at least one problem, got 0")
    outer = _loops.problems
    draws = outer[0].draws if outer else _Draws()
    results = []
    try:
        for i in range(num_problems):
            given = {**arguments, **{key: problems[i] for key, problems in split.items()}}
            positional = [given.pop(position) for position in range(len(args))]
            draws.position = 0
            _loops.problems = (*outer, _Problem(level, i, draws))
            results.append(op(*positional, **given))
    finally:
        _loops.problems = outer
    return _joined(level, like, results)


def _joined(level: int, like: Tensor, results: list[Any]) -> Any:
    """The results of all problems as the result of ``torch.vmap``."""
    leaves, specs = zip(*map(_pytree.tree_flatten, results), strict=True)
    joined = []
    for values in zip(*leaves, strict=True):
        if isinstance(values[0], Tensor):
            sizes = sorted({tuple(value.shape) for value in values})
            if len(sizes) > 1:
                raise ValueError(
                    f"torch.vmap must get results of equal sizes, got {list(sizes[0])} and {list(sizes[-1])}, "
                    "because the problems have different numbers of pairs: call the op on each problem"
                )
            joined.append(_Join.apply("results", level, like, *values))
        else:
            joined.append(values[0])
    return _pytree.tree_unflatten(joined, specs[0])


def drawn(draw: Callable[[], Tensor]) -> Tensor:
    """``draw()``; inside a loop over problems, the numbers of this problem, as torch.vmap's ``randomness`` has it."""
    problems = _loops.problems
    if not problems:
        return draw()
    draws = problems[0].draws
    if draws.position == len(draws.numbers):
        draws.numbers.append(draw())  # "different" hides a dimension of problems, "error" raises
    numbers = draws.numbers[draws.position]
    draws.position += 1
    for problem in problems:
        if problem.level in _levels(numbers):
            numbers = _Split.apply("random", problem.level, numbers, numbers)[problem.number]
    return numbers
