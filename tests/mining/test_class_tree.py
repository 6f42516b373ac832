"""HTL's class tree: trees worked by hand, levels by brute force, margins by the paper's formula, invalid input."""

import math
import re
import sys

import pytest
import torch

from hardmine import ops
from hardmine.mining import ClassDistances, ClassTree, class_distances
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded

NAN = math.nan


def distances_of(rows: list[list[float]], classes: list[int] | None = None) -> ClassDistances:
    sq_dist = torch.tensor(rows, dtype=torch.float64)
    return ClassDistances(torch.arange(len(sq_dist)) if classes is None else torch.tensor(classes), sq_dist)


# d_0 = (0.4 + 0.6 + 0.5) / 3 = 0.5, since class 40 has one sample. With 7 levels the thresholds are 0.5, 1, ..., 4.
BY_HAND = distances_of(
    [[0.4, 0.3, 3.1, 1.6], [0.3, 0.6, 1.2, 3.5], [3.1, 1.2, 0.5, 3.9], [1.6, 3.5, 3.9, NAN]], [10, 20, 30, 40]
)


def test_tree_single_linkage_hand_worked_levels_match():
    """10 and 20 join at 0.3, 30 joins them at 1.2 (from 20), 40 joins at 1.6 (from 10): single linkage chains."""
    tree = ClassTree(BY_HAND, levels=7)
    assert tree.thresholds.tolist() == pytest.approx([0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4], abs=1e-12)
    assert tree.join_levels.tolist() == [[0, 0, 2, 3], [0, 0, 2, 3], [2, 2, 0, 3], [3, 3, 3, 0]]
    assert tree.node_counts.tolist() == [3, 3, 2, 1, 1, 1, 1, 1]
    assert tree.within_sq_dist.tolist() == pytest.approx([0.4, 0.6, 0.5, 0.5])
    assert (tree.levels, tree.linkage) == (7, "single")
    assert tree.classes.tolist() == [10, 20, 30, 40]
    levels = {(a, b): tree.join_level(a, b) for a in (10, 20, 30, 40) for b in (10, 20, 30, 40)}
    assert levels == {
        **{(10, 10): 0, (10, 20): 0, (10, 30): 2, (10, 40): 3, (20, 10): 0, (20, 20): 0, (20, 30): 2, (20, 40): 3},
        **{(30, 10): 2, (30, 20): 2, (30, 30): 0, (30, 40): 3, (40, 10): 3, (40, 20): 3, (40, 30): 3, (40, 40): 0},
    }


@pytest.mark.parametrize("linkage", ["single", "average"])
def test_tree_without_levels_is_flat(linkage):
    """Depth 1 of the paper's table 4: alpha = beta + d_0 - s_y for every pair of classes."""
    tree = ClassTree(BY_HAND, levels=0, linkage=linkage)
    assert tree.thresholds.tolist() == pytest.approx([0.5])
    assert tree.join_levels.eq(0).all()
    assert tree.node_counts.tolist() == [1]
    table = tree.margin_table(beta=0.25, dtype=torch.float64)
    torch.testing.assert_close(table, (0.25 + 0.5 - tree.within_sq_dist[:, None]).expand(4, 4))


def test_tree_average_linkage_hand_worked_levels_match():
    """Classes 10 and 20 join at 0.3, 30 at (3.1 + 1.2) / 2 = 2.15, and 40 at (1.6 + 3.5 + 3.9) / 3 = 3."""
    tree = ClassTree(BY_HAND, levels=8, linkage="average")  # thresholds 0.5, 0.9375, ..., 2.25 (4), 2.6875, 3.125 (6)
    assert tree.join_levels.tolist() == [[0, 0, 4, 6], [0, 0, 4, 6], [4, 4, 0, 6], [6, 6, 6, 0]]
    assert tree.node_counts.tolist() == [3, 3, 3, 3, 2, 2, 1, 1, 1]


