"""What triplet_loss and sct_loss share: the loss of one process or of all ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hardmine.ops._anchor_losses import check_group_weights
from hardmine.ops._compiled_triplet_loss import check_options, compute
from hardmine.ops._composed_triplet_loss import is_composed, weighted_loss, weighted_part
from hardmine.ops._groups import agree_on_checks
from hardmine.ops._ranks import (
    Anchors,
    PartialLoss,
    all_rows,
    check_tensors,
    group_loss,
    own_part,
    shares_pairs,
    with_requested,
)
from hardmine.ops._shared_losses import TRIPLET_OPTIONS, split_options
from hardmine.ops._sums import ordered_sum
from hardmine.ops._triplet_terms import counts_of, is_hard
from hardmine.ops.select_triplets import as_selection
from hardmine.types import LossResult

_MEANS = ("mean", "mean_active")


def loss_of_selected(
    op: str,
    resolve: Callable[[dict[str, Any]], dict[str, Any]],
    inputs: tuple[Any, ...],
    options: dict[str, Any],
    flags: tuple[bool, bool],
    group: Any,
    gradient_reduction: Any,
    weights: Any = None,
) -> LossResult[Any]:
    """The results of triplet_loss and sct_loss; ``flags`` say whether the selection and the count are among them."""
    call = group_loss(op, group, gradient_reduction, options["reduction"])
    count: Tensor | None
    if call is None:
        resolved = resolve(options)
        if not is_composed(resolved, weights):
            loss, selection, counted = compute(inputs, resolved, flags)
        else:
            check_options(inputs[0], resolved, flags)
            loss, selection, counted = weighted_loss(inputs, resolved, weights)
        count = counted.sum() if flags[1] else None
    else:

        def check() -> None:
            check_tensors(inputs, call.group)
            check_options(inputs[0], resolve(options), flags)
            check_group_weights(weights, inputs[0])

        agree_on_checks(call.group, call.check, check)
        resolved = resolve(options)
        same = {**{name: resolved[name] for name in options}, "gradient_reduction": gradient_reduction}
        same["weights"] = weights
        composed = is_composed(resolved, weights)
        if not composed and resolved["positive"] != "all" and shares_pairs(inputs, resolved):
            compiled_options = split_options(check_options(inputs[0], resolved, flags), TRIPLET_OPTIONS)
            rows, anchors = all_rows(call.group, op, same, inputs)
            loss, *selected = torch.ops.hardmine.triplet_loss_in_parts(
                *rows, *compiled_options, call.scale, call.group.group_name
            )
            selection = as_selection(*(values[anchors.own] for values in selected)) if flags[0] else None
            count = counts_of(as_selection(*selected), resolved).sum() if flags[1] else None
            return with_requested(loss, (selection, count), flags)
        part, anchors = own_part(call.group, op, same, inputs)
        mean = resolved["reduction"] in _MEANS
        size = 2 if mean and resolved.get("separate_means") else 1
        loss, selection, counts = call.add_up(
            lambda: _part_of_loss(part, resolved, anchors, weights),
            inputs[0].device,
            mean=mean,
            size=size + 1 if mean and composed else size,
        )
        selection = type(selection)(*(values.detach() for values in selection))
        count = counts[-1] if composed else counts.sum()
    return with_requested(loss, (selection, count), flags)


def _part_of_loss(
    inputs: tuple[Any, ...], options: dict[str, Any], anchors: Anchors, weights: Tensor | None = None
) -> PartialLoss:
    """The loss of this rank's anchors, not divided by their number; for separate means, of hard ones and of others."""
    if is_composed(options, weights):
        return weighted_part(inputs, options, anchors, weights)
    reduction = options["reduction"]
    separate = reduction in _MEANS and options.get("separate_means")
    reduced_by = "none" if separate or reduction in ("none", "mean_active") else "sum"
    losses, selection, _ = compute(inputs, {**options, "reduction": reduced_by}, (True, False), anchors)
    counts = counts_of(selection, options)
    if reduction == "mean_active" and not separate:
        return PartialLoss(ordered_sum(torch.where(counts, losses, 0.0)), selection, counts.sum())
    if not separate:
        return PartialLoss(losses, selection, counts.sum())
    hard = counts & is_hard(selection, options)
    easy = counts & ~hard
    totals = torch.stack([ordered_sum(torch.where(part, losses, 0.0)) for part in (hard, easy)])
    return PartialLoss(totals, selection, torch.stack([hard.sum(), easy.sum()]))
