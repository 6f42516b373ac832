"""HTL's loss: margins by hand and by brute force, new trees, resuming, and what is wrong with an argument."""

import copy
import io
import math
import pickle
import re

import pytest
import torch

from hardmine import losses, ops
from hardmine.losses import HierarchicalTripletLoss
from hardmine.mining import AnchorNeighborSampler, ClassDistances, ClassTree, class_distances
from support.comparisons import assert_bitwise_equal
from support.inputs import HAND_POINTS, seeded

BATCH = HAND_POINTS[:2]  # five points of the classes 0 0 1 0 1

# With 8 levels the thresholds are 0, 0.5, ..., 4; the classes join at 1.5 (level 3). s is 0 and 0.
COLLAPSED = ClassTree(ClassDistances(torch.tensor([0, 1]), torch.tensor([[0.0, 1.2], [1.2, 0.0]])), levels=8)
# d_0 = (0.25 + 0.75) / 2 = 0.5, thresholds 0.5, 1, ..., 4; they join at 2.
SPREAD = ClassTree(ClassDistances(torch.tensor([0, 1]), torch.tensor([[0.25, 1.7], [1.7, 0.75]])), levels=7)


def by_hand(margins: dict[int, float]) -> float:
    """1/2 [d_ap - d_an + alpha]+ over the 18 triplets of HAND_POINTS (cosines in support.inputs); by anchor's class.

    d = 2 - 2 s, of every anchor: to its positives, to its negatives.
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


def test_worked_by_hand():
    """0.2 before the first tree, then beta + d_H - s of the anchor's class."""
    module = HierarchicalTripletLoss()
    assert module.margin == 0.2
    assert module(*BATCH).item() == pytest.approx(by_hand({0: 0.2, 1: 0.2}), rel=1e-6)
    module.update(COLLAPSED)
    assert module(*BATCH).item() == pytest.approx(by_hand({0: 1.6, 1: 1.6}), rel=1e-6)
    module.update(SPREAD)
    assert module(*BATCH).item() == pytest.approx(by_hand({0: 0.1 + 2 - 0.25, 1: 0.1 + 2 - 0.75}), rel=1e-6)
    assert module.trees.item() == 2
    other = HierarchicalTripletLoss(0.7, beta=-0.25)
    assert other(*BATCH).item() == pytest.approx(by_hand({0: 0.7, 1: 0.7}), rel=1e-6)
    other.update(SPREAD)
    assert other(*BATCH).item() == pytest.approx(by_hand({0: 1.5, 1: 1.0}), rel=1e-6)


def test_margins_come_from_the_embeddings_of_the_whole_set():
    """Three classes under any names; the margins of a batch from the definitions, with every pair of samples."""
    labels = torch.tensor([30, -4, 30, 500, 500, -4, 500, 30])
    rows = torch.tensor([[0.0, 3.0], [1.0, 0.0], [1.0, 1.5]])[(labels > 0).int() + (labels > 30).int()]
    rows = torch.nn.functional.normalize(rows + 0.4 * torch.randn(8, 2, generator=seeded(3))).double()
    module = HierarchicalTripletLoss()
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
        chained = min(d[p, q], max(d[p, r], d[r, q]))  # directly, or by way of the third class
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


def test_it_delegates_to_the_op():
    rows = BATCH[0].clone().requires_grad_()
    module = HierarchicalTripletLoss(reduction="sum", squared=False)
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


@pytest.mark.parametrize("trees", [[], [COLLAPSED], [COLLAPSED, SPREAD]], ids=["none", "one", "two"])
@pytest.mark.parametrize("present", [[], [COLLAPSED]], ids=["into none", "into one"])
def test_it_is_saved_and_loaded(trees, present):
    """Through a file, as a part of a network, into a module before or after its first tree."""
    saved, other = (torch.nn.ModuleDict({"loss": HierarchicalTripletLoss(0.3)}) for _ in range(2))
    for module, some in ((saved["loss"], trees), (other["loss"], present)):
        for tree in some:
            module.update(tree)
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    assert_bitwise_equal(other["loss"](*BATCH), saved["loss"](*BATCH))
    assert other["loss"].trees.item() == len(trees)
    assert isinstance(other["loss"].margin, torch.Tensor) == bool(trees)
    other["loss"].update(SPREAD)
    assert other["loss"].trees.item() == len(trees) + 1


