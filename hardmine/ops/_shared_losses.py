"""Losses of the rows of all ranks, whose pairs the ranks share, each as one torch op with a gradient.

Every rank holds all rows and computes a part of their pairs. After one or two collectives every rank knows the
selection or the sums of all anchors, and so the loss. torch.compile sees each loss as one op of the graph. The ops are
for CPUs: the kernels for GPUs compute no parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hardmine.ops._autograd import forbid_double_backward, register_autograd
from hardmine.ops._fakes import accumulate_dtype, fake_selection
from hardmine.ops._groups import all_counts, code_of, group_of, raise_everywhere
from hardmine.ops._shared_selection import Rows, Shares, select_in_parts
from hardmine.ops._shared_tuplet import tuplet_in_parts


def shares_of(group: dist.ProcessGroup) -> Shares:
    """This rank's part, and the collectives of a group."""

    def all_reduce(
        compute: Callable[[], Tensor], shape: tuple[int, ...], operation: Any, dtype: torch.dtype, nothing: float
    ) -> Tensor:
        failure = None
        try:
            own = compute().flatten()
        except Exception as error:
            failure = error
            own = torch.full((math.prod(shape),), nothing, dtype=dtype)
        merged = torch.cat([own, torch.full((1,), code_of(failure), dtype=dtype)])
        dist.all_reduce(merged, operation, group=group)
        if merged[-1] > 0:
            codes = all_counts(group, [code_of(failure)], merged.device)[:, 0].tolist()
            raise_everywhere(group, codes, failure, merged.device)
        return merged[:-1].view(shape)

    least = torch.iinfo(torch.int64).min
    return Shares(
        group.rank(),
        group.size(),
        lambda compute, shape: all_reduce(compute, shape, dist.ReduceOp.MAX, torch.int64, least),
        lambda compute, shape: all_reduce(compute, shape, dist.ReduceOp.SUM, torch.float64, math.nan),
    )


# The types of the compiled ops' options: of the selection and the loss of triplet_loss, and of tuplet_loss.
TRIPLET_OPTIONS = (int, int, int, int, int, float, float, bool, int, int, bool, float, float, float, float, float, int)
TUPLET_OPTIONS = (int, int, float, float, int, bool)


def split_options(options: list[int | float], types: tuple[type, ...]) -> tuple[list[int], list[float]]:
    """The ints and bools, and the floats, among the options of a compiled op."""
    pairs = list(zip(options, types, strict=True))
    return [int(value) for value, kind in pairs if kind is not float], [
        float(value) for value, kind in pairs if kind is float
    ]


def _join_options(codes: list[int], numbers: list[float], types: tuple[type, ...]) -> list[int | float]:
    """The inverse of :func:`split_options`."""
    of_codes, of_numbers = iter(codes), iter(numbers)
    return [kind(next(of_numbers if kind is float else of_codes)) for kind in types]


def _triplet_loss(
    embeddings: Tensor,
    rows: Tensor,
    labels: Tensor,
    ids: Tensor | None,
    counts: Tensor,
    codes: list[int],
    numbers: list[float],
    scale: float,
    group_name: str,
) -> tuple[Tensor, ...]:
    options = _join_options(codes, numbers, TRIPLET_OPTIONS)
    words = select_in_parts(Rows(rows, labels, ids), options[:8], shares_of(group_of(group_name)))
    return torch.ops.hardmine.triplet_loss_of_parts(rows, words, *options[:4], *options[8:])


def _triplet_loss_backward(
    grad_loss: Tensor,
    rows: Tensor,
    counts: Tensor,
    positive_similarity: Tensor,
    negative_similarity: Tensor,
    positive_index: Tensor,
    negative_index: Tensor,
    codes: list[int],
    numbers: list[float],
    scale: float,
    group_name: str,
    num_rows: int,
) -> Tensor:
    """The gradient of this rank's rows, from what every rank knows: no collective."""
    options = _join_options(codes, numbers, TRIPLET_OPTIONS)
    group = group_of(group_name)
    return torch.ops.hardmine.triplet_loss_backward_rows(
        grad_loss * scale,
        rows,
        positive_similarity,
        negative_similarity,
        positive_index,
        negative_index,
        options[0],
        *options[8:],
        int(counts[: group.rank()].sum()),
        num_rows,
    )


def _triplet_loss_fake(embeddings: Tensor, rows: Tensor, *_: Any) -> tuple[Tensor, ...]:
    selection = fake_selection(rows)
    return selection[0].new_empty(()), *selection


