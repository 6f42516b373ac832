"""The parts of every rival: its inputs, its callables, and the error of a rival that cannot run."""

from __future__ import annotations

import os
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
    labels: torch.Tensor  # [N] int64
    source: str = ""  # the origin of real data


@dataclass
class Rival:
    """One rival at one size: `forward()` returns the op's result, `backward(loss)` returns the gradient."""

    name: str
    forward: Callable[[], Any]
    backward: Callable[[Any], Any] | None
    inputs: Inputs = field(repr=False)
    details: str = ""  # settings that a search found, to report beside the numbers


@cache
def _one(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.ones((), dtype=dtype, device=device)


def gradient_of(inputs: Inputs) -> Callable[[torch.Tensor], torch.Tensor]:
    # autograd.grad, not loss.backward(): accumulating into .grad is not part of the step. Filling the loss's gradient
    # with 1 is no part of it either, so _one() is cached.
    return lambda loss: torch.autograd.grad(loss, inputs.embeddings, _one(loss.dtype, loss.device))[0]


def available_memory() -> int:
    """The bytes that a process can still allocate without swapping."""
    try:
        with open("/proc/meminfo") as meminfo:
            fields = dict(line.split(":") for line in meminfo)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except OSError:  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def fits_memory(need: float) -> bool:
    """Whether `need` bytes are available with a reserve: a process that takes all memory is killed, and others too."""
    return need < 0.8 * available_memory()


def require_memory(need: float) -> None:
    if not fits_memory(need):
        raise SkippedRivalError(f"needs about {need / GIB:,.0f} GiB, {available_memory() / GIB:.1f} GiB are free")
