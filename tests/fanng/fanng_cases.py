"""Helpers of the tests of the graph index: rows, comparisons, and the parts of a file."""

from __future__ import annotations

import math
import re
from itertools import pairwise
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

FULL_EFFORT = {"max_distance_computations": 10**6}  # enough to measure every row that can be reached
MAX_EXTRA = 3  # edges per vertex beyond max_degree, which connect the graph
METRICS = ("cosine", "dot", "euclidean")
DISTANCES = ("cosine", "euclidean")  # under which a row is the nearest to itself
each_metric = pytest.mark.parametrize("metric", METRICS)
each_distance = pytest.mark.parametrize("metric", DISTANCES)


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


def naive_index(x: Tensor, metric: str, **options) -> Index:
    """An index whose searches reach every row."""
    return Index.build(x, metric=metric, init="naive", max_degree=65535, **options)


def edges_of(index: Index) -> list[list[int]]:
    """Per distinct row, the rows that its edges lead to."""
    first, target, _ = index._core.graph
    return [target[a:b].tolist() for a, b in pairwise(first)]


def assert_exact(found, distance: Tensor, own: Tensor | None = None, tolerance: float = 0.0) -> None:
    """``found`` holds the nearest rows by ``distance`` [Q, N]; row ``own[q]`` is excluded, and the end is padded."""
    distance, k = distance.clone(), found.index.shape[1]
    if own is not None:
        distance[torch.arange(len(own)), own] = math.inf
    queries, rows = distance.shape
    count = min(k, rows - (own is not None)) if rows else 0
    want = distance.sort(dim=1).values[:, :count]
    assert found.distance.dtype == torch.float32
    assert found.index.dtype == torch.int64
    assert found.distance.shape == found.index.shape == (queries, k)
    torch.testing.assert_close(found.distance[:, :count], want.float(), rtol=tolerance, atol=tolerance)
    assert (found.index[:, count:] == -1).all()
    assert found.distance[:, count:].isnan().all()
    # Each row is at the reported distance, and occurs once.
    index = found.index[:, :count]
    if not tolerance:
        assert index.equal(distance.sort(dim=1, stable=True).indices[:, :count]), "ties go to the lowest index"
    torch.testing.assert_close(distance.gather(1, index), want, rtol=tolerance, atol=tolerance)
    assert (index.sort(dim=1).values.diff(dim=1) > 0).all()


# Plain definitions


def plain_distances(queries: Tensor, rows: Tensor, metric: str) -> Tensor:
    """All distances [Q, N] in float64; a zero row is at cosine distance 1 from other rows and at 0 from zero rows."""
    a, b = queries.double(), rows.double()
    if metric == "euclidean":
        return (a[:, None] - b).norm(dim=2)
    if metric == "dot":
        return -a @ b.T
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
