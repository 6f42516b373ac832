"""The GPU benchmark's own code, without a GPU: what it computes from its numbers, and a complete dry run."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import environment
import rivals
from gpu import figures, report, small_shapes

SCRIPT = Path(report.__file__).with_name("run.sh")
RATES = {"float32": 1e12, "bfloat16": 1e13, "bytes": 1e11}


def case_of(n=4096, d=128, dtype="float32", **changes):
    return {**report.unmeasured(n, d, dtype, "not yet"), "skipped": {}, **changes}


def test_floor_flops_and_bytes_match_hand_computation():
    # N = 3 has 6 unordered pairs, including pairs of a row with itself, of 2 x 2 flops; 3 x 6 elements and 3 labels.
    assert figures.floor_flops(3, 2) == 24
    assert figures.floor_bytes(3, 2, "float32") == 72 + 24
    assert figures.floor_bytes(3, 2, "bfloat16") == 36 + 24


def test_floor_ms_is_larger_of_compute_and_memory():
    assert figures.floor_ms(3, 2, "float32", {"float32": 24.0, "bytes": 1e9}) == 1000
    assert figures.floor_ms(3, 2, "float32", {"float32": 1e9, "bytes": 96.0}) == 1000
    assert figures.share_of_floor(case_of(3, 2, median_ms={"hardmine": 4000}), {"float32": 24.0, "bytes": 1e9}) == 0.25


@pytest.mark.parametrize(("size", "cache"), [(1000, 1000), (1, 10), (10**9, 50), (333, 1000)])
def test_copies_past_cache_exceed_twice_the_cache(size, cache):
    count = figures.copies_past_cache(size, cache)
    assert count >= 2
    assert (count - 1) * size >= 2 * cache  # the bytes read since a copy's last turn
    assert count == 2 or (count - 2) * size < 2 * cache, "no more than that"


def test_rounds_for_fits_time_within_limits():
    assert figures.rounds_for(1.0, 100) == 10
    assert (figures.rounds_for(1.0, 1e5), figures.rounds_for(100.0, 1), figures.rounds_for(-1, 0)) == (5, 50, 5)


def test_ratio_is_rival_time_over_hardmine_time():
    case = case_of(median_ms={"hardmine": 2.0, "pytorch": 10.0, "matmul": 4.0})
    assert figures.ratio(case, "pytorch") == 5
    assert figures.share_of_matmul(case) == 0.5
    assert figures.ratio(case, "torch.compile") is None


def complete_case(n=4096, share=0.6, eager=9.0, compiled=4.0, sizes=5.0, launches=4, **changes):
    times = {"hardmine": share, "matmul": 1.0, "pytorch": eager * share, "torch.compile": compiled * share}
    peak = {"hardmine": sizes * n * 128 * 4}
    return case_of(n, median_ms=times, peak_bytes=peak, launches={"hardmine": launches}, **changes)


def met_flags(cases):
    return [verdict.met for verdict in figures.judge(cases)]


def test_judge_targets_met_and_missed():
    small = complete_case(128, share=50, eager=1, compiled=1, sizes=99)
    assert met_flags([small, complete_case()]) == [True] * 6
    assert met_flags([small, complete_case(), complete_case(share=0.8)]) == [True, False, True, True, True, True]
    assert met_flags([small, complete_case(), complete_case(share=1.1)]) == [False, False, True, True, True, True]
    assert met_flags([small, complete_case(eager=7.9)]) == [True, True, False, True, True, True]
    assert met_flags([small, complete_case(compiled=2.9)]) == [True, True, True, False, True, True]
    assert met_flags([small, complete_case(sizes=16.5)]) == [True, True, True, True, False, True]
    assert met_flags([complete_case(128, launches=5), complete_case()]) == [True, True, True, True, True, False]


def test_judge_unmeasured_case_leaves_target_open():
    assert met_flags([case_of(), case_of(128)]) == [None] * 6
    assert met_flags([complete_case(), case_of(16384)])[:5] == [None] * 5
    assert met_flags([complete_case(share=1.2), case_of(16384)])[0] is False


def test_judge_rival_without_memory_ignored():
    no_memory = complete_case(65536, skipped={"pytorch": "needs about 96 GiB, 80.0 GiB are free"})
    del no_memory["median_ms"]["pytorch"]
    assert met_flags([complete_case(), no_memory])[2] is True
    no_memory["skipped"] = {"pytorch": "failed: OutOfMemoryError"}
    assert met_flags([complete_case(), no_memory])[2] is None


@pytest.mark.slow
def test_main_dry_run_measures_all_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(report.torch, "compile", lambda function, **options: function)
    assert report.main(["--dry-run", "--seconds", "30", "--output", str(tmp_path / "report")]) == 0
    results = json.loads((tmp_path / "report.json").read_text())
    assert [(c["n"], c["d"], c["dtype"]) for c in results["cases"]] == sorted(report.plan(True))
    for case in results["cases"]:
        assert set(case["median_ms"]) == set(report.NAMES), case["skipped"]
    page = (tmp_path / "report.md").read_text()
    assert "Dry run without a GPU: all times, peaks and counts below are placeholders." in page
    assert "**met**" not in page


@pytest.mark.slow
def test_main_wrong_loss_not_timed_and_fails(tmp_path, monkeypatch, capsys):
    original = report.ops.sct_loss
    monkeypatch.setattr(report.ops, "sct_loss", lambda *arguments: 1.01 * original(*arguments))
    assert report.main(["--dry-run", "--output", str(tmp_path / "report")]) == 1
    results = json.loads((tmp_path / "report.json").read_text())
    assert all("not close" in case["error"] and not case["median_ms"] for case in results["cases"])
    assert "FAILED at N = 64" in capsys.readouterr().out


def test_main_no_time_left_names_cases(tmp_path):
    assert report.main(["--dry-run", "--seconds", "0", "--output", str(tmp_path / "report")]) == 0
    assert (
        "not measured: hardmine at N = 64, D = 8, float32: the time limit of 0 s was reached"
        in (tmp_path / "report.md").read_text()
    )


def test_plan_has_all_sizes_in_priority_order():
    cases = report.plan(False)
    assert len(set(cases)) == len(cases) == 5 * 2 * 2
    assert [n for n, *_ in cases[::4]] == [128, 4096, 16384, 65536, 1024]


def test_builder_insufficient_memory_raises():
    with pytest.raises(rivals.SkippedRivalError, match=r"needs about 96 GiB, 1\.0 GiB are free"):
        report.builder("pytorch", 65536, "float32", report.DryRun())


def test_copies_consecutive_steps_read_different_memory():
    copies = report.Copies(16, 8, "float32", report.DryRun())
    assert copies.count == 257  # copies of 512 bytes each, for a cache of 65536
    places = {copies[number].embeddings.data_ptr() for number in range(copies.count)}
    assert len(places) == copies.count
    assert torch.equal(copies[0].embeddings, copies[5].embeddings)
    assert copies[0].embeddings.data_ptr() == copies[copies.count].embeddings.data_ptr()


def test_small_shapes_run_all_ops_or_raise(monkeypatch):
    count = small_shapes.run(((5, 3),), "cpu")
    assert count == 2 * 4 * len(small_shapes.OPS), "of one shape both similarities"
    monkeypatch.setattr(small_shapes, "has_kernel", lambda op, device: False)
    with pytest.raises(AssertionError, match="no op has kernels for cpu"):
        small_shapes.run(((5, 3),), "cpu")


def test_small_shapes_unrepeatable_results_raise(monkeypatch):
    monkeypatch.setattr(small_shapes, "step", lambda *case: (torch.rand(3), torch.zeros(1)))
    with pytest.raises(AssertionError, match="not repeatable"):
        small_shapes.run(((5, 3),), "cpu")


def test_full_step_does_not_fill_loss_gradient():
    inputs = report.Copies(16, 8, "float32", report.DryRun())[0]
    rival = report.builder("hardmine", 16, "float32", report.DryRun())(inputs)
    report.full_step(rival)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        report.full_step(rival)
    assert not {event.name for event in profile.events()} & {"aten::ones_like", "aten::fill_", "aten::ones"}


def test_main_warms_up_compiler_before_first_case(tmp_path, monkeypatch):
    warmed = []
    monkeypatch.setattr(report, "warm_up_compiler", warmed.append)
    monkeypatch.setattr(
        report, "measure_case", lambda n, d, dtype, *_: report.unmeasured(n, d, dtype, str(len(warmed)))
    )
    report.main(["--dry-run", "--output", str(tmp_path / "report")])
    cases = json.loads((tmp_path / "report.json").read_text())["cases"]
    assert {why for case in cases for why in case["skipped"].values()} == {"1"}


@pytest.mark.slow
def test_measure_case_slow_last_build_skips_rival():
    gpu, builds = report.DryRun(), {"pytorch": 1e6}
    case = report.measure_case(16, 8, "float32", gpu, time.monotonic() + 60, builds)
    assert case["skipped"]["pytorch"].startswith("not enough time was left")
    assert "pytorch" not in case["median_ms"]
    assert builds["pytorch"] == 1e6
    assert builds["matmul"] < 60
    builds = {"matmul": 50.0}
    report.measure_case(16, 8, "float32", gpu, time.monotonic() + 60, builds)
    assert builds["matmul"] < 50, "the last one, not the slowest"


@pytest.mark.parametrize(("git", "said", "commit"), [(None, "abc", "abc"), (None, "", "unknown"), ("12", "abc", "12")])
def test_commit_without_git_uses_variable(git, said, commit, monkeypatch):
    monkeypatch.setattr(environment, "git", lambda *arguments: git if arguments[0] == "rev-parse" else "")
    monkeypatch.setenv("HARDMINE_COMMIT", said)
    assert environment.commit() == commit


# The script, in a copy of the source folder. Its tools are missing, or stand-ins that record their arguments.

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")

PYTHON = """#!/bin/bash
echo "python $*" >>"$CALLS"
echo "PYTHONPATH $PYTHONPATH" >>"$CALLS"
for module in $MISSING; do
  case "$*" in "-c import $module" | "-m $module "*) exit 1 ;; esac
