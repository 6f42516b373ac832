"""Correctness checks that run before any timing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rivals.cases import BY_HAND, COMPILED, MATMUL
from rivals.common import Inputs, Rival
from rivals.neighbors import recall_of


class CompileError(Exception):
    """torch.compile failed: no C++ compiler, an unsupported Python."""


def assert_both_branches(batch: Inputs) -> None:
    """Asserts that both hard and other triplets occur: SCT treats them differently, and both should be timed."""
    f = F.normalize(batch.embeddings.detach().float())
    s, same = f @ f.T, batch.labels[:, None] == batch.labels
    s_ap = s.masked_fill(~same, -2.0).fill_diagonal_(-2.0).amax(1)
    hard_share = (s.masked_fill(same, -2.0).amax(1) > s_ap).float().mean().item()
    assert 0.05 < hard_share < 0.95, f"{hard_share:.0%} of the triplets are hard"


def assert_same_loss(
    loss: Tensor,
    gradients: Tensor | tuple[Tensor, ...],
    expected: tuple[Tensor, Tensor | tuple[Tensor, ...]],
    row_tolerance: float = 1e-3,  # relative to the largest element
) -> None:
    """Asserts the same value and gradients, up to rounding."""
    expected_loss, expected_gradients = expected
    torch.testing.assert_close(loss.detach(), expected_loss, rtol=1e-4, atol=1e-6)
    pairs = [(gradients, expected_gradients)]
    if isinstance(gradients, tuple):
        pairs = list(zip(gradients, expected_gradients, strict=True))
    for gradient, expected_gradient in pairs:
        assert expected_gradient.abs().max() > 0, "the expected gradient is zero"
        # A near-tie that resolves differently changes the gradient of a few rows. Every other row must agree.
        row_error = (gradient - expected_gradient).abs().amax(1) / expected_gradient.abs().max()
        differing = int((row_error > row_tolerance).sum())
        assert differing <= max(8, len(row_error) // 50), f"the gradients of {differing} rows differ"


def assert_same_neighbors(actual: Any, expected: tuple[Tensor, Tensor]) -> None:
    """Asserts the same lists: all similarities agree, but near-ties may be listed in another order."""
    similarity, index = actual
    assert not (index == torch.arange(len(index))[:, None]).any(), "a list contains its own vector"
    torch.testing.assert_close(similarity, expected[0], rtol=0, atol=2e-6)
    recall = recall_of(index, expected[1])
    assert recall > 0.999, f"only {recall:.3%} of the neighbors are those of the other rival"


def result_of(rival: Rival) -> Any:
    output = rival.forward()
    return output if rival.backward is None else (output.detach(), rival.backward(output))


def check(rivals: Mapping[str, Rival]) -> None:
    """Asserts that every rival gives the value and gradient, or the lists, of the code by hand.

    Raises:
        AssertionError: A rival computes something else.
        CompileError: The compiled rival does not compile.
    """
    expected = result_of(rivals[BY_HAND])
    for name, rival in rivals.items():
        if name in (BY_HAND, MATMUL):
            continue
        try:
            result = result_of(rival)
        except Exception as error:
            if name != COMPILED:
                raise
            raise CompileError(f"torch.compile failed: {str(error).strip().splitlines()[0]}") from error
        try:
            if rival.backward is None:
                assert_same_neighbors(result, expected)
            else:
                assert_same_loss(*result, expected)
        except AssertionError as error:
            raise AssertionError(f"{name} is not equal to the code by hand: {error}") from error
