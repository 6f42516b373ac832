"""The loss over every triplet: values worked by hand, exact counts, both kinds of list, accuracy, gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hardmine import ops, reference
from support.comparisons import assert_as_accurate_as_plain_torch, assert_bitwise_equal, assert_results_close
from support.inputs import (
    HAND_POINTS,
    Inputs,
    exact_inputs,
    inputs_of_sizes,
    labels_of_sizes,
    random_inputs,
    random_table,
    seeded,
)
from support.ops import EMULATED
from support.runs import run, run_both

pytestmark = pytest.mark.emulated

REDUCTIONS = ("mean", "mean_active", "sum")
IMPLEMENTATIONS = pytest.mark.parametrize(
    "loss", [ops.batch_all_triplet_loss, reference.batch_all_triplet_loss], ids=["op", "ref"]
)
each_similarity = pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
each_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
squared_or_not = pytest.mark.parametrize("squared", [True, False], ids=["squared", "unsquared"])


def half_root_differences(*pairs: tuple[float, float]) -> float:
    """Half the sum of d_ap - d_an over the pairs, which are given as squared distances."""
    return sum(math.sqrt(positive) - math.sqrt(negative) for positive, negative in pairs) / 2


# Of HAND_POINTS (labels 0 0 1 0 1), squared distances; positives on the left, negatives on the right:
#   0: 1, 3: 20   2   | 2, 4:    18   4          3: 0, 1:  2  18   | 2, 4:    20   2
#   1: 0, 3: 20  18   | 2, 4:     2  32          4: 2:    34       | 0, 1, 3:  4  32   2
#   2: 4:    34       | 0, 1, 3: 18   2  20
# The cosine's are 2 - 2 s:
#   0: 1, 3: 0.8  2   | 2, 4:    0.4  4          3: 0, 1:  2  0.4  | 2, 4:    0.8  2
#   1: 0, 3: 0.8  0.4 | 2, 4:    0.08 3.2        4: 2:    3.6      | 0, 1, 3: 4    3.2  2
#   2: 4:    3.6      | 0, 1, 3: 0.4  0.08 0.8
# Options, the sum of the loss, the number of triplets with a positive value; there are 4 * 3 + 3 * 2 = 18.
HAND_WORKED = {
    # 1/2 of (20 - 18) (20 - 4) | (20 - 2) (18 - 2) | (34 - 18) (34 - 2) (34 - 20) | (18 - 2) |
    # (34 - 4) (34 - 32) (34 - 2); the difference is 0 for 2 - 2 of anchor 3
    "squared": (
        {"similarity": "euclidean", "margin": 0.0},
        (2 + 16 + 18 + 16 + 16 + 32 + 14 + 16 + 30 + 2 + 32) / 2,
        11,
    ),
    # With margin 3 each of those is 3 larger, and three more are positive:
    # 2 + 3 - 4 = 1 of anchor 0; 2 + 3 - 2 = 3 and 18 + 3 - 20 = 1 of anchor 3.
    "squared, margin 3": (
        {"similarity": "euclidean", "margin": 3.0},
        (194 + 11 * 3 + 1 + 3 + 1) / 2,
        14,
    ),
    # A negative margin removes the values up to 4
    "squared, negative margin": (
        {"similarity": "euclidean", "margin": -4.0},
        (12 + 14 + 12 + 12 + 28 + 10 + 12 + 26 + 28) / 2,
        9,
    ),
    "unsquared": (
        {"similarity": "euclidean", "margin": 0.0, "squared": False},
        half_root_differences(
            (20, 18), (20, 4), (20, 2), (18, 2), (34, 18), (34, 2), (34, 20), (18, 2), (34, 4), (34, 32), (34, 2)
        ),
        11,
    ),
    # 0.8 - 0.4, 2 - 0.4 | 0.8 - 0.08, 0.4 - 0.08 | 3.6 less 0.4, 0.08, 0.8 | 2 - 0.8 and 2 - 2 = 0 | 3.6 less 3.2, 2;
    # margin 0.1 adds a value of 0.1 for the tie, and 11 times 0.1; else 0.4 - 0.8 and less
    "cosine": (
        {"margin": 0.1},
        (0.4 + 1.6 + 0.72 + 0.32 + 3.2 + 3.52 + 2.8 + 1.2 + 0.4 + 1.6 + 11 * 0.1) / 2,
        11,
    ),
    "cosine, unsquared": (
        {"margin": 0.0, "squared": False},
        half_root_differences(
            *[(0.8, 0.4), (2, 0.4), (0.8, 0.08), (0.4, 0.08), (3.6, 0.4), (3.6, 0.08), (3.6, 0.8)],
            *[(2, 0.8), (3.6, 3.2), (3.6, 2)],
        ),
        None,  # 2 - 2 is a tie, which may round either way
    ),
}


@IMPLEMENTATIONS
@pytest.mark.parametrize(("options", "total", "active"), HAND_WORKED.values(), ids=HAND_WORKED)
def test_batch_all_hand_worked_values_match(loss, device, options, total, active):
    points = HAND_POINTS.to(device)[:2]
    value, counts = loss(*points, **options, reduction="sum", return_counts=True)
    assert value.item() == pytest.approx(total, rel=1e-6)
    assert int(counts.total) == 18
    assert loss(*points, **options).item() == pytest.approx(total / 18, rel=1e-6)
    if active is not None:
        assert int(counts.active) == active
        assert loss(*points, **options, reduction="mean_active").item() == pytest.approx(total / active, rel=1e-6)


@IMPLEMENTATIONS
def test_batch_all_hand_worked_margin_table_matches(loss, device):
    """Anchors of class 0 have alpha(0, 1) = 5, those of class 1 have alpha(1, 0) = -30; the diagonal is not used.

    1/2 of 20 + 5 less 18, 4; 2 + 5 less 4 | 20 + 5 less 2; 18 + 5 less 2 | 34 - 30 less 2 | 2 + 5 less 2;
    18 + 5 less 20, 2 | 34 - 30 less 2, and exactly 0 for 4.
    """
    total = (7 + 21 + 3 + 23 + 21 + 2 + 5 + 3 + 21 + 2) / 2
    table = torch.tensor([[99.0, 5.0], [-30.0, 99.0]], device=device)
    points = HAND_POINTS.to(device)[:2]
    options = {"similarity": "euclidean", "reduction": "sum", "return_counts": True}
    value, counts = loss(*points, margin=table, **options)
    assert value.item() == total
    assert counts == (10, 18)
    # The same table for other labels, whose rows are in another order: 7 in row 2, -3 in row 0
    other_labels = torch.tensor([7, 7, -3, 7, -3], device=device)
    wide = torch.full((3, 3), 77.0, device=device)
    wide[2, 0], wide[0, 2] = 5.0, -30.0
    value, counts = loss(
        points[0], other_labels, margin=wide, margin_labels=torch.tensor([-3, 0, 7]).to(device), **options
    )
    assert value.item() == total
    assert counts == (10, 18)


# Refs are the points of HAND_POINTS. Anchors are points 0 and 2. Each is a positive of itself, unless ids exclude that.
# Squared distances; positives on the left, negatives on the right:
#   anchor 0: 0, 1, 3: 0 20  2 | 2, 4:    18  4
#   anchor 2: 2, 4:    0 34    | 0, 1, 3: 18  2 20
# Of the positives at distance 0 no triplet has a value above 0: with margin 3 only 0 + 3 - 2 does.
WITH_REFS = {
    "own copies are positives": ({}, (2 + 3) + (16 + 3) + (2 + 3 - 4) + 1 + 16 + 32 + 14 + 3 * 3, 7, 12),
    "ids exclude own copies": ({"ids": [0, 2], "ref_ids": [0, 1, 2, 3, 4]}, 5 + 19 + 1 + 16 + 32 + 14 + 3 * 3, 6, 7),
}


@IMPLEMENTATIONS
@pytest.mark.parametrize(("ids", "total", "active", "triplets"), WITH_REFS.values(), ids=WITH_REFS)
def test_batch_all_hand_worked_refs_match(loss, device, ids, total, active, triplets):
    x, labels = HAND_POINTS.to(device)[:2]
    options = {name: torch.tensor(values, device=device) for name, values in ids.items()}
    options |= {"margin": 3.0, "similarity": "euclidean", "reduction": "sum", "return_counts": True}
    value, counts = loss(x[::2][:2], labels[::2][:2], x, labels, **options)
    assert value.item() == total / 2
    assert counts == (active, triplets)


@IMPLEMENTATIONS
def test_batch_all_hand_worked_margin_table_with_refs_matches(loss, device):
    """Anchor 0 of class 0, refs 1 to 4 of classes 5, 6, 0, 6: alpha(0, 5) = 1 and alpha(0, 6) = -15.

    1/2 of 2 + 1 less 20, and 2 - 15 less 18 and 4. With the table's rows and columns swapped, alpha(0, 5) = 30 and
    alpha(0, 6) = 4: 2 + 30 less 20, 2 + 4 less 4; but 2 + 4 less 18 stays below 0.
    """
    x = HAND_POINTS.to(device).embeddings
    labels, ref_labels = torch.tensor([0], device=device), torch.tensor([5, 6, 0, 6], device=device)
    table = torch.tensor([[0.0, 1.0, -15.0], [30.0, 0.0, 0.0], [4.0, 0.0, 0.0]], device=device)
    options = {"similarity": "euclidean", "reduction": "sum", "return_counts": True}
    options["margin_labels"] = torch.tensor([0, 5, 6], device=device)
    value, counts = loss(x[:1], labels, x[1:], ref_labels, margin=table, **options)
    assert (value.item(), *counts) == (0.0, 0, 3)
    value, counts = loss(x[:1], labels, x[1:], ref_labels, margin=table.T, **options)
    assert (value.item(), *counts) == (7.0, 2, 3)


def test_batch_all_defaults_match_htl(device):
    """The defaults are HTL before its first epoch.

    Squared distances of normalized rows, margin 0.2, mean over all triplets.
    """
    total = (0.4 + 1.6 + 0.72 + 0.32 + 3.2 + 3.52 + 2.8 + 1.2 + 0.4 + 1.6 + 11 * 0.2) / 2
    assert ops.batch_all_triplet_loss(*HAND_POINTS[:2]).item() == pytest.approx(total / 18, rel=1e-6)


# Exact on small integers


@pytest.mark.thinned(5)
@each_similarity
@each_reduction
@pytest.mark.parametrize("sizes", [[4] * 15, [70, 3, 1, 33], [64] * 3], ids=str)
def test_batch_all_small_integers_are_exact(similarity, reduction, sizes, device):
    """Lists of up to 32 positives, and longer ones.

    With margin 0 many triplets are at the kink, and therefore inactive.
    """
    labels = labels_of_sizes(sizes)
    x = exact_inputs(similarity, len(labels), 16).embeddings
    for margin in (0.0, 0.25, -0.25):
        result, expected = run_both(
            "batch_all_triplet_loss",
            Inputs(x, labels).to(device),
            similarity=similarity,
            margin=margin,
            reduction=reduction,
        )
        assert 0 < int(expected.selection[0]) < int(expected.selection[1])
        for actual, wanted in zip(result.selection, expected.selection, strict=True):
            assert_bitwise_equal(actual, wanted)
        torch.testing.assert_close(result.loss, expected.loss, rtol=2**-22, atol=0)
        if similarity == "euclidean" and reduction == "sum":
            atol = 2**-22 * expected.grad.abs().max().item()  # differences from the mean row are not integers
            torch.testing.assert_close(result.grad, expected.grad, rtol=0, atol=atol)


def test_batch_all_at_kink_is_inactive_without_gradient(device):
    """d_ap = 4, d_an = 9: with margin 5 the hinge is exactly 0; with a slightly larger margin it is positive."""
    inputs = Inputs(torch.tensor([[0.0], [2.0], [-3.0]]), torch.tensor([0, 0, 1])).to(device)
    for margin, active in ((5.0, 0), (5.0 + 2**-20, 1)):
        result = run(ops.batch_all_triplet_loss, inputs, similarity="euclidean", margin=margin, reduction="sum")
        assert [int(count) for count in result.selection] == [active, 2]
        assert result.grad.any() == bool(active)


def test_batch_all_equal_rows_give_half_margin_and_zero_gradient(device):
    """Every distance is 0, so each triplet's loss is half the margin. The gradient is 0, without squares too."""
    inputs = Inputs(torch.tensor([[3.0, 4.0]]).expand(100, 2), labels_of_sizes([60, 30, 10])).to(device)
    total = 60 * 59 * 40 + 30 * 29 * 70 + 10 * 9 * 90
    for squared in (True, False):
        for similarity in ("cosine", "euclidean"):
            options = {"squared": squared, "similarity": similarity}
            result = run(ops.batch_all_triplet_loss, inputs, margin=0.5, **options)
            assert result.loss.item() == pytest.approx(0.25, rel=1e-6)
            assert [int(count) for count in result.selection] == [total, total]
            assert result.grad.abs().max() < 1e-6
            if similarity == "euclidean":
                assert not result.grad.any()
                inactive = run(ops.batch_all_triplet_loss, inputs, margin=0.0, **options)
                assert inactive.loss.item() == 0.0
                assert int(inactive.selection[0]) == 0


