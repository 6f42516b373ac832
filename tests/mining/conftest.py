"""Fixtures of the tests of all_knn."""

import pytest

from hardmine.mining import _block_pairs


@pytest.fixture
def saved_always(monkeypatch):
    """Lists in progress are saved after every pair."""
    monkeypatch.setattr(_block_pairs, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(_block_pairs, "_SAVE_RATIO", 0)


@pytest.fixture
def counted_pairs(monkeypatch):
    """The pairs of blocks that are compared."""
    pairs, compare = [], _block_pairs.BlockPairs._compare

    def counted(self, pair, *rows):
        compare(self, pair, *rows)
        pairs.append(tuple(pair))

    monkeypatch.setattr(_block_pairs.BlockPairs, "_compare", counted)
    return pairs