def test_margin_table_hand_worked_margins_match():
    """The margin is beta + d_H - s, with the s of the anchor's class; s of class 40 is 0.5."""
    table = ClassTree(BY_HAND, levels=7).margin_table(beta=0.25, dtype=torch.float64)
    s = [0.4, 0.6, 0.5, 0.5]
    d_h = [[0.5, 0.5, 1.5, 2], [0.5, 0.5, 1.5, 2], [1.5, 1.5, 0.5, 2], [2, 2, 2, 0.5]]
    expected = [[0.25 + d - s[y] for d in row] for y, row in enumerate(d_h)]
    torch.testing.assert_close(table, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    assert ClassTree(BY_HAND).margin_table().dtype == torch.float32
    torch.testing.assert_close(ClassTree(BY_HAND, levels=7).margin_table(), table.float() - 0.15)  # beta is 0.1


def test_tree_defaults_are_those_of_paper():
    """The paper's defaults: 16 levels, single linkage (METHODS section 4), evenly spaced thresholds up to 4."""
    tree = ClassTree(BY_HAND)
    assert (tree.levels, tree.linkage) == (16, "single")
    assert tree.thresholds.tolist() == pytest.approx([0.5 + 3.5 * level / 16 for level in range(17)], abs=1e-12)
    assert tree.thresholds[-1] == 4
    assert tree.thresholds.dtype == torch.float64
    assert tree.join_levels.dtype == torch.int16


def random_distances(count: int, seed: int, depth: int = 3) -> ClassDistances:
    """Classes of 1 to 4 samples, each around its own center, spread widely enough to fill the levels."""
    sizes = torch.randint(1, 5, (count,), generator=seeded(seed))
    sizes[0] = 3
    labels = torch.arange(count).repeat_interleave(sizes)
    centers = torch.randn(count, depth, generator=seeded(seed + 1))
    return class_distances(centers[labels] + 0.2 * torch.randn(len(labels), depth, generator=seeded(seed + 2)), labels)


def components(sq_dist: list[list[float]], threshold: float) -> list[int]:
    """Per class, the smallest class that a chain of steps below the threshold connects it to."""
    found = list(range(len(sq_dist)))
    changed = True
    while changed:
        changed = False
        for p, row in enumerate(sq_dist):
            for q, distance in enumerate(row):
                if p != q and distance < threshold and found[q] < found[p]:
                    found[p], changed = found[q], True
    return found


def average_heights(sq_dist: list[list[float]]) -> list[list[float]]:
    """The height at which each pair of classes joins, if the two nodes of least mean distance are repeatedly merged."""
    count = len(sq_dist)
    nodes, heights = [[c] for c in range(count)], [[0.0] * count for _ in range(count)]
    while len(nodes) > 1:
        means = {
            (i, j): sum(sq_dist[p][q] for p in nodes[i] for q in nodes[j]) / (len(nodes[i]) * len(nodes[j]))
            for i in range(len(nodes))
            for j in range(i)
        }
        (i, j), height = min(means.items(), key=lambda item: item[1])
        for p in nodes[i]:
            for q in nodes[j]:
                heights[p][q] = heights[q][p] = height
        nodes[j] += nodes.pop(i)
    return heights


def thresholds_of(distances: ClassDistances, levels: int) -> list[float]:
    own = [s for s in distances.sq_dist.diagonal().tolist() if not math.isnan(s)]
    d_0 = sum(own) / len(own)
    return [level * (4 - d_0) / levels + d_0 for level in range(levels + 1)]


@pytest.mark.parametrize("levels", [1, 5, 16, 40])
@pytest.mark.parametrize("seed", range(4))
def test_tree_single_linkage_matches_chains_below_threshold(levels, seed):
    distances = random_distances(14, seed)
    tree, sq_dist = ClassTree(distances, levels=levels), distances.sq_dist.tolist()
    by_level = [components(sq_dist, threshold) for threshold in thresholds_of(distances, levels)]
    for p in range(14):
        for q in range(14):
            joined = [nodes[p] == nodes[q] for nodes in by_level]
            assert tree.join_levels[p, q] == (joined.index(True) if any(joined) else levels)
    assert tree.node_counts.tolist() == [len(set(nodes)) for nodes in by_level]
    if levels == 16:
        assert tree.join_levels.unique().numel() >= 3, "the case says little"


@pytest.mark.parametrize("levels", [1, 5, 16, 40])
@pytest.mark.parametrize("seed", range(4))
def test_tree_average_linkage_matches_naive_merges(levels, seed):
    distances = random_distances(14, seed)
    heights = average_heights(distances.sq_dist.tolist())
    thresholds = thresholds_of(distances, levels)
    expected = [
        [next(level for level, d in enumerate(thresholds) if p == q or heights[p][q] < d) for q in range(14)]
        for p in range(14)
    ]
    tree = ClassTree(distances, levels=levels, linkage="average")
    assert tree.join_levels.tolist() == expected
    if levels == 40:
        assert not torch.equal(tree.join_levels, ClassTree(distances, levels=levels).join_levels)


def test_tree_distance_equal_to_threshold_joins_one_level_up():
    """d_0 = 0.5 and 7 levels: thresholds 0.5, 1, 1.5, ..., which float64 holds exactly."""
    tree = ClassTree(distances_of([[0.5, 0.5, 4.0], [0.5, 0.5, 1.0], [4.0, 1.0, 0.5]]), levels=7)
    assert tree.thresholds.tolist() == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]
    assert tree.join_level(0, 1) == 1
    assert tree.join_level(1, 2) == tree.join_level(0, 2) == 2


