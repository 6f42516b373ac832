"""Files of a graph index with a matching checksum but invalid contents: the graph's own checks must catch them."""

import json
import random
import re

import numpy as np
import pytest
import torch

from fanng_cases import assert_unloadable, parts_of, sample_rows, write_parts
from hardmine.fanng import Index, _file
from support.inputs import seeded

pytest.importorskip("safetensors")


@pytest.fixture
def tampered(tmp_path):
    """A function that saves an index, changes its parts, and returns the changed file."""

    def tamper(rows=40, metric="euclidean", metadata=None, **tensors):
        path = tmp_path / "graph.index"
        Index.build(sample_rows(rows, 3), metric=metric).save(path)
        parts, saved = parts_of(path)
        for name, change in tensors.items():
            parts[name] = np.ascontiguousarray(change(parts[name].copy()) if callable(change) else change)
        write_parts(path, parts, {**saved, **(metadata or {})})
        return path

    return tamper


def with_item(at, value):
    """A change of one element."""

    def change(tensor):
        tensor[at] = value
        return tensor

    return change


def test_load_unchanged_parts_loads(tampered):
    path = tampered()
    assert Index.load(path).neighbors(3).index.shape == (40, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_load_nonfinite_vectors_raises(tampered, value):
    path = tampered(vectors=with_item((5, 2), value))
    assert_unloadable(path, f"vectors must be finite, got -?{abs(value):f} in row 5, column 2")


def test_load_overflowing_vectors_raises(tampered):
    assert_unloadable(tampered(vectors=with_item((5, 2), 1e30)), "vectors must have norms up to 9.2e18")


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("vectors", lambda x: x.astype(np.float64), r"vectors must be F32 with 2 dimensions, got F64 \[40, 3\]"),
        ("vectors", lambda x: x.astype(np.float16), r"vectors must be F32 with 2 dimensions, got F16"),
        ("vectors", lambda x: x.reshape(-1), r"vectors must be F32 with 2 dimensions, got F32 \[120\]"),
        ("vectors", lambda x: x[:, :0], r"vectors must be \[N, D\] with N < 2\*\*31 and 1 <= D < 2\*\*31"),
        ("first_edge", lambda x: x.astype(np.int32), "first_edge must be I64 with 1 dimension, got I32"),
        ("first_edge", lambda x: x[None], "first_edge must be I64 with 1 dimension, got I64"),
        ("starts", lambda x: x.astype(np.int64), "starts must be U32 with 1 dimension, got I64"),
        ("target", lambda x: x.astype(np.int32), "target must be U32 with 1 dimension, got I32"),
        ("lists", lambda x: x.reshape(-1), "lists must be U32 with 2 dimensions, got U32"),
        ("target", lambda x: x.astype(np.uint64), "target must be U32 with 1 dimension, got U64"),
    ],
)
def test_load_wrong_dtype_or_shape_raises(tampered, name, change, problem):
    assert_unloadable(tampered(**{name: change}), problem)


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("target", with_item(0, 10**6), "vertex 0 of 36 has an edge to 1000000"),
        ("target", with_item(0, 36), "vertex 0 of 36 has an edge to 36"),
        ("target", with_item(-1, 2**32 - 1), "vertex 35 of 36 has an edge to 4294967295"),
        ("target", with_item(0, 0), "vertex 0 of 36 has an edge to 0"),
        ("target", lambda x: x[:-1], "do not match 36 distinct rows"),
        ("target", lambda x: np.append(x, x[:1]), "do not match 36 distinct rows"),
        ("target", lambda x: x[:0], "do not match 36 distinct rows and 0 edges"),
        ("first_edge", with_item(0, 1), "do not match"),
        ("first_edge", with_item(0, -1), "do not match"),
        ("first_edge", with_item(5, -1), "do not match"),
        ("first_edge", with_item(5, 2**62), "do not match"),
        ("first_edge", with_item(5, -(2**63)), "do not match"),
        ("first_edge", with_item(-1, 2**40), "do not match"),
        ("first_edge", with_item(-1, 0), "do not match"),
        ("first_edge", lambda x: x[::-1], "do not match"),
        ("first_edge", lambda x: x[:-1], "the edges of 35 vertices do not match 36 distinct rows"),
        ("first_edge", lambda x: np.append(x, x[-1]), "the edges of 37 vertices do not match 36 distinct rows"),
        ("first_edge", lambda x: x[:1], "the edges of 0 vertices do not match"),
        ("first_edge", lambda x: x[:0], "first_edge must not be empty"),
        # The graph does not match these rows.
        ("vectors", lambda x: x[:-1], "the edges of 36 vertices do not match 35 distinct rows"),
        ("starts", with_item(2, 36), "searches start at distinct vertices of 36, got 36"),
        ("starts", with_item(0, 2**32 - 1), "searches start at distinct vertices of 36, got 4294967295"),
        ("starts", lambda x: np.append(x, x[:1]), "searches start at distinct vertices of 36, got"),
        ("starts", lambda x: x[:0], "no vertex where searches start"),
        ("lists", with_item((2, 1), 36), "lists: vertex 2 of 36 lists 36"),
        ("lists", with_item((2, 1), 2), "lists: vertex 2 of 36 lists 2"),
        ("lists", lambda x: x[:-1, :2], "lists: 70 entries do not match 36 distinct rows"),
        ("vectors", lambda x: x[:0], "the edges of 36 vertices do not match 0 distinct rows"),
        ("vectors", lambda x: x * 0, "the edges of 36 vertices do not match 1 distinct rows"),
    ],
)
def test_load_invalid_graph_raises(tampered, name, change, problem):
    assert_unloadable(tampered(**{name: change}), problem)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format": "hardmine.graph"}, "must have the format 'hardmine.fanng', got 'hardmine.graph'"),
        (
            {"format_version": "4", "library_version": "7.1"},
            "format_version must be 3 for hardmine .*, got 4, written by hardmine 7.1",
        ),
        ({"format_version": "1"}, "got 1, written by hardmine .*: build and save the index again"),
        ({"format_version": "999999999"}, "got 999999999, written by"),
        ({"format_version": "9" * 5000}, "format_version must be a positive integer"),
        ({"format_version": "0"}, "format_version must be a positive integer, got '0'"),
        ({"format_version": "-1"}, "format_version must be a positive integer, got '-1'"),
        ({"format_version": "one"}, "format_version must be a positive integer, got 'one'"),
        ({"format_version": ""}, "format_version must be a positive integer, got ''"),
        ({"format_version": "\u0663"}, "format_version must be a positive integer"),
        ({"metric": "l2"}, "metric must be one of 'cosine', 'dot', 'euclidean', got 'l2'"),
        ({"metric": "__class__"}, "metric must be one of"),
        ({"build": "{"}, r"build must be JSON, got '{'"),
        ({"build": "[" * 100_000}, r"build must be JSON, got '\[\["),
        ({"build": "3"}, "build must be a JSON object, got '3'"),
        ({"build": '{"success_rate": NaN}'}, "build must hold finite numbers, got nan for success_rate"),
        ({"build": '{"success_rate": 1e400}'}, "build must hold finite numbers, got inf for success_rate"),
        ({"build": '{"seed": 3, "more": [-Infinity]}'}, r"build must hold finite numbers, got \[-inf\] for more"),
        ({"stats": "[]"}, "stats must be a JSON object"),
        ({"stats": "{}"}, "stats must have success_rate from 0 to 1, got None"),
    ],
)
def test_load_invalid_metadata_raises(tampered, changes, problem):
    assert_unloadable(tampered(metadata=changes), problem)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("success_rate", float("nan")),
        ("success_rate", 1.5),
        ("success_rate", -0.1),
        ("success_rate", "1"),
        ("success_rate", True),
        ("build_success_rate", None),
        ("build_success_rate", 1.5),
        ("list_recall", None),
        ("traversals", -1),
        ("traversals", 2**63),
        ("traversals", 10**400),
        ("traversals", 1.0),
        ("distance_computations", None),
        ("components", -1),
        ("connecting_edges", 0.5),
        ("widths", None),
        ("widths", [1, 2]),
        ("widths", {"1": 3}),
        ("widths", [1, 2, 3.0]),
        ("widths", [0, 2, 3]),
        ("widths", [1, 2, 2**31]),
        ("widths", [True, 2, 3]),
        ("widths", [2, 1, 3]),
    ],
)
def test_load_invalid_stats_raises(tampered, key, value):
    stats = {
        "success_rate": 0.9,
        "build_success_rate": 1.0,
        "traversals": 5,
        "distance_computations": 6,
        "components": 7,
        "connecting_edges": 8,
        "list_recall": 1.0,
        "widths": [9, 10, 11],
    }
    Index.load(tampered(metadata={"stats": json.dumps(stats)}))
    path = tampered(metadata={"stats": json.dumps({**stats, key: value})})
    assert_unloadable(path, f"stats must have {key} (from [01] to|for lists of)")


