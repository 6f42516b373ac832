"""Counts: the valid triplets of a selection, and the number of anchors that a mean is taken over."""

import math
import sys

import pytest
import torch

import hardmine
from hardmine import ops, reference
from support.inputs import HAND_POINTS, random_inputs
from support.ops import REDUCTIONS, each_of

COUNTING = {"triplet_loss": "selection", "sct_loss": "selection", "tuplet_loss": "terms"}

each_library = pytest.mark.parametrize("library", [ops, reference], ids=["ops", "reference"])

# Unit vectors whose cosines float32 represents exactly, or which are equal by symmetry.
ABOUT_THE_AXIS = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8], [0.0, 1.0]])


@each_library
@pytest.mark.parametrize("refs", [None, 20], ids=["self", "refs"])
def test_selection_triplets_are_anchors_with_both_pairs(library, refs):
    inputs = random_inputs(30, refs=refs, classes=12)
    selection = library.select_triplets(*inputs, negative="semihard")
    rows = zip(selection.positive_index.tolist(), selection.negative_index.tolist(), strict=True)
    expected = [(a, p, n) for a, (p, n) in enumerate(rows) if p >= 0 and n >= 0]
    assert 0 < len(expected) < 30
    anchor, positive, negative = selection.triplets()
    assert [t.dtype for t in (anchor, positive, negative)] == [torch.int64] * 3
    assert torch.stack([anchor, positive, negative], 1).tolist() == [list(triplet) for triplet in expected]
    assert selection.valid.dtype == torch.bool
    assert selection.valid.nonzero().flatten().tolist() == [a for a, _, _ in expected]
    assert selection.count().dtype == torch.int64
    assert selection.count().shape == ()
    assert selection.count() == len(expected)


@each_library
def test_selection_triplets_of_empty_batch_are_empty(library):
    selection = library.select_triplets(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
    assert [t.shape for t in selection.triplets()] == [(0,)] * 3
    assert selection.count() == 0


def test_selection_triplets_feed_indexed_triplet_loss():
    inputs = random_inputs(30)
    selection = ops.select_triplets(*inputs, negative="hardest")
    triplets = torch.stack(selection.triplets(), 1)
    loss = ops.indexed_triplet_loss(inputs.embeddings, triplets, term="nca", labels=inputs.labels)
    torch.testing.assert_close(loss, ops.triplet_loss(*inputs, negative="hardest"))


@each_library
@each_of(COUNTING)
def test_returned_values_come_in_documented_order(library, name):
    op, more = getattr(library, name), f"return_{COUNTING[name]}"
    loss = op(*HAND_POINTS)
    both = op(*HAND_POINTS, **{more: True, "return_count": True})
    with_more, with_count = op(*HAND_POINTS, **{more: True}), op(*HAND_POINTS, return_count=True)
    assert isinstance(loss, torch.Tensor)
    assert [len(result) for result in (both, with_more, with_count)] == [3, 2, 2]
    assert all(torch.equal(result[0], loss) for result in (both, with_more, with_count))
    assert type(both[1]) is type(with_more[1]) is (ops.TupletTerms if name == "tuplet_loss" else ops.Selection)
    for count in (both[2], with_count[1]):
        assert (count.dtype, count.shape, count.requires_grad) == (torch.int64, (), False)
        assert 0 < count <= len(HAND_POINTS[0])


COUNTED = [
    ("triplet_loss", {"negative": "hardest"}),
    ("triplet_loss", {"negative": "semihard"}),
    ("triplet_loss", {"term": "hinge", "min_similarity": 0.3}),
    ("sct_loss", {"negative": "semihard"}),
    ("sct_loss", {"preset": "code2021"}),
    ("sct_loss", {"preset": "code2021", "min_similarity": -0.2, "similarity": "dot"}),
    ("tuplet_loss", {}),
    ("tuplet_loss", {"positive": "all", "duplicate_threshold": 0.2}),
    ("tuplet_loss", {"positive": "hardest", "duplicate_threshold": 0.3}),
]


@pytest.mark.parametrize(("name", "options"), COUNTED, ids=str)
@pytest.mark.parametrize("refs", [None, 20], ids=["self", "refs"])
def test_mean_equals_sum_over_count(name, options, refs):
    inputs = random_inputs(30, refs=refs, classes=14, spread=1.2, dtype=torch.float64)
    counts = []
    for library in (ops, reference):
        for reduction in REDUCTIONS:
            loss, count = getattr(library, name)(*inputs, **options, reduction=reduction, return_count=True)
            counts.append(int(count))
            if reduction == "mean":
                mean = loss
            if reduction == "sum":
                torch.testing.assert_close(mean * count, loss)
    assert len(set(counts)) == 1
    assert 0 < counts[0] < 30


@each_library
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # s_ap = 0.6 = s_an for anchor 0; s_ap = 0.6, s_an = 0.8 for anchor 1; anchors 2 and 3 have no positive.
        ({}, 2),
        ({"preset": "code2020"}, 2),
        ({"preset": "code2021"}, 1),
        ({"preset": "code2021", "hard_cutoff": 0.5}, 2),
        ({"preset": "code2021", "hard_cutoff": 0.6}, 1),
        ({"min_similarity": 0.5}, 2),
        ({"min_similarity": 0.6}, 0),  # compared in float32, where s_ap is not above 0.6
        ({"min_similarity": math.inf}, 0),
        ({"min_similarity": -math.inf}, 2),
    ],
    ids=str,
)
def test_count_at_ties_and_limits_matches_mean(library, options, expected):
    labels = torch.tensor([0, 0, 1, 2])
    loss, count = library.sct_loss(ABOUT_THE_AXIS, labels, **options, return_count=True)
    assert count == expected
    terms = library.sct_loss(ABOUT_THE_AXIS, labels, **options, reduction="none")
    assert (terms != 0).sum() == expected
    if options.get("preset") != "code2020":
        torch.testing.assert_close(loss * max(expected, 1), terms.sum())


@each_of(COUNTING)
def test_count_without_positives_or_negatives_is_zero(name):
    x = torch.randn(4, 3)
    for labels in (torch.arange(4), torch.zeros(4, dtype=torch.int64)):
        for library in (ops, reference):
            loss, count = getattr(library, name)(x, labels, return_count=True)
            assert (loss, count) == (0, 0)


@pytest.mark.slow
@each_of(COUNTING)
def test_count_torch_compile_has_no_graph_break(name):
    op, inputs = getattr(ops, name), random_inputs(30, classes=14)
    torch.compiler.reset()
    compiled = torch.compile(lambda *given: op(*given, return_count=True), fullgraph=True, backend="aot_eager")
    for actual, expected in zip(compiled(*inputs[:2]), op(*inputs[:2], return_count=True), strict=True):
        assert torch.equal(actual, expected)


@each_of(COUNTING)
def test_verify_wrong_count_raises(name, verify, monkeypatch):
    inputs = random_inputs(30, classes=14)
    with verify() as report:
        getattr(ops, name)(*inputs, return_count=True)
    assert report.checks == 1
    if name == "tuplet_loss":
        right = torch.ops.hardmine.tuplet_loss
        monkeypatch.setattr(torch.ops.hardmine, name, lambda *given: (*right(*given)[:7], torch.ones(30)))
    else:
        monkeypatch.setattr(
            sys.modules["hardmine.ops._compiled_triplet_loss"], "counts_of", lambda *given: torch.ones(30).long()
        )
    with verify(), pytest.raises(hardmine.VerificationError, match=r"the count must be \d+, got 30"):
        getattr(ops, name)(*inputs)
