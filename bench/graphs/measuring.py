"""Recall of lists, and times of builds and lists: for all settings (sweep), and for the fastest (head to head)."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import paired
from graphs.contestants import Contestant
from graphs.data import DataSet
from hardmine import ops
from hardmine.fanng import Index

Point = dict[str, Any]  # one contestant at one effort: the return value of `Sample.point`

TIE_TOLERANCE = 1e-6  # relative; two computations of one distance may round differently
CHUNK_ROWS = 8192


class Truth:
    """The exact lists of a data set, and the distances of their last entries."""

    def __init__(self, data: DataSet, k: int) -> None:
        """Finds the lists by `hardmine.ops.knn`; its tests and benchmark compare it with float64 and with faiss."""
        self.rows, self.metric, self.k = data.rows, data.metric, k
        self.index = ops.knn(torch.from_numpy(data.rows), k=k, similarity=data.metric).index.numpy()
        self.kth_distance = self.distances(np.arange(len(data.rows)), self.index[:, -1])  # [N]

    def distances(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Float64 distances [P] between rows `a` [P] and rows `b` [P]; squared if euclidean."""
        out = np.empty(len(a))
        for first in range(0, len(a), 50 * CHUNK_ROWS):
            chunk = slice(first, first + 50 * CHUNK_ROWS)
            x, y = self.rows[a[chunk]].astype(np.float64), self.rows[b[chunk]].astype(np.float64)
            if self.metric == "euclidean":
                out[chunk] = np.square(x - y).sum(1)
            else:
                out[chunk] = 1 - (x * y).sum(1)
        return out

    def recall(self, index: np.ndarray) -> float:
        """The share of the entries of the lists [N, k] that are no further than the k-th exact neighbor.

        Distances decide, not row numbers, because ties at the end of a list are broken arbitrarily.

        Raises:
            AssertionError: A list contains its own row or a duplicate, or the shape is not [N, k].
        """
        n = len(self.rows)
        assert index.shape == (n, self.k), f"lists must be {[n, self.k]}, got {list(index.shape)}"
        correct = 0
        for first in range(0, n, CHUNK_ROWS):
            rows = np.arange(first, min(first + CHUNK_ROWS, n))
            lists, expected = np.sort(index[rows], 1), np.sort(self.index[rows], 1)
            assert not (lists == rows[:, None]).any(), "a list contains its own row"
            assert not ((lists[:, 1:] == lists[:, :-1]) & (lists[:, 1:] >= 0)).any(), "a list contains a row twice"
            position = torch.searchsorted(torch.from_numpy(expected), torch.from_numpy(lists)).clamp_(max=self.k - 1)
            exact = np.take_along_axis(expected, position.numpy(), 1) == lists
            correct += int((exact & (lists >= 0)).sum())
            row, column = np.nonzero(~exact & (lists >= 0))
            limit = self.kth_distance[rows[row]]
            limit = limit + TIE_TOLERANCE * np.maximum(limit, 1e-3)
            correct += int((self.distances(rows[row], lists[row, column]) <= limit).sum())
        return correct / (n * self.k)


@dataclass
class Sample:
    """The measurements of one contestant at one effort, one number per pass."""

    contestant: Contestant
    effort: int
    facts: dict[str, float]
    build_s: list[float] = field(default_factory=list)
    query_s: list[float] = field(default_factory=list)
    recall: list[float] = field(default_factory=list)

    def total_s(self) -> float:
        """Median seconds of build and lists."""
        return float(np.median(np.add(self.build_s, self.query_s)))

    def point(self) -> Point:
        """Medians, ready for JSON."""
        build_s, query_s = float(np.median(self.build_s)), float(np.median(self.query_s))
        return {
            "library": self.contestant.library,
            "family": self.contestant.family,
            "setting": self.contestant.setting,
            "effort": self.effort,
            "recall": float(np.median(self.recall)),
            "build_s": build_s,
            "query_s": query_s,
            "total_s": self.total_s(),
            "passes": len(self.build_s),
            "facts": self.facts,
        }


def timed(call: Any, *arguments: Any) -> tuple[Any, float]:
    gc.disable()  # a collection would fall into one contestant's time by chance
    try:
        start = time.perf_counter()
        result = call(*arguments)
        return result, time.perf_counter() - start
    finally:
        gc.enable()


