"""Ops with ``group=``: the results of one process on the rows of all ranks, whatever rank has which row."""

import pytest
import torch
import torch.distributed as dist

from group_calls import batch_of, call, cases_of
from hardmine import ops
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded
from support.ranks import COUNTS_FROM_ONE, run_ranks

CLOSE = {"rtol": 1e-11, "atol": 1e-12}
SELECTIONS = [
    {},
    {"positive": "hardest", "negative": "semihard", "similarity": "euclidean"},
    {"negative": "semihard", "semihard_fallback": "easiest", "semihard_margin": 0.3},
    {"positive": "random", "negative": "random"},
    {"negative": "random", "negative_ranks": (2, 4)},
    {"negative": "random", "duplicate_threshold": 0.5, "similarity": "dot"},
    {"ignore_index": -1},
    {"positive": "random", "negative": "semihard", "ignore_index": 0},
]
LOSSES = {
    "triplet_loss": [
        {},
        {"negative": "hardest", "term": "hinge", "margin": 0.3, "similarity": "euclidean"},
        {"term": "soft_margin", "reduction": "sum", "min_similarity": 0.1},
        {"positive": "random", "negative": "random", "reduction": "none"},
        {"term": "sct", "lam": 0.5, "gradient_reduction": "sum"},
        {"positive": "random", "negative": "random", "negative_ranks": (1, 3)},
        {"ignore_index": -1},
        {"negative": "hardest", "reduction": "none", "ignore_index": 0},
        {"negative": "hardest", "term": "hinge", "reduction": "mean_active"},
        {"positive": "random", "term": "sct", "lam": -0.5, "reduction": "mean_active"},
    ],
    "sct_loss": [
        {"lam": 0.5},
        {"preset": "code2020"},
        {"preset": "code2020", "reduction": "sum"},
        {"preset": "code2021", "reduction": "none"},
        {"preset": "code2020", "hard_cutoff": 0.1, "gradient_reduction": "sum"},
        {"preset": "code2020", "lam": -0.5, "hard_cutoff": -0.5, "reduction": "mean_active"},
        {"ignore_index": -1},
    ],
    "tuplet_loss": [
        {},
        {"positive": "all", "similarity": "euclidean"},
        {"positive": "hardest", "reduction": "none", "duplicate_threshold": 0.9},
        {"reduction": "sum", "gradient_reduction": "sum"},
        {"similarity": "dot", "temperature": 1.0},
        {"ignore_index": -1},
        {"positive": "all", "reduction": "none", "ignore_index": 0},
        {"positive": "all", "reduction": "mean_pairs", "ignore_index": -1},
    ],
    "multi_similarity_loss": [
        {},
        {"similarity": "dot", "reduction": "none", "beta": 3.0},
        {"epsilon": 0.1},
        {"reduction": "sum", "gradient_reduction": "sum"},
        {"ignore_index": -1},
    ],
    "circle_loss": [
        {},
        {"reduction": "none", "gamma": 3.0},
        {"reduction": "sum", "gradient_reduction": "sum", "m": 0.25},
        {"ignore_index": -1},
    ],
    "supcon_loss": [
        {},
        {"similarity": "euclidean", "reduction": "none"},
        {"reduction": "sum", "gradient_reduction": "sum", "temperature": torch.tensor(0.5)},
        {"ignore_index": -1},
    ],
}


def compare(name, cases, ranks):
    """Each case on all ranks, and in one process."""
    found = run_ranks(ranks, lambda rank: [call(name, case, ranks, rank) for case in cases])
    for number, case in enumerate(cases):
        options = {key: value for key, value in case.options.items() if key != "gradient_reduction"}
        expected = call(name, case._replace(options=options), ranks)
        yield case, [outcomes[number] for outcomes in found], expected


def assert_details_and_gradients_of_one_process(name, outcomes, expected, scale):
    """What is selected has the same bits. A log-sum-exp, the last detail of tuplet_loss, is a sum, and rounds."""
    details = list(zip(zip(*(o.details for o in outcomes), strict=True), expected.details, strict=True))
    if name == "tuplet_loss":
        got, wanted = details.pop()
        torch.testing.assert_close(torch.cat(got), wanted, **CLOSE)
    for got, wanted in details:
        assert_bitwise_equal(torch.cat(got), wanted)
    for got, wanted in zip(zip(*(o.grads for o in outcomes), strict=True), expected.grads, strict=True):
        torch.testing.assert_close(torch.cat(got) / scale, wanted, **CLOSE)


@COUNTS_FROM_ONE
@pytest.mark.parametrize("name", ["select_triplets", "knn"])
def test_selection_with_group_is_bitwise_that_of_one_process(name, count):
    options = SELECTIONS if name == "select_triplets" else [{"k": 3}, {"k": 40}, {"similarity": "euclidean", "k": 2}]
    for _, outcomes, expected in compare(name, cases_of(options), count):
        assert_details_and_gradients_of_one_process(name, outcomes, expected, 1)


@COUNTS_FROM_ONE
@pytest.mark.parametrize("name", LOSSES)
def test_loss_with_group_is_that_of_one_process(name, count):
    for case, outcomes, expected in compare(name, cases_of(LOSSES[name]), count):
        losses = [o.loss for o in outcomes]
        unreduced = case.options.get("reduction") == "none"
        if unreduced:
            losses = [torch.cat(losses)]
        for loss in losses:
            assert_bitwise_equal(loss, losses[0])
            torch.testing.assert_close(loss, expected.loss, **CLOSE)
        assert [int(o.count) for o in outcomes] == [int(expected.count)] * count
        scale = 1 if unreduced or case.options.get("gradient_reduction") == "sum" else count
        assert_details_and_gradients_of_one_process(name, outcomes, expected, scale)


