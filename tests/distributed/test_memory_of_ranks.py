"""CrossBatchMemory with a group: one memory of all ranks, equal to that of one process with the whole batch."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist

from hardmine.distributed import all_reduce_loss
from hardmine.losses import CrossBatchMemory, TupletLoss
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded
from support.ranks import COUNTS, run_ranks

DIM, STEPS = 6, 5
SIZES = [7, 12, 0, 5, 9]


def batches(count):
    """The whole batch of every step, with ids and a mask, and the bounds of the ranks' parts."""
    bounds = torch.tensor([0, *SIZES[:count]]).cumsum(0).tolist()
    for step in range(STEPS):
        generator = seeded(step)
        embeddings = torch.randn(bounds[-1], DIM, generator=generator, dtype=torch.float64)
        labels, ids = (torch.randint(n, (bounds[-1],), generator=generator) for n in (3, 40))
        yield embeddings, labels, ids - 4, torch.rand(bounds[-1], generator=generator) < 0.6, bounds


def make_memory(group=None, size=37):
    return CrossBatchMemory(TupletLoss(reduction="sum"), size, DIM, dtype=torch.float64, group=group)


def train(memory, kind, steps, part=slice(None)):
    """The sums, counts and gradients of a part of each batch."""
    for embeddings, labels, ids, mask, _ in steps:
        x = embeddings[part].clone().requires_grad_()
        options = {"ids": {"ids": ids[part]}, "mask": {"enqueue_mask": mask[part]}}.get(kind, {})
        total, count = memory(x, labels[part], return_count=True, **options)
        if memory.group is not None:
            total, count = all_reduce_loss(total, count, gradient_reduction="sum"), torch.tensor(1)
        loss = total / count.clamp(min=1)
        yield loss.detach(), torch.autograd.grad(loss, x)[0]


@COUNTS
@pytest.mark.parametrize("kind", ["own", "ids", "mask"])
def test_memory_of_ranks_equals_that_of_one_process(kind, count):
    """Ranks of different sizes, one without rows, and a queue that wraps."""
    steps = list(batches(count))
    bounds = steps[0][-1]
    size = bounds[-1] + 4

    def compute(rank):
        memory = make_memory(dist.group.WORLD, size)
        return list(train(memory, kind, steps, slice(*bounds[rank : rank + 2]))), memory.state_dict()

    alone = make_memory(size=size)
    expected = list(train(alone, kind, steps))
    assert min(loss for loss, _ in expected[1:]) > 0
    assert alone.counters[0] > size
    found = run_ranks(count, compute)
    for step, (loss, gradient) in enumerate(expected):
        for results, state in found:
            torch.testing.assert_close(results[step][0], loss, rtol=1e-12, atol=0)
            for name, value in alone.state_dict().items():
                assert_bitwise_equal(state[name], value)
        gradients = torch.cat([results[step][1] for results, _ in found])
        torch.testing.assert_close(gradients, gradient, rtol=1e-10, atol=1e-12)


def test_memory_of_ranks_that_are_separate_differ():
    def fill(rank):
        memory = make_memory()
        memory(torch.full((2, DIM), 1.0 + rank, dtype=torch.float64), torch.arange(2))
        return memory.embeddings[0, 0].item(), memory.filled

    assert run_ranks(2, fill) == [(1.0, 2), (2.0, 2)]


def test_memory_of_ranks_with_too_many_rows_raises_on_every_rank():
    """20 rows of each rank fit, and those of both do not."""

    def fill(rank):
        memory = make_memory(dist.group.WORLD)
        words = "embeddings must have at most size = 37 rows of all ranks to put in, got 40"
        with pytest.raises(ValueError, match=words):
            memory(torch.ones(20, DIM, dtype=torch.float64), torch.arange(20))
        return memory.counters.tolist()

    assert run_ranks(2, fill) == [[0, 0]] * 2


def test_memory_of_ranks_is_copied_and_pickled():
    def copies(rank):
        memory = make_memory(dist.group.WORLD)
        memory(torch.ones(2, DIM, dtype=torch.float64), torch.arange(2))
        for other in (copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):
            other(torch.ones(2, DIM, dtype=torch.float64), torch.arange(2))
            assert other.filled == 8
        return memory.filled, "group=" in repr(memory)

    assert run_ranks(2, copies) == [(4, True)] * 2


def test_memory_of_a_loss_with_group_raises():
    def make(rank):
        with pytest.raises(ValueError, match=r"^loss must have group=None, or every rank would add its copy"):
            CrossBatchMemory(TupletLoss(group=dist.group.WORLD), 8, DIM)

    run_ranks(1, make)


def test_memory_of_ranks_without_process_group_raises():
    with pytest.raises(TypeError, match=r"group must be a torch.distributed.ProcessGroup or None, got int"):
        make_memory(1)


@pytest.mark.slow
def test_memory_of_ranks_compiles_to_one_graph():
    steps = list(batches(2))
    bounds = steps[0][-1]

    def compare(rank):
        part = slice(*bounds[rank : rank + 2])
        eager, other = make_memory(dist.group.WORLD), make_memory(dist.group.WORLD)
        compiled = torch.compile(lambda *args: other(*args), backend="aot_eager", fullgraph=True)
        for embeddings, labels, *_ in steps:
            results = []
            for function in (eager, compiled):
                x = embeddings[part].clone().requires_grad_()
                loss = function(x, labels[part])
                results.append((loss.detach(), torch.autograd.grad(loss, x)[0]))
            for got, wanted in zip(*results, strict=True):
                assert_bitwise_equal(got, wanted)

    run_ranks(2, compare)


def test_memory_of_ranks_invalid_batch_of_one_rank_raises_on_every_rank():
    def refused(rank):
        memory = make_memory(dist.group.WORLD)
        labels = torch.arange(4 if rank == 0 else 3)
        with pytest.raises(ValueError, match=r"^on rank 1: labels must be \[B\] = \[4\], got \[3\]$"):
            memory(torch.randn(4, DIM, dtype=torch.float64), labels)
        mask = torch.ones(4, dtype=torch.bool if rank == 1 else torch.int64)
        with pytest.raises(TypeError, match=r"^on rank 0: enqueue_mask must be a torch.bool tensor, got torch.int64$"):
            memory(torch.randn(4, DIM, dtype=torch.float64), torch.arange(4), enqueue_mask=mask)
        return memory.filled

    assert run_ranks(2, refused) == [0, 0]
