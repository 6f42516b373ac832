"""Helpers of the tests of the graph index: rows, comparisons, and the parts of a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from hardmine.fanng import Index
from hardmine.fanng import _file as _fanng_file
from support.comparisons import assert_bitwise_equal
from support.inputs import exact_inputs, seeded

if TYPE_CHECKING:
    import numpy as np


def sample_rows(rows: int = 300, depth: int = 12) -> torch.Tensor:
    """Rows that include copies and a zero row."""
    x = torch.randn(rows, depth, generator=seeded(3))
    if rows > 20:
        x[7] = x[3]
        x[11:14] = x[3]
        x[20] = 0
    return x


def assert_same_index(actual: Index, expected: Index) -> None:
    """Both indices answer every question with the same bits."""
    assert (len(actual), actual.depth, actual.metric) == (len(expected), expected.depth, expected.metric)
    assert actual.stats() == expected.stats()
    assert_bitwise_equal(actual.vectors, expected.vectors)
    queries = torch.randn(20, expected.depth, generator=seeded(9))
    answers = [
        (*index.neighbors(7), *index.search(queries, 5), *index.search(queries, 3, max_distance_computations=9))
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
    """Write the file with a matching checksum."""
    from safetensors.numpy import save_file

    metadata = {key: value for key, value in metadata.items() if key != "sha256"}
    metadata["sha256"] = _fanng_file.checksum(metadata, tensors)
    save_file(tensors, path, metadata)


def assert_unloadable(path: Path, problem: str) -> None:
    """Loading raises a ValueError that names the file and the problem."""
    with pytest.raises(ValueError, match=re.escape(f"{path} cannot be loaded as an index: ")) as caught:
        Index.load(path)
    assert re.search(problem, str(caught.value)), str(caught.value)


# Plain definitions


METRICS = ("cosine", "euclidean")


def plain_distances(queries: Tensor, rows: Tensor, metric: str) -> Tensor:
    """All distances [Q, N] in float64; a zero row is at cosine distance 1 from other rows and at 0 from zero rows."""
    a, b = queries.double(), rows.double()
    if metric == "euclidean":
        return (a[:, None] - b).norm(dim=2)
    a_norm, b_norm = a.norm(dim=1), b.norm(dim=1)
    a_unit, b_unit = (x / n.clamp(min=1e-300)[:, None] for x, n in ((a, a_norm), (b, b_norm)))
    distance = (a_unit[:, None] - b_unit).square().sum(2) / 2
    distance[(a_norm[:, None] == 0) ^ (b_norm == 0)] = 1
    return distance


def exact_rows(metric: str, rows: int, depth: int, seed: int = 0) -> Tensor:
    """Rows whose distances carry no rounding error, with ties and copies."""
    inputs = exact_inputs("cosine" if metric == "cosine" else "euclidean", rows, depth, seed=seed)
    return inputs.embeddings


def plain_edges(rows: Tensor, metric: str) -> list[list[int]]:
    """The occlusion rule applied to all pairs of distinct rows: per row, the rows that its edges lead to."""
    distance = plain_distances(rows, rows, metric)
    first = [i for i in range(len(rows)) if not (distance[i, :i] == 0).any()]
    distance = distance[first][:, first]
    edges = []
    for p in range(len(first)):
        kept: list[int] = []
        for q in sorted((q for q in range(len(first)) if q != p), key=lambda q: (distance[p, q].item(), q)):
            if not any(distance[p, r] < distance[p, q] and distance[r, q] < distance[p, q] for r in kept):
                kept.append(q)
        edges.append(kept)
    return edges
