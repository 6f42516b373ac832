"""Helpers of the tests of the losses on given triplets: triplets, runs of an op and its reference, checks of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from hardmine import ops, reference
from support.comparisons import assert_bitwise_equal, largest_error
from support.inputs import random_inputs, seeded
from support.ops import EMULATED, SIMILARITIES, TERMS
from support.runs import effective_options

GIVEN = ("indexed_triplet_loss", "global_loss")
INDEXED_TERMS = ("ratio", *TERMS)
skip_if_triplets_are_unchecked = pytest.mark.skipif(EMULATED, reason="a GPU's ops raise no errors about values")
NO_TRIPLETS = torch.empty(0, 3, dtype=torch.int64)


class Batch(NamedTuple):
    """Embeddings [B, D] and triplets [T, 3] of their rows."""

    embeddings: Tensor
    triplets: Tensor

    def to(self, target: torch.device | torch.dtype | str) -> Batch:
        """A copy on another device, or with embeddings of another dtype."""
        if isinstance(target, torch.dtype):
            return self._replace(embeddings=self.embeddings.to(target))
        return Batch(self.embeddings.to(target), self.triplets.to(target))


class Outcome(NamedTuple):
    """The results of forward and backward."""

    loss: Tensor
    grad: Tensor


def random_triplets(rows: int, count: int, seed: int = 0) -> Tensor:
    """Triplets of three different rows, in no order; some anchors are in many triplets, some rows in none."""
    generator = seeded(seed)
    return torch.stack([torch.randperm(rows, generator=generator)[:3] for _ in range(count)]).reshape(count, 3)


def random_batch(
    rows: int = 40,
    depth: int = 8,
    count: int = 60,
    *,
    spread: float = 0.7,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Batch:
    """Clusters and triplets that ignore the clusters: some are easy, some hard."""
    triplets = random_triplets(rows, count, seed) if count else NO_TRIPLETS
    return Batch(random_inputs(rows, depth, spread=spread, dtype=dtype, seed=seed).embeddings, triplets)


def run_given(op: Callable, batch: Batch, **options: Any) -> Outcome:
    """Forward and backward on a fresh leaf; unreduced losses get a different upstream gradient per triplet."""
    x = batch.embeddings.detach().clone().requires_grad_()
    loss = op(x, batch.triplets, **options)
    upstream = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype, device=loss.device).reshape(loss.shape)
    loss.backward(upstream)
    return Outcome(loss.detach(), x.grad)


def run_given_both(name: str, batch: Batch, **options: Any) -> tuple[Outcome, Outcome]:
    """Forward and backward of the op called ``name`` and of its reference."""
    return run_given(getattr(ops, name), batch, **options), run_given(getattr(reference, name), batch, **options)


def assert_outcomes_equal(actual: Outcome, expected: Outcome) -> None:
    """Assert equality bit for bit."""
    assert_bitwise_equal(actual.loss, expected.loss)
    assert_bitwise_equal(actual.grad, expected.grad)


def assert_outcomes_close(actual: Outcome, expected: Outcome, tolerance: float) -> None:
    """Assert equality within ``tolerance``, relative to the largest number of each, or to 1."""
    for a, b in zip(actual, expected, strict=True):
        scale = max(1.0, b.double().abs().nan_to_num(0.0).max().item()) if b.numel() else 1.0
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale, equal_nan=True)


def assert_given_as_accurate_as_plain_torch(name: str, batch: Batch, **options: Any) -> Outcome:
    """Neither loss nor gradient errs more than twice as much as the reference in the same dtype; the last bit is free.

    Returns:
        The exact outcome, from the reference in float64.
    """
    fused, plain = run_given_both(name, batch, **options)
    exact = run_given(getattr(reference, name), batch.to(torch.float64), **options)
    for f, p, e in zip(fused, plain, exact, strict=True):
        last_bit = torch.finfo(f.dtype).eps * e.abs().max().item()
        assert largest_error(f, e) <= 2 * largest_error(p, e) + last_bit
    return exact


def options_of(name: str) -> list[dict[str, Any]]:
    """The options for every kind of loss of the op called ``name``."""
    if name == "global_loss":
        return [{"similarity": "cosine"}, {"similarity": "euclidean", "threshold": 0.5, "lam": 0.3}]
    return [
        effective_options({"term": term, "similarity": similarity, "temperature": 0.7})
        for term in INDEXED_TERMS
        for similarity in SIMILARITIES
        if (term, similarity) != ("ratio", "dot")
    ]


CASES = [(name, options) for name in GIVEN for options in options_of(name)]


def case_id(case: Any) -> str:
    """A short name of a case's options."""
    return case if isinstance(case, str) else "-".join(str(value) for value in case.values())


def compiled_arguments(name: str, batch: Batch) -> tuple:
    """The arguments of torch.ops.hardmine.<name>, with the op's default options."""
    options = (0, 4, 0.1, 0.2, 1.0, 0) if name == "indexed_triplet_loss" else (0, 0.8, 0.01)
    return (*batch, *options)
