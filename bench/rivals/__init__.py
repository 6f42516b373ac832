"""What the benchmarks time: one step of an op, by hardmine and by each of its rivals on the same inputs.

========  =============================================================================================
hardmine  `hardmine.ops`
by hand   `by_hand.py`: the plain PyTorch that a competent user writes for this one loss
compiled  `torch.compile` of the code by hand, for exactly this size
PML       the same loss of pytorch-metric-learning, where it has one
faiss     the same neighbors, from its IndexFlatIP
matmul    only `torch.mm(X, X.T)`, into a given matrix: what every code begins with that builds the matrix
========  =============================================================================================
"""

from __future__ import annotations

from rivals.cases import BY_HAND, CASES, COMPILED, LOSSES, MATMUL, OURS, Case, build, build_all, rival_names
from rivals.common import Inputs, Rival, SkippedRivalError

__all__ = [
    "BY_HAND",
    "CASES",
    "COMPILED",
    "LOSSES",
    "MATMUL",
    "OURS",
    "Case",
    "Inputs",
    "Rival",
    "SkippedRivalError",
    "build",
    "build_all",
    "rival_names",
]
