"""faiss, the exact rival of `knn` on all rows against all rows. `graph_report.py` has the approximate ones.

faiss has no option that leaves a query out of its own list, so it searches for one more neighbor and drops the query.
This takes about one percent of its time. The time includes the build of its index.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rivals.common import SkippedRivalError

if TYPE_CHECKING:  # the GPU benchmark runs without NumPy
    import numpy as np

Lists = tuple[Tensor, Tensor]  # similarities [N, k] float32, descending; indices [N, k] int64


def drop_self(similarity: np.ndarray, index: np.ndarray) -> Lists:
    """Drops each query from its list [N, k + 1]; if the query is not in its list, drops the last entry."""
    keep = index != torch.arange(len(index)).numpy()[:, None]
    keep[keep.all(1), -1] = False
    shape = (len(index), index.shape[1] - 1)
    return torch.from_numpy(similarity[keep].reshape(shape)), torch.from_numpy(index[keep].reshape(shape))


def faiss_flat(k: int) -> Callable[[Tensor, Tensor], Lists]:
    """IndexFlatIP, on unit vectors."""
    try:
        import faiss
    except ImportError as error:
        raise SkippedRivalError("faiss-cpu is not installed") from error

    def search(x: Tensor, _: Tensor) -> Lists:
        faiss.omp_set_num_threads(torch.get_num_threads())
        rows = x.numpy()
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(rows)
        return drop_self(*index.search(rows, k + 1))

    return search


def recall_of(index: Tensor, expected: Tensor) -> float:
    """The recall of the lists: the share of `expected` [N, k] that the same row of `index` [N, k] contains."""
    row = torch.arange(len(index))[:, None] * (1 + max(int(index.max()), int(expected.max())))
    return torch.isin(row + expected, row + index).double().mean().item()
