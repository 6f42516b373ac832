"""How the graph index runs: threads, SIMD levels, progress, the GIL, Ctrl-C, and without its compiled library."""

import hashlib
import re
import sys
import threading

import numpy
import pytest
import torch

import hardmine
from fanng_cases import METRICS, assert_same_index, sample_rows
from hardmine.fanng import Index
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded
from support.processes import SIMD_LEVELS, output_of, run_python, simd_levels, threads

each_metric = pytest.mark.parametrize("metric", METRICS)


def all_results(metric: str) -> str:
    """A checksum of graphs and neighbors of every kind of build."""
    digest = hashlib.sha256()
    for depth in (1, 3, 16, 17, 40, 150):
        x = torch.randn(500, depth, generator=seeded(depth))
        x[5:9] = x[3]
        x[20] = 0
        before = Index.build(x + 0.3 * torch.randn(x.shape, generator=seeded(1)), metric=metric, max_traversals=3000)
        for init in (None, "exact", "leaves", "naive", before):
            index = Index.build(
                x,
                metric=metric,
                init=init,
                success_rate=0.98,
                max_traversals=3000,
                max_degree=12,
                refinements=depth % 2,
            )
            found = (*index.neighbors(9, max_distance_computations=80), *index.neighbors(9))
            queried = index.search(x[:50] * 0.5 + 0.1, 4)
            for tensor in (*map(torch.from_numpy, index._core.graph[:1]), *found, *queried):
                digest.update(tensor.contiguous().numpy().tobytes())
            digest.update(index._core.graph[1].tobytes() + repr(sorted(index.stats().items())).encode())
    return digest.hexdigest()


@pytest.mark.slow
@each_metric
def test_index_any_thread_count_is_bitwise_equal(metric):
    x = sample_rows(1200)
    many = torch.randn(6000, 12, generator=seeded(4))  # several leaves
    with threads(1):
        index, expected = Index.build(x, metric=metric, init=None), None
        leaves = Index.build(many, metric=metric, init="leaves")
    for count in (1, 2, 3, 7):
        assert_same_index(Index.build(x, metric=metric, init=None, threads=count), index)
        assert_same_index(Index.build(many, metric=metric, init="leaves", threads=count), leaves)
        with threads(count):  # torch's thread count is the default
            assert_same_index(Index.build(x, metric=metric, init=None), index)
            results = (*index.neighbors(5), *index.search(x[:300], 5))
        given = (*index.neighbors(5, threads=count), *index.search(x[:300], 5, threads=count))
        expected = expected or results
        for actual in (results, given):
            for a, b in zip(actual, expected, strict=True):
                assert_bitwise_equal(a, b)
        assert index.recall(5, 100, threads=count) == index.recall(5, 100)


@pytest.fixture(scope="module")
def results_at():
    """The checksums of all results at a SIMD level, with any number of threads, computed once."""
    known = {}

    def results(level: str) -> list[str]:
        if level not in known:
            known[level] = output_of(run_python(__file__, HARDMINE_SIMD=level)).split()
        return known[level]

    return results


@pytest.mark.subprocess
@pytest.mark.parametrize("level", SIMD_LEVELS[1:])
def test_index_simd_levels_are_bitwise_equal(level, results_at):
    if level not in simd_levels():
        pytest.skip(f"this CPU or build has {', '.join(simd_levels())} only")
    scalar, results = results_at("scalar"), results_at(level)
    assert (scalar[0], results[0]) == ("scalar", level)
    assert scalar[1:] == results[1:]
    assert len(set(scalar)) == 1 + len(METRICS)


@pytest.mark.subprocess
def test_index_unknown_simd_level_raises():
    script = "import torch; from hardmine.fanng import Index; Index.build(torch.randn(500, 4))"
    process = run_python("-c", script, HARDMINE_SIMD="sse9")
    assert process.returncode == 1, "an exception, no abort"
    assert re.search(r"HARDMINE_SIMD must be one of '.*' on this CPU, got 'sse9'", process.stderr)


# Several Python threads


