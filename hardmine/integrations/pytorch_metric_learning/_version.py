"""The check that pytorch-metric-learning is there, in a version whose classes these subclasses fit."""

from __future__ import annotations

import importlib

MAJOR = 2
TESTED = "2.9.0"


def check() -> None:
    """Import pytorch-metric-learning, or say what to install."""
    install = f'pip install "pytorch-metric-learning=={TESTED}" (it keeps the installed torch)'
    try:
        version = importlib.import_module("pytorch_metric_learning").__version__
    except ModuleNotFoundError as error:
        if error.name != "pytorch_metric_learning":
            raise  # it is installed but lacks a dependency: its own message says more
        raise ImportError(
            f"hardmine.integrations.pytorch_metric_learning needs pytorch-metric-learning {MAJOR}: {install}",
            name=error.name,
        ) from error
    if version.partition(".")[0] != str(MAJOR):
        raise ImportError(
            f"hardmine.integrations.pytorch_metric_learning needs pytorch-metric-learning {MAJOR}, got {version}: "
            f"{install}",
            name="pytorch_metric_learning",
        )
