"""Ops with ``group=`` whose arguments are invalid, or differ between ranks: every rank raises the same error."""

import re

import pytest
import torch
import torch.distributed as dist

from hardmine import ops
from support.inputs import seeded
from support.ranks import COUNTS, run_ranks

ROWS, LABELS = torch.randn(4, 3, generator=seeded(0)), torch.tensor([0, 0, 1, 1])
TRIPLETS = torch.tensor([[0, 1, 2]])
LABELED = {"embeddings": ROWS, "labels": LABELS}
REFS = {"ref_embeddings": ROWS, "ref_labels": LABELS}
CALLS = {
    "select_triplets": LABELED,
    "triplet_loss": LABELED,
    "sct_loss": LABELED,
    "tuplet_loss": LABELED,
    "batch_all_triplet_loss": LABELED,
    "knn": {"queries": ROWS, "k": 2},
    "indexed_triplet_loss": {"embeddings": ROWS, "triplets": TRIPLETS},
    "global_loss": {"embeddings": ROWS, "triplets": TRIPLETS},
}


def call(op, **changes):
    return getattr(ops, op)(**{**CALLS[op], "group": dist.group.WORLD, **changes})


# On one rank: the arguments, the error and its message.
INVALID = [
    ("tuplet_loss", {"labels": LABELS[:3]}, ValueError, "labels must be [B] = [4], got [3]"),
    ("tuplet_loss", {"labels": None}, TypeError, "labels must be a torch.Tensor, got NoneType"),
    ("tuplet_loss", {"ids": LABELS[:1]}, ValueError, "ids must be [B] = [4], got [1]"),
    ("tuplet_loss", {"temperature": 0}, ValueError, "temperature must be a number from 1e-30 to 1e+30, got 0"),
    ("tuplet_loss", {"return_terms": 1}, TypeError, "return_terms must be True or False, got 1"),
    ("triplet_loss", {"margin": 0.1}, ValueError, "margin must be None with term='nca': only 'hinge' uses it, got 0.1"),
    (
        "triplet_loss",
        {"gradient_reduction": "none"},
        ValueError,
        "gradient_reduction must be one of 'mean', 'sum', got 'none'",
    ),
    (
        "triplet_loss",
        {"gradient_reduction": "mean", "reduction": "none"},
        ValueError,
        "gradient_reduction must be None with reduction='none', which scales nothing, got 'mean'",
    ),
    (
        "triplet_loss",
        {"ignore_index": -1, "weights": torch.tensor([1.0, -1.0, 1.0, 1.0])},
        ValueError,
        "weights must be finite and at least 0, got -1.0 at [1]",
    ),
    ("sct_loss", {"ignore_index": 1.5}, TypeError, "ignore_index must be an integer, got float"),
    ("sct_loss", {"preset": "code"}, ValueError, "preset must be one of 'paper', 'code2020', 'code2021', got 'code'"),
    (
        "sct_loss",
        {**REFS, "ref_labels": None},
        ValueError,
        "ref_labels must be given together with ref_embeddings, got None",
    ),
    ("sct_loss", {**REFS, "ids": LABELS}, ValueError, "ref_ids must be given together with ids, got None"),
    (
        "select_triplets",
        {"embeddings": ROWS.to("meta"), "labels": LABELS.to("meta")},
        ValueError,
        "embeddings must be on a device of the group, cpu, got meta",
    ),
    ("select_triplets", {"negative": "all"}, ValueError, "negative must be one of 'hardest', "),
    (
        "select_triplets",
        {"positive": "random", "generator": 1},
        TypeError,
        "generator must be a torch.Generator or None",
    ),
    ("batch_all_triplet_loss", {"labels": LABELS[:1]}, ValueError, "labels must be [B] = [4], got [1]"),
    ("batch_all_triplet_loss", {"squared": 1}, TypeError, "squared must be True or False, got 1"),
    ("batch_all_triplet_loss", {"reduction": "none"}, ValueError, "reduction must be one of 'mean', 'mean_active', "),
    ("knn", {"k": 0}, ValueError, "k must be from 1 to 1024, got 0"),
    ("knn", {"queries": ROWS[0]}, ValueError, "queries must be [rows, D], got [3]"),
    ("knn", {"refs": ROWS, "exclude_self": True}, ValueError, "exclude_self must be False or None if refs are given"),
    ("indexed_triplet_loss", {"triplets": TRIPLETS[0]}, ValueError, "triplets must be [T, 3], got [3]"),
    ("global_loss", {"lam": None}, TypeError, "lam must be a number, got NoneType"),
]


@COUNTS
def test_op_with_group_invalid_on_one_rank_raises_on_every_rank(count):
    """Valid calls between the errors: no rank is left behind in a collective."""

    def raise_all(rank):
        for number, (op, changes, error, message) in enumerate(INVALID):
            invalid = number % count
            with pytest.raises(error, match=f"^{re.escape(f'on rank {invalid}: {message}')}"):
                call(op, **(changes if rank == invalid else {}))
            call(op)

    run_ranks(count, raise_all)