@each_similarity
def test_batch_all_without_triplets_is_zero(similarity, device):
    for labels in ([], [3], [2, 2, 2], [1, 2, 3]):
        inputs = Inputs(torch.ones(len(labels), 3), torch.tensor(labels, dtype=torch.int64)).to(device)
        for reduction in REDUCTIONS:
            result = run(ops.batch_all_triplet_loss, inputs, similarity=similarity, reduction=reduction)
            assert result.loss.item() == 0.0
            assert [int(count) for count in result.selection] == [0, 0]
            assert not result.grad.any()
    # A batch whose triplets are all inactive
    inputs = Inputs(torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]]), torch.tensor([0, 0, 1])).to(device)
    for reduction in REDUCTIONS:
        result = run(ops.batch_all_triplet_loss, inputs, similarity=similarity, reduction=reduction)
        assert (result.loss.item(), int(result.selection[0]), int(result.selection[1])) == (0.0, 0, 2)
        assert not result.grad.any()


# Lists of up to 32 positives are scanned, longer ones are searched. For classes of the larger sizes, the lists of only
# some anchors are held at a time.


CLASS_SIZES = {
    "of every size": [1, 2, 3, 5, 8, 13, 21, 31, 32, 33, 34, 35, 63, 64, 65, 66, 90],
    "at the change of method": [32, 33, 34],
    "two huge": [140, 110],
    "one huge, many small": [120, *[2] * 30, *[1] * 20],
    "all but one": [150, 1],
    "blocks of one class each": [96, 96, 96],
    "pairs": [2] * 97,
}


