"""Shapes and dtypes of what the compiled ops return, for fake tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of similarities and losses: what the ops accumulate in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def fake_selection(embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two similarities and the two indices of a selection."""
    index = embeddings.new_empty(embeddings.shape[0], dtype=torch.int64)
    values = embeddings.new_empty(embeddings.shape[0], dtype=accumulate_dtype(embeddings.dtype))
    return values, torch.empty_like(values), index, torch.empty_like(index)


def fake_gradients(
    embeddings: Tensor, ref_embeddings: Tensor | None, need_embeddings: bool, need_ref_embeddings: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of embeddings and refs; one that is not needed is empty."""

    def like(rows: Tensor | None, need: bool) -> Tensor:
        return embeddings.new_empty(rows.shape if need and rows is not None else (0,))

    return like(embeddings, need_embeddings), like(ref_embeddings, need_ref_embeddings)


def fake_triplet_loss(embeddings: Tensor, triplets: Tensor, reduced: bool) -> tuple[Tensor, Tensor, Tensor]:
    """A loss on given triplets, and the measures of their pairs."""
    values = embeddings.new_empty(triplets.shape[0], dtype=accumulate_dtype(embeddings.dtype))
    loss = values.new_empty(()) if reduced else torch.empty_like(values)
    return loss, torch.empty_like(values), torch.empty_like(values)
