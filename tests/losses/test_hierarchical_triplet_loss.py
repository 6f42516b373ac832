"""HTL's loss: margins by hand and by brute force, new trees, resuming, and invalid arguments."""

import io
import math
import re

import pytest
import torch

from hardmine import losses, ops
from hardmine.losses import HierarchicalTripletLoss
from hardmine.mining import AnchorNeighborSampler, ClassDistances, ClassTree, class_distances
from support.comparisons import assert_bitwise_equal
from support.inputs import HAND_POINTS, seeded

BATCH = HAND_POINTS[:2]  # five points of classes 0 0 1 0 1

# With 8 levels the thresholds are 0, 0.5, ..., 4; the classes join at 1.5 (level 3). s is 0 for both.
COLLAPSED = ClassTree(ClassDistances(torch.tensor([0, 1]), torch.tensor([[0.0, 1.2], [1.2, 0.0]])), levels=8)
# d_0 = (0.25 + 0.75) / 2 = 0.5, thresholds 0.5, 1, ..., 4; they join at 2.
SPREAD = ClassTree(ClassDistances(torch.tensor([0, 1]), torch.tensor([[0.25, 1.7], [1.7, 0.75]])), levels=7)


def hand_worked_loss(margins: dict[int, float]) -> float:
    """1/2 [d_ap - d_an + alpha]+ over the 18 triplets of HAND_POINTS, by the anchor's class.

    The cosines are in support.inputs. d = 2 - 2 s, per anchor: to its positives, to its negatives.
    """
    pairs = [
        (0, [0.8, 2.0], [0.4, 4.0]),
        (0, [0.8, 0.4], [0.08, 3.2]),
        (1, [3.6], [0.4, 0.08, 0.8]),
        (0, [2.0, 0.4], [0.8, 2.0]),
        (1, [3.6], [4.0, 3.2, 2.0]),
    ]
    values = [
        max(0.0, d_ap - d_an + margins[y]) / 2
        for y, positive, negative in pairs
        for d_ap in positive
        for d_an in negative
    ]
    assert len(values) == 18
    return sum(values) / 18


def test_htl_hand_worked_margins_match():
    """The margin is 0.2 before the first tree, then beta + d_H - s of the anchor's class."""
    module = HierarchicalTripletLoss(classes=2)
    assert torch.equal(module.margin, torch.full((2, 2), 0.2))
    assert module(*BATCH).item() == pytest.approx(hand_worked_loss({0: 0.2, 1: 0.2}), rel=1e-6)
    module.update(COLLAPSED)
    assert module(*BATCH).item() == pytest.approx(hand_worked_loss({0: 1.6, 1: 1.6}), rel=1e-6)
    module.update(SPREAD)
    assert module(*BATCH).item() == pytest.approx(hand_worked_loss({0: 0.1 + 2 - 0.25, 1: 0.1 + 2 - 0.75}), rel=1e-6)
    other = HierarchicalTripletLoss(classes=BATCH[1], margin=0.7, beta=-0.25)
    assert other(*BATCH).item() == pytest.approx(hand_worked_loss({0: 0.7, 1: 0.7}), rel=1e-6)
    other.update(SPREAD)
    assert other(*BATCH).item() == pytest.approx(hand_worked_loss({0: 1.5, 1: 1.0}), rel=1e-6)


