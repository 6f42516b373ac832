"""Blocks of rows that travel around a ring of ranks: each rank holds two at a time, besides its own.

A rank sends to the next rank and receives from the previous one. All ranks make the same calls in the same order, and
no call waits before both transfers of a step have started, so that none waits for a rank that waits for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from hardmine.ops._arguments import check_ids, check_int64, check_labeled_rows
from hardmine.ops._groups import agree, check_device


class Candidates(NamedTuple):
    """The checked inputs of a rank: its anchors, and its block of the refs. Without refs, the anchors are the block."""

    embeddings: Tensor
    labels: Tensor
    ref_embeddings: Tensor | None
    ref_labels: Tensor | None
    ids: Tensor | None
    ref_ids: Tensor | None

    @property
    def block(self) -> list[Tensor]:
        """What travels: rows, labels, and ids if there are any."""
        own = (self.embeddings, self.labels, self.ids) if self.ref_embeddings is None else self[2:4] + self[5:]
        return [tensor.contiguous() for tensor in own if tensor is not None]

    def against(self, block: list[Tensor], *, is_own: bool) -> tuple[Tensor | None, ...]:
        """The first six arguments of the compiled ops, which compare the anchors with a block.

        Anchors are compared with their own block as an op without refs does, so that none is its own positive.
        """
        if is_own and self.ref_embeddings is None:
            return self
        rows, labels, *ids = block
        return (self.embeddings, self.labels, rows, labels, self.ids, ids[0] if ids else None)


def check_candidates(inputs: Sequence[Any], group: dist.ProcessGroup) -> Candidates:
    """Checks the inputs of this rank, in the order of :class:`Candidates`; labels and ids become int64."""
    embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids = inputs
    labels64, ref_labels64 = check_labeled_rows(embeddings, labels, ref_embeddings, ref_labels)
    check_device("embeddings", embeddings, group)
    for name, values in {"labels": labels, "ref_labels": ref_labels}.items():
        if values is not None:
            check_int64(name, values)
    ids64, ref_ids64 = check_ids(ids, embeddings, ref_ids, ref_embeddings)
    return Candidates(embeddings, labels64, ref_embeddings, ref_labels64, ids64, ref_ids64)


def as_candidates(inputs: Sequence[Tensor | None]) -> Candidates:
    """The inputs of a rank, which were checked before; labels and ids become int64."""
    embeddings, labels, refs, ref_labels, ids, ref_ids = inputs
    integers = (None if t is None else t.to(torch.int64) for t in (labels, ref_labels, ids, ref_ids))
    labels, ref_labels, ids, ref_ids = integers
    return Candidates(embeddings, labels, refs, ref_labels, ids, ref_ids)  # type: ignore[arg-type]


def needs_gradient(tensor: Tensor | None) -> bool:
    return tensor is not None and torch.is_grad_enabled() and tensor.requires_grad


def agree_on_candidates(
    inputs: Sequence[Any], needs_grad: bool, ref_needs_grad: bool, options: dict[str, Any], group: dist.ProcessGroup
) -> tuple[Candidates, list[int], list[int]]:
    """Checks the inputs and options of all ranks together.

    Returns:
        The checked inputs of this rank, and the number of rows of each rank's block and the global number of its first.
    """
    candidates, facts, rows, failure = None, {}, 0, None
    try:
        candidates = check_candidates(inputs, group)
        facts = _facts_of(candidates, needs_grad, ref_needs_grad, options)
        rows = len(candidates.block[0])
    except Exception as error:
        failure = error
    counts = [count for _, count, _ in agree(group, facts, [0, rows, 0], failure)]
    assert candidates is not None  # else agree() raised
    return candidates, counts, [sum(counts[:rank]) for rank in range(len(counts))]


def _facts_of(
    candidates: Candidates, needs_grad: bool, ref_needs_grad: bool, options: dict[str, Any]
) -> dict[str, str]:
    """What must be equal on every rank, by the error that names it."""
    embeddings, _, refs, _, ids, _ = candidates
    gradients = {"embeddings": needs_grad, "ref_embeddings": ref_needs_grad}
    facts = {
        **{f"{name} must be the same on every rank": value for name, value in options.items()},
        "embeddings must have the same dtype on every rank": embeddings.dtype,
        "embeddings must be [rows, D] with the same D on every rank": int(embeddings.shape[1]),
        "embeddings must be on the same type of device on every rank": embeddings.device.type,
        "ref_embeddings must be given on every rank or on none": "None" if refs is None else "refs",
        "ids must be given on every rank or on none": "None" if ids is None else "ids",
        **{
            f"{name} must require gradients, outside torch.no_grad, on every rank or on none: all ranks take part in "
            "the backward pass": "gradients" if needed else "no gradients"
            for name, needed in gradients.items()
        },
    }
    return {requirement: str(value) for requirement, value in facts.items()}


def travel(block: list[Tensor], counts: Sequence[int], group: dist.ProcessGroup) -> Iterator[tuple[int, list[Tensor]]]:
    """The blocks of all ranks and their owners, this rank's first. The next one arrives while the present one is used.

    A block is overwritten after the next step: copy what must stay.
    """
    ranks, rank, largest = group.size(), group.rank(), max(counts)
    buffers = [[part.new_empty(largest, *part.shape[1:]) for part in block] for _ in range(min(2, ranks - 1))]
    for step in range(ranks):
        owner, works = (rank - step) % ranks, []
        following = block
        if step + 1 < ranks:
            following = [part[: counts[owner - 1]] for part in buffers[step % 2]]
            works = start_transfers(block, rank + 1, following, rank - 1, group)
        yield owner, block
        wait_for(works)
        block = following


class GradientRing:
    """The sums of the gradients of blocks, each of which follows its block around the ring, and then returns."""

    _TAG = 3  # a block has up to three tensors

    def __init__(self, counts: Sequence[int], like: Tensor, group: dist.ProcessGroup) -> None:
        self.counts, self.group, self.owner = counts, group, group.rank()
        # The first sum is that of this rank's own block, which starts at 0. Others overwrite the buffers.
        self.sums = [like.new_zeros(max(counts), like.shape[1], dtype=sum_dtype(like)) for _ in range(2)]
        self.works: list[dist.Work] = []

    def add(self, share: Tensor | None) -> None:
        """Adds this rank's share to the sum of the present block, and sends that on. None: a block without a share.

        Blocks come in the order of :func:`travel`. Only the own block, on every rank, may have no share.
        """
        total = self.arrived()
        self.owner = (self.owner - 1) % self.group.size()
        if share is None:
            return
        total += share
        if self.group.size() > 1:
            self.sums.reverse()
            following = self.sums[0][: self.counts[self.owner]]
            rank = self.group.rank()
            self.works = start_transfers([total], rank + 1, [following], rank - 1, self.group, self._TAG)

    def arrived(self) -> Tensor:
        """The sum of the block that comes next; after the last one, that of this rank's own block."""
        wait_for(self.works)
        self.works = []
        return self.sums[0][: self.counts[self.owner]]


