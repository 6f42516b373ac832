"""Comparisons of results: bitwise, within a tolerance, and by error."""

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
    """Asserts equal dtypes, shapes and bits: NaN equals NaN, 0.0 does not equal -0.0."""
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    bits = [t.detach().cpu().reshape(-1).view(torch.uint8) for t in (actual, expected)]
    if not torch.equal(*bits):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
        raise AssertionError("equal numbers with different bits")


def assert_results_bitwise_equal(actual: Result, expected: Result) -> None:
    """Asserts that every tensor of the two results is bitwise equal."""
    for a, b in zip(actual.tensors(), expected.tensors(), strict=True):
        assert_bitwise_equal(a, b)


def assert_same_selection(actual: Any, expected: Any) -> None:
    """Asserts equal indices and exactly equal similarities; NaN equals NaN, 0.0 equals -0.0."""
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def assert_results_close(actual: Result, expected: Result, tolerance: float) -> None:
    """Asserts equal indices, and all other tensors within ``tolerance``, relative to each tensor's largest entry."""
    for a, b in zip(actual.tensors(), expected.tensors(), strict=True):
        scale = b.double().abs().nan_to_num(0.0, 0.0).max().item() if b.numel() else 0.0
        exact = not b.is_floating_point()
        atol = 0.0 if exact else tolerance * max(1.0, scale)
        torch.testing.assert_close(a, b, rtol=0, atol=atol, equal_nan=True)


def largest_error(actual: Tensor, exact: Tensor) -> float:
    """The largest deviation from the float64 values ``exact``. NaN must stand in the same places and is skipped."""
    assert torch.equal(actual.isnan(), exact.isnan())
    return (actual.double() - exact).abs().nan_to_num(0.0).max().item()


class _GpuProducts(TorchDispatchMode):
    """Replaces float32 matrix products by ones summed as on a GPU: one chain of multiply-adds per entry.

    CPU products sum several chains per entry and add the chains at the end. For deep products their error is smaller.
    The GPU kernels use one chain per entry because a second set of sums would double the registers of a tile.
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
    """Asserts that the op's error is at most twice that of the reference in the same dtype, plus the last bits.

    On an emulated GPU the reference also sums as a GPU does.

    Returns:
        The exact result, from the reference in float64, so that the test can check that the inputs are meaningful.
    """
    fused = run(getattr(ops, name), inputs, **options)
    with _GpuProducts() if EMULATED else contextlib.nullcontext():
        plain = run(getattr(reference, name), inputs, **options)
    exact = run(getattr(reference, name), inputs.to(torch.float64), **options)
    for f, p, e in zip(fused.tensors(), plain.tensors(), exact.tensors(), strict=True):
        if f.is_floating_point():
            last_bit = torch.finfo(f.dtype).eps * e.abs().nan_to_num(0.0, 0.0).max().item()
            # A scalar gets more last bits: plain PyTorch's error on a single number may be near zero by luck.
            assert largest_error(f, e) <= 2 * largest_error(p, e) + (4 if f.dim() == 0 else 1) * last_bit
        else:
            assert torch.equal(f, e), "an index differs: the rest cannot be compared"
            assert torch.equal(p, e)
    return exact
