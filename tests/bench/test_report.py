"""The report's own code: rows, resuming, pages and chart from given numbers; a quick run of everything."""

import dataclasses
import json
import os
import signal
from types import SimpleNamespace

import pytest
import torch

import chart
import measuring
import report
import rivals
import tables
from measuring import Row


def entry(value):
    return {"of_medians": value, "median": value, "quartile_1": 0.9 * value, "quartile_3": 1.1 * value, "rounds": 5}


def numbers(ms, **ratios):
    ratios = {name.replace("_", " "): value for name, value in ratios.items()}
    times = {"hardmine": ms, **{name: ms * value for name, value in ratios.items()}}
    return {"ms": times, "ratios": {k: entry(v) for k, v in ratios.items()}, "skipped": {}, "source": ""}


@pytest.fixture
def results():
    peak = {"hardmine": {"mib": 2.0, "seconds": 0.1}, "by hand": {"mib": 2048.0, "seconds": 2.0}}
    missing = {**peak, "by hand": {"skipped": "needs about 24 GiB, 20 GiB are free"}}
    return {
        "about": {
            "date": "2026-12-01 10:00 UTC",
            "commit": "0123",
            "CPU": "a CPU",
            "torch": "2.13",
            "faiss-cpu": "1.15.1",
        },
        "command": "make bench",
        "quick": False,
        "speed": {
            "avx512": {
                "sct:128x128:1": numbers(0.2, by_hand=3.5, compiled=3.0, matmul=0.25),
                "supcon:128x128:1": {**numbers(0.5, by_hand=0.9, PML=2.0), "skipped": {"compiled": "no compiler"}},
                "sct:8192x128:2": numbers(100.0, by_hand=12.0, compiled=8.0, matmul=4.0),
                "sct:16384x128:2": {"error": "the process ended with status -9"},
                "knn:50000x50:2": {**numbers(1500.0, by_hand=6.0, faiss=4.0), "source": "GloVe 6B"},
            },
            "avx2": {"sct:128x128:1": numbers(0.25, by_hand=3.0, matmul=0.2)},
        },
        "peaks": {"sct:8192x128:2": peak, "sct:32768x128:2": missing, "batch_all:8192x128:2": peak},
    }


# --- rows and steps ---------------------------------------------------------------------------------------------------


def test_row_text_round_trips():
    assert Row.parse("sct:128x64:1") == Row("sct", 128, 64, 1)
    assert str(Row("sct", 128, 64, 1)) == "sct:128x64:1"
    assert Row.parse("knn:100x50").threads >= 1


@pytest.mark.parametrize("text", ["sct", "sct:128", "sct:128x", "unknown:128x64", "sct:128x64:", "sct:128x64:1:1"])
def test_row_malformed_raises(text):
    with pytest.raises(ValueError, match=f"a row must be CASE:NxD or CASE:NxD:THREADS .* got '{text}'"):
        Row.parse(text)


def test_rows_of_full_run_cover_every_case_and_the_chart():
    rows = report.speed_rows(False, True, 2)
    assert {row.case for row in rows} == set(rivals.CASES)
    assert {str(row) for row in rows} >= set(tables.README_ROWS)
    assert len(set(rows)) == len(rows)
    other_target = report.speed_rows(False, False, 2)
    assert set(other_target) < set(rows)
    assert {row.case for row in other_target} == set(rivals.CASES)
    peaks = report.peak_rows(False, 2)
    assert [row.n for row in peaks if row.case == "sct"] == list(report.CHART_SIZES)
    assert {row.case for row in peaks} == set(rivals.LOSSES)


def test_names_of_other_simd_target_without_compiled_code_and_libraries():
    row = Row("supcon", 512, 128, 1)
    assert report.names_of(row, native=True, quick=False) == ["hardmine", "by hand", "compiled", "PML", "matmul"]
    assert report.names_of(row, native=False, quick=False) == ["hardmine", "by hand", "matmul"]
    assert "compiled" not in report.names_of(row, native=True, quick=True)


def test_speed_measures_each_rival_and_ratios_to_ours():
    found = measuring.in_child(measuring.speed, Row("supcon", 64, 8, 1), ("hardmine", "by hand", "matmul"), 0.0)
    assert set(found["ms"]) == {"hardmine", "by hand", "matmul"}
    assert set(found["ratios"]) == {"by hand", "matmul"}
    assert found["ratios"]["by hand"]["rounds"] == 5


