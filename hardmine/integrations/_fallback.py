"""When a hardmine op computes a class of another library, and when that library's own code does."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from hardmine import _library
from hardmine.ops._arguments import FLOAT_DTYPES, INTEGER_DTYPES

_warned: set[tuple[str, str]] = set()
# Packages whose lines are never those of a user who calls a loss.
_LIBRARIES = {
    "accelerate",
    "hardmine",
    "lightning",
    "open_clip",
    "pytorch_lightning",
    "pytorch_metric_learning",
    "sentence_transformers",
    "torch",
    "transformers",
}


class NotFused(Exception):  # noqa: N818  # no error: the library's code runs instead
    """No hardmine op computes this call.

    ``reason`` is None where the library's own code is the faster one, raises the error, or has a rule of its own.
    """

    def __init__(self, reason: str | None) -> None:
        super().__init__(reason)
        self.reason = reason


def fused_or_theirs(
    library: str, module: Any, own: type, fused: Callable[..., Any], theirs: Callable[..., Any], *inputs: Any
) -> Any:
    """The result of ``fused``, or if it raises :class:`NotFused`, that of ``theirs``, with one warning per reason.

    Args:
        library: The name of the library, for the warning.
        module: A miner or a loss.
        own: The class of hardmine that calls. Subclasses of it may have other rules, which only their code follows.
        fused: The computation with hardmine's ops.
        theirs: The same method of the library.
        inputs: What both take.
    """
    try:
        if type(module) is not own:
            raise NotFused(f"it is a subclass of {own.__name__}")
        return fused(*inputs)
    except NotFused as why:
        reason = why.reason
    if reason is not None:
        warn_once(type(module).__name__, library, reason)
    return theirs(*inputs)


def warn_once(name: str, library: str, reason: str) -> None:
    """Says that a class or function runs the library's own code, once per reason, at the user's line."""
    if (name, reason) in _warned:
        return
    _warned.add((name, reason))
    depth, frame = 1, sys._getframe(0)
    while frame.f_back is not None and _is_of_library(frame):
        depth, frame = depth + 1, frame.f_back
    warnings.warn(f"{name} runs the code of {library} itself: {reason}", stacklevel=depth)


def _is_of_library(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _LIBRARIES


def forbid_refused_rows(rows: Tensor, refs: Tensor) -> None:
    """Raises NotFused for rows [B, D] and refs [M, D] that hardmine's ops would refuse."""
    for each in (rows, refs):
        if each.dim() != 2 or each.device != rows.device or each.shape[1] != rows.shape[1]:
            raise NotFused(None)  # the library raises its error
        if each.dtype not in FLOAT_DTYPES or each.dtype != rows.dtype:
            raise NotFused(f"embeddings of dtype {rows.dtype} and refs of dtype {refs.dtype}")
        if each.layout != torch.strided:
            raise NotFused(f"embeddings with the layout {each.layout}")
    if rows.device.type not in ("cpu", "cuda"):
        raise NotFused(f"embeddings on the device {rows.device.type}")
    if rows.is_cuda and (problem := _library.cuda_problem(rows.device.index)):
        raise NotFused(problem)


def forbid_refused_labels(labels: Tensor) -> None:
    """Raises NotFused for labels that are not integers."""
    if labels.dtype not in INTEGER_DTYPES:
        raise NotFused(f"labels of dtype {labels.dtype}")


def forbid_zero_rows(*rows: Tensor) -> None:
    """A row of norm 0 stays 0 when it is normalized."""
    if any((each.detach().norm(dim=1) <= 1e-12).any() for each in rows):
        raise NotFused("an embedding has norm 0")


def as_theirs(value: Tensor, embeddings: Tensor) -> Tensor:
    """The loss in the dtype of the library's: that of the embeddings, or what autocast gives."""
    return value if torch.is_autocast_enabled(embeddings.device.type) else value.to(embeddings.dtype)
