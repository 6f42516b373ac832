"""Hooks around the ops: observers see the calls, and the ops do not depend on observers."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

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
    """Show the calls of an op to the observer, except those that ``torch.compile`` captures."""

    def decorate(op: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(op)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            if not observers or torch.compiler.is_compiling():
                return op(*args, **kwargs)
            finish = observers[-1](name, op, args, kwargs)
            result = op(*args, **kwargs)  # before the check, so that bad arguments get the op's own error
            finish()
            return result

        return run

    return decorate
