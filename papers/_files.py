"""Files that are whole or not there."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def save_csv(path: Path, fields: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table, whole or not at all, whenever the process ends."""

    def write(part: Path) -> None:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fields, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    save_whole(path, write)


def save_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all, whenever the process ends; a list of plain values is a line.

    Raises:
        OSError: The file cannot be written.
        TypeError: The content has what JSON has not, such as keys that are no text.
    """
    save_whole(path, lambda part: part.write_text(_json(content) + "\n", encoding="utf-8"))


def _json(content: Any, indent: str = "") -> str:
    deeper = indent + "  "
    if isinstance(content, Mapping):
        for key in content:
            if not isinstance(key, str):
                raise TypeError(f"keys of JSON must be text, got {key!r}")
        entries = [f"{json.dumps(key)}: {_json(value, deeper)}" for key, value in content.items()]
        opening, closing = "{}"
    elif isinstance(content, list | tuple) and any(isinstance(value, list | tuple | Mapping) for value in content):
        entries = [_json(value, deeper) for value in content]
        opening, closing = "[]"
    else:
        return json.dumps(content)
    lines = f",\n{deeper}".join(entries)
    return f"{opening}\n{deeper}{lines}\n{indent}{closing}" if entries else opening + closing


def save_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` make the file under a name of its own; it gets its name, and replaces what has it, once it is whole.

    Args:
        path: Name of the file.
        write: Called with the name to write to, beside `path`.

    Raises:
        OSError: The file cannot be written. What had the name keeps it, and nothing else is left.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
