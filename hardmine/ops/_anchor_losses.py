"""Losses with a value per anchor: their weights, their reductions, and their sums over the ranks of a group."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hardmine.ops._arguments import REDUCTIONS, check_choice, check_weights, has_values, is_weight
from hardmine.ops._groups import agree_on_checks
from hardmine.ops._numbers import check_flag
from hardmine.ops._ranks import GroupLoss, PartialLoss, check_tensors, group_loss, own_part, shares_pairs
from hardmine.ops._sums import ordered_sum


class AnchorLosses(NamedTuple):
    """The losses of anchors.

    Attributes:
        values: The loss of each anchor, [B]; 0 for those that do not count.
        counts: Whether each anchor counts in the mean, bool [B].
        details: What the op returns beside the loss.
        sizes: The number of losses that each value is the mean of, [B]; the mean is then over these. None: 1 each.
    """

    values: Tensor
    counts: Tensor
    details: Any = None
    sizes: Tensor | None = None

    def num_losses(self) -> Tensor:
        """The number of losses that count in the mean, int64 []."""
        return self.counts.sum() if self.sizes is None else torch.where(self.counts, self.sizes, 0).sum()

    def mean_weights(self, weights: Tensor | None) -> Tensor | None:
        """The weights of the values in the mean, from those of the anchors. None: 1 each."""
        if self.sizes is None:
            return weights
        sizes = self.sizes.to(self.values.dtype)
        return sizes if weights is None else weights * sizes


def read_weights(weights: Any, rows: Tensor, dtype: torch.dtype, name: str = "embeddings") -> Tensor:
    """The checked weights of ``rows``. Values that could not be checked are NaN if one is wrong."""
    weights = check_weights(weights, rows, name)
    if not has_values(weights):
        weights = torch.where(is_weight(weights).all(), weights, math.nan)
    return weights.to(dtype)


def check_group_weights(weights: Any, rows: Tensor, name: str = "embeddings") -> None:
    """Checks weights beside a ``group``."""
    if weights is not None and check_weights(weights, rows, name).requires_grad:
        raise ValueError("weights must not require a gradient with group: the sum of all ranks has none")


def weighted_mean(total: Tensor, weight: Tensor) -> Tensor:
    """``total / weight``; if the weights add up to 0, the mean is 0, and so are all its gradients."""
    mean = total / torch.where(weight == 0, 1.0, weight)
    return torch.where((weight == 0) & ~total.isnan(), 0.0, mean)


def reduce_losses(losses: AnchorLosses, weights: Tensor | None, reduction: str) -> Tensor:
    """The losses, their sum or their mean, weighted if there are weights of :func:`read_weights`."""
    values, counts, *_ = losses
    weights = losses.mean_weights(weights)
    if weights is not None:
        values = values * weights
    if reduction == "none":
        return values
    total = ordered_sum(values)
    if reduction == "sum":
        return total
    if weights is None:
        return total / counts.sum().clamp(min=1)
    return weighted_mean(total, ordered_sum(torch.where(counts, weights, 0.0)))


def add_up_losses(
    call: GroupLoss, compute: Callable[[], AnchorLosses], weights: Tensor | None, rows: Tensor
) -> tuple[Tensor, Any, Tensor]:
    """The loss of all ranks, the details of this rank's anchors, and the number of all anchors that count."""
    mean = call.reduction in ("mean", "mean_pairs")
    size = 2 if mean and (weights is not None or call.reduction == "mean_pairs") else 1

    def part() -> PartialLoss:
        """With weighted means, weights add up to the divisor, and a second total of 0 carries the count."""
        losses = compute()
        of_rows = None if weights is None else read_weights(weights, rows, losses.values.dtype)
        total = reduce_losses(losses, of_rows, "none" if call.reduction == "none" else "sum")
        count = losses.num_losses()
        of_means = losses.mean_weights(of_rows)
        if of_means is None or size == 1:
            return PartialLoss(total, losses.details, count)
        weight = ordered_sum(torch.where(losses.counts, of_means, 0.0).double())
        divisors = torch.stack([weight, count.to(weight.dtype)])
        return PartialLoss(torch.stack([total, torch.zeros_like(total)]), losses.details, divisors)

    loss, details, counts = call.add_up(part, rows.device, mean=mean, size=size)
    return loss, details, counts[-1]


def loss_of_anchors(
    op: str,
    inputs: tuple[Any, ...],
    options: dict[str, Any],
    flags: dict[str, Any],
    over_ranks: tuple[Any, Any],
    weights: Any,
    check: Callable[[Tensor, dict[str, Any]], Any],
    compute: Callable[[tuple[Any, ...], dict[str, Any]], AnchorLosses],
    share: Callable[[GroupLoss, dict[str, Any]], tuple[Tensor, Any, Tensor]] | None = None,
    reductions: tuple[str, ...] = REDUCTIONS,
) -> tuple[Tensor, Any, Tensor]:
    """The loss of an op on labeled rows, its details, and the number of anchors that count.

    Args:
        op: The name of the op.
        inputs: Rows, labels, refs, their labels, ids and their ids; not checked yet.
        options: The options of the op, ``"reduction"`` among them.
        flags: What the op returns.
        over_ranks: ``group`` and ``gradient_reduction``.
        weights: The weights of the anchors, or None.
        check: Checks the options beside the rows.
        compute: The losses from inputs and options. It checks both, except the reduction.
        share: The results if the ranks share the pairs, from the call and the options that ranks must agree on.
        reductions: The names of the op's reductions.
    """
    call = group_loss(op, *over_ranks, options["reduction"])
    rows = inputs[0]

    def check_options() -> None:
        for name, flag in flags.items():
            check_flag(name, flag)
        check_choice("reduction", options["reduction"], reductions)

    if call is None:
        check_options()
        losses = compute(inputs, options)
        of_rows = None if weights is None else read_weights(weights, rows, losses.values.dtype)
        return reduce_losses(losses, of_rows, options["reduction"]), losses.details, losses.num_losses()

    def check_all() -> None:
        check_tensors(inputs, call.group)
        check_options()
        check(rows, options)
        check_group_weights(weights, rows)

    agree_on_checks(call.group, call.check, check_all)
    same = {**options, "weights": weights, "gradient_reduction": over_ranks[1]}
    if share is not None and weights is None and shares_pairs(inputs, options):
        return share(call, same)
    part, _ = own_part(call.group, op, same, inputs)
    return add_up_losses(call, lambda: compute(part, options), weights, rows)
