"""Triplet losses against their rivals: EPSHN (NCA on easiest positive and semi-hard negative), HPHN (hinge)."""

import pytest

import paired

CASES = ("EPSHN", "HPHN")


@pytest.mark.parametrize("phase", paired.PHASES)
def test_triplet_loss(time_case, case, n, d, rival, phase):
    time_case(case, n, d, rival, phase)