def test_load_missing_or_extra_tensors_raises(tampered, tmp_path):
    path = tampered()
    parts, metadata = parts_of(path)
    write_parts(path, {**parts, "more": parts["target"]}, metadata)
    assert_unloadable(path, "must hold the tensors vectors, .*, got first_edge, lists, more, starts, target, vectors")
    for name in list(parts):
        write_parts(path, {other: tensor for other, tensor in parts.items() if other != name}, metadata)
        assert_unloadable(path, "must hold the tensors vectors, first_edge, target, starts, lists, got")


@pytest.mark.parametrize("key", ["format", "format_version", "library_version", "metric", "build", "stats", "sha256"])
def test_load_changed_metadata_fails_checksum(tampered, key):
    """The checksum covers every entry, and is required itself."""
    from safetensors.numpy import save_file

    path = tampered()
    parts, metadata = parts_of(path)
    save_file(parts, path, {**metadata, key: metadata[key] + " "})
    assert_unloadable(path, "checksum|format")
    save_file(parts, path, {other: value for other, value in metadata.items() if other != key})
    assert_unloadable(path, "checksum|format")


def test_load_changed_tensors_fails_checksum(tampered):
    from safetensors.numpy import save_file

    path = tampered()
    parts, metadata = parts_of(path)
    for name, tensor in parts.items():
        changed = tensor.copy()
        changed.reshape(-1)[-1] += 1
        save_file({**parts, name: changed}, path, metadata)
        assert_unloadable(path, "its checksum does not match its contents: the file was changed after it was written")
    save_file({**parts, "vectors": parts["vectors"].reshape(20, 6)}, path, metadata)
    assert_unloadable(path, "checksum")


