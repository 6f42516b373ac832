"""HTL's batches: which classes are grouped, what is drawn, repeatability and resuming."""

import io
import re

import pytest
import torch

from hardmine.mining import AnchorNeighborSampler, ClassDistances, ClassTree
from support.inputs import seeded

# Classes 0, 10, 20, ..., 110 with 5 images each, interleaved, and class 120 with 2.
LABELS = torch.cat([10 * torch.arange(12).repeat(5), torch.tensor([120, 120])])


def on_a_line(classes: list[int], places: list[float]) -> ClassDistances:
    """Classes whose distances are those of points on a line."""
    place = torch.tensor(places, dtype=torch.float64)
    return ClassDistances(torch.tensor(classes), (place[:, None] - place[None, :]).abs())


LINE = on_a_line([10 * c for c in range(12)], [c / 4 for c in range(12)])


def random_distances(classes: list[int], seed: int = 0) -> ClassDistances:
    sq_dist = 4 * torch.rand(len(classes), len(classes), generator=seeded(seed), dtype=torch.float64)
    return ClassDistances(torch.tensor(classes), (sq_dist + sq_dist.T) / 2)


def sampler_of(anchors: int = 2, m: int = 3, t: int = 2, labels=LABELS, **options) -> AnchorNeighborSampler:
    return AnchorNeighborSampler(labels, anchors, m, t, **options)


def classes_of(batch: list[int], t: int = 2, labels=LABELS) -> list[int]:
    """The classes of a batch in order, each of which must have t different consecutive images."""
    assert len(set(batch)) == len(batch)
    named = labels[torch.tensor(batch)].view(-1, t)
    assert torch.equal(named, named[:, :1].expand(-1, t))
    return named[:, 0].tolist()


def naive_batch_classes(distances: ClassDistances, anchors: list[int], m: int) -> list[int]:
    """The paper's rule: each random class in turn, followed by its m - 1 nearest that are not yet in the batch."""
    name = distances.classes.tolist()
    batch = []
    for number, anchor in enumerate(anchors):
        batch.append(anchor)
        row = distances.sq_dist[name.index(anchor)].tolist()
        for _, other in sorted(zip(row, name, strict=True)):
            if len(batch) < (number + 1) * m and other not in batch and other not in anchors:
                batch.append(other)
    return batch


@pytest.mark.parametrize(("anchors", "m", "t"), [(2, 3, 2), (3, 4, 1), (4, 1, 5), (1, 12, 2), (6, 2, 3)])
@pytest.mark.parametrize("distances", [LINE, random_distances([10 * c for c in range(12)])], ids=["line", "random"])
def test_batches_hold_random_classes_and_their_nearest(anchors, m, t, distances):
    sampler = sampler_of(anchors, m, t, batches_per_epoch=120, labels=LABELS[:60])
    sampler.update(distances)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 120
    seen = set()
    for batch in batches:
        assert len(batch) == sampler.batch_size == anchors * m * t
        named = classes_of(batch, t)
        assert len(set(named)) == anchors * m
        assert named == naive_batch_classes(distances, named[::m], m)
        seen.update(named[::m])
    assert len(seen) == 12, "every class is once a random one"


def test_batches_ties_go_to_lowest_class():
    """On the line both neighbors of a class are equally distant."""
    sampler = sampler_of(1, 2, 2, batches_per_epoch=100, labels=LABELS[:60])
    sampler.update(LINE)
    pairs = {tuple(classes_of(batch)) for batch in sampler}
    assert pairs == {(0, 10), *((c, c - 10) for c in range(10, 120, 10))}


def test_batches_taken_neighbors_are_skipped():
    """All classes are in one batch, so the last ones chosen are far away."""
    sampler = sampler_of(3, 4, 2, batches_per_epoch=30, labels=LABELS[:60])
    sampler.update(LINE)
    for batch in sampler:
        assert sorted(classes_of(batch)) == [10 * c for c in range(12)]


@pytest.mark.slow
def test_batches_every_image_is_anchor_equally_often():
    sampler = sampler_of(2, 3, 2, batches_per_epoch=3000, labels=LABELS[:60])
    sampler.update(LINE)
    drawn = torch.tensor(list(sampler)).view(3000, 2, 6)[:, :, :2].flatten().bincount(minlength=60)
    # An image is one of 2 of an anchor's 5 images with probability 2 / 12 * 2 / 5 = 1 / 15: 200 times, with standard
    # deviation 14.
    assert (drawn - 200).abs().max() < 70


