"""The graph index's performance targets, and whether a run meets them; bench/verdicts.py defines `Verdict`."""

from __future__ import annotations

from typing import Any

from graphs import grids
from graphs.contestants import DEFAULT, REFINED, SEEDED, TRAVERSE_ADD, WARM
from graphs.grids import TARGET_RECALL, K
from graphs.measuring import Point
from verdicts import Verdict

Results = dict[str, Any]

RIVALS = ("hnswlib", "faiss HNSW", "faiss NNDescent")
EQUAL_RECALL = 0.005  # how much lower a warm graph's recall may be than a fresh graph's, at equal effort
DEGREES = (15, 30)  # the range in Smart Mining, section 3.2


def curve_of(results: Results, name: str) -> dict[str, Any] | None:
    """The data set's curve if targets are judged on it, that is, if it covers all of the real rows."""
    return next((curve for curve in results["curve"] if curve["data"] == name and curve["whole"]), None)


def best_of(points: list[Point], families: tuple[str, ...]) -> Point | None:
    """The fastest point of these families; None if there is none."""
    good = [point for point in points if point["family"] in families]
    return min(good, key=lambda point: point["total_s"]) if good else None


def compare(results: Results, name: str, families: tuple[str, ...], what: str, rivals: tuple[str, ...]) -> Verdict:
    """Whether the fastest of `families` takes at most the time of the fastest of `rivals`, at the target recall."""
    than = "exact knn" if rivals == ("exact knn",) else "the fastest of hnswlib, faiss HNSW and faiss NNDescent"
    target = f"{what}: neighbors({K}) of {name} at recall {TARGET_RECALL} takes at most the time of {than}"
    curve = curve_of(results, name)
    if curve is None:
        return Verdict(target, None)
    if not curve["head_to_head"]:
        return Verdict(target, None, "not measured: the run was interrupted")
    missing = [rival for rival in rivals if rival in curve["missing"]]
    if missing:
        return Verdict(target, None, f"{' and '.join(missing)} not measured")
    if not any(point["family"] in families for point in curve["points"]):
        return Verdict(target, None, "not measured")
    ours, theirs = best_of(curve["head_to_head"], families), best_of(curve["head_to_head"], rivals)
    if ours is None:
        best = max((point["recall"] for point in curve["points"] if point["family"] in families), default=0.0)
        return Verdict(target, False, f"no setting reaches the recall; the best is {best:.4f}")
    if theirs is None:
        return Verdict(target, None, "no setting of a rival reaches the recall")
    share = ours["total_s"] / theirs["total_s"]
    text = f"{share:.2f} of the time of {theirs['library']} (recall {ours['recall']:.4f} and {theirs['recall']:.4f})"
    return Verdict(target, share <= 1, text)


def warm_start(results: Results, name: str) -> Verdict:
    """Whether, after every small move, a warm build takes at most WARM_TARGET of a fresh build, at equal recall."""
    target = (
        f"warm start on {name} after a small move: at most {grids.WARM_TARGET} of a fresh build's time, at equal recall"
    )
    moves = [move for move in results["warm"] if move["data"] == name and move["whole"]]
    moves = [move for move in moves if move["kept"] >= grids.MIN_KEPT_SHARE]
    if not moves:
        return Verdict(target, None)
    found, met = [], True
    for move in moves:
        graphs = {graph["family"]: graph for graph in move["graphs"]}
        fresh, warm = graphs[TRAVERSE_ADD], graphs[WARM]
        share = warm["build_s"] / fresh["build_s"]
        recalls = warm["default_recall"], fresh["default_recall"]
        met &= share <= grids.WARM_TARGET and recalls[0] >= recalls[1] - EQUAL_RECALL
        found.append(
            f"{share:.2f} with {move['kept']:.0%} of the lists kept (recall {recalls[0]:.4f}, fresh {recalls[1]:.4f})"
        )
    return Verdict(target, met, "; ".join(found))


def degree_in_range(results: Results, family: str, what: str) -> Verdict:
    low, high = DEGREES
    first, last = grids.GROWTH_SIZES[0], grids.GROWTH_SIZES[-1]
    target = f"{what}: mean degree within {low} to {high} from {first:,} to {last:,} word vectors"
    growth = results["growth"]
    if not growth or not growth["whole"] or [size["n"] for size in growth["sizes"]] != list(grids.GROWTH_SIZES):
        return Verdict(target, None)
    degrees = [
        graph["facts"]["degree_mean"]
        for size in growth["sizes"]
        for graph in size["graphs"]
        if graph["family"] == family
    ]
    text = ", ".join(f"{degree:.1f}" for degree in degrees)
    return Verdict(target, low <= min(degrees) and max(degrees) <= high, text)


ALONE = "traverse-add alone"
ANY = "the graph at its best setting"


def judge(results: Results) -> list[Verdict]:
    """The verdicts on the targets of every requested part and data set."""
    found: list[Verdict] = []
    if "curve" in results["parts"]:
        for name in results["data"]:
            found += [
                compare(results, name, (DEFAULT, TRAVERSE_ADD, REFINED, SEEDED), ANY, RIVALS),
                compare(results, name, (TRAVERSE_ADD,), ALONE, RIVALS),
                compare(results, name, (DEFAULT, TRAVERSE_ADD, REFINED, SEEDED), ANY, ("exact knn",)),
            ]
    if "warm" in results["parts"]:
        found += [warm_start(results, name) for name in results["data"]]
    if "growth" in results["parts"]:
        found += [
            degree_in_range(results, TRAVERSE_ADD, ALONE),
            degree_in_range(results, SEEDED, "seeded with exact lists"),
        ]
    return found
