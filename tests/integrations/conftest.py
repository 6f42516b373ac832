"""These tests need the libraries whose classes they compare with."""

import pytest

pytest.importorskip("pytorch_metric_learning")
