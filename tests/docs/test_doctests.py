"""The docstrings' examples run, and every public name has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest
import torch

import hardmine

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = ["hardmine", *(found.name for found in pkgutil.walk_packages(hardmine.__path__, "hardmine."))]
PUBLIC = ["hardmine", "ops", "losses", "mining", "distributed", "fanng", "metrics", "reference"]


def examples_of(name):
    """The docstrings with examples, of what a module defines. doctest alone skips decorated functions."""
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder()
    values = {key: inspect.unwrap(value) for key, value in vars(module).items() if callable(value)}
    own = {key: value for key, value in values.items() if getattr(value, "__module__", None) == name}
    found = [test for key, value in own.items() for test in finder.find(value, f"{name}.{key}", globs=vars(module))]
    return [test for test in found if test.examples]


def skip_without_its_library(name):
    """An integration needs the library that it is named after."""
    _, _, integration = name.partition(".integrations.")
    if integration and not integration.startswith("_"):
        pytest.importorskip(integration.partition(".")[0])


@pytest.mark.parametrize("name", [name for name in MODULES if "._C" not in name and "._fanng" not in name])
def test_docstrings_examples_give_shown_output(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some examples save files
    skip_without_its_library(name)
    for example in examples_of(name):
        torch.manual_seed(0)
        report = []
        doctest.DocTestRunner(optionflags=OPTIONS).run(example, out=report.append)
        assert not report, "".join(report)


def is_record(value):
    """Types that other names return or raise; the examples of those names show them."""
    return isinstance(value, type) and (
        issubclass(value, (tuple, BaseException)) or hasattr(value, "__dataclass_fields__")
    )


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_every_public_name_has_example(name):
    module = hardmine if name == "hardmine" else getattr(hardmine, name)
    documented = {public: getattr(module, public) for public in module.__all__}
    missing = [
        public
        for public, value in documented.items()
        if (inspect.isfunction(value) or inspect.isclass(value)) and not is_record(value)
        if ">>> " not in (value.__doc__ or "")
    ]
    assert not missing, f"hardmine.{name}: no example in {', '.join(missing)}"