def test_load_random_graph_raises_or_searches(tampered):
    """Whatever the integers are, loading raises an error about the graph, or searches end and answer in range."""
    path = tampered(rows=30)
    parts, metadata = parts_of(path)
    draw, loaded, problems = random.Random(1), 0, set()
    queries = torch.randn(5, 3, generator=seeded(0))
    vertices, edges = len(parts["first_edge"]) - 1, len(parts["target"])
    for _ in range(300):
        first, target = parts["first_edge"].copy(), parts["target"].copy()
        for _ in range(draw.choice([0, 1, 1, 5])):
            first[draw.randrange(vertices + 1)] += draw.choice([-1, 1, 3, 2**40, -(2**50)])
        if draw.random() < 0.4:
            first = np.sort(np.array([0, *(draw.randrange(edges + 1) for _ in range(vertices - 1)), edges]))
        for _ in range(draw.choice([0, 1, edges])):
            target[draw.randrange(edges)] = draw.randrange(vertices + draw.choice([0, 0, 1, 2**31]))
        write_parts(path, {**parts, "first_edge": first, "target": target}, metadata)
        try:
            index = Index.load(path)
        except ValueError as error:
            problems.add(str(error))
            continue
        loaded += 1
        for found in (
            index.neighbors(7),
            index.neighbors(7, width=9),
            index.search(queries, 7, max_distance_computations=1000),
        ):
            assert ((found.index >= -1) & (found.index < 30)).all()
            assert torch.equal(found.index < 0, found.distance.isnan())
            ascending = found.distance.nan_to_num(float("inf"))
            assert (ascending.diff(dim=1).nan_to_num(0.0) >= 0).all()
    assert 20 < loaded < 280
    assert all(re.search("do not match|has an edge to", problem) for problem in problems)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_load_graph_without_edges_searches(tampered, metric):
    """An index without edges is valid: searches find the row at which they start, and its copies."""
    path = tampered(metric=metric, first_edge=lambda x: x * 0, target=lambda x: x[:0])
    index = Index.load(path)
    assert index.search(index.vectors[:4], 2, start=torch.arange(4)).index[:3].tolist() == [[0, -1], [1, -1], [2, -1]]
    assert index.search(index.vectors[3:4], 5, start=3).index.tolist() == [[3, 7, 11, 12, 13]]


def test_save_of_stats_that_load_refuses_raises_and_writes_nothing(tmp_path):
    index = Index.build(sample_rows(20, 3))
    contents = _file.disassemble(index._core, index._vectors, index._settings)
    with pytest.raises(ValueError, match=r"stats must have widths from 1 .*, ascending, got \[2, 1, 3\]"):
        _file.write(tmp_path / "index", contents._replace(stats={**contents.stats, "widths": [2, 1, 3]}))
    with pytest.raises(ValueError, match="build must hold finite numbers, got nan for success_rate"):
        _file.write(tmp_path / "index", contents._replace(build={"success_rate": float("nan")}))
    assert not list(tmp_path.iterdir())
