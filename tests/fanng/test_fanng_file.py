"""Files of a graph index: a loaded index equals the saved one, and any other file is a clear error."""

import hashlib
import json
import os
import random
import re
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import hardmine
from fanng_cases import assert_same_index, assert_unloadable, parts_of, sample_rows
from hardmine.fanng import Index
from hardmine.fanng import _file as _fanng_file
from support.inputs import seeded
from support.processes import output_of, run_python

safetensors = pytest.importorskip("safetensors")
safetensors_numpy = pytest.importorskip("safetensors.numpy")


@pytest.fixture
def saved(tmp_path) -> Path:
    """A small file of an index."""
    path = tmp_path / "graph.index"
    Index.build(sample_rows(40, 3), metric="euclidean", seed=5).save(path)
    return path


# What was saved


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])
@pytest.mark.parametrize("rows", [0, 1, 2, 300])
def test_load_saved_index_answers_bitwise_equal(metric, rows, tmp_path):
    index = Index.build(sample_rows(rows), metric=metric, seed=4)
    index.save(tmp_path / "a")
    loaded = Index.load(tmp_path / "a")
    assert_same_index(loaded, index)
    loaded.save(str(tmp_path / "b"))
    # The order of the metadata in a file is not fixed.
    parts = [parts_of(tmp_path / name) for name in ("a", "b")]
    assert parts[0][1] == parts[1][1]


def test_load_as_init_builds_same_graph(tmp_path):
    x = sample_rows()
    index = Index.build(x)
    index.save(tmp_path / "a")
    moved = x + 0.01 * torch.randn(x.shape, generator=seeded(1))
    assert_same_index(Index.build(moved, init=Index.load(tmp_path / "a")), Index.build(moved, init=index))


def test_load_then_delete_file_keeps_answers(saved):
    index, again = Index.load(saved), Index.load(saved)
    saved.write_bytes(b"\xff" * saved.stat().st_size)  # in place, not as a new file with that name
    saved.unlink()
    assert_same_index(index, again)
    assert index.vectors.isfinite().all()


@pytest.mark.subprocess
def test_load_in_other_process_answers_equal(saved):
    script = f"from hardmine.fanng import Index; print(Index.load({str(saved)!r}).neighbors(5).index.tolist())"
    assert json.loads(output_of(run_python("-c", script))) == Index.load(saved).neighbors(5).index.tolist()


def test_save_file_matches_documented_format(saved):
    """docs/graph-index.md, section "File format", checksum included."""
    tensors, metadata = parts_of(saved)
    dtypes = {name: (tensor.dtype.str, tensor.ndim) for name, tensor in tensors.items()}
    assert dtypes == {
        "vectors": ("<f4", 2),
        "first_edge": ("<i8", 1),
        "target": ("<u4", 1),
        "starts": ("<u4", 1),
        "lists": ("<u4", 2),
    }
    checksum = metadata.pop("sha256")
    assert metadata["format"] == "hardmine.fanng"
    assert metadata["format_version"] == "3"
    assert metadata["library_version"] == hardmine.__version__
    assert metadata["metric"] == "euclidean"
    assert json.loads(metadata["build"])["seed"] == 5
    stats = json.loads(metadata["stats"])
    counts = {"traversals", "distance_computations", "components", "connecting_edges"}
    assert set(stats) == {"success_rate", "build_success_rate", "list_recall", "widths"} | counts
    assert len(stats["widths"]) == 3
    shapes = {name: [tensor.dtype.str, list(tensor.shape)] for name, tensor in tensors.items()}
    text = json.dumps([metadata, shapes], sort_keys=True, separators=(",", ":"))
    data = b"".join(tensors[name].tobytes() for name in ("first_edge", "lists", "starts", "target", "vectors"))
    assert hashlib.sha256(text.encode() + data).hexdigest() == checksum


def test_save_edges_are_sorted_nearest_first(saved):
    tensors, _ = parts_of(saved)
    vectors, first, target = (tensors[name] for name in ("vectors", "first_edge", "target"))
    distinct = vectors[np.sort(np.unique(vectors, axis=0, return_index=True)[1])]
    for v in range(len(distinct)):
        lengths = np.linalg.norm(distinct[target[first[v] : first[v + 1]]] - distinct[v], axis=1)
        assert (np.diff(lengths) >= -1e-6).all()