def test_a_state_of_the_network_alone_leaves_the_loss_as_it_is():
    module = torch.nn.ModuleDict({"net": torch.nn.Linear(2, 2), "loss": HierarchicalTripletLoss()})
    module["loss"].update(SPREAD)
    before = module["loss"](*BATCH)
    network = {name: value for name, value in module.state_dict().items() if name.startswith("net.")}
    module.load_state_dict(network, strict=False)
    assert_bitwise_equal(module["loss"](*BATCH), before)


def test_a_state_keeps_its_tree():
    module = HierarchicalTripletLoss()
    module.update(COLLAPSED)
    state, expected = module.state_dict(), module(*BATCH)
    module.update(SPREAD)
    assert module(*BATCH) != expected
    module.load_state_dict(state)
    assert_bitwise_equal(module(*BATCH), expected)
    assert module.trees.item() == 1
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert_bitwise_equal(twin(*BATCH), expected)
        twin.update(SPREAD)
        assert_bitwise_equal(module(*BATCH), expected)


@pytest.mark.filterwarnings("ignore:.*to a meta parameter in the current model, which is a no-op")
def test_the_table_goes_where_the_module_is():
    module = HierarchicalTripletLoss().to("meta")
    module.update(SPREAD)
    assert module.margin.device.type == module.margin_labels.device.type == module.trees.device.type == "meta"
    loaded, saved = HierarchicalTripletLoss().to("meta"), HierarchicalTripletLoss()
    saved.update(SPREAD)
    loaded.load_state_dict(saved.state_dict())
    assert loaded.margin.device.type == loaded.margin_labels.device.type == "meta"
    saved.double()
    saved.update(COLLAPSED)
    assert saved.margin.dtype == torch.float64
    assert saved.margin_labels.dtype == saved.trees.dtype == torch.int64
    assert not list(saved.parameters())


def test_it_is_written_out_with_its_options():
    module = HierarchicalTripletLoss(beta=0.5, reduction="mean_active")
    assert repr(module).startswith("HierarchicalTripletLoss(margin=0.2, ")
    assert "reduction='mean_active'" in repr(module)
    assert "beta=0.5" in repr(module)
    module.update(SPREAD)
    assert "margin=[2, 2]" in repr(module)


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
            ValueError,
            "similarity must be 'cosine' in HierarchicalTripletLoss, got 'euclidean'",
        ),
        ({"reduction": "none"}, ValueError, "reduction must be one of 'mean', 'mean_active', 'sum', got 'none'"),
        ({"margin_labels": BATCH[1]}, ValueError, "margin_labels must be None where margin is a number, got Tensor"),
    ],
)
def test_bad_options_are_errors_when_the_module_is_made(options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        HierarchicalTripletLoss(**options)


def test_bad_trees_are_named_and_change_nothing():
    module = HierarchicalTripletLoss()
    module.update(SPREAD)
    before = module(*BATCH)
    with pytest.raises(TypeError, match=r"^tree must be a ClassTree, got Tensor$"):
        module.update(SPREAD.margin_table())
    with pytest.raises(TypeError, match=r"^tree must be a ClassTree, got ClassDistances$"):
        module.update(SPREAD.distances)
    assert_bitwise_equal(module(*BATCH), before)
    assert module.trees.item() == 1


def test_a_class_that_the_tree_lacks_is_named_by_the_op():
    module = HierarchicalTripletLoss()
    module.update(SPREAD)
    with pytest.raises(ValueError, match=re.escape("labels must have a row in margin, [2, 2], got 2 at 4")):
        module(BATCH[0], torch.tensor([0, 0, 1, 0, 2]))


# Training


LABELS = torch.arange(8).repeat_interleave(6)
IMAGES = torch.randn(8, 12, generator=seeded(0))[LABELS] + torch.randn(48, 12, generator=seeded(1))


class Training:
    """HTL as its Algorithm 1 has it, on a linear network."""

    def __init__(self) -> None:
        self.network = torch.nn.Linear(12, 4)
        with torch.no_grad():
            self.network.weight.copy_(torch.randn(4, 12, generator=seeded(2)))
            self.network.bias.zero_()
        self.loss_of = HierarchicalTripletLoss()
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
def test_training_resumes_bit_for_bit(epochs):
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
    assert resumed.loss_of.trees.item() == 4


def test_training_pulls_classes_apart():
    training = Training()

    def spread() -> float:
        """How far two classes are, in units of how far two samples of a class are."""
        with torch.no_grad():
            sq_dist = class_distances(training.network(IMAGES), LABELS).sq_dist
        return (sq_dist.sum() / sq_dist.trace() - 1).item() / 7

    before = spread()
    training.run(20)
    assert spread() > 2 * before
