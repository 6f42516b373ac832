"""``group=`` of batch_all_triplet_loss."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

from hardmine.ops._groups import agree_on_checks
from hardmine.ops._ranks import PartialLoss, check_tensors, group_loss, own_part
from hardmine.types import TripletCounts

P = ParamSpec("P")
R = TypeVar("R")


def takes_group(op: Callable[P, R]) -> Callable[P, R]:
    """Gives batch_all_triplet_loss its options ``group`` and ``gradient_reduction``.

    The op declares them and gets None. Every rank computes the triplets of its own anchors.
    """
    parameters = inspect.signature(op).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    names = ("embeddings", "labels", "ref_embeddings", "ref_labels", "ids", "ref_ids")

    @functools.wraps(op)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        group, gradient_reduction = kwargs.pop("group", None), kwargs.pop("gradient_reduction", None)
        reduction = kwargs.get("reduction", defaults["reduction"])
        call = group_loss("batch_all_triplet_loss", group, gradient_reduction, reduction)
        if call is None:
            return op(*args, **kwargs)
        given: dict[str, Any] = {**defaults, **dict(zip(names[:4], args, strict=False)), **kwargs}
        inputs = tuple(given.pop(name) for name in names)
        return_counts, *_ = (given.pop(name) for name in ("return_counts", "group", "gradient_reduction"))
        compute: Any = op

        def check() -> None:
            check_tensors(inputs, call.group)
            compute(inputs[0][:0], inputs[1][:0], return_counts=return_counts, **given)

        agree_on_checks(call.group, call.check, check)
        part, _ = own_part(call.group, call.name, {**given, "gradient_reduction": gradient_reduction}, inputs)

        def triplets_of_own_anchors() -> PartialLoss:
            """The sum of the losses and the count to divide by; and 0 with the other count, which is only returned."""
            options = {**given, "reduction": "sum", "return_counts": True}
            loss, counts = compute(**dict(zip(names, part, strict=True)), **options)
            order = (0, 1) if reduction == "mean_active" else (1, 0)
            totals = torch.stack([loss, torch.zeros_like(loss)])
            return PartialLoss(totals, None, torch.stack([counts[k] for k in order]))

        device = inputs[0].device
        loss, _, counts = call.add_up(triplets_of_own_anchors, device, mean=reduction != "sum", size=2)
        active, total = counts if reduction == "mean_active" else counts.flip(0)
        result: Any = (loss, TripletCounts(active, total)) if return_counts else loss
        return result

    return run
