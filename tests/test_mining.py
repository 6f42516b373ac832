"""Class-balanced batches: their make-up, their chances, their repeatability, their errors."""

import pytest
import torch

from hardmine.mining import ClassBalancedSampler

# 4 classes of 6 images, interleaved, and one class of 2.
LABELS = torch.tensor([7, 3, 5, 9] * 6 + [1, 1])


def test_batches_hold_the_asked_classes_and_images():
    sampler = ClassBalancedSampler(LABELS, 3, 4, batches_per_epoch=50)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 50
    for batch in batches:
        assert len(set(batch)) == 12, "an image is drawn twice"
        classes, counts = LABELS[batch].unique(return_counts=True)
        assert len(classes) == 3
        assert counts.tolist() == [4, 4, 4]


def test_every_class_and_image_has_the_same_chance():
    sampler = ClassBalancedSampler(LABELS, 2, 3, batches_per_epoch=4000)
    drawn = torch.tensor(list(sampler)).flatten().bincount(minlength=len(LABELS))
    expected = 4000 * 6 / 24
    assert drawn[24:].tolist() == [0, 0]
    # Each image is in a batch with chance 1/4, so its count has a standard deviation of 27: 5 of them are 137.
    assert (drawn[:24] - expected).abs().max() < 137


def test_epochs_differ_and_seeds_repeat():
    first, again = (ClassBalancedSampler(LABELS, 2, 2, seed=3) for _ in range(2))
    epochs = [list(first), list(first)]
    assert epochs[0] != epochs[1]
    assert [list(again), list(again)] == epochs
    again.epoch = 1
    assert list(again) == epochs[1]
    assert list(ClassBalancedSampler(LABELS, 2, 2, seed=4)) != epochs[0]


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(ClassBalancedSampler(LABELS, 2, 2))
    assert torch.equal(torch.rand(3), expected)


def test_small_classes_are_left_out():
    assert ClassBalancedSampler(LABELS, 2, 2).classes.tolist() == [1, 3, 5, 7, 9]
    assert ClassBalancedSampler(LABELS, 2, 3).classes.tolist() == [3, 5, 7, 9]


def test_an_epoch_draws_as_many_images_as_the_classes_in_use_have():
    assert len(ClassBalancedSampler(LABELS, 2, 2)) == 26 // 4
    assert len(ClassBalancedSampler(LABELS, 1, 5)) == 24 // 5  # 26 // 5 is one more
    assert len(ClassBalancedSampler([0, 0, 1, 1], 2, 2)) == 1


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64])
def test_any_integer_labels_give_the_same_batches(dtype):
    assert list(ClassBalancedSampler(LABELS.to(dtype), 2, 2)) == list(ClassBalancedSampler(LABELS.tolist(), 2, 2))


def test_it_is_a_batch_sampler_for_the_data_loader():
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
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ClassBalancedSampler(**{"labels": LABELS, "classes_per_batch": 2, "images_per_class": 2} | changes)
