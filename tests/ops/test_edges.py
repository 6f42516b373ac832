"""Every op at the edges: shapes around tile sizes, batches without candidates, NaN and infinite values."""

import math

import pytest
import torch

import hardmine
from hardmine import ops, reference
from support.comparisons import assert_results_bitwise_equal, assert_results_close
from support.inputs import Inputs, random_inputs
from support.ops import (
    LOSSES,
    OPS,
    OPS_WITH_LABELS,
    SELECTED_LOSSES,
    SELECTING_OPS,
    each_of,
    each_with_refs,
    each_with_similarity,
    reductions_of,
)
from support.runs import evaluate, run, run_both

pytestmark = pytest.mark.emulated

with_and_without_refs = pytest.mark.parametrize("refs", [None, 30], ids=["self", "refs"])


def well_conditioned_options(name, depth, similarity):
    """Options for which the slopes of the losses do not magnify the rounding errors of long sums."""
    return {"temperature": float(depth)} if (name, similarity) == ("tuplet_loss", "dot") else {}


# Shapes at the edges of blocks. Row groups have 4, 6 or 12 rows; panels have 4, 8, 16 or 32 columns.
# Blocks are 96 x 256 for selections and 96 x 192 for the other ops. Chunks have a depth of 256; vectors have up to 16
# numbers.

BATCH_SIZES = [1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 15, 16, 17, 31, 32, 33, 95, 96, 97, 191, 192, 193, 255, 256, 257, 385]
LONG_TO_EMULATE = ("tuplet_loss", "batch_all_triplet_loss")


@pytest.mark.thinned(11)
@each_with_similarity(OPS, cpu=LONG_TO_EMULATE)
@pytest.mark.parametrize("rows", BATCH_SIZES)
def test_op_rows_around_tile_sizes_match_reference(name, similarity, rows, device):
    classes = 3 if rows < 100 else 12
    for refs in (None, rows - 1, rows + 1):
        inputs = random_inputs(rows, 5, classes, refs, dtype=torch.float64, seed=rows).to(device)
        assert_results_close(*run_both(name, inputs, similarity=similarity), 1e-12)


@pytest.mark.thinned(11)
@each_with_similarity(OPS, cpu=LONG_TO_EMULATE)
@pytest.mark.parametrize(
    "depth", [1, 2, 15, 16, 17, 255, 256, 257, 511, 512, 513, pytest.param(5000, marks=pytest.mark.cpu)]
)
def test_op_depths_around_chunk_sizes_match_reference(name, similarity, depth, device):
    for refs in (None, 19):
        inputs = random_inputs(23, depth, 3, refs, dtype=torch.float64, seed=depth).to(device)
        options = well_conditioned_options(name, depth, similarity)
        assert_results_close(*run_both(name, inputs, similarity=similarity, **options), 1e-12)


@each_with_refs(OPS)
def test_op_noncontiguous_inputs_are_equal(name, refs, device):
    inputs = random_inputs(40, 9, refs=refs).to(device)
    strided = Inputs(
        *(None if t is None else torch.stack([t, t.neg()], -1)[..., 0] for t in inputs),
    )
    transposed = inputs._replace(embeddings=inputs.embeddings.T.contiguous().T)
    assert not strided.embeddings.is_contiguous()
    assert not strided.labels.is_contiguous()
    assert not transposed.embeddings.is_contiguous()
    op = getattr(ops, name)
    expected = run(op, inputs)
    assert_results_bitwise_equal(run(op, strided), expected)
    assert_results_bitwise_equal(run(op, transposed), expected)


@each_of(OPS_WITH_LABELS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_op_any_integer_label_dtype_is_equal(name, dtype, device):
    inputs = random_inputs(refs=20).to(device)
    expected = run(getattr(ops, name), inputs)
    shifted = inputs._replace(labels=(inputs.labels + 4).to(dtype), ref_labels=(inputs.ref_labels + 4).to(torch.int64))
    assert_results_bitwise_equal(run(getattr(ops, name), shifted), expected)


def assert_equal_after_relabeling(name, actual, expected):
    """Sums over many pairs follow the order of the labels, so their rounding depends on it."""
    if name in SELECTING_OPS:
        assert_results_bitwise_equal(actual, expected)
    else:
        assert_results_close(actual, expected, 1e-6)


@each_of(OPS_WITH_LABELS)
@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64], ids=str)
def test_op_extreme_unsigned_labels_are_equal(name, dtype):
    inputs = random_inputs(classes=2)
    expected = run(getattr(ops, name), inputs)
    low, high = 0, torch.iinfo(dtype).max  # as int64, the maximum may be -1
    labels = torch.tensor([low if label == inputs.labels.min() else high for label in inputs.labels], dtype=dtype)
    assert len(inputs.labels.unique()) == 2
    assert_equal_after_relabeling(name, run(getattr(ops, name), inputs._replace(labels=labels)), expected)


