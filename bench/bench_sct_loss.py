"""SCT loss: forward, backward and both, against its rivals."""

import pytest

import paired

CASES = ("sct_loss",)


@pytest.mark.parametrize("phase", paired.PHASES)
def test_sct_loss(time_case, case, n, d, rival, phase):
    time_case(case, n, d, rival, phase)