@pytest.mark.slow
@pytest.mark.parametrize("sizes", CLASS_SIZES.values(), ids=CLASS_SIZES)
@each_similarity
@squared_or_not
def test_batch_all_class_sizes_match_reference(sizes, similarity, squared, device):
    inputs = inputs_of_sizes(sizes, 6).to(device)
    for margin in (0.2, -0.4):
        options = {"similarity": similarity, "squared": squared, "margin": margin}
        result, expected = run_both("batch_all_triplet_loss", inputs, **options)
        assert 0 < int(expected.selection[0]) < int(expected.selection[1])
        assert_results_close(result, expected, 1e-11)


def test_batch_all_many_classes_and_depths_match_reference(device):
    for rows, depth, classes in ((500, 1, 100), (40, 3000, 5), (600, 3, 200)):
        inputs = random_inputs(rows, depth, classes, dtype=torch.float64, seed=rows).to(device)
        for squared in (True, False):
            options = {"similarity": "euclidean", "squared": squared, "margin": 0.5}
            assert_results_close(*run_both("batch_all_triplet_loss", inputs, **options), 1e-11)


@pytest.mark.slow
@pytest.mark.cpu
def test_batch_all_counts_exceed_32_bits():
    """Two classes of 1300 have 2 * 1300 * 1299 * 1300 = 4.4e9 triplets. With a large margin all are active."""
    labels = torch.arange(2600) % 2
    x = torch.randn(2600, 2, generator=seeded(0))
    loss, counts = ops.batch_all_triplet_loss(x, labels, margin=10.0, return_counts=True)
    assert counts == (2 * 1300 * 1299 * 1300, 2 * 1300 * 1299 * 1300)
    # With all triplets active, the mean is half of (mean distance to positives - mean distance to negatives + margin).
    f = torch.nn.functional.normalize(x.double())
    d = 2 - 2 * f @ f.T
    same = labels[:, None] == labels
    positive = d.masked_fill(~same, 0.0).sum(1) / 1299
    negative = d.masked_fill(same, 0.0).sum(1) / 1300
    assert loss.item() == pytest.approx(5 + (positive - negative).mean().item() / 2, rel=1e-6)


