"""``positive="all"``: every pair of an anchor and one of its positives has its own negative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hardmine.ops._all_positives_of_blocks import loss_in_blocks, select_in_blocks
from hardmine.ops._arguments import (
    ALL_SIMILARITIES,
    FALLBACKS,
    NEGATIVES,
    TERM_REDUCTIONS,
    TIES,
    allow_tf32,
    check_choice,
    selection_numbers,
)
from hardmine.ops._autograd import forbid_double_backward, register_autograd
from hardmine.ops._fakes import accumulate_dtype, fake_gradients
from hardmine.types import PairSelection


def check_all_positives(embeddings: Tensor, options: dict[str, Any]) -> list[int | float]:
    """Checks the resolved options of a selection with all positives; returns them in the order of the schemas."""
    negative = check_choice("negative", options["negative"], NEGATIVES)
    if options["negative"] == "random":
        raise ValueError(
            "negative must be 'hardest', 'easiest' or 'semihard' with positive='all', got 'random': for random "
            "negatives, use positive='random'"
        )
    return [
        check_choice("similarity", options["similarity"], ALL_SIMILARITIES),
        negative,
        check_choice("semihard_fallback", options["semihard_fallback"], FALLBACKS),
        0 if options["tie"] is None else check_choice("tie", options["tie"], TIES),
        *selection_numbers(embeddings, options),
        allow_tf32(embeddings),
    ]


def as_pair_selection(
    positive_similarity: Tensor,
    negative_similarity: Tensor,
    anchor_index: Tensor,
    positive_index: Tensor,
    negative_index: Tensor,
) -> PairSelection:
    """The public tuple of the compiled ops' outputs, which have the differentiable ones first."""
    return PairSelection(anchor_index, positive_index, negative_index, positive_similarity, negative_similarity)


def _fake_pairs(embeddings: Tensor) -> tuple[Tensor, ...]:
    """What select_all_positives returns: the number of pairs depends on the labels."""
    is_empty = isinstance(embeddings.shape[0], int) and embeddings.shape[0] == 0
    count = 0 if is_empty else torch.library.get_ctx().new_dynamic_size()
    values = embeddings.new_empty(count, dtype=accumulate_dtype(embeddings.dtype))
    index = embeddings.new_empty(count, dtype=torch.int64)
    return values, torch.empty_like(values), index, torch.empty_like(index), torch.empty_like(index)


@torch.library.register_fake("hardmine::select_all_positives")
def _(embeddings, *options):
    return _fake_pairs(embeddings)


@torch.library.register_fake("hardmine::select_all_positives_backward")
def _(grad_positive, grad_negative, embeddings, ref_embeddings, *options):
    return fake_gradients(embeddings, ref_embeddings, *options[-2:])


@torch.library.register_fake("hardmine::all_positives_triplet_loss")
def _(embeddings, *options):
    pairs = _fake_pairs(embeddings)
    values = pairs[0]
    return torch.empty_like(values) if TERM_REDUCTIONS[options[-1]] == "none" else values.new_empty(()), *pairs


@torch.library.register_fake("hardmine::all_positives_triplet_loss_backward")
def _(grad_loss, grad_positive, grad_negative, embeddings, ref_embeddings, *options):
    return fake_gradients(embeddings, ref_embeddings, *options[-2:])


def _setup_selection(ctx, arguments, outputs):
    embeddings, _, ref_embeddings, _, _, _, ctx.similarity, *_ = arguments
    ctx.save_for_backward(embeddings, ref_embeddings, *outputs[2:])


def _backward_of_selection(ctx, saved, grad_positive, grad_negative, *_grad_indices):
    need, need_ref, *_ = ctx.needs_input_grad
    grad, grad_ref = torch.ops.hardmine.select_all_positives_backward(
        grad_positive, grad_negative, *saved, ctx.similarity, need, need_ref
    )
    return grad if need else None, grad_ref if need_ref else None


def _setup_loss(ctx, arguments, outputs):
    embeddings, _, ref_embeddings, _, _, _, similarity, _, _, _, _, _, _, *loss_options = arguments
    ctx.options = (similarity, *loss_options)
    ctx.loss_shape = outputs[0].shape
    ctx.save_for_backward(embeddings, ref_embeddings, *outputs[1:])
    ctx.set_materialize_grads(False)


def _backward_of_loss(ctx, saved, grad_loss, grad_positive, grad_negative, *_grad_indices):
    embeddings, ref_embeddings, *pairs = saved
    if grad_loss is None:  # only the returned similarities were used
        grad_loss = pairs[0].new_zeros(ctx.loss_shape)
    need, need_ref, *_ = ctx.needs_input_grad
    grad, grad_ref = torch.ops.hardmine.all_positives_triplet_loss_backward(
        grad_loss, grad_positive, grad_negative, embeddings, ref_embeddings, *pairs, *ctx.options, need, need_ref
    )
    return grad if need else None, grad_ref if need_ref else None


for _name, _in_blocks in (
    ("select_all_positives", select_in_blocks),
    ("all_positives_triplet_loss", loss_in_blocks),
):
    for _key in ("CPU", "CUDA"):
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"hardmine::{_name}", _key):
            torch.library.impl(f"hardmine::{_name}", _key.lower(), _in_blocks)

register_autograd("select_all_positives", (0, 2), _setup_selection, _backward_of_selection)
forbid_double_backward("select_all_positives", range(4))
register_autograd("all_positives_triplet_loss", (0, 2), _setup_loss, _backward_of_loss)
forbid_double_backward("all_positives_triplet_loss", range(7))
