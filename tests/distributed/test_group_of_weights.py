"""``weights=`` with ``group=``: each rank weighs its anchors, and the loss is that of one process."""

import itertools

import pytest
import torch
import torch.distributed as dist

from group_calls import SIZES, batch_of
from hardmine import ops
from support.inputs import seeded
from support.ranks import COUNTS_FROM_ONE, run_ranks

OPTIONS = {
    "triplet_loss": [
        {"negative": "semihard"},
        {"positive": "all", "term": "hinge", "reduction": "mean_active"},
        {"negative": "hardest", "reduction": "none"},
        {"negative": "hardest", "reduction": "sum", "gradient_reduction": "sum"},
    ],
    "sct_loss": [{"preset": "code2020", "hard_cutoff": 0.1}, {"positive": "all", "lam": -0.5}],
}
CASES = [(name, *case) for name in OPTIONS for case in itertools.product(OPTIONS[name], SIZES)]


def step(name, options, split, ranks, rank=None):
    """The loss, count and gradient of one rank, or of one process with all rows."""
    batch = batch_of(split, ranks)
    part = batch.part(rank)
    weights = torch.rand(len(batch.rows), generator=seeded(3), dtype=torch.float64)
    weights = torch.where(torch.arange(len(weights)) % 3 == 0, 0.0, weights)
    rows = batch.rows[part].clone().requires_grad_()
    group = {"group": dist.group.WORLD} if rank is not None else {}
    if rank is None:
        options = {key: value for key, value in options.items() if key != "gradient_reduction"}
    loss, count = getattr(ops, name)(
        rows, batch.labels[part], **options, **group, weights=weights[part], return_count=True
    )
    loss.sum().backward()
    return loss.detach(), count, rows.grad


@COUNTS_FROM_ONE
def test_weights_with_group_give_the_loss_of_one_process(count):
    found = run_ranks(count, lambda rank: [step(*case, count, rank) for case in CASES])
    for number, case in enumerate(CASES):
        losses, counts, grads = zip(*(results[number] for results in found), strict=True)
        loss, total, grad = step(*case, count)
        unreduced = case[1].get("reduction") == "none"
        for got in [torch.cat(losses)] if unreduced else losses:
            torch.testing.assert_close(got, loss, rtol=1e-11, atol=1e-12)
        assert [int(c) for c in counts] == [int(total)] * count
        scale = 1 if unreduced or case[1].get("gradient_reduction") == "sum" else count
        torch.testing.assert_close(torch.cat(grads) / scale, grad, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("positive", ["easiest", "all"])
def test_weights_of_ranks_pass_verification(positive, verify):
    def run(rank):
        batch = batch_of("uneven", 2)
        rows = batch.rows[batch.part(rank)].clone().requires_grad_()
        with verify() as report:
            ops.triplet_loss(
                rows, batch.labels[batch.part(rank)], positive=positive, weights=torch.rand(len(rows)),
                group=dist.group.WORLD,
            )  # fmt: skip
        return report.ops["triplet_loss"].checks

    assert run_ranks(2, run) == [1, 1]


@pytest.mark.parametrize(
    ("weights_of", "message"),
    [
        (lambda rank, rows: torch.ones(rows) if rank else None, "weights must be the same on every rank"),
        (lambda rank, rows: -torch.ones(rows), "weights must be finite and at least 0, got -1.0 at"),
        (lambda rank, rows: torch.ones(rows, requires_grad=True), "weights must not require a gradient with group"),
        (lambda rank, rows: torch.ones(rows + rank), "weights must be"),
    ],
    ids=["on one rank", "negative", "with a gradient", "another length on one rank"],
)
def test_bad_weights_raise_on_every_rank(weights_of, message):
    def run(rank):
        batch = batch_of("uneven", 2)
        rows, labels = batch.rows[batch.part(rank)], batch.labels[batch.part(rank)]
        try:
            ops.triplet_loss(rows, labels, weights=weights_of(rank, len(rows)), group=dist.group.WORLD)
        except (ValueError, RuntimeError) as error:
            return str(error)
        return "nothing was raised"

    for text in run_ranks(2, run):
        assert message in text
