"""Rows and interrupted runs for the tests of all_knn."""

from __future__ import annotations

import torch

from hardmine.mining import _block_pairs
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded

N, D, BLOCK = 700, 6, 96


def small_integers(rows=N, seed=0, dtype=torch.float32):
    """Rows with many equal similarities, and multiples of other rows."""
    values = torch.randint(-2, 3, (rows, D), generator=seeded(seed)).to(dtype)
    values[rows // 2 : rows // 2 + rows // 7] = values[: rows // 7] * 0.37
    return values


def assert_same_lists(found, expected):
    for actual, wanted in zip(found, expected, strict=True):
        assert_bitwise_equal(actual, wanted)


class InterruptedRunError(Exception):
    """Ends a run from within."""


def interrupt_after(monkeypatch, pairs, error=InterruptedRunError):
    """Raises in the comparison after the first ``pairs``."""
    compare, seen = _block_pairs.BlockPairs._compare, []

    def interrupted(self, *arguments):
        if len(seen) == pairs:
            raise error
        seen.append(arguments)
        compare(self, *arguments)

    monkeypatch.setattr(_block_pairs.BlockPairs, "_compare", interrupted)
    return lambda: monkeypatch.setattr(_block_pairs.BlockPairs, "_compare", compare)
