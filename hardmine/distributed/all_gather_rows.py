"""The rows of all ranks, with gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hardmine.distributed._groups import (
    Header,
    all_gather,
    check_group,
    check_headers,
    devices_of,
    exchange_headers,
    group_of,
)
from hardmine.ops._arguments import FLOAT_DTYPES, check_int64, check_labels, check_rows
from hardmine.ops._autograd import forbid_double_backward, register_autograd
from hardmine.types import GatheredRows


def all_gather_rows(
    embeddings: Tensor, labels: Tensor, ids: Tensor | None = None, *, group: dist.ProcessGroup | None = None
) -> GatheredRows:
    """The embeddings, labels and ids of all ranks, rank 0's rows first.

    Every rank gets the same tensors. Ranks may have different numbers of rows, also none; the result has no padding.
    Without gradients, the result equals that of ::

        parts = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, embeddings)
        torch.cat(parts)

    The gradient of a rank's rows is the sum over all ranks of the gradients of the gathered rows, which nothing scales.
    If every rank computes the loss of the whole batch from the gathered rows, then averaging the parameters' gradients
    over the ranks, as DDP and FSDP do, gives the gradient of one process. If every rank computes only its part of that
    loss, :func:`all_reduce_loss` adds the parts and scales their gradients.

    Every rank must call this, and every rank must run the backward pass if one does.

    Args:
        embeddings: float32, float64, float16 or bfloat16 [B, D], with B of this rank, and a D and dtype of all ranks.
        labels: Integers [B]; uint64 below 2^63.
        ids: Integers [B]; -1 stands for none. Given on every rank or on none.
        group: The process group, by default that of all processes.

    Returns:
        The :class:`hardmine.types.GatheredRows`.

    Raises:
        TypeError: An argument has the wrong type or dtype, on any rank.
        ValueError: An argument has the wrong shape or device, on any rank; the ranks' dtypes, D, types of device or
            gradients differ, or some have ids and some have none; or this process is not in ``group``.
        RuntimeError: ``group`` is not initialized.

    Note:
        If a rank's arguments are invalid, every rank raises the error of the lowest such rank in ``group``, and none
        waits for another. Only errors that concern ``group`` itself are raised by this rank alone. A rank that fails
        elsewhere, before it calls this, leaves the others waiting until it exits or the group's timeout ends.

        A call has three collectives: one of 56 bytes per rank for the numbers of rows and the checks, and one each for
        the embeddings and for the int64 labels and ids, which overlap. The backward pass has one, an all-to-all that
        sends every rank the gradients of its rows and nothing else. It adds them up in float32, or in float64 for
        float64, in a fixed order: results repeat bit for bit. If ranks have different numbers of rows, the rows are
        padded to the largest number for the transfer. Memory is that of the result, and once more of it backward.

        The collectives are the same for gloo and NCCL. Only gloo has been tested. With NCCL alone the GPU synchronizes
        once per call, to read the numbers of rows; with ``init_process_group("cpu:gloo,cuda:nccl")`` it does not.

        It works under ``torch.compile(fullgraph=True)``: the call is one op of the graph, and the number of gathered
        rows is an unbacked size. Checks run when the op does. An argument that is not a tensor is an error of this rank
        alone, because tracing stops.

    Example:
        >>> import tempfile, torch
        >>> from hardmine.distributed import all_gather_rows
        >>> store = torch.distributed.FileStore(tempfile.mkstemp()[1], 1)
        >>> torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)  # torchrun: no arguments
        >>> embeddings = torch.eye(2, requires_grad=True)
        >>> gathered = all_gather_rows(embeddings, torch.tensor([3, 5]))
        >>> gathered.labels, gathered.counts
        (tensor([3, 5]), tensor([2]))
        >>> gathered.embeddings.sum().backward()
        >>> embeddings.grad
        tensor([[1., 1.],
                [1., 1.]])
        >>> torch.distributed.destroy_process_group()
    """
    group = check_group(group)
    if not torch.compiler.is_compiling():
        try:
            _check_arguments(embeddings, labels, ids, group)
        except Exception as error:
            exchange_headers(group, Header(), error)
    needs_grad = torch.is_grad_enabled() and embeddings.requires_grad
    rows, gathered_labels, gathered_ids, counts = torch.ops.hardmine.all_gather_rows(
        embeddings, labels, ids, needs_grad, group.group_name
    )
    offset = counts[: dist.get_rank(group)].sum()
    return GatheredRows(rows, gathered_labels, None if ids is None else gathered_ids, offset, counts)


def _check_arguments(embeddings: Any, labels: Any, ids: Any, group: dist.ProcessGroup) -> list[Tensor]:
    """Checks the arguments of this rank; returns the labels, and the ids if given, as int64."""
    check_rows("embeddings", embeddings, embeddings)  # compared with itself: hardmine's CUDA library is not needed
    if embeddings.device.type not in (devices := devices_of(group)) or embeddings.device.type not in ("cpu", "cuda"):
        raise ValueError(f"embeddings must be on a device of the group, {', '.join(devices)}, got {embeddings.device}")
    given = {"labels": labels} if ids is None else {"labels": labels, "ids": ids}
    checked = [check_labels(name, values, embeddings, "B") for name, values in given.items()]
    for name, values in given.items():
        check_int64(name, values)
    return checked


def _gather_rows(
    embeddings: Tensor, labels: Tensor, ids: Tensor | None, needs_grad: bool, group_name: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    group = group_of(group_name)
    header, failure, integers = Header(), None, []
    try:
        integers = _check_arguments(embeddings, labels, ids, group)
        header = Header(
            rows=embeddings.shape[0],
            depth=embeddings.shape[1],
            dtype=FLOAT_DTYPES.index(embeddings.dtype),
            is_cuda=embeddings.is_cuda,
            has_ids=ids is not None,
            needs_grad=needs_grad,
        )
    except Exception as error:
        failure = error
    headers = exchange_headers(group, header, failure)
    check_headers(headers)
    counts = [header.rows for header in headers]
    transfers = [_start_gather(local, counts, group) for local in (torch.stack(integers, 1), embeddings)]
    all_integers, rows = (_finish_gather(*transfer, counts) for transfer in transfers)
    all_labels = all_integers[:, 0].clone()
    all_ids = labels.new_empty(0, dtype=torch.int64) if ids is None else all_integers[:, 1].clone()
    return rows, all_labels, all_ids, torch.tensor(counts, dtype=torch.int64, device="cpu")


def _start_gather(local: Tensor, counts: list[int], group: dist.ProcessGroup) -> tuple[Tensor, Any]:
    """Starts to gather rows, padded to the largest number of any rank; returns [ranks, rows, ...] and the transfer."""
    padded = local.contiguous()
    if len(local) < max(counts):
        padded = local.new_zeros(max(counts), *local.shape[1:])
        padded[: len(local)] = local
    output = local.new_empty(len(counts), *padded.shape)
    work = all_gather(output.flatten(0, 1), padded, group, async_op=True) if output.numel() else None
    return output, work


def _finish_gather(output: Tensor, work: Any, counts: list[int]) -> Tensor:
    """Waits for the rows, and removes the padding."""
    if work is not None:
        work.wait()
    if min(counts) == max(counts):
        return output.flatten(0, 1)
    return torch.cat([rows[:count] for rows, count in zip(output, counts, strict=True)])


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


def _gather_rows_fake(
    embeddings: Tensor, labels: Tensor, ids: Tensor | None, needs_grad: bool, group_name: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    total = torch.library.get_ctx().new_dynamic_size()
    all_labels, all_ids = (labels.new_empty(size, dtype=torch.int64) for size in (total, 0 if ids is None else total))
    counts = torch.empty(group_of(group_name).size(), dtype=torch.int64, device="cpu")
    return embeddings.new_empty(total, embeddings.shape[1]), all_labels, all_ids, counts


def _setup_context(ctx: Any, arguments: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(outputs[3])
    ctx.rows, ctx.group_name = arguments[0].shape[0], arguments[4]


def _backward(ctx: Any, saved: tuple[Tensor, ...], gradient: Tensor, *_: Any) -> tuple[Tensor]:
    return (torch.ops.hardmine.all_gather_rows_backward(gradient, *saved, ctx.rows, ctx.group_name),)


# Not torch.library.custom_op, whose first call imports torch._dynamo, which takes seconds.
torch.library.define(
    "hardmine::all_gather_rows",
    "(Tensor embeddings, Tensor labels, Tensor? ids, bool needs_grad, str group_name) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
)
torch.library.impl("hardmine::all_gather_rows", ("cpu", "cuda"), _gather_rows)
torch.library.register_fake("hardmine::all_gather_rows", _gather_rows_fake)
torch.library.define(
    "hardmine::all_gather_rows_backward", "(Tensor gradient, Tensor counts, SymInt rows, str group_name) -> Tensor"
)
torch.library.impl("hardmine::all_gather_rows_backward", ("cpu", "cuda"), _scatter_rows)
torch.library.register_fake(
    "hardmine::all_gather_rows_backward", lambda gradient, counts, rows, _: gradient.new_empty(rows, gradient.shape[1])
)
register_autograd("all_gather_rows", (0,), _setup_context, _backward)
forbid_double_backward("all_gather_rows", (0,))