# Refs


REF_SIZES = {
    "small classes": ([3] * 10, [4] * 10),
    "few anchors, long lists": ([2, 1, 3], [33, 90, 64]),
    "at the change of method": ([40, 2, 7, 1], [31, 32, 33, 34]),
    "classes without refs or anchors": ([5, 0, 9, 0, 3], [0, 7, 40, 3, 0]),
    "one ref": ([5, 4], [1, 0]),
    "several chunks": ([400, 5], [290, 10]),
}


def inputs_with_refs(sizes: list[int], ref_sizes: list[int], dtype: torch.dtype = torch.float64) -> Inputs:
    return Inputs(*inputs_of_sizes(sizes, dtype=dtype)[:2], *inputs_of_sizes(ref_sizes, dtype=dtype, seed=5)[:2])


@pytest.mark.thinned(3)
@pytest.mark.parametrize(("sizes", "ref_sizes"), REF_SIZES.values(), ids=REF_SIZES)
@each_similarity
@squared_or_not
@pytest.mark.parametrize("table", [False, True], ids=["number", "table"])
def test_batch_all_refs_of_any_sizes_match_reference(sizes, ref_sizes, similarity, squared, table, device):
    if EMULATED and sum(sizes) > 200:
        pytest.skip("long to emulate")
    inputs = inputs_with_refs(sizes, ref_sizes).to(device)
    margin = random_table(len(sizes)).to(device) if table else 0.2
    options = {"similarity": similarity, "squared": squared, "margin": margin}
    result, expected = run_both("batch_all_triplet_loss", inputs, **options)
    assert_results_close(result, expected, 1e-11)
    if len(ref_sizes) > 2 or ref_sizes[1]:
        assert 0 < int(expected.selection[0]) < int(expected.selection[1])
        assert result.ref_grad.any()


