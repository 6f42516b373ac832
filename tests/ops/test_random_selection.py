"""Random positives and negatives: which candidate a number picks, and how often each is picked.

test_random_draws.py checks who draws the numbers. The tests of the other selections check that an op and its reference
pick alike, for every rule and shape.
"""

import math

import pytest
import torch

from hardmine import ops, reference
from random_selection_cases import BOTH, each_op, pick, with_and_without_refs
from support.comparisons import assert_bitwise_equal, assert_results_bitwise_equal, assert_same_selection
from support.inputs import HAND_POINTS, Inputs, exact_inputs, random_inputs, seeded
from support.ops import FLOAT_DTYPES, SELECTED_LOSSES, SIMILARITIES
from support.runs import run

IMPLEMENTATIONS = pytest.mark.parametrize("select", [ops.select_triplets, reference.select_triplets], ids=["op", "ref"])
NONE = (-1, math.nan)


@pytest.fixture
def draw(monkeypatch):
    """Make the next calls draw the given numbers, one row per random selection."""

    def make(*rows: list[float]) -> None:
        numbers = torch.tensor(rows, dtype=torch.float64)

        def rand(*size, dtype, device, generator=None):
            assert size == numbers.shape
            assert dtype == torch.float64
            return numbers.to(device)

        monkeypatch.setattr(torch, "rand", rand)

    return make


# Which candidate a number picks

# In HAND_POINTS, anchors 0, 1, 3 are each other's positives, and 2, 4 are their negatives. For anchors 2 and 4 it is
# the other way round.
U_POSITIVE = [0.0, 0.5, 0.99, 0.49, 0.3]
U_NEGATIVE = [0.999, 0.25, 0.34, 0.5, 0.66]
# Candidates (1 3), (0 3), (4), (0 1), (2): the numbers pick entries 0, 1, 0, 0, 0.
POSITIVES = [(1, 0.6), (3, 0.8), (4, -0.8), (0, 0.0), (2, -0.8)]
# Candidates (2 4), (2 4), (0 1 3), (2 4), (0 1 3): the numbers pick entries 1, 0, 1, 1, 1.
NEGATIVES = [(4, -1.0), (2, 0.96), (1, 0.96), (4, 0.0), (1, -0.6)]
HAND_WORKED = {
    # options, numbers, then (index, similarity) of each anchor's positive, then of its negative
    "both": (BOTH, [U_POSITIVE, U_NEGATIVE], POSITIVES, NEGATIVES),
    "positive, hardest negative": (
        {"positive": "random"},
        [U_POSITIVE],
        POSITIVES,
        [(2, 0.8), (2, 0.96), (1, 0.96), (2, 0.6), (3, 0.0)],
    ),
    "negative, hardest positive": (
        {"positive": "hardest", "negative": "random"},
        [U_NEGATIVE],
        [(3, 0.0), (0, 0.6), (4, -0.8), (0, 0.0), (2, -0.8)],
        NEGATIVES,
    ),
    # Below 0.6, 0.8, -0.8, 0, -0.8: anchor 3 has negatives 0.6 and 0, neither of which is below 0.
    "positive, semi-hard negative": (
        {"positive": "random", "negative": "semihard"},
        [U_POSITIVE],
        POSITIVES,
        [(4, -1.0), (4, -0.6), NONE, NONE, (0, -1.0)],
    ),
    "positive, semi-hard negative, else hardest": (
        {"positive": "random", "negative": "semihard", "semihard_fallback": "hardest"},
        [U_POSITIVE],
        POSITIVES,
        [(4, -1.0), (4, -0.6), (1, 0.96), (2, 0.6), (0, -1.0)],
    ),
    # 1 and 3 are too similar, which leaves (1 3), (0), (4), (0), (2).
    "no duplicates": (
        {**BOTH, "duplicate_threshold": 0.7},
        [U_POSITIVE, U_NEGATIVE],
        [(1, 0.6), (0, 0.6), (4, -0.8), (0, 0.0), (2, -0.8)],
        NEGATIVES,
    ),
    # (3), (), (4), (0), (2)
    "hardly a positive": (
        {**BOTH, "duplicate_threshold": 0.3},
        [U_POSITIVE, U_NEGATIVE],
        [(3, 0.0), NONE, (4, -0.8), (0, 0.0), (2, -0.8)],
        NEGATIVES,
    ),
    # |a - b|^2 of the same pairs: 20, 18, 34, 2, 34 and 4, 2, 2, 2, 32
    "euclidean": (
        {**BOTH, "similarity": "euclidean"},
        [U_POSITIVE, U_NEGATIVE],
        [(i, -math.sqrt(d)) for i, d in zip((1, 3, 4, 0, 2), (20, 18, 34, 2, 34), strict=True)],
        [(i, -math.sqrt(d)) for i, d in zip((4, 2, 1, 4, 1), (4, 2, 2, 2, 32), strict=True)],
    ),
}


