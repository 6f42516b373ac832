"""The file of a graph index, which Index.save writes and Index.load reads. docs/graph-index.md describes the format."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from hardmine import _fanng
from hardmine._extras import require
from hardmine._tensor_file import CHECKSUM, check_path, checksum, write_tensors
from hardmine._version import __version__

if TYPE_CHECKING:
    import numpy as np

FORMAT, FORMAT_VERSION = "hardmine.fanng", 3
METRICS = ("cosine", "dot", "euclidean")
_TENSORS = {
    "vectors": ("F32", 2),
    "first_edge": ("I64", 1),
    "target": ("U32", 1),
    "starts": ("U32", 1),
    "lists": ("U32", 2),
}  # safetensors' dtype, dimensions
_RATES = ("success_rate", "build_success_rate", "list_recall")
_COUNTS = ("traversals", "distance_computations", "components", "connecting_edges")
_STATS = (*_RATES[:2], *_COUNTS, "widths", "list_recall")  # as _fanng.Index.assemble takes them
WIDTH_LISTS = (1, 10, 50)  # lengths of the lists whose widths a build measures
_MAX_SIZE = 2**31 - 1  # of rows and of columns


class Contents(NamedTuple):
    """The parts of an index."""

    vectors: np.ndarray  # [N, D] float32
    first_edge: np.ndarray  # [V + 1] int64: first edge of each of V distinct rows
    target: np.ndarray  # [E] uint32: distinct row at the end of each edge
    starts: np.ndarray  # [S] uint32: distinct rows where searches start
    lists: np.ndarray  # [V, L] uint32: near distinct rows of each, that the build made; L = 0 if it made none
    metric: str
    build: dict[str, Any]  # settings
    stats: dict[str, Any]  # of the build, with the keys _STATS


def disassemble(core: _fanng.Index, vectors: Tensor, settings: dict[str, Any]) -> Contents:
    """The contents of an index of these parts."""
    graph = core.graph
    stats = {name: getattr(core, name) for name in _STATS}
    return Contents(vectors.numpy(), *graph, core.lists, core.metric.name, settings, stats)


def assemble(contents: Contents) -> tuple[_fanng.Index, Tensor, dict[str, Any]]:
    """The core, vectors and settings of an index with these contents. Raises ValueError if they are inconsistent."""
    vectors, first_edge, target, starts, lists, metric, build, stats = contents
    values = (stats[name] for name in _STATS)
    core = _fanng.Index.assemble(vectors, getattr(_fanng.Metric, metric), first_edge, target, starts, lists, *values)
    return core, torch.from_numpy(vectors), build


def write(path: str | os.PathLike[str], contents: Contents) -> None:
    """Write an index to a file, atomically.

    An existing file is replaced once the new one is complete and on the disk.

    Args:
        path: Name of the file. A symbolic link is followed.
        contents: The index.

    Raises:
        OSError: The file cannot be written, or ``path`` exists and is not a file.
        ValueError: The settings or statistics are not what :func:`read` takes.
        ModuleNotFoundError: safetensors is not installed.
    """
    _check_build(contents.build)
    _check_stats(contents.stats)
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "library_version": __version__,
        "metric": contents.metric,
        "build": json.dumps(contents.build, allow_nan=False),
        "stats": json.dumps(contents.stats, allow_nan=False),
    }
    write_tensors(path, {tensor: getattr(contents, tensor) for tensor in _TENSORS}, metadata)


def read(path: str | os.PathLike[str], make: Callable[[Contents], Any]) -> Any:
    """Read an index from an untrusted file.

    Args:
        path: Name of the file.
        make: Assembles the index. Its ValueErrors are reported as errors of this file.

    Returns:
        What `make` returned.

    Raises:
        TypeError: ``path`` is not a path.
        OSError: The file cannot be read; FileNotFoundError if it does not exist.
        ValueError: The file is not an index, or is malformed. The message names the file and the problem.
        ModuleNotFoundError: safetensors is not installed.
    """
    path = check_path(path)
    require("numpy")
    safetensors = require("safetensors")
    require("safetensors.numpy")
    try:
        with open(path, "rb"):  # raises Python's own errors, also for folders
            pass
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"path must be the file of a saved index, got {os.fspath(path)!r}: no such file"
        ) from error
    try:
        with safetensors.safe_open(path, framework="np") as file:
            contents = _contents(file)
        return make(contents)
    except safetensors.SafetensorError as error:
        problem = f"it is truncated, damaged or not a safetensors file ({error})"
    except ValueError as error:
        problem = str(error)
    raise ValueError(f"{path} cannot be loaded as an index: {problem}")


def _contents(file: Any) -> Contents:
    """The contents of an open file, after all checks that do not need the graph's meaning."""
    metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise ValueError(f"its metadata must have the format {FORMAT!r}, got {metadata.get('format')!r}")
    _check_version(metadata.get("format_version", ""), metadata.get("library_version", "unknown"))
    if set(file.keys()) != _TENSORS.keys():
        raise ValueError(f"it must hold the tensors {', '.join(_TENSORS)}, got {', '.join(sorted(file.keys()))}")
    # Shapes before data: a malformed header must not cause a large allocation.
    for name, (dtype, dimensions) in _TENSORS.items():
        tensor = file.get_slice(name)
        shape = tensor.get_shape()
        if tensor.get_dtype() != dtype or len(shape) != dimensions:
            raise ValueError(
                f"{name} must be {dtype} with {dimensions} dimension{'s'[: dimensions - 1]}, "
                f"got {tensor.get_dtype()} {list(shape)}"
            )
    rows, columns = file.get_slice("vectors").get_shape()
    if rows > _MAX_SIZE or not 1 <= columns <= _MAX_SIZE:
        raise ValueError(f"vectors must be [N, D] with N < 2**31 and 1 <= D < 2**31, got {[rows, columns]}")
    tensors = {name: file.get_tensor(name) for name in _TENSORS}
    if metadata.get(CHECKSUM) != checksum(metadata, tensors):
        raise ValueError("its checksum does not match its contents: the file was changed after it was written")
    if metadata.get("metric") not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(map(repr, METRICS))}, got {metadata.get('metric')!r}")
    build, stats = (_parse_json(name, metadata.get(name, "")) for name in ("build", "stats"))
    _check_build(build)
    _check_stats(stats)
    return Contents(**tensors, metric=metadata["metric"], build=build, stats=stats)


