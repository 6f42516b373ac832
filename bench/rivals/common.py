"""What every rival is made of: its inputs, its callables, and how it says that it cannot run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch

GIB = 2**30


class SkippedRivalError(Exception):
    """This rival cannot run here; the message says why."""


class Inputs(NamedTuple):
    embeddings: torch.Tensor  # [N, D] float32; requires grad where the op is a loss
    labels: torch.Tensor  # [N] int64
    source: str = ""  # where real data comes from


@dataclass
class Rival:
    """One rival at one size: `forward()` gives what the op returns, `backward(loss)` the gradient."""

    name: str
    forward: Callable[[], Any]
    backward: Callable[[Any], Any] | None
    inputs: Inputs = field(repr=False)
    details: str = ""  # settings that were searched for and found, to be said beside its numbers


@cache
def _one(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.ones((), dtype=dtype, device=device)


def gradient_of(inputs: Inputs) -> Callable[[torch.Tensor], torch.Tensor]:
    # autograd.grad, not loss.backward(): no accumulation into .grad, which is nobody's work here. Nor is filling the
    # gradient of the loss, which a warm-up leaves ready.
    return lambda loss: torch.autograd.grad(loss, inputs.embeddings, _one(loss.dtype, loss.device))[0]


def available_memory() -> int:
    """Bytes that a process can still get without swapping."""
    try:
        with open("/proc/meminfo") as meminfo:
            fields = dict(line.split(":") for line in meminfo)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except OSError:  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def has_room(need: float) -> bool:
    """Whether `need` bytes can be had with some to spare: a process that takes all is killed, and others with it."""
    return need < 0.8 * available_memory()


def require_memory(need: float) -> None:
    if not has_room(need):
        raise SkippedRivalError(f"needs about {need / GIB:,.0f} GiB, {available_memory() / GIB:.1f} GiB are free")
