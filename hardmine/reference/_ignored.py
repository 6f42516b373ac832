"""Rows with the label to ignore, in plain PyTorch."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from hardmine.types import PairSelection, Selection, TupletTerms

P = ParamSpec("P")
R = TypeVar("R")


def drops_ignored(reference: Callable[P, R], fill: float = 0.0) -> Callable[P, R]:
    """Gives a reference its option ``ignore_index``: it runs on the other rows, and gets None.

    Losses of ignored anchors are ``fill``.
    """

    @functools.wraps(reference)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        ignored = kwargs.pop("ignore_index", None)
        if ignored is None:
            return reference(*args, **kwargs)
        given: dict[str, Any] = dict(zip(("embeddings", "labels", "ref_embeddings", "ref_labels"), args, strict=False))
        given |= kwargs
        keep = given["labels"].long() != ignored
        candidates = keep if given.get("ref_labels") is None else given["ref_labels"].long() != ignored
        for names, mask in (
            (("embeddings", "labels", "ids", "weights"), keep),
            (("ref_embeddings", "ref_labels", "ref_ids"), candidates),
        ):
            given |= {name: given[name][mask] for name in names if given.get(name) is not None}
        call: Any = reference
        result = call(**given)
        ranked = given.get("negative_ranks") is not None and given.get("negative") != "random"
        lists_pairs = given.get("positive") == "all" and reference.__name__ != "tuplet_loss"
        if lists_pairs or ranked:  # an entry per pair, not per anchor
            return renumber(result, keep.nonzero().squeeze(1), candidates.nonzero().squeeze(1))
        return spread(result, keep, candidates.nonzero().squeeze(1), fill)

    return run


def renumber(result: Any, anchors: Tensor, candidates: Tensor) -> Any:
    """The result with an entry per pair, in the row numbers of all rows."""
    if isinstance(result, PairSelection):
        anchor, positive, negative, *similarities = result
        rows = (torch.where(index >= 0, candidates[index], -1) for index in (positive, negative))
        return PairSelection(anchors[anchor], *rows, *similarities)
    return tuple(renumber(part, anchors, candidates) for part in result) if type(result) is tuple else result


def spread(result: Any, keep: Tensor, candidates: Tensor, fill: float = 0.0) -> Any:
    """The result for the rows that ``keep`` marks as that for all rows; ``candidates`` are rows that indices count."""

    def all_rows(values: Tensor, fill: float) -> Tensor:
        full = values.new_full((len(keep),), fill)
        full[keep] = values
        return full

    def row_numbers(index: Tensor) -> Tensor:
        found = index >= 0
        rows = torch.full_like(index, -1)
        rows[found] = candidates[index[found]]
        return all_rows(rows, -1)

    if isinstance(result, Selection):
        indices, similarities = result[:2], result[2:]
        return Selection(*map(row_numbers, indices), *(all_rows(s, math.nan) for s in similarities))
    if isinstance(result, TupletTerms):
        index, s_ap, logsumexp = result
        return TupletTerms(row_numbers(index), all_rows(s_ap, math.nan), all_rows(logsumexp, -math.inf))
    if isinstance(result, Tensor):
        return all_rows(result, fill) if result.dim() else result
    return tuple(spread(part, keep, candidates, fill) for part in result) if type(result) is tuple else result
