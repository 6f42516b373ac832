"""These tests need the libraries whose classes they compare with. transformers and open_clip import torchvision."""

import importlib.util

import pytest

from hardmine.integrations import _fallback

for library in ("pytorch_metric_learning", "sentence_transformers", "datasets", "open_clip"):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed", allow_module_level=True)


@pytest.fixture(autouse=True)
def no_warning_yet():
    """Every test sees the warnings that are given once."""
    _fallback._warned.clear()
