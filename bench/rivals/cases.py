"""The cases: an op of ours with its options, the same by hand in plain PyTorch, and the same in other libraries.

Every rival of a case computes the same value and gradient, which `checks.check` asserts before any timing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from hardmine import ops
from rivals import by_hand, inputs, neighbors, pml
from rivals.by_hand import MARGIN, TEMPERATURE
from rivals.common import Inputs, Rival, SkippedRivalError, gradient_of

K = 50
OURS, BY_HAND, COMPILED, MATMUL = "hardmine", "by hand", "compiled", "matmul"
Step = Callable[[Tensor, Tensor], object]


@dataclass(frozen=True)
class Case:
    """One op with its options, and its rivals.

    Attributes:
        title: The call of ours, as tables show it.
        ours: Takes embeddings and labels, or queries and keys.
        by_hand: Plain PyTorch with the same arguments and results.
        others: Losses of other libraries, built when needed.
        make_inputs: Takes N and D.
        has_gradient: Whether a step has a backward pass.
        others_max_n: The largest N at which other libraries' losses run in seconds and gigabytes.
    """

    title: str
    ours: Step
    by_hand: Step
    others: Mapping[str, Callable[[], Step]] = field(default_factory=dict)
    make_inputs: Callable[[int, int], Inputs] = inputs.class_samples
    has_gradient: bool = True
    others_max_n: int = 2048


HINGE = {"term": "hinge", "margin": MARGIN}
NCE = {"temperature": TEMPERATURE}
CASES = {
    "sct": Case("sct_loss", ops.sct_loss, by_hand.sct),
    "batch_hard": Case(
        'triplet_loss, "hardest", "hardest"',
        partial(ops.triplet_loss, positive="hardest", negative="hardest", **HINGE),
        by_hand.batch_hard,
        {"PML": pml.batch_hard},
    ),
    "epshn": Case('triplet_loss, "easiest", "semihard"', ops.triplet_loss, by_hand.epshn),
    "semihard": Case(
        'triplet_loss, "all", "semihard"',
        partial(ops.triplet_loss, positive="all", negative="semihard", semihard_fallback="easiest", **HINGE),
        by_hand.semihard,
    ),
    "tuplet": Case("tuplet_loss", ops.tuplet_loss, by_hand.tuplet),
    "supcon": Case("supcon_loss", ops.supcon_loss, by_hand.supcon, {"PML": pml.supcon}),
    "multi_similarity": Case(
        "multi_similarity_loss",
        ops.multi_similarity_loss,
        by_hand.multi_similarity,
        {"PML": pml.multi_similarity},
    ),
    "circle": Case("circle_loss", ops.circle_loss, by_hand.circle, {"PML": pml.circle}),
    "info_nce": Case(
        "info_nce_loss", partial(ops.info_nce_loss, **NCE), by_hand.info_nce, make_inputs=inputs.pair_samples
    ),
    "clip": Case(
        "info_nce_loss, symmetric",
        partial(ops.info_nce_loss, symmetric=True, **NCE),
        by_hand.clip,
        make_inputs=inputs.pair_samples,
    ),
    "sigmoid": Case("sigmoid_loss", ops.sigmoid_loss, by_hand.sigmoid, make_inputs=inputs.pair_samples),
    "batch_all": Case(
        "batch_all_triplet_loss",
        ops.batch_all_triplet_loss,
        by_hand.batch_all,
        {"PML": pml.batch_all},
        others_max_n=512,
    ),
    "knn": Case(
        f"knn, k = {K}",
        lambda x, _: ops.knn(x, k=K),
        lambda x, _: by_hand.knn(x, K),
        {"faiss": partial(neighbors.faiss_flat, K)},
        inputs.word_vectors,
        has_gradient=False,
        others_max_n=10**9,
    ),
}
LOSSES = tuple(name for name, case in CASES.items() if case.has_gradient)


def rival_names(case: str) -> tuple[str, ...]:
    """All rivals of a case, ours first and the floor last."""
    compiled = (COMPILED,) if CASES[case].has_gradient else ()
    return (OURS, BY_HAND, *compiled, *CASES[case].others, MATMUL)


def build(case: str, name: str, batch: Inputs) -> Rival:
    """One rival on given inputs, unchecked.

    Raises:
        SkippedRivalError: It is not installed.
    """
    found = CASES[case]
    if name == MATMUL:
        # Into a given matrix: the arithmetic without the page faults of a new matrix.
        left = batch.embeddings.detach()
        right = (batch.labels.detach() if batch.labels.is_floating_point() else left).T
        out = torch.zeros(len(left), len(left))
        return Rival(name, lambda: torch.mm(left, right, out=out), None, batch)
    if name == COMPILED:
        # A reset and dynamic=False: the best code for this size, not code that serves every size.
        torch.compiler.reset()
        step = torch.compile(found.by_hand, dynamic=False)
    else:
        step = {OURS: found.ours, BY_HAND: found.by_hand}.get(name) or found.others[name]()
    backward = gradient_of(batch) if found.has_gradient else None
    return Rival(name, lambda: step(batch.embeddings, batch.labels), backward, batch)


def build_all(case: str, n: int, d: int, names: Sequence[str]) -> tuple[dict[str, Rival], dict[str, str]]:
    """The rivals on one batch, and why others are missing."""
    batch = CASES[case].make_inputs(n, d)
    rivals, skipped = {}, {}
    for name in names:
        if name in CASES[case].others and n > CASES[case].others_max_n:
            continue
        try:
            rivals[name] = build(case, name, batch)
        except SkippedRivalError as reason:
            skipped[name] = str(reason)
    return rivals, skipped
