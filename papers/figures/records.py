"""Writing the tables of :mod:`papers.figures.formats` while a training runs."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardmine.ops import Selection
from hardmine.ops._arguments import shape_of
from papers._files import save_atomically
from papers.figures.formats import Table
from papers.figures.tables import read_rows


class Records:
    """An append-only table that stays readable whenever the process ends.

    Rows that are passed together are written in one call. After a kill during a write, the file holds complete rows and
    at most one truncated row at the end; opening the file again removes that row and appends after it. If a write fails
    on a full disk, or Ctrl-C interrupts it, the file stays as it was before the write.

    Args:
        path: Name of the file. A missing or empty file is created with a header. The folder must exist.
        table: The kind of table: ``DIAGRAMS``, ``EPOCHS`` or ``GROUPS`` of :mod:`papers.figures.formats`.
        keep: Called with each row of an existing file, a mapping of the table's columns; true keeps the row. By default
            all rows are kept. A training that resumes from a checkpoint drops the rows that it will write again,
            ``keep=lambda row: row["step"] <= checkpoint_step``. A training that starts anew drops all rows,
            ``keep=lambda row: False``.

    Raises:
        OSError: The file cannot be read or written.
        ValueError: The file has other contents, and stays unchanged. The message names file, line and column.

    Note:
        One process at a time may write a file. Numbers are written with 9 digits, which represent a float32 exactly.
        When ``write`` returns, the operating system has the rows: they survive a kill, but perhaps not a power cut.

    Example::

        with Records(folder / "epochs.csv", EPOCHS, keep=lambda row: row["step"] <= step) as records:
            ...
            records.write([{"epoch": 3, "step": 120, "recall_at_1": 0.51, "run": "SCT"}])
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        table: Table,
        *,
        keep: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> None:
        self.path, self.table = Path(path), table
        self._repair(keep)
        # Unbuffered, so rows are in the file when write returns. Append mode, so other handles' writes are not
        # overwritten.
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed by close()

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add all rows, or none if it raises.

        Args:
            rows: Per row, the values by column name: strings, integers, floats, tensors of one element. None and NaN
                make an empty cell, and so does a missing entry of a column that may be empty.

        Raises:
            ValueError: A column is unknown, or a value is invalid for its column.
            OSError: The file cannot be written.
        """
        content = memoryview(_lines([self._cells(row) for row in rows]))
        if self._file.closed:
            raise ValueError(f"{self.path} is closed")
        size = os.fstat(self._file.fileno()).st_size
        try:
            while content:  # a full disk or a signal can cause a partial write
                content = content[self._file.write(content) :]
        except BaseException:
            os.ftruncate(self._file.fileno(), size)
            raise

    def close(self) -> None:
        """Close the file. Further calls change nothing."""
        self._file.close()

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _cells(self, row: Mapping[str, Any]) -> list[str]:
        """The cells of a row, each checked to be valid in the table."""
        for name in row:
            if name not in self.table.columns:
                raise ValueError(f"{self.path}: columns must be {self.table.header}, got {name!r}")
        cells = []
        for name, column in self.table.columns.items():
            cell = _cell(row.get(name))
            try:
                column.convert(cell)  # the same check as in the reader
            except ValueError:
                raise ValueError(
                    f"{self.path}, column {name}: must be {column.must_be}, got {row.get(name)!r}"
                ) from None
            cells.append(cell)
        return cells

    def _repair(self, keep: Callable[[Mapping[str, Any]], bool] | None) -> None:
        """Make the file end with a complete line, and hold only the header and the kept rows."""
        header = f"{self.table.header}\n".encode()
        content = self.path.read_bytes() if self.path.exists() else b""
        if header.startswith(content):  # only a header, or a part of one
            save_atomically(self.path, lambda part: part.write_bytes(header))
            return
        if not content.startswith(header):
            line = content.splitlines()[0][:200].decode(errors="replace")
            raise ValueError(f"{self.path}, line 1: must be {self.table.header}, got {line!r}")
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.truncate(self.path, end)
        if keep is None or end == len(header):
            return
        kept = [self._cells(row.cells) for row in read_rows(self.path, self.table) if keep(row.cells)]
        save_atomically(self.path, lambda part: part.write_bytes(header + _lines(kept)))


def diagram_rows(
    iteration: int,
    moment: str,
    s_ap: Tensor,
    s_an: Tensor,
    *,
    split: str = "train",
    anchors: Tensor | None = None,
) -> list[dict[str, Any]]:
    """The rows of ``diagrams.csv`` for the triplets of one moment.

    Args:
        iteration: Number of the gradient step, from 0.
        moment: ``"before"`` that step, or ``"after"`` it.
        s_ap: Anchor-positive similarities [B], NaN if the anchor has no positive.
        s_an: Anchor-negative similarities [B], NaN if the anchor has no negative.
        split: ``"train"`` or ``"test"``.
        anchors: Indices of the anchors [B], integers; by default 0 to B - 1.

    Returns:
        One row per anchor, for :meth:`Records.write`. Write the rows of both moments of a step together.

    Raises:
        ValueError: The shapes differ.

    Example::

        with torch.no_grad():
            before = similarities(embeddings, selection)
        ...  # the step
        with torch.no_grad():
            after = similarities(network(images), selection)
        records.write(diagram_rows(step, "before", *before) + diagram_rows(step, "after", *after))
    """
    if anchors is None:
        anchors = torch.arange(len(s_ap))
    for name, tensor in {"s_ap": s_ap, "s_an": s_an, "anchors": anchors}.items():
        if tensor.ndim != 1 or len(tensor) != len(s_ap):
            raise ValueError(f"{name} must be [B] = [{len(s_ap)}], got {shape_of(tensor)}")
    fixed = {"iteration": iteration, "split": split, "moment": moment}
    columns = (tensor.tolist() for tensor in (anchors, s_ap, s_an))
    return [fixed | {"anchor": anchor, "s_ap": ap, "s_an": an} for anchor, ap, an in zip(*columns, strict=True)]


def similarities(embeddings: Tensor, selection: Selection) -> tuple[Tensor, Tensor]:
    """The cosine similarities of triplets selected earlier, possibly on other embeddings of the same images.

    A diagram after a gradient step shows these: the triplets from before the step, at their new similarities.

    Args:
        embeddings: [B, D], floating, of the images that the selection was made from, without refs.
        selection: From :func:`hardmine.ops.select_triplets`, or from a loss that returns it.

    Returns:
        ``(s_ap, s_an)``, each [B], float64 for float64 embeddings, else float32; NaN where the selection has no
        positive or negative.

    Raises:
        ValueError: The selection has another number of images.
    """
    rows = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
    rows = torch.nn.functional.normalize(rows)
    found = []
    for index in (selection.positive_index, selection.negative_index):
        if len(index) != len(rows) or (index >= len(rows)).any():
            raise ValueError(
                f"selection must index the {len(rows)} embeddings, got a selection of {len(index)} anchors"
            )
        found.append((rows * rows[index]).sum(1).masked_fill(index < 0, math.nan))
    return found[0], found[1]


def _lines(rows: Iterable[list[str]]) -> bytes:
    """Rows as lines of CSV."""
    lines = io.StringIO(newline="")
    csv.writer(lines, lineterminator="\n").writerows(rows)
    return lines.getvalue().encode()


def _cell(value: Any) -> str:
    """A value as the text of a cell."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return ""
    if isinstance(value, Integral) or not isinstance(value, Real):
        return str(value)
    return f"{value:.9g}"
