"""The three parts of the report: recall against time, warm start, growth."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from graphs import contestants as contestants_module
from graphs import grids
from graphs.contestants import Contestant, Exact, Fanng
from graphs.data import LOADERS, DataSet, Move, noisy_move, trained_move
from graphs.grids import TARGET_RECALL, K, Plan
from graphs.measuring import Point, Sample, Truth, fastest, head_to_head, sweep
from rivals.common import SkippedRivalError

Result = dict[str, Any]


def about(data: DataSet, whole: bool) -> Result:
    """The fields that describe a result's data; targets are judged only if `whole` is set and the data is real."""
    n, d = data.rows.shape
    return {"data": data.name, "title": data.title, "source": data.source, "n": n, "d": d, "whole": whole and data.real}


def load(name: str, plan: Plan) -> tuple[DataSet, bool]:
    """The data set, cut to the plan's rows, and whether it is complete."""
    data = LOADERS[name]()
    if plan.rows is None or plan.rows >= len(data.rows):
        return data, True
    return data.first(plan.rows), False


def installed(candidates: list[Contestant]) -> tuple[list[Contestant], dict[str, str]]:
    """The contestants whose library is installed, and why the others are missing."""
    present, missing = [], {}
    for contestant in candidates:
        try:
            contestants_module.require(contestant)
        except SkippedRivalError as reason:
            missing[contestant.library] = str(reason)
        else:
            present.append(contestant)
    return present, missing


def finalists_of(samples: list[Sample]) -> list[Sample]:
    """Exact search, then the fastest setting that reaches the recall, per family."""
    families = dict.fromkeys(sample.contestant.family for sample in samples)
    best = [
        fastest((sample for sample in samples if sample.contestant.family == family), TARGET_RECALL)
        for family in families
    ]
    return [sample for sample in best if sample is not None]


def curve(name: str, plan: Plan) -> Iterator[Result]:
    """Times every setting at every effort, then the fastest of each family at the target recall in shared rounds."""
    data, whole = load(name, plan)
    truth = Truth(data, K)
    candidates, missing = installed(grids.contestants(name, plan.only_defaults))
    result = {**about(data, whole), "missing": missing, "points": [], "head_to_head": []}
    samples: list[Sample] = []
    steps = sweep(
        data,
        truth,
        candidates,
        passes=plan.passes,
        seconds=plan.seconds,
        stop_recall=grids.STOP_RECALL[name],
        max_times_first=grids.MAX_TIMES_EXACT,
    )
    with tqdm(total=len(candidates) + plan.passes - 1, desc=f"curve of {name}", unit="step", leave=False) as bar:
        for samples in steps:
            result["points"] = [sample.point() for sample in samples]
            bar.update()
            yield result
    finalists = finalists_of(samples)
    round_s = sum(sample.total_s() for sample in finalists)
    rounds = max(min(3, plan.rounds), min(plan.rounds, int(plan.seconds / round_s)))
    result["head_to_head"] = head_to_head(data, truth, finalists, rounds)
    yield result


# --- at one recall -----------------------------------------------------------------------------------------------


def query_at(points: list[Point], recall: float) -> tuple[float, float] | None:
    """Effort and seconds of the lists at exactly this recall, interpolated between the two nearest efforts.

    The interpolation is linear in log(1 - recall), because the curves are nearly straight in it. Returns None if no
    effort reaches the recall, and the values of the lowest effort if that one already reaches it.
    """
    points = sorted(points, key=lambda point: point["effort"])
    above = next((i for i, point in enumerate(points) if point["recall"] >= recall), None)
    if above is None:
        return None
    high = points[above]
    if above == 0:
        return high["effort"], high["query_s"]
    low = points[above - 1]
    log_misses = [math.log(max(1 - point["recall"], 1e-9)) for point in (low, high)]
    fraction = (math.log(1 - recall) - log_misses[0]) / (log_misses[1] - log_misses[0])
    return tuple(low[key] + fraction * (high[key] - low[key]) for key in ("effort", "query_s"))


def at(points: list[Point], effort: int) -> Point | None:
    return next((point for point in points if point["effort"] == effort), None)


