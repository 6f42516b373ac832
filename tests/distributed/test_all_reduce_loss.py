"""all_reduce_loss, and the gradients of trainings on several ranks against one process."""

import copy
import math
import re

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from hardmine import ops
from hardmine.distributed import all_gather_rows, all_reduce_loss
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded
from support.ranks import COUNTS, run_ranks

TOTALS, PARTS = [0.5, -2.0, 3.25, 0.125, 8.0], [3, 0, 1, 2, 5]
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@COUNTS
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("with_count", [True, False])
def test_all_reduce_loss_value_and_gradient(count, reduction, with_count):
    """Sums of the totals are exact; the divisors are not powers of two."""
    divisor = sum(PARTS[:count]) if with_count else 1

    def reduce(rank):
        found = []
        for dtype in DTYPES:
            total = torch.tensor(TOTALS[rank], dtype=dtype, requires_grad=True)
            loss = all_reduce_loss(
                total, torch.tensor(PARTS[rank]) if with_count else None, gradient_reduction=reduction
            )
            (loss * 2).backward()
            found += [loss.detach(), total.grad]
        return found

    for found in run_ranks(count, reduce):
        for dtype, loss, grad in zip(DTYPES, found[::2], found[1::2], strict=True):
            expected = sum(TOTALS[:count]) / divisor, 2 * (count if reduction == "mean" else 1) / divisor
            assert_bitwise_equal(loss, torch.tensor(expected[0], dtype=torch.float64).to(dtype))
            assert_bitwise_equal(grad, torch.tensor(expected[1], dtype=torch.float64).to(dtype))


@COUNTS
def test_all_reduce_loss_no_anchor_on_any_rank_is_zero(count):
    def reduce(rank):
        total = torch.zeros((), requires_grad=True)
        loss = all_reduce_loss(total * 1, torch.tensor(0))
        loss.backward()
        return loss.item(), total.grad.item()

    assert run_ranks(count, reduce) == [(0.0, count)] * count


@COUNTS
def test_all_reduce_loss_is_same_bits_on_every_rank(count):
    losses = run_ranks(count, lambda rank: all_reduce_loss(torch.rand((), generator=seeded(rank)), torch.tensor(0.3)))
    for loss in losses:
        assert_bitwise_equal(loss, losses[0])


def test_all_reduce_loss_nan_reaches_every_rank():
    for loss in run_ranks(2, lambda rank: all_reduce_loss(torch.tensor([1.0, math.nan][rank]), torch.tensor(rank))):
        assert loss.isnan()


INVALID = [
    ({"total": 1.0}, TypeError, "total must be a torch.Tensor, got float"),
    ({"total": torch.tensor(1)}, TypeError, "total must be float32, float64, float16 or bfloat16, got torch.int64"),
    ({"total": torch.ones(3)}, ValueError, "total must be [], the sum of the losses, got [3]"),
    ({"count": 3}, TypeError, "count must be a torch.Tensor, got int"),
    ({"count": torch.tensor(True)}, TypeError, "count must be a tensor of numbers, got torch.bool"),
    ({"count": torch.ones(1)}, ValueError, "count must be [], got [1]"),
    ({"count": torch.tensor(1, device="meta")}, ValueError, "count must be on the device of total, cpu, got meta"),
    ({"gradient_reduction": "none"}, ValueError, "gradient_reduction must be one of 'mean', 'sum', got 'none'"),
]


@COUNTS
def test_all_reduce_loss_invalid_on_one_rank_is_nan_on_the_others(count):
    def raise_one(rank):
        good = {"total": torch.tensor(1.0), "count": torch.tensor(2)}
        for changes, error, message in INVALID:
            if rank == 1:
                with pytest.raises(error, match=f"^{re.escape(message)}$"):
                    all_reduce_loss(**{**good, **changes})
            else:
                assert all_reduce_loss(**good).isnan()
            assert all_reduce_loss(**good) == 0.5
        assert all_reduce_loss(torch.tensor(1.0), torch.tensor(1) if rank == 1 else None).isnan()

    run_ranks(count, raise_one)


@pytest.mark.slow
def test_all_reduce_loss_compiles_to_one_graph():
    def compare(rank):
        results = []
        for function in (all_reduce_loss, torch.compile(all_reduce_loss, fullgraph=True, backend="aot_eager")):
            total = torch.tensor(1.0 + rank, requires_grad=True)
            loss = function(total * 3, torch.tensor(4 + rank))
            loss.backward()
            results.append((loss.item(), total.grad.item()))
        assert results[0] == results[1]

    run_ranks(2, compare)