# Writing


def test_save_over_existing_file_leaves_only_it(saved):
    index = Index.build(sample_rows(50))
    index.save(saved)
    assert_same_index(Index.load(saved), index)
    assert os.listdir(saved.parent) == [saved.name]


def test_save_failing_write_keeps_old_file(saved, monkeypatch):
    before, index = saved.read_bytes(), Index.build(sample_rows(50))

    def fail(*_args):
        raise OSError("no space left")

    for function in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(_fanng_file.os, function, fail)
            with pytest.raises(OSError, match="no space left"):
                index.save(saved)
        assert saved.read_bytes() == before
        assert os.listdir(saved.parent) == [saved.name]


def test_save_safetensors_error_raises_os_error(saved, monkeypatch):
    def fail(*_args):
        raise safetensors.SafetensorError("the disk is gone")

    monkeypatch.setattr(safetensors_numpy, "save_file", fail)
    with pytest.raises(OSError, match=f"{re.escape(str(saved))} could not be written: the disk is gone"):
        Index.build(sample_rows(5)).save(saved)
    assert os.listdir(saved.parent) == [saved.name]


def test_save_unwritable_path_raises(tmp_path):
    index = Index.build(sample_rows(5))
    with pytest.raises(FileNotFoundError):
        index.save(tmp_path / "no folder" / "a")
    with pytest.raises(FileExistsError, match="must name a regular file"):
        index.save(tmp_path)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(FileExistsError, match="nothing was saved"):
        index.save(fifo)
    assert stat.S_ISFIFO(fifo.stat().st_mode), "a special file must not be replaced"
    with pytest.raises(TypeError):
        index.save(3)


def test_save_follows_links_with_default_permissions(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "target")
    (tmp_path / "usual").write_bytes(b"")
    index = Index.build(sample_rows(5))
    index.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert_same_index(Index.load(tmp_path / "folder" / "target"), index)
    mode = (tmp_path / "folder" / "target").stat().st_mode
    assert mode == (tmp_path / "usual").stat().st_mode


def test_load_during_concurrent_saves_reads_complete_files(tmp_path):
    path = tmp_path / "a"
    indices = [Index.build(sample_rows(rows, 4)) for rows in (30, 60)]
    indices[0].save(path)
    stop, errors = threading.Event(), []

    def write(index: Index) -> None:
        try:
            while not stop.is_set():
                index.save(path)
        except Exception as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(index,)) for index in indices]
    for writer in writers:
        writer.start()
    try:
        sizes = {len(Index.load(path)) for _ in range(40)}
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert not errors
    assert sizes <= {30, 60}
    assert os.listdir(tmp_path) == ["a"]


# Files that are not an index


