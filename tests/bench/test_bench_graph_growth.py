"""Time against N at tiny sizes: points are measured once, and the table, exponents and crossover follow from them."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("tqdm")

import graph_growth
import graph_search
from graphs import data
from graphs.contestants import Exact


def words(n):
    return data.data_set_of("words", "words", "cosine", data.clusters(400, 8)[:n], "synthetic")


def test_sampled_recall_counts_exact_neighbors():
    rows = words(300)
    exact = Exact().lists(None, rows, graph_growth.K, 0)
    assert graph_growth.sampled_recall(rows, exact) == 1.0
    worse = exact.copy()
    worse[:, 0] = (np.arange(300) + 150) % 300  # mostly far rows
    assert graph_growth.sampled_recall(rows, worse) < 0.995


def test_lists_of_some_rows_equal_those_of_all():
    rows, some = words(300), np.array([3, 7, 299])
    np.testing.assert_array_equal(Exact().lists_of(rows, some, 10), Exact().lists(None, rows, 10, 0)[some])


def point(n, cpu_s):
    return {"n": n, "cpu_s": cpu_s, "recall": 1.0}


def test_crossover_lies_between_the_points_around_it():
    points = {"exact": [point(100, 1.0), point(200, 4.0)], "leaves": [point(100, 2.0), point(200, 2.0)]}
    assert graph_growth.crossover(points) == pytest.approx(100 * 2**0.5)
    assert graph_growth.crossover({**points, "leaves": points["leaves"][:1]}) is None


def test_main_measures_missing_points_only(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(graph_growth, "load_words", words)
    output = tmp_path / "r.md"

    def run(*arguments):
        options = ["graph_growth.py", "--threads", "1", "--contestants", "exact", "default", "--output", str(output)]
        monkeypatch.setattr(sys, "argv", [*options, *arguments])
        graph_growth.main()
        return json.loads(output.with_suffix(".json").read_text())

    first = run("--sizes", "100")
    found = run("--sizes", "100", "200")
    assert [found[name][0] == first[name][0] for name in ("exact", "default")] == [True, True]
    assert [each["n"] for each in found["default"]] == [100, 200]
    assert found["hnswlib"] == []
    again = run("--sizes", "100", "200", "--again", "exact")
    assert again["default"] == found["default"]
    assert again["exact"] != found["exact"]
    assert output.with_suffix(".png").stat().st_size > 10_000
    assert "| 200 | " in output.read_text()
    assert "default, from 100 to 200 words: N^" in output.read_text()


def test_graph_search_builds_named_rivals(monkeypatch):
    pytest.importorskip("hnswlib")
    assert graph_search.build_of("12,100") == (12, 100)
    rows = words(300)
    assert list(graph_search.searches_of(rows, rows.rows[:5], [(8, 40)])) == [
        "hardmine",
        "hnswlib, M = 8, ef_construction = 40",
    ]
