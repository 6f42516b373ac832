"""Distances between classes: a sum over every pair of samples as the oracle, values worked by hand, invalid input."""

import math
import re
import sys

import pytest
import torch

from hardmine.mining import ClassDistances, class_distances
from hardmine.mining.class_distances import check_class_distances, nearest_classes
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded
from support.ops import FLOAT_DTYPES
from support.processes import threads

MODULE = sys.modules[check_class_distances.__module__]  # the function of this name hides its module in hardmine.mining


def all_pairs(embeddings: torch.Tensor, labels: list[int]) -> torch.Tensor:
    """The paper's sums over pairs of samples, pair by pair, [C, C]."""
    rows = [[x / math.sqrt(sum(x * x for x in row)) for x in row] for row in embeddings.double().tolist()]
    classes = sorted(set(labels))
    result = torch.full((len(classes), len(classes)), math.nan, dtype=torch.float64)
    for p, first in enumerate(classes):
        for q, second in enumerate(classes):
            found = [
                sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
                for i, a in enumerate(rows)
                for j, b in enumerate(rows)
                if labels[i] == first and labels[j] == second and i != j
            ]
            if found:
                result[p, q] = sum(found) / len(found)
    return result


def random_rows(sizes: list[int], depth: int = 5, seed: int = 0) -> tuple[torch.Tensor, list[int]]:
    """Overlapping classes of these sizes, labeled 7, 4, 1, -2, ... , in random order."""
    labels = torch.tensor([7 - 3 * c for c, size in enumerate(sizes) for _ in range(size)])
    labels = labels[torch.randperm(len(labels), generator=seeded(seed))]
    centers = 2 * torch.randn(len(sizes), depth, generator=seeded(seed + 1))
    rows = centers[(7 - labels) // 3] + torch.randn(len(labels), depth, generator=seeded(seed + 2))
    return rows, labels.tolist()


def test_class_distances_hand_worked_circle_matches():
    """On the circle: class 0 at 0 and 90 degrees, class 1 at 180, class 2 twice at 270."""
    points = torch.tensor([[3.0, 0.0], [0.0, -2.0], [-1.0, 0.0], [0.0, 0.5], [0.0, -9.0]])
    found = class_distances(points, [0, 2, 1, 0, 2])
    assert isinstance(found, ClassDistances)
    assert found.classes.tolist() == [0, 1, 2]
    nan = math.nan
    expected = torch.tensor([[2.0, 3.0, 3.0], [3.0, nan, 2.0], [3.0, 2.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(found.sq_dist, expected, rtol=0, atol=1e-15, equal_nan=True)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("sizes", [[4, 1, 6, 2, 3], [1, 1], [5], [2, 9]], ids=str)
def test_class_distances_closed_form_equals_all_pairs(sizes, dtype):
    rows, labels = random_rows(sizes)
    rows = rows.to(dtype)
    classes, sq_dist = class_distances(rows, torch.tensor(labels))
    assert classes.tolist() == sorted(set(labels))
    assert classes.dtype == torch.int64
    assert sq_dist.dtype == torch.float64
    torch.testing.assert_close(sq_dist, all_pairs(rows, labels), rtol=0, atol=1e-13, equal_nan=True)
    assert_bitwise_equal(sq_dist, sq_dist.T.contiguous())


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.uint16])
def test_class_distances_any_integer_label_dtype_is_equal(dtype):
    rows, labels = random_rows([4, 3])
    found = class_distances(rows, torch.tensor(labels).to(dtype))
    assert_bitwise_equal(found.sq_dist, class_distances(rows, labels).sq_dist)
    assert found.classes.tolist() == [4, 7]


def test_class_distances_chunks_are_equal(monkeypatch):
    rows, labels = random_rows([4, 1, 6, 2, 3])
    expected = class_distances(rows, labels).sq_dist
    monkeypatch.setattr(MODULE, "_CHUNK_ELEMENTS", 3 * rows.shape[1])
    torch.testing.assert_close(class_distances(rows, labels).sq_dist, expected, rtol=0, atol=1e-15, equal_nan=True)
    rows[13, 2] = math.inf
    with pytest.raises(FloatingPointError, match=r"^embeddings must be finite, got a non-finite row 13: has training"):
        class_distances(rows, labels)


def test_class_distances_collapsed_classes_are_zero():
    """The closed form is a difference of equal numbers there."""
    rows = torch.randn(1, 64, generator=seeded(0)).expand(40, 64)
    sq_dist = class_distances(rows, torch.arange(40) % 4).sq_dist
    assert sq_dist.min() >= 0
    assert sq_dist.max() < 1e-14
    opposite = class_distances(torch.cat([rows, -rows]), torch.arange(80) // 40).sq_dist
    assert opposite[0, 1] <= 4
    assert opposite[0, 1] == pytest.approx(4, abs=1e-14)


def test_class_distances_zero_row_stays_at_center():
    """A zero row has no direction: F.normalize leaves it at 0, at distance 1 from the sphere."""
    sq_dist = class_distances(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), [0, 1, 1]).sq_dist
    assert sq_dist[0, 1] == pytest.approx(1.0)
    assert sq_dist[1, 1] == pytest.approx(2.0)


def test_class_distances_without_rows_is_empty():
    found = class_distances(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
    assert found.classes.shape == (0,)
    assert found.sq_dist.shape == (0, 0)


def test_class_distances_repeat_is_equal_and_keeps_inputs():
    rows, labels = random_rows([30] * 40, depth=32)
    rows.requires_grad_()
    before = rows.detach().clone()
    with threads(1):
        first = class_distances(rows, labels).sq_dist
        assert_bitwise_equal(class_distances(rows, labels).sq_dist, first)
    with threads(2):
        second = class_distances(rows, labels).sq_dist
    torch.testing.assert_close(second, first, rtol=0, atol=1e-14)
    assert not first.requires_grad
    assert_bitwise_equal(rows, before)


def test_nearest_classes_sorts_with_ties_to_lowest(monkeypatch):
    sq_dist = torch.tensor(
        [
            [math.nan, 2.0, 1.0, 2.0, 3.0],
            [2.0, 0.0, 2.0, 2.0, 2.0],
            [1.0, 2.0, 0.5, 0.25, 4.0],
            [2.0, 2.0, 0.25, 0.0, 0.0],
            [3.0, 2.0, 4.0, 0.0, 0.0],
        ],
        dtype=torch.float64,
    )
    expected = [[2, 1, 3, 4], [0, 2, 3, 4], [3, 0, 1, 4], [4, 2, 0, 1], [3, 1, 0, 2]]
    before = sq_dist.clone()
    for at_once in (1024, 2, 1):
        monkeypatch.setattr(MODULE, "_CHUNK_ELEMENTS", at_once * len(sq_dist))
        for k in (4, 2, 0):
            assert nearest_classes(sq_dist, k).tolist() == [row[:k] for row in expected]
    assert nearest_classes(sq_dist, 2).dtype == torch.int32
    assert_bitwise_equal(sq_dist, before)


ROWS, LABELS = torch.randn(4, 3, generator=seeded(0)), torch.tensor([0, 0, 1, 1])
BAD_ROWS = ROWS.clone()
BAD_ROWS[2, 1] = math.nan


@pytest.mark.parametrize(
    ("embeddings", "labels", "error", "message"),
    [
        ([[1.0]], LABELS, TypeError, "embeddings must be a torch.Tensor, got list"),
        (ROWS.long(), LABELS, TypeError, "embeddings must be float32, float64, float16 or bfloat16, got torch.int64"),
        (ROWS[0], LABELS, ValueError, "embeddings must be [rows, D], got [3]"),
        (ROWS, LABELS[:3], ValueError, "labels must be [N] = [4], got [3]"),
        (ROWS, LABELS.float(), ValueError, "labels must be integers [N], got torch.float32 [4]"),
        (ROWS, LABELS[:, None], ValueError, "labels must be integers [N], got torch.int64 [4, 1]"),
        (
            BAD_ROWS,
            LABELS,
            FloatingPointError,
            "embeddings must be finite, got a non-finite row 2: has training",
        ),
        (
            -BAD_ROWS / 0,
            LABELS,
            FloatingPointError,
            "embeddings must be finite, got a non-finite row 0: has training",
        ),
        (ROWS.double() * 1e200, LABELS, FloatingPointError, "embeddings must be finite, got a non-finite row 0"),
    ],
)
def test_class_distances_invalid_argument_raises(embeddings, labels, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        class_distances(embeddings, labels)


# Distances computed elsewhere


CLASSES = torch.tensor([2, 5, 9])
SQ_DIST = torch.tensor([[0.5, 1.0, 2.0], [1.0, math.nan, 3.0], [2.0, 3.0, 0.25]], dtype=torch.float64)


def changed(row: int, column: int, value: float, mirrored: bool = True) -> ClassDistances:
    sq_dist = SQ_DIST.clone()
    sq_dist[row, column] = value
    if mirrored:
        sq_dist[column, row] = value
    return ClassDistances(CLASSES, sq_dist)


def test_check_class_distances_valid_values_are_unchanged():
    found = check_class_distances(ClassDistances(CLASSES.to(torch.uint8), SQ_DIST))
    assert_bitwise_equal(found.classes, CLASSES)
    assert_bitwise_equal(found.sq_dist, SQ_DIST)


def test_check_class_distances_rounding_is_clamped():
    """Rounding of float32 leaves values slightly below 0, slightly above 4, or slightly asymmetric."""
    sq_dist = torch.tensor([[-3e-7, 4 + 5e-7], [4.0, 1.0]])
    found = check_class_distances(ClassDistances(CLASSES[:2], sq_dist)).sq_dist
    assert found.tolist() == [[0.0, 4.0], [4.0, 1.0]]
    sq_dist = torch.tensor([[1.0, 2 + 2e-6], [2.0, 1.0]])
    found = check_class_distances(ClassDistances(CLASSES[:2], sq_dist)).sq_dist
    assert found[0, 1] == found[1, 0]
    assert found[0, 1] == pytest.approx(2 + 1e-6, abs=2e-7)


@pytest.mark.parametrize(
    ("distances", "error", "message"),
    [
        (SQ_DIST, TypeError, "distances must be ClassDistances, got Tensor"),
        (ClassDistances([2, 5, 9], SQ_DIST), TypeError, "distances.classes must be a tensor of integers, got list"),
        (
            ClassDistances(CLASSES.float(), SQ_DIST),
            TypeError,
            "distances.classes must be a tensor of integers, got torch.float32",
        ),
        (
            ClassDistances(CLASSES, SQ_DIST.long()),
            TypeError,
            "distances.sq_dist must be a tensor of floating-point numbers, got torch.int64",
        ),
        (ClassDistances(CLASSES[:, None], SQ_DIST), ValueError, "distances.classes must be [C], got [3, 1]"),
        (ClassDistances(CLASSES[:2], SQ_DIST), ValueError, "distances.sq_dist must be [C, C] with C = 2, got [3, 3]"),
        (
            ClassDistances(CLASSES[[0, 2, 1]], SQ_DIST),
            ValueError,
            "distances.classes must be ascending, got 5 after 9",
        ),
        (
            ClassDistances(CLASSES[[0, 1, 1]], SQ_DIST),
            ValueError,
            "distances.classes must be ascending, got 5 after 5",
        ),
        (
            changed(0, 2, math.nan),
            ValueError,
            "distances.sq_dist must be from 0 to 4, as for unit vectors, got nan at [0, 2]",
        ),
        (
            changed(1, 2, 4.5),
            ValueError,
            "distances.sq_dist must be from 0 to 4, as for unit vectors, got 4.5 at [1, 2]",
        ),
        (
            changed(2, 2, -0.25),
            ValueError,
            "distances.sq_dist must be from 0 to 4, as for unit vectors, got -0.25 at [2, 2]",
        ),
        (
            changed(0, 1, 0.75, mirrored=False),
            ValueError,
            "distances.sq_dist must be symmetric, got 0.75 at [0, 1] and 1 at [1, 0]",
        ),
    ],
)
def test_check_class_distances_invalid_values_raise(distances, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        check_class_distances(distances)