@pytest.mark.slow
def test_batches_before_update_have_random_classes():
    sampler = sampler_of(2, 3, 2, batches_per_epoch=2000)
    batches = [classes_of(batch) for batch in sampler]
    counts = torch.zeros(13, 13)
    for named in batches:
        assert len(set(named)) == 6
        pair = torch.tensor(named) // 10
        counts[pair[:, None], pair[None, :]] += 1
    # Any two of the 13 classes (120 has two images) meet with probability 6 * 5 / (13 * 12): 385 times, with standard
    # deviation 18.
    others = counts[~torch.eye(13, dtype=torch.bool)]
    assert (others - 2000 * 30 / 156).abs().max() < 90
    sampler.update(on_a_line([10 * c for c in range(13)], [c / 4 for c in range(13)]))
    assert any(named != batch for named, batch in zip(batches, map(classes_of, sampler), strict=True))


def test_update_applies_from_next_epoch():
    line, other = LINE, random_distances([10 * c for c in range(12)])
    expected = sampler_of(labels=LABELS[:60])
    expected.update(line)
    sampler = sampler_of(labels=LABELS[:60])
    sampler.update(line)
    batches = iter(sampler)
    drawn = [next(batches)]
    sampler.update(other)
    assert [*drawn, *batches] == list(expected)
    expected.update(other)
    assert list(sampler) == list(expected)


def test_update_tree_and_its_distances_give_equal_batches():
    labels, rows = LABELS[:60], torch.randn(60, 4, generator=seeded(0))
    tree = ClassTree.from_embeddings(rows, labels)
    first, second = sampler_of(labels=labels), sampler_of(labels=labels)
    first.update(tree)
    second.update(tree.distances)
    batches = list(first)
    assert batches == list(second)
    for batch in batches:
        named = classes_of(batch)
        assert named == naive_batch_classes(tree.distances, named[::3], 3)


def test_update_unused_classes_are_ignored():
    """Classes of the tree that have too few images, or none."""
    wide = random_distances([-5, *(10 * c for c in range(6)), 55, *(10 * c for c in range(6, 13)), 500])
    used = torch.tensor([*range(1, 7), *range(8, 14)])
    narrow = ClassDistances(wide.classes[used], wide.sq_dist[used][:, used])
    sampler, expected = (sampler_of(t=3) for _ in range(2))  # class 120 is dropped
    sampler.update(wide)
    expected.update(narrow)
    assert sampler.classes.tolist() == narrow.classes.tolist()
    assert list(sampler) == list(expected)


def test_small_classes_use_all_takes_whole_classes():
    labels = torch.tensor([0] * 4 + [1] + [2] * 2 + [3] * 4)
    sampler = AnchorNeighborSampler(labels, 2, 2, 3, small_classes="use_all", batches_per_epoch=20)
    sampler.update(on_a_line([0, 1, 2, 3], [0.0, 0.1, 1.0, 1.2]))
    assert sampler.batch_size is None
    for batch in sampler:
        assert len(set(batch)) == len(batch) == 9
        assert labels[batch].bincount().tolist() == [3, 1, 2, 3]
    assert sampler.classes.tolist() == [0, 1, 2, 3]


def test_len_default_draws_images_of_used_classes():
    assert len(sampler_of(2, 3, 2)) == 62 // 12
    assert len(sampler_of(2, 3, 3)) == 60 // 18
    assert len(sampler_of(6, 2, 5)) == 1
    assert len(sampler_of(2, 3, 2, batches_per_epoch=9)) == 9
    # With all images of every class, a batch of 6 of 13 classes has 6 / 13 * (12 * 4 + 2) images on average.
    assert len(sampler_of(2, 3, 4, small_classes="use_all")) == int(62 / (6 / 13 * 50))


def test_epochs_differ_and_seed_repeats():
    first, again = (sampler_of(seed=3, labels=LABELS[:60]) for _ in range(2))
    for sampler in (first, again):
        sampler.update(LINE)
    epochs = [list(first), list(first)]
    assert epochs[0] != epochs[1]
    assert [list(again), list(again)] == epochs
    again.epoch = 1
    assert list(again) == epochs[1]
    other = sampler_of(seed=4, labels=LABELS[:60])
    other.update(LINE)
    assert list(other) != epochs[0]