def _setup_triplet_loss(ctx: Any, arguments: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
    embeddings, rows, _, _, counts, *options = arguments
    ctx.options = (*options, embeddings.shape[0])
    ctx.mark_non_differentiable(*outputs[1:])
    ctx.save_for_backward(rows, counts, *outputs[1:])


def _backward_of_triplet_loss(ctx: Any, saved: tuple[Tensor, ...], grad_loss: Tensor, *_: Any) -> tuple[Tensor]:
    backward = torch.ops.hardmine.triplet_loss_in_parts_backward
    return (backward(grad_loss, *saved, *ctx.options),)


def _tuplet_loss(
    embeddings: Tensor,
    rows: Tensor,
    labels: Tensor,
    ids: Tensor | None,
    counts: Tensor,
    codes: list[int],
    numbers: list[float],
    scale: float,
    group_name: str,
) -> tuple[Tensor, ...]:
    options = _join_options(codes, numbers, TUPLET_OPTIONS)
    return tuplet_in_parts(Rows(rows, labels, ids), options, shares_of(group_of(group_name)))


def _tuplet_loss_backward(
    grad_loss: Tensor,
    rows: Tensor,
    labels: Tensor,
    ids: Tensor | None,
    counts: Tensor,
    shift: Tensor,
    sum: Tensor,
    slope: Tensor,
    positive_index: Tensor,
    positive_count: Tensor,
    codes: list[int],
    numbers: list[float],
    scale: float,
    group_name: str,
    num_rows: int,
) -> Tensor:
    """The gradient of this rank's rows: what its pairs add to all rows' gradients goes to their ranks."""
    group = group_of(group_name)
    saved = shift, sum, slope, positive_index, positive_count
    part = torch.ops.hardmine.tuplet_loss_backward_part(
        grad_loss * scale,
        rows,
        labels,
        ids,
        *saved,
        *_join_options(codes, numbers, TUPLET_OPTIONS),
        group.rank(),
        group.size(),
    )
    own = torch.ops.hardmine.all_gather_rows_backward(part, counts, num_rows, group_name)
    return own.to(rows.dtype)


def _tuplet_loss_fake(embeddings: Tensor, rows: Tensor, labels: Tensor, *_: Any) -> tuple[Tensor, ...]:
    values = rows.new_empty(rows.shape[0], dtype=accumulate_dtype(rows.dtype))
    index = labels.new_empty(rows.shape[0])
    return values.new_empty(()), *(torch.empty_like(values) for _ in range(5)), index, torch.empty_like(index)


def _setup_tuplet_loss(ctx: Any, arguments: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
    embeddings, *tensors = arguments[:5]
    ctx.options = (*arguments[5:], embeddings.shape[0])
    ctx.mark_non_differentiable(*outputs[1:])
    ctx.save_for_backward(*tensors, *outputs[3:])


def _backward_of_tuplet_loss(ctx: Any, saved: tuple[Tensor, ...], grad_loss: Tensor, *_: Any) -> tuple[Tensor]:
    backward = torch.ops.hardmine.tuplet_loss_in_parts_backward
    return (backward(grad_loss, *saved, *ctx.options),)


def _register(
    name: str,
    num_outputs: int,
    saved: str,
    forward: Callable[..., tuple[Tensor, ...]],
    fake: Callable[..., tuple[Tensor, ...]],
    backward: Callable[..., Tensor],
    setup: Callable[..., None],
    derivative: Callable[..., tuple[Tensor]],
) -> None:
    """Registers a loss; ``embeddings`` are this rank's rows, ``rows``, labels, ids and counts those of all ranks."""
    options = "int[] codes, float[] numbers, float scale, str group_name"
    inputs = "Tensor embeddings, Tensor rows, Tensor labels, Tensor? ids, Tensor counts"
    outputs = ", ".join(["Tensor"] * num_outputs)
    torch.library.define(f"hardmine::{name}", f"({inputs}, {options}) -> ({outputs})")
    torch.library.impl(f"hardmine::{name}", "cpu", forward)
    torch.library.register_fake(f"hardmine::{name}", fake)
    torch.library.define(
        f"hardmine::{name}_backward", f"(Tensor grad_loss, {saved}, {options}, SymInt num_rows) -> Tensor"
    )
    torch.library.impl(f"hardmine::{name}_backward", "cpu", backward)
    torch.library.register_fake(
        f"hardmine::{name}_backward", lambda grad_loss, rows, *options: rows.new_empty(options[-1], rows.shape[1])
    )
    register_autograd(name, (0,), setup, derivative)
    forbid_double_backward(name, (0,))


_register(
    "triplet_loss_in_parts",
    5,
    "Tensor rows, Tensor counts, Tensor positive_similarity, Tensor negative_similarity, Tensor positive_index, "
    "Tensor negative_index",
    _triplet_loss,
    _triplet_loss_fake,
    _triplet_loss_backward,
    _setup_triplet_loss,
    _backward_of_triplet_loss,
)
_register(
    "tuplet_loss_in_parts",
    8,
    "Tensor rows, Tensor labels, Tensor? ids, Tensor counts, Tensor shift, Tensor sum, Tensor slope, "
    "Tensor positive_index, Tensor positive_count",
    _tuplet_loss,
    _tuplet_loss_fake,
    _tuplet_loss_backward,
    _setup_tuplet_loss,
    _backward_of_tuplet_loss,
)