done
case "$*" in
  *"import cmake"* | *"import ninja"*) exit 1 ;;
  *find_spec*) echo /torch ;;
  *%d%d*) echo 90 ;;
  "-m nanobind"*) echo /nanobind ;;
  "-m pytest"*) echo "$TESTED" ;;
esac
"""
CMAKE = """#!/bin/bash
echo "cmake $*" >>"$CALLS"
mkdir -p build/gpu
[[ $1 == --build ]] && touch build/gpu/_C.so build/gpu/_C_cuda.so build/gpu/_fanng.abi3.so
exit 0
"""
TESTS = {
    "build/test_build.py": "def test_cuda():",
    "build/test_cuda_library.py": "def test_of_cuda():",
    "bench/test_bench_gpu.py": "def test_the_cuda_script():",
    "ops/test_knn.py": "from hypothesis import given\n\ndef test_knn(k, device):",
    "mining/test_lists.py": "import torch\n\ndef test_lists(k):\n    device = 1",
    "ops/test_margin_tables.py": "def test_tables(device):",
}
SANITIZER = """#!/bin/bash
[[ $1 == --help ]] && echo "  --kernel-regex arg" && exit
echo "sanitizer $*" >>"$CALLS"
"""


class ScriptRun(NamedTuple):
    """The outcome of a run of the script in a folder."""

    status: int
    summary: str
    calls: list[str]
    folder: Path
    results: Path


def run_script(folder, *arguments, tools=True, results="results", tested="5 passed in 1 s", **variables) -> ScriptRun:
    source = folder / "source"
    for place in ("bench/gpu", "hardmine", "tests"):
        (source / place).mkdir(parents=True)
    shutil.copy(SCRIPT, source / "bench/gpu/run.sh")
    for name, content in TESTS.items():
        (source / "tests" / name).parent.mkdir(exist_ok=True)
        (source / "tests" / name).write_text(content)
    contents = {"python": PYTHON, "cmake": CMAKE, "ninja": "", "compute-sanitizer": SANITIZER}
    (folder / "bin").mkdir()
    for name, content in contents.items() if tools else [("python", "#!/bin/sh\necho no GPU >&2\nexit 1\n")]:
        (folder / "bin" / name).write_text(content)
        (folder / "bin" / name).chmod(0o755)
    calls = folder / "calls"
    calls.touch()
    defaults = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "PYTHON": "bin/python", "CALLS": calls, "TESTED": tested}
    done = subprocess.run(
        ["bash", "source/bench/gpu/run.sh", *arguments],
        cwd=folder,
        env={**defaults, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    written = folder / results
    assert (written / "summary.txt").exists(), done.stderr
    return ScriptRun(
        done.returncode, (written / "summary.txt").read_text(), calls.read_text().splitlines(), folder, written
    )


def call_of(ran: ScriptRun, text: str) -> str:
    return next(call for call in ran.calls if text in call)


@pytest.mark.subprocess
@needs_bash
def test_run_sh_without_gpu_names_stages_not_run(tmp_path):
    assert subprocess.run(["bash", "-n", SCRIPT], check=False).returncode == 0
    ran = run_script(tmp_path, "results", tools=False)
    assert ran.status == 1
    assert "FAILED: gpu, status 1" in ran.summary
    assert "not run: build, tests, memcheck, racecheck, report: no usable GPU was found" in ran.summary
    assert (ran.results / "about.txt").read_text().startswith("date: ")
    assert (ran.results / "logs.txt").read_text() == "==== gpu\nno GPU\n"


@needs_bash
def test_run_sh_all_tools_present_passes(tmp_path):
    folder = tmp_path / "source/build/gpu"
    kept, deleted = (
        folder / "CMakeFiles/_C.dir/library.o",
        [folder / "CMakeCache.txt", folder / "CMakeFiles/3.31.6/x"],
    )
    for path in (kept, *deleted):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    ran = run_script(tmp_path, "results", PYTHONPATH="/of/the/caller", HARDMINE_COMMIT="abc", GIT_DIR="/nowhere")
    assert kept.exists()
    assert not any(path.exists() for path in deleted)
    assert ran.status == 0, ran.summary
    assert [line.split(",")[0] for line in ran.summary.splitlines() if line.startswith("passed")] == [
        f"passed: {name}" for name in ("gpu", "build", "tests", "memcheck", "racecheck", "report")
    ]
    assert "  5 passed in 1 s" in ran.summary
    assert "commit: abc" in (ran.results / "about.txt").read_text()
    assert {path.name for path in ran.results.iterdir()} == {"about.txt", "summary.txt", "logs.txt"}
    assert (ran.results / "logs.txt").read_text().count("====") == 6
    assert {path.name for path in (tmp_path / "source/hardmine").iterdir()} == {
        "_C.so",
        "_C_cuda.so",
        "_fanng.abi3.so",
    }
    assert f"PYTHONPATH {tmp_path}/source:{tmp_path}/source/bench:/of/the/caller" in ran.calls
    assert f"-DCMAKE_MAKE_PROGRAM={tmp_path}/bin/ninja" in call_of(ran, "cmake -S")
    assert f"-DPython_EXECUTABLE={tmp_path}/bin/python -Dnanobind_DIR=/nanobind" in call_of(ran, "cmake -S")
    assert call_of(ran, "cmake --build").endswith("--target _C _C_cuda _fanng")
    assert call_of(ran, "python -m pytest").startswith(
        "python -m pytest tests/ops/test_knn.py tests/ops/test_margin_tables.py -k cuda -n 8 "
    )
    for tool, more in (("memcheck", " --report-api-errors no"), ("racecheck", "")):
        assert call_of(ran, f"--tool {tool}") == (
            f"sanitizer --tool {tool} --error-exitcode 9 --kernel-regex kns=hardmine{more} "
            f"{tmp_path}/bin/python -m gpu.small_shapes"
        )
    seconds = int(re.search(r"--seconds (\d+)", call_of(ran, "gpu.report"))[1])
    assert 300 < seconds <= 450, "what is left of the 470 s"


@needs_bash
def test_run_sh_optional_modules_missing_runs_rest(tmp_path):
    ran = run_script(tmp_path, MISSING="nanobind xdist hypothesis numpy", OUT="some/results", results="some/results")
    assert ran.status == 1
    assert "-DHARDMINE_PYTHON=OFF" in call_of(ran, "cmake -S")
    assert call_of(ran, "cmake --build").endswith("--target _C _C_cuda")
    assert {path.name for path in (tmp_path / "source/hardmine").iterdir()} == {"_C.so", "_C_cuda.so"}
    assert "FAILED: tests, not run because hypothesis is not installed: tests/ops/test_knn.py" in ran.summary
    assert "python -m pytest tests/ops/test_margin_tables.py -k cuda -q" in call_of(ran, "python -m pytest")
    assert "passed: report" in ran.summary


@needs_bash
def test_run_sh_without_pytest_still_measures(tmp_path):
    ran = run_script(tmp_path, MISSING="pytest", results="source/build/gpu-results")
    assert ran.status == 1
    assert "FAILED: tests, not run: pytest is not installed" in ran.summary
    assert "passed: report" in ran.summary


@needs_bash
def test_run_sh_all_tests_skipped_fails(tmp_path):
    ran = run_script(tmp_path, "results", tested="7 skipped in 1 s")
    assert ran.status == 1
    assert "FAILED: tests, all were skipped" in ran.summary
