"""Features cached in a file: an interrupted computation resumes, and gives the same result; its progress bar."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from feature_cache_cases import (
    CHUNK,
    COUNT,
    FailingImages,
    Images,
    compute,
    expected_features,
    interrupt_run,
    parts_of,
    small_backbone,
)
from papers.networks import Backbone, cache
from support.inputs import seeded
from support.processes import run_python

pytestmark = pytest.mark.slow

safetensors_torch = pytest.importorskip("safetensors.torch")
pytest.importorskip("tqdm")


class StopError(Exception):
    """An arbitrary error in the middle of a run."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, StopError, MemoryError])
def test_cache_features_interrupted_resumes(images, path, error):
    """Image 10 is in the third chunk: the first two chunks are kept, and not read again."""
    interrupt_run(images, path, 10, error)
    assert parts_of(path) == ["0000000000.safetensors", "0000000004.safetensors"]
    assert not path.exists()
    images.read.clear()
    features = compute(images, path)
    assert images.read == list(range(8, COUNT))
    assert torch.equal(features, expected_features(images))
    assert os.listdir(path.parent) == [path.name]


def test_cache_features_interrupted_repeatedly_resumes(images, path):
    for at in (0, 3, 4, 4, 9, 13, 17):
        interrupt_run(images, path, at)
    images.read.clear()
    assert torch.equal(compute(images, path), expected_features(images))
    assert images.read[: COUNT - 16] == [16, 17]


def test_cache_features_resumes_with_other_chunk_size(images, path):
    interrupt_run(images, path, 10)
    with pytest.raises(KeyboardInterrupt):
        compute(FailingImages(images, 15, KeyboardInterrupt), path, chunk=5)
    assert parts_of(path) == [f"{first:010d}.safetensors" for first in (0, 4, 8)]
    torch.testing.assert_close(compute(images, path, chunk=2), expected_features(images))


def test_cache_features_tensor_resumes(path, monkeypatch):
    pixels = torch.randint(256, (COUNT, 3, 8, 8), generator=seeded(0), dtype=torch.uint8)
    forward, seen = Backbone.forward, []

    def failing(self, some):
        seen.append(len(some))
        if len(seen) == 3:
            raise StopError
        return forward(self, some)

    monkeypatch.setattr(Backbone, "forward", failing)
    with pytest.raises(StopError):
        compute(pixels, path)
    features = compute(pixels, path)
    assert seen == [4, 4, 4, 4, 4, 2]
    monkeypatch.undo()
    with torch.no_grad():
        assert torch.equal(features, torch.cat([small_backbone().eval()(some) for some in pixels.split(CHUNK)]))


def test_cache_features_interrupted_before_final_file_joins_parts(images, path, monkeypatch):
    """All parts exist: no feature is computed, and the file is put together."""
    right = cache._write

    def failing(target, *given):
        if target == path:
            raise KeyboardInterrupt
        right(target, *given)

    monkeypatch.setattr(cache, "_write", failing)
    with pytest.raises(KeyboardInterrupt):
        compute(images, path)
    assert len(parts_of(path)) == 5
    monkeypatch.undo()
    expected = expected_features(images)
    images.read.clear()
    monkeypatch.setattr(Backbone, "forward", None)
    assert torch.equal(compute(images, path), expected)
    assert images.read == []


def test_cache_features_leftover_parts_deleted(images, path):
    """Parts that remain beside a complete file are deleted."""
    interrupt_run(images, path)
    folder = path.with_name(f"{path.name}.parts")
    shutil.copytree(folder, path.parent / "kept")
    features = compute(images, path)
    shutil.move(path.parent / "kept", folder)
    assert torch.equal(compute(images, path), features)
    assert os.listdir(path.parent) == [path.name]


KILLED = """
import os, signal, sys
import torch
sys.path.insert(0, {tests!r})
from feature_cache_cases import CHUNK, Images, small_backbone
from papers.networks import cache_features
from pathlib import Path

class Killing(Images):
    def __getitem__(self, index):
        if index == 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)

cache_features(small_backbone(), Killing(Path({root!r}), {names!r}), {path!r}, chunk=CHUNK, progress=False)
"""


