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
from papers._files import save_whole
from papers.figures.formats import Table
from papers.figures.tables import read_rows


class Records:
    """A table that rows are added to, and that stays readable whenever the process ends.

    Rows that are written together go to the file in one piece. A kill in the middle leaves whole rows and at most one
    that is cut short at the end; opening the file again removes that one, and goes on. A write that fails, on a full
    disk, or that Ctrl-C interrupts, leaves the file as it was before it.

    Args:
        path: Name of the file. It is made with a header if it is not there, or empty. Its folder must be there.
        table: What it holds: ``DIAGRAMS``, ``EPOCHS`` or ``GROUPS`` of :mod:`papers.figures.formats`.
        keep: Which rows of a file that is there to keep; a mapping of the table's columns. By default all. A training
            that goes on from a checkpoint drops what it will write again,
            ``keep=lambda row: row["step"] <= checkpoint_step``; one that begins anew drops everything,
            ``keep=lambda row: False``.

    Raises:
        OSError: The file cannot be read or written.
        ValueError: It holds something else, which is left alone. The message names file, line and column.

    Note:
        One process at a time may write a file. A number is written with 9 digits, which is all of a float32. Rows are
        in the hands of the operating system when ``write`` returns: a kill keeps them, a power cut may not.

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
        self._mend(keep)
        # Unbuffered: what write returns from is in the file. Appending: also where another handle has written.
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed by close()

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows, all of them or, if it raises, none.

        Args:
            rows: For each its columns by name: strings, integers, floats, tensors of one element. None, NaN and, in a
                column that may be empty, no entry at all make an empty cell.

        Raises:
            ValueError: A column is unknown, or a value is not what it may hold.
            OSError: The file cannot be written.
        """
        content = memoryview(_lines([self._cells(row) for row in rows]))
        if self._file.closed:
            raise ValueError(f"{self.path} is closed")
        size = os.fstat(self._file.fileno()).st_size
        try:
            while content:  # a disk that becomes full, or a signal, can end a call early
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
        """The cells of a row, each one that the table may hold."""
        for name in row:
            if name not in self.table.columns:
                raise ValueError(f"{self.path}: columns must be {self.table.header}, got {name!r}")
        cells = []
        for name, column in self.table.columns.items():
            cell = _cell(row.get(name))
            try:
                column.convert(cell)  # as the reader will
            except ValueError:
                raise ValueError(
                    f"{self.path}, column {name}: must be {column.must_be}, got {row.get(name)!r}"
                ) from None
            cells.append(cell)
        return cells

    def _mend(self, keep: Callable[[Mapping[str, Any]], bool] | None) -> None:
        """Make the file one that ends with a whole line: the header, then the rows that are kept."""
        header = f"{self.table.header}\n".encode()
        content = self.path.read_bytes() if self.path.exists() else b""
        if header.startswith(content):  # nothing but a header, or a part of one
            save_whole(self.path, lambda part: part.write_bytes(header))
            return
        if not content.startswith(header):
            line = content.splitlines()[0][:200].decode(errors="replace")
            raise ValueError(f"{self.path}, line 1: must be {self.table.header} to write below it, got {line!r}")
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.truncate(self.path, end)
        if keep is None or end == len(header):
            return
        kept = [self._cells(row.cells) for row in read_rows(self.path, self.table) if keep(row.cells)]
        save_whole(self.path, lambda part: part.write_bytes(header + _lines(kept)))


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
        s_ap: Anchor-positive similarities [B], NaN where there is none.
        s_an: Anchor-negative similarities [B].
        split: ``"train"`` or ``"test"``.
        anchors: Numbers of the anchors [B], integers; by default 0 to B - 1.

    Returns:
        A row an anchor, for :meth:`Records.write`. Write the rows of both moments of a step together.

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
    """The cosine similarities of triplets that were selected earlier, perhaps on other embeddings of the same images.

    That is what a diagram shows after a gradient step: the triplets of before, followed.

    Args:
        embeddings: [B, D], floating, of the images that were selected among, without refs.
        selection: From :func:`hardmine.ops.select_triplets`, or a loss that returns it.

    Returns:
        ``(s_ap, s_an)``, each [B], float64 for float64 embeddings, else float32; NaN where the selection has none.

    Raises:
        ValueError: The selection is of another number of images.
    """
    rows = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
    rows = torch.nn.functional.normalize(rows)
    found = []
    for index in (selection.positive_index, selection.negative_index):
        if len(index) != len(rows) or (index >= len(rows)).any():
            raise ValueError(f"selection must be among the {len(rows)} embeddings, got one of {len(index)} anchors")
        found.append((rows * rows[index]).sum(1).masked_fill(index < 0, math.nan))
    return found[0], found[1]


def _lines(rows: Iterable[list[str]]) -> bytes:
    """Rows as lines of CSV."""
    lines = io.StringIO(newline="")
    csv.writer(lines, lineterminator="\n").writerows(rows)
    return lines.getvalue().encode()


def _cell(value: Any) -> str:
    """A value as its cell has it."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return ""
    if isinstance(value, Integral) or not isinstance(value, Real):
        return str(value)
    return f"{value:.9g}"
