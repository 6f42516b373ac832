"""torchvision: imports with a torch that it does not fit, is left alone if it fits, and is named if missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from papers import _torchvision
from papers._torchvision import torchvision_module


def make_package(folder: Path, source: str) -> None:
    """Write a package called torchvision with a module `models`."""
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(source)
    (package / "extension.py").write_text("loaded = True\n")
    (package / "models.py").write_text("import torchvision.extension\nfound = torchvision.extension.loaded\n")


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


@pytest.fixture
def no_definitions(monkeypatch):
    """Fail when operators are defined. A search would not do: operators that another import defined remain."""
    monkeypatch.setattr(_torchvision, "_define_schemas", lambda: pytest.fail("operators were defined"))


def test_torchvision_module_imports_installed_package():
    try:
        models = torchvision_module("models")
    except ModuleNotFoundError:
        pytest.skip("torchvision is not installed")
    assert callable(models.resnet18)
    assert torchvision_module("models") is models
    assert torchvision_module("transforms.v2").functional.resize
    assert torchvision_module("datasets").ImageFolder


@pytest.mark.subprocess
def test_torchvision_module_missing_operators_defined(tmp_path):
    make_package(
        tmp_path,
        "from torchvision.extension import loaded\n"
        "import torch\n"
        "for name in ('nms', 'qnms'):\n"
        "    torch._C._dispatch_has_kernel_for_dispatch_key(f'torchvision::{name}', 'Meta')\n",
    )
    # In a separate process, since definitions are permanent.
    script = (
        "from papers._torchvision import torchvision_module\n"
        "print(torchvision_module('models').found, torchvision_module('extension').loaded)\n"
        "import torch\n"
        "print(*sorted(str(s) for s in torch._C._jit_get_all_schemas() if 'torchvision::' in str(s)), sep='\\n')\n"
    )
    folders = [str(tmp_path), str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "True True",
        "torchvision::nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "torchvision::qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ]


@pytest.mark.usefixtures("no_definitions")
def test_torchvision_module_loading_package_unchanged(path):
    make_package(path, "")
    assert torchvision_module("models").found


@pytest.mark.usefixtures("no_definitions")
def test_torchvision_module_other_failure_raises(path):
    make_package(path, "raise RuntimeError('another CUDA')")
    with pytest.raises(RuntimeError, match="another CUDA"):
        torchvision_module("models")


def test_torchvision_module_missing_package_raises(path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(path)])
    with pytest.raises(ModuleNotFoundError, match=r"torchvision is not installed .* pip install"):
        torchvision_module("models")
