"""Tensor files with atomic writes, and a checksum that detects altered files."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hardmine._extras import require

if TYPE_CHECKING:
    import numpy as np

CHECKSUM = "sha256"


def write_tensors(path: str | os.PathLike[str], tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a safetensors file with a checksum, atomically.

    An existing file is replaced once the new one is complete and on the disk.

    Args:
        path: Name of the file. A symbolic link is followed.
        tensors: The tensors by name.
        metadata: Text entries by name. The checksum is added as `sha256`.

    Raises:
        TypeError: ``path`` is not a path.
        OSError: The file cannot be written, or ``path`` exists and is not a file; FileNotFoundError if the folder does
            not exist.
        ModuleNotFoundError: safetensors is not installed.
    """
    name = Path(os.path.realpath(check_path(path)))  # keeps a symbolic link in place
    require("numpy")
    safetensors = require("safetensors.numpy")
    if not name.parent.is_dir():
        raise FileNotFoundError(f"path must be in an existing folder, got {os.fspath(path)!r}: nothing was saved")
    if name.exists() and not name.is_file():
        raise FileExistsError(f"path must name a regular file, got {os.fspath(path)!r}: nothing was saved")
    metadata = {**metadata, CHECKSUM: checksum(metadata, tensors)}
    with draft_of(name) as draft:
        # Opened here first: errors are then Python's own, and the file gets the default permissions.
        with open(draft, "xb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
        try:
            safetensors.save_file(tensors, draft, metadata)
        except require("safetensors").SafetensorError as error:
            raise OSError(f"{path} could not be written: {error}") from error
        draft.chmod(mode)


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Read a file that :func:`write_tensors` wrote: its text entries, and its tensors by name.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is malformed, or its checksum does not match.
    """
    safetensors = require("safetensors")
    require("safetensors.numpy")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a file, no dict)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is truncated, damaged or not a safetensors file: {error}") from error
    if metadata.get(CHECKSUM) != checksum(metadata, tensors):
        raise ValueError(f"{path} was changed after it was written: its checksum does not match its contents")
    return metadata, tensors


@contextmanager
def draft_of(name: Path) -> Iterator[Path]:
    """The name of a new file that replaces ``name`` on leaving the context, once it is on the disk.

    After an error, ``name`` is what it was, and the draft is gone. A process that is killed leaves a draft, which
    :func:`is_draft` recognizes.
    """
    draft = name.with_name(f".{secrets.token_hex(8)}.tmp")  # short, so that the longest allowed names still work
    try:
        yield draft
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, name)
    finally:
        draft.unlink(missing_ok=True)


def is_draft(path: Path) -> bool:
    """Whether a file is a draft of :func:`draft_of`."""
    return path.name.startswith(".") and path.suffix == ".tmp" and len(path.name) == len(".") + 16 + len(".tmp")


def check_path(path: str | os.PathLike[str]) -> str:
    """``path`` is a path; returned as text."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a str or an os.PathLike, got {type(path).__name__}")
    return os.fsdecode(path)


def checksum(metadata: dict[str, str], tensors: dict[str, np.ndarray]) -> str:
    """SHA-256 of metadata and tensors, in hexadecimal digits; docs/graph-index.md defines the bytes."""
    covered = {key: value for key, value in metadata.items() if key != CHECKSUM}
    shapes = {name: [tensor.dtype.str, list(tensor.shape)] for name, tensor in tensors.items()}
    digest = hashlib.sha256(json.dumps([covered, shapes], sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].reshape(-1).view("uint8").data)
    return digest.hexdigest()
