"""Options and the only fixture of the pytest-benchmark suites.

    pytest bench/bench_sct_loss.py --bench-sizes 512 2048 --benchmark-group-by=group

These suites time one callable after another. Use them to explore one op, or to compare a commit with an earlier one
(`--benchmark-autosave`, `--benchmark-compare`). For a ratio between rivals use `python bench/report.py`, which times
all rivals in the same rounds.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

import paired
import rivals


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hardmine benchmarks")
    group.addoption("--bench-sizes", nargs="+", type=int, default=[128, 512, 2048], help="batch sizes N")
    group.addoption("--bench-dims", nargs="+", type=int, default=[128], help="embedding sizes D")
    group.addoption(
        "--bench-rivals", nargs="+", default=list(rivals.RIVALS), choices=rivals.RIVALS, help="rivals to time"
    )
    group.addoption("--bench-images-per-class", type=int, default=4, help="images per class of the batch")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "time_case" not in metafunc.fixturenames:
        return
    chosen = metafunc.config.getoption("--bench-rivals")
    cases = metafunc.module.CASES
    pairs = [(case, rival) for case in cases for rival in rivals.CASES[case].rivals if rival in chosen]
    metafunc.parametrize(("case", "rival"), pairs)
    fixed = {rivals.CASES[case].fixed_d for case in cases}
    dims = metafunc.config.getoption("--bench-dims") if None in fixed else [None]  # None: D is that of the data
    metafunc.parametrize("d", dims, ids=lambda d: f"D={d}")
    metafunc.parametrize("n", metafunc.config.getoption("--bench-sizes"), ids=lambda n: f"N={n}")


@pytest.fixture
def time_case(benchmark: Callable, request: pytest.FixtureRequest) -> Callable[..., None]:
    """`time_case(case, n, d, rival, phase)` checks the rival against the reference, then times the phase."""

    def time_it(case: str, n: int, d: int | None, rival_name: str, phase: str = "forward") -> None:
        assert phase in paired.PHASES
        try:
            rival = rivals.setup(case, n, d, rival_name, request.config.getoption("--bench-images-per-class"))
        except rivals.SkippedRivalError as reason:
            pytest.skip(f"{rival_name}: {reason}")
        if phase != "forward" and rival.backward is None:
            pytest.skip(f"{rival_name} has no backward")
        d = rival.inputs.embeddings.shape[1]
        benchmark.group = f"{case} {phase} N={n} D={d}"
        benchmark.extra_info.update(case=case, n=n, d=d, rival=rival_name, phase=phase)
        if phase == "forward":
            benchmark(rival.forward)
        elif phase == "both":
            benchmark(lambda: rival.backward(rival.forward()))
        else:  # an autograd graph allows one backward, so an untimed forward precedes every round
            benchmark.pedantic(rival.backward, setup=lambda: ((rival.forward(),), {}), rounds=20, warmup_rounds=2)

    return time_it
