"""The rows of all ranks of a process group, as one torch op with a gradient; and the sums of their losses, as another.

torch.compile sees each as one op of the graph. ``hardmine.distributed`` documents them for users.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from hardmine.ops._arguments import check_int64, check_labels, check_rows
from hardmine.ops._autograd import forbid_double_backward, register_autograd
from hardmine.ops._groups import NUM_SIZES, agree, all_gather, check_device, code_of, group_of, raise_everywhere


def check_gathered(
    rows: Any,
    labels: Any,
    ids: Any,
    group: dist.ProcessGroup,
    names: tuple[str, str, str] = ("embeddings", "labels", "ids"),
) -> list[Tensor]:
    """Checks tensors that all ranks gather; returns the labels and the ids, those that are given, as int64."""
    check_rows(names[0], rows, rows)  # compared with itself: hardmine's CUDA library is not needed
    check_device(names[0], rows, group)
    given = {name: values for name, values in zip(names[1:], (labels, ids), strict=True) if values is not None}
    checked = [
        check_labels(name, values, rows, "M" if name.startswith("ref_") else "B") for name, values in given.items()
    ]
    for name, values in given.items():
        check_int64(name, values)
    return checked


def _all_gather_rows(
    rows: Tensor,
    labels: Tensor | None,
    ids: Tensor | None,
    triplets: Tensor | None,
    anchors: int | None,
    needs_grad: bool,
    names: str,
    facts: str,
    numbers: list[float],
    group_name: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    group = group_of(group_name)
    failure, integers, sizes, known = None, [], [0] * NUM_SIZES, {}
    try:
        integers = check_gathered(rows, labels, ids, group, tuple(names.split(",")))  # type: ignore[arg-type]
        known = _facts_of(rows, labels, ids, needs_grad, names.split(","))
        sizes = [len(rows) if anchors is None else anchors, len(rows), 0 if triplets is None else len(triplets)]
    except Exception as error:
        failure = error
    values = iter(numbers)
    options = (line.split("\t") for line in facts.splitlines())
    known = {requirement: value or repr(next(values)).removesuffix(".0") for requirement, value in options} | known
    all_sizes = agree(group, known, sizes, failure)

    counts = [count for _, count, _ in all_sizes]
    local = [*integers, *([] if triplets is None else [triplets.to(torch.int64)]), rows]
    lengths = [[count] * len(integers) + ([] if triplets is None else [many]) + [count] for _, count, many in all_sizes]
    *all_integers, all_rows = gather_tensors(local, lengths, group)
    found = iter(all_integers)
    all_labels, all_ids, all_triplets = (
        torch.empty(0, dtype=torch.int64, device=rows.device) if tensor is None else next(found)
        for tensor in (labels, ids, triplets)
    )

    all_anchors = [count for count, _, _ in all_sizes]
    anchor_number = torch.arange(sum(all_anchors), device=rows.device)
    first = sum(all_anchors[: group.rank()])
    own = anchor_number[first : first + sizes[0]].clone()
    all_counts = torch.tensor(counts, dtype=torch.int64, device="cpu")
    return all_rows, all_labels, all_ids, all_triplets, anchor_number, own, all_counts


def _facts_of(
    rows: Tensor, labels: Tensor | None, ids: Tensor | None, needs_grad: bool, names: list[str]
) -> dict[str, str]:
    """What must be equal on every rank of the tensors that are gathered."""
    return {
        f"{names[0]} must have the same dtype on every rank": str(rows.dtype),
        f"{names[0]} must be [rows, D] with the same D on every rank": str(rows.shape[1]),
        f"{names[0]} must be on the same type of device on every rank": rows.device.type,
        f"{names[1]} must be given on every rank or on none": "None" if labels is None else names[1],
        f"{names[2]} must be given on every rank or on none": "None" if ids is None else names[2],
        f"{names[0]} must require gradients, outside torch.no_grad, on every rank or on none: all ranks take part in "
        "the backward pass": "gradients" if needs_grad else "no gradients",
    }


def gather_tensors(local: list[Tensor], lengths: list[list[int]], group: dist.ProcessGroup) -> list[Tensor]:
    """Tensors of all ranks, each concatenated along its first dimension, in one collective of bytes.

    ``lengths[rank]`` are the first dimensions of the rank's tensors. Every tensor but the last is int64, so that each
    starts at a multiple of 8 bytes.
    """
    row_bytes = [math.prod(tensor.shape[1:]) * tensor.itemsize for tensor in local]
    sizes = [[length * size for length, size in zip(ranks, row_bytes, strict=True)] for ranks in lengths]
    stride = 8 * max(1, -(-max(map(sum, sizes)) // 8))
    packed = torch.empty(stride, dtype=torch.uint8, device=local[0].device)
    parts = packed.split([*sizes[group.rank()], stride - sum(sizes[group.rank()])])
    for part, tensor in zip(parts, local, strict=False):
        part.view(tensor.dtype).view(tensor.shape).copy_(tensor)
    output = packed.new_empty(len(lengths), stride)
    all_gather(output.flatten(), packed, group)
    rows = [buffer.split([*size, stride - sum(size)]) for buffer, size in zip(output, sizes, strict=True)]
    return [
        torch.cat([row[k].view(tensor.dtype).view(-1, *tensor.shape[1:]) for row in rows])
        for k, tensor in enumerate(local)
    ]


def _all_gather_rows_fake(
    rows: Tensor,
    labels: Tensor | None,
    ids: Tensor | None,
    triplets: Tensor | None,
    anchors: int | None,
    needs_grad: bool,
    names: str,
    facts: str,
    numbers: list[float],
    group_name: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    context = torch.library.get_ctx()
    total = context.new_dynamic_size()

    def integers(*shape: Any) -> Tensor:
        return torch.empty(shape, dtype=torch.int64, device=rows.device)

    all_triplets = integers(0) if triplets is None else integers(context.new_dynamic_size(), 3)
    num_anchors = total if anchors is None else context.new_dynamic_size()
    return (
        rows.new_empty(total, rows.shape[1]),
        integers(0 if labels is None else total),
        integers(0 if ids is None else total),
        all_triplets,
        integers(num_anchors),
        integers(rows.shape[0] if anchors is None else anchors),
        torch.empty(group_of(group_name).size(), dtype=torch.int64, device="cpu"),
    )


def _scatter_rows(gradient: Tensor, counts: Tensor, rows: int, group_name: str) -> Tensor:
    """The sum over the ranks of the gradients of this rank's rows.

    An all-to-all instead of a reduce-scatter: it sends as much, takes any numbers of rows without padding, and exists
    in gloo, whose reduce-scatter is an all-reduce. The sum then has a fixed order, in float32 at least.
    """
    group = group_of(group_name)
    if not gradient.numel():
        return gradient.new_zeros(rows, gradient.shape[1])
    received = gradient.new_empty(group.size() * rows, gradient.shape[1])
    dist.all_to_all_single(received, gradient.contiguous(), [rows] * group.size(), counts.tolist(), group=group)
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    return received.unflatten(0, (group.size(), rows)).sum(0, dtype=dtype).to(gradient.dtype)


def _setup_gather(ctx: Any, arguments: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*outputs[1:])
    ctx.save_for_backward(outputs[-1])
    ctx.rows, ctx.group_name = arguments[0].shape[0], arguments[-1]


def _backward_of_gather(ctx: Any, saved: tuple[Tensor, ...], gradient: Tensor, *_: Any) -> tuple[Tensor]:
    return (torch.ops.hardmine.all_gather_rows_backward(gradient, *saved, ctx.rows, ctx.group_name),)


# Not torch.library.custom_op, whose first call imports torch._dynamo, which takes seconds.
torch.library.define(
    "hardmine::all_gather_rows",
    "(Tensor rows, Tensor? labels, Tensor? ids, Tensor? triplets, SymInt? anchors, bool needs_grad, str names, "
    "str facts, float[] numbers, str group_name) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.impl("hardmine::all_gather_rows", ("cpu", "cuda"), _all_gather_rows)
torch.library.register_fake("hardmine::all_gather_rows", _all_gather_rows_fake)
torch.library.define(
    "hardmine::all_gather_rows_backward", "(Tensor gradient, Tensor counts, SymInt rows, str group_name) -> Tensor"
)
torch.library.impl("hardmine::all_gather_rows_backward", ("cpu", "cuda"), _scatter_rows)
torch.library.register_fake(
    "hardmine::all_gather_rows_backward", lambda gradient, counts, rows, _: gradient.new_empty(rows, gradient.shape[1])
)
register_autograd("all_gather_rows", (0,), _setup_gather, _backward_of_gather)
forbid_double_backward("all_gather_rows", (0,))


def _all_sums(totals: Tensor, counts: Tensor, group: dist.ProcessGroup, failure: Exception | None = None) -> Tensor:
    """The totals [P] and counts [P] of every rank, as float64 [ranks, 2 P].

    On CPUs, a failure of one rank raises on every rank. A GPU does not synchronize to learn of failures.
    """
    local = torch.cat([totals.double(), counts.double(), totals.new_tensor([code_of(failure)], dtype=torch.float64)])
    gathered = local.new_empty(len(local) * group.size())
    all_gather(gathered, local, group)
    parts = gathered.view(group.size(), -1)
    if parts.is_cpu:
        raise_everywhere(group, parts[:, -1].int().tolist(), failure, parts.device)
    return parts[:, :-1]


def send_failure(failure: Exception, size: int, device: torch.device, group: dist.ProcessGroup) -> NoReturn:
    """Raises a failure of this rank, after the collective in which the other ranks wait for its ``size`` totals.

    On CPUs, every rank then raises it. On GPUs, the others get a loss of NaN.
    """
    nothing = torch.full((size,), math.nan, dtype=torch.float64, device=device)
    _all_sums(nothing, nothing, group, failure)
    raise failure


def _reduce_losses(
    totals: Tensor, counts: Tensor | None, mean: bool, scale: float, group_name: str
) -> tuple[Tensor, Tensor, Tensor]:
    group = group_of(group_name)
    given = torch.full_like(totals, math.nan, dtype=torch.float64) if counts is None else counts
    all_totals, all_counts = _all_sums(totals, given, group).chunk(2, dim=1)
    sums, divisor = all_totals.sum(0), all_counts.sum(0)
    if counts is None:  # NaN if another rank has a count
        loss = torch.where(all_counts.isnan().all(), sums.sum(), math.nan)
    else:
        loss = (sums / torch.where(divisor == 0, 1.0, divisor)).sum() if mean else sums.sum()
    # Not scale / divisor, which torch computes as scale times a rounded reciprocal.
    weights = torch.full_like(divisor, scale) / (torch.where(divisor == 0, 1.0, divisor) if mean else 1.0)
    return loss.to(totals.dtype), torch.where(loss.isnan(), math.nan, weights), divisor


def _setup_reduce(ctx: Any, arguments: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(outputs[1])
    ctx.mark_non_differentiable(*outputs[1:])


def _backward_of_reduce(ctx: Any, saved: tuple[Tensor, ...], gradient: Tensor, *_: Any) -> tuple[Tensor]:
    return ((gradient.double() * saved[0]).to(gradient.dtype),)


torch.library.define(
    "hardmine::all_reduce_loss",
    "(Tensor totals, Tensor? counts, bool mean, float scale, str group_name) -> (Tensor, Tensor, Tensor)",
)
torch.library.impl("hardmine::all_reduce_loss", ("cpu", "cuda"), _reduce_losses)
torch.library.register_fake(
    "hardmine::all_reduce_loss",
    lambda totals, *_: (
        totals.new_empty(()),
        torch.empty_like(totals, dtype=torch.float64),
        torch.empty_like(totals, dtype=torch.float64),
    ),
)
register_autograd("all_reduce_loss", (0,), _setup_reduce, _backward_of_reduce)
