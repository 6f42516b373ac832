"""Read the tables of :mod:`papers.figures.formats`. Each error names the file, the line and the column."""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from papers.figures.formats import Table


class Row(NamedTuple):
    """One row of a table."""

    line: int  # in the file, from 1
    cells: dict[str, Any]


def read_rows(path: str | os.PathLike[str], table: Table) -> list[Row]:
    """Read a table of at least one row, with converted cells. A truncated last line is left out with a warning.

    Args:
        path: Name of the file.
        table: The kind of table that the file must hold.

    Returns:
        The rows, in the file's order.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not such a table. The message names file, line and column.
    """
    rows = [_row(path, table, line, cells) for line, cells in _lines(path, table)]
    if not rows:
        raise ValueError(f"{path} contains no rows below its header")
    return rows


def _row(path: str | os.PathLike[str], table: Table, line: int, texts: Mapping[str, str]) -> Row:
    cells = {}
    for name, column in table.columns.items():
        try:
            cells[name] = column.convert(texts[name])
        except ValueError:
            message = f"{path}, line {line}, column {name}: must be {column.must_be}, got {texts[name]!r}"
            raise ValueError(message) from None
    return Row(line, cells)


def _lines(path: str | os.PathLike[str], table: Table) -> list[tuple[int, dict[str, str]]]:
    """The lines below the header: the line number, and the cells by column."""
    text = _complete_lines(path)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines = []
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(path, table, header)
        for cells in reader:
            if not cells:
                continue  # an empty line
            if len(cells) != len(header):
                raise ValueError(
                    f"{path}, line {reader.line_num}: must have {len(header)} cells, as line 1 has, got {len(cells)}"
                )
            lines.append((reader.line_num, dict(zip(header, map(str.strip, cells), strict=True))))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not CSV: {error}") from error
    return lines


def _complete_lines(path: str | os.PathLike[str]) -> str:
    """The text of a file up to its last line end."""
    content = Path(path).read_bytes()
    end = content.rfind(b"\n") + 1
    try:
        text = content[:end].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: must be UTF-8, got byte {content[error.start]:#x}") from error
    if not content.strip():
        raise ValueError(f"{path} is empty")
    if end < len(content):
        line = content.count(b"\n") + 1
        warnings.warn(f"{path}, line {line}: truncated: it has no line end and is ignored", stacklevel=2)
    return text


def _check_header(path: str | os.PathLike[str], table: Table, header: list[str]) -> None:
    for name in header:
        if name not in table.columns:
            raise ValueError(f"{path}, line 1: columns must be {table.header}, got {name!r}")
        if header.count(name) > 1:
            raise ValueError(f"{path}, line 1: columns must be unique, got {name!r} twice")
    for name in table.columns:
        if name not in header:
            raise ValueError(f"{path}, line 1: columns must be {table.header}; {name!r} is missing")
