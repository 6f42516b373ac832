"""all_knn: the lists of ops.knn for any blocks and kinds of rows, its plan, and clear errors for bad arguments."""

import json
import os

import numpy as np
import pytest
import torch

from hardmine import ops
from hardmine.mining import NeighborShards, _block_pairs, all_knn, plan_all_knn
from support.inputs import seeded
from whole_sets import BLOCK, D, N, assert_same_lists, small_integers

safetensors = pytest.importorskip("safetensors.torch")


# Values


@pytest.mark.parametrize("block_rows", [BLOCK, 288, None])
@pytest.mark.parametrize("with_refs", [False, True])
@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_all_knn_any_block_rows_gives_bits_of_knn(tmp_path, similarity, with_ids, with_refs, block_rows):
    rows, refs = small_integers(), small_integers(500, seed=1) if with_refs else None
    ids = torch.randint(-1, 40, (N,), generator=seeded(2)) if with_ids else None
    ref_ids = torch.randint(-1, 40, (500,), generator=seeded(3)) if with_ids and with_refs else None
    expected = ops.knn(rows, refs, 20, ids=ids, ref_ids=ref_ids, similarity=similarity)
    lists = all_knn(
        rows, tmp_path / "lists", 20, refs=refs, ids=ids, ref_ids=ref_ids, similarity=similarity, block_rows=block_rows
    )
    assert_same_lists(lists[:], expected)
    assert (len(lists), lists.k, lists.similarity) == (N, 20, similarity)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_all_knn_dtypes_are_those_of_knn(tmp_path, dtype):
    rows = torch.randn(N, D, generator=seeded(4)).to(dtype)
    for similarity in ("cosine", "euclidean"):
        lists = all_knn(rows, tmp_path / similarity, 9, similarity=similarity, block_rows=BLOCK)
        assert_same_lists(lists[:], ops.knn(rows, k=9, similarity=similarity))


def test_all_knn_nonfinite_rows_and_missing_candidates_are_as_in_knn(tmp_path):
    rows = small_integers(200)
    rows[3, 0], rows[150, 1] = torch.nan, torch.inf
    ids = torch.arange(200) % 2
    lists = all_knn(rows, tmp_path / "lists", 150, ids=ids, block_rows=BLOCK)
    expected = ops.knn(rows, k=150, ids=ids)
    assert_same_lists(lists[:], expected)
    assert (expected.index == -1).any()


def test_all_knn_one_class_has_empty_lists(tmp_path):
    lists = all_knn(
        small_integers(200), tmp_path / "lists", 3, ids=torch.zeros(200, dtype=torch.int64), block_rows=BLOCK
    )
    assert (lists[:].index == -1).all()
    assert lists[:].similarity.isnan().all()


@pytest.mark.parametrize("threads", [1, 3])
def test_all_knn_any_number_of_threads_gives_same_bits(tmp_path, threads):
    rows = torch.randn(2000, 40, generator=seeded(5))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        lists = all_knn(rows, tmp_path / "lists", 30, block_rows=480)
    finally:
        torch.set_num_threads(before)
    assert_same_lists(lists[:], ops.knn(rows, k=30))


def test_all_knn_graph_gives_exact_lists_of_small_set(tmp_path):
    rows = torch.randn(300, 8, generator=seeded(6))
    lists = all_knn(rows, tmp_path / "lists", 5, method="fanng", block_rows=BLOCK)
    expected = ops.knn(rows, k=5)
    assert (lists[:].index == expected.index).float().mean() > 0.99  # similarities are rounded differently
    torch.testing.assert_close(lists[:].similarity, expected.similarity, atol=1e-5, rtol=0)


# Rows


def shards_of(rows, folder, kinds):
    """Files and tensors that together hold ``rows``."""
    shards = []
    for number, (kind, part) in enumerate(zip(kinds, rows.tensor_split(len(kinds)), strict=True)):
        path = folder / f"rows-{number}.{'npy' if 'npy' in kind else 'safetensors'}"
        if kind == "tensor":
            shards.append(part)
        elif kind == "array":
            shards.append(part.numpy())
        elif kind == "memmap":
            np.save(folder / f"map-{number}.npy", part.numpy())
            shards.append(np.load(folder / f"map-{number}.npy", mmap_mode="r"))
        elif kind == "safetensors":
            safetensors.save_file({"embeddings": part.contiguous()}, path)
            shards.append(path)
        else:
            values = part.numpy()
            np.save(path, np.asfortranarray(values) if kind == "fortran npy" else values)
            shards.append(str(path))
    return shards


KINDS = ["tensor", "array", "memmap", "npy", "fortran npy", "safetensors"]


