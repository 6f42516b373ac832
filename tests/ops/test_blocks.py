"""Ops among one block of the refs, as rings of ranks call them: merged, the results are those among all refs."""

import math

import pytest
import torch

from hardmine import ops
from hardmine.distributed.ring_select_triplets import Best
from hardmine.distributed.ring_tuplet_loss import LogSumExp
from hardmine.ops._arguments import NEGATIVES, POSITIVES, SIMILARITIES, TIES
from support.comparisons import assert_bitwise_equal
from support.inputs import exact_inputs, random_ids, random_inputs

pytestmark = pytest.mark.emulated
SIZES = [40, 0, 1, 70, 130]  # of the blocks, in the order in which they are merged
SEMIHARD = NEGATIVES.index("semihard")


def inputs_with_ids(make, dtype, similarity="cosine"):
    options = {"similarity": similarity} if make is exact_inputs else {}
    inputs = make(rows=75, refs=sum(SIZES), dtype=dtype, **options)
    return inputs, random_ids(inputs, "few")


def blocks_of(inputs, ids):
    """Per block, last first: the arguments that the ops share, and the number of its first row."""
    x, labels, refs, ref_labels = inputs
    start = len(refs)
    parts = (t.split(SIZES) for t in (refs, ref_labels, ids["ref_ids"]))
    for rows, row_labels, row_ids in reversed(list(zip(*parts, strict=True))):
        start -= len(rows)
        yield (x, labels, rows, row_labels, ids["ids"], row_ids), start


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("positive", ["easiest", "hardest"])
def test_select_triplets_block_merged_is_bitwise_that_of_all_refs(positive, dtype, similarity):
    code, without = SIMILARITIES.index(similarity), 0
    for make, fallback in ((random_inputs, "easiest"), (exact_inputs, "hardest")):
        inputs, ids = inputs_with_ids(make, dtype, similarity)
        positives, fallbacks, negatives = (
            Best(inputs.embeddings, least, keeps_rows=False)
            for least in (positive == "hardest", fallback == "easiest", False)
        )
        rule = code, POSITIVES.index(positive)
        bounds = (TIES.index("include"), 1.5, 0.02, False)
        for given, start in blocks_of(inputs, ids):
            found = torch.ops.hardmine.select_triplets_block(*given, None, *rule, NEGATIVES.index(fallback), *bounds)
            positives.offer(found[0], found[4], found[2], given[2], start)
            fallbacks.offer(found[1], found[5], found[3], given[2], start)
            alone = torch.ops.hardmine.select_triplets_block(*given, None, *rule, SEMIHARD, *bounds)
            assert_bitwise_equal(alone[0], found[0])
            assert torch.equal(alone[2], found[2])
            assert (alone[3] == -1).all()
        for given, start in blocks_of(inputs, ids):
            found = torch.ops.hardmine.select_triplets_block(*given, positives.key, *rule, SEMIHARD, *bounds)
            assert (found[2] == -1).all()
            negatives.offer(found[1], found[5], found[3], given[2], start)
        without += int((negatives.index < 0).sum())
        negatives.fall_back(fallbacks)
        options = {"positive": positive, "similarity": similarity, "duplicate_threshold": 1.5}
        options |= {"negative": "semihard", "tie": "include", "semihard_margin": 0.02}
        expected = ops.select_triplets(*inputs, **ids, **options, semihard_fallback=fallback)
        merged = positives.index, negatives.index, positives.similarity, negatives.similarity
        for got, wanted in zip(merged, expected, strict=True):
            assert_bitwise_equal(got, wanted)
        assert expected.count() > 20
    assert without > 0


@pytest.mark.parametrize(
    ("similarity", "temperature"), [("cosine", 0.1), ("cosine", 0.02), ("dot", 0.5), ("euclidean", 1)]
)
def test_tuplet_blocks_merged_are_as_all_refs(similarity, temperature):
    inputs, ids = inputs_with_ids(random_inputs, torch.float64)
    code = SIMILARITIES.index(similarity)
    level = LogSumExp(inputs.embeddings, temperature)
    for given, _ in blocks_of(inputs, ids):
        level.add(*torch.ops.hardmine.tuplet_logsumexp(*given, code, temperature, False))
    value, slope, count = (torch.zeros_like(level.sum) for _ in range(3))
    for given, _ in blocks_of(inputs, ids):
        values, slopes, some = torch.ops.hardmine.tuplet_positives(
            *given, level.shift, level.sum, code, temperature, 0.9, False
        )
        value, slope, count = value + some * values, slope + some * slopes, count + some
    options = {"similarity": similarity, "temperature": temperature, "positive": "all", "duplicate_threshold": 0.9}
    expected, terms = ops.tuplet_loss(*inputs, **ids, **options, reduction="none", return_terms=True)
    assert (count > 1).sum() > 15
    assert (expected > 0).sum() > 15
    torch.testing.assert_close(
        level.shift / temperature + level.sum.log(), terms.negative_logsumexp, rtol=1e-12, atol=0
    )
    torch.testing.assert_close(value / count.clamp(min=1), expected, rtol=1e-11, atol=1e-14)
    exact = torch.ops.hardmine.tuplet_loss(*inputs, *ids.values(), code, 2, temperature, 0.9, 2, False)
    torch.testing.assert_close(slope / count.clamp(min=1), exact[5], rtol=1e-11, atol=1e-14)


def test_tuplet_logsumexp_of_nonfinite_row_is_nan():
    inputs, ids = inputs_with_ids(random_inputs, torch.float32)
    inputs.ref_embeddings[-1, 0] = math.inf
    sums = [torch.ops.hardmine.tuplet_logsumexp(*given, 0, 0.1, False)[1] for given, _ in blocks_of(inputs, ids)]
    assert [bool(total.isnan().all()) for total in sums] == [True, False, False, False, False]


@pytest.mark.parametrize(("positive", "negative", "key"), [(2, 0, None), (0, 3, None), (0, 0, torch.zeros(75))])
def test_select_triplets_block_invalid_rule_raises(positive, negative, key):
    inputs, _ = inputs_with_ids(random_inputs, torch.float32)
    with pytest.raises(
        (RuntimeError, ValueError), match=r"must not be random in a block|must be None unless negative is semihard"
    ):
        torch.ops.hardmine.select_triplets_block(
            *inputs, None, None, key, 0, positive, negative, 0, math.inf, math.inf, False
        )