def start_transfers(
    send: list[Tensor], to: int, receive: list[Tensor], source: int, group: dist.ProcessGroup, first_tag: int = 0
) -> list[dist.Work]:
    """Starts to send and to receive tensors. Ranks are taken modulo the size of the group; empty tensors do not travel.

    Both ranks know the sizes. The tags pair the tensors where a backend could receive them in another order.
    """
    transfers = [
        dist.P2POp(function, tensor, group=group, tag=tag, group_peer=peer % group.size())
        for function, tensors, peer in ((dist.isend, send, to), (dist.irecv, receive, source))
        for tag, tensor in enumerate(tensors, first_tag)
        if tensor.numel()
    ]
    return dist.batch_isend_irecv(transfers) if transfers else []


def wait_for(works: list[dist.Work]) -> None:
    for work in works:
        work.wait()


def sum_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype in which the ranks' gradients are added up."""
    return torch.promote_types(tensor.dtype, torch.float32)


def send_home(rows: Tensor, number: Tensor, total: Tensor, counts: Sequence[int], group: dist.ProcessGroup) -> None:
    """Adds the gradients of distinct rows, ascending by global ``number``, to ``total`` of the rank that owns them.

    The ranks meet in pairs, so that a rank holds the rows of one other rank at a time, however many select a row. The
    order of the additions is fixed.
    """
    ranks, rank = group.size(), group.rank()
    starts = torch.tensor([0, *counts]).cumsum(0)
    bounds = torch.searchsorted(number, starts.to(number.device)).tolist()
    sent = torch.tensor(bounds, device=rows.device).diff()
    arriving = torch.empty_like(sent)
    dist.all_to_all_single(arriving, sent, group=group)
    sizes = arriving.tolist()
    for step in range(ranks):
        to, source = (rank + step) % ranks, (rank - step) % ranks
        part = slice(bounds[to], bounds[to + 1])
        outgoing = [number[part] - int(starts[to]), rows[part]]
        incoming = [outgoing[0].new_empty(sizes[source]), rows.new_empty(sizes[source], *rows.shape[1:])]
        if step:
            wait_for(start_transfers(outgoing, to, incoming, source, group))
        else:
            incoming = outgoing
        total[incoming[0]] += incoming[1].to(total.dtype)