@pytest.mark.parametrize("updated", [False, True])
def test_load_state_dict_resumes_equal_batches(updated):
    """The state is saved to a file and loaded with weights_only, torch.load's default."""
    sampler = sampler_of(labels=LABELS[:60])
    if updated:
        sampler.update(LINE)
    list(sampler)
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    expected = [list(sampler), list(sampler)]
    file.seek(0)
    resumed = sampler_of(labels=LABELS[:60])
    resumed.update(random_distances([10 * c for c in range(12)]))
    resumed.load_state_dict(torch.load(file))
    assert resumed.epoch == 1
    assert [list(resumed), list(resumed)] == expected


def test_state_dict_is_a_copy():
    sampler, other = sampler_of(labels=LABELS[:60]), sampler_of(labels=LABELS[:60])
    sampler.update(LINE)
    state = sampler.state_dict()
    other.load_state_dict(state)
    state["neighbors"].zero_()
    sampler.update(LINE)
    assert list(other) == list(sampler)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": None}, "state must have the entries epoch, classes, neighbors, got classes, neighbors"),
        (
            {"classes": torch.arange(12)},
            "state['classes'] must be the sampler's 12 classes, got 12 that differ",
        ),
        (
            {"classes": torch.arange(5)},
            "state['classes'] must be the sampler's 12 classes, got 5 that differ",
        ),
        ({"neighbors": torch.zeros(12, 7).int()}, "state['neighbors'] must be [12, 5], got [12, 7]"),
    ],
)
def test_load_state_dict_foreign_state_raises(changes, message):
    sampler = sampler_of(labels=LABELS[:60])
    sampler.update(LINE)
    state = {name: value for name, value in (sampler.state_dict() | changes).items() if value is not None}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        sampler.load_state_dict(state)


def test_sampler_leaves_global_generator_unchanged():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(sampler_of())
    assert torch.equal(torch.rand(3), expected)


def test_sampler_serves_data_loader_as_batch_sampler():
    data = torch.utils.data.TensorDataset(torch.arange(60), LABELS[:60])
    samplers = [sampler_of(seed=1, labels=LABELS[:60]) for _ in range(2)]
    for sampler in samplers:
        sampler.update(LINE)
    loader = torch.utils.data.DataLoader(data, batch_sampler=samplers[0])
    assert [index.tolist() for index, _ in loader] == list(samplers[1])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"anchors": 0}, ValueError, "anchors_per_batch must be at least 1, got 0"),
        ({"m": 0}, ValueError, "classes_per_anchor must be at least 1, got 0"),
        ({"t": 0}, ValueError, "images_per_class must be at least 1, got 0"),
        ({"m": 1.5}, TypeError, "classes_per_anchor must be an integer, got float"),
        (
            {"m": 7},
            ValueError,
            "anchors_per_batch * classes_per_anchor must be at most 13, the number of classes with at least "
            "images_per_class = 2 images, got 14",
        ),
        (
            {"m": 7, "small_classes": "use_all"},
            ValueError,
            "anchors_per_batch * classes_per_anchor must be at most 13, the number of classes, got 14",
        ),
        ({"small_classes": "drop"}, ValueError, "small_classes must be one of 'leave_out', 'use_all', got 'drop'"),
        ({"batches_per_epoch": 0}, ValueError, "batches_per_epoch must be at least 1, got 0"),
        ({"labels": LABELS.float()}, ValueError, "labels must be integers [N], got torch.float32 [62]"),
    ],
)
def test_init_invalid_argument_raises(changes, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        sampler_of(**changes)


@pytest.mark.parametrize(
    ("tree", "error", "message"),
    [
        (LINE.sq_dist, TypeError, "tree must be a ClassTree or ClassDistances, got Tensor"),
        (LINE, ValueError, "tree must have all 13 classes of the sampler, got 12 classes without 120"),
        (
            ClassDistances(LINE.classes, LINE.sq_dist * 2),
            ValueError,
            "distances.sq_dist must be from 0 to 4, as for unit vectors, got 4.5 at [0, 9]",
        ),
    ],
)
def test_update_invalid_tree_raises_and_changes_nothing(tree, error, message):
    sampler = sampler_of()
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        sampler.update(tree)
    assert list(sampler) == list(sampler_of())