@each_similarity
@squared_or_not
@each_reduction
@pytest.mark.parametrize("sizes", [[4] * 15, [40, 3, 1, 33]], ids=str)
def test_batch_all_batch_as_refs_with_ids_equals_no_refs(similarity, squared, reduction, sizes, device):
    """The ids exclude the own copies, so the triplets are the same."""
    inputs = inputs_of_sizes(sizes).to(device)
    options = {"similarity": similarity, "squared": squared, "reduction": reduction}
    options["margin"] = random_table(len(sizes)).to(device)
    expected = run(ops.batch_all_triplet_loss, inputs, **options)
    ids = torch.arange(len(inputs.labels), device=device)
    found = run(ops.batch_all_triplet_loss, Inputs(*inputs[:2], *inputs[:2]), ids=ids, ref_ids=ids, **options)
    for actual, wanted in zip(found.selection, expected.selection, strict=True):
        assert_bitwise_equal(actual, wanted)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-13, atol=0)
    scale = expected.grad.abs().max().item()
    torch.testing.assert_close(found.grad + found.ref_grad, expected.grad, rtol=0, atol=1e-13 * scale)


@each_similarity
@each_reduction
def test_batch_all_small_integers_with_refs_are_exact(similarity, reduction, device):
    inputs = exact_inputs(similarity, 50, 16, refs=150).to(device)
    for margin in (0.0, 0.25):
        options = {"similarity": similarity, "margin": margin, "reduction": reduction}
        result, expected = run_both("batch_all_triplet_loss", inputs, **options)
        assert 0 < int(expected.selection[0]) < int(expected.selection[1])
        for actual, wanted in zip(result.selection, expected.selection, strict=True):
            assert_bitwise_equal(actual, wanted)
        torch.testing.assert_close(result.loss, expected.loss, rtol=2**-22, atol=0)