def test_tree_opposite_classes_join_at_top_level():
    """Two pairs of collapsed classes at opposite points."""
    up, down = torch.tensor([0.0, 1.0]), torch.tensor([0.0, -1.0])
    tree = ClassTree.from_embeddings(torch.stack([up, up, up, down, down, down]), [0, 0, 1, 2, 2, 3], levels=8)
    assert tree.join_levels.tolist() == [[0, 1, 8, 8], [1, 0, 8, 8], [8, 8, 0, 1], [8, 8, 1, 0]]
    assert tree.node_counts.tolist() == [4, 2, 2, 2, 2, 2, 2, 2, 1]
    assert tree.margin_table(0.0)[0].tolist() == [0.0, 0.5, 4.0, 4.0]


def test_tree_collapsed_embeddings_join_at_lowest_levels():
    """d_0 is 0 or almost 0, and so is every distance: all classes join at one of the lowest levels."""
    rows = torch.randn(1, 32, generator=seeded(0)).expand(12, 32)
    tree = ClassTree.from_embeddings(rows, torch.arange(12) % 3)
    assert tree.thresholds[0] < 1e-14
    assert tree.join_levels.max() <= 1
    assert tree.node_counts[1:].eq(1).all()
    assert tree.margin_table().isfinite().all()


def test_tree_opposite_points_within_classes_give_flat_thresholds():
    """d_0 is 4, and so are all thresholds."""
    tree = ClassTree.from_embeddings(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]), [0, 0, 1, 1])
    assert tree.thresholds.eq(4).all()
    assert tree.join_level(0, 1) == 0  # their distance is 2
    assert tree.margin_table(0.5)[0, 1] == 0.5


def test_from_embeddings_equals_tree_of_class_distances():
    labels = torch.tensor([3, 3, -8, -8, 90, 90, 90, 4])
    rows = torch.randn(8, 4, generator=seeded(0))
    tree = ClassTree.from_embeddings(rows, labels.tolist(), levels=9, linkage="average")
    expected = ClassTree(class_distances(rows, labels), levels=9, linkage="average")
    assert tree.classes.tolist() == [-8, 3, 4, 90]
    assert (tree.levels, tree.linkage) == (9, "average")
    assert_bitwise_equal(tree.join_levels, expected.join_levels)
    assert_bitwise_equal(tree.margin_table(), expected.margin_table())
    assert_bitwise_equal(tree.distances.sq_dist, expected.distances.sq_dist)


def test_tree_relabeled_classes_give_same_levels():
    """The same classes with other labels, in another order, give the same tree."""
    distances = random_distances(10, 7)
    order = torch.randperm(10, generator=seeded(8))
    shuffled = ClassDistances(torch.arange(10) + 100, distances.sq_dist[order[:, None], order])
    for linkage in ("single", "average"):
        tree, other = ClassTree(distances, linkage=linkage), ClassTree(shuffled, linkage=linkage)
        torch.testing.assert_close(other.thresholds, tree.thresholds, rtol=0, atol=1e-15)
        for p in range(10):
            for q in range(10):
                assert other.join_level(100 + p, 100 + q) == tree.join_level(int(order[p]), int(order[q]))


