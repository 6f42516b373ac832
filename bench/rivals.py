"""The setup every benchmark shares: one loss step, by hardmine and by each of its rivals.

`setup(case, n, d, rival)` gives the callables to time, after it asserted that they compute the right thing. The
pytest-benchmark suites, the paired report, the memory probe and the scaling fit all stand on this module, so they all
time the same thing. The rivals:

==========================  =====================================================================================
hardmine                    `hardmine.ops`
pytorch                     `hardmine.reference`, the obvious PyTorch
torch.compile               `torch.compile(hardmine.reference)`, compiled for exactly this size
pytorch-metric-learning     its miner and its TripletMarginLoss, see `CASES`
matmul                      `torch.mm(X, X.T)` and nothing else: what the N x N approach pays before it begins
matmul_out                  the same into a matrix allocated once: its arithmetic, without the page faults of new memory
==========================  =====================================================================================
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

from hardmine import ops, reference

RIVALS = ("hardmine", "pytorch", "torch.compile", "pytorch-metric-learning", "matmul", "matmul_out")

# Peak memory in bytes per pair of samples, rounded up from bench/memory.py: enough to skip what would not fit.
BYTES_PER_PAIR = {"pytorch": 24, "torch.compile": 24, "pytorch-metric-learning": 40, "matmul": 4, "matmul_out": 4}


class SkippedRivalError(Exception):
    """This rival cannot run here; the message says why."""


@dataclass(frozen=True)
class Case:
    """One op with its options, and what comes closest to it in pytorch-metric-learning (PML).

    PML writes "easy" for our "easiest" and "hard" for "hardest". Its `TripletMarginLoss(margin=0, smooth_loss=True)` on
    cosine similarities is softplus(s_an - s_ap), which is our NCA term at temperature 1. It has no temperature, so the
    check compares it with `pml_equivalent`, not with the case itself; a temperature costs nothing, so nobody gains. PML
    averages over non-zero losses by default; it is given a plain mean, as ours is.
    """

    op: str
    options: dict[str, Any]
    pml_positive: str
    pml_negative: str
    pml_loss: dict[str, Any] | None = None  # arguments of TripletMarginLoss; None: only the miner runs
    pml_equivalent: tuple[str, dict[str, Any]] | None = None  # our op that is exactly what PML computes


def selection_case(positive: str, negative: str) -> Case:
    pml = {"easiest": "easy", "hardest": "hard", "semihard": "semihard"}
    options = {"positive": positive, "negative": negative}
    return Case("select_triplets", options, pml[positive], pml[negative])


PML_NCA = {"margin": 0.0, "smooth_loss": True}
NCA_AT_1 = {"term": "nca", "temperature": 1.0}
EPSHN = {"positive": "easiest", "negative": "semihard"}
EPHN = {"positive": "easiest", "negative": "hardest"}
HPHN = {"positive": "hardest", "negative": "hardest"}

CASES = {
    # PML has no SCT loss: NCA on the same triplets stands in. It differs in N scalars, not in any N x N pass.
    "sct_loss": Case("sct_loss", {}, "easy", "hard", PML_NCA, ("triplet_loss", {**EPHN, **NCA_AT_1})),
    "EPSHN": Case(
        "triplet_loss", {**EPSHN, "term": "nca"}, "easy", "semihard", PML_NCA, ("triplet_loss", {**EPSHN, **NCA_AT_1})
    ),
    # BatchHardMiner, and the hinge that it is used with.
    "HPHN": Case(
        "triplet_loss",
        {**HPHN, "term": "hinge", "margin": 0.2},
        "hard",
        "hard",
        {"margin": 0.2},
        ("triplet_loss", {**HPHN, "term": "hinge", "margin": 0.2}),
    ),
    "select_EPHN": selection_case("easiest", "hardest"),
    "select_EPSHN": selection_case("easiest", "semihard"),
    "select_HPHN": selection_case("hardest", "hardest"),
}


class Inputs(NamedTuple):
    embeddings: torch.Tensor  # [N, D] float32, requires grad, not normalised
    labels: torch.Tensor  # [N] int64


@dataclass
class Rival:
    """One rival at one size: `forward()` gives the loss or the selection, `backward(loss)` the gradient."""

    name: str
    forward: Callable[[], Any]
    backward: Callable[[Any], Any] | None
    inputs: Inputs = field(repr=False)


def make_inputs(n: int, d: int, images_per_class: int = 4, seed: int = 0) -> Inputs:
    """Samples whose closest positive about ties with the closest negative, in random order.

    The most similar of n random directions has a cosine similarity of about sqrt(2 log(n) / d). Samples of a class get
    0.7 of that on average, which brings the closest of a few positives up to it: about half of the triplets are hard,
    and both branches of SCT are taken. The order is random, so no rival gains from blocks of one class.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(n) // images_per_class)[torch.randperm(n, generator=generator)]
    within_class_similarity = min(0.9, 0.7 * math.sqrt(2 * math.log(n) / d))
    centres = torch.randn(n // images_per_class + 1, d, generator=generator)
    noise = torch.randn(n, d, generator=generator)
    embeddings = math.sqrt(within_class_similarity) * centres[labels] + math.sqrt(1 - within_class_similarity) * noise
    return Inputs(embeddings.requires_grad_(), labels)


def gradient_of(inputs: Inputs) -> Callable[[torch.Tensor], torch.Tensor]:
    # autograd.grad, not loss.backward(): no accumulation into .grad, which is nobody's work here.
    return lambda loss: torch.autograd.grad(loss, inputs.embeddings)[0]


def build_op(module: Any, case: Case, inputs: Inputs, name: str) -> Rival:
    op = getattr(module, case.op)
    if case.op == "select_triplets":
        embeddings = inputs.embeddings.detach()
        return Rival(name, lambda: op(embeddings, inputs.labels, **case.options), None, inputs)
    return Rival(name, lambda: op(inputs.embeddings, inputs.labels, **case.options), gradient_of(inputs), inputs)


def build_compiled(case: Case, inputs: Inputs) -> Rival:
    # dynamic=False and a reset: the best code that torch.compile has for this size, not one that serves every size.
    torch.compiler.reset()
    compiled = {case.op: torch.compile(getattr(reference, case.op), dynamic=False)}
    rival = build_op(SimpleNamespace(**compiled), case, inputs, "torch.compile")
    try:
        output = rival.forward()
        if rival.backward is not None:
            rival.backward(output)
    except Exception as error:  # no C++ compiler, an unsupported Python: many types, one meaning
        raise SkippedRivalError(f"torch.compile failed: {str(error).strip().splitlines()[0]}") from error
    return rival


def build_pml(case: Case, inputs: Inputs) -> Rival:
    """PML as its documentation uses it: `loss(embeddings, labels, miner(embeddings, labels))`."""
    try:
        from pytorch_metric_learning import distances, losses, miners, reducers
    except ImportError as error:
        raise SkippedRivalError("pytorch-metric-learning is not installed") from error
    distance = distances.CosineSimilarity()
    if case.pml_positive == case.pml_negative == "hard":
        miner = miners.BatchHardMiner(distance=distance)
    else:
        miner = miners.BatchEasyHardMiner(case.pml_positive, case.pml_negative, distance=distance)
    name = "pytorch-metric-learning"
    if case.pml_loss is None:
        embeddings = inputs.embeddings.detach()
        return Rival(name, lambda: miner(embeddings, inputs.labels), None, inputs)
    loss = losses.TripletMarginLoss(distance=distance, reducer=reducers.MeanReducer(), **case.pml_loss)
    embeddings, labels = inputs
    return Rival(name, lambda: loss(embeddings, labels, miner(embeddings, labels)), gradient_of(inputs), inputs)


def build_matmul(inputs: Inputs, name: str) -> Rival:
    x = inputs.embeddings.detach()
    if name == "matmul":
        return Rival(name, lambda: torch.mm(x, x.T), None, inputs)
    out = torch.zeros(len(x), len(x))
    return Rival(name, lambda: torch.mm(x, x.T, out=out), None, inputs)


def build(case_name: str, rival_name: str, inputs: Inputs) -> Rival:
    """The rival, unchecked.

    Raises:
        SkippedRivalError: it cannot run here: not installed, does not compile, or would not fit into memory.
    """
    need = BYTES_PER_PAIR.get(rival_name, 0) * len(inputs.labels) ** 2
    free = available_memory()
    if need > 0.8 * free:
        raise SkippedRivalError(f"needs about {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free")
    case = CASES[case_name]
    if rival_name in ("hardmine", "pytorch"):
        return build_op(ops if rival_name == "hardmine" else reference, case, inputs, rival_name)
    if rival_name == "torch.compile":
        return build_compiled(case, inputs)
    if rival_name == "pytorch-metric-learning":
        return build_pml(case, inputs)
    return build_matmul(inputs, rival_name)


def available_memory() -> int:
    """Bytes that a process can still get without swapping."""
    try:
        with open("/proc/meminfo") as meminfo:
            fields = dict(line.split(":") for line in meminfo)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except OSError:  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# --- correctness, before anything is timed -------------------------------------------------------------------------


@lru_cache(maxsize=1)  # the rivals of one size come one after another and share inputs
def cached_inputs(n: int, d: int, images_per_class: int) -> Inputs:
    return make_inputs(n, d, images_per_class)


@lru_cache(maxsize=2)  # a case's own result, and that of its PML equivalent
def expected(op: str, options: tuple[tuple[str, Any], ...], n: int, d: int, images_per_class: int) -> Any:
    """What the reference gives: a selection, or (loss, gradient)."""
    inputs = cached_inputs(n, d, images_per_class)
    if op == "sct_loss":
        assert_both_branches(inputs)
    rival = build_op(reference, Case(op, dict(options), "", ""), inputs, "pytorch")
    output = rival.forward()
    return output if rival.backward is None else (output.detach(), rival.backward(output))


def assert_both_branches(inputs: Inputs) -> None:
    """SCT treats hard and other triplets differently: inputs with one kind only would time and check half of it."""
    selection = reference.select_triplets(inputs.embeddings.detach(), inputs.labels, **EPHN)
    hard_share = (selection.negative_similarity > selection.positive_similarity).float().mean().item()
    assert 0.05 < hard_share < 0.95, f"{hard_share:.0%} of the triplets are hard"


def assert_same_selection(actual: Any, wanted: Any) -> None:
    """Indices agree but for near-ties: sums in another order may swap similarities that are equal to seven digits."""
    allowed = max(2, len(wanted.positive_index) // 200)
    for kind in ("positive", "negative"):
        index, wanted_index = getattr(actual, f"{kind}_index"), getattr(wanted, f"{kind}_index")
        differing = int((index != wanted_index).sum())
        assert differing <= allowed, f"{differing} {kind} indices differ from the reference"
        same = (index == wanted_index) & (index >= 0)
        similarity, wanted_similarity = getattr(actual, f"{kind}_similarity"), getattr(wanted, f"{kind}_similarity")
        torch.testing.assert_close(similarity[same], wanted_similarity[same], rtol=1e-4, atol=1e-5)


def assert_same_miner_output(mined: tuple[torch.Tensor, ...], wanted: Any) -> None:
    """PML's (anchors, positives, negatives) or (anchors, positives, anchors, negatives), against a selection."""
    anchors, positives, negatives = mined[0], mined[1], mined[-1]
    valid = ((wanted.positive_index >= 0) & (wanted.negative_index >= 0)).nonzero().squeeze(1)
    allowed = max(2, len(valid) // 200)
    assert torch.equal(anchors, valid), f"PML keeps {len(anchors)} anchors, the reference {len(valid)}"
    differing = (positives != wanted.positive_index[valid]) | (negatives != wanted.negative_index[valid])
    assert int(differing.sum()) <= allowed, f"{int(differing.sum())} triplets of PML differ from the reference"


def assert_same_loss(loss: torch.Tensor, gradient: torch.Tensor, wanted: tuple[torch.Tensor, torch.Tensor]) -> None:
    wanted_loss, wanted_gradient = wanted
    assert wanted_gradient.abs().max() > 0, "a zero gradient would prove nothing"
    torch.testing.assert_close(loss.detach(), wanted_loss, rtol=1e-4, atol=1e-6)
    # A near-tie that falls the other way moves the gradient of a handful of rows; every other row has to agree.
    row_error = (gradient - wanted_gradient).abs().amax(1) / wanted_gradient.abs().max()
    differing = int((row_error > 1e-3).sum())
    assert differing <= max(8, len(row_error) // 50), f"the gradients of {differing} rows differ from the reference"


def check(case_name: str, rival: Rival, n: int, d: int, images_per_class: int) -> None:
    """Asserts that the rival computes what the reference does (PML: what it claims to do, see `Case`)."""
    if rival.name in ("pytorch", "matmul", "matmul_out"):
        return
    case = CASES[case_name]
    op, options = case.op, case.options
    if rival.name == "pytorch-metric-learning" and case.pml_equivalent is not None:
        op, options = case.pml_equivalent
    wanted = expected(op, tuple(options.items()), n, d, images_per_class)
    output = rival.forward()
    if rival.backward is not None:
        assert_same_loss(output, rival.backward(output), wanted)
    elif rival.name == "pytorch-metric-learning":
        assert_same_miner_output(output, wanted)
    else:
        assert_same_selection(output, wanted)


def setup(case_name: str, n: int, d: int, rival_name: str, images_per_class: int = 4) -> Rival:
    """The rival, checked against the reference on the very inputs that are timed.

    Raises:
        SkippedRivalError: it cannot run here.
        AssertionError: it computes something else than the reference.
    """
    # Where the reference has no room, the check takes a smaller size: what is timed may be too large for the reference.
    checked_n = n if BYTES_PER_PAIR["pytorch"] * n**2 < 0.8 * available_memory() else 512
    rival = build(case_name, rival_name, cached_inputs(checked_n, d, images_per_class))
    check(case_name, rival, checked_n, d, images_per_class)
    if checked_n != n:
        rival = build(case_name, rival_name, cached_inputs(n, d, images_per_class))
    return rival
