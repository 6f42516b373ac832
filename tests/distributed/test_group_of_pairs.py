"""``group=`` of the losses on pairs: their values and gradients are those of one process with all pairs."""

import itertools

import pytest
import torch
import torch.distributed as dist

from group_calls import DEPTH, SIZES, batch_of
from hardmine import losses, ops
from support.inputs import seeded
from support.ranks import COUNTS_FROM_ONE, run_ranks

OPTIONS = {
    "info_nce_loss": [
        {},
        {"symmetric": True},
        {"symmetric": True, "with_ids": True, "reduction": "none"},
        {"with_ids": True, "reduction": "sum", "gradient_reduction": "sum"},
        {"shared_negatives": True, "similarity": "euclidean"},
        {"own_negatives": True, "with_ids": True, "with_weights": True},
        {"symmetric": True, "with_weights": True, "similarity": "dot"},
    ],
    "sigmoid_loss": [
        {},
        {"reduction": "none", "similarity": "euclidean"},
        {"reduction": "sum", "gradient_reduction": "sum"},
        {"with_weights": True},
    ],
}
CASES = [(name, *case) for name in OPTIONS for case in itertools.product(OPTIONS[name], SIZES)]


def step(name, options, split, ranks, rank=None):
    """The loss, the gradients of rows and those of numbers, of one rank, or of one process with all pairs."""
    options = dict(options)
    batch, keys = batch_of(split, ranks), batch_of(split, ranks, seed=9)
    part, total = batch.part(rank), len(batch.rows)
    leaves = [rows[part].clone().requires_grad_() for rows in (batch.rows, keys.rows)]
    given = dict(options)
    if given.pop("with_ids", False):
        given["ids"] = batch.ids[part]
    if given.pop("with_weights", False):
        weights = torch.rand(total, generator=seeded(3), dtype=torch.float64)
        given["weights"] = torch.where(torch.arange(total) % 3 == 0, 0.0, weights)[part]
    negatives = torch.randn(ranks, 3, DEPTH, generator=seeded(4), dtype=torch.float64)
    if given.pop("shared_negatives", False):  # of the queries of each rank
        rank_of = torch.arange(ranks).repeat_interleave(torch.tensor(batch.bounds).diff())
        leaves.append((negatives[rank_of] if rank is None else negatives[rank]).clone().requires_grad_())
    if given.pop("own_negatives", False):
        leaves.append(torch.randn(total, 3, DEPTH, generator=seeded(5), dtype=torch.float64)[part].requires_grad_())
    names = ("temperature",) if name == "info_nce_loss" else ("logit_scale", "logit_bias")
    numbers = [torch.tensor(0.3 * (k + 1), dtype=torch.float64, requires_grad=True) for k in range(len(names))]
    given |= dict(zip(names, numbers, strict=True))
    if rank is None:
        given.pop("gradient_reduction", None)
    else:
        given["group"] = dist.group.WORLD
    loss = getattr(ops, name)(*leaves, **given)
    grads = torch.autograd.grad(loss.sum(), [*leaves, *numbers])
    return loss.detach(), grads[: len(leaves)], grads[len(leaves) :]


@COUNTS_FROM_ONE
def test_pairs_with_group_give_the_loss_of_one_process(count):
    found = run_ranks(count, lambda rank: [step(*case, count, rank) for case in CASES])
    for number, case in enumerate(CASES):
        got_losses, grads, of_numbers = zip(*(results[number] for results in found), strict=True)
        loss, expected, expected_of_numbers = step(*case, count)
        unreduced = case[1].get("reduction") == "none"
        for got in [torch.cat(got_losses)] if unreduced else got_losses:
            torch.testing.assert_close(got, loss, rtol=1e-11, atol=1e-12)
        scale = 1 if unreduced or case[1].get("gradient_reduction") == "sum" else count
        for k, grad in enumerate(expected):
            parts = [of_rank[k] for of_rank in grads]
            if k == 2 and case[1].get("shared_negatives"):  # one process has a copy per query
                bounds = batch_of(case[2], count).bounds
                grad = torch.stack([grad[a:b].sum(0) for a, b in itertools.pairwise(bounds)])
                parts = [torch.stack(parts)]
            torch.testing.assert_close(torch.cat(parts) / scale, grad, rtol=1e-10, atol=1e-12)
        for k, grad in enumerate(expected_of_numbers):
            summed = torch.stack([of_rank[k] for of_rank in of_numbers]).sum(0)
            torch.testing.assert_close(summed / scale, grad, rtol=1e-10, atol=1e-12)


