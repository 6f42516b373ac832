"""torchvision: the remedy is named if it does not fit the torch or is missing; in the tests it imports all the same."""

import sys
from pathlib import Path

import pytest

from papers._extras import require
from support.processes import output_of, run_python


def make_package(folder: Path, source: str) -> None:
    """Write a package called torchvision with a module `models`."""
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(source)
    (package / "extension.py").write_text("loaded = True\n")
    (package / "models.py").write_text("import torchvision.extension\nfound = torchvision.extension.loaded\n")


NEEDS_OPERATORS = """\
from torchvision.extension import loaded
import torch
for name in ("nms", "qnms"):
    torch._C._dispatch_has_kernel_for_dispatch_key(f"torchvision::{name}", "Meta")
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A folder at the head of the import path; afterwards the process's own torchvision modules are restored."""
    saved_modules = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "torchvision"}
    for name in saved_modules:
        del sys.modules[name]
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    sys.modules.update(saved_modules)


@pytest.mark.slow
@pytest.mark.subprocess
def test_torchvision_that_does_not_fit_imports_in_the_test_environment(tmp_path):
    make_package(tmp_path, NEEDS_OPERATORS)
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import torchvision.models
print(torchvision.models.found, torchvision.extension.loaded)
import torch
print(*sorted(str(s) for s in torch._C._jit_get_all_schemas() if "torchvision::" in str(s)), sep="\\n")
"""
    assert output_of(run_python("-c", script)).splitlines() == [
        "True True",
        "torchvision::nms(Tensor dets, Tensor scores, float threshold) -> Tensor",
        "torchvision::qnms(Tensor dets, Tensor scores, float threshold) -> Tensor",
    ]


def test_require_torchvision_that_does_not_fit_raises(path):
    make_package(path, "raise RuntimeError('operator torchvision::none does not exist')")
    with pytest.raises(ImportError, match=r"torchvision\.models cannot be imported, because .* does not fit torch"):
        require("torchvision.models")


def test_require_torchvision_that_fits(path):
    make_package(path, "")
    assert require("torchvision.models").found


def test_require_other_failure_raises(path):
    make_package(path, "raise RuntimeError('another CUDA')")
    with pytest.raises(RuntimeError, match="another CUDA"):
        require("torchvision.models")


def test_require_missing_torchvision_raises(path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(path)])
    with pytest.raises(ModuleNotFoundError, match=r"torchvision is not installed .* pip install"):
        require("torchvision.models")
