"""all_gather_rows: which rows come in which order, the gradient, the number of collectives, and groups."""

import pytest
import torch
import torch.distributed as dist

import hardmine
from collectives import Collectives
from hardmine.distributed import all_gather_rows, all_reduce_loss
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded
from support.ranks import COMPILING_SECONDS, COUNTS, run_ranks

DEPTH = 3
SIZES = pytest.mark.parametrize("sizes", ["equal", "unequal", "one rank has none", "one rank has all"])


def sizes_of(kind, count):
    return {
        "equal": [4] * count,
        "unequal": [2 + (3 * rank) % 5 for rank in range(count)],
        "one rank has none": [0 if rank == count - 1 else 3 + rank for rank in range(count)],
        "one rank has all": [6 if rank == 1 else 0 for rank in range(count)],
    }[kind]


def batch_of(sizes, dtype=torch.float32):
    """The rows of all ranks: embeddings, labels, ids, and the number of the first row of every rank."""
    total = sum(sizes)
    embeddings = torch.randn(total, DEPTH, generator=seeded(0)).to(dtype)
    labels = torch.randint(-5, 5, (total,), generator=seeded(1))
    starts = torch.tensor([0, *sizes]).cumsum(0).tolist()
    return embeddings, labels, torch.arange(total) * 7 - 1, starts


def part_of(tensor, starts, rank):
    return tensor[starts[rank] : starts[rank + 1]]


@COUNTS
@SIZES
@pytest.mark.parametrize("with_ids", [True, False])
def test_all_gather_rows_returns_rows_of_all_ranks_in_order(count, sizes, with_ids):
    sizes = sizes_of(sizes, count)
    embeddings, labels, ids, starts = batch_of(sizes)

    def gather(rank):
        own = [part_of(tensor, starts, rank) for tensor in (embeddings, labels, ids)[: 2 + with_ids]]
        return all_gather_rows(*own)

    for rank, gathered in enumerate(run_ranks(count, gather)):
        assert isinstance(gathered, hardmine.types.GatheredRows)
        assert_bitwise_equal(gathered.embeddings, embeddings)
        assert_bitwise_equal(gathered.labels, labels)
        if with_ids:
            assert_bitwise_equal(gathered.ids, ids)
        else:
            assert gathered.ids is None
        assert gathered.counts.tolist() == sizes
        assert gathered.offset.shape == ()
        assert gathered.offset.item() == starts[rank]
        assert all(t.is_contiguous() for t in (gathered.embeddings, gathered.labels))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("integers", [torch.int64, torch.int32, torch.int16, torch.uint8, torch.uint64])
def test_all_gather_rows_takes_every_dtype(dtype, integers):
    """Labels of different integer dtypes on different ranks are one int64 tensor."""
    embeddings, _, _, starts = batch_of([3, 2], dtype)
    embeddings[0, 0], embeddings[4, 1] = torch.nan, torch.inf
    labels = torch.arange(5)

    def gather(rank):
        own = part_of(labels, starts, rank).to(torch.int8 if rank else integers)
        return all_gather_rows(part_of(embeddings, starts, rank), own, own)

    for gathered in run_ranks(2, gather):
        assert_bitwise_equal(gathered.embeddings, embeddings)
        assert_bitwise_equal(gathered.labels, labels)
        assert_bitwise_equal(gathered.ids, labels)