@pytest.mark.parametrize(
    "kinds", [*([kind] for kind in KINDS), KINDS, KINDS * 5], ids=lambda kinds: "+".join(kinds[:7])
)
def test_all_knn_rows_of_every_kind_give_same_lists(tmp_path, kinds):
    rows = small_integers()
    shards = shards_of(rows, tmp_path, kinds)
    lists = all_knn(shards if len(kinds) > 1 else shards[0], tmp_path / "lists", 7, block_rows=BLOCK)
    assert_same_lists(lists[:], ops.knn(rows, k=7))


def test_all_knn_bfloat16_safetensors_gives_lists_of_knn(tmp_path):
    rows = torch.randn(N, D, generator=seeded(7)).bfloat16()
    lists = all_knn(shards_of(rows, tmp_path, ["safetensors"]), tmp_path / "lists", 7, block_rows=BLOCK)
    assert_same_lists(lists[:], ops.knn(rows, k=7))


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
@pytest.mark.parametrize(
    ("second", "error", "message"),
    [
        (
            torch.zeros(9, D + 1),
            ValueError,
            rf"rows\[1\], .*rows-1.* must be \[rows, D\] with the D = {D} .*got \[9, 7\]",
        ),
        (
            torch.zeros(9, D).double(),
            TypeError,
            r"rows\[1\], .*rows-1.* must have the dtype .*float32, got torch.float64",
        ),
        (torch.zeros(9), ValueError, r"rows\[1\], .*rows-1.* must be \[rows, D\] with D >= 1, got \[9\]"),
        (torch.zeros(9, D).int(), TypeError, r"rows\[1\], .*rows-1.* must be .*float64.*, got .*int32"),
    ],
)
def test_all_knn_shard_of_other_shape_or_dtype_raises(tmp_path, kind, second, error, message):
    first = shards_of(small_integers(), tmp_path, ["tensor"])
    path = tmp_path / f"rows-1.{kind}"
    np.save(path, second.numpy()) if kind == "npy" else safetensors.save_file({"x": second}, path)
    with pytest.raises(error, match=message):
        all_knn([*first, path], tmp_path / "lists", 3)
    assert not (tmp_path / "lists").exists()


def test_all_knn_missing_or_damaged_shard_raises(tmp_path):
    shards = shards_of(small_integers(), tmp_path, ["npy", "safetensors"])
    for shard, message in zip(shards, ["complete .npy file", "complete safetensors file"], strict=True):
        os.truncate(shard, 90)
        with pytest.raises(ValueError, match=message):
            all_knn(shards, tmp_path / "lists", 3)
        os.remove(shard)
        with pytest.raises(FileNotFoundError, match="must be an existing file"):
            all_knn(shards, tmp_path / "lists", 3)
        shards = shards_of(small_integers(), tmp_path, ["npy", "safetensors"])
    safetensors.save_file({"a": torch.ones(3, D), "b": torch.ones(3, D)}, shards[1])
    with pytest.raises(ValueError, match="must hold one tensor, got 2: a, b"):
        all_knn(shards, tmp_path / "lists", 3)


# Arguments


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": N}, ValueError, f"k must be at most {N - 1}, the number of other rows, got {N}"),
        ({"k": 10, "refs": torch.ones(9, D)}, ValueError, "k must be at most 9, the number of refs, got 10"),
        ({"k": 0}, ValueError, "k must be from 1 to 1024, got 0"),
        ({"block_rows": 100}, ValueError, "block_rows must be a multiple of 96, got 100"),
        ({"memory": 10_000}, ValueError, "memory must be at least .* got 10,000"),
        ({"ids": torch.ones(3).long()}, ValueError, rf"ids must be \[Q\] = \[{N}\], got \[3\]"),
        ({"ref_ids": torch.ones(N).long()}, ValueError, "ref_ids must be None without refs"),
        (
            {"refs": torch.ones(9, D), "ids": torch.ones(N).long()},
            ValueError,
            "ref_ids must be given together with ids",
        ),
        ({"refs": torch.ones(9, D + 1)}, ValueError, rf"refs must be \[M, D\] with the D = {D} of rows, got \[9, 7\]"),
        ({"refs": torch.ones(9, D).double()}, TypeError, "refs must have the dtype of rows"),
        ({"similarity": "cos"}, ValueError, "similarity must be one of"),
        ({"method": "hnsw"}, ValueError, "method must be one of"),
        ({"method": "fanng", "similarity": "dot"}, ValueError, "similarity must be 'cosine' with method='fanng'"),
        ({"method": "fanng", "ids": torch.ones(N).long()}, ValueError, "ids must be None with method='fanng'"),
        (
            {"method": "fanng", "memory": 10_000},
            ValueError,
            "memory must be at least .* for method='fanng', got 10,000",
        ),
        ({"fanng": {}}, ValueError, "fanng must be None with method='exact'"),
        ({"progress": 1}, TypeError, "progress must be None, True or False"),
        ({"rows": 5}, TypeError, "rows must be a tensor, an array, a path"),
        ({"rows": []}, TypeError, "rows must be a tensor, .* got an empty list"),
        ({"rows": [[1.0, 2.0]]}, TypeError, r"rows\[0\] must be a tensor, an array or a path, got list"),
        ({"rows": "rows.txt"}, FileNotFoundError, "must be an existing file"),
        ({"folder": 3}, TypeError, "folder must be a str or an os.PathLike, got int"),
    ],
)
def test_all_knn_bad_argument_raises_before_work(tmp_path, options, error, message):
    arguments = {"rows": small_integers(), "folder": tmp_path / "lists", "k": 3, **options}
    with pytest.raises(error, match=message):
        all_knn(**arguments)
    assert not list(tmp_path.iterdir())


