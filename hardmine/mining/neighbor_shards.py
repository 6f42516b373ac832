"""The finished neighbor lists of a whole set, read from their folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch

from hardmine._extras import require
from hardmine.mining._list_files import FORMAT, FORMAT_VERSION, MANIFEST, check_folder, read_json, shard_path
from hardmine.ops._numbers import check_integer
from hardmine.types import Neighbors


class NeighborShards:
    """The lists that :func:`hardmine.mining.all_knn` wrote to a folder, read from disk as they are needed.

    Args:
        folder: The folder, whose lists must be complete.

    Attributes:
        k: Length of the lists.
        similarity: ``"cosine"``, ``"dot"`` or ``"euclidean"``.
        block_rows: Rows per shard; the last one may have fewer.

    Raises:
        TypeError: ``folder`` is not a path.
        FileNotFoundError: There are no lists, or a shard is missing.
        ValueError: The lists are not complete, or a file is damaged.

    Note:
        The shards are plain .npy files, ``index-00000-of-00004.npy`` and so on, that NumPy alone can read.

    Example:
        >>> import torch
        >>> from hardmine.mining import NeighborShards, all_knn
        >>> _ = all_knn(torch.tensor([[1.0], [2.0], [4.0], [8.0]]), "lists", k=2, similarity="euclidean")
        >>> lists = NeighborShards("lists")
        >>> len(lists), lists.k
        (4, 2)
        >>> lists[1:3].index
        tensor([[0, 2],
                [1, 0]])
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = check_folder(folder)
        if not (self._folder / MANIFEST).exists():
            raise FileNotFoundError(f"folder must hold lists of all_knn, got {self._folder} without a {MANIFEST}")
        manifest = read_json(self._folder / MANIFEST)
        check_format(manifest, self._folder)
        if not manifest["complete"]:
            raise ValueError(
                f"folder must hold complete lists, got {self._folder}, whose run has not ended: "
                "call all_knn with the same arguments to go on"
            )
        self._rows, self.k, self.block_rows = manifest["rows"], manifest["k"], manifest["block_rows"]
        self.similarity: str = manifest["similarity"]
        self._blocks = -(-self._rows // self.block_rows)
        self._float = torch.float64 if manifest["dtype"] == "float64" else torch.float32
        for block in range(self._blocks):
            for kind in ("similarity", "index"):
                self._map(kind, block)

    def __len__(self) -> int:
        """The number of rows that have lists."""
        return self._rows

    def __repr__(self) -> str:
        return f"NeighborShards({os.fspath(self._folder)!r}: {self._rows} lists of {self.k}, {self.similarity})"

    def __getitem__(self, rows: slice) -> Neighbors:
        """The lists of consecutive rows, copied to memory: similarity [n, k] and index int64 [n, k]."""
        if not isinstance(rows, slice):
            raise TypeError(f"rows must be a slice, got {type(rows).__name__}")
        first, last, step = rows.indices(self._rows)
        if step != 1:
            raise ValueError(f"rows must be a slice with step 1, got {step}")
        parts: dict[str, list[Any]] = {"similarity": [], "index": []}
        for block in range(first // self.block_rows, -(-max(first, last) // self.block_rows)):
            start = block * self.block_rows
            for kind, found in parts.items():
                mapped = self._map(kind, block)
                found.append(torch.from_numpy(mapped[max(first - start, 0) : max(last - start, 0)].copy()))
        if not parts["index"]:
            none = torch.empty(0, self.k, dtype=self._float, device="cpu")
            return Neighbors(none, none.to(torch.int64))
        return Neighbors(*(torch.cat(parts[kind]) for kind in ("similarity", "index")))

    def chunks(self, rows: int = 65536) -> Iterator[tuple[slice, Neighbors]]:
        """All lists in order, ``rows`` at a time, each with the slice of its rows."""
        rows = check_integer("rows", rows, 1)
        for first in range(0, self._rows, rows):
            part = slice(first, min(first + rows, self._rows))
            yield part, self[part]

    def _map(self, kind: str, block: int) -> Any:
        """A shard, memory-mapped, after a check of its shape and dtype."""
        path = shard_path(self._folder, kind, block, self._blocks)
        count = min(self.block_rows, self._rows - block * self.block_rows)
        dtype = "int64" if kind == "index" else str(self._float).removeprefix("torch.")
        return map_shard(path, [count, self.k], dtype)


def map_shard(path: Any, shape: list[int], dtype: str) -> Any:
    """A finished shard, memory-mapped, after a check of its shape and dtype."""
    numpy = require("numpy")
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: call all_knn with the same arguments to compute its lists again")
    try:
        mapped = numpy.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}. Delete it and call all_knn again") from error
    if list(mapped.shape) != shape or mapped.dtype.name != dtype:
        raise ValueError(
            f"{path} must be {dtype} {shape}, got {mapped.dtype} {list(mapped.shape)}: delete it and call all_knn again"
        )
    return mapped


def check_format(manifest: dict[str, Any], folder: Any) -> None:
    """The manifest is one of this version."""
    if manifest.get("format") != FORMAT or manifest.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{folder / MANIFEST} must have the format {FORMAT!r} {FORMAT_VERSION}, "
            f"got {manifest.get('format')!r} {manifest.get('format_version')!r}"
        )
