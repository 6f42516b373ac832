"""NumPy arrays, memory-mapped ones included, are accepted wherever a tensor of rows is."""

import numpy as np
import pytest
import torch

from fanng_cases import assert_same_index, sample_rows
from hardmine.fanng import Index
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded

QUERIES = torch.randn(9, 12, generator=seeded(2))


def read_only(rows: np.ndarray) -> np.ndarray:
    rows = rows.copy()
    rows.flags.writeable = False
    return rows


@pytest.mark.parametrize(
    "array",
    [
        lambda rows: rows,
        read_only,
        np.asfortranarray,
        lambda rows: rows[::-1].copy()[::-1],
        lambda rows: rows.astype(">f4"),
        lambda rows: rows.astype("float64"),
    ],
    ids=["plain", "read-only", "columns first", "reversed", "big-endian", "float64"],
)
def test_index_of_array_equals_index_of_tensor(array):
    rows = sample_rows()
    given = array(rows.numpy())
    before = given.copy()
    index, expected = Index.build(given), Index.build(rows)
    assert_same_index(index, expected)
    assert_bitwise_equal(index.search(array(QUERIES.numpy()), 4).index, expected.search(QUERIES, 4).index)
    assert index.recall(5, queries=array(QUERIES.numpy())) == expected.recall(5, queries=QUERIES)
    assert (given == before).all()
    assert not np.shares_memory(index.vectors.numpy(), given)


def test_index_of_memory_mapped_file_outlives_file(tmp_path):
    rows = sample_rows()
    np.save(tmp_path / "rows.npy", rows.numpy())
    index = Index.build(np.load(tmp_path / "rows.npy", mmap_mode="r"))
    (tmp_path / "rows.npy").unlink()
    assert_same_index(index, Index.build(rows))


def test_index_of_half_precision_array_equals_tensor():
    rows = sample_rows().half()
    assert_same_index(Index.build(rows.numpy()), Index.build(rows))
