"""Features of a frozen backbone, cached in a file."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hardmine._tensor_file import CHECKSUM, checksum, write_tensors
from hardmine._version import __version__
from hardmine.mining.embedding import embed_chunks
from hardmine.ops._numbers import check_integer
from papers._extras import require
from papers._files import locked

FORMAT, FORMAT_VERSION = "hardmine.features", "1"
_FINGERPRINTS = ("data", "weights", "transform")
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")  # in Python's default repr, which does not show the content


def cache_features(
    backbone: nn.Module,
    dataset: Tensor | torch.utils.data.Dataset,
    path: str | os.PathLike[str],
    *,
    chunk: int = 128,
    num_workers: int = 0,
    progress: bool = True,
    data_fingerprint: str | None = None,
    transform_fingerprint: str | None = None,
) -> Tensor:
    """Read the features of all images from a file, or compute them and write the file if it does not exist.

    The file records the data, weights and transform of its features, and is refused for any others. Each chunk is on
    disk, in the folder `PATH.parts`, before the next one is computed. Ctrl-C, a kill or a power cut therefore costs at
    most one chunk, and the next call resumes there. The complete file replaces the folder. If another process computes
    the same file, the call waits for it (not on Windows).

    Args:
        backbone: Takes images as the data set gives them; see `papers.networks.backbone`. The call puts the backbone
            into evaluation mode temporarily.
        dataset: A tensor [N, ...], or a map-style data set of N items. Items are images of one size, or tuples that
            start with such an image.
        path: The safetensors file. Missing folders are created.
        chunk: Number of images per forward pass.
        num_workers: Worker processes of the ``DataLoader`` that reads a data set.
        progress: Show progress bars on stderr.
        data_fingerprint: Any text that identifies the images. By default they are identified by the bytes of the
            tensor, or by the bytes of the files in `dataset.paths` and their names relative to their common folder. By
            default, every call reads these files.
        transform_fingerprint: Any text that identifies the transform; by default the repr of `dataset.transform`.

    Returns:
        Features float32 [N, F] on the CPU.

    Raises:
        TypeError: `backbone` is not a module, or another argument has the wrong type.
        ValueError: The file, or a chunk in the folder, belongs to other data, weights or another transform; the file is
            damaged; the data set is empty; its images or its transform cannot be identified; `chunk` is below 1.
        FloatingPointError: A feature is not finite; the message names the first such image.
        OSError: The file cannot be written.
        ModuleNotFoundError: safetensors, NumPy or tqdm is not installed.

    Note:
        Weights are identified by all parameters and buffers, and by the backbone's repr. With another chunk size, the
        last bits of a convolution may differ.
    """
    if not isinstance(backbone, nn.Module):
        raise TypeError(f"backbone must be a torch.nn.Module, got {type(backbone).__name__}")
    chunk = check_integer("chunk", chunk, 1)
    if len(dataset) == 0:
        raise ValueError("dataset must contain at least one image, got none")
    for module in ("safetensors.numpy", "tqdm"):
        require(module)
    path = Path(path)
    parts = path.with_name(f"{path.name}.parts")
    expected = {
        "data": _data_fingerprint(dataset, progress) if data_fingerprint is None else data_fingerprint,
        "weights": _weights_fingerprint(backbone),
        "transform": _transform_fingerprint(dataset) if transform_fingerprint is None else transform_fingerprint,
    }
    if not path.exists():
        parts.mkdir(parents=True, exist_ok=True)
        with locked(parts):
            if not path.exists():  # else the process that had the lock before wrote it, and removed the folder
                features = _computed(backbone, dataset, parts, expected, chunk, num_workers, progress)
                _write(path, features, expected, 0)
                shutil.rmtree(parts, ignore_errors=True)
                return features
    features = _features_of(path, expected, 0, len(dataset))
    shutil.rmtree(parts, ignore_errors=True)
    return features


def _computed(
    backbone: nn.Module,
    dataset: Tensor | torch.utils.data.Dataset,
    parts: Path,
    expected: dict[str, str],
    chunk: int,
    num_workers: int,
    progress: bool,
) -> Tensor:
    """The features in the folder of chunks, and those that are missing in it, which are computed."""
    done = list(_finished_parts(parts, expected, len(dataset)))
    first = sum(map(len, done))
    if first < len(dataset):
        chunks = embed_chunks(backbone, dataset, chunk=chunk, num_workers=num_workers, first=first)
        with closing(chunks), _bar(len(dataset), first, "features", progress) as bar:
            for features in chunks:
                _write(parts / _part_name(first), features, expected, first)
                done.append(features)
                first += len(features)
                bar.update(len(features))
    return torch.cat(done)


def _finished_parts(parts: Path, expected: dict[str, str], count: int) -> Iterator[Tensor]:
    """The valid, contiguous chunks in the folder, from the first image on."""
    first = 0
    while first < count and (path := parts / _part_name(first)).exists():
        try:
            features = _features_of(path, expected, first, None)
        except _DamagedError:  # the disk lost data that it had reported as written: compute again
            return
        if first + len(features) > count:
            return
        yield features
        first += len(features)


def _part_name(first: int) -> str:
    return f"{first:010d}.safetensors"


def _write(path: Path, features: Tensor, expected: dict[str, str], first: int) -> None:
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "library_version": __version__,
        "first": str(first),
        **expected,
    }
    write_tensors(path, {"features": features.contiguous().numpy()}, metadata)


class _DamagedError(ValueError):
    """A file whose content is damaged."""


def _features_of(path: Path, expected: dict[str, str], first: int, count: int | None) -> Tensor:
    """Read the features in a file, which must belong to `count` images, starting at index `first`."""
    safetensors = require("safetensors")
    with path.open("rb"):  # raises Python's standard errors, also for folders
        pass
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT or set(file.keys()) != {"features"}:
                raise ValueError(f"{path} is not a file of features; delete it or choose another path")
            if metadata.get("format_version") != FORMAT_VERSION:
                raise ValueError(
                    f"{path} has the format version {metadata.get('format_version')!r}, hardmine {__version__} reads "
                    f"{FORMAT_VERSION!r}; delete it or choose another path"
                )
            features = file.get_tensor("features")
    except safetensors.SafetensorError as error:
        raise _DamagedError(f"{path} is truncated or damaged ({error}); delete it") from error
    if metadata.get(CHECKSUM) != checksum(metadata, {"features": features}):
        raise _DamagedError(f"{path} is damaged: its checksum does not match its contents; delete it")
    differences = [f"{name} {metadata.get(name)!r}" for name in _FINGERPRINTS if metadata.get(name) != expected[name]]
    if differences:
        requested = ", ".join(
            f"{name} {expected[name]!r}" for name in _FINGERPRINTS if metadata.get(name) != expected[name]
        )
        raise ValueError(
            f"{path} contains features of other {' and '.join(d.partition(' ')[0] for d in differences)}: "
            f"{', '.join(differences)}, requested {requested}; delete it or choose another path"
        )
    if metadata.get("first") != str(first) or (count is not None and len(features) != count):
        raise _DamagedError(
            f"{path} must contain {count} rows from row {first} on, "
            f"got {len(features)} from row {metadata.get('first')}"
        )
    return torch.from_numpy(features)


def _data_fingerprint(dataset: Tensor | torch.utils.data.Dataset, progress: bool) -> str:
    digest = hashlib.sha256()
    if isinstance(dataset, Tensor):
        _add_tensor(digest, dataset)
        return f"sha256 {digest.hexdigest()}"
    if getattr(dataset, "paths", None) is None:
        raise ValueError(
            f"dataset must be a tensor or have paths, the files of its images, got a {type(dataset).__name__}; "
            "without them, pass data_fingerprint to identify the images"
        )
    paths = [Path(path).absolute() for path in dataset.paths]
    if len(paths) != len(dataset):
        raise ValueError(f"dataset must have one path for each of its {len(dataset)} images, got {len(paths)} paths")
    home = os.path.commonpath([path.parent for path in paths])
    with _bar(len(paths), 0, "reading", progress) as bar:
        for path in paths:
            name = path.relative_to(home).as_posix()
            digest.update(f"{len(name)} {name} {path.stat().st_size} ".encode())
            digest.update(path.read_bytes())
            bar.update(1)
    return f"sha256 {digest.hexdigest()}"


def _weights_fingerprint(backbone: nn.Module) -> str:
    digest = hashlib.sha256(_identifying_repr("backbone", backbone, "including its parts").encode())
    _add_weights(digest, backbone)
    return f"sha256 {digest.hexdigest()}"


def weights_digest(module: nn.Module) -> str:
    """The SHA-256 of all parameters and buffers and their names. It is the same under other versions of packages."""
    digest = hashlib.sha256()
    _add_weights(digest, module)
    return digest.hexdigest()


def _add_weights(digest: Any, module: nn.Module) -> None:
    for name, tensor in _named_tensors(module):
        digest.update(f"{len(name)} {name}".encode())
        _add_tensor(digest, tensor)


def _named_tensors(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """All parameters and buffers, including those that a state dict leaves out."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def _transform_fingerprint(dataset: Tensor | torch.utils.data.Dataset) -> str:
    transform = getattr(dataset, "transform", None)
    return _identifying_repr("dataset.transform", transform, "unless transform_fingerprint is given")


def _identifying_repr(name: str, value: Any, condition: str) -> str:
    text = repr(value)
    if _ADDRESS.search(text):
        raise ValueError(f"{name} must have a repr that identifies it, {condition}, got {text}")
    return text


def _add_tensor(digest: Any, tensor: Tensor) -> None:
    """Add the type, the shape and the bytes of a tensor to a digest."""
    digest.update(f" {tensor.dtype} {list(tensor.shape)} ".encode())
    # NumPy has no bfloat16, but every tensor can be viewed as bytes
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _bar(total: int, done: int, title: str, progress: bool) -> Any:
    return require("tqdm").tqdm(total=total, initial=done, desc=title, unit="image", disable=not progress)
