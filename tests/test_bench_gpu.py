"""The GPU benchmark's own code, without a GPU: what it computes from its numbers, and a dry run of all of it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import rivals
from gpu import figures, report, small_shapes

SCRIPT = Path(report.__file__).with_name("run.sh")
RATES = {"float32": 1e12, "bfloat16": 1e13, "bytes": 1e11}


def case_of(n=4096, d=128, dtype="float32", **changes):
    return {**report.unmeasured(n, d, dtype, "not yet"), "skipped": {}, **changes}


def test_the_floor_is_worked_by_hand():
    # N = 3 has 6 unordered pairs, a row with itself included, of 2 x 2 flops; 3 x 6 elements and 3 labels.
    assert figures.floor_flops(3, 2) == 24
    assert figures.floor_bytes(3, 2, "float32") == 72 + 24
    assert figures.floor_bytes(3, 2, "bfloat16") == 36 + 24


def test_the_floors_time_is_the_larger_of_both():
    assert figures.floor_ms(3, 2, "float32", {"float32": 24.0, "bytes": 1e9}) == 1000
    assert figures.floor_ms(3, 2, "float32", {"float32": 1e9, "bytes": 96.0}) == 1000
    assert figures.share_of_floor(case_of(3, 2, median_ms={"hardmine": 4000}), {"float32": 24.0, "bytes": 1e9}) == 0.25


@pytest.mark.parametrize(("size", "cache"), [(1000, 1000), (1, 10), (10**9, 50), (333, 1000)])
def test_copies_of_the_inputs_exceed_the_cache_twice_over(size, cache):
    count = figures.copies_past_cache(size, cache)
    assert count >= 2
    assert (count - 1) * size >= 2 * cache  # those read since a copy's last turn
    assert count == 2 or (count - 2) * size < 2 * cache, "no more than that"


def test_rounds_fit_into_the_time():
    assert figures.rounds_for(1.0, 100) == 10
    assert (figures.rounds_for(1.0, 1e5), figures.rounds_for(100.0, 1), figures.rounds_for(-1, 0)) == (5, 50, 5)


def test_ratios_are_the_right_way_up():
    case = case_of(median_ms={"hardmine": 2.0, "pytorch": 10.0, "matmul": 4.0})
    assert figures.ratio(case, "pytorch") == 5
    assert figures.share_of_matmul(case) == 0.5
    assert figures.ratio(case, "torch.compile") is None


def complete(n=4096, share=0.6, eager=9.0, compiled=4.0, sizes=5.0, launches=4, **changes):
    times = {"hardmine": share, "matmul": 1.0, "pytorch": eager * share, "torch.compile": compiled * share}
    peak = {"hardmine": sizes * n * 128 * 4}
    return case_of(n, median_ms=times, peak_bytes=peak, launches={"hardmine": launches}, **changes)


def met(cases):
    return [verdict.met for verdict in figures.judge(cases)]


def test_aims_that_are_met_and_missed():
    small = complete(128, share=50, eager=1, compiled=1, sizes=99)
    assert met([small, complete()]) == [True] * 6
    assert met([small, complete(), complete(share=0.8)]) == [True, False, True, True, True, True]
    assert met([small, complete(), complete(share=1.1)]) == [False, False, True, True, True, True]
    assert met([small, complete(eager=7.9)]) == [True, True, False, True, True, True]
    assert met([small, complete(compiled=2.9)]) == [True, True, True, False, True, True]
    assert met([small, complete(sizes=16.5)]) == [True, True, True, True, False, True]
    assert met([complete(128, launches=5), complete()]) == [True, True, True, True, True, False]


def test_what_was_not_measured_leaves_an_aim_open():
    assert met([case_of(), case_of(128)]) == [None] * 6
    assert met([complete(), case_of(16384)])[:5] == [None] * 5
    assert met([complete(share=1.2), case_of(16384)])[0] is False


def test_a_rival_that_does_not_fit_is_out_of_its_aim():
    no_room = complete(65536, skipped={"pytorch": "needs about 96 GiB, 80.0 GiB are free"})
    del no_room["median_ms"]["pytorch"]
    assert met([complete(), no_room])[2] is True
    no_room["skipped"] = {"pytorch": "failed: OutOfMemoryError"}
    assert met([complete(), no_room])[2] is None


def test_a_dry_run_walks_through_all_and_says_that_it_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(report.torch, "compile", lambda function, **options: function)
    assert report.main(["--dry-run", "--seconds", "30", "--output", str(tmp_path / "report")]) == 0
    results = json.loads((tmp_path / "report.json").read_text())
    assert [(c["n"], c["d"], c["dtype"]) for c in results["cases"]] == sorted(report.plan(True))
    for case in results["cases"]:
        expected = set(report.NAMES) - ({"pytorch-metric-learning"} if case["dtype"] == "bfloat16" else set())
        assert set(case["median_ms"]) | set(case["skipped"]) == set(report.NAMES)
        assert expected - set(case["median_ms"]) <= {"pytorch-metric-learning"}, case["skipped"]
    page = (tmp_path / "report.md").read_text()
    assert "A dry run without a GPU: every time, peak and count below is made up." in page
    assert "**met**" not in page


def test_a_wrong_loss_is_not_timed_and_fails_the_run(tmp_path, monkeypatch, capsys):
    right = report.ops.sct_loss
    monkeypatch.setattr(report.ops, "sct_loss", lambda *arguments: 1.01 * right(*arguments))
    assert report.main(["--dry-run", "--output", str(tmp_path / "report")]) == 1
    results = json.loads((tmp_path / "report.json").read_text())
    assert all("not close" in case["error"] and not case["median_ms"] for case in results["cases"])
    assert "FAILED at N = 64" in capsys.readouterr().out


def test_cases_without_time_are_named(tmp_path):
    assert report.main(["--dry-run", "--seconds", "0", "--output", str(tmp_path / "report")]) == 0
    assert "not measured: hardmine at N = 64, D = 8, float32: the 0 s were over" in (tmp_path / "report.md").read_text()


def test_the_plan_is_the_issues():
    cases = report.plan(False)
    assert len(set(cases)) == len(cases) == 5 * 2 * 2
    assert [n for n, *_ in cases[::4]] == [128, 65536, 16384, 4096, 1024]


def test_a_rival_without_room_says_so():
    with pytest.raises(rivals.SkippedRivalError, match=r"needs about 96 GiB, 1\.0 GiB are free"):
        report.maker("pytorch", 65536, "float32", report.DryRun())


def test_every_step_reads_another_copy():
    copies = report.Copies(16, 8, "float32", report.DryRun())
    assert copies.count == 257  # of 512 bytes, for a cache of 65536
    places = {copies[number].embeddings.data_ptr() for number in range(copies.count)}
    assert len(places) == copies.count
    assert torch.equal(copies[0].embeddings, copies[5].embeddings)
    assert copies[0].embeddings.data_ptr() == copies[copies.count].embeddings.data_ptr()


def test_small_shapes_run(monkeypatch):
    assert small_shapes.run(((5, 3),), "cpu") >= 4 * 4
    monkeypatch.setattr(small_shapes, "has_kernel", lambda op, device: False)
    with pytest.raises(AssertionError, match="no op has kernels for cpu"):
        small_shapes.run(((5, 3),), "cpu")


def test_results_that_do_not_repeat_are_an_error(monkeypatch):
    monkeypatch.setattr(small_shapes, "step", lambda *case: (torch.rand(3), torch.zeros(1)))
    with pytest.raises(AssertionError, match="not repeatable"):
        small_shapes.run(((5, 3),), "cpu")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_script_says_on_a_machine_without_a_gpu_what_it_did_not_run(tmp_path):
    assert subprocess.run(["bash", "-n", SCRIPT], check=False).returncode == 0
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no GPU >&2\nexit 1\n")
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", SCRIPT, tmp_path / "results"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(python)},
        capture_output=True,
        text=True,
        check=False,
    )
    summary = (tmp_path / "results" / "summary.txt").read_text()
    assert done.returncode == 1, done.stderr
    assert "FAILED: gpu, status 1" in summary
    assert "not run: build, tests, memcheck, racecheck, report: there is no GPU" in summary
    assert (tmp_path / "results" / "about.txt").read_text().startswith("date: ")
