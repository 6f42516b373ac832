"""Hinge loss over all triplets against its rivals: the mean over all triplets, and over the active ones."""

import pytest

import paired

CASES = ("BatchAllTriplet", "BatchAllTriplet_active")


@pytest.mark.parametrize("phase", paired.PHASES)
def test_batch_all_triplet_loss(time_case, case, n, d, rival, phase):
    time_case(case, n, d, rival, phase)
