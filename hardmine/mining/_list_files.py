"""The folder of the neighbor lists of a whole set: manifest, lists in progress, finished shards, lock.

Every file is written atomically. ``docs/whole-sets.md`` describes the format.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardmine._extras import require
from hardmine._tensor_file import draft_of, is_draft, read_tensors, write_tensors

FORMAT, FORMAT_VERSION = "hardmine.all_knn", 1
MANIFEST, LOCK = "manifest.json", "lock"


@dataclass
class Lists:
    """The lists of one block of rows so far.

    Attributes:
        key: [rows, k], float32 or float64, in the order of the similarity; NaN after the end of a list.
        number: int64 [rows, k], row numbers in the whole set, -1 after the end of a list.
        covered: The blocks whose rows were candidates.
        is_saved: Whether the file of these lists holds what is here.
    """

    key: Tensor
    number: Tensor
    covered: set[int]
    is_saved: bool = True

    @classmethod
    def empty(cls, rows: int, k: int, dtype: torch.dtype) -> Lists:
        """Lists without candidates."""
        return cls(
            torch.full((rows, k), torch.nan, dtype=dtype, device="cpu"),
            torch.full((rows, k), -1, dtype=torch.int64, device="cpu"),
            set(),
        )


class ListFolder:
    """The files of one folder.

    Args:
        path: The folder.
        run: A digest of the manifest's contents, by which lists in progress of another run are told apart.
        blocks: Number of blocks of rows, each of which has its own files.
    """

    def __init__(self, path: Path, run: str, blocks: int) -> None:
        self.path, self.run, self.blocks = path, run, blocks

    def shard(self, kind: str, block: int) -> Path:
        """A finished shard; its kind is ``"similarity"`` or ``"index"``."""
        return shard_path(self.path, kind, block, self.blocks)

    def is_finished(self, block: int) -> bool:
        """Whether the lists of a block are final. The index is written last."""
        return self.shard("index", block).exists() and self.shard("similarity", block).exists()

    def progress_path(self, block: int, slot: int) -> Path:
        """The file of a block's lists in progress, of one rank."""
        return self.path / f"progress-{block:05d}.rank-{slot}.safetensors"

    def slots(self, block: int) -> list[Path]:
        """The files of a block's lists in progress, of all ranks of all runs."""
        return sorted(self.path.glob(f"progress-{block:05d}.rank-*.safetensors"))

    def save(self, path: Path, lists: Lists) -> None:
        """Write lists in progress."""
        metadata = {"format": FORMAT, "run": self.run, "covered": json.dumps(sorted(lists.covered))}
        with explained(path):
            write_tensors(path, {"key": lists.key.numpy(), "number": lists.number.numpy()}, metadata)

    def load(self, path: Path) -> Lists:
        """Read lists in progress. Raises ValueError if the file is damaged or of another run."""
        hint = "delete this file to compute its lists again"
        try:
            metadata, tensors = read_tensors(path)
        except ValueError as error:
            raise ValueError(f"{error}: {hint}") from error
        if metadata.get("run") != self.run:
            raise ValueError(f"{path} must belong to the run of {MANIFEST}, got another run's: {hint}")
        return Lists(
            torch.from_numpy(tensors["key"].copy()),  # theirs may be read-only
            torch.from_numpy(tensors["number"].copy()),
            set(json.loads(metadata["covered"])),
        )

    def covered(self, block: int) -> set[int]:
        """The blocks that a block's lists in progress cover, all ranks together."""
        found: set[int] = set()
        for path in self.slots(block):
            found |= self.load(path).covered
        return found

    def finish(self, block: int, similarity: Tensor, index: Tensor) -> None:
        """Write the shards of a block, and remove its lists in progress."""
        for kind, values in (("similarity", similarity), ("index", index)):
            write_npy(self.shard(kind, block), values)
        for path in self.slots(block):
            path.unlink()

    def remove_drafts(self) -> None:
        """Remove what killed processes left half written."""
        for path in self.path.iterdir():
            if is_draft(path):
                path.unlink()

    def used_bytes(self) -> int:
        """The size of all files of the folder."""
        return sum(path.stat().st_size for path in self.path.iterdir() if path.is_file())


def shard_path(folder: Path, kind: str, block: int, blocks: int) -> Path:
    """The name of a finished shard."""
    return folder / f"{kind}-{block:05d}-of-{blocks:05d}.npy"


def write_npy(path: Path, values: Tensor) -> None:
    """Write a .npy file, atomically."""
    layout = require("numpy.lib.format")
    array = values.contiguous().numpy()
    with explained(path), draft_of(path) as draft, open(draft, "xb") as file:
        layout.write_array_header_1_0(file, layout.header_data_from_array_1_0(array))
        file.write(array.data)  # not numpy.save, which does not notice a full disk


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, atomically."""
    with explained(path), draft_of(path) as draft, open(draft, "x", encoding="utf-8") as file:
        json.dump(content, file, indent=1)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError if it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, got a damaged file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Adds to an OSError of a write what it means for the work done so far."""
    try:
        yield
    except OSError as error:
        message = (
            f"{path} could not be written: {error}. All files that were complete before are kept: "
            "free space, or repair the folder, and call again to go on"
        )
        raise OSError(error.errno, message) if error.errno is not None else OSError(message) from error


def check_space(path: Path, needed: int) -> None:
    """The disk of a folder has ``needed`` free bytes."""
    free = shutil.disk_usage(path).free
    if free < needed:
        raise OSError(
            f"folder must be on a disk with {needed:,} free bytes for the lists, got {free:,} in {path}: "
            "nothing was started"
        )


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Holds the folder's lock, which the system releases if the process is killed."""
    with open(path / LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise RuntimeError(
                f"folder must have one writer at a time, got {path}, which process {file.read().strip() or '?'} writes"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def check_folder(folder: Any) -> Path:
    """``folder`` is a path to a folder, or to nothing in an existing folder."""
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"folder must be a str or an os.PathLike, got {type(folder).__name__}")
    path = Path(os.fsdecode(folder))
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"folder must be a folder, got the file {str(path)!r}")
    if not path.exists() and not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"folder must be in an existing folder, got {str(path)!r}")
    return path


def describe_difference(manifest: dict[str, Any], wanted: dict[str, Any], folder: Path, names: Iterable[str]) -> None:
    """Raises ValueError for the first of ``names`` that differs between the first run's manifest and this call."""
    for name in names:
        if manifest.get(name) != wanted.get(name):
            raise ValueError(
                f"{name} must be {manifest.get(name)!r}, as in the run that {folder} holds, got {wanted.get(name)!r}: "
                "choose another folder, or delete this one"
            )
