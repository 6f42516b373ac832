"""Fixtures shared by several test files of the papers' trainings."""

from pathlib import Path

import pytest
import torch

from support.inputs import seeded


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder in which commands run, with a recipe and an experiment; restores the number of threads."""
    from training_cases import EXPERIMENT, TOML  # imported here, since not every test needs these modules

    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TOML)
    (tmp_path / "many.toml").write_text(EXPERIMENT)
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture
def images(tmp_path):
    """Eighteen images, in two folders."""
    from feature_cache_cases import COUNT, Images

    generator = seeded(0)
    names = [f"images/{'ab'[number % 2]}/{number:02d}.raw" for number in range(COUNT)]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(torch.randint(256, (192,), generator=generator).tolist()))
    return Images(tmp_path, names)


@pytest.fixture
def path(tmp_path) -> Path:
    """The path of the file of features."""
    return tmp_path / "cache" / "small.safetensors"