def test_all_gather_rows_without_any_rows_is_empty():
    def gather(rank):
        embeddings = torch.empty(0, DEPTH, requires_grad=True)
        gathered = all_gather_rows(embeddings, torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
        gathered.embeddings.sum().backward()
        return [gathered.embeddings.detach(), gathered.labels, gathered.ids, gathered.counts, embeddings.grad]

    for embeddings, labels, ids, counts, grad in run_ranks(2, gather):
        assert embeddings.shape == grad.shape == (0, DEPTH)
        assert labels.shape == ids.shape == (0,)
        assert counts.tolist() == [0, 0]


def test_all_gather_rows_non_contiguous_rows_and_labels():
    embeddings, labels, ids, starts = batch_of([3, 5])

    def gather(rank):
        own = torch.stack([part_of(ids, starts, rank), part_of(labels, starts, rank)], 1)
        return all_gather_rows(part_of(embeddings, starts, rank).T.contiguous().T, own[:, 1], own[:, 0])

    for gathered in run_ranks(2, gather):
        assert_bitwise_equal(gathered.embeddings, embeddings)
        assert_bitwise_equal(gathered.labels, labels)
        assert_bitwise_equal(gathered.ids, ids)


def test_all_gather_rows_default_device_changes_nothing():
    def gather(rank):
        own = torch.full((2 + rank, DEPTH), float(rank), requires_grad=True)
        labels = torch.arange(2 + rank)
        with torch.device("meta"):
            gathered = all_gather_rows(own, labels)
            with pytest.raises(ValueError, match=r"^on rank 1: labels must be \[B\] = \[3\], got \[2\]$"):
                all_gather_rows(own, labels[:2])
            loss = all_reduce_loss(gathered.embeddings.sum(), labels.sum())
            loss.backward()
        return gathered.labels.tolist(), gathered.counts.tolist(), loss.item(), own.grad[0, 0].item()

    assert run_ranks(2, gather) == [([0, 1, 0, 1, 2], [2, 3], 2 * 3 * DEPTH / 4, 2 * 2 / 4)] * 2


# Gradients


def weights_of(rank, total, dtype):
    """Small integers, whose sums are exact."""
    return torch.randint(-4, 5, (total, DEPTH), generator=seeded(rank + 10)).to(dtype)


LOSSES = {
    "of contiguous gradient": lambda rows, weights: (rows * weights).sum(),
    "of transposed gradient": lambda rows, weights: (rows.T.contiguous() * weights.T.contiguous()).sum(),
    "of expanded gradient": lambda rows, weights: rows.sum() * weights[:1, :1].sum(),
    "of strided gradient": lambda rows, weights: (rows[:, ::2] * weights[:, ::2]).sum(),
}


@COUNTS
@SIZES
@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_sum_over_ranks(count, sizes, loss):
    sizes = sizes_of(sizes, count)
    embeddings, labels, _, starts = batch_of(sizes, torch.float64)

    def gradient(rank):
        own = part_of(embeddings, starts, rank).clone().requires_grad_()
        rows = all_gather_rows(own, part_of(labels, starts, rank)).embeddings
        LOSSES[loss](rows, weights_of(rank, len(rows), rows.dtype)).backward()
        return own.grad

    leaf = embeddings.clone().requires_grad_()
    sum(LOSSES[loss](leaf, weights_of(rank, len(leaf), leaf.dtype)) for rank in range(count)).backward()
    for rank, grad in enumerate(run_ranks(count, gradient)):
        assert_bitwise_equal(grad, part_of(leaf.grad, starts, rank))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "large"), [(torch.bfloat16, 256), (torch.float16, 2048)])
def test_gradient_sums_half_precision_in_float32(dtype, large):
    """The sum ``large`` + 1 + 1 is ``large`` if it is rounded after every rank, in any order of the ranks."""

    def gradient(rank):
        own = torch.ones(2, DEPTH, dtype=dtype, requires_grad=True)
        rows = all_gather_rows(own, torch.arange(2)).embeddings
        (rows * (large if rank == 0 else 1)).sum().backward()
        return own.grad

    for grad in run_ranks(3, gradient):
        assert grad.dtype == dtype
        assert grad.tolist() == [[large + 2] * DEPTH] * 2