@squared_or_not
def test_batch_all_empty_or_foreign_refs_give_zero(squared, device):
    inputs = random_inputs(12, 5, 3)
    none, label = torch.empty(0, 5), torch.full((7,), 99)
    for anchors, refs in (
        (inputs[:2], (none, label[:0])),  # no refs
        ((none, label[:0]), inputs[:2]),  # no anchors
        (inputs[:2], (inputs.embeddings[:7], label)),  # negatives alone
        ((inputs.embeddings[:7], label), (inputs.embeddings[:7], label)),  # positives alone
    ):
        result = run(ops.batch_all_triplet_loss, Inputs(*anchors, *refs).to(device), squared=squared)
        assert result.loss.item() == 0.0
        assert [int(count) for count in result.selection] == [0, 0]
        assert (result.grad.shape, result.ref_grad.shape) == (anchors[0].shape, refs[0].shape)
        assert not result.grad.any()
        assert not result.ref_grad.any()
    bad = torch.full((3, 5), math.nan)
    for anchors, refs in (((bad, label[:3]), (none, label[:0])), ((none, label[:0]), (bad, label[:3]))):
        result = run(ops.batch_all_triplet_loss, Inputs(*anchors, *refs).to(device), squared=squared)
        assert result.loss.isnan()
        assert result.grad.isnan().all()
        assert result.ref_grad.isnan().all()


# Accuracy and gradients


@pytest.mark.thinned(5)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@each_similarity
@squared_or_not
@pytest.mark.parametrize("sizes", [[4] * 30, [70, 50]], ids=str)
@pytest.mark.parametrize("refs", [False, True], ids=["self", "refs"])
def test_batch_all_error_is_at_most_twice_plain_torch(dtype, similarity, squared, sizes, refs, device):
    """The margin is far from every difference of distances, so the counts are equal."""
    inputs = inputs_of_sizes(sizes, 40, dtype)
    if refs:
        inputs = Inputs(*inputs[:2], *inputs_of_sizes(sizes[:2], 40, dtype, seed=9)[:2])
    inputs = inputs.to(device)
    options = {"similarity": similarity, "squared": squared, "reduction": "mean_active"}
    margin = margin_in_widest_gap(inputs, **options)
    exact = assert_as_accurate_as_plain_torch("batch_all_triplet_loss", inputs, margin=margin, **options)
    assert int(exact.selection[1]) > int(exact.selection[0]) > 20
    assert all(grad.any() for grad in (exact.grad, exact.ref_grad) if grad is not None)