@COUNTS_FROM_ONE
def test_logsumexp_with_group_is_that_of_one_process(count):
    options = [{"pairs": "negative"}, {"similarity": "euclidean"}, {"pairs": "positive", "ignore_index": 0}]
    for _, outcomes, expected in compare("logsumexp", cases_of(options), count):
        torch.testing.assert_close(torch.cat([o.loss for o in outcomes]), expected.loss, **CLOSE)
        assert_details_and_gradients_of_one_process("logsumexp", outcomes, expected, 1)


BATCH_ALL = [
    {},
    {"margin": 0.5, "squared": False, "similarity": "euclidean", "reduction": "mean_active"},
    {"reduction": "sum", "gradient_reduction": "sum"},
    {"margin": torch.tensor([[0.1, 0.4, 0.2], [0.9, 0.1, 0.3], [0.5, 0.7, 0.1]]), "margin_labels": torch.arange(3) - 1},
]


@COUNTS_FROM_ONE
def test_batch_all_triplet_loss_with_group_is_that_of_one_process(count):
    cases = cases_of(BATCH_ALL)

    def loss_of(case, rank=None, **options):
        inputs = case.inputs(count, rank)
        leaves = [inputs[key] for key in ("embeddings", "ref_embeddings") if key in inputs]
        loss, counts = ops.batch_all_triplet_loss(**inputs, return_counts=True, **options)
        loss.backward()
        return loss.detach(), [int(number) for number in counts], [leaf.grad for leaf in leaves]

    found = run_ranks(
        count, lambda rank: [loss_of(case, rank, group=dist.group.WORLD, **case.options) for case in cases]
    )
    active = set()
    for case, results in zip(cases, zip(*found, strict=True), strict=True):
        summed = "gradient_reduction" in case.options
        options = {key: value for key, value in case.options.items() if key != "gradient_reduction"}
        expected, counts, expected_grads = loss_of(case, **options)
        if counts[0] > 0:
            active.add(case.ref_split is None)
        for loss, other_counts, _ in results:
            assert_bitwise_equal(loss, results[0][0])
            torch.testing.assert_close(loss, expected, **CLOSE)
            assert other_counts == counts
        for parts, grad in zip(zip(*(grads for _, _, grads in results), strict=True), expected_grads, strict=True):
            torch.testing.assert_close(torch.cat(parts) / (1 if summed else count), grad, **CLOSE)
    assert active == {True, False}, "triplets of the batch and of refs"


# Given triplets: each rank has its own, of row numbers of all ranks.

GIVEN = {
    "indexed_triplet_loss": [
        {},
        {"term": "nca", "similarity": "dot", "reduction": "sum"},
        {"term": "hinge", "reduction": "none", "similarity": "euclidean"},
        {"gradient_reduction": "sum"},
    ],
    "global_loss": [{}, {"lam": 0.3, "threshold": 1.0, "similarity": "euclidean"}, {"gradient_reduction": "sum"}],
}
TRIPLETS_PER_RANK = [11, 0, 4, 9, 1]


def triplets_of(total, ranks):
    rows = torch.stack([torch.randperm(total, generator=seeded(t))[:3] for t in range(sum(TRIPLETS_PER_RANK[:ranks]))])
    return rows.split(TRIPLETS_PER_RANK[:ranks])


@COUNTS_FROM_ONE
@pytest.mark.parametrize("name", GIVEN)
def test_loss_of_given_triplets_with_group_is_that_of_one_process(name, count):
    splits = ("equal", "uneven", *(["all rows on one rank"] if count > 1 else []))
    cases = [(batch_of(split, count), options) for split in splits for options in GIVEN[name]]

    def losses(rank):
        found = []
        for batch, options in cases:
            leaf = batch.rows[batch.part(rank)].clone().requires_grad_()
            triplets = triplets_of(len(batch.rows), count)[rank]
            loss = getattr(ops, name)(leaf, triplets, group=dist.group.WORLD, **options)
            (loss if loss.dim() == 0 else (loss * (triplets[:, 0] + 1)).sum()).backward()
            found.append((loss.detach(), leaf.grad))
        return found

    for (batch, options), results in zip(cases, zip(*run_ranks(count, losses), strict=True), strict=True):
        options = dict(options)
        summed = options.pop("gradient_reduction", None) == "sum"
        leaf, triplets = batch.rows.clone().requires_grad_(), torch.cat(triplets_of(len(batch.rows), count))
        expected = getattr(ops, name)(leaf, triplets, **options)
        (expected if expected.dim() == 0 else (expected * (triplets[:, 0] + 1)).sum()).backward()
        assert expected.abs().sum() > 0
        found = [loss for loss, _ in results] if expected.dim() == 0 else [torch.cat([loss for loss, _ in results])]
        for loss in found:
            assert_bitwise_equal(loss, found[0])
            torch.testing.assert_close(loss, expected.detach(), **CLOSE)
        scale = 1 if summed or expected.dim() else count
        torch.testing.assert_close(torch.cat([grad for _, grad in results]) / scale, leaf.grad, **CLOSE)


@pytest.mark.parametrize("name", GIVEN)
def test_loss_of_given_triplets_without_triplets_is_zero(name):
    def loss(rank):
        leaf = torch.ones(3, 2, requires_grad=True)
        value = getattr(ops, name)(leaf, torch.empty(0, 3, dtype=torch.int64), group=dist.group.WORLD)
        value.backward()
        return value.item(), leaf.grad.abs().max().item()

    assert run_ranks(2, loss) == [(0.0, 0.0)] * 2
