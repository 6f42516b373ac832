"""Renders the numbers of graph_report.py as Markdown."""

from __future__ import annotations

from typing import Any

from graphs import grids
from graphs.grids import TARGET_RECALL, K
from graphs.measuring import Point
from tables import table

Results = dict[str, Any]

HOW = f"""\
The task is `neighbors({K})` without an existing graph: build a graph over all rows, then find the {K} nearest other
rows of each row. Times are relative to exact search (`hardmine.ops.knn`, all pairs) for the same lists in the same run.
Below 1, the graph is faster than exact search. Recall is the share of list entries that are no further than the {K}th
exact neighbor, over all rows. Every library gets the same float32 rows and as many threads as the table above says.
Rows have unit length under the cosine metric. No list contains its own row."""

HEAD_TO_HEAD = f"""\
The fastest setting per family that reaches recall {TARGET_RECALL}, timed again. Every round times each of them once, in
shuffled order. Times are medians; parentheses contain the quartiles of the ratio within a round."""

SWEEP = """\
All settings at all efforts. An effort is the number of distance computations per search for hardmine, ef for hnswlib
and efSearch for faiss."""

WARM = f"""\
All rows move, as between two epochs. "kept" is the share of the entries of the 10-neighbor lists that stay. "build" is
relative to a fresh build by traverse-add over the moved rows. "recall" is that of `neighbors({K})` at its default
effort of {grids.DEFAULT_EFFORT} distance computations. "effort at {TARGET_RECALL}" is the effort that reaches this
recall, interpolated between measured efforts. "total" is build and lists at that effort, relative to exact search."""

GROWTH = f"""\
The first N word vectors, with the same settings for all N. "lists" and "recall" are at the default effort of
{grids.DEFAULT_EFFORT} distance computations. "total at {TARGET_RECALL}" is build and lists at the effort that reaches
this recall."""

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
    return f"{facts['degree_mean']:.1f}, max {facts['degree_max']}" if facts else "-"


def success(facts: dict[str, float]) -> str:
    return f"{facts['success_rate']:.3f} after {facts['traversals_per_row']:.0f} N" if facts else "-"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def head_to_head_table(curve: Results) -> str:
    header = ["", "setting", "effort", "recall", "time relative to exact", "build share"]
    rows = []
    for point in curve["head_to_head"]:
        spread = point["of_first"]
        low, high = spread["quartiles"]
        cells = [point["family"], point["setting"], str(point["effort"] or "-"), f"{point['recall']:.4f}"]
        building = point["build_s"] / point["total_s"]
        rows.append([*cells, f"{spread['of_medians']:.2f} ({low:.2f}-{high:.2f})", f"{building:.0%}"])
    return table(header, rows)


def exact_s(points: list[Point]) -> float:
    return next(point["total_s"] for point in points if point["family"] == "exact knn")


def sweep_table(curve: Results) -> str:
    header = ["", "setting", "degree", "success rate", "effort", "recall", "build", "lists", "total"]
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
        return [*section, "The run was interrupted before exact search was timed."]
    passes = max(point["passes"] for point in curve["points"])
    section.append(f"Exact search takes {seconds(exact_s(curve['points']))}.")
    section += [f"Not measured: {library}, {reason}." for library, reason in curve["missing"].items()]
    if curve["head_to_head"]:
        section += [HEAD_TO_HEAD, head_to_head_table(curve)]
    passes_text = "from one pass" if passes == 1 else f"the medians of {passes} passes"
    return [*section, f"{SWEEP} Values are {passes_text}.", sweep_table(curve)]


def warm_section(moves: list[Results]) -> list[str]:
    header = ["data", "move", "kept", "graph", "degree", "build", "recall", f"effort at {TARGET_RECALL}", "total"]
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
    total = f"total at {TARGET_RECALL}"
    header = ["N", "graph", "degree", "success rate", "build", "lists", "recall", total, "relative to exact"]
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
    header_of_fit = ["a in time ~ N^a", "build", "lists", total]
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
        parts.append("**The run was interrupted. Missing results were not measured.**")
    parts.append(table(["", ""], [[name, value] for name, value in results["about"].items()]))
    parts.append(f"Made by `{results['command']}` in {results['minutes']:.0f} minutes.")
    if verdict_lines:
        parts += ["## Targets", "\n".join(verdict_lines)]
    parts += ["## How to read the numbers", HOW]
    if picture:
        parts.append(f"![Recall against time relative to exact search, one panel per data set]({picture})")
    for curve in results["curve"]:
        parts += curve_section(curve)
    if results["warm"]:
        parts += warm_section(results["warm"])
    if results["growth"]:
        parts += growth_section(results["growth"])
    return "\n\n".join(part for part in parts if part) + "\n"
