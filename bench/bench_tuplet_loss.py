"""Losses over all negatives against their rivals: EP (easiest positive) and BatchAll (all positives)."""

import pytest

import paired

CASES = ("EP", "BatchAll")


@pytest.mark.parametrize("phase", paired.PHASES)
def test_tuplet_loss(time_case, case, n, d, rival, phase):
    time_case(case, n, d, rival, phase)