def test_margin_table_in_batch_all_triplet_loss_matches_formula():
    """Every triplet of a batch by the paper's formula, with its margin by the tree's definition."""
    generator = seeded(0)
    labels = torch.tensor([50, 7, 7, 50, 21, 21, 7, 50, 33])
    rows = torch.randn(51, 3, generator=generator)[labels] + 0.3 * torch.randn(9, 3, generator=generator)
    tree = ClassTree.from_embeddings(rows, labels, levels=16)
    batch = torch.nn.functional.normalize(torch.randn(9, 3, generator=generator))
    total, count = 0.0, 0
    for a in range(9):
        for p in range(9):
            for n in range(9):
                y_a, y_n = int(labels[a]), int(labels[n])
                if a == p or labels[p] != y_a or y_n == y_a:
                    continue
                own = rows[labels == y_a]
                own = own / own.norm(dim=1, keepdim=True)
                s = sum((x - y).square().sum().item() for x in own for y in own) / (len(own) ** 2 - len(own))
                alpha = 0.3 + tree.thresholds[tree.join_level(y_a, y_n)].item() - s
                d_ap, d_an = (batch[a] - batch[p]).square().sum(), (batch[a] - batch[n]).square().sum()
                total, count = total + max(0.0, (d_ap - d_an).item() + alpha) / 2, count + 1
    found = ops.batch_all_triplet_loss(batch, labels, margin=tree.margin_table(0.3), margin_labels=tree.classes)
    assert len({tree.join_level(7, y) for y in (50, 21, 33)}) > 1, "the case says little"
    assert found.item() == pytest.approx(total / count, rel=1e-5)


def test_tree_repeat_is_equal_and_keeps_inputs():
    distances = random_distances(30, 5)
    before = distances.sq_dist.clone()
    first, second = ClassTree(distances), ClassTree(distances)
    assert_bitwise_equal(first.join_levels, second.join_levels)
    assert_bitwise_equal(first.margin_table(), second.margin_table())
    assert_bitwise_equal(distances.sq_dist, before)
    assert repr(first) == "ClassTree(30 classes, levels=16, linkage='single')"


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        (BY_HAND.sq_dist, {}, TypeError, "distances must be ClassDistances, got Tensor"),
        (BY_HAND, {"levels": -1}, ValueError, "levels must be from 0 to 32767, got -1"),
        (BY_HAND, {"levels": 2.0}, TypeError, "levels must be an integer, got float"),
        (BY_HAND, {"linkage": "ward"}, ValueError, "linkage must be one of 'single', 'average', got 'ward'"),
        (distances_of([[1.0]]), {}, ValueError, "distances must have at least 2 classes, got 1"),
        (
            distances_of([[NAN, 1.0], [1.0, NAN]]),
            {},
            ValueError,
            "distances must include a class with at least two samples, whose distance is part of d_0, got 2 classes "
            "of one sample",
        ),
        (
            distances_of([[1.0, NAN], [NAN, 1.0]]),
            {},
            ValueError,
            "distances.sq_dist must be from 0 to 4, as for unit vectors, got nan at [0, 1]",
        ),
    ],
)
def test_tree_invalid_argument_raises(given, options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        ClassTree(given, **options)


def test_from_embeddings_nonfinite_row_raises():
    rows = torch.ones(4, 2)
    rows[3, 0] = NAN
    with pytest.raises(FloatingPointError, match=r"^embeddings must be finite, got a non-finite row 3: has training"):
        ClassTree.from_embeddings(rows, [0, 0, 1, 1])


@pytest.mark.parametrize(
    ("pair", "error", "message"),
    [
        ((10, 15), ValueError, "second must be one of the tree's 4 classes, got 15"),
        ((50, 10), ValueError, "first must be one of the tree's 4 classes, got 50"),
        ((0, 10), ValueError, "first must be one of the tree's 4 classes, got 0"),
        ((10.0, 20), TypeError, "first must be an integer, got float"),
    ],
)
def test_join_level_unknown_class_raises(pair, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        ClassTree(BY_HAND).join_level(*pair)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"beta": "0.1"}, TypeError, "beta must be a number, got str"),
        ({"beta": NAN}, ValueError, "beta must be a number, got nan"),
        ({"beta": -math.inf}, ValueError, "beta must be a finite number, got -inf"),
        ({"dtype": torch.int64}, ValueError, "dtype must be one of torch.float32, "),
    ],
)
def test_margin_table_invalid_option_raises(options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        ClassTree(BY_HAND).margin_table(**options)


def test_tree_without_scipy_names_install(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "scipy"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r"scipy is not installed .* pip install"):
        ClassTree(BY_HAND)
