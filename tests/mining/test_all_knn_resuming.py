"""all_knn goes on after interrupts, kills and damage without redoing work, and loses nothing on a full disk."""

import multiprocessing
import os
import resource
import shutil
import signal
import time

import numpy as np
import pytest
import torch

from hardmine import ops
from hardmine.mining import NeighborShards, _block_pairs, all_knn, plan_all_knn
from hardmine.mining._list_files import sole_writer
from support.comparisons import assert_bitwise_equal
from whole_sets import BLOCK, InterruptedRunError, N, assert_same_lists, interrupt_after, small_integers

pytest.importorskip("safetensors.torch")


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
