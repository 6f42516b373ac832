"""The random numbers that selections are drawn with, and checks of their generator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hardmine._hooks import replaying
from hardmine._problems import drawn

if TYPE_CHECKING:
    from hardmine.ops._ranks import Anchors


def check_generator(generator: Any, embeddings: Tensor) -> None:
    """``generator`` is None, or a generator that can draw on the device of ``embeddings``."""
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")
    if generator.device != embeddings.device:
        raise ValueError(
            f"generator must be on the device of embeddings, {embeddings.device}, got one on {generator.device}"
        )


def forbid_recomputation() -> None:
    """Raises if an op would draw from the user's generator while ``torch.utils.checkpoint`` recomputes.

    Recomputation happens in a backward pass. The generator has advanced since the forward pass, so the gradient would
    belong to other triplets than the loss.
    """
    if torch._C._current_graph_task_id() != -1 and not replaying.get():
        raise RuntimeError(
            "generator must be None inside a backward pass, where torch.utils.checkpoint recomputes a forward pass: it "
            "restores the state of the default generator only, so that other samples would be drawn than for the loss, "
            "got a torch.Generator"
        )


def check_random(embeddings: Tensor, options: dict[str, Any]) -> int:
    """Checks the generator; returns the number of random selections."""
    generator = options["generator"]
    check_generator(generator, embeddings)
    rows = (options["positive"] == "random") + (options["negative"] == "random")
    if rows and generator is not None:
        forbid_recomputation()
    return rows


def draw_random(embeddings: Tensor, options: dict[str, Any], anchors: Anchors | None = None) -> Tensor | None:
    """Uniform numbers in [0, 1) for the random selections, one row per selection, [1 or 2, B]; None if none is random.

    The numbers are float64 for every dtype: with fewer bits, some of many candidates would be picked more often than
    others. With the anchors of all ranks, every rank draws the numbers of all, and uses those of its own anchors.
    """
    rows = check_random(embeddings, options)
    if not rows:
        return None
    generator = options["generator"]
    drawn_by = {} if generator is None else {"generator": generator}  # torch.compile takes no None at dynamic shapes
    count = (embeddings if anchors is None else anchors.number).shape[0]
    numbers = drawn(lambda: torch.rand(rows, count, dtype=torch.float64, device=embeddings.device, **drawn_by))
    return numbers if anchors is None else numbers[:, anchors.own]
