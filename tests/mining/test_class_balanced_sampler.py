"""Class-balanced batches: their composition, probabilities, repeatability and errors."""

import re

import pytest
import torch

from hardmine.mining import ClassBalancedSampler

# 4 classes of 6 images, interleaved, and one class of 2.
LABELS = torch.tensor([7, 3, 5, 9] * 6 + [1, 1])


def test_batches_have_requested_classes_and_images():
    sampler = ClassBalancedSampler(LABELS, 3, 4, batches_per_epoch=50)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 50
    for batch in batches:
        assert len(set(batch)) == 12, "an image is drawn twice"
        classes, counts = LABELS[batch].unique(return_counts=True)
        assert len(classes) == 3
        assert counts.tolist() == [4, 4, 4]


def test_batches_every_image_is_equally_likely():
    sampler = ClassBalancedSampler(LABELS, 2, 3, batches_per_epoch=4000)
    drawn = torch.tensor(list(sampler)).flatten().bincount(minlength=len(LABELS))
    expected = 4000 * 6 / 24
    assert drawn[24:].tolist() == [0, 0]
    # Each image is in a batch with probability 1/4, so its count has a standard deviation of 27.
    # Five deviations are 137.
    assert (drawn[:24] - expected).abs().max() < 137


def test_epochs_differ_and_seed_repeats():
    first, again = (ClassBalancedSampler(LABELS, 2, 2, seed=3) for _ in range(2))
    epochs = [list(first), list(first)]
    assert epochs[0] != epochs[1]
    assert [list(again), list(again)] == epochs
    again.epoch = 1
    assert list(again) == epochs[1]
    assert list(ClassBalancedSampler(LABELS, 2, 2, seed=4)) != epochs[0]


def test_sampler_leaves_global_generator_unchanged():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(ClassBalancedSampler(LABELS, 2, 2))
    assert torch.equal(torch.rand(3), expected)


def test_small_classes_leave_out_drops_them():
    assert ClassBalancedSampler(LABELS, 2, 2).classes.tolist() == [1, 3, 5, 7, 9]
    assert ClassBalancedSampler(LABELS, 2, 3).classes.tolist() == [3, 5, 7, 9]


def test_len_default_draws_images_of_used_classes():
    assert len(ClassBalancedSampler(LABELS, 2, 2)) == 26 // 4
    # with the images of the small class, 26 // 5 would be one more
    assert len(ClassBalancedSampler(LABELS, 1, 5)) == 24 // 5
    assert len(ClassBalancedSampler([0, 0, 1, 1], 2, 2)) == 1


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64])
def test_labels_any_integer_dtype_gives_equal_batches(dtype):
    assert list(ClassBalancedSampler(LABELS.to(dtype), 2, 2)) == list(ClassBalancedSampler(LABELS.tolist(), 2, 2))


def test_sampler_serves_data_loader_as_batch_sampler():
    data = torch.utils.data.TensorDataset(torch.arange(len(LABELS)), LABELS)
    loader = torch.utils.data.DataLoader(data, batch_sampler=ClassBalancedSampler(LABELS, 3, 2, seed=1))
    indices = [index.tolist() for index, _ in loader]
    assert indices == list(ClassBalancedSampler(LABELS, 3, 2, seed=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes_per_batch": 0}, "classes_per_batch must be at least 1, got 0"),
        ({"images_per_class": -2}, "images_per_class must be at least 1, got -2"),
        ({"batches_per_epoch": 0}, "batches_per_epoch must be at least 1, got 0"),
        ({"classes_per_batch": 6}, "classes_per_batch must be at most 5, .* images_per_class = 2 images, got 6"),
        ({"images_per_class": 7}, "classes_per_batch must be at most 0, .* images_per_class = 7 images, got 2"),
        ({"labels": LABELS.float()}, r"labels must be integers \[N\], got torch.float32 \[26\]"),
        ({"labels": LABELS.view(2, 13)}, r"labels must be integers \[N\], got torch.int64 \[2, 13\]"),
        ({"labels": LABELS > 3}, r"labels must be integers \[N\], got torch.bool"),
    ],
)
def test_init_impossible_size_raises(changes, message):
    with pytest.raises(ValueError, match=message):
        ClassBalancedSampler(**{"labels": LABELS, "classes_per_batch": 2, "images_per_class": 2} | changes)


def test_batches_of_seed_match_documented_draws():
    """The batches of a seed are fixed: one permutation of the classes, then one per class."""
    sampler = ClassBalancedSampler(LABELS, 3, 2, batches_per_epoch=5, seed=7)
    sampler.epoch = 2
    generator = torch.Generator().manual_seed(7 + 2 * 1_000_003)
    expected = []
    for _ in range(5):
        batch = []
        for position in torch.randperm(5, generator=generator)[:3].tolist():
            images = LABELS.eq([1, 3, 5, 7, 9][position]).nonzero()[:, 0]
            batch += images[torch.randperm(len(images), generator=generator)[:2]].tolist()
        expected.append(batch)
    assert list(sampler) == expected
    assert list(ClassBalancedSampler(LABELS, images_per_class=2, batch_size=6, batches_per_epoch=5, seed=7)) == list(
        ClassBalancedSampler(LABELS, 3, 2, batches_per_epoch=5, seed=7)
    )


# Classes smaller than requested, and batches of a given size (EP section 5.1)

# Classes 0 to 4 of 6, 1, 3, 2 and 5 images.
UNEVEN = torch.tensor([0] * 6 + [1] + [2] * 3 + [3] * 2 + [4] * 5)


