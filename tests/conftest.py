"""Settings and fixtures of all tests."""

import collections
import os
import runpy
from pathlib import Path

# Idle OpenMP threads spin and take the cores from other processes: on a busy machine this suite takes ten times as
# long. Must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# One thread per pytest-xdist worker, and per process that a worker starts. Tests of threading set their own number.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
# Threads divide the work of small inputs, too. Read once, by csrc/cpu/ops/torch_bridge.h.
os.environ.setdefault("HARDMINE_GRAIN_FACTOR", str(1 / 16))

import pytest
import torch

import hardmine
from hardmine import _library

# Replaces the CPU ops with the CUDA ops on an emulated GPU (CMake's HARDMINE_EMULATION). Their tensors are on the CPU.
if emulated := os.environ.get("HARDMINE_EMULATED_CUDA"):
    torch.ops.load_library(emulated)
    _library.load = lambda: None

from support.ops import DEVICES, OPS, has_cuda_kernel
from triplets import GIVEN

# Lets this process, and those that it starts, import a torchvision that does not fit the torch.
ENVIRONMENT = str(Path(__file__).parent / "environment")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (ENVIRONMENT, os.environ.get("PYTHONPATH"))))
runpy.run_path(f"{ENVIRONMENT}/sitecustomize.py")


@pytest.hookimpl(tryfirst=True)  # before -m selects the tests
def pytest_collection_modifyitems(items):
    """Marks tests that start processes as slow, and all but one in n cases of a test marked ``thinned(n)``.

    If n is coprime to each parameter's number of values, the fast cases spread over the values of every parameter.
    A parameter may still miss values if the product has fewer cases than n times its number of values.
    The first case of every test is fast.
    """
    cases = collections.Counter()
    for item in items:
        if item.get_closest_marker("subprocess"):  # each process takes seconds to import torch
            item.add_marker(pytest.mark.slow)
        if thinned := item.get_closest_marker("thinned"):
            test = (item.path, item.originalname)
            if cases[test] % thinned.args[0]:
                item.add_marker(pytest.mark.slow)
            cases[test] += 1


@pytest.fixture(params=DEVICES)
def device(request):
    """Every device that the test's op runs on; a parameter or the file names the op, else it is select_triplets."""
    if request.param == "cuda":
        named = (request.node.callspec.params.get("name"), request.path.stem.removeprefix("test_"))
        op = next((name for name in named if name in (*OPS, *GIVEN)), "select_triplets")
        if not has_cuda_kernel(op):
            pytest.skip(f"{op} has no CUDA kernels in this build")
    return request.param


@pytest.fixture
def saved_figures(monkeypatch):
    """The matplotlib figures that the test saves, for inspection."""
    figure = pytest.importorskip("matplotlib.figure").Figure
    saved, save = [], figure.savefig

    def keep(figure, *arguments, **options):
        saved.append(figure)
        return save(figure, *arguments, **options)

    monkeypatch.setattr(figure, "savefig", keep)
    return saved


@pytest.fixture
def verify(tmp_path):
    """Makes hardmine.verify observers that check every call and save to the test's temporary folder."""

    def make(**options):
        return hardmine.verify(**{"every": 1, "save_dir": tmp_path / "saved", **options})

    return make
