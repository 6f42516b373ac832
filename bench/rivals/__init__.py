"""The setup every benchmark shares: one step of an op, by hardmine and by each of its rivals.

`setup(case, n, d, rival)` gives the callables to time, after it asserted that they compute the right thing. The
pytest-benchmark suites, the paired report, the memory probe and the scaling fit all stand on this package, so they all
time the same thing. The rivals:

=======================  ========================================================================================
hardmine                 `hardmine.ops`
pytorch                  `hardmine.reference`, the obvious PyTorch
torch.compile            `torch.compile(hardmine.reference)`, compiled for exactly this size
pytorch-metric-learning  its TripletMarginLoss, with a miner or with all triplets, see `cases.CASES`
NTXentLoss, SupConLoss   those of pytorch-metric-learning
pytorch-chunks           knn a block of rows at a time
faiss                    its IndexFlatIP
hnswlib                  its graph at a recall of 0.99: build and query
matmul                   `torch.mm(X, X.T)` and nothing else: what the N x N approach pays before it begins
matmul_out               the same into a matrix allocated once: its arithmetic, without the page faults of new memory
matmul-chunks            the same a block of rows at a time, for an N whose matrix does not fit
=======================  ========================================================================================
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from hardmine import ops, reference
from rivals import checks
from rivals.cases import CASES, Case
from rivals.common import Inputs, Rival, SkippedRivalError, gradient_of, has_room, require_memory
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
SEARCHES_SETTINGS = ("hnswlib",)  # before its first step: a fresh process's peak would be that of the search


def make_inputs(case_name: str, n: int, d: int, images_per_class: int = 4) -> Inputs:
    """The case's inputs, the same for every rival.

    Raises:
        SkippedRivalError: they are data that is not at hand.
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
    # dynamic=False and a reset: the best code that torch.compile has for this size, not one that serves every size.
    torch.compiler.reset()
    compiled = SimpleNamespace(**{case.op: torch.compile(getattr(reference, case.op), dynamic=False)})
    rival = build_op(compiled, case.op, case.options, case.kind, inputs, "torch.compile")
    try:
        output = rival.forward()
        if rival.backward is not None:
            rival.backward(output)
    except Exception as error:  # no C++ compiler, an unsupported Python: many types, one meaning
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
    """The rival, unchecked.

    Raises:
        SkippedRivalError: it cannot run here: not installed, does not compile, or would not fit into memory.
    """
    case = CASES[case_name]
    n, per_class = len(inputs.embeddings), images_per_class_of(inputs)
    if rival_name not in case.rivals:
        raise SkippedRivalError(f"does not do {case_name}")
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
    """The rival, checked on the very inputs that are timed.

    Raises:
        SkippedRivalError: it cannot run here.
        AssertionError: it computes something else than the reference.
    """
    case = CASES[case_name]
    inputs = make_inputs(case_name, n, d, images_per_class)
    if case.kind == "neighbors":
        rival = build(case_name, rival_name, inputs)
        checks.check_neighbors(rival, case.options["k"])
        return rival
    counterpart = case.counterparts.get(rival_name)
    checked_n = n if has_room(case.reference_bytes(n, images_per_class)) else min(n, 512)
    checked_per_class = images_per_class
    if counterpart is not None and counterpart.equal_at is not None:
        checked_per_class = counterpart.equal_at
        checked_n = min(n, 512)
    # Where the reference has no room, or the formulas agree on other classes, the check takes another batch.
    checked_inputs = make_inputs(case_name, checked_n, d, checked_per_class)
    rival = build(case_name, rival_name, checked_inputs)
    checks.check(case, rival, (checked_n, d, checked_per_class))
    return rival if checked_inputs is inputs else build(case_name, rival_name, inputs)
