"""The benchmarks' own code at tiny sizes, regardless of times: every rival runs and computes the right result."""

import copy
from argparse import Namespace

import pytest
import torch

import by_hand
import memory
import plans
import report
import rivals
import small_steps
import tables
import verdicts
from rivals import checks, neighbors

N, D = 64, 16  # N exceeds knn's k = 50
PAIRS = [(case, rival) for case, spec in rivals.CASES.items() for rival in spec.rivals if rival != "torch.compile"]


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.delenv("HARDMINE_DATA", raising=False)
    monkeypatch.setattr(neighbors, "HNSW_M", (12,))
    monkeypatch.setattr(neighbors, "HNSW_EF_CONSTRUCTION", (60,))


@pytest.mark.thinned(3)
@pytest.mark.parametrize(("case", "rival"), PAIRS)
def test_setup_each_rival_runs(case, rival):
    try:
        built = rivals.setup(case, N, D, rival)
    except rivals.SkippedRivalError as reason:
        pytest.skip(f"{rival}: {reason}")
    output = built.forward()
    assert len(built.inputs.embeddings) == N
    if built.backward is not None:
        assert built.backward(output).shape == (N, D)


@pytest.mark.parametrize("case", ["EPSHN", "EP", "BatchAll", "BatchAllTriplet"])
def test_setup_wrong_loss_raises(case, monkeypatch):
    op = rivals.CASES[case].op
    original = getattr(rivals.ops, op)
    monkeypatch.setattr(rivals.ops, op, lambda *args, **options: 1.01 * original(*args, **options))
    with pytest.raises(AssertionError, match="not close"):
        rivals.setup(case, N, D, "hardmine")


def test_setup_wrong_neighbors_raises(monkeypatch):
    original = rivals.ops.knn

    def shifted_knn(*args, k, **options):
        similarity, index = original(*args, k=k + 1, **options)
        return similarity[:, 1:], index[:, 1:]

    monkeypatch.setattr(rivals.ops, "knn", shifted_knn)
    with pytest.raises(AssertionError, match="not close"):
        rivals.setup("knn_sift", N, 128, "hardmine")


def test_check_neighbors_low_recall_raises():
    inputs = rivals.make_inputs("knn_sift", N, 128)
    exact = neighbors.exact(inputs, 10)
    worse_lists = neighbors.Lists(exact.similarity, exact.index[:, [1, *range(1, 10)]])
    with pytest.raises(AssertionError, match=r"recall is 0\.9000"):
        checks.check_neighbors(rivals.Rival("hnswlib", lambda: worse_lists, None, inputs), 10)


def test_recall_of_compares_rows_as_sets():
    expected = torch.tensor([[1, 2], [0, 2], [0, 1]])
    assert neighbors.recall_of(torch.tensor([[2, 1], [2, 0], [1, 0]]), expected) == 1.0
    assert neighbors.recall_of(torch.tensor([[2, 3], [1, 3], [1, 0]]), expected) == 0.5


def test_drop_self_removes_each_query():
    # The last query is not in its list, since a duplicate comes first. In this case the list's last entry is dropped.
    index = torch.tensor([[0, 1, 2], [0, 1, 2], [0, 1, 3]]).numpy()
    similarity = torch.tensor([[0.9, 0.8, 0.7]] * 3).numpy()
    lists = neighbors.drop_self(similarity, index)
    assert lists.index.tolist() == [[1, 2], [0, 2], [0, 1]]
    torch.testing.assert_close(lists.similarity, torch.tensor([[0.8, 0.7], [0.9, 0.7], [0.9, 0.8]]))


def test_setup_insufficient_memory_names_need(monkeypatch):
    monkeypatch.setattr("rivals.common.available_memory", lambda: 20 * 2**30)
    pytest.importorskip("pytorch_metric_learning")
    with pytest.raises(rivals.SkippedRivalError, match=r"needs about 431 GiB, 20\.0 GiB are free"):
        rivals.setup("EP", 2048, D, "NTXentLoss")


def test_setup_rival_of_other_case_skipped():
    with pytest.raises(rivals.SkippedRivalError, match="does not support EP"):
        rivals.setup("EP", N, D, "faiss")


@pytest.mark.slow
def test_measure_size_compares_each_rival_with_hardmine():
    args = Namespace(rivals=["hardmine", "pytorch", "matmul"], images_per_class=4, seconds=0.0)
    size = report.measure_size("EP", N, D, 2, args)
    assert set(size["ratios"]) == {"pytorch", "matmul"}
    assert size["ratios"]["pytorch"]["both"]["rounds"] == 2
    size = report.measure_size("knn_sift", N, 128, 2, args)
    assert set(size["ratios"]["pytorch"]) == {"forward"}
    assert size["inputs"].startswith("random directions")


@pytest.mark.slow
def test_measure_peak_returns_peak_or_reason():
    assert memory.measure_peak("EP", "hardmine", 256, D)["peak_extra_mib"] >= 0
    assert memory.measure_peak("EP", "faiss", 256, D)["skipped"] == "does not support EP"


def test_plan_quick_is_small():
    for plan in plans.PLANS.values():
        quick = plan.quick()
        assert max((*quick.sizes, *quick.memory_sizes, *quick.scaling_sizes)) <= 2048
        assert not quick.large_sizes


# --- reports from the numbers --------------------------------------------------------------------------------------


