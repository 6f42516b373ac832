"""What a training writes while it runs: the tables of :mod:`papers.figures.formats`, and TensorBoard's events."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from papers._extras import require
from papers.figures import DIAGRAMS, EPOCHS, Records


class Logs:
    """The files of a run's progress.

    Args:
        folder: Of the run.
        title: What legends call it.
        epochs: Number of epochs whose rows are kept, with that of before the training; -1: none.
        step: Number of gradient steps whose diagrams are kept.
        diagrams: Whether there are diagrams.
        tensorboard: Write events for TensorBoard, too, in the folder `tensorboard`.

    Raises:
        ModuleNotFoundError: TensorBoard is asked for and not installed.
    """

    def __init__(
        self, folder: Path, title: str, *, epochs: int, step: int, diagrams: bool, tensorboard: bool = False
    ) -> None:
        self._title = title
        self._events = None
        if tensorboard:
            require("tensorboard")
            writer = require("torch.utils.tensorboard").SummaryWriter
            # Events of epochs after the checkpoint will come again: those that are there are hidden.
            self._events = writer(folder / "tensorboard", purge_step=epochs + 1)
        self._epochs = Records(folder / EPOCHS.file, EPOCHS, keep=lambda row: int(row["epoch"]) <= epochs)
        self._diagrams = None
        if diagrams:
            self._diagrams = Records(folder / DIAGRAMS.file, DIAGRAMS, keep=lambda row: int(row["iteration"]) < step)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """The scores after an epoch, or before the first: `epoch`, `step`, and all else that was measured."""
        names = ("epoch", "step", "recall_at_1", "hard_share", "loss")
        self._epochs.write([{name: row.get(name) for name in names} | {"run": self._title}])
        if self._events is not None:
            for name, value in row.items():
                if name not in ("epoch", "step") and isinstance(value, float):
                    self._events.add_scalar(name, value, row["epoch"])
            self._events.flush()

    def diagram(self, rows: list[dict[str, Any]]) -> None:
        """The triplets of a step."""
        self._diagrams.write(rows)

    def close(self) -> None:
        """Close the files."""
        self._epochs.close()
        if self._diagrams is not None:
            self._diagrams.close()
        if self._events is not None:
            self._events.close()
