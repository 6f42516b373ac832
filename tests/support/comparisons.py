"""Comparisons of results: bit for bit, within a tolerance, and by their error."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hardmine import ops, reference
from support.inputs import Inputs
from support.ops import EMULATED
from support.runs import Result, run


def assert_bitwise_equal(actual: Tensor, expected: Tensor) -> None:
    """Equal dtypes, shapes and bits: NaN equals NaN, 0.0 does not equal -0.0."""
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    bits = [t.detach().cpu().reshape(-1).view(torch.uint8) for t in (actual, expected)]
    if not torch.equal(*bits):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
        raise AssertionError("equal numbers with different bits")


def assert_results_bitwise_equal(actual: Result, expected: Result) -> None:
    """Every tensor of two results is equal to the bit."""
    for a, b in zip(actual.tensors(), expected.tensors(), strict=True):
        assert_bitwise_equal(a, b)


def assert_same_selection(actual: Any, expected: Any) -> None:
    """Equal indices and equal similarities, exactly; NaN equals NaN, 0.0 equals -0.0."""
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def assert_results_close(actual: Result, expected: Result, tolerance: float) -> None:
    """Equal indices; similarities, losses and gradients within ``tolerance``, relative to the largest of each."""
    for a, b in zip(actual.tensors(), expected.tensors(), strict=True):
        scale = b.double().abs().nan_to_num(0.0, 0.0).max().item() if b.numel() else 0.0
        exact = not b.is_floating_point()
        atol = 0.0 if exact else tolerance * max(1.0, scale)
        torch.testing.assert_close(a, b, rtol=0, atol=atol, equal_nan=True)


def largest_error(actual: Tensor, exact: Tensor) -> float:
    """The largest deviation from the float64 values ``exact``, where both are numbers; missing ones must agree."""
    assert torch.equal(actual.isnan(), exact.isnan())
    return (actual.double() - exact).abs().nan_to_num(0.0).max().item()


class _ProductsOfAGPU(TorchDispatchMode):
    """Matrix products of float32 as a GPU sums them: one long chain of multiply-adds for each number.

    The CPU's have several chains, which they add up in the end, and err the less the longer the depth. The same chain
    in the kernels keeps all registers for the tile: a second set of sums would take as many again.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is not torch.ops.aten.mm.default or args[0].dtype != torch.float32:
            return func(*args, **(kwargs or {}))
        a, b = (t.double() for t in args)
        total = torch.zeros(a.shape[0], b.shape[1])
        for k in range(a.shape[1]):
            total = torch.addcmul(total.double(), a[:, k, None], b[k]).float()
        return total


def assert_as_accurate_as_plain_torch(name: str, inputs: Inputs, **options: Any) -> Result:
    """No result errs more than twice as much as that of the reference in the same dtype; the last bits are free.

    On an emulated GPU the reference, too, sums as a GPU does.

    Returns:
        The exact result, from the reference in float64, for the test to tell whether it says anything.
    """
    fused = run(getattr(ops, name), inputs, **options)
    with _ProductsOfAGPU() if EMULATED else contextlib.nullcontext():
        plain = run(getattr(reference, name), inputs, **options)
    exact = run(getattr(reference, name), inputs.to(torch.float64), **options)
    for f, p, e in zip(fused.tensors(), plain.tensors(), exact.tensors(), strict=True):
        if f.is_floating_point():
            last_bit = torch.finfo(f.dtype).eps * e.abs().nan_to_num(0.0, 0.0).max().item()
            # Of a single number, plain PyTorch's error may be next to nothing by luck.
            assert largest_error(f, e) <= 2 * largest_error(p, e) + (4 if f.dim() == 0 else 1) * last_bit
        else:
            assert torch.equal(f, e), "an index differs: the rest cannot be compared"
            assert torch.equal(p, e)
    return exact
