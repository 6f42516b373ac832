"""``positive="all"`` and ``negative_ranks`` with ``group=``: each rank lists the entries of its anchors."""

import itertools

import pytest
import torch
import torch.distributed as dist

from group_calls import SIZES, batch_of
from hardmine import ops
from support.comparisons import assert_bitwise_equal
from support.ranks import COUNTS_FROM_ONE, run_ranks

OPTIONS = [
    {"negative": "semihard", "term": "hinge"},
    {"negative": "semihard", "semihard_fallback": "easiest", "reduction": "mean_active", "term": "hinge"},
    {"negative": "hardest", "reduction": "none", "ignore_index": 0},
    {"negative": "easiest", "reduction": "sum", "gradient_reduction": "sum", "similarity": "euclidean"},
    {"negative": "semihard", "term": "sct", "lam": -0.5, "reduction": "mean_active"},
    {"positive": "easiest", "negative": "hardest", "negative_ranks": (2, 4), "reduction": "none", "ignore_index": 0},
    {"positive": "hardest", "negative": "hardest", "negative_ranks": (1, 2), "term": "hinge"},
]
CASES = [*itertools.product(SIZES, (None, "uneven"), OPTIONS)]


def step(split, ref_split, options, ranks, rank=None):
    """The loss, count, pairs and gradients of one rank, or of one process with all rows."""
    batch = batch_of(split, ranks)
    rows = batch.rows[batch.part(rank)].clone().requires_grad_()
    tensors = {"embeddings": rows, "labels": batch.labels[batch.part(rank)], "ids": batch.ids[batch.part(rank)]}
    leaves = [rows]
    if ref_split:
        refs = batch_of(ref_split, ranks, seed=1)
        leaves.append(refs.rows[refs.part(rank)].clone().requires_grad_())
        tensors |= {"ref_embeddings": leaves[1], "ref_labels": refs.labels[refs.part(rank)]}
        tensors["ref_ids"] = refs.ids[refs.part(rank)]
    group = {"group": dist.group.WORLD} if rank is not None else {}
    if rank is None:
        options = {key: value for key, value in options.items() if key != "gradient_reduction"}
    loss, pairs, count = ops.triplet_loss(
        **tensors, **{"positive": "all", **options}, **group, return_selection=True, return_count=True
    )
    loss.sum().backward()
    first = 0 if rank is None else batch.bounds[rank]
    return loss.detach(), count, (pairs[0] + first, *(t.detach() for t in pairs[1:])), [x.grad for x in leaves]


@COUNTS_FROM_ONE
def test_all_positives_with_group_are_those_of_one_process(count):
    found = run_ranks(count, lambda rank: [step(*case, count, rank) for case in CASES])
    for number, case in enumerate(CASES):
        losses, counts, pairs, grads = zip(*(results[number] for results in found), strict=True)
        loss, total, expected_pairs, expected_grads = step(*case, count)
        unreduced = case[2].get("reduction") == "none"
        for got in [torch.cat(losses)] if unreduced else losses:
            torch.testing.assert_close(got, loss, rtol=1e-11, atol=1e-12)
        assert [int(c) for c in counts] == [int(total)] * count
        for got, wanted in zip(zip(*pairs, strict=True), expected_pairs, strict=True):
            assert_bitwise_equal(torch.cat(got), wanted)
        scale = 1 if unreduced or case[2].get("gradient_reduction") == "sum" else count
        for got, wanted in zip(zip(*grads, strict=True), expected_grads, strict=True):
            torch.testing.assert_close(torch.cat(got) / scale, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "mean_active"])
def test_all_positives_of_ranks_pass_verification(reduction, verify):
    def run(rank):
        batch = batch_of("uneven", 2)
        rows = batch.rows[batch.part(rank)].clone().requires_grad_()
        with verify() as report:
            ops.triplet_loss(
                rows, batch.labels[batch.part(rank)], positive="all", term="hinge", reduction=reduction,
                group=dist.group.WORLD,
            )  # fmt: skip
        return report.ops["triplet_loss"].checks

    assert run_ranks(2, run) == [1, 1]
