"""What lists of neighbours cost: exact ones by :func:`hardmine.ops.knn`, and those of a FANNG index.

The constants are measured by ``python bench/mining_cost.py``, which prints them as they stand here; docs/mining.md
has the table behind them. Only their ratio decides, so that a machine which is quicker at both needs no other ones.
"""

from __future__ import annotations

# A pair of rows: its similarity, a nanosecond part for each of D columns, and its comparison with both rows' lists.
EXACT_NS_A_PAIR = 0.5
EXACT_NS_A_PAIR_AND_COLUMN = 0.012
# A distance computation of a walk through the graph: it waits for memory, and then for D columns.
FANNG_NS_A_DISTANCE = 60.0
FANNG_NS_A_DISTANCE_AND_COLUMN = 0.6
# Distance computations a row: those of building the graph from nothing, and those of a list, which `search` bounds.
FANNG_BUILD_DISTANCES = 4000.0


def seconds_of_exact_lists(rows: int, depth: int) -> float:
    """Estimated time of the exact lists of all rows: each pair is visited once."""
    return rows * (rows - 1) / 2 * (EXACT_NS_A_PAIR + EXACT_NS_A_PAIR_AND_COLUMN * depth) * 1e-9


def seconds_of_fanng_lists(rows: int, depth: int, k: int) -> float:
    """Estimated time of building an index from nothing and searching it for the lists of all rows."""
    distances = FANNG_BUILD_DISTANCES + max(400, 20 * k)
    return rows * distances * (FANNG_NS_A_DISTANCE + FANNG_NS_A_DISTANCE_AND_COLUMN * depth) * 1e-9


def quicker_method(rows: int, depth: int, k: int) -> str:
    """``"exact"`` or ``"fanng"``, whichever should list the ``k`` neighbours of all rows [N, D] sooner."""
    if seconds_of_exact_lists(rows, depth) <= seconds_of_fanng_lists(rows, depth, k):
        return "exact"
    return "fanng"