@IMPLEMENTATIONS
@pytest.mark.parametrize(("options", "numbers", "positives", "negatives"), HAND_WORKED.values(), ids=HAND_WORKED)
def test_random_selection_hand_worked_picks_match(select, device, draw, options, numbers, positives, negatives):
    draw(*numbers)
    selection = select(*HAND_POINTS.to(device), **options)
    assert selection.positive_index.tolist() == [index for index, _ in positives]
    assert selection.negative_index.tolist() == [index for index, _ in negatives]
    assert selection.positive_similarity.tolist() == pytest.approx([s for _, s in positives], abs=1e-6, nan_ok=True)
    assert selection.negative_similarity.tolist() == pytest.approx([s for _, s in negatives], abs=1e-6, nan_ok=True)


@IMPLEMENTATIONS
def test_random_selection_hand_worked_picks_with_refs_match(select, device, draw):
    """Anchors of classes 0 and 7 against the five points: a copy of the anchor is an ordinary candidate."""
    anchors = Inputs(torch.tensor([[2.0, 0.0], [0.0, -1.0]]), torch.tensor([0, 7]), *HAND_POINTS[:2]).to(device)
    draw([0.33, 0.5], [0.5, 0.79])  # positives: 0 1 3, and none; negatives: 2 4, and 0 1 2 3 4
    selection = select(*anchors, **BOTH)
    assert selection.positive_index.tolist() == [0, -1]
    assert selection.negative_index.tolist() == [4, 3]
    assert selection.positive_similarity.tolist() == pytest.approx([1.0, math.nan], nan_ok=True)
    assert selection.negative_similarity.tolist() == pytest.approx([-1.0, -1.0])


def test_random_selection_loss_uses_drawn_pairs(draw):
    """The hinges of the hand-worked pairs with margin 0.3: s_an - s_ap = -1.6, 0.16, 1.76, 0, 0.2."""
    draw(U_POSITIVE, U_NEGATIVE)
    for op in (ops.triplet_loss, reference.triplet_loss):
        loss, selection = op(*HAND_POINTS, **BOTH, term="hinge", margin=0.3, reduction="none", return_selection=True)
        assert loss.tolist() == pytest.approx([0.0, 0.46, 2.06, 0.3, 0.5], abs=1e-6)
        assert selection.positive_index.tolist() == [index for index, _ in POSITIVES]


