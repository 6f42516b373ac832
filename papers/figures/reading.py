"""Read ``diagrams.csv``, ``epochs.csv`` and ``groups.csv`` into the inputs of the figures."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from papers.figures.formats import DIAGRAMS, EPOCHS, GROUPS, MOMENTS
from papers.figures.tables import Row, read_rows


class Triplets(NamedTuple):
    """Triplets at one moment: anchor int64 [B], ascending; s_ap and s_an float64 [B], NaN if missing."""

    anchor: Tensor
    s_ap: Tensor
    s_an: Tensor


class Step(NamedTuple):
    """The same triplets before and after one gradient step."""

    before: Triplets
    after: Triplets


@dataclass(frozen=True)
class Diagrams:
    """The triplet diagrams of one run.

    Attributes:
        moments: The triplets of each (iteration, split, moment), iterations ascending.
    """

    moments: Mapping[tuple[int, str, str], Triplets]

    def steps(self, split: str = "train") -> dict[int, Step]:
        """The gradient steps that have both moments, by iteration."""
        iterations = [iteration for iteration, name, moment in self.moments if (name, moment) == (split, "after")]
        return {
            iteration: Step(self.moments[iteration, split, "before"], self.moments[iteration, split, "after"])
            for iteration in iterations
            if (iteration, split, "before") in self.moments
        }

    def last(self, split: str) -> Triplets | None:
        """The latest triplets of a split: those of its last iteration, after the step if that moment exists."""
        found = [(iteration, moment) for iteration, name, moment in self.moments if name == split]
        if not found:
            return None
        iteration, moment = max(found, key=lambda at: (at[0], MOMENTS.index(at[1])))
        return self.moments[iteration, split, moment]


@dataclass(frozen=True)
class History:
    """The history of one training.

    Attributes:
        epoch: int64 [R].
        step: int64 [R], ascending.
        recall_at_1: float64 [R], NaN where not measured.
        hard_share: float64 [R], NaN where not measured.
        loss: float64 [R], NaN where not measured.
    """

    epoch: Tensor
    step: Tensor
    recall_at_1: Tensor
    hard_share: Tensor
    loss: Tensor


def read_diagrams(path: str | os.PathLike[str]) -> Diagrams:
    """Read ``diagrams.csv``.

    Args:
        path: Name of the file. :mod:`papers.figures.formats` describes it.

    Returns:
        The diagrams.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not such a table. The message names file, line and column.
    """
    blocks: dict[tuple[int, str, str], dict[int, Row]] = {}
    for row in read_rows(path, DIAGRAMS):
        cells = row.cells
        at = cells["iteration"], cells["split"], cells["moment"]
        earlier = blocks.setdefault(at, {}).setdefault(cells["anchor"], row)
        if earlier is not row:
            iteration, split, moment = at
            raise ValueError(
                f"{path}, line {row.line}, column anchor: {split} anchor {cells['anchor']} {moment} iteration "
                f"{iteration} is already in line {earlier.line}"
            )
    last = row.cells["iteration"], row.cells["split"]
    for iteration, split, moment in list(blocks):
        other = blocks.get((iteration, split, MOMENTS[1 - MOMENTS.index(moment)]))
        if other is None or (iteration, split, moment) not in blocks:
            continue
        unmatched = [row for anchor, row in blocks[iteration, split, moment].items() if anchor not in other]
        if not unmatched:
            continue
        problem = (
            f"{path}, line {unmatched[0].line}, column anchor: {split} anchor {unmatched[0].cells['anchor']} "
            f"exists only {moment} iteration {iteration}"
        )
        if (iteration, split) != last:
            raise ValueError(problem)
        warnings.warn(f"{problem}; the training ended while writing it: the step is ignored", stacklevel=2)
        for each in MOMENTS:
            del blocks[iteration, split, each]
    if not blocks:
        raise ValueError(f"{path} contains no complete step")
    return Diagrams({at: _triplets(blocks[at]) for at in sorted(blocks)})


def _triplets(rows: Mapping[int, Row]) -> Triplets:
    anchors = sorted(rows)
    s_ap, s_an = ([rows[anchor].cells[name] for anchor in anchors] for name in ("s_ap", "s_an"))
    return Triplets(torch.tensor(anchors), *(torch.tensor(column, dtype=torch.float64) for column in (s_ap, s_an)))


def read_histories(path: str | os.PathLike[str]) -> dict[str, History]:
    """Read ``epochs.csv``.

    Args:
        path: Name of the file. :mod:`papers.figures.formats` describes it.

    Returns:
        The history of each run in it, by name, in the file's order.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not such a table. The message names file, line and column.
    """
    runs: dict[str, list[Row]] = {}
    for row in read_rows(path, EPOCHS):
        name = row.cells["run"]
        earlier = runs.setdefault(name, [])
        for column, grows in {"step": True, "epoch": False}.items():
            value = row.cells[column]
            if earlier and (value < earlier[-1].cells[column] or (grows and value == earlier[-1].cells[column])):
                raise ValueError(
                    f"{path}, line {row.line}, column {column}: must be {'above' if grows else 'at least'} "
                    f"{earlier[-1].cells[column]}, that of run {name!r} in line {earlier[-1].line}, got {value}"
                )
        earlier.append(row)
    return {name: _history(rows) for name, rows in runs.items()}


def _history(rows: list[Row]) -> History:
    counts = {name: torch.tensor([row.cells[name] for row in rows]) for name in ("epoch", "step")}
    measured = {
        name: torch.tensor([row.cells[name] for row in rows], dtype=torch.float64)
        for name in ("recall_at_1", "hard_share", "loss")
    }
    return History(**counts, **measured)


def read_groups(path: str | os.PathLike[str]) -> dict[str, dict[int, dict[int, float]]]:
    """Read ``groups.csv``.

    Args:
        path: Name of the file. :mod:`papers.figures.formats` describes it.

    Returns:
        Recall@1 by method, in the file's order, then by images per class, ascending, then by seed.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not such a table. The message names file, line and column.
    """
    lines: dict[tuple[str, int, int], int] = {}
    groups: dict[str, dict[int, dict[int, float]]] = {}
    for line, cells in read_rows(path, GROUPS):
        at = method, images_per_class, seed = cells["method"], cells["images_per_class"], cells["seed"]
        if lines.setdefault(at, line) != line:
            raise ValueError(
                f"{path}, line {line}, column seed: seed {seed} of {method!r} with {images_per_class} images per class "
                f"is already in line {lines[at]}"
            )
        groups.setdefault(method, {}).setdefault(images_per_class, {})[seed] = cells["recall_at_1"]
    return {method: dict(sorted(sizes.items())) for method, sizes in groups.items()}
