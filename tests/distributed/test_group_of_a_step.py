"""Training steps with ``group=``: their collectives, DDP, accumulation, bf16, divergence, torch.compile."""

import copy
import math

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from collectives import Collectives
from group_calls import DEPTH, SIZES, batch_of
from hardmine import ops
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded
from support.ranks import COUNTS_FROM_ONE, run_ranks

OPS = ("select_triplets", "triplet_loss", "sct_loss", "tuplet_loss", "knn", "indexed_triplet_loss", "global_loss")
OPS += ("batch_all_triplet_loss",)


def bytes_of(rows, width):
    """The bytes of so many rows of labels or ids, and of embeddings of 8 bytes."""
    return rows * 8 * (width + DEPTH)


@COUNTS_FROM_ONE
@pytest.mark.parametrize(("name", "with_refs"), [*((name, False) for name in OPS), *((name, True) for name in OPS[:5])])
def test_step_with_group_has_few_collectives(name, with_refs, count):
    if (with_refs and "triplet_loss" in name and "indexed" in name) or (with_refs and name == "global_loss"):
        return
    rows, refs = batch_of("uneven", count), batch_of("equal", count, seed=3)
    most = max(SIZES["equal" if with_refs else "uneven"][:count])
    total = sum(SIZES["equal" if with_refs else "uneven"][:count])

    def seen(rank):
        leaf, gallery = (batch.rows[batch.part(rank)].clone().requires_grad_() for batch in (rows, refs))
        labels, ref_labels = rows.labels[rows.part(rank)], refs.labels[refs.part(rank)]
        collectives = Collectives()
        options = {"group": dist.group.WORLD}
        if name == "knn":
            loss = ops.knn(leaf, gallery if with_refs else None, k=2, **options).similarity.sum()
        elif name in ("indexed_triplet_loss", "global_loss"):
            loss = getattr(ops, name)(leaf, torch.tensor([[0, 1, 2]]), **options)
        else:
            inputs = (leaf, labels, gallery, ref_labels) if with_refs else (leaf, labels)
            found = getattr(ops, name)(*inputs, **options)
            loss = found.positive_similarity.sum() if name == "select_triplets" else found
        loss.backward()
        return collectives.seen

    integers = {"knn": 0, "indexed_triplet_loss": 0, "global_loss": 0}.get(name, 1)
    triplets = 24 if name == "global_loss" else 0
    exchange = [("all_gather_single", (5 if name == "batch_all_triplet_loss" else 3) * 8)]  # of the parts of a loss
    if not with_refs and name in ("triplet_loss", "sct_loss"):
        # The ranks share the pairs. In float64, keys and indices of the best candidates travel one after the other.
        exchange = [("all_reduce", 8 * (total * (2 if name == "sct_loss" else 1) + 1))] * 2
    elif not with_refs and name == "tuplet_loss":
        exchange = [("all_reduce", 8 * (total + 1))]
    scatter = [("all_to_all_single", bytes_of(total, 0))]
    expected = [
        ("all_gather_single", 5 * 8),
        ("all_gather_single", bytes_of(most, integers) + triplets),
        *([] if name in ("select_triplets", "knn") else exchange),
        *([] if not with_refs and name in ("triplet_loss", "sct_loss") else scatter),
    ]
    assert run_ranks(count, seen) == [expected] * count


def network_of():
    """A network with a parameter that no loss uses."""
    network = torch.nn.Sequential(torch.nn.Linear(DEPTH, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4)).double()
    network.unused = torch.nn.Parameter(torch.ones(3))
    for number, parameter in enumerate(network.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=seeded(number), dtype=torch.float64)
    return network


LOSSES = {
    "sct_loss": {"preset": "code2020"},
    "tuplet_loss": {"positive": "hardest"},
    "triplet_loss": {"negative": "semihard", "semihard_fallback": "hardest", "term": "hinge"},
}


