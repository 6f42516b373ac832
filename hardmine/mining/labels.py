"""The classes of a set of images, as every part of mining takes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hardmine.ops._arguments import shape_of


def check_labels(labels: Tensor | Sequence[int]) -> Tensor:
    """``labels`` are integers [N]; returned as int64 on the CPU, a copy, since the caller's may change."""
    labels = torch.as_tensor(labels)
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers [N], got {labels.dtype} {shape_of(labels)}")
    return labels.to("cpu", torch.int64, copy=True)
