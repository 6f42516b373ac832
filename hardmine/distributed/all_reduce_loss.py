"""The loss of the whole batch from the ranks' parts."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hardmine.ops import _gather as _gather  # defines the op
from hardmine.ops._arguments import FLOAT_DTYPES, INTEGER_DTYPES, check_choice, check_tensor, shape_of
from hardmine.ops._groups import all_gather, check_group, devices_of
from hardmine.ops._ranks import GRADIENT_REDUCTIONS
from hardmine.types import GradientReduction


def all_reduce_loss(
    total: Tensor,
    count: Tensor | None = None,
    *,
    group: dist.ProcessGroup | None = None,
    gradient_reduction: GradientReduction = "mean",
) -> Tensor:
    """The sum of the ranks' losses, or their mean over all anchors, as a loss that every rank calls backward on.

    For ranks that each compute a part of the loss, as local anchors against the rows of :func:`all_gather_rows`. The
    value equals ``sum(totals) / sum(counts)`` over the ranks, the same bits on every rank. The gradient of ``total`` is
    the number of ranks divided by the sum of the counts. Averaging the parameters' gradients over the ranks, as DDP and
    FSDP do, then gives the gradient of one process with the whole batch.

    Args:
        total: float32, float64, float16 or bfloat16 []: the sum of this rank's losses.
        count: Number []: how many losses ``total`` sums, as ``return_count=True`` returns it. Without it, the losses
            are added and not divided. Given on every rank or on none.
        group: The process group, by default that of all processes.
        gradient_reduction: How the trainer reduces the parameters' gradients over the ranks: ``"mean"``, as DDP and
            FSDP do, or ``"sum"``. With ``"sum"`` the gradient of ``total`` is not multiplied by the number of ranks.

    Returns:
        The loss [], in the dtype of ``total``. If the counts of all ranks are 0, it is the sum of the totals.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape, device or value, or this process is not in ``group``.
        RuntimeError: ``group`` is not initialized.

    Note:
        One collective of 24 bytes per rank, forward only. The sum is in float64. A GPU does
        not synchronize, so errors are not agreed on: a rank with an invalid argument sends NaN before it raises its
        error, and the others get a loss of NaN. They also do if some ranks have a count and some have none. It works
        under ``torch.compile(fullgraph=True)``.

    Example:
        >>> import tempfile, torch
        >>> from hardmine.distributed import all_reduce_loss
        >>> store = torch.distributed.FileStore(tempfile.mkstemp()[1], 1)
        >>> torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)  # torchrun: no arguments
        >>> losses = torch.tensor([1.0, 4.0], requires_grad=True)
        >>> all_reduce_loss(losses.sum(), torch.tensor(2))
        tensor(2.5000, grad_fn=<AllReduceLossBackward>)
        >>> torch.distributed.destroy_process_group()
    """
    group = check_group(group)
    try:
        _check_arguments(total, count, gradient_reduction)
    except Exception:
        if not torch.compiler.is_compiling():
            _send_nan(total, group)
        raise
    scale = group.size() if gradient_reduction == "mean" else 1
    counts = None if count is None else count[None]
    return torch.ops.hardmine.all_reduce_loss(total[None], counts, count is not None, scale, group.group_name)[0]


def _check_arguments(total: Any, count: Any, gradient_reduction: Any) -> None:
    check_choice("gradient_reduction", gradient_reduction, GRADIENT_REDUCTIONS)
    check_tensor("total", total)
    if total.dtype not in FLOAT_DTYPES:
        raise TypeError(f"total must be float32, float64, float16 or bfloat16, got {total.dtype}")
    if total.dim() != 0:
        raise ValueError(f"total must be [], the sum of the losses, got {shape_of(total)}")
    if count is None:
        return
    check_tensor("count", count, total)
    if count.dtype not in (*FLOAT_DTYPES, *INTEGER_DTYPES):
        raise TypeError(f"count must be a tensor of numbers, got {count.dtype}")
    if count.dim() != 0:
        raise ValueError(f"count must be [], got {shape_of(count)}")
    if count.device != total.device:
        raise ValueError(f"count must be on the device of total, {total.device}, got {count.device}")


def _send_nan(total: Any, group: dist.ProcessGroup) -> None:
    """Takes part in the collective, for which the other ranks wait, although this rank has no loss."""
    devices = devices_of(group)
    known = isinstance(total, Tensor) and total.device.type in devices
    device = total.device if known else torch.device("cuda" if "cuda" in devices else "cpu")
    part = torch.tensor([math.nan, math.nan, 0.0], dtype=torch.float64, device=device)
    all_gather(part.new_empty(3 * group.size()), part, group)
