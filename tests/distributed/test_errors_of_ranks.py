"""Invalid arguments on one rank: every rank raises the error that names the rank and the argument, and none hangs."""

import os
import re
import time

import pytest
import torch
import torch.distributed as dist

from hardmine.distributed import all_gather_rows, all_reduce_loss
from support.ranks import COUNTS, run_ranks

ROWS, LABELS = torch.ones(3, 2), torch.arange(3)
GOOD = {"embeddings": ROWS, "labels": LABELS, "ids": LABELS}


def gather(**changes):
    return all_gather_rows(**{**GOOD, **changes})


INVALID = [
    ({"embeddings": None}, TypeError, "embeddings must be a torch.Tensor, got NoneType"),
    ({"embeddings": [[1.0, 2.0]] * 3}, TypeError, "embeddings must be a torch.Tensor, got list"),
    (
        {"embeddings": ROWS.int()},
        TypeError,
        "embeddings must be float32, float64, float16 or bfloat16, got torch.int32",
    ),
    ({"embeddings": ROWS[0]}, ValueError, "embeddings must be [rows, D], got [2]"),
    ({"embeddings": ROWS[:, :0]}, ValueError, "embeddings must be [rows, D] with D >= 1, got [3, 0]"),
    ({"embeddings": ROWS.to_sparse()}, TypeError, "embeddings must be a dense tensor, got layout torch.sparse_coo"),
    (
        {name: tensor.to("meta") for name, tensor in GOOD.items()},
        ValueError,
        "embeddings must be on a device of the group, cpu, got meta",
    ),
    ({"labels": None}, TypeError, "labels must be a torch.Tensor, got NoneType"),
    ({"labels": LABELS.float()}, TypeError, "labels must have an integer dtype, got torch.float32"),
    ({"labels": LABELS[:2]}, ValueError, "labels must be [B] = [3], got [2]"),
    (
        {"labels": torch.tensor([0, 2**63, 1], dtype=torch.uint64)},
        ValueError,
        f"labels must be below 2^63, got {2**63}",
    ),
    ({"labels": LABELS.to("meta")}, ValueError, "labels must be on the device of the embeddings, cpu, got meta"),
    ({"ids": LABELS.tolist()}, TypeError, "ids must be a torch.Tensor, got list"),
    ({"ids": LABELS > 0}, TypeError, "ids must have an integer dtype, got torch.bool"),
    ({"ids": LABELS[None]}, ValueError, "ids must be [B] = [3], got [1, 3]"),
]


@COUNTS
def test_all_gather_rows_invalid_on_one_rank_raises_on_every_rank(count):
    """Valid calls between the errors: no rank is left behind in a collective."""

    def raise_all(rank):
        for number, (changes, error, message) in enumerate(INVALID):
            invalid = number % count
            with pytest.raises(error, match=f"^{re.escape(f'on rank {invalid}: {message}')}$"):
                gather(**(changes if rank == invalid else {}))
            assert gather().embeddings.shape == (3 * count, 2)

    run_ranks(count, raise_all)


@COUNTS
def test_all_gather_rows_invalid_on_several_ranks_raises_lowest(count):
    def raise_all(rank):
        with pytest.raises(ValueError, match=r"^on rank 1: labels must be \[B\] = \[3\], got \[1\]$"):
            gather(labels=LABELS[:1] if rank == 1 else LABELS if rank == 0 else None)
        with pytest.raises(TypeError, match=r"^on rank 0: embeddings must be a torch.Tensor, got int$"):
            gather(embeddings=rank)

    run_ranks(count, raise_all)


DIFFERENT = [
    (
        {"embeddings": ROWS.double()},
        "embeddings must have the same dtype on every rank, got torch.float32 on rank 0 and torch.float64 on rank 1",
    ),
    (
        {"embeddings": torch.ones(0, 5), "labels": LABELS[:0], "ids": LABELS[:0]},
        "embeddings must be [rows, D] with the same D on every rank, got 2 on rank 0 and 5 on rank 1",
    ),
    ({"ids": None}, "ids must be given on every rank or on none, got ids on rank 0 and None on rank 1"),
    (
        {"embeddings": ROWS.clone().requires_grad_()},
        "embeddings must require gradients, outside torch.no_grad, on every rank or on none: all ranks take part in "
        "the backward pass, got no gradients on rank 0 and gradients on rank 1",
    ),
]


@COUNTS
def test_all_gather_rows_different_arguments_raise_on_every_rank(count):
    def raise_all(rank):
        for changes, message in DIFFERENT:
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                gather(**(changes if rank == 1 else {}))
            assert gather().counts.tolist() == [3] * count

    run_ranks(count, raise_all)


def test_all_gather_rows_long_error_is_cut():
    def raise_all(rank):
        with pytest.raises(ValueError, match=r"^on rank 1: embeddings must be ") as raised:
            gather(embeddings=torch.ones([1] * 3000) if rank == 1 else ROWS)
        return len(str(raised.value))

    first, second = run_ranks(2, raise_all)
    assert first == second < 4200


def test_all_gather_rows_rank_that_exits_before_raises_on_others():
    def exit_or_gather(rank):
        gather()
        if rank == 0:
            os._exit(1)
        start = time.monotonic()
        with pytest.raises(RuntimeError):
            gather()
        return time.monotonic() - start

    _, seconds = run_ranks(2, exit_or_gather, exits=(0,))
    assert seconds < 10, "the group's timeout is 30 seconds"


@pytest.mark.parametrize("call", [gather, lambda **options: all_reduce_loss(torch.tensor(1.0), **options)])
def test_group_invalid_raises(call):
    assert not dist.is_initialized()
    message = "group must be an initialized process group, got None before torch.distributed.init_process_group"
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        call()
    with pytest.raises(TypeError, match=r"^group must be a torch.distributed.ProcessGroup or None, got str$"):
        call(group="gloo")

    def raise_all(rank):
        own, other = (
            (dist.new_group([r]) for r in (rank, 1 - rank))
            if rank == 0
            else reversed([dist.new_group([r]) for r in (1 - rank, rank)])
        )
        with pytest.raises(ValueError, match=rf"^group must include this process, rank {rank} of the default group, "):
            call(group=other)
        call(group=own)
        with pytest.raises(TypeError, match=r"^group must be a torch.distributed.ProcessGroup or None, got int$"):
            call(group=0)
        dist.destroy_process_group(own)
        with pytest.raises(RuntimeError, match=r"^group must be an initialized process group, got one that was destr"):
            call(group=own)

    run_ranks(2, raise_all)
