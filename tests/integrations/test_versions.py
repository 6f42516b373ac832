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