# Triplets are compared with the rows of all ranks, after the gather.
INVALID_TRIPLETS = [
    ({"triplets": torch.tensor([[0, 1, 8]])}, "triplets must lie in [0, B) = [0, 8), got 8 at [0, 2]"),
    (
        {"triplets": torch.tensor([[0, 1, 2], [5, 5, 1]])},
        "triplets must be of three different rows each, got [5, 5, 1]",
    ),
    (
        {"triplets": torch.tensor([[0, 4, 1]]), "labels": LABELS},
        "triplets must hold an anchor, a positive of the same class and a negative of another class, got [0, 4, 1] of "
        "classes [0, 0, 0] at [0]",
    ),
]


@pytest.mark.parametrize("op", ["indexed_triplet_loss", "global_loss"])
def test_loss_with_group_invalid_triplet_on_one_rank_raises_on_every_rank(op):
    def raise_all(rank):
        for changes, message in INVALID_TRIPLETS:
            good = {"labels": LABELS} if "labels" in changes else {}
            with pytest.raises(ValueError, match=f"^on rank 1: {re.escape(message)}"):
                call(op, **(changes if rank == 1 else good))
            call(op)

    run_ranks(2, raise_all)


# Rank 1 passes other arguments than the others.
DIFFERENT = [
    ("sct_loss", {"lam": 0.1}, "lam must be the same on every rank, got 1 on rank 0 and 0.1 on rank 1"),
    ("sct_loss", {"preset": "code2021"}, "preset must be the same on every rank, got paper on rank 0 and code2021 on"),
    (
        "sct_loss",
        {"gradient_reduction": "sum"},
        "gradient_reduction must be the same on every rank, got mean on rank 0",
    ),
    (
        "sct_loss",
        REFS,
        "ref_embeddings must be given on every rank or on none, got None on rank 0 and ref_embeddings on",
    ),
    (
        "triplet_loss",
        {"positive": "hardest"},
        "positive must be the same on every rank, got easiest on rank 0 and hardest",
    ),
    (
        "tuplet_loss",
        {"reduction": "sum"},
        "reduction must be the same on every rank, got mean on rank 0 and sum on rank",
    ),
    (
        "tuplet_loss",
        {"ids": LABELS},
        "ids must be given on every rank or on none, got None on rank 0 and ids on rank 1",
    ),
    (
        "tuplet_loss",
        {"embeddings": ROWS.double()},
        "embeddings must have the same dtype on every rank, got torch.float32 on rank 0 and torch.float64 on rank 1",
    ),
    (
        "select_triplets",
        {"embeddings": torch.ones(4, 5)},
        "embeddings must be [rows, D] with the same D on every rank, got 3 on rank 0 and 5 on rank 1",
    ),
    (
        "select_triplets",
        {"ignore_index": 1},
        "the op must be the same on every rank, got select_triplets on rank 0 and select_triplets with ignore_index on",
    ),
    ("batch_all_triplet_loss", {"margin": 0.5}, "margin must be the same on every rank, got 0.2 on rank 0 and 0.5 on"),
    (
        "batch_all_triplet_loss",
        {"ref_embeddings": ROWS, "ref_labels": LABELS},
        "ref_embeddings must be given on every rank or on none, got None on rank 0 and ref_embeddings on rank 1",
    ),
    ("knn", {"k": 3}, "k must be the same on every rank, got 2 on rank 0 and 3 on rank 1"),
    (
        "indexed_triplet_loss",
        {"term": "nca"},
        "term must be the same on every rank, got ratio on rank 0 and nca on rank",
    ),
    ("global_loss", {"labels": LABELS}, "labels must be given on every rank or on none, got None on rank 0 and labels"),
]


@COUNTS
def test_op_with_group_different_arguments_raise_on_every_rank(count):
    def raise_all(rank):
        for op, changes, message in DIFFERENT:
            with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
                call(op, **(changes if rank == 1 else {}))
            call(op)
        with pytest.raises(
            ValueError, match=r"^the op must be the same on every rank, got sct_loss on rank 0 and tupl"
        ):
            call("tuplet_loss" if rank == 1 else "sct_loss")
        with pytest.raises(ValueError, match=r"^ignore_index must be the same on every rank, got 0 on rank 0 and 1 on"):
            call("sct_loss", ignore_index=rank)

    run_ranks(count, raise_all)


def test_op_with_group_flags_may_differ():
    """What a rank returns beside the loss is its own business."""

    def count_on_rank_1(rank):
        losses = [call(op, return_count=True)[0] if rank else call(op) for op in ("sct_loss", "tuplet_loss")]
        return [loss.item() for loss in losses]

    first, second = run_ranks(2, count_on_rank_1)
    assert first == second


@pytest.mark.parametrize("op", CALLS)
def test_op_without_initialized_group_raises(op):
    """``torch.distributed.group.WORLD`` is None before ``init_process_group``."""

    def raise_one(rank):
        group = dist.new_group([0, 1])
        dist.destroy_process_group()
        with pytest.raises(RuntimeError, match=r"^group must be an initialized process group, got one that was destr"):
            call(op, group=group)

    run_ranks(2, raise_one)


def test_op_of_subgroup_has_its_rows_only():
    def losses(rank):
        groups = [dist.new_group([r]) for r in range(2)]
        other = 1 - rank
        with pytest.raises(ValueError, match=rf"^group must include this process, rank {rank} of the default group, "):
            call("sct_loss", group=groups[other])
        return call("sct_loss", group=groups[rank]).item()

    alone = ops.sct_loss(ROWS, LABELS).item()
    assert run_ranks(2, losses) == pytest.approx([alone, alone], rel=1e-6)