# Trainings: the gradients of a network on all ranks against those of one process, in float64

DEPTH = 5
HOW = ("loss of all rows", "anchors of the rank", "anchors of the rank, summed", "an op")


def training_of(count, spread):
    """A network, images and labels of the whole batch, and the bounds of the ranks' parts."""
    network = torch.nn.Sequential(torch.nn.Linear(7, 6), torch.nn.Tanh(), torch.nn.Linear(6, DEPTH)).double()
    for number, parameter in enumerate(network.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=seeded(number), dtype=torch.float64)
    sizes = [0 if rank == 0 and spread == "a rank without rows" else 8 + rank for rank in range(count)]
    total = sum(sizes)
    images = torch.randn(total, 7, generator=seeded(20), dtype=torch.float64)
    labels = torch.randint(0, 4, (total,), generator=seeded(21))
    if spread == "a rank without triplets":
        labels[: sizes[0]] = torch.arange(sizes[0]) + 100
    return network, images, labels, torch.tensor([0, *sizes]).cumsum(0).tolist()


def whole_loss(embeddings, labels):
    """The hinge of all positives and negatives by the mean over the pairs of an anchor and a positive."""
    distance = torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist").square()
    same = (labels[:, None] == labels) & ~torch.eye(len(labels), dtype=torch.bool)
    terms = (distance[:, :, None] - distance[:, None, :] + 1).relu() * (same[:, :, None] & ~same[:, None, :])
    return terms.sum(), same.sum()


def part_loss(gathered, rows, labels):
    """The part of :func:`whole_loss` of this rank's anchors, against all rows."""
    square = (rows[:, None] - gathered.embeddings[None]).square().sum(2)
    same = labels[:, None] == gathered.labels
    itself = (gathered.offset + torch.arange(len(rows)))[:, None] == torch.arange(len(gathered.labels))
    same_others = same & ~itself
    terms = (square[:, :, None] - square[:, None, :] + 1).relu() * (same_others[:, :, None] & ~same_others[:, None, :])
    return terms.sum(), same_others.sum()


@COUNTS
@pytest.mark.parametrize("spread", ["unequal", "a rank without rows", "a rank without triplets"])
@pytest.mark.parametrize(
    ("how", "ddp"),
    [
        *((how, False) for how in HOW),
        *(pytest.param(how, True, marks=pytest.mark.slow) for how in HOW if not how.endswith("summed")),
    ],
)
def test_training_gradients_equal_those_of_one_process(count, spread, how, ddp):
    """The gradients are averaged over the ranks, by DDP or here; or summed here."""
    network, images, labels, bounds = training_of(count, spread)

    def gradients(rank):
        own = slice(bounds[rank], bounds[rank + 1])
        model = copy.deepcopy(network)
        wrapped = DistributedDataParallel(model, find_unused_parameters=True) if ddp else model
        for _ in range(2):  # accumulates the gradients of two passes
            rows = wrapped(images[own])
            gathered = all_gather_rows(rows, labels[own])
            if how == "an op":
                loss = ops.tuplet_loss(gathered.embeddings, gathered.labels, similarity="cosine")
            elif how == "loss of all rows":
                total, pairs = whole_loss(gathered.embeddings, gathered.labels)
                loss = total / pairs
            else:
                total, pairs = part_loss(gathered, rows, labels[own])
                loss = all_reduce_loss(total, pairs, gradient_reduction="sum" if how.endswith("summed") else "mean")
            loss.backward()
        return loss.detach(), [parameter.grad for parameter in model.parameters()]

    embeddings = network(images)
    if how == "an op":
        expected = ops.tuplet_loss(embeddings, labels, similarity="cosine")
    else:
        total, pairs = whole_loss(embeddings, labels)
        expected = total / pairs
    (2 * expected).backward()
    assert expected > 0
    found = run_ranks(count, gradients)
    for loss, _ in found:
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    for number, parameter in enumerate(network.parameters()):
        grads = torch.stack([grads[number] for _, grads in found])
        if not ddp:
            grads = (grads.sum(0) if how.endswith("summed") else grads.mean(0))[None]
        for grad in grads:
            torch.testing.assert_close(grad, parameter.grad, rtol=1e-10, atol=1e-11)
