"""The comparison of an op with ``group=``: what all ranks computed, against the reference on the rows of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hardmine.types import PairSelection
from hardmine.verification.base import OpComparison

if TYPE_CHECKING:
    import torch.distributed as dist


def compare_ranks(
    comparison: OpComparison,
    group: dist.ProcessGroup,
    gradient_reduction: str | None,
    report: Callable[[str], tuple[str, str]],
) -> tuple[str, str] | None:
    """The message of a disagreement and the path of its file, the same on every rank; or None.

    Every rank runs the op. The first rank runs the reference, on the rows of all, and reports what differs.
    """
    from hardmine.ops._groups import NUM_SIZES, agree, broadcast_text  # imported late: verify needs no compiled library

    options = {"group": group, "gradient_reduction": gradient_reduction}
    if comparison.name in ("select_triplets", "knn"):
        del options["gradient_reduction"]
    loss, returned, gradients = _run(comparison, options, group)
    failure, message = None, ("", "")
    if group.rank() == 0:
        try:
            problem = comparison.disagreement(loss, returned, gradients)
            message = report(problem) if problem else message
        except Exception as error:
            failure = error
    agree(group, {}, [0] * NUM_SIZES, failure)
    device = comparison.rows[0].device
    text, path = (broadcast_text(group, 0, part, device) for part in message)
    return (text, path) if text else None


def _run(
    comparison: OpComparison, options: dict[str, Any], group: dist.ProcessGroup
) -> tuple[Tensor, Any, tuple[Tensor, ...]]:
    """The loss, what the op returned beside it and the gradients, of all ranks. The arguments become those of all."""
    comparison.prepare_for_ranks()
    leaves = [rows.clone().requires_grad_() for rows in comparison.rows]
    arguments = {**comparison.arguments, **dict(zip(comparison.names, leaves, strict=True)), **options}
    loss, returned = comparison.fused(arguments)
    scale = 1.0
    if loss.dim():
        counts = [len(part) for part in _parts(loss, group)]
        weights = torch.linspace(0.5, 1.5, sum(counts), dtype=loss.dtype, device=loss.device)
        scalar = (loss * weights.split(counts)[group.rank()]).sum()
        loss = _gathered(loss, group)
    else:
        scalar = loss
        scale = 1.0 if options.get("gradient_reduction") == "sum" else 1.0 / group.size()
    gradients = tuple(_gathered(g, group) * scale for g in torch.autograd.grad(scalar, leaves))
    if isinstance(returned, PairSelection):  # whose anchors are numbered within their rank
        counts = [len(part) for part in _parts(comparison.arguments["labels"], group)]
        returned = returned._replace(anchor_index=returned.anchor_index + sum(counts[: group.rank()]))
    if returned is not None:
        returned = type(returned)(*(_gathered(value, group) for value in returned))
    for name in (
        "embeddings",
        "ref_embeddings",
        "queries",
        "query",
        "positive_key",
        "negative_keys",
        "key",
        "refs",
        "labels",
        "ref_labels",
        "ids",
        "ref_ids",
        "weights",
        "triplets",
    ):
        if comparison.arguments.get(name) is not None:
            comparison.arguments[name] = _gathered(comparison.arguments[name], group)
    comparison.rows = [comparison.arguments[name] for name in comparison.names]
    comparison.gradient_tolerance *= 2  # each rank rounds its gradients
    comparison.outputs |= {"loss": loss.detach(), "gradients": gradients}
    if comparison.returned:
        comparison.outputs[comparison.returned] = tuple(value.detach() for value in returned)
    return loss.detach(), returned, gradients


def _parts(tensor: Tensor, group: dist.ProcessGroup) -> list[Tensor]:
    """The tensors of all ranks, whose lengths may differ."""
    from hardmine.ops._gather import gather_tensors
    from hardmine.ops._groups import all_counts

    lengths = [[int(count)] for count in all_counts(group, [len(tensor)], tensor.device)[:, 0]]
    return list(gather_tensors([tensor.detach()], lengths, group)[0].split([count for (count,) in lengths]))


def _gathered(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The tensors of all ranks, one after the other; a scalar, which all ranks have, as it is."""
    return torch.cat(_parts(tensor, group)) if tensor.dim() else tensor.detach()
