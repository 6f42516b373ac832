"""Rows of a set that need not fit memory: a tensor, an array, or files of rows."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardmine._extras import require
from hardmine.mining.labels import check_labels
from hardmine.ops._arguments import FLOAT_DTYPES, check_has_values, check_rows, shape_of

SUFFIXES = (".npy", ".safetensors")
_DTYPES = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOAT_DTYPES)


@dataclass(frozen=True)
class _Shard:
    """Consecutive rows of a set."""

    name: str  # as errors name it
    values: Any  # a tensor, an array or a path
    count: int
    depth: int
    dtype: torch.dtype


class RowSource:
    """The rows [N, D] of a set, read a block at a time.

    Files are opened for each block and closed again, so that pages of earlier blocks do not count as memory of the
    process.

    Attributes:
        name: The argument that the rows were given as.
        count: N.
        depth: D.
        dtype: The dtype of the rows, the same in every shard.
    """

    def __init__(self, name: str, rows: Any) -> None:
        self.name = name
        if isinstance(rows, (str, os.PathLike, Tensor)) or _is_array(rows):
            self._shards = [_open_shard(name, rows)]
        elif isinstance(rows, Sequence) and len(rows):
            self._shards = [_open_shard(f"{name}[{n}]", shard) for n, shard in enumerate(rows)]
        else:
            kind = f"an empty {type(rows).__name__}" if isinstance(rows, Sequence) else type(rows).__name__
            raise TypeError(
                f"{name} must be a tensor, an array, a path to a {' or '.join(SUFFIXES)} file, or a sequence of "
                f"these, got {kind}"
            )
        first = self._shards[0]
        for shard in self._shards:
            if shard.depth != first.depth:
                raise ValueError(
                    f"{shard.name} must be [rows, D] with the D = {first.depth} of {first.name}, "
                    f"got [{shard.count}, {shard.depth}]"
                )
            if shard.dtype != first.dtype:
                raise TypeError(f"{shard.name} must have the dtype of {first.name}, {first.dtype}, got {shard.dtype}")
        self.count = sum(shard.count for shard in self._shards)
        self.depth, self.dtype = first.depth, first.dtype

    def read(self, first: int, last: int) -> Tensor:
        """Rows ``first`` to ``last`` - 1, contiguous; a view where they lie in one tensor.

        Raises:
            ValueError: A shard no longer has the shape or dtype that it had.
            OSError: A shard cannot be read.
        """
        parts, start = [], 0
        for shard in self._shards:
            begin, end = max(first - start, 0), min(last - start, shard.count)
            if begin < end:
                parts.append(_read(shard, begin, end))
            start += shard.count
        return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts)


def _is_array(rows: Any) -> bool:
    numpy = sys.modules.get("numpy")  # no import: without NumPy there are no arrays
    return numpy is not None and isinstance(rows, numpy.ndarray)


def _open_shard(name: str, values: Any) -> _Shard:
    if isinstance(values, Tensor):
        check_rows(name, values, values)
        if not values.is_cpu:
            raise ValueError(f"{name} must be on the CPU, got {values.device}")
        check_has_values(name, values)
        return _Shard(name, values.detach(), values.shape[0], values.shape[1], values.dtype)
    if _is_array(values):
        return _of_array(name, values, values)
    if isinstance(values, (str, os.PathLike)):
        path = os.fspath(values)
        name = f"{name}, {os.fsdecode(path)!r},"
        if not os.path.exists(path):
            raise FileNotFoundError(f"{name} must be an existing file")
        if os.fsdecode(path).endswith(SUFFIXES[0]):
            return _of_array(name, _map_npy(name, path), path)
        if os.fsdecode(path).endswith(SUFFIXES[1]):
            return _of_safetensors(name, path)
        raise ValueError(f"{name} must be a {' or '.join(SUFFIXES)} file")
    raise TypeError(f"{name} must be a tensor, an array or a path, got {type(values).__name__}")


def _map_npy(name: str, path: Any) -> Any:
    numpy = require("numpy")
    try:
        return numpy.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ValueError(
            f"{name} must be a complete .npy file of numbers, got one that NumPy cannot map: {error}"
        ) from (error)


def _of_array(name: str, array: Any, values: Any) -> _Shard:
    if array.dtype.name not in ("float16", "float32", "float64"):
        raise TypeError(f"{name} must be float16, float32 or float64, got {array.dtype}")
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{name} must be [rows, D] with D >= 1, got {list(array.shape)}")
    return _Shard(name, values, array.shape[0], array.shape[1], getattr(torch, array.dtype.name))


def _of_safetensors(name: str, path: Any) -> _Shard:
    safetensors = require("safetensors")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            if len(keys) != 1:
                raise ValueError(f"{name} must hold one tensor, got {len(keys)}: {', '.join(sorted(keys)[:5])}")
            part = file.get_slice(keys[0])
            shape = part.get_shape()
            if len(shape) != 2 or shape[1] == 0:
                raise ValueError(f"{name} must be [rows, D] with D >= 1, got {list(shape)}")
            dtype = part[0:0].dtype
    except safetensors.SafetensorError as error:
        raise ValueError(f"{name} must be a complete safetensors file, got one that cannot be read: {error}") from error
    if dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name} must be {_DTYPES}, got {dtype}")
    return _Shard(name, path, shape[0], shape[1], dtype)


def _read(shard: _Shard, begin: int, end: int) -> Tensor:
    """Rows of one shard: a view of a tensor, else a copy."""
    if isinstance(shard.values, Tensor):
        return shard.values[begin:end]
    if _is_array(shard.values):
        return _copy(shard.values[begin:end])
    if not os.path.exists(shard.values):
        raise FileNotFoundError(f"{shard.name} must stay in place until all lists are written, but is gone")
    if os.fsdecode(shard.values).endswith(SUFFIXES[0]):
        array = _map_npy(shard.name, shard.values)
        _check_unchanged(shard, _of_array(shard.name, array, shard.values))
        return _copy(array[begin:end])
    _check_unchanged(shard, _of_safetensors(shard.name, shard.values))
    with require("safetensors").safe_open(shard.values, framework="pt") as file:
        return file.get_slice(next(iter(file.keys())))[begin:end].clone()


def _check_unchanged(shard: _Shard, now: _Shard) -> None:
    if now != shard:
        raise ValueError(
            f"{shard.name} must stay as it was, {shard.dtype} [{shard.count}, {shard.depth}], "
            f"got {now.dtype} [{now.count}, {now.depth}]"
        )


def _copy(array: Any) -> Tensor:
    """A copy of an array, which may be read-only, of either byte order or of any strides."""
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))


def check_same_space(rows: RowSource, refs: RowSource) -> None:
    """The rows of two sources can be compared."""
    if refs.depth != rows.depth:
        raise ValueError(
            f"{refs.name} must be [M, D] with the D = {rows.depth} of {rows.name}, got [{refs.count}, {refs.depth}]"
        )
    if refs.dtype != rows.dtype:
        raise TypeError(f"{refs.name} must have the dtype of {rows.name}, {rows.dtype}, got {refs.dtype}")


def check_row_numbers(name: str, values: Any, count: int, size: str) -> Tensor:
    """``values`` are integers, one per row; returned as int64 on the CPU."""
    checked = check_labels(values, name)
    if len(checked) != count:
        raise ValueError(f"{name} must be [{size}] = [{count}], got {shape_of(checked)}")
    return checked


def digest_of(values: Tensor) -> str:
    """SHA-256 of the bytes of a tensor."""
    return hashlib.sha256(values.contiguous().view(torch.uint8).numpy().data).hexdigest()


def changed_rows(name: str, first: int, last: int, folder: Path) -> ValueError:
    """The error for rows that differ from those that a run began with."""
    return ValueError(
        f"{name} must be those that the lists in {folder} were begun with, "
        f"got others among rows {first} to {last - 1}: choose another folder, or delete this one"
    )