def test_pairs_of_ranks_are_negatives_of_each_other():
    """The loss of two pairs on two ranks is not that of each alone, which is 0 for one pair."""
    x = torch.eye(2, dtype=torch.float64)

    def run(rank):
        return ops.info_nce_loss(x[rank : rank + 1], x[rank : rank + 1], temperature=1.0, group=dist.group.WORLD).item()

    assert run_ranks(2, run) == [pytest.approx(torch.tensor(-1.0).exp().log1p().item())] * 2


def test_group_of_pairs_passes_verification(verify):
    def run(rank):
        batch, keys = batch_of("uneven", 2), batch_of("uneven", 2, seed=9)
        part = batch.part(rank)
        leaves = [rows[part].clone().requires_grad_() for rows in (batch.rows, keys.rows)]
        group = {"group": dist.group.WORLD}
        with verify() as report:
            for options in ({"symmetric": True}, {"ids": batch.ids[part], "weights": torch.rand(len(leaves[0]))}):
                ops.info_nce_loss(*leaves, **options, **group).backward()
            for shape in ((4, DEPTH), (len(leaves[0]), 4, DEPTH)):
                ops.info_nce_loss(*leaves, torch.randn(shape, generator=seeded(rank)).double(), **group)
            ops.sigmoid_loss(*leaves, **group, reduction="none")
        return report.ops["info_nce_loss"].checks, report.ops["sigmoid_loss"].checks

    assert run_ranks(2, run) == [(4, 1)] * 2


@pytest.mark.parametrize(
    ("options_of", "message"),
    [
        (lambda rank: {"temperature": 0.1 + rank}, "temperature must be the same on every rank, got 0.1 on rank 0"),
        (lambda rank: {"symmetric": rank == 1}, "symmetric must be the same on every rank, got False on rank 0"),
        (lambda rank: {"ids": None if rank else torch.arange(3)}, "ids must be given on every rank or on none"),
        (lambda rank: {"weights": torch.ones(3 + rank)}, "on rank 1: weights must be [B] = [3], got [4]"),
        (lambda rank: {"weights": torch.ones(3, requires_grad=True)}, "weights must not require a gradient with group"),
        (lambda rank: {"temperature": -1.0 if rank else 0.1}, "on rank 1: temperature must be a number from"),
        (lambda rank: {"negative_keys": torch.ones(2 + rank, 4)}, "the number K of negative_keys must be the same"),
        (lambda rank: {"in_batch": False, "negative_keys": torch.ones(2, 4)}, "group must be None with in_batch=False"),
        (lambda rank: {"gradient_reduction": "max"}, "gradient_reduction must be one of"),
    ],
)
def test_bad_options_of_pairs_raise_on_every_rank(options_of, message):
    def run(rank):
        x = torch.randn(3, 4, generator=seeded(rank))
        try:
            ops.info_nce_loss(x, x, **options_of(rank), group=dist.group.WORLD)
        except (ValueError, TypeError) as error:
            return str(error)
        return "nothing was raised"

    for text in run_ranks(2, run):
        assert message in text


def test_bad_pairs_raise_on_every_rank():
    def run(rank):
        x, y = torch.randn(3, 4 + rank), torch.randn(3 + rank, 4)
        found = []
        for op, arguments in ((ops.info_nce_loss, (x, x)), (ops.sigmoid_loss, (x, x)), (ops.sigmoid_loss, (y, y[:3]))):
            try:
                op(*arguments, group=dist.group.WORLD)
            except ValueError as error:
                found.append(str(error))
        return found

    for texts in run_ranks(2, run):
        assert "the depth D must be the same on every rank, got 4 on rank 0 and 5 on rank 1" in texts[0]
        assert "key must be [rows, D] with the same D on every rank" in texts[1]
        assert "on rank 1: key must be [B, D] = [4, 4], got [3, 4]" in texts[2]


def test_modules_of_pairs_take_a_group():
    def run(rank):
        x = torch.randn(3, 4, generator=seeded(rank))
        group = {"group": dist.group.WORLD, "gradient_reduction": "sum"}
        found = [getattr(losses, name)(**group)(x, x.flip(1)) for name in ("InfoNCELoss", "SigmoidLoss")]
        expected = [getattr(ops, name)(x, x.flip(1), **group) for name in ("info_nce_loss", "sigmoid_loss")]
        return torch.equal(torch.stack(found), torch.stack(expected))

    assert run_ranks(2, run) == [True, True]
