"""The rows of all ranks, with gradients."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from hardmine.ops._arguments import check_tensor
from hardmine.ops._gather import check_gathered
from hardmine.ops._groups import agree_on_checks, check_group
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

        A call has two collectives: one of 40 bytes per rank for the numbers of rows and the checks, and one for the
        embeddings and the int64 labels and ids. If ranks have different numbers of rows, all are padded to the largest
        number for the transfer. The backward pass has one, an all-to-all that sends every rank the gradients of its
        rows and nothing else. It adds them up in float32, or in float64 for float64, in a fixed order: results repeat
        bit for bit. Memory is twice that of the result, forward and backward.

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
    agree_on_checks(
        group, lambda: check_tensor("labels", labels), lambda: check_gathered(embeddings, labels, ids, group)
    )
    needs_grad = torch.is_grad_enabled() and embeddings.requires_grad
    facts = "the op must be the same on every rank\tall_gather_rows"
    rows, gathered_labels, gathered_ids, _, _, _, counts = torch.ops.hardmine.all_gather_rows(
        embeddings, labels, ids, None, None, needs_grad, "embeddings,labels,ids", facts, [], group.group_name
    )
    offset = counts[: dist.get_rank(group)].sum()
    return GatheredRows(rows, gathered_labels, None if ids is None else gathered_ids, offset, counts)
