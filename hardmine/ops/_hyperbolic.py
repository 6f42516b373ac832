"""The hyperbolic similarity: what the compiled ops need of rows in the Poincare ball, and the rest of their gradient.

The ops take rows [x, 1 - |x|^2]; see csrc/core/hyperbolic.h. They treat the last column like the others, so that their
gradient in it is that of no coordinate, but what the gradient of x still needs.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from hardmine.ops._arguments import check_rows, has_values
from hardmine.ops._groups import agree_on_checks, check_group

P = ParamSpec("P")
R = TypeVar("R")

_ROWS = ("embeddings", "ref_embeddings", "queries", "refs", "query", "positive_key", "negative_keys")


class _LiftedRows(torch.autograd.Function):
    """[x, gap] with gap = 1 - |x|^2: NaN if a row is not inside of the ball.

    With g the sum over pairs of w (y - x), and e that of w (gap_y - gap_x), where w is a weight of the pair, the
    gradient of x is g - r x / gap with r the sum of w |y - x|^2 = -e - 2 x . g.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor) -> Tensor:
        rows = rows if rows.dtype == torch.float64 else rows.float()
        gap = (1 - rows.double().square().sum(-1, keepdim=True)).to(rows.dtype)
        return torch.cat([rows, torch.where(gap > 0, gap, math.nan)], -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.dtype = inputs[0].dtype
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (lifted,) = ctx.saved_tensors
        rows, gap = lifted[..., :-1], lifted[..., -1:]
        g, e = grad[..., :-1], grad[..., -1:]
        radial = e.double() + 2 * (rows.double() * g.double()).sum(-1, keepdim=True)  # divided by a small gap
        return (g + rows * (radial / gap)).to(ctx.dtype)


def takes_hyperbolic(op: Callable[P, R]) -> Callable[P, R]:
    """Gives an op ``similarity="hyperbolic"``: its rows reach it as the compiled op takes them."""
    parameters = list(inspect.signature(op).parameters)
    names = [name for name in parameters if name in _ROWS]

    @functools.wraps(op)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        similarity = kwargs.get("similarity")
        if not isinstance(similarity, str) or similarity != "hyperbolic":
            return op(*args, **kwargs)
        given: dict[str, Any] = dict(zip(parameters, args, strict=False)) | kwargs
        if len(args) > len(parameters) or names[0] not in given:
            return op(*args, **kwargs)  # raises
        rows = {name: given[name] for name in names if given.get(name) is not None}

        def check() -> None:
            first: Tensor | None = None
            for name, tensor in rows.items():
                matrix = tensor.flatten(0, 1) if isinstance(tensor, Tensor) and tensor.dim() == 3 else tensor
                check_rows(name, matrix, first, names[0])
                _check_ball(name, matrix)
                first = tensor if first is None else first

        if given.get("group") is not None:
            agree_on_checks(check_group(given["group"]), check)
        else:
            check()
        call: Any = op
        return call(**{**given, **{name: _LiftedRows.apply(tensor) for name, tensor in rows.items()}})

    return run


def _check_ball(name: str, rows: Tensor) -> None:
    """Rows are inside of the unit ball, where the host can read them. Others make results NaN."""
    if not has_values(rows):
        return
    norms = rows.double().square().sum(1)
    outside = (norms >= 1).nonzero()
    if len(outside):
        i = int(outside[0])
        norm = norms[i].sqrt().item()
        raise ValueError(f"{name} must have rows of norm below 1 with similarity='hyperbolic', got {norm:g} at [{i}]")
