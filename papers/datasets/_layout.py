"""Code that the loaders share: find a data set in its official layout, read its lists, check that it is complete."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from papers.datasets.images import ImageDataset, ImageSplit

_ARCHIVES = (".xz", ".gz", ".tgz", ".tar", ".zip", ".lz4")


@dataclass(frozen=True)
class Layout:
    """The locations of a data set's files.

    Attributes:
        title: Name of the data set, for messages.
        tree: The files and folders expected, for messages.
        needed: Files and folders that must exist, relative to the data set's folder. A tuple names alternatives; one of
            them is enough.
        homes: Possible names of the data set's folder under the user's root. An empty name is the root itself.
        archives: Prefixes of the published archives' names.
    """

    title: str
    tree: str
    needed: tuple[str | tuple[str, ...], ...]
    homes: tuple[str, ...]
    archives: tuple[str, ...] = ()

    def find(self, root: str | Path) -> Path | None:
        """The folder under `root` that holds everything needed, or None."""
        homes = (Path(root).expanduser() / home for home in self.homes)
        return next((home for home in homes if home.is_dir() and not self._missing(home)), None)

    def home(self, root: str | Path) -> Path:
        """Like :meth:`find`, but if there is no such folder, raise a FileNotFoundError that shows the tree."""
        return self.find(root) or self.fail(self._reason(Path(root).expanduser()))

    def fail(self, reason: str) -> NoReturn:
        """Raise the error for a tree that is not as expected."""
        raise FileNotFoundError(
            f"root must contain {self.title} in its official layout: {reason}. Expected:\n{self.tree}"
        )

    def _missing(self, home: Path) -> list[str]:
        """The needed files and folders that do not exist; of alternatives, the first."""
        return [_alternatives(names)[0] for names in self.needed if first_of(home, *_alternatives(names)) is None]

    def _reason(self, root: Path) -> str:
        if not root.exists():
            return f"{root} does not exist"
        if not root.is_dir():
            return f"{root} is a file; unpack it and pass the folder"
        home = min((root / home for home in self.homes), key=lambda home: len(self._missing(home)))
        missing = self._missing(home)
        found = [path for names in self.needed if (path := first_of(home, *_alternatives(names)))]
        if len(found) == 1:
            return f"only {found[0]} exists"
        if found:
            return f"{home / missing[0]} is missing"
        packed = sorted(path for path in root.iterdir() if path.suffix in _ARCHIVES)
        packed = [path for path in packed if path.name.startswith(self.archives)]
        if packed:
            return f"{packed[0]} is not unpacked; unpack it and pass the resulting folder"
        return f"{root} does not contain it"


def first_of(home: Path, *names: str) -> Path | None:
    """The first path that exists, or None."""
    return next((home / name for name in names if (home / name).exists()), None)


def _alternatives(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def read_rows(path: Path, kinds: Sequence[Callable[[str], Any]], *, skip: int = 0) -> list[tuple]:
    """The lines of a list, split at whitespace.

    Args:
        path: The text file.
        kinds: The type of each field of a line, `int` or `str`.
        skip: Number of header lines.

    Raises:
        ValueError: A line has another number of fields, or an `int` field is not an integer. The message names the
            line.
    """
    rows = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            fields = line.split()
            if number <= skip or not fields:
                continue
            try:
                rows.append(tuple(kind(field) for kind, field in zip(kinds, fields, strict=True)))
            except ValueError as error:
                expected = ", ".join("an integer" if kind is int else "a string" for kind in kinds)
                raise ValueError(f"{path}, line {number}: must be {expected}, got {line.strip()!r}") from error
    return rows


def existing(paths: Sequence[str]) -> tuple[list[str], Tensor, list[str]]:
    """Which files exist. Each folder is read once, which is much faster than one query per file.

    Returns:
        The existing files, their mask as bool [N], and the missing files.
    """
    folders: dict[str, frozenset[str]] = {}
    mask = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = names_in(folder)
        mask.append(name in folders[folder])
    missing = [path for path, exists in zip(paths, mask, strict=True) if not exists]
    return list(compress(paths, mask)), torch.tensor(mask, dtype=torch.bool), missing


def names_in(folder: str) -> frozenset[str]:
    """The names in a folder; empty if it does not exist."""
    try:
        return frozenset(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def check_complete(
    layout: Layout,
    home: Path,
    found: Mapping[str, int],
    published: Mapping[str, int],
    missing: Sequence[str],
    partial: bool,
    counted: str = "images",
) -> bool:
    """Whether the copy is exactly the published set. Any other copy is accepted only with `partial`.

    Args:
        layout: The data set's layout.
        home: The data set's folder.
        found: Number of existing images per part.
        published: The published numbers.
        missing: Listed files that do not exist.
        partial: Accept an incomplete copy.
        counted: The unit of the numbers.

    Raises:
        FileNotFoundError: No image exists.
        ValueError: The copy is incomplete and `partial` is False.
    """
    if not any(found.values()):
        first = f": the first missing file is {missing[0]}" if missing else ""
        layout.fail(f"none of the {counted} listed in {home} exists{first}")
    complete = dict(found) == dict(published) and not missing
    if complete or partial:
        return complete
    parts = [f"{found[part]:,} {part} {counted} ({count:,} published)" for part, count in published.items()]
    files = f" {len(missing):,} listed files are missing, the first is {missing[0]}." if missing else ""
    raise ValueError(
        f"root must contain all of {layout.title}: {home} has {', '.join(parts)}.{files} Use partial=True to accept an "
        "incomplete copy; its name then says so"
    )


def split_by_class(images: ImageDataset, boundary: int) -> ImageSplit:
    """Split by class: the classes below `boundary` train, the others are only retrieved.

    If a partial copy has fewer than 2 classes on one side of the boundary, the first half of its classes trains.

    Raises:
        ValueError: There are fewer than 4 classes: 2 must train and 2 others must be retrieved.
    """
    classes = images.labels.unique()
    if (classes < boundary).sum() < 2 or (classes >= boundary).sum() < 2:
        if len(classes) < 4:
            raise ValueError(f"root must contain images of at least 4 classes, got {len(classes)}")
        boundary = int(classes[len(classes) // 2])
    test = images.select(images.labels >= boundary)
    return ImageSplit(images.name, images.select(images.labels < boundary), test, test)
