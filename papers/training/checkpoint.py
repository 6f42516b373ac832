"""Checkpoints: atomically written files with all state that resuming a training bit for bit needs.

A checkpoint is a file of `torch.save`, a zip archive, whose comment is the SHA-256 of all bytes before the comment. A
damaged file is therefore refused, and `torch.load(..., weights_only=True)` reads it like any other.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hardmine._version import __version__
from papers._files import save_atomically
from papers.recipes.recipe import with_defaults

FORMAT, FORMAT_VERSION = "hardmine.checkpoint", 2
FILE = "checkpoint.pt"
_EPOCHS = "recipe.schedule.epochs"
_DIGEST_BYTES = 64  # SHA-256 in hexadecimal digits


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically. The old one stays until the new one is on disk.

    Raises:
        OSError: The checkpoint cannot be written, for example because the disk is full.
    """
    # Not directly to the file: on a full disk, torch.save would raise a RuntimeError that hides the cause.
    file = io.BytesIO()
    torch.save({"format": FORMAT, "format_version": FORMAT_VERSION, "version": __version__, **state}, file)
    content = bytearray(file.getbuffer())
    content[-2:] = _DIGEST_BYTES.to_bytes(2, "little")  # a zip archive ends with the length of its comment, 0 before
    content += hashlib.sha256(content).hexdigest().encode()
    save_atomically(path, lambda temp_path: temp_path.write_bytes(content))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint. Nothing in the file is executed.

    Raises:
        OSError: The checkpoint cannot be read.
        ValueError: The file is damaged, or not a checkpoint.
    """
    content = path.read_bytes()
    body, digest = memoryview(content)[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError(f"{path} is not a readable checkpoint: it is damaged, or another kind of file")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the checksum matches, so it was written like this; unpickling can raise any error
        raise ValueError(f"{path} is not a readable checkpoint: it contains more than plain values") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path} must be a checkpoint of hardmine, got another kind of file")
    version = state.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has the format version {version}, hardmine {__version__} reads {FORMAT_VERSION}")
    return state


def check_same_run(path: Path, state: Mapping[str, Any], recipe: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Check that a checkpoint is from the same recipe and data, but perhaps of fewer epochs.

    Raises:
        ValueError: The recipe or the data differ; the message names every difference.
    """
    saved = _flat({"recipe": with_defaults(state["recipe"]), "data": state["data"]})
    current = _flat({"recipe": recipe, "data": data})
    if has_more_epochs(recipe, state["recipe"]):
        del saved[_EPOCHS], current[_EPOCHS]
    differences = [
        f"{key.removeprefix('recipe.')} was {_shown(saved, key)}, is {_shown(current, key)}"
        for key in sorted(saved.keys() | current.keys())
        if saved.get(key, ...) != current.get(key, ...)
    ]
    if differences:
        raise ValueError(
            f"{path} is from another recipe or other data, and cannot be resumed: {'; '.join(differences)}"
        )


def has_more_epochs(recipe: Mapping[str, Any], saved: Mapping[str, Any]) -> bool:
    """Whether a recipe prolongs a saved one. No setting depends on the number of epochs, so all else stays equal."""
    epochs, before = _flat({"recipe": recipe}).get(_EPOCHS), _flat({"recipe": saved}).get(_EPOCHS)
    return isinstance(epochs, int) and isinstance(before, int) and epochs > before


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return repr(flat[key]) if key in flat else "not given"


def random_state() -> dict[str, Any]:
    """The states of torch's global generators."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore the states from :func:`random_state`."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
