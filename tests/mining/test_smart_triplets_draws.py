"""The random choices of smart_triplets: uniform, independent, repeatable, and equal for any number of threads."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from hardmine.mining import random_triplets, smart_triplets
from lists import lists_from_text, random_lists, triplets_of_sample_0
from support.inputs import seeded


def assert_uniform(counts: torch.Tensor) -> None:
    """Chi-square test with one cell per count: 5 standard deviations of its normal approximation."""
    cells, expected = counts.numel(), counts.sum() / counts.numel()
    assert expected >= 20
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < cells - 1 + 5 * math.sqrt(2 * (cells - 1)) + 5


def contingency_table(*columns: torch.Tensor) -> torch.Tensor:
    """The count of each combination of values, over the values that occur in each column."""
    codes = [column.unique(return_inverse=True)[1] for column in columns]
    sizes = [int(code.max()) + 1 for code in codes]
    index = sum(code * math.prod(sizes[i + 1 :]) for i, code in enumerate(codes))
    return index.bincount(minlength=math.prod(sizes)).double()


@pytest.mark.slow
def test_random_triplets_are_uniform_and_independent():
    labels = torch.tensor([0, 1, 0, 2, 0, 1, 2, 0, 1, 2, 2, 1, 0])
    triplets = random_triplets(labels, 60_000, seeded(0))
    draws = triplets[:, 1:].view(len(labels), -1, 2)
    for a, label in enumerate(labels):
        positive, negative = draws[a].T
        own = [i for i in (labels == label).nonzero().flatten().tolist() if i != a]
        assert positive.unique().tolist() == own
        assert negative.unique().tolist() == (labels != label).nonzero().flatten().tolist()
        assert_uniform(contingency_table(positive))
        assert_uniform(contingency_table(negative))
        assert_uniform(contingency_table(positive, negative))
        assert_uniform(contingency_table(negative[1:], negative[:-1]))
        assert_uniform(contingency_table(negative, draws[a - 1, :, 1]))


@pytest.mark.slow
def test_smart_triplets_random_positives_outside_pos_are_uniform():
    # In the class, 1 and 4 are in pos; 2, 6, 7 and 8 are not. With one triplet per anchor, many seeds give the counts.
    drawn = [triplets_of_sample_0("p1 p1.5 n1.6 p3 n4", "pppn", kappa=2, seed=seed)[0][0] for seed in range(2000)]
    assert set(drawn) == {2, 6, 7, 8}
    assert_uniform(contingency_table(torch.tensor(drawn)))


def test_smart_triplets_equal_states_repeat_other_seeds_differ():
    lists, sq_dist, labels = random_lists(60, 10, 6, seed=5)
    first, again, other = (smart_triplets(lists, sq_dist, labels, 1.0, 2, seeded(s)).triplets for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_smart_triplets_draws_one_number_from_generator():
    expected = seeded(3)
    torch.randint(2**63 - 1, (), generator=expected)
    for arguments in (random_lists(60, 10, 6, seed=5), random_lists(0, 0, 1, seed=0), lists_from_text("p1 n2 p3")):
        generator = seeded(3)
        smart_triplets(*arguments, 1.0, 4, generator)
        assert torch.equal(generator.get_state(), expected.get_state())


def test_smart_triplets_without_generator_follows_manual_seed():
    lists, sq_dist, labels = random_lists(60, 10, 6, seed=5)
    torch.manual_seed(8)
    first, second = (smart_triplets(lists, sq_dist, labels, 1.0).triplets for _ in range(2))
    torch.manual_seed(8)
    assert torch.equal(smart_triplets(lists, sq_dist, labels, 1.0).triplets, first)
    assert not torch.equal(first, second)
    assert torch.equal(smart_triplets(lists, sq_dist, labels, 1.0, generator=seeded(8)).triplets, first)


@pytest.mark.slow
def test_smart_triplets_any_thread_count_is_equal():
    lists, sq_dist, labels = random_lists(3000, 30, 15, seed=6)
    one = smart_triplets(lists, sq_dist, labels, 1.1, 3, seeded(0), threads=1)
    assert 0.1 < one.mined.float().mean() < 0.9
    assert one.mined_positive.any()
    for threads in (2, 3, 16):
        many = smart_triplets(lists, sq_dist, labels, 1.1, 3, seeded(0), threads=threads)
        for value, wanted in zip(many, one, strict=True):
            assert torch.equal(value, wanted)


@pytest.mark.slow
def test_smart_triplets_from_many_python_threads_is_equal():
    lists, sq_dist, labels = random_lists(3000, 30, 15, seed=6)
    expected = smart_triplets(lists, sq_dist, labels, 1.1, 3, seeded(0))
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(smart_triplets, lists, sq_dist, labels, 1.1, 3, seeded(0)) for _ in range(8)]
        assert all(torch.equal(call.result().triplets, expected.triplets) for call in calls)


def test_random_triplets_equal_those_of_empty_lists():
    labels = random_lists(60, 10, 6, seed=5)[2]
    none = torch.empty(60, 0)
    found = smart_triplets(none.long(), none, labels, 1.0, 2, seeded(0))
    assert torch.equal(random_triplets(labels, 2, seeded(0)), found.triplets)
    assert not found.mined.any()
