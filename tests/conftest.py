"""Settings and fixtures of all tests."""

import collections
import os

# Idle OpenMP threads spin, which takes the cores from whoever else is working on them: ten times the time of this suite
# on a busy machine. Must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# One thread per worker of pytest-xdist, and per process that it starts: tests of threads set their number.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

import hardmine
from hardmine import _library

# The CUDA ops on an emulated GPU (CMake's HARDMINE_EMULATION), whose tensors are on the CPU, in place of the CPU ops.
if emulated := os.environ.get("HARDMINE_EMULATED_CUDA"):
    torch.ops.load_library(emulated)
    _library.load = lambda: None

from support.ops import DEVICES, OPS, has_cuda_kernel
from triplets import GIVEN


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    """Marks as slow what starts processes, and what a test marked ``thinned(n)`` has beyond one case in n.

    An n that shares no divisor with the numbers of values spreads the fast cases over the values of every parameter;
    a product of fewer than n times those numbers need not have each of them. Every test keeps its first case.
    """
    cases = collections.Counter()
    for item in items:
        if item.get_closest_marker("subprocess"):  # which import torch, for seconds
            item.add_marker(pytest.mark.slow)
        if thinned := item.get_closest_marker("thinned"):
            test = (item.path, item.originalname)
            if cases[test] % thinned.args[0]:
                item.add_marker(pytest.mark.slow)
            cases[test] += 1


@pytest.fixture(params=DEVICES)
def device(request):
    """Every device that the op of the test can run on: the op that a parameter names, or the file, else selection."""
    if request.param == "cuda":
        named = (request.node.callspec.params.get("name"), request.path.stem.removeprefix("test_"))
        op = next((name for name in named if name in (*OPS, *GIVEN)), "select_triplets")
        if not has_cuda_kernel(op):
            pytest.skip(f"{op} has no CUDA kernels in this build")
    return request.param


@pytest.fixture
def saved_figures(monkeypatch):
    """The matplotlib figures that are saved, for a look at what they hold."""
    figure = pytest.importorskip("matplotlib.figure").Figure
    saved, save = [], figure.savefig

    def keep(figure, *arguments, **options):
        saved.append(figure)
        return save(figure, *arguments, **options)

    monkeypatch.setattr(figure, "savefig", keep)
    return saved


@pytest.fixture
def verify(tmp_path):
    """hardmine.verify of every call, which saves where the test may write."""

    def make(**options):
        return hardmine.verify(**{"every": 1, "save_dir": tmp_path / "saved", **options})

    return make