def runs_of(batch: list[int]) -> list[tuple[int, int]]:
    """The classes of a batch of UNEVEN in order, each with its number of images; the images must be different."""
    assert len(set(batch)) == len(batch), "an image is drawn twice"
    classes, counts = UNEVEN[batch].unique_consecutive(return_counts=True)
    assert len(set(classes.tolist())) == len(classes), "a class is drawn twice"
    return list(zip(classes.tolist(), counts.tolist(), strict=True))


def test_small_classes_use_all_takes_whole_classes():
    sampler = ClassBalancedSampler(UNEVEN, 3, 4, small_classes="use_all", batches_per_epoch=200)
    assert sampler.classes.tolist() == [0, 1, 2, 3, 4]
    assert sampler.batch_size is None
    seen = set()
    for batch in sampler:
        runs = runs_of(batch)
        assert len(runs) == 3
        assert all(count == [4, 1, 3, 2, 4][y] for y, count in runs)
        seen.update(runs)
    assert len(seen) == 5


@pytest.mark.parametrize("batch_size", [1, 2, 7, 8, 13, 14])
def test_batch_size_cuts_last_class_to_fill_batch(batch_size):
    sampler = ClassBalancedSampler(
        UNEVEN, batch_size=batch_size, images_per_class=4, small_classes="use_all", batches_per_epoch=200
    )
    assert sampler.batch_size == batch_size
    assert sampler.classes_per_batch is None
    cut = 0
    for batch in sampler:
        assert len(batch) == batch_size
        runs = runs_of(batch)
        assert all(count == [4, 1, 3, 2, 4][y] for y, count in runs[:-1])
        last, count = runs[-1]
        assert count <= [4, 1, 3, 2, 4][last]
        cut += count < [4, 1, 3, 2, 4][last]
    assert (cut > 0) == (batch_size < 14), "14 images are all there are"


def test_batch_size_not_multiple_cuts_last_class():
    """128 is not a multiple of 5: 25 classes of 5 images, and 3 images of another class."""
    labels = torch.arange(40).repeat(6)
    for batch in ClassBalancedSampler(labels, batch_size=128, images_per_class=5, batches_per_epoch=5):
        counts = labels[batch].unique_consecutive(return_counts=True)[1]
        assert counts.tolist() == [5] * 25 + [3]
        assert len(set(batch)) == 128
    sampler = ClassBalancedSampler(UNEVEN, batch_size=9, images_per_class=5)  # drops classes of 1, 2 and 3 images
    assert sampler.classes.tolist() == [0, 4]
    assert sorted(len(set(UNEVEN[batch].tolist())) for batch in sampler) == [2]


@pytest.mark.slow
def test_batch_size_every_class_is_equally_likely():
    sampler = ClassBalancedSampler(
        UNEVEN, batch_size=4, images_per_class=4, small_classes="use_all", batches_per_epoch=4000
    )
    firsts = torch.tensor([runs_of(batch)[0][0] for batch in sampler]).bincount()
    assert (firsts - 800).abs().max() < 130  # the standard deviation is 25
    cut = [batch[-1] for batch in sampler if runs_of(batch) == [(3, 2), (0, 2)]]
    assert set(cut) == set(range(6)), "which images of the last class are taken is random, too"


def test_len_default_in_every_mode_draws_all_images():
    use_all = {"small_classes": "use_all"}
    assert len(ClassBalancedSampler(UNEVEN, batch_size=4, images_per_class=2, **use_all)) == 17 // 4
    assert len(ClassBalancedSampler(UNEVEN, batch_size=4, images_per_class=3)) == 14 // 4
    # 2 of 5 classes with at most 2 images are 2 / 5 * (2 + 1 + 2 + 2 + 2) = 3.6 images on average
    assert len(ClassBalancedSampler(UNEVEN, 2, 2, **use_all)) == int(17 / 3.6)
    assert len(ClassBalancedSampler(UNEVEN, 5, 4, **use_all)) == 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"classes_per_batch": None},
            ValueError,
            "exactly one of classes_per_batch and batch_size must be given, got classes_per_batch=None and "
            "batch_size=None",
        ),
        (
            {"batch_size": 4},
            ValueError,
            "exactly one of classes_per_batch and batch_size must be given, got classes_per_batch=2 and batch_size=4",
        ),
        ({"classes_per_batch": None, "batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        (
            {"classes_per_batch": None, "batch_size": 11},
            ValueError,
            "batch_size must be at most 10, the images of 5 classes with images_per_class = 2, got 11",
        ),
        (
            {"classes_per_batch": 6, "small_classes": "use_all"},
            ValueError,
            "classes_per_batch must be at most 5, the number of classes, got 6",
        ),
        ({"small_classes": None}, ValueError, "small_classes must be one of 'leave_out', 'use_all', got None"),
        ({"classes_per_batch": 2.0}, TypeError, "classes_per_batch must be an integer, got float"),
        ({"images_per_class": None}, TypeError, "images_per_class must be an integer, got NoneType"),
        ({"batches_per_epoch": 1.5}, TypeError, "batches_per_epoch must be an integer, got float"),
        ({"seed": None}, TypeError, "seed must be an integer, got NoneType"),
    ],
)
def test_init_invalid_argument_raises(changes, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        ClassBalancedSampler(**{"labels": LABELS, "classes_per_batch": 2, "images_per_class": 2} | changes)
