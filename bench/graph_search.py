"""Times searches for held-out queries on one thread, hardmine's graph against hnswlib, at equal recall.

    python bench/graph_search.py [--data sift words] [--rounds 5] [--queries 10000]
    python bench/graph_search.py --data words --rows 390000 --rivals 12,100

Each library is given the narrowest search, by `width` or `ef`, that reaches a recall@10 of 0.95 and of 0.99. Every
round times all of them, in shuffled order, by processor time, which is comparable while other jobs run. Of hnswlib
several builds compete. HARDMINE_DATA names the folder of sift_10k.npy, of which 1,000 rows, drawn at random, are the
queries, repeated. The rows and queries among words are drawn at random from the most frequent ones, of which there are
10,000 more than rows.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from graphs.data import DataSet, data_set_of, load_sift
from hardmine import ops
from hardmine.fanng import Index
from rivals.inputs import word_vectors
from tables import table

K = 10
RECALLS = (0.95, 0.99)
HNSWLIB = ((8, 100), (12, 100), (16, 200), (24, 200))  # (M, ef_construction)
MAX_WIDTH = 2000
Search = Callable[[int], np.ndarray]  # of a width: row numbers [Q, K]


def sift_split(queries: int) -> tuple[DataSet, np.ndarray]:
    data = load_sift()
    order = np.random.default_rng(0).permutation(len(data.rows))
    rows = data.rows[order]
    return data.with_rows(rows[:-1000]), np.resize(rows[-1000:], (queries, rows.shape[1]))


def words_split(queries: int, rows: int = 100_000) -> tuple[DataSet, np.ndarray]:
    vectors = word_vectors(rows + 10_000)
    order = np.random.default_rng(0).permutation(rows + 10_000)
    data = data_set_of(
        "words", "GloVe words, 50-d, cosine", "cosine", vectors.embeddings.numpy()[order], vectors.source
    )
    return data.first(rows), data.rows[rows : rows + queries]


SPLITS = {"sift": sift_split, "words": words_split}


def searches_of(data: DataSet, queries: np.ndarray, rivals: Sequence[tuple[int, int]] = HNSWLIB) -> dict[str, Search]:
    """The searches that compete, by name. Builds use all threads, searches one."""
    import hnswlib

    index, outside = Index.build(data.rows, metric=data.metric), torch.from_numpy(queries)
    found: dict[str, Search] = {}
    found["hardmine"] = lambda width: index.search(outside, K, width=width, threads=1).index.numpy()
    for m, ef_construction in rivals:
        graph = hnswlib.Index("ip" if data.metric == "cosine" else "l2", data.rows.shape[1])
        graph.init_index(len(data.rows), M=m, ef_construction=ef_construction, random_seed=0)
        graph.set_num_threads(torch.get_num_threads())
        graph.add_items(data.rows)
        graph.set_num_threads(1)

        def search(ef: int, graph: hnswlib.Index = graph) -> np.ndarray:
            graph.set_ef(ef)
            return graph.knn_query(queries, K)[0].astype(np.int64)

        found[f"hnswlib, M = {m}, ef_construction = {ef_construction}"] = search
    return found


def narrowest(search: Search, recall_of: Callable[[np.ndarray], float], recall: float) -> int:
    """The least width that reaches the recall, by bisection."""
    low, high = K - 1, MAX_WIDTH
    while high - low > 1:
        middle = (low + high) // 2 if high < MAX_WIDTH else min(2 * low, (low + high) // 2)
        low, high = (low, middle) if recall_of(search(middle)) >= recall else (middle, high)
    return high


def measure(name: str, args: argparse.Namespace) -> str:
    rounds, queries = args.rounds, args.queries
    data, outside = words_split(queries, args.rows) if name == "words" else SPLITS[name](queries)
    exact = ops.knn(torch.from_numpy(outside), torch.from_numpy(data.rows), K, similarity=data.metric).index.numpy()

    def recall_of(found: np.ndarray) -> float:
        return float((found[:, :, None] == exact[:, None]).any(1).mean())

    searches = searches_of(data, outside, args.rivals)
    rows = []
    for recall in RECALLS:
        widths = {who: narrowest(search, recall_of, recall) for who, search in searches.items()}
        times: dict[str, list[float]] = {who: [] for who in searches}
        for _ in range(rounds):
            for who in random.sample(list(searches), len(searches)):
                start = time.process_time()
                searches[who](widths[who])
                times[who].append(time.process_time() - start)
        for who, search in searches.items():
            reached, rate = recall_of(search(widths[who])), queries / np.median(times[who])
            rates = [str(widths[who]), f"{reached:.4f}", f"{rate:,.0f}"]
            relative = np.median(np.divide(times[who], times["hardmine"]))
            rows.append([str(recall), who, *rates, f"{relative:.2f}"])
    header = ["recall@10", "", "width or ef", "recall", "queries per second", "time relative to hardmine"]
    return f"{data.title}: {len(data.rows):,} rows, {queries:,} queries, one thread\n\n{table(header, rows)}\n"


def build_of(text: str) -> tuple[int, int]:
    m, ef_construction = map(int, text.split(","))
    return m, ef_construction


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(SPLITS), choices=list(SPLITS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=100_000, help="number of words")
    parser.add_argument(
        "--rivals", type=build_of, nargs="+", default=HNSWLIB, help="builds of hnswlib: M,ef_construction"
    )
    args = parser.parse_args()
    for name in args.data:
        print(measure(name, args))


if __name__ == "__main__":
    main()
