"""Without NumPy, functions that need its arrays say so, and how to install it."""

import sys

import pytest
import torch

from hardmine.fanng import Index
from hardmine.mining import random_triplets

ROWS = torch.eye(4)


@pytest.mark.parametrize(
    "work", [lambda: Index.build(ROWS), lambda: random_triplets(torch.arange(4) // 2)], ids=["build", "random_triplets"]
)
def test_mining_without_numpy_names_install(work, monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ModuleNotFoundError, match="numpy is not installed and is needed here: pip install numpy"):
        work()
