"""Triplet losses against their rivals: EPSHN (NCA on easiest positive and semi-hard negative), HPHN (hinge)."""

import pytest

import paired


@pytest.mark.parametrize("phase", paired.PHASES)
@pytest.mark.parametrize("case", ["EPSHN", "HPHN"])
def test_triplet_loss(time_case, case, n, d, rival, phase):
    time_case(case, n, d, rival, phase)
