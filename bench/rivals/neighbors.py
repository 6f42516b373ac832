"""Rivals of `knn` on all rows against all rows: PyTorch in chunks, faiss and hnswlib.

All rivals get the same unit vectors and as many threads as torch has, and must exclude each query from its own list.
faiss and hnswlib have no option for that, so they search for one more neighbor and drop the query. This takes about one
percent of their time. The time includes the build of the index, because offline mining makes its lists once per
embedding.
"""

from __future__ import annotations

import math
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from rivals.common import Inputs, Rival, SkippedRivalError

if TYPE_CHECKING:  # other rivals run without NumPy
    import numpy as np

CHUNK = 256  # rows; the fastest of 256, 1,024 and 4,096 on 100,000 word vectors
TARGET_RECALL = 0.99
# In a grid of M = 8 to 32 and ef_construction = 60 to 200, these were the fastest settings that reach the recall.
HNSW_M = (12,)
HNSW_EF_CONSTRUCTION = (60, 100)
HNSW_EF = (100, 150, 200, 250, 300, 400)


class Lists(NamedTuple):
    similarity: torch.Tensor  # [N, k] float32, descending
    index: torch.Tensor  # [N, k] int64


def in_chunks(rows: torch.Tensor, k: int) -> Lists:
    """The usual code if the N x N matrix does not fit: one block of its rows at a time."""
    parts = []
    for start in range(0, len(rows), CHUNK):
        s = rows[start : start + CHUNK] @ rows.T
        row = torch.arange(len(s))
        s[row, start + row] = -torch.inf
        parts.append(s.topk(k))
    return Lists(*(torch.cat(part) for part in zip(*parts, strict=True)))


def build_chunks(inputs: Inputs, k: int) -> Rival:
    return Rival("pytorch-chunks", lambda: in_chunks(inputs.embeddings, k), None, inputs)


def build_matmul_chunks(inputs: Inputs) -> Rival:
    """The floor if no N x N matrix fits: the same arithmetic, written into one reused block of rows."""
    rows = inputs.embeddings
    block = torch.zeros(CHUNK, len(rows))

    def multiply() -> None:
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            torch.mm(chunk, rows.T, out=block[: len(chunk)])

    return Rival("matmul-chunks", multiply, None, inputs)


def drop_self(similarity: np.ndarray, index: np.ndarray) -> Lists:
    """Drops each query from its list [N, k + 1]; if the query is not in its list, drops the last entry."""
    keep = index != torch.arange(len(index)).numpy()[:, None]
    keep[keep.all(1), -1] = False
    shape = (len(index), index.shape[1] - 1)
    return Lists(torch.from_numpy(similarity[keep].reshape(shape)), torch.from_numpy(index[keep].reshape(shape)))


def build_faiss(inputs: Inputs, k: int) -> Rival:
    try:
        import faiss
    except ImportError as error:
        raise SkippedRivalError("faiss-cpu is not installed") from error
    rows = inputs.embeddings.numpy()

    def search() -> Lists:
        faiss.omp_set_num_threads(torch.get_num_threads())
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(rows)
        return drop_self(*index.search(rows, k + 1))

    simd = getattr(faiss, "SIMDConfig", None)  # since faiss 1.14; FAISS_SIMD_LEVEL forces a level
    return Rival("faiss", search, None, inputs, f"SIMD level {simd.get_level_name()}" if simd else "")


@lru_cache(maxsize=1)
def exact(inputs: Inputs, k: int) -> Lists:
    """The exact lists that others are checked against: from faiss if installed, else from PyTorch."""
    try:
        return build_faiss(inputs, k).forward()
    except SkippedRivalError:
        return in_chunks(inputs.embeddings, k)


def recall_of(index: torch.Tensor, expected: torch.Tensor) -> float:
    """The recall of the lists: the share of `expected` [N, k] that the same row of `index` [N, k] contains."""
    row = torch.arange(len(index))[:, None] * (1 + max(int(index.max()), int(expected.max())))
    return torch.isin(row + expected, row + index).double().mean().item()


# --- hnswlib -------------------------------------------------------------------------------------------------------


class HnswTrial(NamedTuple):
    m: int
    ef_construction: int
    ef: int
    build_s: float
    query_s: float
    recall: float

    @property
    def total_s(self) -> float:
        return self.build_s + self.query_s


def hnsw_graph(hnswlib: Any, rows: np.ndarray, m: int, ef_construction: int) -> Any:
    graph = hnswlib.Index("ip", rows.shape[1])
    graph.init_index(len(rows), M=m, ef_construction=ef_construction, random_seed=0)
    graph.set_num_threads(torch.get_num_threads())
    graph.add_items(rows)
    return graph


def hnsw_lists(graph: Any, rows: np.ndarray, k: int, ef: int) -> Lists:
    graph.set_ef(max(ef, k + 1))
    index, distance = graph.knn_query(rows, k + 1)
    return drop_self(1 - distance, index.astype("int64"))


@lru_cache(maxsize=1)
def hnsw_trials(inputs: Inputs, k: int) -> list[HnswTrial]:
    """Tries the settings of the grid once each.

    A graph's larger ef are skipped once its recall suffices or its time exceeds the best time so far.
    """
    import hnswlib

    rows, exact_index = inputs.embeddings.numpy(), exact(inputs, k).index
    trials: list[HnswTrial] = []
    best_s = math.inf  # of the trials that reach the recall
    for m in HNSW_M:
        for ef_construction in HNSW_EF_CONSTRUCTION:
            start = time.perf_counter()
            graph = hnsw_graph(hnswlib, rows, m, ef_construction)
            build_s = time.perf_counter() - start
            for ef in HNSW_EF:
                start = time.perf_counter()
                lists = hnsw_lists(graph, rows, k, ef)
                query_s = time.perf_counter() - start
                recall = recall_of(lists.index, exact_index)
                trials.append(HnswTrial(m, ef_construction, ef, build_s, query_s, recall))
                if recall >= TARGET_RECALL:
                    best_s = min(best_s, trials[-1].total_s)
                if recall >= TARGET_RECALL or trials[-1].total_s > best_s:
                    break
    return trials


def build_hnswlib(inputs: Inputs, k: int) -> Rival:
    """Build and query at the fastest setting of the grid that reaches the target recall."""
    try:
        import hnswlib
    except ImportError as error:
        raise SkippedRivalError("hnswlib is not installed") from error
    trials = hnsw_trials(inputs, k)
    good = [trial for trial in trials if trial.recall >= TARGET_RECALL]
    if not good:
        best = max(trial.recall for trial in trials)
        raise SkippedRivalError(f"no setting of the grid reaches recall {TARGET_RECALL}; the best is {best:.4f}")
    best = min(good, key=lambda trial: trial.total_s)
    rows = inputs.embeddings.numpy()
    details = (
        f"M = {best.m}, ef_construction = {best.ef_construction}, ef = {best.ef}: recall {best.recall:.4f}, "
        f"the build takes {best.build_s / best.total_s:.0%} of the time; the fastest of the {len(good)} settings that "
        f"reach recall {TARGET_RECALL}, of {len(trials)} tried"
    )
    return Rival(
        "hnswlib",
        lambda: hnsw_lists(hnsw_graph(hnswlib, rows, best.m, best.ef_construction), rows, k, best.ef),
        None,
        inputs,
        details,
    )
