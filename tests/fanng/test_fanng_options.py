"""Every option of the graph index refuses invalid values before any work."""

import re

import pytest
import torch

from bad_values import OPTIONAL_FLAG, THREADS, each_refused, integer, number
from fanng_cases import sample_rows
from hardmine.fanng import Index
from hardmine.fanng import index as module

EFFORT = integer(1, 2**31 - 1, optional=True)
OPTIONS = {
    "build": {
        "success_rate": number(0, 1, optional=True),
        "max_degree": integer(1, 65535),
        "seed": integer(0, 2**64 - 1),
        "threads": THREADS,
        "max_traversals": integer(1, 2**62, optional=True),
        "refinements": integer(0, 1000),
    },
    "search": {
        "k": integer(1, 2**31 - 1),
        "width": EFFORT,
        "max_distance_computations": EFFORT,
        "threads": THREADS,
    },
    "neighbors": {
        "k": integer(1, 2**31 - 1),
        "width": EFFORT,
        "max_distance_computations": EFFORT,
        "threads": THREADS,
        "progress": OPTIONAL_FLAG,
    },
    "recall": {
        "k": integer(1, 1023),
        "width": EFFORT,
        "sample": integer(1, 2**31 - 1, optional=True),
        "max_distance_computations": EFFORT,
        "seed": integer(0, 2**64 - 1),
        "threads": THREADS,
    },
    "search_width": {"k": integer(1, 2**31 - 1)},
}


class NoWork:
    """A stand-in for the compiled index, which only reports its size."""

    rows, depth = 300, 12

    @staticmethod
    def lists_hold(_k: int) -> bool:
        return True

    @staticmethod
    def search_width(_k: int) -> int:
        return 40


@pytest.fixture
def calls(monkeypatch):
    monkeypatch.setattr(module._fanng, "Index", NoWork)
    index, rows = Index(NoWork(), sample_rows(), {}), sample_rows()
    return {
        "build": lambda **options: Index.build(rows, **options),
        "search": lambda k=3, **options: index.search(rows, k, **options),
        "neighbors": lambda k=3, **options: index.neighbors(k, **options),
        "recall": index.recall,
        "search_width": index.search_width,
    }


@pytest.mark.thinned(3)
@each_refused(OPTIONS)
def test_index_invalid_option_raises_by_name(calls, function, argument, value, error):
    with pytest.raises(error, match=f"^{argument} must be "):
        calls[function](**{argument: value})


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("3", "start must be an integer, a tensor of integers or None, got str"),
        (True, "start must be an integer, a tensor of integers or None, got bool"),
        (1.0, "start must be an integer, a tensor of integers or None, got float"),
        ([1, 2], "start must be an integer, a tensor of integers or None, got list"),
    ],
)
def test_search_start_of_other_type_raises(calls, start, message):
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        calls["search"](start=start)


@pytest.mark.parametrize("progress", ["yes", 1, 0.0, [True]])
def test_build_progress_of_other_type_raises(calls, progress):
    with pytest.raises(TypeError, match=r"^progress must be True, False, None or a function, got "):
        calls["build"](progress=progress)


@pytest.mark.parametrize("path", [3, None, b"index", ["index"]])
def test_index_path_of_other_type_raises(path):
    index = Index.build(torch.eye(3))
    for use in (index.save, Index.load):
        with pytest.raises(TypeError, match=r"^path must be a str or an os.PathLike, got "):
            use(path)


def test_save_in_missing_folder_names_path(tmp_path):
    path = tmp_path / "missing" / "index"
    message = f"path must be in an existing folder, got '{path}': nothing was saved"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        Index.build(torch.eye(3)).save(path)
    assert not path.parent.exists()
