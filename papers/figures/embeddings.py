"""The file of a run's embeddings, ``embeddings.safetensors``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardmine.ops._arguments import FLOAT_DTYPES, INTEGER_DTYPES, shape_of
from papers._extras import require
from papers._files import save_atomically
from papers.figures.formats import SPLITS


@dataclass(frozen=True)
class EmbeddingSet:
    """The embeddings of the training classes, of the retrieved-only classes, or of both.

    Attributes:
        train_embeddings: float32 [N, D], or None.
        train_labels: int64 [N], or None.
        test_embeddings: float32 [M, D], or None.
        test_labels: int64 [M], or None.
    """

    train_embeddings: Tensor | None = None
    train_labels: Tensor | None = None
    test_embeddings: Tensor | None = None
    test_labels: Tensor | None = None


def save_embeddings(
    path: str | os.PathLike[str],
    *,
    train: tuple[Tensor, Tensor] | None = None,
    test: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Write ``embeddings.safetensors`` atomically.

    Args:
        path: Name of the file; an existing file is replaced.
        train: Embeddings [N, D], floating, and labels [N], integers, of the training classes.
        test: The same for the classes that are only retrieved.

    Raises:
        OSError: The file cannot be written.
        TypeError: A tensor has the wrong dtype.
        ValueError: A tensor has the wrong shape, an embedding is not finite, or both are None.
        ModuleNotFoundError: safetensors is not installed.

    Note:
        Embeddings are stored as float32, labels as int64. Equal tensors give equal bytes.
    """
    safetensors = require("safetensors.torch")
    if train is None and test is None:
        raise ValueError("train or test must be given, got None for both")
    tensors = _checked({"train": train or (None, None), "test": test or (None, None)})
    # Not save_file, which raises nonstandard errors and sets nonstandard file permissions. Copies, since safetensors
    # refuses tensors that share memory, such as two halves of one tensor.
    copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    content = safetensors.save(copies)
    save_atomically(Path(path), lambda part: part.write_bytes(content))


def read_embeddings(path: str | os.PathLike[str]) -> EmbeddingSet:
    """Read ``embeddings.safetensors``.

    Args:
        path: Name of the file. :mod:`papers.figures.formats` describes it.

    Returns:
        The embeddings, as float32, and their labels, as int64.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file has other contents. The message names file and tensor.
        ModuleNotFoundError: safetensors is not installed.
    """
    error = require("safetensors").SafetensorError
    with open(path, "rb"):  # raises Python's standard errors, also for folders
        pass
    try:
        tensors = require("safetensors.torch").load_file(path)
    except error as problem:
        raise ValueError(f"{path} is not a safetensors file: {problem}") from problem
    names = [f"{split}_{kind}" for split in SPLITS for kind in ("embeddings", "labels")]
    unknown = sorted(set(tensors) - set(names))
    if unknown or not tensors:
        got = f"{unknown[0]!r}" if unknown else "none"
        raise ValueError(f"{path}: its tensors must be among {', '.join(names)}, got {got}")
    pairs = {split: (tensors.get(f"{split}_embeddings"), tensors.get(f"{split}_labels")) for split in SPLITS}
    try:
        return EmbeddingSet(**_checked(pairs))
    except (TypeError, ValueError) as problem:
        raise ValueError(f"{path}: {problem}") from problem


def rows_of(name: str, run: EmbeddingSet, split: str) -> tuple[Tensor, Tensor]:
    """The embeddings and labels of a split. A figure requires the split; `name` is the runs' name for errors."""
    embeddings, labels = getattr(run, f"{split}_embeddings"), getattr(run, f"{split}_labels")
    if embeddings is None or labels is None:
        raise ValueError(f"runs[{name!r}] must have {split}_embeddings and {split}_labels, got none")
    return embeddings, labels


def _checked(pairs: Mapping[str, tuple[Any, Any]]) -> dict[str, Tensor]:
    """The tensors of the given splits by their names in the file, as float32 and int64 on the CPU."""
    checked: dict[str, Tensor] = {}
    for split, (embeddings, labels) in pairs.items():
        if embeddings is not None or labels is not None:
            checked |= _checked_pair(f"{split}_embeddings", f"{split}_labels", embeddings, labels)
    depths = [tensor.shape[1] for tensor in checked.values() if tensor.ndim == 2]
    if len(set(depths)) > 1:
        raise ValueError(
            f"test_embeddings must be [M, D] with the D = {depths[0]} of train_embeddings, got {depths[1]}"
        )
    return checked


def _checked_pair(rows_name: str, labels_name: str, embeddings: Any, labels: Any) -> dict[str, Tensor]:
    for name, tensor, dtypes, kind in (
        (rows_name, embeddings, FLOAT_DTYPES, "a floating-point"),
        (labels_name, labels, INTEGER_DTYPES, "an integer"),
    ):
        if tensor is None:
            raise ValueError(f"{name} is missing")
        if not isinstance(tensor, Tensor) or tensor.dtype not in dtypes:
            got = str(tensor.dtype) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"{name} must be {kind} tensor, got {got}")
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise ValueError(f"{rows_name} must be [rows, D] with rows, D >= 1, got {shape_of(embeddings)}")
    if labels.ndim != 1 or len(labels) != len(embeddings):
        raise ValueError(
            f"{labels_name} must be [{len(embeddings)}], one per row of {rows_name}, got {shape_of(labels)}"
        )
    embeddings = embeddings.detach().to("cpu", torch.float32)
    finite = embeddings.square().sum(1).isfinite()
    if not finite.all():
        raise ValueError(f"{rows_name} must be finite, got row {int((~finite).nonzero()[0])}")
    return {rows_name: embeddings, labels_name: labels.detach().to("cpu", torch.int64)}
