"""An index can be pickled and copied, including into other processes."""

import copy
import pickle

import pytest
import torch

from fanng_cases import METRICS, assert_same_index, parts_of, sample_rows
from hardmine.fanng import Index
from support.comparisons import assert_bitwise_equal

COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {number}": lambda x, p=number: pickle.loads(pickle.dumps(x, p)) for number in range(2, 6)},
}


@pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("metric", METRICS)
def test_index_copy_answers_bitwise_equal(metric, make_copy):
    index = Index.build(sample_rows(), metric=metric, seed=3)
    assert_same_index(make_copy(index), index)


@pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES)
def test_index_copy_of_empty_index_is_empty(make_copy):
    index = Index.build(torch.empty(0, 3))
    copied = make_copy(index)
    assert (len(copied), copied.depth) == (0, 3)


def test_index_copy_as_init_builds_same_graph(tmp_path):
    """Settings and statistics are copied too: as init and when saved, a copy behaves like the original."""
    index = Index.build(sample_rows(), max_traversals=100)
    copied = copy.deepcopy(index)
    builds = [Index.build(sample_rows(), init=init) for init in (index, copied)]
    assert_same_index(*builds)
    for name, saved in (("a", index), ("b", copied)):
        saved.save(tmp_path / name)
    (tensors, metadata), (copied_tensors, copied_metadata) = (parts_of(tmp_path / name) for name in ("a", "b"))
    assert metadata == copied_metadata
    assert all((tensors[name] == copied_tensors[name]).all() for name in tensors)


def test_index_deepcopy_shares_no_rows():
    index = Index.build(sample_rows())
    assert copy.deepcopy(index).vectors.data_ptr() != index.vectors.data_ptr()


class NeighborsOfRows(torch.utils.data.Dataset):
    """The neighbors of each row, searched when the item is read."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def __len__(self) -> int:
        return 8

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.index.search(self.index.vectors[row : row + 1], 5, threads=1).index[0]


@pytest.mark.subprocess
@pytest.mark.parametrize("context", ["spawn", "fork"])
def test_index_in_data_loader_workers_searches(context):
    index = Index.build(sample_rows())
    data = NeighborsOfRows(index)
    loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=1, multiprocessing_context=context)
    expected = torch.stack([data[row] for row in range(len(data))])
    assert_bitwise_equal(torch.cat(list(loader)), expected)
