"""A queue of rows with labels and ids, as ops that ``torch.compile`` can capture.

There are two ops, because inductor refuses an op that both changes an argument and has outputs of unknown size.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_ID = 2**63 - 1  # rows without an id get the largest ones


def enqueue_rows(
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
) -> Tensor:
    """Puts rows into the queue that the first four arguments hold, in place of its oldest rows.

    Args:
        embeddings: The queue's rows [size, D]. They change, like ``labels`` and ``ids`` [size].
        counters: [2] on the CPU: the number of rows put in so far, and of calls. Both change.
        rows: [N, D], N at most size.
        row_ids: The rows' ids [N]. A row without one gets the number of its slot, counted down from ``MAX_ID``.
        offset: Number of the first row whose id is returned, [] on the CPU; None stands for 0.
        own_rows: How many ids are returned.
        warmup: In this many calls, the first ones, the queue is emptied before.

    Returns:
        The ids of ``own_rows`` rows from ``offset`` on.
    """
    return torch.ops.hardmine.enqueue_rows(
        embeddings, labels, ids, counters, rows, row_labels, row_ids, offset, own_rows, warmup
    )


def filled_rows(
    embeddings: Tensor, labels: Tensor, ids: Tensor, counters: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Copies of the filled part of a queue, the embeddings in ``dtype``."""
    return torch.ops.hardmine.filled_rows(embeddings, labels, ids, counters, dtype)


def _enqueue(
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
) -> Tensor:
    if torch._C._current_graph_task_id() != -1:
        raise RuntimeError(
            "CrossBatchMemory must not be called in a backward pass, where torch.utils.checkpoint repeats a forward "
            "pass: the batch would be put in twice"
        )
    size = len(embeddings)
    if len(rows) > size:
        raise ValueError(f"embeddings must have at most size = {size} rows to put in, got {len(rows)}")
    total, calls = counters.tolist()
    if calls < warmup:
        total = 0
    slots = torch.arange(total, total + len(rows), device=ids.device) % size
    numbers = MAX_ID - slots
    row_ids = numbers if row_ids is None else torch.where(row_ids >= 0, row_ids, numbers)
    for queue, values in ((embeddings, rows.to(embeddings.dtype)), (labels, row_labels), (ids, row_ids)):
        queue.index_copy_(0, slots, values)
    counters.copy_(torch.tensor([total + len(rows), calls + 1], device="cpu"))
    return row_ids.narrow(0, 0 if offset is None else int(offset), own_rows).clone()


def _filled_rows(
    embeddings: Tensor, labels: Tensor, ids: Tensor, counters: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    filled = min(int(counters[0]), len(embeddings))
    return embeddings[:filled].to(dtype, copy=True), labels[:filled].clone(), ids[:filled].clone()


torch.library.define(
    "hardmine::enqueue_rows",
    "(Tensor(a!) embeddings, Tensor(b!) labels, Tensor(c!) ids, Tensor(d!) counters, Tensor rows, Tensor row_labels, "
    "Tensor? row_ids, Tensor? offset, SymInt own_rows, int warmup) -> Tensor",
)
torch.library.impl("hardmine::enqueue_rows", ("cpu", "cuda"), _enqueue)


@torch.library.register_fake("hardmine::enqueue_rows")
def _(embeddings, labels, ids, counters, rows, row_labels, row_ids, offset, own_rows, warmup):
    return ids.new_empty(own_rows)


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
