"""What the tests of the graph index share: rows, comparisons, and the parts of a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from hardmine import _fanng_file
from hardmine.fanng import Index
from helpers import assert_bitwise_equal, seeded

if TYPE_CHECKING:
    import numpy as np


def sample_rows(rows: int = 300, depth: int = 12) -> torch.Tensor:
    """Rows with copies, and a zero row."""
    x = torch.randn(rows, depth, generator=seeded(3))
    if rows > 20:
        x[7] = x[3]
        x[11:14] = x[3]
        x[20] = 0
    return x


def assert_same_index(actual: Index, expected: Index) -> None:
    """Both answer every question alike, to the bit."""
    assert (len(actual), actual.depth, actual.metric) == (len(expected), expected.depth, expected.metric)
    assert actual.stats() == expected.stats()
    assert_bitwise_equal(actual.vectors, expected.vectors)
    queries = torch.randn(20, expected.depth, generator=seeded(9))
    answers = [
        (*index.neighbours(7), *index.search(queries, 5), *index.search(queries, 3, max_distance_computations=9))
        for index in (actual, expected)
    ]
    for a, b in zip(*answers, strict=True):
        assert_bitwise_equal(a, b)


def parts_of(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors and the metadata of a file."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def write_parts(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Writes the file with a checksum that fits."""
    from safetensors.numpy import save_file

    metadata = {key: value for key, value in metadata.items() if key != "sha256"}
    metadata["sha256"] = _fanng_file.checksum(metadata, tensors)
    save_file(tensors, path, metadata)


def assert_unloadable(path: Path, problem: str) -> None:
    """Loading is a ValueError that names the file and the problem."""
    with pytest.raises(ValueError, match=re.escape(f"{path} cannot be loaded as an index: ")) as caught:
        Index.load(path)
    assert re.search(problem, str(caught.value)), str(caught.value)
