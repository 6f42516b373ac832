"""The graph benchmark's own code at tiny sizes, regardless of times: it measures and judges correctly."""

import json
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

pytest.importorskip("tqdm")

import graph_report
import graph_search
from graphs import contestants, data, grids, measuring, parts
from graphs.contestants import SEEDED, TRAVERSE_ADD, WARM
from hardmine import ops

N, K = 300, 10


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.delenv("HARDMINE_DATA", raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)  # a report sets the thread count


@pytest.fixture(params=["cosine", "euclidean"])
def rows(request):
    return data.data_set_of("sift", "rows", request.param, data.clusters(N, 12), "synthetic")


# --- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sift", "cars"])
def test_loaders_missing_file_gives_synthetic_rows(name):
    found = data.LOADERS[name]()
    assert not found.real
    assert "HARDMINE_DATA names no folder" in found.source
    assert found.rows.dtype == np.float32
    if found.metric == "cosine":
        np.testing.assert_allclose(np.linalg.norm(found.rows, axis=1), 1, rtol=1e-5)


def test_loaders_read_files_in_hardmine_data(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    np.save(tmp_path / data.SIFT_FILE, generator.integers(0, 256, (40, 128), dtype=np.uint8))
    np.save(tmp_path / data.CARS_FILE, generator.standard_normal((100, 80)).astype(np.float16))
    monkeypatch.setenv("HARDMINE_DATA", str(tmp_path))
    assert data.load_sift().rows.shape == (40, 128)
    cars = data.load_cars()
    assert cars.real
    assert cars.rows.shape == (100, data.CARS_DEPTH)
    assert data.trained_move(cars) is None  # the data has no labels


def test_principal_keeps_largest_variance():
    generator = np.random.default_rng(0)
    spread = np.array([1.0, 5.0, 0.1, 3.0])
    rows = generator.standard_normal((5000, 4)) * spread + 7
    np.testing.assert_allclose(data.principal(rows, 2).std(0), [5, 3], rtol=0.05)


def test_noisy_move_keeps_requested_share(rows):
    moves = [data.noisy_move(rows, kept) for kept in (0.95, 0.8)]
    assert [move.kept for move in moves] == pytest.approx([0.95, 0.8], abs=0.02)
    assert data.kept_share(rows, rows) == 1.0


# --- recall ----------------------------------------------------------------------------------------------------------


def test_truth_recall_is_1_only_for_exact_lists(rows):
    truth = measuring.Truth(rows, K)
    assert truth.recall(truth.index) == 1.0
    longer = ops.knn(torch.from_numpy(rows.rows), k=K + 1, similarity=rows.metric).index.numpy()
    assert truth.recall(np.delete(longer, 3, axis=1)) == pytest.approx(0.9)
    worse = truth.index.copy()
    worse[: N // 2, -1] = -1
    assert truth.recall(worse) == pytest.approx(0.95)


def test_truth_recall_ties_count_as_found():
    # Row 0 has four equidistant neighbors: any two of them are right.
    points = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    truth = measuring.Truth(data.data_set_of("sift", "", "euclidean", points, ""), 2)
    tied = truth.index.copy()
    tied[0] = [4, 3]
    assert set(truth.index[0]) == {1, 2}
    assert truth.recall(tied) == 1.0
    tied[1] = [0, 2]  # at distances 1 and 2, instead of 1 and 1.41
    assert truth.recall(tied) == 0.9


def test_truth_recall_malformed_lists_raise(rows):
    truth = measuring.Truth(rows, K)
    duplicated = truth.index.copy()
    duplicated[7, 0] = duplicated[7, 1]
    with pytest.raises(AssertionError, match="a row twice"):
        truth.recall(duplicated)
    with_self = truth.index.copy()
    with_self[7, 0] = 7
    with pytest.raises(AssertionError, match="contains its own row"):
        truth.recall(with_self)
    with pytest.raises(AssertionError, match=r"lists must be \[300, 10\], got \[300, 9\]"):
        truth.recall(truth.index[:, 1:])


def all_contestants():
    efforts = (12, 150, 280)
    return [
        contestants.Exact(),
        contestants.Fanng((0,), init="auto", success_rate=0.0),
        contestants.Fanng(efforts),
        contestants.Fanng(efforts, init="exact", success_rate=0.9, traversals_per_row=5),
        contestants.Hnswlib(12, 60, efforts),
        contestants.FaissHnsw(12, 60, efforts),
    ]


@pytest.mark.parametrize("contestant", all_contestants(), ids=lambda contestant: contestant.family)
def test_contestant_recall_grows_with_effort(rows, contestant):
    try:
        contestants.require(contestant)
    except contestants.SkippedRivalError as reason:
        pytest.skip(str(reason))
    truth = measuring.Truth(rows, K)
    graph = contestant.build(rows)
    recalls = [truth.recall(contestant.lists(graph, rows, K, effort)) for effort in contestant.efforts]
    assert recalls[-1] > 0.99
    if len(recalls) > 1:
        assert recalls[0] < recalls[1] <= recalls[-1], "more effort finds more"


def test_drop_self_removes_each_row():
    # The last row is not in its list, since a duplicate comes first. In this case the list's last entry is dropped.
    found = contestants.drop_self(np.array([[0, 1, 2], [0, 1, 2], [0, 1, 3]]))
    assert found.tolist() == [[1, 2], [0, 2], [0, 1]]


# --- timing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counted:
    """A contestant that counts its calls; its effort is the share of right entries."""

    family: str
    calls: list
    efforts: tuple = (5, 8, 10)
    library: str = "counted"
    setting: str = "none"
    repeatable: bool = True

    def build(self, rows):
        self.calls.append("build")
        return ops.knn(torch.from_numpy(rows.rows), k=K, similarity=rows.metric).index.numpy()

    def lists(self, graph, rows, k, effort):
        self.calls.append(effort)
        lists = graph.copy()
        lists[:, effort:] = -1
        return lists

    def facts(self, graph):
        return {}


@pytest.fixture
def counted_pair(rows, monkeypatch):
    monkeypatch.setattr(measuring, "warm_up", lambda *_: None)
    return measuring.Truth(rows, K), [Counted("a", []), Counted("b", [])]


def test_sweep_stops_at_recall_and_repeats_efforts(rows, counted_pair):
    truth, pair = counted_pair
    steps = list(measuring.sweep(rows, truth, pair, passes=2, seconds=1e9, stop_recall=0.8))
    assert [len(step) for step in steps] == [2, 4, 4]
    assert [sample.point()["recall"] for sample in steps[-1]] == [0.5, 0.8, 0.5, 0.8]
    assert pair[0].calls == ["build", 5, 8] * 2
    assert steps[-1][0].point()["passes"] == 2


def test_sweep_out_of_time_measures_required_efforts(rows, counted_pair):
    truth, pair = counted_pair
    list(measuring.sweep(rows, truth, pair, passes=9, seconds=0, stop_recall=0.4, always=(10,)))
    assert pair[0].calls == ["build", 5, 10]


def test_sweep_slow_effort_skips_higher_efforts(rows, counted_pair):
    truth, pair = counted_pair
    list(measuring.sweep(rows, truth, pair, passes=1, seconds=0, stop_recall=2, max_times_first=0.0))
    assert pair[1].calls == ["build", 5]


def test_fastest_must_reach_recall(rows, counted_pair):
    truth, pair = counted_pair
    *_, samples = measuring.sweep(rows, truth, pair, passes=1, seconds=0, stop_recall=2)
    for sample, seconds in zip(samples, (1, 2, 3, 1, 3, 2), strict=True):
        sample.build_s, sample.query_s = [0.5], [seconds]
    assert measuring.fastest(samples, 0.7) is samples[1]
    assert measuring.fastest(samples, 0.9) is samples[5]
    assert measuring.fastest(samples[:2], 0.9) is None


def test_head_to_head_times_all_in_every_round(rows, counted_pair):
    truth, pair = counted_pair
    *_, samples = measuring.sweep(rows, truth, pair, passes=1, seconds=0, stop_recall=2)
    points = measuring.head_to_head(rows, truth, [samples[2], samples[4]], rounds=3)
    assert [(point["passes"], point["recall"]) for point in points] == [(3, 1.0), (3, 0.8)]
    assert points[0]["of_first"]["of_medians"] == 1.0
    expected = points[1]["total_s"] / points[0]["total_s"]
    assert points[1]["of_first"]["of_medians"] == pytest.approx(expected)


@pytest.mark.parametrize("least", [10, 11, 17, 64, 999])
def test_narrowest_search_is_found_by_bisection(least):
    widths = []

    def search(width):
        widths.append(width)
        return np.array(width)

    def recall_of(found):
        return 0.95 if found >= least else 0.9

    assert graph_search.narrowest(search, recall_of, 0.95) == least
    assert max(widths) <= 2 * least, "wide searches take long"


# --- the whole report ------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_report(monkeypatch):
    """The whole report, at a size that takes seconds."""
    words = data.data_set_of("words", "words", "cosine", data.clusters(600, 8), "synthetic", real=False)
    monkeypatch.setitem(data.LOADERS, "words", lambda: words)
    monkeypatch.setattr(grids, "FANNG_EFFORTS", (100, 250))
    monkeypatch.setattr(grids, "FANNG_FEW_EFFORTS", (100, 250, grids.DEFAULT_EFFORT))
    monkeypatch.setattr(grids, "EFS", (60, 150))


def run_report(monkeypatch, output, *arguments):
    options = ["--quick", "--threads", "1", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["graph_report.py", *options, *arguments])
    graph_report.main()
    return json.loads(output.with_suffix(".json").read_text()), output.read_text()


@pytest.mark.slow
def test_main_tiny_run_writes_report(tiny_report, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    results, text = run_report(monkeypatch, tmp_path / "r.md", "--data", "sift", "--rows", "300")
    assert results["complete"]
    (curve,) = results["curve"]
    assert (curve["n"], curve["whole"]) == (300, False)
    assert {TRAVERSE_ADD, SEEDED, "exact knn"} <= {each["family"] for each in curve["points"]}
    assert curve["head_to_head"][0]["family"] == "exact knn"
    assert all(each["recall"] >= grids.TARGET_RECALL for each in curve["head_to_head"])
    assert [graph["family"] for graph in results["warm"][0]["graphs"]] == [TRAVERSE_ADD, SEEDED, WARM]
    assert [size["n"] for size in results["growth"]["sizes"]] == [150, 300]
    assert (tmp_path / "r.png").stat().st_size > 10_000
    for part in ("r.png", "## SIFT", "## Warm start", "## Growth", "- open: "):
        assert part in text
    assert "**met**" not in text  # synthetic rows prove nothing
    assert "**missed**" not in text


@pytest.mark.slow
def test_main_interrupted_keeps_results(tiny_report, monkeypatch, tmp_path):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(parts, "warm_of_move", stopped)
    results, text = run_report(monkeypatch, tmp_path / "r.md", "--data", "sift", "--rows", "200")
    assert not results["complete"]
    assert results["curve"][0]["head_to_head"]
    assert not results["warm"]
    assert "The run was interrupted" in text


@pytest.mark.slow
def test_main_missing_library_named(tiny_report, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    results, text = run_report(monkeypatch, tmp_path / "r.md", "--data", "sift", "--rows", "200", "--parts", "curve")
    assert results["curve"][0]["missing"]["hnswlib"] == "hnswlib is not installed"
    assert "Not measured: hnswlib, hnswlib is not installed." in text


def test_parse_arguments_invalid_values_raise(capsys):
    args = graph_report.parse_arguments(["--rows", "500", "--rounds", "2", "--seconds", "7"])
    plan = graph_report.plan_of(args)
    assert (plan.rows, plan.passes, plan.rounds, plan.seconds, plan.growth_sizes) == (500, 2, 2, 7.0, (250, 500))
    assert graph_report.plan_of(graph_report.parse_arguments([])) == grids.FULL
    assert graph_report.plan_of(graph_report.parse_arguments(["--quick"])).rows == grids.QUICK.rows
    for wrong in (["--rows", "50"], ["--rounds", "0"], ["--threads", "0"], ["--data", "birds"], ["--parts", "all"]):
        with pytest.raises(SystemExit):
            graph_report.parse_arguments(wrong)
    assert "--rows must be at least 102, got 50" in capsys.readouterr().err