@pytest.mark.subprocess
def test_cache_features_killed_resumes(images, path, tmp_path):
    names = [str(p.relative_to(tmp_path)) for p in images.paths]
    script = KILLED.format(tests=str(Path(__file__).parent), root=str(tmp_path), names=names, path=str(path))
    process = run_python("-c", script)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert parts_of(path) == ["0000000000.safetensors", "0000000004.safetensors"]
    torch.testing.assert_close(compute(images, path), expected_features(images))
    assert 0 not in images.read[: COUNT - 8]


SLOWER = """
import sys, time
sys.path.insert(0, {tests!r})
from feature_cache_cases import CHUNK, Images, small_backbone
from papers.networks import cache_features
from pathlib import Path

class Slow(Images):
    def __getitem__(self, index):
        print(index, flush=True)
        time.sleep(0.05)  # so that the other process comes while this one computes
        return super().__getitem__(index)

cache_features(small_backbone(), Slow(Path({root!r}), {names!r}), {path!r}, chunk=CHUNK, progress=False)
"""


@pytest.mark.subprocess
def test_cache_features_two_processes_compute_once(images, path, tmp_path):
    names = [str(p.relative_to(tmp_path)) for p in images.paths]
    script = SLOWER.format(tests=str(Path(__file__).parent), root=str(tmp_path), names=names, path=str(path))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    slower = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert slower.stdout.readline() == "0\n"  # it has begun
    features = compute(images, path)
    assert images.read == [], "the call must wait for the other process"
    _, errors = slower.communicate(timeout=300)
    assert slower.returncode == 0, errors
    assert torch.equal(features, expected_features(images))
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("damage", ["short", "empty", "altered", "misplaced"])
def test_cache_features_damaged_part_recomputed(images, path, damage):
    """The parts after the damaged one are computed again too, since they may have other chunks."""
    interrupt_run(images, path, 14)
    folder = path.with_name(f"{path.name}.parts")
    first, second, _ = (folder / name for name in parts_of(path))
    whole = second.read_bytes()
    damaged = {
        "short": whole[:-5],
        "empty": b"",
        "altered": whole[:-1] + bytes([whole[-1] ^ 1]),
        "misplaced": first.read_bytes(),
    }
    second.write_bytes(damaged[damage])
    images.read.clear()
    assert torch.equal(compute(images, path), expected_features(images))
    assert images.read[: COUNT - CHUNK] == list(range(CHUNK, COUNT))


def test_cache_features_other_parts_raise(images, path):
    """Parts may hold hours of work, so they are not simply deleted."""
    interrupt_run(images, path)
    with pytest.raises(ValueError, match=r"0000000000.safetensors contains features of other weights: "):
        compute(images, path, small_backbone(nn.Tanh))
    assert len(parts_of(path)) == 2
    stranger = path.with_name(f"{path.name}.parts") / "0000000000.safetensors"
    safetensors_torch.save_file({"other": torch.ones(2)}, stranger)
    with pytest.raises(ValueError, match="is not a file of features; delete it or choose another path"):
        compute(images, path)


def test_cache_features_too_many_parts_recomputed(images, path):
    """The data fingerprint claims that the data are the same."""
    with pytest.raises(KeyboardInterrupt):
        compute(FailingImages(images, 10, KeyboardInterrupt), path, data_fingerprint="mine")
    few = Images(Path("/"), [str(p) for p in images.paths[:6]])
    assert torch.equal(compute(few, path, data_fingerprint="mine"), expected_features(few))


# Progress


def test_cache_features_shows_progress(images, path, capsys):
    compute(images, path)
    assert capsys.readouterr().err == ""
    path.unlink()
    with pytest.raises(KeyboardInterrupt):
        compute(FailingImages(images, 10, KeyboardInterrupt), path, progress=True)
    shown = capsys.readouterr().err
    assert "reading: 100%" in shown
    assert "8/18" in shown
    compute(images, path, progress=True)
    shown = capsys.readouterr().err
    assert " 8/18 " in shown, "it starts where it was"
    assert " 4/18 " not in shown
    assert " 18/18 " in shown