def speed_entry(case, n, d, phases, **rivals_ratios):
    spread = {"median": 1.0, "quartile_1": 0.9, "quartile_3": 1.1, "rounds": 3}
    return {
        "case": case,
        "n": n,
        "d": d,
        "ratios": {
            name.replace("_", "-"): {phase: {"of_medians": value, **spread} for phase in phases}
            for name, value in rivals_ratios.items()
        },
        "skipped": {"NTXentLoss": "needs about 431 GiB"} if case == "EP" else {},
        "median_ms": {"hardmine": dict.fromkeys(phases, 1.0)},
        "details": {"hnswlib": "M = 16"} if case == "knn_words" else {},
    }


@pytest.fixture
def results():
    phases = ("forward", "backward", "both")
    peaks = [("EP", 16384, 17.0), ("BatchAll", 16384, 12.0), ("EP", 65536, 69.0), ("BatchAllTriplet", 16384, 1024.0)]
    return {
        "about": {"commit": "0123456789ab"},
        "command": "python bench/report.py",
        "images_per_class": 4,
        "notes": dict.fromkeys(("EP", "BatchAllTriplet", "knn_words"), "A note."),
        "baseline": None,
        "complete": True,
        "speed": [
            speed_entry("EP", 512, 128, phases, pytorch=1.5, matmul=0.9),
            speed_entry("EP", 2048, 128, phases, pytorch=1.9, matmul=0.5),
            speed_entry("EP", 8192, 128, phases, pytorch=2.5, matmul=0.5),
            speed_entry("BatchAllTriplet", 1024, 128, phases, pytorch_metric_learning=120.0),
            speed_entry("knn_words", 100_000, 50, ("forward",), faiss=4.0, hnswlib=0.8),
        ],
        "memory": [
            {"case": case, "rival": "hardmine", "n": n, "d": 128, "peak_extra_mib": mib} for case, n, mib in peaks
        ],
        "scaling": [],
    }


def test_judge_complete_run_gives_all_verdicts(results):
    lines = [verdict.line() for verdict in verdicts.judge(results)]
    assert [line.partition(":")[0] for line in lines] == [
        "- **met**",  # not slower than PyTorch
        "- **missed**",  # twice as fast for N >= 2048
        "- **met**",  # memory of tuplet_loss
        "- **met**",  # 100x PML
        "- **missed**",  # memory of batch_all_triplet_loss
        "- **met**",  # 0.35 of faiss
        "- **missed**",  # hnswlib
    ]
    assert lines[1].endswith("1.90x at worst (EP, N = 2,048, D = 128)")
    assert lines[2].endswith("2.1 times the inputs at N = 16,384, 2.2 times the inputs at N = 65,536")
    assert lines[5].endswith(": 0.25")
    assert lines[6].endswith(": 1.25 of hnswlib's time")


def test_judge_missing_size_leaves_verdict_open(results):
    incomplete = [size for size in results["speed"] if size["n"] != 8192]
    first, second, *_ = verdicts.judge({**results, "speed": incomplete})
    assert first.met is second.met is None
    assert first.line().endswith("not measured at N = 8,192")


def test_judge_nothing_measured_leaves_all_open(results):
    results = {**results, "speed": [], "memory": []}
    assert {verdict.met for verdict in verdicts.judge(results)} == {None}


def test_judge_slower_than_baseline_is_missed(results):
    results["notes"]["EPSHN"] = ""
    results["speed"] = [speed_entry("EPSHN", n, 128, ("both",)) for n in (512, 2048)]
    for size in results["speed"]:
        size["ratios"]["matmul_out"] = {"both": {"of_medians": 0.5}}
    results["baseline"] = {"speed": copy.deepcopy(results["speed"]), "about": {"commit": "an earlier one"}}
    results["speed"][1]["ratios"]["matmul_out"]["both"]["of_medians"] = 0.6
    verdict = verdicts.judge(results)[-1]
    assert verdict.met is False
    assert verdict.found.startswith("1.20 of the baseline's time at worst (EPSHN, N = 2,048, D = 128)")


def test_render_names_measured_and_skipped_rivals(results):
    text = tables.render(results, ["- **met**: a target: 1"])
    assert "| N | D | of matmul | faster than plain PyTorch | faster than PML NTXentLoss |" in text
    assert "- not measured: NTXentLoss at N = 2048, D = 128: needs about 431 GiB" in text
    assert "- hnswlib at N = 100000, D = 50: M = 16" in text
    assert "| N | D | faster than faiss | faster than hnswlib |" in text
    assert "- **met**: a target: 1" in text


def test_render_missing_data_named(results):
    unmeasured = {"case": "knn_words", "n": 100_000, "d": 50, "ratios": {}, "median_ms": {}}
    results["speed"] = [{**unmeasured, "skipped": {"hardmine": "its data is not installed"}}]
    assert "- not measured: hardmine at N = 100000, D = 50: its data is not installed" in tables.render(results, [])


@pytest.mark.parametrize("loss", by_hand.LOSSES)
def test_small_steps_losses_equal_those_written_by_hand(loss):
    assert set(small_steps.rivals_of(loss, N, D, with_compile=False)) == {"op", "by hand"}


def test_small_steps_wrong_loss_raises(monkeypatch):
    op, plain = by_hand.LOSSES["tuplet"]
    monkeypatch.setitem(by_hand.LOSSES, "tuplet", (lambda *rows: 1.01 * op(*rows), plain))
    with pytest.raises(AssertionError, match="not close"):
        small_steps.rivals_of("tuplet", N, D, with_compile=False)
