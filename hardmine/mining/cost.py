"""What lists of neighbors cost: exact ones by :func:`hardmine.ops.knn`, and those of a FANNG index.

The constants are measured by ``python bench/mining_cost.py``, which prints them as they stand here; docs/mining.md
has the table behind them. Only their ratio decides, so that a machine which is quicker at both needs no other ones.
"""

from __future__ import annotations

from hardmine.fanng import default_effort

# A pair of rows: its comparison with both lists, and its similarity, a column at a time. And an entry of a list.
EXACT_NS_A_PAIR = 0.00138
EXACT_NS_A_PAIR_AND_COLUMN = 0.00617
EXACT_NS_A_LISTED_NEIGHBOR = 88.2
# A distance computation of a walk through the graph: it waits for memory, and then for D columns.
FANNG_NS_A_DISTANCE = 8.3
FANNG_NS_A_DISTANCE_AND_COLUMN = 0.144
# Distance computations a row of building the graph from nothing. A warm start is not counted: what it saves depends on
# how far the embedding has moved.
FANNG_BUILD_DISTANCES = 2420.0


def seconds_of_exact_lists(rows: int, depth: int, k: int) -> float:
    """Estimated time of the exact lists of all rows: each pair is visited once."""
    pairs = rows * (rows - 1) / 2
    of_pairs = pairs * (EXACT_NS_A_PAIR + EXACT_NS_A_PAIR_AND_COLUMN * depth)
    return (of_pairs + rows * k * EXACT_NS_A_LISTED_NEIGHBOR) * 1e-9


def seconds_of_fanng_lists(rows: int, depth: int, k: int, effort: int | None = None) -> float:
    """Estimated time of building an index from nothing and searching it for the lists of all rows.

    ``effort`` is the number of distance computations a search, by default that of `Index.neighbors`.
    """
    distances = FANNG_BUILD_DISTANCES + (default_effort(k) if effort is None else effort)
    return rows * distances * (FANNG_NS_A_DISTANCE + FANNG_NS_A_DISTANCE_AND_COLUMN * depth) * 1e-9


def quicker_method(rows: int, depth: int, k: int, effort: int | None = None) -> str:
    """``"exact"`` or ``"fanng"``, whichever should list the ``k`` neighbors of all rows [N, D] sooner."""
    if seconds_of_exact_lists(rows, depth, k) <= seconds_of_fanng_lists(rows, depth, k, effort):
        return "exact"
    return "fanng"