@COUNTS_FROM_ONE
@pytest.mark.parametrize("split", ["uneven", "a rank without rows"])
def test_ddp_gradients_with_group_are_those_of_one_process(count, split):
    """Accumulated over two batches, with a parameter that is never used."""
    network, batches = network_of(), [batch_of(split, count, seed=seed) for seed in (0, 10)]

    def gradients(rank):
        model = DistributedDataParallel(copy.deepcopy(network), find_unused_parameters=True)
        for batch in batches:
            rows = model(batch.rows[batch.part(rank)])
            loss = ops.sct_loss(rows, batch.labels[batch.part(rank)], group=dist.group.WORLD, preset="code2020")
            loss.backward()
        return [parameter.grad for parameter in model.parameters()]

    for batch in batches:
        ops.sct_loss(network(batch.rows), batch.labels, preset="code2020").backward()
    for grads in run_ranks(count, gradients):
        for grad, parameter in zip(grads, network.parameters(), strict=True):
            if parameter.grad is None:
                assert grad is None or not grad.any()
            else:
                torch.testing.assert_close(grad, parameter.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_step_under_autocast_or_in_half_precision_is_that_of_one_process(name, dtype):
    network, batch = network_of().float(), batch_of("uneven", 2, dtype=torch.float32)

    def step(rows, labels, **options):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            embeddings = network(rows)
        embeddings = embeddings.to(dtype) if dtype == torch.float16 else embeddings
        embeddings.retain_grad()
        loss = getattr(ops, name)(embeddings, labels, **LOSSES[name], **options)
        loss.backward()
        return embeddings.dtype, loss.detach(), embeddings.grad

    found = run_ranks(
        2, lambda rank: step(batch.rows[batch.part(rank)], batch.labels[batch.part(rank)], group=dist.group.WORLD)
    )
    expected_dtype, loss, grad = step(batch.rows, batch.labels)
    assert expected_dtype == dtype
    for got_dtype, got, _ in found:
        assert got_dtype == dtype
        torch.testing.assert_close(got, loss, rtol=1e-5, atol=0)
    grads = torch.cat([part for _, _, part in found]).float() / 2
    torch.testing.assert_close(grads, grad.float(), rtol=0, atol=4 * torch.finfo(dtype).eps * grad.abs().max().item())


LAYOUTS = {
    "transposed": lambda rows: rows.T.contiguous().T,
    "strided": lambda rows: rows.repeat_interleave(2, 1)[:, ::2],
    "expanded": lambda rows: rows[:1].expand(len(rows), -1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_step_with_non_contiguous_rows_is_that_of_one_process(layout):
    batch = batch_of("equal", 2)

    def step(rank):
        leaf = batch.rows[batch.part(rank)].clone().requires_grad_()
        loss = ops.tuplet_loss(LAYOUTS[layout](leaf), batch.labels[batch.part(rank)], group=dist.group.WORLD)
        loss.backward()
        return loss.detach(), leaf.grad

    leaf = batch.rows.clone().requires_grad_()
    expected = ops.tuplet_loss(torch.cat([LAYOUTS[layout](leaf[batch.part(rank)]) for rank in range(2)]), batch.labels)
    expected.backward()
    found = run_ranks(2, step)
    for loss, _ in found:
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat([grad for _, grad in found]) / 2, leaf.grad, rtol=1e-10, atol=1e-12)


@COUNTS_FROM_ONE
@pytest.mark.parametrize("kind", ["one class", "all classes distinct", "one rank without positives"])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_with_group_of_few_triplets_is_that_of_one_process(name, kind, count):
    batch = batch_of("uneven", count)
    labels = {
        "one class": torch.zeros_like(batch.labels),
        "all classes distinct": torch.arange(len(batch.labels)),
        "one rank without positives": batch.labels.clone(),
    }[kind]
    if kind == "one rank without positives":
        labels[batch.part(0)] = torch.arange(SIZES["uneven"][0]) + 100

    def step(rank):
        leaf = batch.rows[batch.part(rank)].clone().requires_grad_()
        loss, number = getattr(ops, name)(
            leaf, labels[batch.part(rank)], group=dist.group.WORLD, return_count=True, **LOSSES[name]
        )
        loss.backward()
        return loss.detach(), int(number), leaf.grad

    leaf = batch.rows.clone().requires_grad_()
    expected, expected_number = getattr(ops, name)(leaf, labels, return_count=True, **LOSSES[name])
    expected.backward()
    assert (expected_number > 0) == (kind == "one rank without positives" and count > 1)
    found = run_ranks(count, step)
    for loss, number, _ in found:
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
        assert number == int(expected_number)
    grads = torch.cat([grad for _, _, grad in found])
    torch.testing.assert_close(grads / count, leaf.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("with_refs", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_with_group_non_finite_row_makes_loss_and_gradients_nan(name, with_refs, value):
    """Also on the ranks whose own anchors and refs are finite."""
    batch = batch_of("equal", 2)

    def step(rank):
        leaf = batch.rows[batch.part(rank)].clone()
        if rank == 1:
            leaf[2, 3] = value
        leaf.requires_grad_()
        refs = batch.rows[batch.part(rank)].clone().requires_grad_()
        labels = batch.labels[batch.part(rank)]
        inputs = (leaf, labels, refs, labels) if with_refs else (leaf, labels)
        loss = getattr(ops, name)(*inputs, group=dist.group.WORLD, **LOSSES[name])
        loss.backward()
        return bool(loss.isnan()), bool(leaf.grad.isnan().all()), not with_refs or bool(refs.grad.isnan().all())

    assert run_ranks(2, step) == [(True, True, True)] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "with_refs"),
    [
        ("sct_loss", False),
        ("tuplet_loss", True),
        ("random", False),
        ("random", True),
        ("ignored", True),
        ("knn", True),
        ("indexed_triplet_loss", False),
        ("global_loss", False),
        ("batch_all_triplet_loss", False),
    ],
)
def test_step_with_group_compiles_to_one_graph(name, with_refs):
    """With sizes and numbers that change between the calls."""

    def step(rows, labels, refs, ref_labels, triplets, lam):
        options = {"group": dist.group.WORLD}
        rows, refs = rows * 2, None if refs is None else refs * 2
        if name == "knn":
            return ops.knn(rows, refs, k=2, **options).similarity.sum()
        if name == "indexed_triplet_loss":
            return ops.indexed_triplet_loss(rows, triplets, term="sct", lam=lam, **options)
        if name == "global_loss":
            return ops.global_loss(rows, triplets, lam=lam, **options)
        if name == "batch_all_triplet_loss":
            return ops.batch_all_triplet_loss(rows, labels, margin=lam, **options)
        inputs = rows, labels, refs, ref_labels
        if name == "ignored":
            return ops.triplet_loss(*inputs, ignore_index=2, term="sct", lam=lam, **options)
        if name == "random":
            return ops.triplet_loss(*inputs, negative="random", term="sct", lam=lam, **options)
        chosen = {**LOSSES[name], **({"lam": lam} if name == "sct_loss" else {})}
        loss, number = getattr(ops, name)(*inputs, return_count=True, **chosen, **options)
        return loss + number

    def compare(rank):
        compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
        for extra, lam in ((0, 0.5), (3, 0.7), (5, 0.9)):
            results = []
            for function in (step, compiled):
                torch.manual_seed(7)
                leaf = torch.randn(4 + extra + rank, DEPTH, generator=seeded(rank)).requires_grad_()
                refs = torch.randn(6 + extra, DEPTH, generator=seeded(rank + 5)).requires_grad_() if with_refs else None
                ref_labels = None if refs is None else torch.arange(len(refs)) % 3
                triplets = torch.tensor([[0, 1, 2]]).repeat(1 + extra, 1)
                loss = function(leaf, torch.arange(len(leaf)) % 3, refs, ref_labels, triplets, lam)
                loss.backward()
                used = refs is not None and refs.grad is not None
                results.append([loss.detach(), leaf.grad, *([refs.grad] if used else [])])
            for eager, other in zip(*results, strict=True):
                assert_bitwise_equal(other, eager)

    run_ranks(2, compare)