def margin_in_widest_gap(inputs: Inputs, *, squared: bool, similarity: str, **_) -> float:
    """A margin near 0.2 at which, by the exact distances, no triplet is at the kink."""
    refs = inputs.ref_embeddings
    d = distances(inputs.embeddings.double(), squared, similarity, None if refs is None else refs.double())
    same = inputs.labels[:, None] == (inputs.labels if refs is None else inputs.ref_labels)
    positive = same if refs is not None else same & ~torch.eye(len(d), dtype=torch.bool, device=d.device)
    a, p = positive.nonzero(as_tuple=True)
    kinks = (d[a] - d[a, p][:, None])[~same[a]]
    near = kinks[(kinks - 0.2).abs().topk(min(200, len(kinks)), largest=False).indices].sort().values
    gap = near.diff().argmax()
    assert near.diff()[gap] > 1e-5
    return (near[gap] + near[gap + 1]).item() / 2


def distances(x: Tensor, squared: bool, similarity: str, refs: Tensor | None = None) -> Tensor:
    """All distances, or squared ones."""
    a, b = (
        torch.nn.functional.normalize(rows) if similarity == "cosine" else rows
        for rows in (x, x if refs is None else refs)
    )
    d = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    return d.square() if squared else d


@pytest.mark.thinned(5)
@each_similarity
@squared_or_not
@pytest.mark.parametrize("reduction", ["mean", "mean_active", pytest.param("sum", marks=pytest.mark.cpu)])
@pytest.mark.parametrize("sizes", [[3, 4, 5], [36, 2, 3]], ids=str)
def test_batch_all_gradcheck_passes(similarity, squared, reduction, sizes, device):
    inputs = inputs_of_sizes(sizes, 4).to(device)
    d = distances(inputs.embeddings, squared, similarity)
    table = random_table(len(sizes)).to(device)
    same = inputs.labels[:, None] == inputs.labels
    argument = d[:, :, None] - d[:, None, :] + table[inputs.labels][:, inputs.labels][:, None, :]
    triplets = (same & ~torch.eye(len(d), dtype=torch.bool, device=device))[:, :, None] & ~same[:, None, :]
    argument = argument[triplets]
    assert argument.abs().min() > 1e-5, "every triplet is far from the kink, for steps of 1e-7"
    assert (argument > 0).any()
    assert (argument < 0).any()

    def function(x):
        return ops.batch_all_triplet_loss(
            x, inputs.labels, margin=table, similarity=similarity, squared=squared, reduction=reduction
        )

    x = inputs.embeddings.requires_grad_()
    assert torch.autograd.gradcheck(function, [x], eps=1e-7, atol=1e-5, rtol=1e-5)
    assert torch.autograd.grad(function(x), x)[0].any(1).all()


@each_similarity
@squared_or_not
@pytest.mark.parametrize("sizes", [([3, 4, 5], [2, 3, 4]), ([2, 3, 1], [35, 2, 3])], ids=str)
def test_batch_all_gradcheck_with_refs_passes(similarity, squared, sizes, device):
    inputs = inputs_with_refs(*sizes).to(device)
    d = distances(inputs.embeddings, squared, similarity, inputs.ref_embeddings)
    table = random_table(3).to(device)
    positive = inputs.labels[:, None] == inputs.ref_labels
    argument = d[:, :, None] - d[:, None, :] + table[inputs.labels][:, inputs.ref_labels][:, None, :]
    argument = argument[positive[:, :, None] & ~positive[:, None, :]]
    assert argument.abs().min() > 1e-5, "every triplet is far from the kink, for steps of 1e-7"
    assert (argument > 0).any()
    assert (argument < 0).any()

    def function(x, refs):
        options = {"margin": table, "similarity": similarity, "squared": squared}
        return ops.batch_all_triplet_loss(x, inputs.labels, refs, inputs.ref_labels, **options)

    leaves = inputs.embeddings.requires_grad_(), inputs.ref_embeddings.requires_grad_()
    assert torch.autograd.gradcheck(function, leaves, eps=1e-7, atol=1e-5, rtol=1e-5)
    assert all(gradient.any(1).all() for gradient in torch.autograd.grad(function(*leaves), leaves))


