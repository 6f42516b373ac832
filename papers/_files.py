"""Atomic file writes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def save_csv(path: Path, fields: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table atomically."""

    def write(temp_path: Path) -> None:
        with temp_path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fields, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    save_atomically(path, write)


def save_json(path: Path, content: Any) -> None:
    """Write JSON atomically. A list of plain values takes one line.

    Raises:
        OSError: The file cannot be written.
        TypeError: JSON cannot represent the content, for example because a key is not a string.
    """
    save_atomically(path, lambda temp_path: temp_path.write_text(_json(content) + "\n", encoding="utf-8"))


def _json(content: Any, indent: str = "") -> str:
    deeper = indent + "  "
    if isinstance(content, Mapping):
        for key in content:
            if not isinstance(key, str):
                raise TypeError(f"JSON keys must be strings, got {key!r}")
        entries = [f"{json.dumps(key)}: {_json(value, deeper)}" for key, value in content.items()]
        opening, closing = "{}"
    elif isinstance(content, list | tuple) and any(isinstance(value, list | tuple | Mapping) for value in content):
        entries = [_json(value, deeper) for value in content]
        opening, closing = "[]"
    else:
        return json.dumps(content)
    lines = f",\n{deeper}".join(entries)
    return f"{opening}\n{deeper}{lines}\n{indent}{closing}" if entries else opening + closing


def save_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically: `write` makes a temporary file, which replaces `path` once it is complete.

    Args:
        path: Name of the file.
        write: Called with the temporary file's name, in the folder of `path`.

    Raises:
        OSError: The file cannot be written. An existing file stays as it was, and the temporary file is removed.
    """
    temp_path = path.with_name(f"{path.name}.part")
    try:
        write(temp_path)
        temp_path.replace(path)
    finally:
        temp_path.unlink(missing_ok=True)
