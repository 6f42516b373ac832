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
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    names = ("embeddings", "labels", "ref_embeddings", "ref_labels", "ids", "ref_ids")

    @functools.wraps(op)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        group, gradient_reduction = kwargs.pop("group", None), kwargs.pop("gradient_reduction", None)
        call = group_loss("batch_all_triplet_loss", group, gradient_reduction, kwargs.get("reduction", "mean"))
        if call is None:
            return op(*args, **kwargs)
        given: dict[str, Any] = {**defaults, **dict(zip(names[:4], args, strict=False)), **kwargs}
        embeddings, labels, refs, ref_labels, ids, ref_ids, return_counts, *_ = inputs = [
            given.pop(name) for name in (*names, "return_counts", "group", "gradient_reduction")
        ]
        compute: Any = op

        def check() -> None:
            check_tensors(tuple(inputs[:6]), call.group)
            compute(embeddings[:0], labels[:0], return_counts=return_counts, **given)

        agree_on_checks(call.group, call.check, check)
        same = {"gradient_reduction": gradient_reduction, "whether there are ref_embeddings": refs is not None, **given}
        found = gather(call.group, call.name, same, embeddings, labels, ids)
        whole_inputs = [found.rows, found.labels, None, None, None if ids is None else found.ids, None]
        if refs is not None:
            others = gather(
                call.group, call.name, same, refs, ref_labels, ref_ids, anchors=embeddings, names=names[2:4] + names[5:]
            )
            whole_inputs[2:4] = others.rows, others.labels
            whole_inputs[5] = None if ids is None else others.ids

        def whole() -> PartialLoss:
            of_all = dict(zip(names, whole_inputs, strict=True))
            loss, counts = compute(**of_all, return_counts=True, **given)
            return PartialLoss(loss, counts, torch.ones((), device=embeddings.device))

        loss, counts, _ = call.add_up(whole, embeddings.device, mean=True)
        result: Any = (loss, counts) if return_counts else loss
        return result

    return run
