"""Counts the collectives of torch.distributed."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

FUNCTIONS = (
    "all_gather_single",
    "all_gather_into_tensor",
    "all_to_all_single",
    "broadcast",
    "all_reduce",
    "all_gather",
    "all_gather_object",
    "broadcast_object_list",
    "barrier",
    "reduce_scatter_tensor",
    "send",
    "recv",
)
_WITH_OUTPUT_FIRST = ("all_gather_single", "all_gather_into_tensor", "all_to_all_single")


class Collectives:
    """Counts the collectives of this process, and the bytes that this rank passes to each."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int | None]] = []
        for name in FUNCTIONS:
            if hasattr(dist, name):
                setattr(dist, name, self._counted(name, getattr(dist, name)))

    def _counted(self, name: str, function: Any) -> Any:
        def count(*arguments: Any, **options: Any) -> Any:
            local = arguments[1].nbytes if name in _WITH_OUTPUT_FIRST else None
            local = arguments[0].nbytes if name == "all_reduce" else local
            self.seen.append((name.replace("into_tensor", "single"), local))
            return function(*arguments, **options)

        return count
