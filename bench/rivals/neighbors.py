"""Rivals of `knn`, all against all: PyTorch in chunks, faiss and hnswlib.

All get the same unit vectors, as many threads as torch has, and have to leave each query itself out. faiss and hnswlib
have no option for that, so they look for one neighbor more and drop the query from its list; that takes about one
percent of their time. Building the index counts: a list of neighbors for offline mining is made once per embedding.
"""

from __future__ import annotations

import math
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from rivals.common import Inputs, Rival, SkippedRivalError

if TYPE_CHECKING:  # other rivals run without
    import numpy as np

CHUNK = 256  # rows; the quickest of 256, 1,024 and 4,096 on 100,000 word vectors
WANTED_RECALL = 0.99
# Of a grid from M = 8 to 32 and ef_construction = 60 to 200, these were the quickest that reach the recall.
HNSW_M = (12,)
HNSW_EF_CONSTRUCTION = (60, 100)
HNSW_EF = (100, 150, 200, 250, 300, 400)


class Lists(NamedTuple):
    similarity: torch.Tensor  # [N, k] float32, descending
    index: torch.Tensor  # [N, k] int64


def in_chunks(rows: torch.Tensor, k: int) -> Lists:
    """What one writes when the N x N matrix does not fit: a block of rows of it at a time."""
    parts = []
    for start in range(0, len(rows), CHUNK):
        s = rows[start : start + CHUNK] @ rows.T
        own = torch.arange(start, start + len(s))
        s[own - start, own] = -torch.inf
        parts.append(s.topk(k))
    return Lists(*(torch.cat(part) for part in zip(*parts, strict=True)))


def build_chunks(inputs: Inputs, k: int) -> Rival:
    return Rival("pytorch-chunks", lambda: in_chunks(inputs.embeddings, k), None, inputs)


def build_matmul_chunks(inputs: Inputs) -> Rival:
    """The floor where no N x N matrix fits: its arithmetic, into one block of rows that is used again and again."""
    rows = inputs.embeddings
    block = torch.zeros(CHUNK, len(rows))

    def multiply() -> None:
        for start in range(0, len(rows), CHUNK):
            some = rows[start : start + CHUNK]
            torch.mm(some, rows.T, out=block[: len(some)])

    return Rival("matmul-chunks", multiply, None, inputs)


def without_self(similarity: np.ndarray, index: np.ndarray) -> Lists:
    """Drops each query from its own list [N, k + 1]; the last entry where the query is not in it."""
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
        return without_self(*index.search(rows, k + 1))

    simd = getattr(faiss, "SIMDConfig", None)  # since faiss 1.14; FAISS_SIMD_LEVEL forces one
    return Rival("faiss", search, None, inputs, f"SIMD level {simd.get_level_name()}" if simd else "")


@lru_cache(maxsize=1)
def exact(inputs: Inputs, k: int) -> Lists:
    """What the others are checked with: faiss, or without it PyTorch."""
    try:
        return build_faiss(inputs, k).forward()
    except SkippedRivalError:
        return in_chunks(inputs.embeddings, k)


def found_share(index: torch.Tensor, wanted: torch.Tensor) -> float:
    """Share of the `wanted` indices [N, k] that the same row of `index` [N, k] holds: the recall of its lists."""
    row = torch.arange(len(index))[:, None] * (1 + max(int(index.max()), int(wanted.max())))
    return torch.isin(row + wanted, row + index).double().mean().item()


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
    return without_self(1 - distance, index.astype("int64"))


@lru_cache(maxsize=1)
def hnsw_trials(inputs: Inputs, k: int) -> list[HnswTrial]:
    """The settings of the grid, each once; a graph is left when its recall suffices or the best is quicker already."""
    import hnswlib

    rows, wanted = inputs.embeddings.numpy(), exact(inputs, k).index
    trials: list[HnswTrial] = []
    shortest_s = math.inf  # of those that reach the recall
    for m in HNSW_M:
        for ef_construction in HNSW_EF_CONSTRUCTION:
            start = time.perf_counter()
            graph = hnsw_graph(hnswlib, rows, m, ef_construction)
            build_s = time.perf_counter() - start
            for ef in HNSW_EF:
                start = time.perf_counter()
                lists = hnsw_lists(graph, rows, k, ef)
                query_s = time.perf_counter() - start
                recall = found_share(lists.index, wanted)
                trials.append(HnswTrial(m, ef_construction, ef, build_s, query_s, recall))
                if recall >= WANTED_RECALL:
                    shortest_s = min(shortest_s, trials[-1].total_s)
                if recall >= WANTED_RECALL or trials[-1].total_s > shortest_s:
                    break
    return trials


def build_hnswlib(inputs: Inputs, k: int) -> Rival:
    """Build and query, at the quickest setting of the grid whose recall is high enough."""
    try:
        import hnswlib
    except ImportError as error:
        raise SkippedRivalError("hnswlib is not installed") from error
    trials = hnsw_trials(inputs, k)
    good = [trial for trial in trials if trial.recall >= WANTED_RECALL]
    if not good:
        best = max(trial.recall for trial in trials)
        raise SkippedRivalError(f"no setting of the grid reaches a recall of {WANTED_RECALL}, the best {best:.4f}")
    best = min(good, key=lambda trial: trial.total_s)
    rows = inputs.embeddings.numpy()
    details = (
        f"M = {best.m}, ef_construction = {best.ef_construction}, ef = {best.ef}: recall {best.recall:.4f}, "
        f"{best.build_s / best.total_s:.0%} of the time is building; the quickest of {len(good)} that reach "
        f"{WANTED_RECALL} among {len(trials)} tried"
    )
    return Rival(
        "hnswlib",
        lambda: hnsw_lists(hnsw_graph(hnswlib, rows, best.m, best.ef_construction), rows, k, best.ef),
        None,
        inputs,
        details,
    )
