"""SCT loss: forward, backward and both, against its rivals."""

import pytest

import paired


@pytest.mark.parametrize("phase", paired.PHASES)
def test_sct_loss(time_case, n, d, rival, phase):
    time_case("sct_loss", n, d, rival, phase)