def test_speed_unequal_rival_is_an_error(monkeypatch):
    wrong = SimpleNamespace(**vars(rivals.CASES["supcon"]))
    wrong.ours = lambda x, labels: 1.01 * rivals.ops_supcon(x, labels)
    monkeypatch.setattr(rivals, "ops_supcon", rivals.CASES["supcon"].ours, raising=False)
    monkeypatch.setitem(rivals.CASES, "supcon", wrong)
    found = measuring.in_child(measuring.speed, Row("supcon", 64, 8, 1), ("hardmine", "by hand"), 0.0)
    assert found["error"].startswith("AssertionError: hardmine is not equal to the code by hand")


def test_peak_counts_the_matrix_of_the_code_by_hand():
    row = Row("supcon", 1024, 8, 1)
    by_hand, ours = (measuring.in_child(measuring.peak, row, name) for name in ("by hand", "hardmine"))
    assert by_hand["mib"] >= 8, "the matrix is 4 MiB, and there are several"
    assert -1 < ours["mib"] < 4


def test_peak_of_counts_memory_that_is_freed_again():
    def measure():
        return {"bytes": measuring.memory.peak_of(lambda: torch.ones(2**24).sum())[0]}

    assert 2**26 <= measuring.in_child(measure)["bytes"] < 2**26 + 2**24


def test_in_child_killed_process_is_an_error():
    found = measuring.in_child(lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert found == {"error": "the process ended with status -9"}


def test_in_child_hanging_process_is_killed(monkeypatch):
    monkeypatch.setattr(measuring, "TIMEOUT_S", 0.2)
    assert measuring.in_child(signal.pause) == {"error": "took more than 0.2 s"}


def test_too_large_predicts_from_half_of_the_rows(monkeypatch):
    monkeypatch.setattr(measuring.memory, "available_bytes", lambda: 20 * 2**30)
    assert measuring.too_large(None) == ""
    assert measuring.too_large({"mib": 4000}) == ""
    assert measuring.too_large({"mib": 6000}) == "needs about 23 GiB, more than 0.85 of the 20 GiB that are free"
    assert measuring.too_large({"skipped": "needs"}) == "less did not fit"


# --- resuming ---------------------------------------------------------------------------------------------------------


def test_store_same_settings_resumes_others_begin_anew(tmp_path):
    path, settings = tmp_path / "rows.jsonl", {"commit": "0123"}
    report.Store(path, settings).add("sct:128x128:1", {"ms": 1})
    assert report.Store(path, settings).found == {"sct:128x128:1": {"ms": 1}}
    assert report.Store(path, {"commit": "4567"}).found == {}
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"commit": "4567"}]


def test_store_truncated_last_line_measured_again(tmp_path):
    path, settings = tmp_path / "rows.jsonl", {"commit": "0123"}
    report.Store(path, settings).add("a", {"ms": 1})
    with path.open("a") as file:
        file.write('{"b": {"ms')
    store = report.Store(path, settings)
    assert store.found == {"a": {"ms": 1}}
    store.add("c", {"ms": 3})
    assert report.Store(path, settings).found == {"a": {"ms": 1}, "c": {"ms": 3}}


# --- pages ------------------------------------------------------------------------------------------------------------


def test_page_has_every_table_and_names_faster_rivals(results):
    page = tables.page(results)
    assert "| row | op | hardmine, ms | of matmul | by hand | compiled | PML | avx2: ms |" in page
    assert "| `sct:128x128:1` | `sct_loss` | 0.20 | 4.00 | 3.50x | 3.00x |  | 0.25 | 5.00 | 3.00x |" in page
    assert "- `supcon:128x128:1`, avx512: by hand takes 0.90 of hardmine's time." in page
    assert "- `supcon:128x128:1`, avx512: compiled: no compiler" in page
    assert "- `sct:16384x128:2`, avx512: the process ended with status -9" in page
    assert "| `sct_loss` | 32,768 x 128 | 2.00 MiB | does not fit |  | 4.0 GiB |" in page
    assert "GloVe 6B. faiss is `IndexFlatIP` of faiss-cpu 1.15.1" in page


