"""The methods that mining_share.py compares are those of the table in docs/mining.md."""

import pytest
import torch

import mining_share
from hardmine.mining import SmartMiner


@pytest.mark.parametrize(
    ("method", "lists_by", "first_edges"),
    [("exact", "exact", None), ("fanng", "fanng", None), ("last", "fanng", "last")],
)
def test_methods_options_make_the_named_miner(method, lists_by, first_edges):
    options = mining_share.OPTIONS[method]
    miner = SmartMiner(lambda images: images, torch.randn(40, 8), torch.arange(40) // 4, **options)
    assert (miner.method, miner.fanng.get("init")) == (lists_by, first_edges)
