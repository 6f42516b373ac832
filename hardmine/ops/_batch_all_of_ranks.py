"""``group=`` of batch_all_triplet_loss."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

from hardmine.ops._ranks import PartialLoss, agree_on_checks, check_tensors, gather, group_loss

P = ParamSpec("P")
R = TypeVar("R")


def takes_group(op: Callable[P, R]) -> Callable[P, R]:
    """Gives batch_all_triplet_loss its options ``group`` and ``gradient_reduction``.

    The op declares them and gets None. Every rank computes the whole loss from the rows of all.
    """
    parameters = inspect.signature(op).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}

    @functools.wraps(op)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        group, gradient_reduction = kwargs.pop("group", None), kwargs.pop("gradient_reduction", None)
        call = group_loss("batch_all_triplet_loss", group, gradient_reduction, kwargs.get("reduction", "mean"))
        if call is None:
            return op(*args, **kwargs)
        given: dict[str, Any] = {**defaults, **dict(zip(("embeddings", "labels"), args, strict=False)), **kwargs}
        embeddings, labels, ids, return_counts, *_ = (
            given.pop(name) for name in ("embeddings", "labels", "ids", "return_counts", "group", "gradient_reduction")
        )
        compute: Any = op

        def check() -> None:
            check_tensors((embeddings, labels, None, None, ids, None), call.group)
            compute(embeddings[:0], labels[:0], return_counts=return_counts, **given)

        agree_on_checks(call.group, call.check, check)
        same = {**given, "gradient_reduction": gradient_reduction}
        found = gather(call.group, call.name, same, embeddings, labels, ids)

        def whole() -> PartialLoss:
            all_ids = None if ids is None else found.ids
            loss, counts = compute(found.rows, found.labels, ids=all_ids, return_counts=True, **given)
            return PartialLoss(loss, counts, torch.ones((), device=embeddings.device))

        loss, counts, _ = call.add_up(whole, embeddings.device, mean=True)
        result: Any = (loss, counts) if return_counts else loss
        return result

    return run
