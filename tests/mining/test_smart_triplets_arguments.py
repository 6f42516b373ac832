"""The arguments of smart_triplets: every dtype and layout, every error."""

import math

import pytest
import torch

from hardmine.mining import random_triplets, smart_triplets
from lists import lists_from_text, random_lists
from support.inputs import seeded


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint32, torch.uint64])
def test_smart_triplets_any_integer_dtype_is_equal(dtype):
    lists, sq_dist, labels = random_lists(30, 20, 5, seed=1)
    labels = (labels + 4).to(dtype)
    expected = smart_triplets(lists, sq_dist, labels.long(), 1.0, 2, seeded(0))
    for value, wanted in zip(smart_triplets(lists, sq_dist, labels, 1.0, 2, seeded(0)), expected, strict=True):
        assert torch.equal(value, wanted)
    if dtype.is_signed:
        found = smart_triplets(lists.to(dtype), sq_dist, labels, 1.0, 2, seeded(0))
        assert torch.equal(found.triplets, expected.triplets)


def test_smart_triplets_extreme_labels_are_equal():
    extreme = torch.tensor([2**63 - 1, -(2**63), 0, -1, 2**31])
    lists, sq_dist, labels = random_lists(30, 20, 5, seed=2)
    numbers = (labels + 4) // 3
    # The order of the labels' values is preserved, so the classes are as before.
    expected = smart_triplets(lists, sq_dist, labels, 1.0, 2, seeded(0))
    assert torch.equal(smart_triplets(lists, sq_dist, extreme[numbers], 1.0, 2, seeded(0)).triplets, expected.triplets)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_smart_triplets_any_float_distances_are_equal(dtype):
    lists, sq_dist, labels = random_lists(30, 20, 5, seed=3)
    sq_dist = (sq_dist * 64).round() / 64  # exact in every dtype
    expected = smart_triplets(lists, sq_dist, labels, 1.5, 2, seeded(0))
    assert torch.equal(smart_triplets(lists, sq_dist.to(dtype), labels, 1.5, 2, seeded(0)).triplets, expected.triplets)


def test_smart_triplets_float64_distances_are_not_rounded():
    lists, sq_dist, labels = lists_from_text("p1 n2 p3")
    sq_dist = sq_dist.double()
    sq_dist[0, 1] = 2 - 1e-12  # rounds to 2 in float32
    assert not smart_triplets(lists, sq_dist, labels, 2.0).mined[0]
    assert smart_triplets(lists, sq_dist.float(), labels, 2.0).mined[0]


def test_smart_triplets_noncontiguous_views_are_equal():
    lists, sq_dist, labels = random_lists(30, 20, 5, seed=4)
    expected = smart_triplets(lists, sq_dist, labels, 1.0, 2, seeded(0))
    views = lists.T.contiguous().T, torch.stack([sq_dist, sq_dist], 2)[:, :, 0], torch.stack([labels, labels], 1)[:, 0]
    assert not any(view.is_contiguous() for view in views)
    assert torch.equal(smart_triplets(*views, 1.0, 2, seeded(0)).triplets, expected.triplets)


def test_smart_triplets_distances_with_gradient_are_accepted():
    lists, sq_dist, labels = lists_from_text("p1 n2 p3")
    assert smart_triplets(lists, sq_dist.requires_grad_(), labels, 1.0).triplets[0].tolist() == [0, 3, 2]


# Errors


GOOD = {
    "neighbor_lists": torch.tensor([[1, 2, 3], [0, 2, -1], [-1, -1, -1], [2, 1, 0]]),
    "distances": torch.tensor([[1.0, 2, 3], [1, 2, math.nan], [5, math.nan, -1], [0, 0, 7]]),
    "labels": torch.tensor([0, 0, 1, 1]),
    "kappa": 1.5,
}


def changed(name: str, row: int, column: int, value: float) -> dict[str, torch.Tensor]:
    """The good argument with one entry changed."""
    tensor = GOOD[name].clone()
    tensor[row, column] = value
    return {name: tensor}


