"""The verdict on a performance target, which the reports of the graph index and of the GPU print."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """Whether a target is met; `met` is None if the run did not measure it."""

    target: str
    met: bool | None
    found: str = "not measured"

    def line(self) -> str:
        word = {True: "**met**", False: "**missed**", None: "open"}[self.met]
        return f"- {word}: {self.target}: {self.found}"