def test_all_knn_file_or_missing_parent_as_folder_raises(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="folder must be a folder, got the file"):
        all_knn(small_integers(), tmp_path / "file", 3)
    with pytest.raises(FileNotFoundError, match="folder must be in an existing folder"):
        all_knn(small_integers(), tmp_path / "none" / "lists", 3)


# Plan


def test_plan_all_knn_bounds_disk_that_run_uses(tmp_path, saved_always, monkeypatch):
    rows, sizes, save = small_integers(), [], _block_pairs.ListFolder.save

    def measured(self, *arguments):
        save(self, *arguments)
        sizes.append(self.used_bytes())

    monkeypatch.setattr(_block_pairs.ListFolder, "save", measured)
    plan = plan_all_knn(rows, 20, block_rows=BLOCK)
    all_knn(rows, tmp_path / "lists", 20, block_rows=BLOCK)
    result = sum(path.stat().st_size for path in (tmp_path / "lists").glob("*.npy"))
    assert plan.result_bytes == N * 20 * 12 == result - 16 * 128  # a header of 128 bytes per shard
    assert result < max(sizes) <= plan.disk_bytes
    assert (plan.rows, plan.block_rows, plan.blocks, plan.block_pairs) == (N, BLOCK, 8, 36)


def test_plan_all_knn_less_memory_means_smaller_blocks():
    rows = torch.zeros(20_000, 16)
    plans = [plan_all_knn(rows, 10, memory=memory) for memory in (2**22, 2**23, 2**26)]
    assert [plan.memory_bytes <= memory for plan, memory in zip(plans, (2**22, 2**23, 2**26), strict=True)] == [
        True
    ] * 3
    assert plans[0].block_rows < plans[1].block_rows < plans[2].block_rows
    assert plans[2].blocks == 1
    assert plan_all_knn(rows, 10, ranks=2).blocks == 4


# What is read


def test_neighbor_shards_slices_and_chunks_are_parts_of_all_lists(tmp_path):
    lists = all_knn(small_integers(), tmp_path / "lists", 4, block_rows=BLOCK)
    whole = lists[:]
    for part in (
        slice(90, 100),
        slice(0, 96),
        slice(699, 700),
        slice(-5, None),
        slice(100, 400),
        slice(50, 50),
        slice(9, 2),
    ):
        assert_same_lists(lists[part], (whole.similarity[part], whole.index[part]))
    found = list(lists.chunks(130))
    assert [part.start for part, _ in found] == list(range(0, N, 130))
    assert_same_lists([torch.cat(values) for values in zip(*(values for _, values in found), strict=True)], whole)
    assert repr(lists).endswith("700 lists of 4, cosine)")
    with pytest.raises(TypeError, match="rows must be a slice, got int"):
        lists[3]
    with pytest.raises(ValueError, match="rows must be a slice with step 1, got 2"):
        lists[::2]


def test_neighbor_shards_of_other_folder_or_shard_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"without a manifest.json"):
        NeighborShards(tmp_path)
    all_knn(small_integers(), tmp_path / "lists", 4, block_rows=BLOCK)
    np.save(tmp_path / "lists" / "index-00001-of-00008.npy", np.zeros((95, 4), np.int64))
    with pytest.raises(ValueError, match=r"index-00001.* must be int64 \[96, 4\], got int64 \[95, 4\]"):
        NeighborShards(tmp_path / "lists")
    manifest = json.loads((tmp_path / "lists" / "manifest.json").read_text())
    (tmp_path / "lists" / "manifest.json").write_text(json.dumps({**manifest, "format_version": 2}))
    with pytest.raises(ValueError, match=r"must have the format 'hardmine.all_knn' 1, got 'hardmine.all_knn' 2"):
        NeighborShards(tmp_path / "lists")


def test_all_knn_progress_shows_bar(tmp_path, capsys):
    pytest.importorskip("tqdm")
    all_knn(small_integers(), tmp_path / "lists", 4, block_rows=BLOCK, progress=True)
    assert "neighbors: 100%" in capsys.readouterr().err
    all_knn(small_integers(), tmp_path / "quiet", 4, block_rows=BLOCK)
    assert not capsys.readouterr().err
