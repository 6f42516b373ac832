"""The logs of a running training: the tables of :mod:`papers.figures.formats`, and TensorBoard's events."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from papers._extras import require
from papers.figures import DIAGRAMS, EPOCHS, Records


class Logs:
    """The log files of a run.

    Args:
        folder: Folder of the run.
        title: Name of the run in legends.
        epochs: Number of epochs whose rows are kept, along with the row from before the training; -1 keeps no rows.
        step: Number of gradient steps whose diagrams are kept.
        diagrams: Whether there are diagrams.
        tensorboard: Also write TensorBoard's events, to the folder `tensorboard`.

    Raises:
        ModuleNotFoundError: `tensorboard` is True and TensorBoard is not installed.
    """

    def __init__(
        self, folder: Path, title: str, *, epochs: int, step: int, diagrams: bool, tensorboard: bool = False
    ) -> None:
        self._title = title
        self._events = None
        if tensorboard:
            require("tensorboard")
            writer = require("torch.utils.tensorboard").SummaryWriter
            # Events of epochs after the checkpoint are written again, so the existing ones are hidden.
            self._events = writer(folder / "tensorboard", purge_step=epochs + 1)
        self._epochs = Records(folder / EPOCHS.file, EPOCHS, keep=lambda row: int(row["epoch"]) <= epochs)
        self._diagrams = None
        if diagrams:
            self._diagrams = Records(folder / DIAGRAMS.file, DIAGRAMS, keep=lambda row: int(row["iteration"]) < step)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Log the scores after an epoch, or before the first: `epoch`, `step`, and all other measured values."""
        names = ("epoch", "step", "recall_at_1", "hard_share", "loss")
        self._epochs.write([{name: row.get(name) for name in names} | {"run": self._title}])
        if self._events is not None:
            for name, value in row.items():
                if name not in ("epoch", "step") and isinstance(value, float):
                    self._events.add_scalar(name, value, row["epoch"])
            self._events.flush()

    def diagram(self, rows: list[dict[str, Any]]) -> None:
        """Log the triplets of a step."""
        self._diagrams.write(rows)

    def close(self) -> None:
        """Close the files."""
        self._epochs.close()
        if self._diagrams is not None:
            self._diagrams.close()
        if self._events is not None:
            self._events.close()
