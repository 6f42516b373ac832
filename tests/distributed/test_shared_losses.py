"""Losses whose pairs the ranks share: values, gradients, and a rank that fails while the others wait."""

import pytest
import torch
import torch.distributed as dist

from collectives import Collectives
from group_calls import DEPTH, SIZES, Batch, batch_of
from hardmine import ops
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded
from support.ranks import COUNTS, run_ranks

RULES = {
    "triplet_loss": [
        {},
        {"negative": "hardest", "positive": "hardest", "term": "hinge", "similarity": "euclidean"},
        {"negative": "easiest", "term": "soft_margin", "similarity": "dot", "reduction": "sum"},
        {"semihard_fallback": "hardest", "min_similarity": 0.0, "gradient_reduction": "sum"},
    ],
    "sct_loss": [{}, {"preset": "code2020", "negative": "semihard"}, {"preset": "code2021", "lam": 0.3}],
    "tuplet_loss": [
        {},
        {"positive": "all", "temperature": 0.02, "reduction": "sum"},
        {"positive": "hardest", "similarity": "euclidean", "gradient_reduction": "sum"},
    ],
}


def batches_of(count, dtype):
    """Batches of one block of pairs, which one rank computes, and one of many blocks."""
    generator = seeded(3)
    bounds = [0, 210, 360, 500, 590, 700][: count + 1]
    labels = torch.randint(20, (bounds[-1],), generator=generator)
    rows = torch.randn(20, DEPTH, generator=generator)[labels] + torch.randn(bounds[-1], DEPTH, generator=generator)
    ids = torch.randint(-50, 300, (bounds[-1],), generator=generator)
    return [*(batch_of(split, count, dtype=dtype) for split in SIZES), Batch(rows.to(dtype), labels, ids, bounds)]


def step(name, batch, rank, with_ids, options):
    """The loss, the count, and the gradient of one rank's rows, or of all."""
    part = batch.part(rank)
    leaf = batch.rows[part].clone().requires_grad_()
    ids = {"ids": batch.ids[part]} if with_ids else {}
    loss, count = getattr(ops, name)(leaf, batch.labels[part], **ids, **options, return_count=True)
    (loss * 3).backward()
    return loss.detach(), int(count), leaf.grad


@COUNTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", RULES)
def test_shared_loss_with_group_is_that_of_one_process(name, dtype, count):
    """Losses of one positive and one negative, and their gradients, have the bits of one process."""
    cases = [
        (batch, (i + j) % 2 == 1, options)
        for i, batch in enumerate(batches_of(count, dtype))
        for j, options in enumerate(RULES[name])
    ]

    def steps(rank):
        return [
            step(name, batch, rank, with_ids, {**options, "group": dist.group.WORLD})
            for batch, with_ids, options in cases
        ]

    some_gradient = 0
    for (batch, with_ids, options), ranks in zip(cases, zip(*run_ranks(count, steps), strict=True), strict=True):
        alone = {key: value for key, value in options.items() if key != "gradient_reduction"}
        loss, counted, grad = step(name, batch, None, with_ids, alone)
        scale = 1 if "gradient_reduction" in options else count
        got = torch.cat([part for _, _, part in ranks])
        for other, other_count, _ in ranks:
            assert_bitwise_equal(other, ranks[0][0])
            assert other_count == counted
        some_gradient += bool(grad.any())
        if name == "tuplet_loss":
            rtol = 1e-10 if dtype == torch.float64 else 1e-5
            torch.testing.assert_close(ranks[0][0], loss, rtol=rtol, atol=rtol)
            rounding = 2**-7 if dtype == torch.bfloat16 else 10 * rtol
            torch.testing.assert_close(got / scale, grad, rtol=rounding, atol=rounding * float(loss.abs() + 1))
            continue
        assert_bitwise_equal(ranks[0][0], loss)
        if scale in (1, 2):  # powers of 2 scale without rounding
            assert_bitwise_equal(got / scale, grad)
        else:
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(got / scale, grad, rtol=8 * eps, atol=8 * eps * float(grad.abs().sum() + 1))
    assert some_gradient > len(cases) / 3


@COUNTS
@pytest.mark.parametrize("name", RULES)
def test_shared_loss_in_float32_has_three_collectives_forward(name, count):
    batch = batch_of("uneven", count, dtype=torch.float32)
    total = len(batch.rows)

    def steps(rank):
        leaf, labels = batch.rows[batch.part(rank)].clone().requires_grad_(), batch.labels[batch.part(rank)]
        collectives = Collectives()
        loss = getattr(ops, name)(leaf, labels, group=dist.group.WORLD)
        forward = collectives.seen.copy()
        loss.backward()
        return [name for name, _ in forward], forward[2][1], collectives.seen[3:]

    selections = 2 if name == "sct_loss" else 1  # positives and negatives, semi-hard negatives, or sums
    backward = [("all_to_all_single", total * DEPTH * 4)] if name == "tuplet_loss" else []
    expected = ["all_gather_single", "all_gather_single", "all_reduce"], 8 * (selections * total + 1), backward
    assert run_ranks(count, steps) == [expected] * count


@COUNTS
@pytest.mark.parametrize("name", RULES)
def test_shared_loss_returns_only_some_ranks_request_do_not_hang(name, count):
    batch = batch_of("uneven", count)
    more = "return_terms" if name == "tuplet_loss" else "return_selection"

    def steps(rank):
        leaf = batch.rows[batch.part(rank)].clone().requires_grad_()
        found = getattr(ops, name)(
            leaf, batch.labels[batch.part(rank)], **({more: True} if rank == 0 else {}), group=dist.group.WORLD
        )
        loss, details = found if rank == 0 else (found, None)
        loss.backward()
        return loss.detach(), details, leaf.grad

    ranks = run_ranks(count, steps)
    _, details, _ = ranks[0]
    _, expected = getattr(ops, name)(batch.rows, batch.labels, **{more: True})
    for got, wanted in zip(details, expected, strict=True):
        torch.testing.assert_close(got, wanted[: SIZES["uneven"][0]], rtol=1e-12, atol=0, equal_nan=True)
    assert all(loss == ranks[0][0] and grad.any() for loss, _, grad in ranks)


@COUNTS
@pytest.mark.parametrize(
    ("name", "compiled"),
    [
        ("triplet_loss", "select_triplets_part"),
        ("tuplet_loss", "tuplet_loss_part"),
        ("sct_loss", "select_triplets_part"),
    ],
)
def test_shared_loss_that_fails_on_one_rank_raises_on_every_rank(name, compiled, count):
    batch = batch_of("uneven", count)

    def fails(*arguments):
        raise RuntimeError("cannot allocate 1 bytes")

    def steps(rank):
        arguments = batch.rows[batch.part(rank)].clone().requires_grad_(), batch.labels[batch.part(rank)]
        options = {"negative": "hardest"} if name == "triplet_loss" else {}
        with pytest.MonkeyPatch.context() as patch:
            if rank == 1:
                patch.setattr(torch.ops.hardmine, compiled, fails)
            with pytest.raises(RuntimeError, match="on rank 1: cannot allocate 1 bytes"):
                getattr(ops, name)(*arguments, **options, group=dist.group.WORLD)
        loss = getattr(ops, name)(*arguments, **options, group=dist.group.WORLD)  # the group still works
        loss.backward()
        return loss.detach()

    losses = run_ranks(count, steps)
    assert all(torch.equal(loss, losses[0]) for loss in losses)
