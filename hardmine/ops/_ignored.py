"""Rows that take no part in a call: the numbers of the others, as an op that ``torch.compile`` can capture."""

from __future__ import annotations

import torch
from torch import Tensor


def kept_rows(keep: Tensor) -> Tensor:
    """The rows where ``keep`` [B] is True, ascending int64 [K]. On a GPU the host reads K.

    Equals ``keep.nonzero().squeeze(1)``, which ``torch.compile(fullgraph=True)`` does not capture by default.
    """
    return torch.ops.hardmine.kept_rows(keep)


torch.library.define("hardmine::kept_rows", "(Tensor keep) -> Tensor")
torch.library.impl("hardmine::kept_rows", ("cpu", "cuda"), lambda keep: keep.nonzero().squeeze(1))


@torch.library.register_fake("hardmine::kept_rows")
def _(keep):
    return keep.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)
