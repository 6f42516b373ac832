"""The parts of every rival: its inputs, its callables, and the error of a rival that cannot run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch

GIB = 2**30


class SkippedRivalError(Exception):
    """The rival cannot run here; the message says why."""


class Inputs(NamedTuple):
    embeddings: torch.Tensor  # [N, D] float32; requires grad if the op is a loss
    labels: torch.Tensor  # [N] int64; or the keys of the queries, [N, D] float32 with grad
    source: str = ""  # the origin of real data


@dataclass
class Rival:
    """One rival at one size: `forward()` returns the op's result, `backward(loss)` returns the gradient."""

    name: str
    forward: Callable[[], Any]
    backward: Callable[[Any], Any] | None
    inputs: Inputs = field(repr=False)


@cache
def _one(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.ones((), dtype=dtype, device=device)


def gradient_of(inputs: Inputs) -> Callable[[torch.Tensor], Any]:
    """The gradient of the embeddings, or the gradients of queries and keys."""
    # autograd.grad, not loss.backward(): accumulating into .grad is not part of the step. Filling the loss's gradient
    # with 1 is no part of it either, so _one() is cached.
    if inputs.labels.requires_grad:
        return lambda loss: torch.autograd.grad(loss, inputs[:2], _one(loss.dtype, loss.device))
    return lambda loss: torch.autograd.grad(loss, inputs.embeddings, _one(loss.dtype, loss.device))[0]
