"""Atomic file writes."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hardmine._tensor_file import draft_of, is_draft

try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    fcntl: Any = None


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


def save_json_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, atomically."""
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    save_atomically(path, lambda temp_path: temp_path.write_text(text, encoding="utf-8"))


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
        write: Called with the temporary file's name, in the folder of `path`. No other writer has the same name.

    Raises:
        OSError: The file cannot be written. An existing file stays as it was, and the temporary file is removed.
    """
    with draft_of(path) as temp_path:
        write(temp_path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, waiting for another process that holds it. On Windows, nothing is locked.

    The folder may be removed while it is locked. Who waited for it then holds the lock of no folder.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # the disk has no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)  # workers that are still exiting share the open folder
        os.close(handle)


def remove_drafts(folder: Path) -> None:
    """Remove the temporary files of killed writers. No writer may be at work in the folder."""
    for path in filter(is_draft, folder.iterdir()):
        if not path.is_dir():
            path.unlink(missing_ok=True)
