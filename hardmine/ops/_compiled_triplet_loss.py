"""The triplet losses as the compiled ops reduce them, and the derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hardmine.ops._all_positives import as_pair_selection
from hardmine.ops._arguments import TERM_REDUCTIONS, check_ids, check_labeled_rows, check_loss
from hardmine.ops._autograd import forbid_double_backward, register_autograd
from hardmine.ops._fakes import fake_gradients, fake_selection
from hardmine.ops._known_options import remember
from hardmine.ops._labeled_losses import has_labeled_losses, triplet_loss_with_gradients
from hardmine.ops._numbers import check_flag
from hardmine.ops._random_draws import draw_random
from hardmine.ops._ranks import Anchors
from hardmine.ops._triplet_terms import counts_of
from hardmine.ops.select_triplets import as_selection, check_rules
from hardmine.types import AnySelection


def check_options(embeddings: Tensor, options: dict[str, Any], flags: tuple[Any, Any]) -> list[int | float]:
    """Checks the resolved options and the flags; returns the options in the order of the compiled ops' schemas."""
    for name, flag in zip(("return_selection", "return_count"), flags, strict=True):
        check_flag(name, flag)
    return check_rules(embeddings, options) + check_loss(embeddings, options)


def compute(
    inputs: tuple[Any, ...],
    options: dict[str, Any],
    flags: tuple[Any, Any],
    anchors: Anchors | None = None,
) -> tuple[Tensor, Any, Any]:
    """The loss, the selection if a flag is set, and whether each anchor counts, [B], if the last is set."""
    embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids = inputs
    labels, ref_labels = check_labeled_rows(embeddings, labels, ref_embeddings, ref_labels)
    ids, ref_ids = check_ids(ids, embeddings, ref_ids, ref_embeddings)
    compiled_options = check_options(embeddings, options, flags)
    rows = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
    named: Callable[..., AnySelection]
    if options["positive"] == "all":
        named = as_pair_selection
        loss, *selected = torch.ops.hardmine.all_positives_triplet_loss(*rows, *compiled_options)
    else:
        named = as_selection
        random = draw_random(embeddings, options, anchors)
        if not any(flags) and options["reduction"] != "none" and has_labeled_losses(embeddings):
            if random is None:
                remember([None, *compiled_options])
            return triplet_loss_with_gradients((*rows, random, *compiled_options)), None, None
        loss, *selected = torch.ops.hardmine.triplet_loss(*rows, random, *compiled_options)
    if not any(flags):
        return loss, None, None
    selection = named(*selected)
    return loss, selection, counts_of(selection, options) if flags[1] else None


@torch.library.register_fake("hardmine::triplet_loss")
def _(embeddings, *options):
    selection = fake_selection(embeddings)
    values = selection[0]
    return torch.empty_like(values) if TERM_REDUCTIONS[options[-1]] == "none" else values.new_empty(()), *selection


@torch.library.register_fake("hardmine::triplet_loss_backward")
def _(grad_loss, grad_positive, grad_negative, embeddings, ref_embeddings, *options):
    return fake_gradients(embeddings, ref_embeddings, *options[-2:])


def _setup_context(ctx, arguments, outputs):
    embeddings, _, ref_embeddings, _, _, _, _, similarity, _, _, _, _, _, _, _, *loss_options = arguments
    ctx.options = (similarity, *loss_options)
    ctx.loss_shape = outputs[0].shape
    ctx.save_for_backward(embeddings, ref_embeddings, *outputs[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx, saved, grad_loss, grad_positive, grad_negative, _grad_positive_index, _grad_negative_index):
    embeddings, ref_embeddings, *selected = saved
    if grad_loss is None:  # only the returned similarities were used
        grad_loss = selected[0].new_zeros(ctx.loss_shape)
    need, need_ref, *_ = ctx.needs_input_grad
    grad, grad_ref = torch.ops.hardmine.triplet_loss_backward(
        grad_loss, grad_positive, grad_negative, embeddings, ref_embeddings, *selected, *ctx.options, need, need_ref
    )
    return grad if need else None, grad_ref if need_ref else None


register_autograd("triplet_loss", (0, 2), _setup_context, _backward)
forbid_double_backward("triplet_loss", range(7))
