"""Renders the numbers of graph_report.py as Markdown."""

from __future__ import annotations

from typing import Any

from graphs import grids
from graphs.grids import WANTED_RECALL, K
from graphs.measuring import Point
from tables import table

Results = dict[str, Any]

HOW = f"""\
The task is `neighbors({K})` from nothing: build a graph over all rows, then find each row's {K} nearest others. Times
are shares of what exact search (`hardmine.ops.knn`, all pairs) takes for the same lists in the same run: below 1 a
graph pays, above 1 it does not. Recall is measured for every line, over all rows: the share of its lists that is no
further than the {K}th exact neighbor. Every library gets the same float32 rows, of unit length under the cosine
metric, and as many threads as the table above says; none of the lists holds its own row."""

DUEL = f"""\
The quickest setting of each that reaches a recall of {WANTED_RECALL}, timed again: every one once a round, in shuffled
order. Medians, in brackets the quartiles of the ratio within a round."""

SWEEP = """\
All settings at all efforts (hardmine: distance computations a search; hnswlib: ef; faiss: efSearch)."""

WARM = f"""\
All rows move, as between two epochs; "kept" is the share of the 10-neighbor lists that stay. "Build" is a share of a
fresh build by traverse-add over the moved rows. "Recall" is that of `neighbors({K})` at its default effort of
{grids.DEFAULT_EFFORT} distance computations; "to {WANTED_RECALL}" the effort which that recall takes, read between the
efforts measured; "in all" build and lists at that effort, as a share of exact search."""

GROWTH = f"""\
The first N word vectors, the same settings for all N. "Lists" are those at the default effort of {grids.DEFAULT_EFFORT}
distance computations, and "recall" theirs; "in all at {WANTED_RECALL}" is build and lists at the effort which that
recall takes."""

FAMILY_NAMES = "hardmine, "


def seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f} s" if value < 1 else f"{value:.1f} s"


def share(value: float | None, whole: float) -> str:
    if value is None:
        return "-"
    ratio = value / whole
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}"


def degree(facts: dict[str, float]) -> str:
    return f"{facts['degree_mean']:.1f}, at most {facts['degree_max']}" if facts else "-"


def success(facts: dict[str, float]) -> str:
    return f"{facts['success_rate']:.3f} after {facts['traversals_a_row']:.0f} N" if facts else "-"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def duel_table(curve: Results) -> str:
    header = ["", "setting", "effort", "recall", "time of exact", "building"]
    rows = []
    for point in curve["duel"]:
        spread = point["of_first"]
        low, high = spread["quartiles"]
        cells = [point["family"], point["setting"], str(point["effort"] or "-"), f"{point['recall']:.4f}"]
        building = point["build_s"] / point["total_s"]
        rows.append([*cells, f"{spread['of_medians']:.2f} ({low:.2f}-{high:.2f})", f"{building:.0%} of it"])
    return table(header, rows)


def exact_s(points: list[Point]) -> float:
    return next(point["total_s"] for point in points if point["family"] == "exact knn")


def sweep_table(curve: Results) -> str:
    header = ["", "setting", "degree", "traversals that arrive", "effort", "recall", "build", "lists", "in all"]
    unit = exact_s(curve["points"])
    rows, last = [], None
    for point in curve["points"]:
        name = (point["library"], point["setting"])
        first = name != last
        last = name
        head = [*name, degree(point["facts"]), success(point["facts"])] if first else ["", "", "", ""]
        times = [share(point[key], unit) for key in ("build_s", "query_s", "total_s")]
        rows.append([*head, str(point["effort"] or "-"), f"{point['recall']:.4f}", *times])
    return table(header, rows)


def curve_section(curve: Results) -> list[str]:
    section = [f"## {curve['title']}", f"{curve['source']}: N = {curve['n']:,}, D = {curve['d']}."]
    if not any(point["family"] == "exact knn" for point in curve["points"]):
        return [*section, "Stopped before there was anything to compare with."]
    passes = max(point["passes"] for point in curve["points"])
    section.append(f"Exact search takes {seconds(exact_s(curve['points']))}.")
    section += [f"Not measured: {library}, {reason}." for library, reason in curve["missing"].items()]
    if curve["duel"]:
        section += [DUEL, duel_table(curve)]
    passes_text = "one pass" if passes == 1 else f"medians of {passes} passes"
    return [*section, f"{SWEEP} Here from {passes_text}.", sweep_table(curve)]


def warm_section(moves: list[Results]) -> list[str]:
    header = ["data", "move", "kept", "graph", "degree", "build", "recall", f"to {WANTED_RECALL}", "in all"]
    rows = []
    for move in moves:
        fresh = move["graphs"][0]["build_s"]
        for position, graph in enumerate(move["graphs"]):
            head = (
                [f"{move['data']}, N = {move['n']:,}", move["move"], f"{move['kept']:.0%}"]
                if position == 0
                else [""] * 3
            )
            rows.append(
                [
                    *head,
                    graph["family"].removeprefix(FAMILY_NAMES),
                    degree(graph["facts"]),
                    share(graph["build_s"], fresh),
                    "-" if graph["default_recall"] is None else f"{graph['default_recall']:.4f}",
                    number(graph["effort"]),
                    share(graph["total_s"], move["exact_s"]),
                ]
            )
    return ["## Warm start", WARM, table(header, rows)]


def growth_section(growth: Results) -> list[str]:
    total = f"in all at {WANTED_RECALL}"
    header = ["N", "graph", "degree", "traversals that arrive", "build", "lists", "recall", total, "of exact"]
    rows = []
    for size in growth["sizes"]:
        for position, graph in enumerate(size["graphs"]):
            rows.append(
                [
                    f"{size['n']:,}" if position == 0 else "",
                    graph["family"].removeprefix(FAMILY_NAMES),
                    degree(graph["facts"]),
                    success(graph["facts"]),
                    seconds(graph["build_s"]),
                    seconds(graph["default_query_s"]),
                    "-" if graph["default_recall"] is None else f"{graph['default_recall']:.4f}",
                    seconds(graph["total_s"]),
                    share(graph["total_s"], size["exact_s"]),
                ]
            )
    header_of_fit = ["time ~ N^a, a of", "build", "lists", total]
    fits = [
        [
            fit["family"].removeprefix(FAMILY_NAMES),
            *("-" if fit.get(key) is None else f"{fit[key]:.2f}" for key in ("build_s", "default_query_s", "total_s")),
        ]
        for fit in growth["exponents"]
    ]
    section = ["## Growth", growth["source"] + ".", GROWTH, table(header, rows)]
    return [*section, table(header_of_fit, fits)] if len(growth["sizes"]) > 1 else section


def render(results: Results, verdict_lines: list[str], picture: str | None) -> str:
    parts = ["# hardmine's graph index against hnswlib, faiss and exact search, on CPU"]
    if not results["complete"]:
        parts.append("**Stopped before the end: what is missing was not measured.**")
    parts.append(table(["", ""], [[name, value] for name, value in results["about"].items()]))
    parts.append(f"Made by `{results['command']}` in {results['minutes']:.0f} minutes.")
    if verdict_lines:
        parts += ["## Targets", "\n".join(verdict_lines)]
    parts += ["## How to read the numbers", HOW]
    if picture:
        parts.append(f"![Recall against time relative to exact search, one panel a data set]({picture})")
    for curve in results["curve"]:
        parts += curve_section(curve)
    if results["warm"]:
        parts += warm_section(results["warm"])
    if results["growth"]:
        parts += growth_section(results["growth"])
    return "\n\n".join(part for part in parts if part) + "\n"