def test_htl_margins_of_whole_set_match_definition():
    """Three classes with arbitrary labels.

    The margins of a batch follow the definitions, over every pair of samples.
    """
    labels = torch.tensor([30, -4, 30, 500, 500, -4, 500, 30])
    rows = torch.tensor([[0.0, 3.0], [1.0, 0.0], [1.0, 1.5]])[(labels > 0).int() + (labels > 30).int()]
    rows = torch.nn.functional.normalize(rows + 0.4 * torch.randn(8, 2, generator=seeded(3))).double()
    module = HierarchicalTripletLoss(classes=labels)
    module.update(ClassTree.from_embeddings(rows, labels))

    sq = (rows[:, None] - rows[None, :]).square().sum(2)
    classes = (-4, 30, 500)
    s = {y: sq[labels == y][:, labels == y].sum() / ((labels == y).sum() * ((labels == y).sum() - 1)) for y in classes}
    d_0 = sum(s.values()) / 3
    thresholds = [d_0 + level * (4 - d_0) / 16 for level in range(17)]
    d = {(p, q): sq[labels == p][:, labels == q].mean() for p in classes for q in classes}
    alpha = {}
    for p, q in d:
        (r,) = [y for y in classes if y not in (p, q)][:1]
        chained = min(d[p, q], max(d[p, r], d[r, q]))  # directly, or through the third class
        alpha[p, q] = (0.1 + next(threshold for threshold in thresholds if chained < threshold) - s[p]).item()
    assert len({alpha[p, q] for p in classes for q in classes if p != q}) > 3, "the case says little"
    values = [
        max(0.0, (sq[a, p] - sq[a, n]).item() + alpha[labels[a].item(), labels[n].item()]) / 2
        for a in range(8)
        for p in range(8)
        for n in range(8)
        if a != p and labels[a] == labels[p] != labels[n]
    ]
    assert module(rows, labels).item() == pytest.approx(sum(values) / len(values), rel=1e-6)


def test_htl_equals_batch_all_op():
    rows = BATCH[0].clone().requires_grad_()
    module = HierarchicalTripletLoss(classes=[1, 0], reduction="sum", squared=False)
    assert isinstance(module, losses.BatchAllTripletLoss)
    for tree in (None, SPREAD):
        margins = {"margin": 0.2}
        if tree is not None:
            module.update(tree)
            margins = {"margin": tree.margin_table(), "margin_labels": tree.classes}
        loss, counts = module(rows, BATCH[1], return_counts=True)
        expected = ops.batch_all_triplet_loss(rows, BATCH[1], reduction="sum", squared=False, **margins)
        assert isinstance(counts, ops.TripletCounts)
        assert_bitwise_equal(loss, expected)
        assert_bitwise_equal(*(torch.autograd.grad(value, rows)[0] for value in (loss, expected)))


