"""Sums in a fixed order."""

from __future__ import annotations

import torch
from torch import Tensor


def ordered_sum(values: Tensor) -> Tensor:
    """The sum of values [B], in an order that does not depend on the number of threads, as that of torch does."""
    return torch.nn.functional.pad(values, (0, -len(values) % 1024)).view(-1, 1024).sum(1).sum()
