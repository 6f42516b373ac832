"""Triplet selection alone, forward only, against its rivals (for pytorch-metric-learning: its miner)."""

CASES = ("select_EPHN", "select_EPSHN", "select_HPHN")


def test_select_triplets(time_case, case, n, d, rival):
    time_case(case, n, d, rival)