@pytest.mark.slow
@each_metric
def test_search_from_many_python_threads_is_bitwise_equal(metric):
    x = torch.randn(800, 8, generator=seeded(1))
    index = Index.build(x, metric=metric)
    expected = (*index.neighbors(6), *index.search(x[::3], 4))
    wrong: list[BaseException] = []

    def search(own: int) -> None:
        try:
            for _ in range(5):
                found = (*index.neighbors(6, threads=1 + own % 3), *index.search(x[::3], 4, threads=1 + own % 2))
                for actual, want in zip(found, expected, strict=True):
                    assert_bitwise_equal(actual, want)
        except BaseException as error:
            wrong.append(error)

    running = [threading.Thread(target=search, args=(own,)) for own in range(8)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert not wrong


@pytest.mark.thinned(5)
@pytest.mark.parametrize("work", ["build", "exact", "leaves", "naive", "search", "neighbors"])
def test_index_long_work_lets_python_threads_run(work):
    x = torch.randn(5000, 32, generator=seeded(1))
    index = Index.build(x[:3000])
    done, begun, steps = threading.Event(), threading.Event(), 0

    def count() -> None:
        nonlocal steps
        begun.wait()
        while not done.wait(0.001):
            steps += 1

    counter = threading.Thread(target=count)
    counter.start()
    begun.set()
    try:
        if work == "build":
            Index.build(x, init=None, success_rate=1, max_traversals=100_000)
        elif work in ("exact", "leaves", "naive"):
            Index.build(x, init=work, success_rate=0)
        elif work == "search":
            index.search(x, 5, max_distance_computations=2000)
        else:
            index.neighbors(5, max_distance_computations=3000)
    finally:
        done.set()
        counter.join()
    # At most one step fits before the work takes the lock, and one after it.
    assert steps > 5


# Ctrl-C

INTERRUPTED = """
import os, signal, sys, threading, time
import torch
from hardmine.fanng import Index

x = torch.randn(40_000, 64, generator=torch.Generator().manual_seed(0))
wide = x[:8000].repeat(1, 8)
index = Index.build(x[:16_000], init="exact", success_rate=0)
all_rows = {"max_distance_computations": 10**6}
# With an edge or two a vertex not all traversals arrive, ever.
endless = {"success_rate": 1, "max_traversals": 2**60, "max_degree": 1}
works = {
    "build": lambda: Index.build(x, init=None, **endless),
    "build on one thread": lambda: Index.build(x, init=None, threads=1, **endless),
    "build in short rounds": lambda: Index.build(x[:500], init=None, **endless),
    "build with a progress function": lambda: Index.build(x, init=None, progress=lambda *report: None, **endless),
    "naive": lambda: Index.build(wide, init="naive", max_degree=1),
    "warm": lambda: Index.build(x[:16_000], init=index, **endless),
    "exact": lambda: Index.build(x.repeat(1, 8), init="exact", **endless),
    "leaves": lambda: Index.build(x.repeat(3, 4), init="leaves"),
    "refinements": lambda: Index.build(x[:16_000], init=index, success_rate=0, refinements=1000),
    "search": lambda: index.search(x, 5, **all_rows),
    "search on one thread": lambda: index.search(x, 5, threads=1, **all_rows),
    "neighbors": lambda: index.neighbors(5, **all_rows),
}
# A job that a script started in the background is born with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
for name, work in works.items():
    timer = threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT))
    sent = time.monotonic() + 0.4
    timer.start()
    try:
        work()
        timer.join()
        print(name, "was not interrupted")
    except KeyboardInterrupt:
        print(name, "ended", file=sys.stderr)
        if time.monotonic() - sent > 30:
            print(name, "ended late")
# And all goes on.
print(len(Index.build(x[:100]).neighbors(3).index))
"""


@pytest.mark.subprocess
def test_index_interrupt_stops_long_work():
    process = run_python("-c", INTERRUPTED)
    assert output_of(process) == "100", process.stderr
    assert process.stderr.count("ended") == 12


# Too few threads

STARVED = """
import ctypes
import resource
import torch
from hardmine.fanng import Index

def built(threads):
    return Index.build(x, threads=threads, init="exact", success_rate=0.98, max_traversals=3000)

x = torch.randn(3000, 32, generator=torch.Generator().manual_seed(0))
expected = built(4)
# Stacks so large that what is left beside them has room for what else a thread allocates, where glibc would abort.
STACK = 256 << 20
libc, attributes = ctypes.CDLL(None), (ctypes.c_char * 64)()
assert not libc.pthread_attr_init(attributes)
assert not libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(STACK))
assert not libc.pthread_setattr_default_np(attributes)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
# The address space, of which every thread's stack takes its share, is used up.
resource.setrlimit(resource.RLIMIT_AS, (used + 12 * STACK, -1))
index = built(1000)
for a, b in zip(index._core.graph, expected._core.graph):
    print((a == b).all())
print(index.stats() == expected.stats())
"""


@pytest.mark.subprocess
def test_build_with_fewer_threads_than_asked_is_equal():
    assert output_of(run_python("-c", STARVED)).split() == ["True"] * 4


# Progress


@pytest.mark.slow
def test_build_progress_function_gets_reports():
    x = torch.randn(1500, 8, generator=seeded(1))
    reports: list[tuple[float, int]] = []

    def note(*report):
        assert threading.current_thread() is threading.main_thread()
        reports.append(report)

    index = Index.build(x, init=None, progress=note)
    assert len(reports) > 3
    assert all(type(rate) is float and 0 <= rate <= 1 and type(traversals) is int for rate, traversals in reports)
    assert [traversals for _, traversals in reports] == sorted({traversals for _, traversals in reports})
    assert reports[-1] == (index.stats()["build_success_rate"], index.stats()["traversals"])
    for progress in (None, False, numpy.False_):
        assert_same_index(Index.build(x, init=None, progress=progress), index)


@pytest.mark.parametrize("error", [ValueError("enough"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("count", [1, 3])
def test_build_progress_function_error_stops_build(error, count):
    x = torch.randn(1500, 8, generator=seeded(1))
    calls = 0

    def fail(_rate, _traversals):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise error

    with pytest.raises(type(error)) as caught:
        Index.build(x, init=None, progress=fail, threads=count)
    assert caught.value is error
    assert calls == 2


@pytest.mark.slow
def test_build_progress_function_may_use_ops_and_indices():
    x = torch.randn(1500, 8, generator=seeded(1))
    found = []
    Index.build(x, init=None, progress=lambda *_: found.append(Index.build(x[:50]).neighbors(2).index))
    assert len(found) > 2


def test_index_progress_true_shows_bars(capsys):
    pytest.importorskip("tqdm")
    x = torch.randn(300, 8, generator=seeded(1))
    index = Index.build(x, init=None, progress=True)
    shown = capsys.readouterr()
    assert "graph" in shown.err
    assert "traversals" in shown.err
    assert not shown.out
    for a, b in zip(index.neighbors(3, progress=True), index.neighbors(3), strict=True):
        assert_bitwise_equal(a, b)
    shown = capsys.readouterr()
    assert "neighbors" in shown.err
    assert not shown.out
    Index.build(x).neighbors(3)
    shown = capsys.readouterr()
    assert not shown.out + shown.err


def test_neighbors_with_progress_in_chunks_is_equal(monkeypatch, capsys):
    pytest.importorskip("tqdm")
    monkeypatch.setattr("hardmine.fanng._searches._CHUNK_ROWS", 64)
    index = Index.build(torch.randn(300, 8, generator=seeded(1)))
    for a, b in zip(index.neighbors(3, progress=True), index.neighbors(3), strict=True):
        assert_bitwise_equal(a, b)
    assert "5/5" in capsys.readouterr().err


def test_index_progress_without_tqdm_names_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    index = Index.build(torch.randn(30, 8))
    for work in (lambda: Index.build(index.vectors, progress=True), lambda: index.neighbors(3, progress=True)):
        with pytest.raises(ModuleNotFoundError, match=r"tqdm is not installed .* pip install tqdm"):
            work()


def test_index_file_without_safetensors_names_install(monkeypatch, tmp_path):
    pytest.importorskip("safetensors")
    index = Index.build(torch.randn(30, 8))
    index.save(tmp_path / "a")
    for module in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, module, None)
    for work in (lambda: index.save(tmp_path / "b"), lambda: Index.load(tmp_path / "a")):
        with pytest.raises(ModuleNotFoundError, match=r"safetensors is not .*pip install safetensors"):
            work()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


if __name__ == "__main__":
    print(hardmine.simd_level(), *map(all_results, METRICS))  # noqa: T201
