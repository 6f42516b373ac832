"""Hooks around the ops: observers see the calls, on which the ops do not depend, and autocast mixes dtypes."""

from __future__ import annotations

import contextvars
import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from hardmine._problems import has_problems, run_on_problems

P = ParamSpec("P")
R = TypeVar("R")

# Called before an op with the op's name, the op and its arguments. Returns a function to call after the op.
Observer = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Callable[[], None]]

# Whether an op repeats an earlier call with the same random numbers, as under hardmine.verify.
replaying: contextvars.ContextVar[bool] = contextvars.ContextVar("replaying", default=False)

# Whether this call of an op is checked, on which ranks of a group must agree: they all take part in the check.
checked: contextvars.ContextVar[bool] = contextvars.ContextVar("checked", default=False)

# A stack: only the last observer sees calls. `hardmine.verify` pushes itself.
observers: list[Observer] = []


def observed(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Show the calls of an op to the observer, except those that ``torch.compile`` captures.

    Inside ``torch.vmap`` the op runs on each problem. Under ``torch.autocast``, rows and refs of different dtypes reach
    the op in the dtype that holds both.
    """

    def decorate(op: Callable[P, R]) -> Callable[P, R]:
        rows_and_refs = _rows_and_refs(op)
        parameters = list(inspect.signature(op).parameters)

        @functools.wraps(op)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            if rows_and_refs is not None:
                args, kwargs = _promoted(rows_and_refs, args, kwargs)  # type: ignore[assignment]
            if torch.compiler.is_compiling():
                return op(*args, **kwargs)
            if torch._C._are_functorch_transforms_active() and has_problems(args, kwargs):
                return run_on_problems(parameters, run, args, kwargs)
            if not observers:
                return op(*args, **kwargs)
            finish = observers[-1](name, op, args, kwargs)
            result = op(*args, **kwargs)  # before the check, so that bad arguments get the op's own error
            finish()
            return result

        return run

    return decorate


def mixes_dtypes(function: Callable[P, R]) -> Callable[P, R]:
    """Under ``torch.autocast``, rows and refs of different dtypes reach ``function`` in the dtype that holds both."""
    rows_and_refs = _rows_and_refs(function)
    assert rows_and_refs is not None

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        args, kwargs = _promoted(rows_and_refs, args, kwargs)  # type: ignore[assignment]
        return function(*args, **kwargs)

    return run


def _rows_and_refs(function: Callable[..., Any]) -> tuple[tuple[int, str], tuple[int, str]] | None:
    """Positions and names of the rows, which are the first argument, and of the refs; None without refs."""
    names = list(inspect.signature(function).parameters)
    refs = next((name for name in ("ref_embeddings", "refs", "train_embeddings") if name in names), None)
    return None if refs is None else ((0, names[0]), (names.index(refs), refs))


def _promoted(
    rows_and_refs: tuple[tuple[int, str], tuple[int, str]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with rows and refs in one dtype, if autocast is enabled on their device."""
    rows, refs = (args[where] if len(args) > where else kwargs.get(name) for where, name in rows_and_refs)
    if not (isinstance(rows, Tensor) and isinstance(refs, Tensor)) or rows.dtype == refs.dtype:
        return args, kwargs
    if not (rows.is_floating_point() and refs.is_floating_point() and torch.is_autocast_enabled(rows.device.type)):
        return args, kwargs
    dtype = torch.promote_types(rows.dtype, refs.dtype)
    changed = list(args)
    kwargs = dict(kwargs)
    for (where, name), tensor in zip(rows_and_refs, (rows, refs), strict=True):
        if len(args) > where:
            changed[where] = tensor.to(dtype)
        else:
            kwargs[name] = tensor.to(dtype)
    return tuple(changed), kwargs
