"""An integration says what to install if its library is absent, or has another major version."""

import importlib
import re
import sys

import pytest

from hardmine.integrations._versions import check_version

LIBRARIES = [
    ("pytorch_metric_learning", "pytorch-metric-learning", 2),
    ("sentence_transformers", "sentence-transformers", 6),
    ("open_clip", "open_clip_torch", 3),
]


def reimport(package, monkeypatch):
    """Imports an integration as if for the first time."""
    name = f"hardmine.integrations.{package}"
    for module in [module for module in sys.modules if module == name or module.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, module)
    importlib.import_module(name)


@pytest.mark.parametrize(("package", "distribution", "major"), LIBRARIES)
def test_import_without_the_library_says_what_to_install(package, distribution, major, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    install = rf'integrations\.{package} needs {distribution} {major}: pip install "{distribution}=={major}\.'
    with pytest.raises(ImportError, match=install):
        reimport(package, monkeypatch)


@pytest.mark.parametrize("version", ["1.7.3", "7.0.0", "20.1"])
@pytest.mark.parametrize(("package", "distribution", "major"), LIBRARIES)
def test_import_with_other_major_version_is_an_error(package, distribution, major, version, monkeypatch):
    monkeypatch.setattr(importlib.import_module(package), "__version__", version)
    with pytest.raises(ImportError, match=re.escape(f"needs {distribution} {major}, got {version}: pip install")):
        reimport(package, monkeypatch)


def test_missing_dependency_of_the_library_is_its_own_error(monkeypatch, tmp_path):
    (tmp_path / "needs_another.py").write_text("import this_is_not_installed")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'this_is_not_installed'"):
        check_version("needs_another", "needs-another", 1, "1.0")


@pytest.mark.parametrize("wraps", [False, True], ids=["itself", "as transformers does"])
def test_torchvision_that_does_not_fit_is_named_with_its_cause_and_remedy(wraps, monkeypatch, tmp_path):
    cause = "RuntimeError('operator torchvision::nms does not exist')"
    wrapped = (
        f"try:\n    raise {cause}\nexcept RuntimeError as error:\n    raise ModuleNotFoundError('no class') from error"
    )
    (tmp_path / "needs_torchvision.py").write_text(wrapped if wraps else f"raise {cause}")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError) as raised:
        check_version("needs_torchvision", "needs-torchvision", 1, "1.0")
    assert type(raised.value.__cause__) is (ModuleNotFoundError if wraps else RuntimeError)
    for part in (
        "hardmine.integrations.needs_torchvision needs needs-torchvision 1, but needs_torchvision cannot be imported",
        "torchvision does not fit torch",
        "(RuntimeError: operator torchvision::nms does not exist)",
        "`pip install torchvision --index-url https://download.pytorch.org/whl/cpu`",
    ):
        assert part in str(raised.value)


def test_other_failure_to_import_the_library_is_its_own_error(monkeypatch, tmp_path):
    (tmp_path / "fails.py").write_text("raise RuntimeError('for another reason')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="for another reason"):
        check_version("fails", "fails", 1, "1.0")
