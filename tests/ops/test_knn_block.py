"""The op that merges one pair of blocks of a whole set into lists: any order of the pairs gives the lists of knn."""

import itertools
import random

import pytest
import torch

from hardmine import ops
from hardmine.mining._block_pairs import similarity_of
from hardmine.ops._arguments import SIMILARITIES
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded

STEP = 192


def empty_lists(rows, k, dtype=torch.float32):
    return torch.full((rows, k), torch.nan, dtype=dtype), torch.full((rows, k), -1)


def merge_pair(rows, ids, lists, pair, similarity):
    """Merges the pairs of two blocks, or of one with itself, into the lists of all rows."""
    first, other = (slice(block * STEP, min((block + 1) * STEP, len(rows))) for block in pair)
    own = slice(0, 0) if pair[0] == pair[1] else first
    given, given_ids = (None if t is None else torch.cat([t[own], t[other]]) for t in (rows, ids))
    parts = [t[part] for part in (own, other) for t in lists]
    code = SIMILARITIES.index(similarity)
    torch.ops.hardmine.knn_block(given, None, given_ids, None, *parts, True, code, first.start, other.start)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 16, 150])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_knn_block_any_order_with_repeats_gives_bits_of_knn(similarity, k, seed):
    dtype = torch.float64 if seed == 3 else torch.float32
    rows = torch.randint(-2, 3, (3 * STEP + 50, 5), generator=seeded(seed)).to(dtype)
    ids = torch.randint(-1, 30, (len(rows),), generator=seeded(seed + 9)) if seed % 2 else None
    pairs = [*itertools.combinations_with_replacement(range(4), 2)]
    random.Random(seed).shuffle(pairs)
    lists = empty_lists(len(rows), k, dtype)
    for pair in [*pairs, *pairs[:3]]:
        merge_pair(rows, ids, lists, pair, similarity)
    expected = ops.knn(rows, k=k, ids=ids, similarity=similarity)
    assert_bitwise_equal(lists[1], expected.index)
    assert_bitwise_equal(similarity_of(lists[0], similarity), expected.similarity)


def test_knn_block_keeps_candidates_of_equal_key_and_lower_number():
    """A list is full of equal candidates, and those of the block have lower numbers."""
    rows, k = torch.ones(2 * STEP, 3), 5
    lists = empty_lists(len(rows), k)
    for pair in ((1, 1), (0, 1), (0, 0)):
        merge_pair(rows, None, lists, pair, "dot")
    assert_bitwise_equal(lists[1], ops.knn(rows, k=k, similarity="dot").index)
    assert lists[1][-1].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {0: torch.zeros(204, 5), 2: torch.zeros(100, 4), 3: torch.zeros(100, 4).long()},
            "first_key must have a multiple of 96 rows",
        ),
        ({2: torch.zeros(96, 3)}, "first_key must be contiguous with K = 4"),
        ({4: torch.zeros(10, 4)}, "key must be a CPU tensor"),
        ({4: torch.zeros(104, 4).double()}, "key must be a CPU tensor"),
        ({5: torch.zeros(4, 104).long().T}, "numbers must be contiguous"),
        ({1: torch.zeros(9, 5)}, "exclude_self must be false with refs"),
        ({7: -1}, "first_number and other_number must be row numbers"),
    ],
)
def test_knn_block_invalid_tensor_raises(change, message):
    arguments = [torch.zeros(200, 5), None, torch.zeros(96, 4), torch.zeros(96, 4).long(), torch.zeros(104, 4)]
    arguments = [*arguments, torch.zeros(104, 4).long(), True, 0, 96]
    for position, value in change.items():
        arguments[position] = value
    rows, refs, *lists, exclude_self, first, other = arguments
    with pytest.raises((RuntimeError, ValueError), match=message):
        torch.ops.hardmine.knn_block(rows, refs, None, None, *lists, exclude_self, 0, first, other)