def test_load_missing_path_raises(tmp_path):
    path = tmp_path / "graph"
    with pytest.raises(
        FileNotFoundError, match=f"^path must be the file of a saved index, got '{path}': no such file$"
    ):
        Index.load(path)
    with pytest.raises(IsADirectoryError):
        Index.load(tmp_path)
    with pytest.raises(TypeError):
        Index.load(None)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"\0" * 8, b"\0" * 100, b"\xff" * 64, b"a text, and a rather long one", b"\2\0\0\0\0\0\0\0{}"],
    ids=["empty", "one byte", "no header", "zeros", "ones", "text", "no tensors"],
)
def test_load_foreign_bytes_raises(content, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(content)
    assert_unloadable(path, "not a safetensors file|must have the format 'hardmine.fanng', got None")


def test_load_foreign_safetensors_raises(tmp_path):
    path = tmp_path / "a"
    safetensors_numpy.save_file({"weight": np.zeros(3)}, path)
    assert_unloadable(path, "must have the format 'hardmine.fanng', got None")
    safetensors_numpy.save_file({"weight": np.zeros(3)}, path, {"format": "pt"})
    assert_unloadable(path, "must have the format 'hardmine.fanng', got 'pt'")


def test_load_header_with_huge_sizes_allocates_nothing(tmp_path):
    """Header lengths and shapes up to the largest integers, in files of a few bytes."""
    path = tmp_path / "a"
    for length in (10**8, 10**12, 2**62, 2**63 - 1, 2**64 - 1):
        path.write_bytes(length.to_bytes(8, "little") + b"{}" * 20)
        assert_unloadable(path, "not a safetensors file")
    for shape in ([2**31, 2**31], [2**62, 4], [2**64 - 1, 1], [10**30, 1], [-1, 3]):
        header = {
            "__metadata__": {"format": "hardmine.fanng", "format_version": "3"},
            "vectors": {"dtype": "F32", "shape": shape, "data_offsets": [0, 12]},
            "first_edge": {"dtype": "I64", "shape": [1], "data_offsets": [12, 20]},
            "target": {"dtype": "U32", "shape": [0], "data_offsets": [20, 20]},
            "starts": {"dtype": "U32", "shape": [0], "data_offsets": [20, 20]},
            "lists": {"dtype": "U32", "shape": [0, 0], "data_offsets": [20, 20]},
        }
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 20)
        assert_unloadable(path, "not a safetensors file")
    for shape in ([0, 2**40], [2**40, 0], [2**31, 0], [0, 0], [5, 0], [0, 2**31]):
        header["vectors"] = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
        header["first_edge"]["data_offsets"] = [0, 8]
        for name in ("target", "starts", "lists"):
            header[name]["data_offsets"] = [8, 8]
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 8)
        assert_unloadable(path, r"vectors must be \[N, D\] with N < 2\*\*31 and 1 <= D < 2\*\*31")


# Damaged files


def damage(data: bytes, draw: random.Random) -> bytes:
    """One of several kinds of damage to a file."""
    out, kind = bytearray(data), draw.randrange(7)
    at, other = sorted(draw.randrange(len(out)) for _ in range(2))
    if draw.random() < 0.5:  # the header is a small part, where most failures are possible
        at, other = sorted(draw.randrange(700) for _ in range(2))
    if kind == 0:
        out[at] ^= 1 << draw.randrange(8)
    elif kind == 1:
        out[at] = draw.randrange(256)
    elif kind == 2:
        del out[at:]
    elif kind == 3:
        out[at:at] = draw.randbytes(draw.choice([1, 4, 8, 100]))
    elif kind == 4:
        out[at], out[other] = out[other], out[at]
    elif kind == 5:
        del out[at : at + draw.choice([1, 4, 8])]
    else:
        out[at : at + 8] = draw.choice([b"\xff" * 8, b"\0" * 8, b"99999999", b'""""""""'])
    return bytes(out)


@pytest.mark.slow
def test_load_damaged_file_raises_or_is_unharmed(saved):
    """Thousands of files with a bit, a byte or a range of bytes changed."""
    data, draw, expected = saved.read_bytes(), random.Random(0), Index.load(saved)
    header_end = 8 + int.from_bytes(data[:8], "little")
    start = f"{saved} cannot be loaded as an index: "
    problems, unharmed = set(), 0
    for _ in range(2500):
        content = damage(data, draw)
        saved.write_bytes(content)
        try:
            index = Index.load(saved)
        except ValueError as error:
            problems.add(str(error)[: len(start) + 25])
        else:
            # Only white space of the header was hit, if anything.
            unharmed += 1
            assert content[header_end:] == data[header_end:]
            assert_same_index(index, expected)
    assert all(problem.startswith(start) for problem in problems)
    assert len(problems) >= 5, problems
    assert unharmed < 200


@pytest.mark.slow
def test_load_any_changed_byte_raises(saved):
    """A changed byte is noticed everywhere in the tensors, and in the header outside white space."""
    data = saved.read_bytes()
    header_end = 8 + int.from_bytes(data[:8], "little")
    for at in (*range(header_end), *range(header_end, len(data), 7)):
        if data[at : at + 1] == b" ":
            continue
        saved.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert_unloadable(saved, ".")


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_load_truncated_file_raises(saved, share):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(share * len(data))])
    assert_unloadable(saved, "truncated, damaged or not a safetensors file")
