"""A queue of rows with labels and ids, as ops that ``torch.compile`` can capture.

A loss first sees a copy of the queue with the batch in it, and the queue changes only after the loss has been computed:
if that raises, nothing has changed.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_ID = 2**63 - 1  # rows without an id get the largest ones


def rows_with_batch(
    queue: tuple[Tensor, Tensor, Tensor, Tensor],
    rows: Tensor,
    row_labels: Tensor,
    row_ids: Tensor | None,
    offset: Tensor | None,
    own_rows: int,
    warmup: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A copy of the filled part of a queue after a batch is put in, in place of its oldest rows.

    Args:
        queue: Its embeddings [size, D], labels [size] and ids [size], and on the CPU its counters [2]: the number of
            rows put in so far, and of calls.
        rows: The batch [N, D], N at most size, stored in the queue's dtype.
        row_labels: [N].
        row_ids: [N], negative for a row without one, which gets the number of its slot, counted down from ``MAX_ID``.
        offset: Number of the first row of this rank, [] on the CPU; None stands for 0.
        own_rows: The number of rows of this rank.
        warmup: In this many calls, the first ones, the queue is emptied before.
        dtype: That of the copied embeddings.

    Returns:
        The copies of the embeddings, labels and ids, all ids of the batch [N], and those of this rank's rows.
    """
    return torch.ops.hardmine.rows_with_batch(*queue, rows, row_labels, row_ids, offset, own_rows, warmup, dtype)


def enqueue_rows(
    queue: tuple[Tensor, Tensor, Tensor, Tensor], rows: Tensor, row_labels: Tensor, row_ids: Tensor, warmup: int
) -> None:
    """Puts a batch into a queue, which changes; ``row_ids`` are all ids of the batch from :func:`rows_with_batch`."""
    torch.ops.hardmine.enqueue_rows(*queue, rows, row_labels, row_ids, warmup)


def filled_rows(queue: tuple[Tensor, Tensor, Tensor, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Copies of the filled part of a queue, the embeddings in ``dtype``."""
    return torch.ops.hardmine.filled_rows(*queue, dtype)


def _slots(queue: Tensor, counters: Tensor, count: int, warmup: int) -> tuple[Tensor, int]:
    """The slots of a batch of ``count`` rows, and the number of rows put in once it is in."""
    total, calls = counters.tolist()
    total = 0 if calls < warmup else total
    return torch.arange(total, total + count, device=queue.device) % len(queue), total + count


def _rows_with_batch(
    embeddings: Tensor,
    labels: Tensor,
    ids: Tensor,
    counters: Tensor,
    rows: Tensor,
    row_labels: Tensor,
    row_ids: Tensor | None,
    offset: Tensor | None,
    own_rows: int,
    warmup: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if torch._C._current_graph_task_id() != -1:
        raise RuntimeError(
            "CrossBatchMemory must not be called in a backward pass, where torch.utils.checkpoint repeats a forward "
            "pass: the batch would be put in twice"
        )
    if len(rows) > len(embeddings):
        whose = "" if offset is None else " of all ranks"
        raise ValueError(
            f"embeddings must have at most size = {len(embeddings)} rows{whose} to put in, got {len(rows)}"
        )
    slots, total = _slots(embeddings, counters, len(rows), warmup)
    numbers = MAX_ID - slots
    row_ids = numbers if row_ids is None else torch.where(row_ids >= 0, row_ids, numbers)
    filled = min(total, len(embeddings))
    stored = rows.to(embeddings.dtype).to(dtype)
    refs = embeddings[:filled].to(dtype, copy=True).index_copy_(0, slots, stored)
    ref_labels, ref_ids = (
        queue[:filled].clone().index_copy_(0, slots, values) for queue, values in ((labels, row_labels), (ids, row_ids))
    )
    return refs, ref_labels, ref_ids, row_ids, row_ids.narrow(0, 0 if offset is None else int(offset), own_rows).clone()


def _enqueue(
    embeddings: Tensor,
    labels: Tensor,
    ids: Tensor,
    counters: Tensor,
    rows: Tensor,
    row_labels: Tensor,
    row_ids: Tensor,
    warmup: int,
) -> None:
    slots, total = _slots(embeddings, counters, len(rows), warmup)
    for queue, values in ((embeddings, rows.to(embeddings.dtype)), (labels, row_labels), (ids, row_ids)):
        queue.index_copy_(0, slots, values)
    counters.copy_(torch.tensor([total, int(counters[1]) + 1], device="cpu"))


def _filled_rows(
    embeddings: Tensor, labels: Tensor, ids: Tensor, counters: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    filled = min(int(counters[0]), len(embeddings))
    return embeddings[:filled].to(dtype, copy=True), labels[:filled].clone(), ids[:filled].clone()


torch.library.define(
    "hardmine::rows_with_batch",
    "(Tensor embeddings, Tensor labels, Tensor ids, Tensor counters, Tensor rows, Tensor row_labels, Tensor? row_ids, "
    "Tensor? offset, SymInt own_rows, int warmup, ScalarType dtype) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.impl("hardmine::rows_with_batch", ("cpu", "cuda"), _rows_with_batch)


@torch.library.register_fake("hardmine::rows_with_batch")
def _(embeddings, labels, ids, counters, rows, row_labels, row_ids, offset, own_rows, warmup, dtype):
    filled = torch.library.get_ctx().new_dynamic_size()
    refs = embeddings.new_empty(filled, embeddings.shape[1], dtype=dtype)
    batch_ids = ids.new_empty(rows.shape[0])
    return refs, labels.new_empty(filled), ids.new_empty(filled), batch_ids, ids.new_empty(own_rows)


torch.library.define(
    "hardmine::enqueue_rows",
    "(Tensor(a!) embeddings, Tensor(b!) labels, Tensor(c!) ids, Tensor(d!) counters, Tensor rows, Tensor row_labels, "
    "Tensor row_ids, int warmup) -> ()",
)
torch.library.impl("hardmine::enqueue_rows", ("cpu", "cuda"), _enqueue)
torch.library.register_fake("hardmine::enqueue_rows", lambda *arguments: None)

torch.library.define(
    "hardmine::filled_rows",
    "(Tensor embeddings, Tensor labels, Tensor ids, Tensor counters, ScalarType dtype) -> (Tensor, Tensor, Tensor)",
)
torch.library.impl("hardmine::filled_rows", ("cpu", "cuda"), _filled_rows)


@torch.library.register_fake("hardmine::filled_rows")
def _(embeddings, labels, ids, counters, dtype):
    filled = torch.library.get_ctx().new_dynamic_size()
    refs = embeddings.new_empty(filled, embeddings.shape[1], dtype=dtype)
    return refs, labels.new_empty(filled), ids.new_empty(filled)