def test_htl_repr_shows_options():
    module = HierarchicalTripletLoss(classes=2, beta=0.5, reduction="mean_active")
    module.update(SPREAD)
    assert repr(module) == "HierarchicalTripletLoss(classes=2, beta=0.5, reduction='mean_active')"
    assert repr(HierarchicalTripletLoss(classes=[7, -4, 7])) == "HierarchicalTripletLoss(classes=[-4, 7])"
    assert repr(HierarchicalTripletLoss(classes=range(1, 1000))).endswith("(classes=[1, 2, 3, 4, 5, 6, 7, 8, ...])")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"margin": COLLAPSED.margin_table()}, TypeError, "margin must be a number, got Tensor"),
        ({"margin": math.inf}, ValueError, "margin must be a finite number, got inf"),
        ({"beta": math.nan}, ValueError, "beta must be a number, got nan"),
        ({"beta": math.inf}, ValueError, "beta must be a finite number, got inf"),
        ({"beta": None}, TypeError, "beta must be a number, got NoneType"),
        (
            {"similarity": "euclidean"},
            TypeError,
            "HierarchicalTripletLoss.__init__() got an unexpected keyword argument 'similarity'",
        ),
        ({"reduction": "none"}, ValueError, "reduction must be one of 'mean', 'mean_active', 'sum', got 'none'"),
        ({"classes": 0}, ValueError, "classes must be at least 1, got 0"),
        ({"classes": True}, TypeError, "classes must be an integer, got bool"),
        ({"classes": []}, ValueError, "classes must be a number or integers [C], got torch.float32 [0]"),
        ({"classes": [0.5]}, ValueError, "classes must be a number or integers [C], got torch.float32 [1]"),
        ({"classes": [[0, 1]]}, ValueError, "classes must be a number or integers [C], got torch.int64 [1, 2]"),
        ({"classes": ["a", "b"]}, TypeError, "classes must be a number or integers [C], got ['a', 'b']"),
    ],
)
def test_htl_init_invalid_option_raises(options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        HierarchicalTripletLoss(**{"classes": 2, **options})


def test_htl_update_invalid_tree_raises_and_changes_nothing():
    module = HierarchicalTripletLoss(classes=2)
    module.update(SPREAD)
    before = module(*BATCH)
    with pytest.raises(TypeError, match=r"^tree must be a ClassTree, got Tensor$"):
        module.update(SPREAD.margin_table())
    with pytest.raises(TypeError, match=r"^tree must be a ClassTree, got ClassDistances$"):
        module.update(SPREAD.distances)
    assert_bitwise_equal(module(*BATCH), before)
    with pytest.raises(
        ValueError, match=r"^tree must have the 3 classes of the module, got a tree of 2 classes without class 7$"
    ):
        HierarchicalTripletLoss(classes=[1, 7, 0]).update(SPREAD)


def test_htl_update_tree_with_more_classes_takes_own():
    points = torch.tensor([3, 5, 9, 12]), torch.rand(4, 4, generator=seeded(5)).double()
    tree = ClassTree(ClassDistances(points[0], points[1] + points[1].T), levels=9)
    module = HierarchicalTripletLoss(classes=torch.tensor([12, 5], dtype=torch.int8))
    module.update(tree)
    assert torch.equal(module.margin_labels, torch.tensor([5, 12]))
    assert torch.equal(module.margin, tree.margin_table()[[1, 3]][:, [1, 3]])
    assert len(module.margin.unique()) > 1, "the case says little"


def test_htl_class_missing_in_tree_raises():
    module = HierarchicalTripletLoss(classes=2)
    module.update(SPREAD)
    with pytest.raises(ValueError, match=re.escape("labels must have a row in margin, [2, 2], got 2 at 4")):
        module(BATCH[0], torch.tensor([0, 0, 1, 0, 2]))


# Training


LABELS = torch.arange(8).repeat_interleave(6)
IMAGES = torch.randn(8, 12, generator=seeded(0))[LABELS] + torch.randn(48, 12, generator=seeded(1))


class Training:
    """HTL as in its Algorithm 1, on a linear network."""

    def __init__(self) -> None:
        self.network = torch.nn.Linear(12, 4)
        with torch.no_grad():
            self.network.weight.copy_(torch.randn(4, 12, generator=seeded(2)))
            self.network.bias.zero_()
        self.loss_of = HierarchicalTripletLoss(classes=LABELS)
        self.sampler = AnchorNeighborSampler(LABELS, 2, 2, 3, batches_per_epoch=5)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1, momentum=0.9)
        self.losses: list[float] = []

    def run(self, epochs: int) -> None:
        for _ in range(epochs):
            for rows in self.sampler:
                loss = self.loss_of(self.network(IMAGES[rows]), LABELS[rows])
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.losses.append(loss.item())
            with torch.no_grad():
                tree = ClassTree.from_embeddings(self.network(IMAGES), LABELS)
            self.loss_of.update(tree)
            self.sampler.update(tree)

    def parts(self) -> list:
        return [self.network, self.loss_of, self.sampler, self.optimizer]


@pytest.mark.parametrize("epochs", [1, 2])
def test_htl_training_resumes_bitwise_equal(epochs):
    whole, first, resumed = Training(), Training(), Training()
    whole.run(4)
    first.run(epochs)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first.parts()], file)
    file.seek(0)
    for part, state in zip(resumed.parts(), torch.load(file), strict=True):
        part.load_state_dict(state)
    resumed.run(4 - epochs)
    assert resumed.losses == whole.losses[5 * epochs :]
    assert_bitwise_equal(resumed.network.weight, whole.network.weight)
    assert_bitwise_equal(resumed.loss_of.margin, whole.loss_of.margin)


def test_htl_training_separates_classes():
    training = Training()

    def spread() -> float:
        """The distance between two classes, in units of the distance between two samples of a class."""
        with torch.no_grad():
            sq_dist = class_distances(training.network(IMAGES), LABELS).sq_dist
        return (sq_dist.sum() / sq_dist.trace() - 1).item() / 7

    before = spread()
    training.run(20)
    assert spread() > 2 * before
