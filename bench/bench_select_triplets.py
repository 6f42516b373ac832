"""Triplet selection alone, which has no backward, against its rivals (of pytorch-metric-learning: the miner)."""

CASES = ("select_EPHN", "select_EPSHN", "select_HPHN")


def test_select_triplets(time_case, case, n, d, rival):
    time_case(case, n, d, rival)
