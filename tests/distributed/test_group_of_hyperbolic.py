"""``group=`` with ``similarity="hyperbolic"``: the ranks exchange rows as the compiled ops take them."""

import pytest
import torch
import torch.distributed as dist

from group_calls import batch_of
from hardmine import ops
from support.ranks import run_ranks

CALLS = [
    ("triplet_loss", {"negative": "hardest"}),
    ("triplet_loss", {"positive": "all", "negative": "semihard"}),
    ("tuplet_loss", {"positive": "all"}),
    ("supcon_loss", {"reduction": "sum"}),
    ("info_nce_loss", {"symmetric": True}),
]


def step(name, options, rank=None):
    """The loss and gradient of one rank, or of one process with all rows."""
    batch = batch_of("uneven", 2)
    rows = (batch.rows / (batch.rows.norm(dim=1, keepdim=True) + 1))[batch.part(rank)].requires_grad_()
    rest = rows.flip(1) if name == "info_nce_loss" else batch.labels[batch.part(rank)]
    group = {} if rank is None else {"group": dist.group.WORLD}
    loss = getattr(ops, name)(rows, rest, similarity="hyperbolic", **options, **group)
    return loss.detach(), *torch.autograd.grad(loss, rows)


@pytest.mark.parametrize(("name", "options"), CALLS, ids=[f"{n}-{next(iter(o.values()))}" for n, o in CALLS])
def test_hyperbolic_with_group_gives_the_loss_of_one_process(name, options):
    losses, grads = zip(*run_ranks(2, lambda rank: step(name, options, rank)), strict=True)
    loss, grad = step(name, options)
    for got in losses:
        torch.testing.assert_close(got, loss, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(torch.cat(grads) / 2, grad, rtol=1e-10, atol=1e-12)


def test_hyperbolic_row_outside_of_the_ball_raises_on_every_rank():
    def run(rank):
        x = torch.full((2, 3), 0.1 + 0.6 * rank)
        try:
            ops.supcon_loss(x, torch.zeros(2).long(), similarity="hyperbolic", group=dist.group.WORLD)
        except ValueError as error:
            return str(error)
        return "nothing was raised"

    for text in run_ranks(2, run):
        assert text.startswith("on rank 1: embeddings must have rows of norm below 1")