def test_batch_all_hand_worked_gradient_matches(device):
    """In one dimension a = 0, p = 2, n = 1: 1/2 [4 - 1 + 1]+ = 2 and, anchored at p, 1/2 [4 - 1 + 1]+ = 2.

    The first has the gradient -2 + 1 in a, 2 in p, -1 in n; the second -2 in a, 2 - 1 in p, 1 in n.
    """
    inputs = Inputs(torch.tensor([[0.0], [2.0], [1.0]]), torch.tensor([0, 0, 1])).to(device)
    result = run(ops.batch_all_triplet_loss, inputs, similarity="euclidean", margin=1.0, reduction="sum")
    assert result.loss.item() == 4.0
    assert result.grad.tolist() == [[-3.0], [3.0], [0.0]]
    # Unsquared, 1/2 [2 - 1 + 1]+ = 1 each; gradients -1/2 + 1/2, 1/2, -1/2 and -1/2, 1/2 - 1/2, 1/2
    result = run(ops.batch_all_triplet_loss, inputs, similarity="euclidean", margin=1.0, reduction="sum", squared=False)
    assert result.loss.item() == 2.0
    assert result.grad.tolist() == [[-0.5], [0.5], [0.0]]


def test_batch_all_without_gradient_has_equal_loss(device):
    """If no gradient is needed, the loss is the same; a scaled loss has a scaled gradient."""
    inputs = random_inputs().to(device)
    x = inputs.embeddings.clone().requires_grad_()
    loss = ops.batch_all_triplet_loss(x, inputs.labels)
    with torch.no_grad():
        assert_bitwise_equal(ops.batch_all_triplet_loss(x, inputs.labels), loss.detach())
    assert_bitwise_equal(ops.batch_all_triplet_loss(inputs.embeddings, inputs.labels), loss.detach())
    (grad,) = torch.autograd.grad(loss, x, retain_graph=True)
    (scaled,) = torch.autograd.grad(4 * loss, x)
    assert_bitwise_equal(scaled, 4 * grad)


# Random inputs and options


@st.composite
def problems(draw):
    sizes = draw(st.lists(st.sampled_from([1, 2, 3, 4, 6, 33, 40]), min_size=0, max_size=6))
    depth, seed = draw(st.integers(1, 20)), draw(st.integers(0, 10_000))
    inputs = inputs_of_sizes(sizes, depth, seed=seed)
    if draw(st.booleans()):
        ref_sizes = draw(st.lists(st.sampled_from([0, 1, 2, 5, 33, 40]), min_size=len(sizes), max_size=len(sizes)))
        refs = inputs_of_sizes(ref_sizes, depth, seed=seed + 2)
        inputs = inputs._replace(ref_embeddings=refs.embeddings, ref_labels=refs.labels)
    table = draw(st.booleans())
    options = {
        "similarity": draw(st.sampled_from(["cosine", "euclidean"])),
        "squared": draw(st.booleans()),
        "margin": random_table(max(len(sizes), 1)) if table else draw(st.sampled_from([-0.5, 0.0, 0.2, 3.0])),
        "reduction": draw(st.sampled_from(REDUCTIONS)),
    }
    return inputs, options


@settings(max_examples=200, deadline=None, derandomize=True)
@given(problems())
def test_batch_all_random_inputs_and_options_match_reference(problem):
    inputs, options = problem[0], dict(problem[1])
    if inputs.embeddings.shape[1] == 1:
        options["similarity"] = "euclidean"  # cosines would be 1 and -1, with triplets at the kink for some margins
    assert_results_close(*run_both("batch_all_triplet_loss", inputs, **options), 1e-10)
