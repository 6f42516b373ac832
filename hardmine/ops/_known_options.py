"""Checked options of earlier calls: their checks take a tenth of the step of a small batch."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from hardmine._hooks import observers
from hardmine.ops._arguments import are_plain_pairs, check_labeled_rows

P = ParamSpec("P")
R = TypeVar("R")

_PLAIN = {str, int, float, bool, type(None)}
_MAX_KNOWN = 1000  # an option may change in every call

# The options of a compiled op, by what their checks depend on.
KNOWN_OPTIONS: dict[tuple[Any, ...], Sequence[Any]] = {}
_remembered: contextvars.ContextVar[Sequence[Any] | None] = contextvars.ContextVar("remembered", default=None)


def remember(compiled: Sequence[Any]) -> None:
    """Tells ``remembers_options`` that tensors and these options are all that the result of this call needs."""
    if not torch.compiler.is_compiling():
        _remembered.set(compiled)


def remembers_options(
    compute: Callable[..., Any], tensors_of: Callable[[tuple[Any, ...]], tuple[Any, ...] | None]
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Lets an op skip the checks of options that passed them in an earlier call, and all other decorators.

    Such a call is ``compute`` of a tuple: ``tensors_of`` the positional arguments, and what the op gave to ``remember``
    in that call. If ``tensors_of`` returns None, the op runs.
    """

    def decorate(op: Callable[P, R]) -> Callable[P, R]:
        name = op.__name__

        @functools.wraps(op)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            if torch.compiler.is_compiling() or observers or torch._C._are_functorch_transforms_active():
                return op(*args, **kwargs)
            key = _key_of(name, args, kwargs)
            if key is None:
                return op(*args, **kwargs)
            known = KNOWN_OPTIONS.get(key)
            if known is not None and (tensors := tensors_of(args)) is not None:
                loss: R = compute((*tensors, *known))
                return loss
            _remembered.set(None)
            result = op(*args, **kwargs)
            if (found := _remembered.get()) is not None:
                if len(KNOWN_OPTIONS) >= _MAX_KNOWN:
                    KNOWN_OPTIONS.clear()
                KNOWN_OPTIONS[key] = found
                _remembered.set(None)
            return result

        return run

    return decorate


def _key_of(op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    """What the checks of options depend on; None if the call needs them, or other decorators of the op."""
    types = tuple(map(type, kwargs.values()))  # because 1, 1.0 and True are equal
    if not 2 <= len(args) <= 4 or not _PLAIN.issuperset(types):
        return None
    if type(args[0]) not in (Tensor, torch.nn.Parameter) or not args[0].is_cpu:
        return None
    if kwargs.get("ignore_index") is not None or kwargs.get("similarity") == "hyperbolic":
        return None
    return op, len(args), args[0].dtype, types, *kwargs.items()


def labeled_tensors(args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Embeddings, labels, refs, their labels and no ids, as an op on labeled rows takes them."""
    embeddings, labels, ref_embeddings, ref_labels = args + (None,) * (4 - len(args))
    if isinstance(ref_embeddings, Tensor) and ref_embeddings.dtype != embeddings.dtype:
        return None  # autocast may allow it
    labels, ref_labels = check_labeled_rows(embeddings, labels, ref_embeddings, ref_labels)
    return embeddings, labels, ref_embeddings, ref_labels, None, None


def paired_tensors(args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Queries and their keys."""
    return args if len(args) == 2 and are_plain_pairs(*args) else None