def summary_of(points: list[Point]) -> Result:
    """Summarizes one graph's points: build, recall at the default effort, and the cost of the target recall."""
    default, reached = at(points, grids.DEFAULT_EFFORT), query_at(points, TARGET_RECALL)
    return {
        **{key: points[0][key] for key in ("family", "setting", "build_s", "facts")},
        "default_query_s": default["query_s"] if default else None,
        "default_recall": default["recall"] if default else None,
        "effort": reached[0] if reached else None,
        "query_s": reached[1] if reached else None,
        "total_s": points[0]["build_s"] + reached[1] if reached else None,
    }


def grouped(points: list[Point]) -> list[list[Point]]:
    """The points of each graph."""
    groups: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        groups.setdefault((point["library"], point["family"], point["setting"]), []).append(point)
    return list(groups.values())


# --- warm start --------------------------------------------------------------------------------------------------


def moves_of(data: DataSet, plan: Plan) -> Iterator[Move]:
    for kept in plan.kept_shares:
        yield noisy_move(data, kept)
    if data.name == "cars" and plan.rows is None:
        trained = trained_move(data)
        if trained is not None:
            yield trained


def warm_of_move(move: Move, plan: Plan, whole: bool) -> Result:
    """Compares builds over the moved rows: from scratch, from exact lists, and from the graph before the move."""
    data, efforts = move.after, grids.FANNG_FEW_EFFORTS
    before = Fanng(efforts).build(move.before)
    truth = Truth(data, K)
    candidates = [Exact(), Fanng(efforts), Fanng(efforts, init="exact"), Fanng(efforts, init=before)]
    always = (grids.DEFAULT_EFFORT,)
    steps = sweep(
        data, truth, candidates, passes=plan.passes, seconds=plan.seconds, stop_recall=TARGET_RECALL, always=always
    )
    for samples in steps:
        points = [sample.point() for sample in samples]
    exact, *graphs = grouped(points)
    return {
        **about(data, whole),
        "move": move.title,
        "kept": move.kept,
        "exact_s": exact[0]["total_s"],
        "graphs": [summary_of(graph) for graph in graphs],
        "points": points,
    }


def warm(name: str, plan: Plan) -> Iterator[Result]:
    data, whole = load(name, plan)
    for move in moves_of(data, plan):
        yield warm_of_move(move, plan, whole)


# --- growth --------------------------------------------------------------------------------------------------------


def exponent(sizes: list[int], values: list[float | None]) -> float | None:
    """The slope of log value over log N; None if a value is missing or there is only one size."""
    if len(sizes) < 2 or any(value is None for value in values):
        return None
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def growth(plan: Plan) -> Iterator[Result]:
    """Runs the same settings on growing prefixes of the word vectors."""
    whole_data = LOADERS["words"]()
    efforts = grids.FANNG_FEW_EFFORTS
    candidates = [Exact(), Fanng(efforts), Fanng(efforts, init="exact")]
    sizes = [n for n in plan.growth_sizes if n <= len(whole_data.rows)]
    result = {**about(whole_data, plan.growth_sizes == grids.GROWTH_SIZES), "sizes": [], "exponents": []}
    for n in tqdm(sizes, desc="growth", unit="size", leave=False):
        data = whole_data.first(n)
        steps = sweep(
            data,
            Truth(data, K),
            candidates,
            passes=plan.passes,
            seconds=plan.seconds / len(sizes),
            stop_recall=TARGET_RECALL,
            always=(grids.DEFAULT_EFFORT,),
        )
        for samples in steps:
            points = [sample.point() for sample in samples]
        exact, *graphs = grouped(points)
        result["sizes"].append(
            {"n": n, "exact_s": exact[0]["total_s"], "graphs": [summary_of(graph) for graph in graphs]}
        )
        result["exponents"] = exponents_of(result["sizes"])
        yield result


GROWING = ("build_s", "default_query_s", "total_s")


def exponents_of(sizes: list[Result]) -> list[Result]:
    """The exponents in N per family: of the build, of lists at the default effort, and of both at the target recall."""
    ns = [size["n"] for size in sizes]
    found = [{"family": "exact knn", "total_s": exponent(ns, [size["exact_s"] for size in sizes])}]
    for number, graph in enumerate(sizes[0]["graphs"]):
        same_graph = [size["graphs"][number] for size in sizes]
        found.append(
            {"family": graph["family"], **{key: exponent(ns, [graph[key] for graph in same_graph]) for key in GROWING}}
        )
    return found