@each_of(OPS_WITH_LABELS)
def test_op_extreme_int64_labels_are_equal(name):
    """Labels need not be consecutive. Any difference between them is valid, even one that int64 cannot represent."""
    inputs = random_inputs(60, classes=6, refs=40)
    expected = run(getattr(ops, name), inputs)
    low, high = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max
    for wild in ([low, -(2**40), -1, 0, 2**50, high], [high, 5, low, 7, 6, 4], [2**40 + i for i in range(6)]):
        labels, ref_labels = (torch.tensor(wild)[(t + 4) // 3] for t in (inputs.labels, inputs.ref_labels))
        relabeled = inputs._replace(labels=labels, ref_labels=ref_labels)
        assert_equal_after_relabeling(name, run(getattr(ops, name), relabeled), expected)
        alone = run(getattr(ops, name), inputs._replace(ref_embeddings=None, ref_labels=None))
        relabeled = relabeled._replace(ref_embeddings=None, ref_labels=None)
        assert_equal_after_relabeling(name, run(getattr(ops, name), relabeled), alone)


# No candidates


WITHOUT_A_VALID_ANCHOR = {
    "no rows": [],
    "one row": [3],
    "one class": [3] * 9,
    "all distinct": list(range(9)),
    "a pair": [1, 1],
}


@each_with_similarity(OPS_WITH_LABELS)
@pytest.mark.parametrize("labels", WITHOUT_A_VALID_ANCHOR.values(), ids=WITHOUT_A_VALID_ANCHOR)
def test_op_without_valid_anchor_is_zero(name, similarity, labels, device):
    x = random_inputs(len(labels), 5, 1, seed=2).embeddings
    result = run(
        getattr(ops, name), Inputs(x, torch.tensor(labels, dtype=torch.int64)).to(device), similarity=similarity
    )
    if name in LOSSES:
        assert result.loss.item() == 0.0
        assert not result.grad.any()
    if name not in SELECTING_OPS:
        return
    positive_index, negative_index, positive_similarity, negative_similarity = result.selection
    assert torch.equal(positive_index == -1, positive_similarity.isnan())
    assert torch.equal(negative_index == -1, negative_similarity.isnan())
    assert not ((positive_index >= 0) & (negative_index >= 0)).any()
    assert (positive_index >= 0).all() == (labels.count(labels[0]) > 1 if labels else True)


@each_with_refs(OPS_WITH_LABELS)
def test_op_anchors_without_candidates_are_excluded(name, refs, device):
    """Rows that are alone in their class have no positive here. Without refs they still serve as negatives."""
    inputs = random_inputs(20, 5, 3, refs, seed=4)
    lonely = inputs._replace(labels=torch.where(torch.arange(20) % 4 == 1, 100 + torch.arange(20), inputs.labels))
    result, expected = run_both(name, lonely.to(device))
    if name != "batch_all_triplet_loss":
        assert (result.selection[0][1::4] == -1).all()
        assert (result.selection[0] >= 0).any()
    assert result.grad.any()
    assert_results_close(result, expected, 1e-5)


@each_of(SELECTING_OPS)
def test_op_empty_or_foreign_refs_give_no_selection(name, device):
    inputs = random_inputs(12, 5, 3)
    no_refs = Inputs(*inputs[:2], torch.empty(0, 5), torch.empty(0, dtype=torch.int64)).to(device)
    result = run(getattr(ops, name), no_refs)
    assert all((index == -1).all() for index in result.selection[:2])
    assert result.loss.item() == 0.0
    assert not result.grad.any()
    assert result.ref_grad.shape == (0, 5)

    strangers = Inputs(*inputs[:2], torch.randn(7, 5), torch.full((7,), 99)).to(device)
    result = run(getattr(ops, name), strangers, negative="hardest")
    assert (result.selection[0] == -1).all()
    assert (result.selection[1] >= 0).all()
    if name in SELECTED_LOSSES:
        assert result.loss.item() == 0.0
        assert not result.grad.any()
        assert not result.ref_grad.any()


@each_of(LOSSES)
def test_loss_has_shape_of_reduction(name, device):
    for reduction in reductions_of(name):
        for rows in (0, 9):
            loss = evaluate(getattr(ops, name), random_inputs(rows, 5, 3).to(device), reduction=reduction)[0]
            assert loss.shape == ((rows,) if reduction == "none" else ())
            assert loss.dtype == torch.float32


# NaN, infinite and extreme values


@each_with_similarity(OPS)
def test_op_zero_rows_match_reference(name, similarity, device):
    inputs = random_inputs(24, 5, 3, dtype=torch.float64)
    inputs.embeddings[::5] = 0.0
    assert_results_close(*run_both(name, inputs.to(device), similarity=similarity), 1e-12)


@each_of(OPS)
def test_op_rows_below_normalize_epsilon_have_no_gradient(name, device):
    inputs = random_inputs(24, 5, 3, dtype=torch.float64)
    inputs.embeddings[::5] *= 1e-14
    result, expected = run_both(name, inputs.to(device))
    assert not result.grad[::5].any(), "they have no direction"
    assert result.grad.any()
    assert_results_close(result, expected, 1e-12)


@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
@with_and_without_refs
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_selection_nan_similarities_are_not_candidates(similarity, refs, bad, device):
    inputs = random_inputs(24, 5, 3, refs)
    inputs.embeddings[3, 2] = bad
    if refs:
        inputs.ref_embeddings[7, 1] = bad
    for options in (
        {},
        {"positive": "hardest", "negative": "easiest"},
        {"negative": "semihard"},
        {"positive": "random", "negative": "random"},
    ):
        result, expected = run_both("select_triplets", inputs.to(device), similarity=similarity, **options)
        for actual, wanted in zip(result.selection, expected.selection, strict=True):
            torch.testing.assert_close(actual, wanted, equal_nan=True)
        if math.isnan(bad):
            assert result.selection[0][3] == result.selection[1][3] == -1
            assert not (torch.stack(result.selection[:2]) == (7 if refs else 3)).any()


@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
@with_and_without_refs
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_knn_nan_similarities_are_not_neighbors(similarity, refs, bad, device):
    inputs = random_inputs(24, 5, 3, refs)
    inputs.embeddings[3, 2] = bad
    if refs:
        inputs.ref_embeddings[7, 1] = bad
    result, expected = run_both("knn", inputs.to(device), similarity=similarity, k=29)
    for actual, wanted in zip(result.selection, expected.selection, strict=True):
        torch.testing.assert_close(actual, wanted, equal_nan=True)
    if math.isnan(bad):
        assert (result.selection[1][3] == -1).all()
        assert not (result.selection[1] == (7 if refs else 3)).any()


@each_with_similarity(LOSSES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["embeddings", "ref_embeddings", "a row in no pair"])
def test_loss_nonfinite_row_gives_nan(name, similarity, bad, where, device):
    inputs = random_inputs(24, 5, 3, 30)
    if where == "a row in no pair":
        inputs.ref_embeddings[11, 4] = bad
        inputs.ref_labels[:] = inputs.labels[0]  # row 11 is still a positive of some anchors and a negative of others
        inputs.ref_labels[11] = 77
        inputs.ref_embeddings[11, :4] = -inputs.embeddings[:, :4].mean(0) * 1e3
    else:
        getattr(inputs, where)[11, 4] = bad
    for reduction in reductions_of(name):
        result = run(getattr(ops, name), inputs.to(device), similarity=similarity, reduction=reduction)
        assert result.loss.isnan().all()
        assert result.grad.isnan().all()
        assert result.ref_grad is None or result.ref_grad.isnan().all()


@each_with_similarity(LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_loss_overflowing_norm_gives_nan(name, similarity, dtype):
    """The rows are finite, but their squares overflow.

    Without a check, no pair would be a candidate, and the loss would be 0.
    """
    embeddings = (torch.ones(8, 4) * 3e19).to(dtype).requires_grad_()
    options = {"similarity": similarity, **({"negative": "hardest"} if name in SELECTED_LOSSES else {})}
    loss = getattr(ops, name)(embeddings, torch.arange(8) // 2, **options)
    loss.backward()
    assert loss.isnan()
    assert embeddings.grad.isnan().all()
    assert getattr(reference, name)(embeddings, torch.arange(8) // 2, **options).isnan()
    with hardmine.verify(every=1) as report:
        getattr(ops, name)(embeddings, torch.arange(8) // 2, **options)
    assert report.checks == 1
