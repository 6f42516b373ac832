"""Sums in a fixed order."""

from __future__ import annotations

import torch
from torch import Tensor


def ordered_sum(values: Tensor) -> Tensor:
    """The sum of values [B], in an order that does not depend on the number of threads, as that of torch does."""
    return torch.nn.functional.pad(values, (0, -len(values) % 1024)).view(-1, 1024).sum(1).sum()


def expand_in_order(scalar: Tensor, count: int) -> Tensor:
    """``scalar`` as [count]; its gradient is the sum of theirs in the order of :func:`ordered_sum`.

    A compiled graph has an order of its own, and may not know ``count``.
    """
    if torch.compiler.is_compiling():
        return scalar.expand(count)
    chunks = -(-count // 1024)
    return scalar.expand(chunks).unsqueeze(1).expand(chunks, 1024).reshape(-1)[:count]


def softplus(values: Tensor) -> Tensor:
    """log(1 + exp(values)) to the last digits, in float64, too; with derivatives 0 and 1 at -infinity and infinity."""
    if torch.compiler.is_compiling():  # where the number of values may be unknown, which logsigmoid's gradient needs
        return torch.logaddexp(values, values.new_zeros(()))
    return -torch.nn.functional.logsigmoid(-values)


def softplus_at(temperature: Tensor, excess: Tensor) -> Tensor:
    """softplus(excess / temperature), [B], for a temperature tensor []; its gradient is summed in float64."""
    return softplus(excess.double() / expand_in_order(temperature, excess.shape[0])).to(excess.dtype)