def warm_up(data: DataSet, contestants: list[Contestant], k: int) -> None:
    """Runs one small build of each library: the first build starts threads and loads code."""
    small = data.first(4 * k)
    per_library = {contestant.library: contestant for contestant in reversed(contestants)}
    for contestant in per_library.values():
        if not isinstance(getattr(contestant, "init", None), Index):  # an initial graph covers all rows
            contestant.lists(contestant.build(small), small, k, contestant.efforts[0])


def sweep(
    data: DataSet,
    truth: Truth,
    contestants: Iterable[Contestant],
    *,
    passes: int,
    seconds: float,
    stop_recall: float,
    max_times_first: float = math.inf,
    always: tuple[int, ...] = (),
) -> Iterator[list[Sample]]:
    """Times every contestant at its efforts: one pass, then more while `seconds` allow, up to `passes`.

    In every pass each contestant builds once and makes its lists at every effort. From the second pass on the order is
    shuffled. The first pass skips the efforts after one that reaches `stop_recall` or takes longer than
    `max_times_first` times the first contestant. Efforts in `always` are never skipped.

    Yields:
        All samples so far, after every contestant of the first pass and after every later pass.
    """
    contestants = list(contestants)
    warm_up(data, contestants, truth.k)
    started = time.perf_counter()
    shuffler = random.Random(0)
    samples: dict[int, list[Sample]] = {}
    for turn in range(passes):
        if turn > 0 and time.perf_counter() - started >= seconds * turn / (turn + 1):  # another pass would not fit
            break
        order = list(enumerate(contestants))
        if turn > 0:  # the first pass keeps the given order, because the others are compared with the first
            shuffler.shuffle(order)
        for number, contestant in order:
            graph, build_s = timed(contestant.build, data)
            if turn == 0:
                samples[number] = []
                efforts = iter(contestant.efforts)
            else:
                efforts = iter([sample.effort for sample in samples[number]])
            done = False
            for position, effort in enumerate(efforts):
                if turn == 0 and done and effort not in always:
                    continue
                lists, query_s = timed(contestant.lists, graph, data, truth.k, effort)
                if turn == 0:
                    samples[number].append(Sample(contestant, effort, contestant.facts(graph)))
                    sample = samples[number][-1]
                else:
                    sample = samples[number][position]
                sample.build_s.append(build_s)
                sample.query_s.append(query_s)
                if turn == 0 or not contestant.repeatable:
                    sample.recall.append(truth.recall(lists))
                too_long = build_s + query_s > max_times_first * samples[0][0].total_s()
                done = done or too_long or sample.recall[0] >= stop_recall
            del graph
            if turn == 0:
                yield [sample for number in sorted(samples) for sample in samples[number]]
        if turn > 0:
            yield [sample for number in sorted(samples) for sample in samples[number]]


def fastest(samples: Iterable[Sample], min_recall: float) -> Sample | None:
    """The fastest of the samples that reach the recall; None if none does."""
    good = [sample for sample in samples if np.median(sample.recall) >= min_recall]
    return min(good, key=Sample.total_s) if good else None


def head_to_head(data: DataSet, truth: Truth, finalists: list[Sample], rounds: int) -> list[Point]:
    """Times build and lists of the finalists again, each once per round, in shuffled order.

    The fastest setting of a sweep is fastest partly by luck; here all finalists share the same rounds. `of_first` of a
    point is its time divided by that of the first finalist.
    """
    timings = [Sample(finalist.contestant, finalist.effort, finalist.facts) for finalist in finalists]
    shuffler = random.Random(1)
    totals = np.zeros((len(timings), rounds))
    for turn in range(rounds):
        order = list(enumerate(timings))
        shuffler.shuffle(order)
        for number, sample in order:
            graph, build_s = timed(sample.contestant.build, data)
            lists, query_s = timed(sample.contestant.lists, graph, data, truth.k, sample.effort)
            totals[number, turn] = build_s + query_s
            sample.build_s.append(build_s)
            sample.query_s.append(query_s)
            sample.recall.append(truth.recall(lists))
            del graph, lists
    points = [sample.point() for sample in timings]
    for number, point in enumerate(points):
        found = paired.ratio(totals[number], totals[0])
        point["of_first"] = {"of_medians": found.of_medians, "quartiles": [found.quartile_1, found.quartile_3]}
    return points