@pytest.mark.slow
@IMPLEMENTATIONS
@pytest.mark.parametrize("refs", [False, True], ids=["self", "refs"])
@pytest.mark.parametrize("by", ["label", "similarity"])
def test_random_selection_candidates_have_equal_shares(select, refs, by, device, draw):
    """Of 2520 evenly spread numbers, each of n candidates is picked by 2520 / n."""
    labels = torch.tensor([5, 9, 5, 5, 5, 2, 2, 2, 9, 9, 5, 2])
    rows = len(labels)
    columns = torch.tensor([9, 2, 5, 5, 2, 9, 9, 5, 5, 5]) if refs else labels
    inputs = Inputs(torch.ones(rows, 3), labels)
    if refs:
        inputs = inputs._replace(ref_embeddings=torch.ones(len(columns), 3), ref_labels=columns)
    usable = torch.ones(rows, len(columns), dtype=torch.bool)
    if not refs:
        usable.fill_diagonal_(False)
    if by == "similarity":  # one column is never a candidate, and has no candidates as an anchor
        (inputs.ref_embeddings if refs else inputs.embeddings)[1, 0] = math.nan
        usable[:, 1] = False
        usable[1] &= bool(refs)
    same = labels[:, None] == columns
    positives, negatives = same & usable, ~same & usable
    counted = torch.zeros(2, rows, len(columns), dtype=torch.int64)
    for i in range(2520):
        u = (i + 0.5) / 2520
        draw([u] * rows, [1 - u] * rows)
        selection = select(*inputs.to(device), **BOTH)
        for which, index in enumerate(selection[:2]):
            index = index.cpu()
            counted[which, torch.arange(rows)[index >= 0], index[index >= 0]] += 1
    for actual, candidates in zip(counted, (positives, negatives), strict=True):
        count = candidates.sum(1, keepdim=True).clamp(min=1)
        assert (2520 % count == 0).all()
        assert torch.equal(actual, candidates * (2520 // count))


def test_random_selection_pairs_are_uniform_and_independent():
    """20,000 anchors with 4 positives and 5 negatives.

    Each of the 20 pairs occurs 1000 times on average, with standard deviation 31.
    """
    count = 20_000
    inputs = Inputs(torch.ones(count, 2), torch.zeros(count).long(), torch.ones(9, 2), torch.tensor([0, 1] * 4 + [2]))
    selection = ops.select_triplets(*inputs, **BOTH, generator=seeded(1))
    pairs = torch.zeros(9, 9, dtype=torch.int64)
    pairs.index_put_((selection.positive_index, selection.negative_index), torch.tensor(1), accumulate=True)
    positives, negatives = [0, 2, 4, 6], [1, 3, 5, 7, 8]
    counted = pairs[positives][:, negatives]
    assert counted.sum() == count
    assert (counted - 1000).abs().max() < 5 * 31


# Similarities


@pytest.mark.thinned(5)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("depth", [3, 40, 700])
@pytest.mark.parametrize("refs", [False, True], ids=["self", "refs"])
def test_random_selection_of_only_candidate_equals_other_rules(dtype, similarity, depth, refs, device):
    """Each anchor has one positive, and one of two refs is a negative.

    Forward and backward agree with the other rules.
    """
    x = random_inputs(60, depth, 1, dtype=dtype, seed=depth).embeddings
    inputs = Inputs(x, torch.arange(60) // 2)
    options = [{"positive": "random"}, {}]
    if refs:
        others = random_inputs(2, depth, 1, dtype=dtype, seed=depth + 1).embeddings
        inputs = Inputs(x, torch.arange(60) % 2, others, torch.tensor([0, 1]))
        options = [BOTH, {}]
    for more in ({}, {"duplicate_threshold": 1e30}):  # candidates by label, then by similarity
        drawn, expected = (run(ops.select_triplets, inputs.to(device), similarity=similarity, **o) for o in options)
        assert (expected.selection[0] >= 0).all()
        assert_results_bitwise_equal(drawn, expected)
        drawn = run(ops.select_triplets, inputs.to(device), similarity=similarity, **options[0], **more)
        assert_results_bitwise_equal(drawn, expected)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@with_and_without_refs
def test_random_selection_threshold_that_drops_nothing_is_equal(similarity, refs, device):
    """Candidates found by label equal candidates marked by similarity."""
    for classes in (1, 7, 150):
        inputs = random_inputs(300, 20, classes, refs and 280).to(device)
        options = {**BOTH, "similarity": similarity}
        expected = pick(ops.select_triplets, inputs, **options)
        for a, b in zip(pick(ops.select_triplets, inputs, **options, duplicate_threshold=1e9), expected, strict=True):
            assert_bitwise_equal(a, b)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@with_and_without_refs
def test_random_selection_any_dtype_draws_equal(dtype, refs, device):
    inputs = exact_inputs("dot", refs=refs, dtype=dtype).to(device)
    drawn = pick(ops.select_triplets, inputs, **BOTH, similarity="dot")
    expected = pick(reference.select_triplets, inputs.to(torch.float64), **BOTH, similarity="dot")
    assert_same_selection(drawn[:2], expected[:2])
    assert_same_selection([s.double() for s in drawn[2:]], expected[2:])


# No candidates


@pytest.mark.thinned(5)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("similarity", SIMILARITIES)
@with_and_without_refs
def test_random_selection_nan_similarities_are_never_drawn(bad, similarity, refs, device):
    inputs = random_inputs(40, 5, 2, refs)
    inputs.embeddings[3, 2] = bad
    if refs:
        inputs.ref_embeddings[7, 1] = bad
    for seed in range(20):
        options = {**BOTH, "similarity": similarity, "generator": seeded(seed)}
        selection = ops.select_triplets(*inputs, **options)
        expected = reference.select_triplets(*inputs, **{**options, "generator": seeded(seed)})
        for actual, wanted in zip(selection, expected, strict=True):
            torch.testing.assert_close(actual, wanted, equal_nan=True)
        if math.isnan(bad):
            assert selection.positive_index[3] == selection.negative_index[3] == -1
            assert not (torch.stack(selection[:2]) == (7 if refs else 3)).any()


@pytest.mark.thinned(7)
@each_op
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("labels", [[], [3], [3] * 9, list(range(9)), [1, 1]], ids=str)
def test_random_selection_without_candidates_is_minus_one(name, similarity, labels, device):
    x = random_inputs(len(labels), 5, 1, seed=2).embeddings
    inputs = Inputs(x, torch.tensor(labels, dtype=torch.int64)).to(device)
    result = run(getattr(ops, name), inputs, **BOTH, similarity=similarity)
    for index, value in zip(result.selection[:2], result.selection[2:], strict=True):
        assert torch.equal(index == -1, value.isnan())
    assert (result.selection[0] >= 0).all() == (labels.count(labels[0]) > 1 if labels else True)
    assert (result.selection[1] >= 0).all() == (len(set(labels)) > 1 or not labels)
    if name in SELECTED_LOSSES:
        assert result.loss.item() == 0.0
        assert not result.grad.any()


@pytest.mark.parametrize("name", SELECTED_LOSSES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_random_selection_nonfinite_ref_gives_nan_loss(name, bad, device):
    inputs = random_inputs(24, 5, 3, 30)
    inputs.ref_embeddings[11, 4] = bad
    result = run(getattr(ops, name), inputs.to(device), **BOTH)
    assert result.loss.isnan()
    assert result.grad.isnan().all()
    assert result.ref_grad.isnan().all()
