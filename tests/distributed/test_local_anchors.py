"""Ops on a rank's anchors against the rows of all ranks: ids exclude each anchor's own copy."""

import pytest
import torch

from hardmine import ops
from hardmine.distributed import all_gather_rows, all_reduce_loss
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded
from support.ranks import COUNTS, run_ranks

SIZES = [7, 0, 12, 5, 9]
LOSSES = {
    "sct_loss": {"lam": 0.5},
    "triplet_loss": {"negative": "semihard", "term": "hinge", "margin": 0.3},
    "tuplet_loss": {"positive": "all"},
}


def batch(count):
    """Embeddings and labels of the whole batch, and the bounds of the ranks' parts."""
    bounds = torch.tensor([0, *SIZES[:count]]).cumsum(0).tolist()
    embeddings = torch.randn(bounds[-1], 6, generator=seeded(0), dtype=torch.float64)
    return embeddings, torch.randint(0, 3, (bounds[-1],), generator=seeded(1)), bounds


def gather(rank, embeddings, labels, bounds):
    """The rank's leaf and labels, and the arguments that compare them with all rows but their own."""
    part = slice(bounds[rank], bounds[rank + 1])
    rows = embeddings[part].clone().requires_grad_()
    gathered = all_gather_rows(rows, labels[part])
    number = torch.arange(len(gathered.labels))
    refs = {"ref_embeddings": gathered.embeddings, "ref_labels": gathered.labels}
    return rows, labels[part], {**refs, "ids": number[part], "ref_ids": number}


@COUNTS
@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_local_anchors_equals_that_of_one_process(name, count):
    embeddings, labels, bounds = batch(count)
    op = getattr(ops, name)

    def compute(rank):
        rows, own_labels, others = gather(rank, embeddings, labels, bounds)
        total, anchors = op(rows, own_labels, **others, reduction="sum", return_count=True, **LOSSES[name])
        loss = all_reduce_loss(total, anchors, gradient_reduction="sum")
        loss.backward()
        return loss.detach(), rows.grad

    leaf = embeddings.clone().requires_grad_()
    expected = op(leaf, labels, **LOSSES[name])
    expected.backward()
    assert expected > 0
    found = run_ranks(count, compute)
    for loss, _ in found:
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat([grad for _, grad in found]), leaf.grad, rtol=1e-10, atol=1e-12)


@COUNTS
@pytest.mark.parametrize("negative", ["hardest", "semihard"])
def test_selection_of_local_anchors_is_bitwise_that_of_one_process(negative, count):
    embeddings, labels, bounds = batch(count)

    def select(rank):
        rows, own_labels, others = gather(rank, embeddings, labels, bounds)
        return [part.detach() for part in ops.select_triplets(rows, own_labels, negative=negative, **others)]

    expected = ops.select_triplets(embeddings, labels, negative=negative)
    for got, wanted in zip(zip(*run_ranks(count, select), strict=True), expected, strict=True):
        assert_bitwise_equal(torch.cat(got), wanted)
