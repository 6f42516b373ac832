"""all_knn: the lists of ops.knn for any blocks and ranks, resumed after a kill, and clear errors for every fault."""

import json
import math
import multiprocessing
import os
import resource
import shutil
import signal
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist

from hardmine import ops
from hardmine.mining import NeighborShards, _block_pairs, all_knn, plan_all_knn
from hardmine.mining._list_files import sole_writer
from hardmine.mining.all_knn import part_of_pairs
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded
from support.ranks import COUNTS, run_ranks

safetensors = pytest.importorskip("safetensors.torch")
N, D, BLOCK = 700, 6, 96


def small_integers(rows=N, seed=0, dtype=torch.float32):
    """Rows with many equal similarities, and multiples of other rows."""
    values = torch.randint(-2, 3, (rows, D), generator=seeded(seed)).to(dtype)
    values[rows // 2 : rows // 2 + rows // 7] = values[: rows // 7] * 0.37
    return values


def assert_same_lists(found, expected):
    for actual, wanted in zip(found, expected, strict=True):
        assert_bitwise_equal(actual, wanted)


@pytest.fixture
def saved_always(monkeypatch):
    """Lists in progress are saved after every pair."""
    monkeypatch.setattr(_block_pairs, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(_block_pairs, "_SAVE_RATIO", 0)


@pytest.fixture
def counted_pairs(monkeypatch):
    """The pairs of blocks that are compared."""
    pairs, compare = [], _block_pairs.BlockPairs._compare

    def counted(self, pair, *rows):
        compare(self, pair, *rows)
        pairs.append(tuple(pair))

    monkeypatch.setattr(_block_pairs.BlockPairs, "_compare", counted)
    return pairs


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


# Resuming


class InterruptedRunError(Exception):
    """Ends a run from within."""


def interrupt_after(monkeypatch, pairs, error=InterruptedRunError):
    """Raises in the comparison after the first ``pairs``."""
    compare, seen = _block_pairs.BlockPairs._compare, []

    def interrupted(self, *arguments):
        if len(seen) == pairs:
            raise error
        seen.append(arguments)
        compare(self, *arguments)

    monkeypatch.setattr(_block_pairs.BlockPairs, "_compare", interrupted)
    return lambda: monkeypatch.setattr(_block_pairs.BlockPairs, "_compare", compare)


@pytest.mark.parametrize("pairs", [0, 1, 7, 8, 20, 35])
@pytest.mark.parametrize("error", [InterruptedRunError, KeyboardInterrupt])
def test_all_knn_interrupted_run_goes_on_without_redoing_pairs(tmp_path, monkeypatch, counted_pairs, pairs, error):
    rows = small_integers()
    restore = interrupt_after(monkeypatch, pairs, error)
    with pytest.raises(error):
        all_knn(rows, tmp_path / "lists", 20, block_rows=BLOCK)
    with pytest.raises(ValueError, match=r"must hold complete lists, got .* whose run has not ended"):
        NeighborShards(tmp_path / "lists")
    restore()
    lists = all_knn(rows, tmp_path / "lists", 20)  # block_rows are those of the first call
    assert len(counted_pairs) == len(set(counted_pairs)) == 36
    assert_same_lists(lists[:], ops.knn(rows, k=20))
    assert not list((tmp_path / "lists").glob("progress-*"))
    all_knn(rows, tmp_path / "lists", 20)
    assert len(counted_pairs) == 36, "complete lists are not computed again"


def test_all_knn_few_lists_in_memory_gives_same_lists(tmp_path, counted_pairs):
    """Lists in progress go to disk and come back."""
    rows = small_integers()
    memory = plan_all_knn(rows, 20, block_rows=BLOCK).memory_bytes
    lists = all_knn(rows, tmp_path / "lists", 20, block_rows=BLOCK, memory=memory)
    assert_same_lists(lists[:], ops.knn(rows, k=20))
    assert len(counted_pairs) == 36


def _slow_run(rows, folder, started):
    """Compares a pair in 20 ms at least, and saves after each."""
    torch.set_num_threads(1)
    _block_pairs.SAVE_SECONDS = _block_pairs._SAVE_RATIO = 0
    compare = _block_pairs.BlockPairs._compare

    def slow(self, *arguments):
        started.set()
        time.sleep(0.02)  # the run must last longer than the longest pause before the kill
        compare(self, *arguments)

    _block_pairs.BlockPairs._compare = slow
    all_knn(rows, folder, 20, block_rows=BLOCK)


def test_all_knn_killed_at_any_time_goes_on(tmp_path, counted_pairs):
    """Killed again and again, also in the middle of a write, a run still ends with the right lists."""
    rows, folder = small_integers(), tmp_path / "lists"
    context = multiprocessing.get_context("fork")
    for pause in (0.0, 0.05, 0.111, 0.16, 0.237):
        started = context.Event()
        process = context.Process(target=_slow_run, args=(rows, folder, started))
        process.start()
        assert started.wait(30)
        time.sleep(pause)  # the kill comes at another point of the run each time
        os.kill(process.pid, signal.SIGKILL)
        process.join(30)
        assert process.exitcode == -signal.SIGKILL
    (folder / ".0123456789abcdef.tmp").write_bytes(b"half a file")
    lists = all_knn(rows, folder, 20)
    assert 0 < len(counted_pairs) < 36
    assert_same_lists(lists[:], ops.knn(rows, k=20))
    assert not [path for path in folder.iterdir() if path.name.startswith((".", "progress"))]


def test_all_knn_changed_rows_or_options_raise(tmp_path, monkeypatch):
    rows, folder = small_integers(), tmp_path / "lists"
    restore = interrupt_after(monkeypatch, 9)
    ids = torch.arange(N) % 50
    with pytest.raises(InterruptedRunError):
        all_knn(rows, folder, 20, ids=ids, block_rows=BLOCK)
    restore()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.*")}
    changed = rows.clone()
    changed[250, 2] += 1
    for given, options, message in [
        (changed, {}, "rows must be those that the lists in .* others among rows 192 to 287"),
        (rows[:-1], {"ids": ids[:-1]}, "rows must be 700, as in the run that .* holds, got 699"),
        (rows.double(), {}, "dtype must be 'float32', as in the run"),
        (rows, {"k": 19}, "k must be 20, as in the run"),
        (rows, {"similarity": "dot"}, "similarity must be 'cosine', as in the run"),
        (rows, {"ids": ids + 1}, "ids must be '.*', as in the run"),
        (rows, {"block_rows": 192}, "block_rows must be 96, as in the run"),
    ]:
        with pytest.raises(ValueError, match=message):
            all_knn(given, folder, **{"k": 20, "ids": ids, **options})
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.glob("*.*")}
    assert_same_lists(all_knn(rows, folder, 20, ids=ids)[:], ops.knn(rows, k=20, ids=ids))


def test_all_knn_rows_that_change_during_run_raise(tmp_path, monkeypatch):
    path = tmp_path / "rows.npy"
    np.save(path, small_integers().numpy())
    compare, seen = _block_pairs.BlockPairs._compare, []

    def changing(self, *arguments):
        compare(self, *arguments)
        seen.append(arguments)
        if len(seen) == 9:
            np.save(path, small_integers(seed=9).numpy())

    monkeypatch.setattr(_block_pairs.BlockPairs, "_compare", changing)
    with pytest.raises(ValueError, match=r"rows must be those that the lists in .* were begun with"):
        all_knn(path, tmp_path / "lists", 5, block_rows=BLOCK)
    os.remove(path)
    np.save(path, small_integers().numpy())
    assert_same_lists(all_knn(path, tmp_path / "lists", 5)[:], ops.knn(small_integers(), k=5))


@pytest.mark.parametrize("kind", ["progress-00007.rank-0.safetensors", "index-00000-of-00008.npy", "manifest.json"])
def test_all_knn_damaged_file_raises_and_names_it(tmp_path, monkeypatch, counted_pairs, kind):
    rows, folder = small_integers(), tmp_path / "lists"
    restore = interrupt_after(monkeypatch, 9)
    with pytest.raises(InterruptedRunError):
        all_knn(rows, folder, 20, block_rows=BLOCK)
    restore()
    content = (folder / kind).read_bytes()
    (folder / kind).write_bytes(content[: len(content) // 2])
    counted_pairs.clear()
    with pytest.raises(ValueError, match=kind):
        all_knn(rows, folder, 20)
    assert not counted_pairs, "known before any work"
    if kind == "manifest.json":
        (folder / kind).write_bytes(content)
    else:
        (folder / kind).unlink()  # as the message says
    assert_same_lists(all_knn(rows, folder, 20)[:], ops.knn(rows, k=20))


def test_all_knn_altered_lists_in_progress_raise(tmp_path, monkeypatch):
    rows, folder = small_integers(), tmp_path / "lists"
    restore = interrupt_after(monkeypatch, 9)
    with pytest.raises(InterruptedRunError):
        all_knn(rows, folder, 20, block_rows=BLOCK)
    restore()
    path = folder / "progress-00007.rank-0.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"progress-00007.* was changed after it was written: .* delete this file"):
        all_knn(rows, folder, 20)


def test_merged_lists_have_no_row_twice_and_ties_by_number():
    nan = torch.nan
    first = (
        torch.tensor([[3.0, 2.0, 1.0], [5.0, nan, nan], [nan] * 3]),
        torch.tensor([[7, 1, 9], [4, -1, -1], [-1] * 3]),
    )
    second = (
        torch.tensor([[3.0, 2.0, 2.0], [5.0, 5.0, nan], [nan] * 3]),
        torch.tensor([[7, 0, 1], [2, 4, -1], [-1] * 3]),
    )
    key, number = _block_pairs.merged(first, second)
    assert number.tolist() == [[7, 0, 1], [2, 4, -1], [-1, -1, -1]]
    assert_bitwise_equal(key, torch.tensor([[3.0, 2.0, 2.0], [5.0, 5.0, nan], [nan] * 3]))


def test_all_knn_missing_shard_of_complete_lists_is_computed_again(tmp_path, counted_pairs):
    rows, folder = small_integers(), tmp_path / "lists"
    lists = all_knn(rows, folder, 20, block_rows=BLOCK)
    (folder / "index-00003-of-00008.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"index-00003-of-00008.npy is missing: call all_knn with the same"):
        lists[:]
    counted_pairs.clear()
    assert_same_lists(all_knn(rows, folder, 20)[:], ops.knn(rows, k=20))
    assert sorted(counted_pairs) == [(0, 3), (1, 3), (2, 3), (3, 3), (3, 4), (3, 5), (3, 6), (3, 7)]


# The disk, and other writers


def test_all_knn_too_small_disk_raises_before_start(tmp_path, monkeypatch, counted_pairs):
    usage = shutil.disk_usage(tmp_path)
    needed = plan_all_knn(small_integers(), 20).disk_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed // 2))
    with pytest.raises(OSError, match=r"folder must be on a disk with .* free bytes .* nothing was started"):
        all_knn(small_integers(), tmp_path / "lists", 20)
    assert not counted_pairs
    assert not (tmp_path / "lists" / "manifest.json").exists()


def _run_with_file_limit(rows, folder, limit, sender):
    """The error of a run in which no file may grow beyond ``limit`` bytes."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        all_knn(rows, folder, 20, block_rows=BLOCK)
    except OSError as error:
        sender.send(str(error))
    else:
        sender.send(None)


@pytest.mark.parametrize("limit", [96 * 20 * 4, 96 * 20 * 8])  # within similarities, and within indices
def test_all_knn_write_that_fails_keeps_finished_work(tmp_path, limit):
    rows, folder = small_integers(), tmp_path / "lists"
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run_with_file_limit, args=(rows, folder, limit, sender))
    process.start()
    assert receiver.poll(60)
    assert "could not be written" in (message := receiver.recv())
    assert "free space, or repair the folder, and call again" in message
    process.join(30)
    assert not list(folder.glob(".*.tmp"))
    assert_same_lists(all_knn(rows, folder, 20)[:], ops.knn(rows, k=20))


def test_all_knn_second_writer_raises(tmp_path):
    folder = tmp_path / "lists"
    folder.mkdir()
    with (
        sole_writer(folder),
        pytest.raises(RuntimeError, match=f"folder must have one writer at a time, got .*lists.*process {os.getpid()}"),
    ):
        all_knn(small_integers(), folder, 3)
    all_knn(small_integers(), folder, 3)


# Ranks


@COUNTS
def test_all_knn_with_group_gives_bits_of_one_process(tmp_path, count):
    rows, ids = small_integers(), torch.arange(N) % 90
    folders = iter(tmp_path / f"lists-{n}" for n in range(10))
    cases = [(next(folders), {"similarity": s, "block_rows": b}) for s in ("cosine", "euclidean") for b in (BLOCK, 192)]
    cases.append((next(folders), {}))
    cases.append((next(folders), {"refs": small_integers(400, seed=1), "ref_ids": torch.arange(400) % 90}))

    def work(rank):
        return [
            tuple(all_knn(rows, folder, 20, ids=ids, group=dist.group.WORLD, **options)[:]) for folder, options in cases
        ]

    for found in run_ranks(count, work):
        for lists, (_, options) in zip(found, cases, strict=True):
            given = {name: value for name, value in options.items() if name != "block_rows"}
            refs = given.pop("refs", None)
            assert_same_lists(lists, ops.knn(rows, refs, 20, ids=ids, **given))


@pytest.mark.parametrize(("blocks", "ranks"), [(4, 2), (8, 4), (32, 16), (5, 1), (3, 7)])
def test_part_of_pairs_is_even_and_touches_few_blocks(blocks, ranks):
    pairs = [_block_pairs.Pair(row, column) for row in range(blocks) for column in range(row, blocks)]

    def weight(pair):
        return 0.5 if pair.row == pair.column else 1.0

    parts = [part_of_pairs(pairs, weight, rank, ranks) for rank in range(ranks)]
    assert sorted(pair for part in parts for pair in part) == pairs
    if ranks == 1:
        assert parts == [pairs], "in the order in which blocks are done first"
    even = blocks**2 / 2 / ranks
    assert all(abs(sum(map(weight, part)) - even) <= 1 for part in parts)
    touched = [len({block for pair in part for block in pair}) for part in parts]
    assert max(touched) <= min(blocks, 3 * math.sqrt(len(pairs) / ranks) + 4)


def test_all_knn_interrupted_ranks_go_on_with_any_number(tmp_path, monkeypatch, counted_pairs):
    rows, folder = small_integers(), tmp_path / "lists"

    def interrupted(rank):
        restore = interrupt_after(monkeypatch, 5 + rank, RuntimeError)
        try:
            all_knn(rows, folder, 20, block_rows=BLOCK, group=dist.group.WORLD)
        except RuntimeError as error:
            return str(error)
        finally:
            restore()

    errors = run_ranks(2, interrupted)
    assert errors[0] == errors[1]
    assert errors[0].startswith("on rank 0:")
    assert len(list(folder.glob("progress-*.rank-1.safetensors"))) > 1
    assert_same_lists(all_knn(rows, folder, 20)[:], ops.knn(rows, k=20))
    assert len(counted_pairs) == 36 - 5 - 6


def test_all_knn_different_options_or_rows_on_ranks_raise_everywhere(tmp_path):
    def error(rank, options, rows=None):
        try:
            all_knn(rows or small_integers(), tmp_path / "lists", group=dist.group.WORLD, **options)
        except (TypeError, ValueError, RuntimeError) as error:
            return str(error)

    def work(rank):
        return [
            error(rank, {"k": 3 + rank}),
            error(rank, {"k": 3 if rank else 5000}),
            error(rank, {"k": 3}, [str(rank)][:rank]),
        ]

    first, second = run_ranks(2, work)
    assert first == second
    assert first[0] == "k must be the same on every rank, got 3 on rank 0 and 4 on rank 1"
    assert first[1] == "on rank 0: k must be from 1 to 1024, got 5000"
    assert "rows[0], '1', must be an existing file" in first[2]


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
