"""Margins by the classes of anchor and negative: tables, the labels of their rows, and invalid tables."""

import math
import re

import pytest
import torch

from hardmine import ops
from support.comparisons import assert_results_bitwise_equal, assert_results_close
from support.inputs import Inputs, inputs_of_sizes, random_table, seeded
from support.ops import EMULATED
from support.runs import run, run_both

each_similarity = pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
each_reduction = pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum"])
squared_or_not = pytest.mark.parametrize("squared", [True, False], ids=["squared", "unsquared"])


@pytest.mark.thinned(7)
@each_similarity
@squared_or_not
@each_reduction
@pytest.mark.parametrize("sizes", [[3] * 20, [40, 2, 1, 35, 7], [100, 90]], ids=str)
def test_batch_all_margin_table_matches_reference(similarity, squared, reduction, sizes, device):
    inputs = inputs_of_sizes(sizes).to(device)
    options = {"similarity": similarity, "squared": squared, "reduction": reduction}
    table = random_table(len(sizes)).to(device)
    result, expected = run_both("batch_all_triplet_loss", inputs, margin=table, **options)
    assert 0 < int(expected.selection[0]) < int(expected.selection[1])
    assert_results_close(result, expected, 1e-12)
    transposed = run(ops.batch_all_triplet_loss, inputs, margin=table.T, **options)
    assert (transposed.loss - result.loss).abs() > 1e-4 * result.loss, "rows are anchors, columns negatives"
    uniform = run(ops.batch_all_triplet_loss, inputs, margin=torch.full_like(table, 0.25), **options)
    assert_results_bitwise_equal(uniform, run(ops.batch_all_triplet_loss, inputs, margin=0.25, **options))