def test_smart_triplets_valid_base_arguments_pass():
    assert len(smart_triplets(**GOOD).triplets) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            changed("neighbor_lists", 3, 1, 4),
            r"neighbor_lists must be from 0 to N - 1 = 3, or -1 as padding, got 4 at \[3, 1\]",
        ),
        (changed("neighbor_lists", 0, 2, -2), r"neighbor_lists must be from 0 to .*, got -2 at \[0, 2\]"),
        (changed("neighbor_lists", 1, 0, 2**62), r"neighbor_lists must be from 0 to .* got 4611686018427387904 at"),
        (
            changed("neighbor_lists", 0, 1, -1),
            r"neighbor_lists must have -1 only at the end of a list, got 3 after -1 at \[0, 2\]",
        ),
        (
            changed("neighbor_lists", 3, 2, 2),
            r"neighbor_lists must not repeat a sample within a list, got 2 again at \[3, 2\]",
        ),
        (
            changed("distances", 0, 1, math.nan),
            r"distances must be finite and >= 0 for each neighbor, got nan at \[0, 1\]",
        ),
        (changed("distances", 3, 2, math.inf), r"distances must be finite .*, got inf at \[3, 2\]"),
        (
            changed("distances", 3, 0, -1e-3),
            r"distances must be finite and >= 0 .*, got -0.00100000005 at \[3, 0\]",
        ),
        (changed("distances", 0, 2, 1.5), r"distances must be ascending, got 1.5 after 2 at \[0, 2\]"),
        (
            {"neighbor_lists": GOOD["neighbor_lists"][:3]},
            r"neighbor_lists must be \[N, K\] with N = 4, got \[3, 3\]",
        ),
        ({"neighbor_lists": torch.arange(4)}, r"neighbor_lists must be \[N, K\] with N = 4, got \[4\]"),
        (
            {"distances": GOOD["distances"][:, :2]},
            r"distances must be \[N, K\] = \[4, 3\], as neighbor_lists, got \[4, 2\]",
        ),
        ({"labels": torch.zeros(4, 1, dtype=torch.int64)}, r"labels must be \[N\], got \[4, 1\]"),
        ({"labels": torch.zeros(4, dtype=torch.int64, device="meta")}, "labels must be on the CPU, got meta"),
        ({"distances": GOOD["distances"].to("meta")}, "distances must be on the CPU, got meta"),
        ({"kappa": -0.1}, "kappa must be a number >= 0, got -0.1"),
        ({"kappa": math.nan}, "kappa must be a number >= 0, got nan"),
        ({"kappa": math.inf}, "kappa must be a finite number, got inf"),
        ({"per_anchor": 0}, "per_anchor must be from 1 to 2147483647, got 0"),
        ({"per_anchor": 2**31}, "per_anchor must be from 1 to 2147483647, got 2147483648"),
        ({"threads": 0}, "threads must be from 1 to 1024, got 0"),
        (
            {
                "labels": torch.zeros(1, dtype=torch.int64).expand(2**31),
                "neighbor_lists": torch.empty(2**31, 0, dtype=torch.int64),
                "distances": torch.empty(2**31, 0),
            },
            "labels must have at most 2147483647 entries, got 2147483648",
        ),
    ],
)
def test_smart_triplets_invalid_value_raises(changes, message):
    with pytest.raises(ValueError, match=message):
        smart_triplets(**GOOD | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neighbor_lists": GOOD["distances"]}, "neighbor_lists must have an integer dtype, got torch.float32"),
        ({"distances": GOOD["neighbor_lists"]}, "distances must have a floating dtype, got torch.int64"),
        ({"labels": GOOD["labels"].bool()}, "labels must have an integer dtype, got torch.bool"),
        ({"labels": [0, 0, 1, 1]}, "labels must be a torch.Tensor, got list"),
        ({"kappa": None}, "kappa must be a number, got NoneType"),
        ({"per_anchor": 1.0}, "per_anchor must be an integer, got float"),
        ({"per_anchor": True}, "per_anchor must be an integer, got bool"),
        ({"generator": 3}, "generator must be a torch.Generator or None, got int"),
        ({"threads": "2"}, "threads must be an integer, got str"),
    ],
)
def test_smart_triplets_invalid_type_raises(changes, message):
    with pytest.raises(TypeError, match=message):
        smart_triplets(**GOOD | changes)


@pytest.mark.parametrize("labels", [[0, 1], torch.zeros(2, 2, dtype=torch.int64), torch.tensor(3), torch.rand(4)])
def test_random_triplets_invalid_labels_raise(labels):
    with pytest.raises((TypeError, ValueError), match="labels must"):
        random_triplets(labels)


@pytest.mark.slow
def test_smart_triplets_any_thread_count_names_first_error():
    lists, sq_dist, labels = random_lists(3000, 30, 15, seed=6)
    for row in (2900, 1700, 350):
        lists[row, 0] = 3000
    for threads in (1, 2, 16):
        with pytest.raises(ValueError, match=r"got 3000 at \[350, 0\]"):
            smart_triplets(lists, sq_dist, labels, 1.0, threads=threads)


def test_smart_triplets_invalid_unused_lists_raise():
    lists, sq_dist, labels = lists_from_text("p1 n2 p3")
    with pytest.raises(ValueError, match="distances must be ascending"):
        smart_triplets(lists, sq_dist.flip(1), torch.zeros_like(labels), 1.0)