@COUNTS
def test_gradient_repeats_bit_for_bit(count):
    def gradients(rank):
        embeddings = torch.randn(40 + rank, DEPTH, generator=seeded(rank))
        weights = torch.randn(count * 40 + count * (count - 1) // 2, DEPTH, generator=seeded(50 + rank))
        found = []
        for _ in range(3):
            own = embeddings.clone().requires_grad_()
            (all_gather_rows(own, torch.arange(len(own))).embeddings * weights).sum().backward()
            found.append(own.grad)
        return found

    for first, *others in run_ranks(count, gradients):
        for other in others:
            assert_bitwise_equal(other, first)


@pytest.mark.parametrize("frozen", ["no_grad", "inference_mode", "detached"])
def test_all_gather_rows_without_gradients_requires_none(frozen):
    def requires_grad(rank):
        own = torch.ones(2, DEPTH, requires_grad=frozen != "detached")
        with {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(frozen, torch.enable_grad)():
            return all_gather_rows(own, torch.arange(2)).embeddings.requires_grad

    assert run_ranks(2, requires_grad) == [False, False]


def test_second_derivative_raises():
    def differentiate(rank):
        own = torch.ones(2, DEPTH, requires_grad=True)
        (grad,) = torch.autograd.grad(
            all_gather_rows(own, torch.arange(2)).embeddings.pow(2).sum(), own, create_graph=True
        )
        with pytest.raises(NotImplementedError, match="no second derivative"):
            grad.sum().backward()

    run_ranks(2, differentiate)


# Collectives


@COUNTS
@pytest.mark.parametrize("with_ids", [True, False])
def test_all_gather_rows_has_two_collectives_forward_and_one_backward(count, with_ids):
    sizes = sizes_of("unequal", count)
    embeddings, labels, ids, starts = batch_of(sizes)
    largest, total = max(sizes), sum(sizes)

    def seen(rank):
        own = part_of(embeddings, starts, rank).clone().requires_grad_()
        collectives = Collectives()
        rows = all_gather_rows(own, part_of(labels, starts, rank), part_of(ids, starts, rank) if with_ids else None)
        rows.embeddings.sum().backward()
        return collectives.seen

    expected = [
        ("all_gather_single", 5 * 8),
        ("all_gather_single", -(-largest * (8 * (1 + with_ids) + DEPTH * 4) // 8) * 8),
        ("all_to_all_single", total * DEPTH * 4),
    ]
    assert run_ranks(count, seen) == [expected] * count


# torch.compile


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_all_gather_rows_compiles_to_one_graph(backend):
    """Each rank's anchors against the rows of all ranks, with sizes that change between steps."""

    def step(embeddings, labels, group):
        gathered = all_gather_rows(embeddings * 2, labels, group=group)
        ids = gathered.offset + torch.arange(len(labels))
        loss = hardmine.ops.tuplet_loss(embeddings, labels, gathered.embeddings, gathered.labels, similarity="dot")
        return loss, ids

    def compare(rank):
        compiled = torch.compile(step, backend=backend, fullgraph=True)
        for extra, group in ((1, None), (1, dist.group.WORLD), (4, None), (6, None)):
            results = []
            for function in (step, compiled):
                own = torch.randn(3 + extra * (rank + 1), DEPTH, generator=seeded(rank)).requires_grad_()
                loss, ids = function(own, torch.arange(len(own)) % 3, group)
                loss.backward()
                results.append((loss.detach(), own.grad, ids))
            for eager, other in zip(*results, strict=True):
                assert_bitwise_equal(other, eager)

    run_ranks(2, compare, seconds=COMPILING_SECONDS)


@pytest.mark.slow
def test_all_gather_rows_compiled_invalid_rank_raises_on_every_rank():
    def gather(rank):
        compiled = torch.compile(lambda x, y: all_gather_rows(x, y).embeddings, backend="aot_eager", fullgraph=True)
        compiled(torch.ones(3, DEPTH), torch.arange(3))
        with pytest.raises(ValueError, match=r"^on rank 1: labels must be \[B\] = \[3\], got \[4\]$"):
            compiled(torch.ones(3, DEPTH), torch.arange(3 + rank))

    run_ranks(2, gather)


# Groups


@pytest.mark.slow
def test_all_gather_rows_of_subgroup_has_its_rows_only():
    """Ranks 0 and 2 of three, listed in the other order: rows come in the order of the ranks of the group."""

    def gather(rank):
        group = dist.new_group([2, 0])
        embeddings, labels = torch.full((1 + rank, DEPTH), float(rank)), torch.full((1 + rank,), rank)
        if rank == 1:
            with pytest.raises(ValueError, match=r"^group must include this process, rank 1 of the default group, "):
                all_gather_rows(embeddings, labels, group=group)
            return None
        gathered = all_gather_rows(embeddings, labels, group=group)
        order = dist.get_process_group_ranks(group)
        assert gathered.labels.tolist() == [r for r in order for _ in range(1 + r)]
        assert gathered.offset == (0 if order[0] == rank else 1 + order[0])
        return gathered.labels

    first, _, last = run_ranks(3, gather)
    assert_bitwise_equal(first, last)


def test_all_gather_rows_gradients_of_two_groups_are_independent():
    def gradient(rank):
        own = torch.ones(2, DEPTH, requires_grad=True)
        groups = [dist.group.WORLD, *(dist.new_group([r]) for r in range(2))]
        for group, offset in ((groups[0], 2 * rank), (groups[1 + rank], 0)):
            gathered = all_gather_rows(own, torch.arange(2), group=group)
            assert gathered.offset == offset
            (gathered.embeddings * (1 + 10 * rank)).sum().backward()
        return own.grad

    for rank, grad in enumerate(run_ranks(2, gradient)):
        assert grad.tolist() == [[12 + (1 + 10 * rank)] * DEPTH] * 2
