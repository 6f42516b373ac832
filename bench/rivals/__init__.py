"""The setup shared by all benchmarks: one step of an op, by hardmine and by each of its rivals.

`setup(case, n, d, rival)` checks the results of a rival and returns the callables to time. The pytest-benchmark suites,
the paired report, the memory probe and the scaling fit all use this package, so they all time the same steps. The
rivals:

=======================  ========================================================================================
hardmine                 `hardmine.ops`
pytorch                  `hardmine.reference`, plain PyTorch
torch.compile            `torch.compile(hardmine.reference)`, compiled for exactly this size
pytorch-metric-learning  its TripletMarginLoss, with a miner or with all triplets, see `cases.CASES`
NTXentLoss, SupConLoss   the losses of pytorch-metric-learning
pytorch-chunks           knn on one block of rows at a time
faiss                    its IndexFlatIP
hnswlib                  its graph at a recall of 0.99: build and query
matmul                   only `torch.mm(X, X.T)`: the minimum cost of the N x N approach
matmul_out               `torch.mm` into a preallocated matrix: the arithmetic without page faults of new memory
matmul-chunks            `torch.mm` on one block of rows at a time, for an N whose matrix does not fit
=======================  ========================================================================================
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from hardmine import ops, reference
from rivals import checks
from rivals.cases import CASES, Case
from rivals.common import Inputs, Rival, SkippedRivalError, fits_memory, gradient_of, require_memory
from rivals.inputs import cached

__all__ = [
    "CASES",
    "RIVALS",
    "SEARCHES_SETTINGS",
    "Inputs",
    "Rival",
    "SkippedRivalError",
    "build",
    "make_inputs",
    "setup",
]

RIVALS = tuple(dict.fromkeys(name for case in CASES.values() for name in case.rivals))  # hardmine first
SEARCHES_SETTINGS = ("hnswlib",)  # before the first step: a memory measurement would show the peak of the search


def make_inputs(case_name: str, n: int, d: int, images_per_class: int = 4) -> Inputs:
    """The case's inputs, the same for every rival.

    Raises:
        SkippedRivalError: The inputs are data that is not available.
    """
    case = CASES[case_name]
    return cached(case.make_inputs, n, case.fixed_d or d, images_per_class)


def build_op(module: Any, op_name: str, options: dict[str, Any], kind: str, inputs: Inputs, name: str) -> Rival:
    op = getattr(module, op_name)
    embeddings, labels, _ = inputs
    if kind == "loss":
        return Rival(name, lambda: op(embeddings, labels, **options), gradient_of(inputs), inputs)
    embeddings = embeddings.detach()
    if kind == "neighbors":
        return Rival(name, lambda: op(embeddings, **options), None, inputs)
    return Rival(name, lambda: op(embeddings, labels, **options), None, inputs)


def build_compiled(case: Case, inputs: Inputs) -> Rival:
    # dynamic=False and a reset: torch.compile makes its best code for this size, not code that serves every size.
    torch.compiler.reset()
    compiled = SimpleNamespace(**{case.op: torch.compile(getattr(reference, case.op), dynamic=False)})
    rival = build_op(compiled, case.op, case.options, case.kind, inputs, "torch.compile")
    try:
        output = rival.forward()
        if rival.backward is not None:
            rival.backward(output)
    except Exception as error:  # no C++ compiler, an unsupported Python: many types
        raise SkippedRivalError(f"torch.compile failed: {str(error).strip().splitlines()[0]}") from error
    return rival


def build_matmul(inputs: Inputs, name: str) -> Rival:
    x = inputs.embeddings.detach()
    if name == "matmul":
        return Rival(name, lambda: torch.mm(x, x.T), None, inputs)
    out = torch.zeros(len(x), len(x))
    return Rival(name, lambda: torch.mm(x, x.T, out=out), None, inputs)


def images_per_class_of(inputs: Inputs) -> int:
    return int(inputs.labels.bincount().max())


def build(case_name: str, rival_name: str, inputs: Inputs) -> Rival:
    """Builds the rival without checking it.

    Raises:
        SkippedRivalError: The rival does not support the case, is not installed, does not compile, or does not fit into
            memory.
    """
    case = CASES[case_name]
    n, per_class = len(inputs.embeddings), images_per_class_of(inputs)
    if rival_name not in case.rivals:
        raise SkippedRivalError(f"does not support {case_name}")
    if rival_name in case.counterparts:
        counterpart = case.counterparts[rival_name]
        require_memory(counterpart.bytes_needed(n, per_class))
        return counterpart.build(inputs)
    if rival_name in ("matmul", "matmul_out"):
        require_memory(4 * n**2)
        return build_matmul(inputs, rival_name)
    if rival_name == "hardmine":
        return build_op(ops, case.op, case.options, case.kind, inputs, rival_name)
    require_memory(case.reference_bytes(n, per_class))
    if rival_name == "torch.compile":
        return build_compiled(case, inputs)
    return build_op(reference, case.op, case.options, case.kind, inputs, rival_name)


def setup(case_name: str, n: int, d: int, rival_name: str, images_per_class: int = 4) -> Rival:
    """Builds the rival and checks it, on the timed inputs if possible.

    Raises:
        SkippedRivalError: The rival cannot run here.
        AssertionError: The rival's results differ from the reference's.
    """
    case = CASES[case_name]
    inputs = make_inputs(case_name, n, d, images_per_class)
    if case.kind == "neighbors":
        rival = build(case_name, rival_name, inputs)
        checks.check_neighbors(rival, case.options["k"])
        return rival
    counterpart = case.counterparts.get(rival_name)
    checked_n = n if fits_memory(case.reference_bytes(n, images_per_class)) else min(n, 512)
    checked_per_class = images_per_class
    if counterpart is not None and counterpart.equal_at is not None:
        checked_per_class = counterpart.equal_at
        checked_n = min(n, 512)
    # The check uses another batch if the reference does not fit, or if the formulas agree only for other class sizes.
    checked_inputs = make_inputs(case_name, checked_n, d, checked_per_class)
    rival = build(case_name, rival_name, checked_inputs)
    checks.check(case, rival, (checked_n, d, checked_per_class))
    return rival if checked_inputs is inputs else build(case_name, rival_name, inputs)