def _check_version(version: str, library_version: str) -> None:
    if not (version.isascii() and version.isdigit() and len(version) < 10 and int(version) > 0):
        raise ValueError(f"format_version must be a positive integer, got {version!r}")
    if int(version) != FORMAT_VERSION:
        raise ValueError(
            f"format_version must be {FORMAT_VERSION} for hardmine {__version__}, "
            f"got {version}, written by hardmine {library_version}: build and save the index again"
        )


def _parse_json(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} must be JSON, got {text[:80]!r}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a JSON object, got {text[:80]!r}")
    return value


def _check_build(build: dict[str, Any]) -> None:
    for name, value in build.items():
        try:
            json.dumps(value, allow_nan=False)
        except ValueError as error:
            raise ValueError(f"build must hold finite numbers, got {value!r} for {name}") from error


def _check_stats(stats: dict[str, Any]) -> None:
    for name in _RATES:
        rate: Any = stats.get(name)
        if type(rate) not in (int, float) or not 0 <= rate <= 1:
            raise ValueError(f"stats must have {name} from 0 to 1, got {rate!r}")
    for name in _COUNTS:
        if type(stats.get(name)) is not int or not 0 <= stats[name] < 2**63:
            raise ValueError(f"stats must have {name} from 0 to 2**63 - 1, got {stats.get(name)!r}")
    widths = stats.get("widths")
    if not isinstance(widths, list) or len(widths) != len(WIDTH_LISTS):
        raise ValueError(f"stats must have widths for lists of {WIDTH_LISTS} rows, got {widths!r}")
    if any(type(width) is not int or not 0 < width < 2**31 for width in widths) or widths != sorted(widths):
        raise ValueError(f"stats must have widths from 1 to 2**31 - 1, ascending, got {widths!r}")