def test_batch_all_margin_labels_map_to_table_rows(device):
    """The margin_labels are unsorted, of another dtype, and more than the batch has.

    The rows can be permuted freely.
    """
    sizes = [5, 9, 2, 1, 40]
    inputs = inputs_of_sizes(sizes).to(device)
    table = random_table(5).to(device)
    expected = run(ops.batch_all_triplet_loss, inputs, margin=table)
    names = torch.tensor([-(2**40), 7, 2**62, -1, 0], device=device)
    order = torch.tensor([3, 0, 4, 1, 2], device=device)
    renamed = inputs._replace(labels=names[inputs.labels])
    assert_results_close(
        run(ops.batch_all_triplet_loss, renamed, margin=table[order][:, order], margin_labels=names[order]),
        expected,
        1e-13,
    )
    wide = torch.full((7, 7), 1e3, dtype=torch.float64, device=device)
    rows = torch.tensor([6, 2, 0, 5, 3], device=device)
    wide[rows[:, None], rows[None, :]] = table
    wide_labels = torch.tensor([100, 101, 102, 103, 104, 105, 106], dtype=torch.int16, device=device)
    wide_labels[rows] = torch.arange(5, dtype=torch.int16, device=device)
    assert_results_bitwise_equal(
        run(ops.batch_all_triplet_loss, inputs, margin=wide, margin_labels=wide_labels), expected
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_batch_all_margin_table_of_any_dtype_is_equal(dtype, device):
    """Tables are converted to the dtype that the op computes in; 0.25 is exact in every dtype."""
    inputs = inputs_of_sizes([5, 6, 40], dtype=torch.float32).to(device)
    table = torch.tensor([[0, 0.25, 0.5], [-0.125, 0, 1], [0.75, 0.5, 0]], device=device)
    expected = run(ops.batch_all_triplet_loss, inputs, margin=table)
    assert_results_bitwise_equal(run(ops.batch_all_triplet_loss, inputs, margin=table.to(dtype)), expected)
    table.requires_grad_()
    loss = ops.batch_all_triplet_loss(inputs.embeddings.requires_grad_(), inputs.labels, margin=table)
    loss.backward()
    assert table.grad is None, "the table gets no gradient"


X, Y = torch.randn(4, 3, generator=seeded(0)), torch.tensor([0, 0, 1, 1])
TABLE = torch.zeros(2, 2)
WRONG = [
    ({"margin": 1e39}, ValueError, "margin must be a number, got 1e+39, which is inf in float32"),
    ({"margin": torch.tensor(0.2)}, ValueError, "margin must be a number or [C, C], got []"),
    ({"margin": torch.zeros(2, 3)}, ValueError, "margin must be a number or [C, C], got [2, 3]"),
    ({"margin": torch.zeros(0, 0)}, ValueError, "margin must be a number or [C, C], got [0, 0]"),
    ({"margin": TABLE.int()}, TypeError, "margin must be float32, float64, float16 or bfloat16, got torch.int32"),
    (
        {"margin": torch.tensor([[0.0, 1.0], [math.nan, 0.0]])},
        ValueError,
        "margin must be finite, got nan at [1, 0]",
    ),
    ({"margin": torch.tensor([[0.0, math.inf], [0, 0]])}, ValueError, "margin must be finite, got inf at [0, 1]"),
    ({"margin": TABLE.to("meta")}, ValueError, "margin must be on the device of embeddings, cpu, got meta"),
    ({"margin": TABLE, "margin_labels": Y[:2]}, ValueError, "margin_labels must be distinct, got 0 twice"),
    (
        {"margin": TABLE, "margin_labels": torch.tensor([0, 2])},
        ValueError,
        "labels must have a row in margin, [2, 2], got 1 at 2",
    ),
    ({"margin": torch.zeros(1, 1)}, ValueError, "labels must have a row in margin, [1, 1], got 1 at 2"),
    ({"labels": Y - 1, "margin": TABLE}, ValueError, "labels must have a row in margin, [2, 2], got -1 at 0"),
    (
        {"margin": TABLE, "ref_embeddings": X, "ref_labels": Y + 1},
        ValueError,
        "ref_labels must have a row in margin, [2, 2], got 2 at 2",
    ),
    (
        {"margin": TABLE, "margin_labels": Y[1:3], "ref_embeddings": X, "ref_labels": Y + 1},
        ValueError,
        "ref_labels must have a row in margin, [2, 2], got 2 at 2",
    ),
    (
        {"margin": torch.tensor([[0, 0], [math.nan, 0]]), "ref_embeddings": X, "ref_labels": Y * 0},
        ValueError,
        "margin must be finite, got nan at [1, 0]",
    ),
]


def is_about_values(message):
    """Whether a GPU's op raises no such error."""
    return "labels must have a row" in message or " at [" in message


@pytest.mark.parametrize(("changes", "error", "message"), WRONG, ids=[wrong[2] for wrong in WRONG])
def test_batch_all_invalid_margin_raises(changes, error, message):
    if EMULATED and is_about_values(message):
        pytest.skip("a GPU's ops raise no errors about values")
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        ops.batch_all_triplet_loss(**{"embeddings": X, "labels": Y, **changes})


@pytest.mark.parametrize(
    "changes",
    [changes for changes, _, message in WRONG if is_about_values(message)],
    ids=str,
)
def test_batch_all_invalid_table_on_gpu_gives_nan(changes, device):
    """Nothing waits for a check there."""
    if torch.device(device).type == "cpu" and not EMULATED:
        pytest.skip("on the CPU they are errors")
    changes = {name: value.to(device) for name, value in changes.items()}
    refs = changes.pop("ref_embeddings", None), changes.pop("ref_labels", None)
    result = run(ops.batch_all_triplet_loss, Inputs(X, changes.pop("labels", Y), *refs).to(device), **changes)
    assert result.loss.isnan()
    assert result.grad.isnan().all()
    assert result.ref_grad is None or result.ref_grad.isnan().all()


def test_batch_all_table_of_other_classes_of_anchors_and_refs_is_read(device):
    """Rows are the classes of anchors, columns those of refs. All other entries may be NaN."""
    table = torch.full((4, 4), math.nan)
    table[:2, 1:3] = 0.3
    inputs = Inputs(X, Y, X, Y + 1).to(device)
    expected = run(ops.batch_all_triplet_loss, inputs, margin=0.3)
    assert expected.loss.item() > 0
    torch.testing.assert_close(run(ops.batch_all_triplet_loss, inputs, margin=table.to(device)).loss, expected.loss)


def test_batch_all_unused_table_entries_are_ignored(device):
    table = torch.full((4, 4), math.nan)
    table[:2, :2] = 0.3
    inputs = Inputs(X, Y).to(device)
    expected = run(ops.batch_all_triplet_loss, inputs, margin=0.3)
    torch.testing.assert_close(run(ops.batch_all_triplet_loss, inputs, margin=table.to(device)).loss, expected.loss)