def test_readme_has_rows_with_memory(results):
    text = tables.readme(results)
    assert "| `sct_loss` | 128 x 128, 1 thread | 3.50x | 3.00x |  |  |" in text
    assert "| `sct_loss` | 8,192 x 128 | 12.0x | 8.00x |  | 2.00 MiB, 2.0 GiB |" in text
    assert "| `knn, k = 50` | 50,000 x 50 | 6.00x |  | 4.00x (faiss) |  |" in text


def test_raw_has_a_command_per_row(results):
    text = tables.raw(results)
    assert "| sct:128x128:1 | by hand | 0.7500 | 3.000 (2.700-3.300) | 5 | `python bench/report.py --simd avx2" in text
    assert "`python bench/report.py sct:8192x128:2`" in text
    assert "`python bench/report.py --memory sct:8192x128:2`" in text


def test_replace_part_keeps_the_rest():
    page = "before\n<!-- begin: make bench -->\nold\n<!-- end: make bench -->\nafter\n"
    once = report.replace_part(page, "new")
    assert once == "before\n<!-- begin: make bench -->\n\nnew\n\n<!-- end: make bench -->\nafter\n"
    assert report.replace_part(once, "new") == once
    with pytest.raises(ValueError, match="must have the markers"):
        report.replace_part("no markers", "new")


@pytest.mark.parametrize("name", ["README.md", "docs/benchmarks.md"])
def test_pages_of_the_repository_have_the_markers(name):
    report.replace_part((report.ROOT / name).read_text(), "")


def test_curves_take_times_of_rows_else_of_the_steps_with_the_peak(results):
    times, peaks = chart.curves(results, "sct")
    assert times["hardmine"] == {8192: 100.0, 32768: 100.0}
    assert times["by hand"] == {8192: 1200.0}
    assert peaks["by hand"] == {8192: 2048.0}
    assert peaks["matmul"] == {8192: 256.0, 32768: 4096.0}
    assert chart.advantage(times, "faster than") == "12x faster than by hand at N = 8,192"


def test_draw_writes_png_and_svg_with_the_same_bytes_each_time(results, tmp_path):
    pytest.importorskip("matplotlib")
    chart.draw(results, ("sct",), tmp_path / "one")
    chart.draw(results, ("sct",), tmp_path / "two")
    for suffix in (".png", ".svg"):
        one, two = ((tmp_path / name).with_suffix(suffix).read_bytes() for name in ("one", "two"))
        assert len(one) > 5000
        assert one == two


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "variable", "message"),
    [
        (["--memory"], "", "--memory and --busy need rows"),
        (["--busy", "2"], "", "--memory and --busy need rows"),
        (["sct:1"], "", "a row must be CASE:NxD or CASE:NxD:THREADS with a CASE of sct, "),
        ([], "fast", "the environment variable BENCH must be all or quick, got 'fast'"),
    ],
)
def test_main_bad_arguments_exit_with_reason(arguments, variable, message, monkeypatch, capsys):
    monkeypatch.setenv("BENCH", variable)
    with pytest.raises(SystemExit):
        report.parse_arguments(arguments)
    assert message in capsys.readouterr().err


def test_quick_run_never_writes_into_the_repository(monkeypatch):
    monkeypatch.setenv("BENCH", "quick")
    args = report.parse_arguments([])
    assert args.root == report.ROOT / "build" / "bench" / "quick"
    monkeypatch.setenv("BENCH", "")
    assert report.parse_arguments([]).root == report.ROOT


def test_row_without_data_is_shown_with_the_reason(monkeypatch):
    def missing(n, d):
        raise rivals.SkippedRivalError("the words are not installed")

    monkeypatch.setitem(rivals.CASES, "knn", dataclasses.replace(rivals.CASES["knn"], make_inputs=missing))
    row = Row("knn", 64, 50, 1)
    found = measuring.in_child(measuring.speed, row, ("hardmine", "by hand", "matmul"), 0.0)
    assert " ".join(report.show(row, found).split()) == "knn:64x50:1 no every rival: the words are not installed"
    assert tables.own_ms(found) == tables.floor_cell(found) == ""
