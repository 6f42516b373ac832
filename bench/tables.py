"""Renders the numbers of report.py as Markdown: what it writes into docs/benchmarks.md, README.md and bench/results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rivals
from measuring import Row

Results = dict[str, Any]  # "about", "speed": {target: {row: numbers}}, "peaks": {row: {rival: numbers}}
NATIVE_RIVALS = (rivals.BY_HAND, rivals.COMPILED, "PML", "faiss")
README_ROWS = ("sct:128x128:1", "sct:8192x128:2", "supcon:8192x128:2", "batch_all:2048x128:2", "knn:50000x50:2")


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float) -> str:
    """Two digits at least, and no more than one behind the point from 10 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio(found: dict[str, Any] | None, rival: str) -> float | None:
    """The rival's median time divided by ours; None if it was not measured."""
    entry = (found or {}).get("ratios", {}).get(rival)
    return entry["of_medians"] if entry else None


def times_cell(found: dict[str, Any] | None, rival: str) -> str:
    value = ratio(found, rival)
    return "" if value is None else f"{number(value)}x"


def floor_cell(found: dict[str, Any] | None) -> str:
    value = ratio(found, rivals.MATMUL)
    return "" if value is None else number(1 / value)


def own_ms(found: dict[str, Any] | None) -> str:
    return number(found["ms"][rivals.OURS]) if found and "ms" in found else ""


def size(row: Row) -> str:
    return f"{row.n:,} x {row.d}"


def memory_cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    if "mib" not in found:
        return "does not fit" if "skipped" in found else "failed"
    return f"{found['mib'] / 1024:.1f} GiB" if found["mib"] >= 1024 else f"{number(max(found['mib'], 0))} MiB"


def speed_table(results: Results, rows: Sequence[Row]) -> str:
    """Ours in ms and relative to the matmul, and how many times as long each rival takes, for every SIMD target."""
    native, *others = results["speed"]
    measured = results["speed"][native]
    shown = [name for name in NATIVE_RIVALS if any(ratio(measured.get(str(row)), name) for row in rows)]
    header = ["row", "op", "hardmine, ms", "of matmul", *shown]
    header += [f"{target}: {column}" for target in others for column in ("ms", "of matmul", rivals.BY_HAND)]
    lines = []
    for row in rows:
        found = measured.get(str(row))
        line = [f"`{row}`", f"`{rivals.CASES[row.case].title}`", own_ms(found), floor_cell(found)]
        line += [times_cell(found, name) for name in shown]
        for target in others:
            other = results["speed"][target].get(str(row))
            line += [own_ms(other), floor_cell(other), times_cell(other, rivals.BY_HAND)]
        lines.append(line)
    return table(header, lines)


def memory_table(results: Results) -> str:
    names = (rivals.OURS, rivals.BY_HAND, rivals.COMPILED)
    lines = []
    for key, peaks in results["peaks"].items():
        row = Row.parse(key)
        cells = [memory_cell(peaks.get(name)) for name in names]
        matrix = memory_cell({"mib": 4 * row.n**2 / 2**20})
        lines.append([f"`{rivals.CASES[row.case].title}`", size(row), *cells, matrix])
    return table(["op", "N x D", *names, "the matrix alone"], lines)


def losses(results: Results) -> str:
    """The rows in which a rival is faster than ours, as a list."""
    lines = []
    for target, rows in results["speed"].items():
        for key, found in rows.items():
            for name in NATIVE_RIVALS:
                value = ratio(found, name)
                if value is not None and value < 1:
                    lines.append(f"- `{key}`, {target}: {name} takes {value:.2f} of hardmine's time.")
    return "\n".join(lines) or "In no row."


def problems(results: Results) -> str:
    """Rivals that were not measured, and why; empty if there are none."""
    lines = []
    for target, rows in results["speed"].items():
        for key, found in rows.items():
            lines += [f"- `{key}`, {target}: {name}: {why}" for name, why in found.get("skipped", {}).items()]
            lines += [f"- `{key}`, {target}: {found['error']}"] if "error" in found else []
    for key, peaks in results["peaks"].items():
        for name, found in peaks.items():
            why = found.get("skipped") or found.get("error")
            lines += [f"- memory, `{key}`: {name}: {why}"] if why else []
    return "\n".join(lines)


def origin(results: Results) -> str:
    about = results["about"]
    return (
        f"`{results['command']}` made all of this on {about['date'][:10]}: {about['CPU']}, torch {about['torch']}, "
        f"commit {about['commit']}."
    )


def page(results: Results) -> str:
    """The generated part of docs/benchmarks.md."""
    rows = [Row.parse(key) for key in next(iter(results["speed"].values()))]
    small = [row for row in rows if row.threads == 1]
    large = [row for row in rows if row.threads > 1 and rivals.CASES[row.case].has_gradient]
    neighbors = [row for row in rows if not rivals.CASES[row.case].has_gradient]
    source = next((found["source"] for found in _found(results, neighbors) if found.get("source")), "")
    missing = problems(results)
    parts = [
        origin(results),
        "![Time and peak memory of a step against the batch size](images/benchmarks.svg)",
        "### Small batches, one thread",
        speed_table(results, small),
        "### Larger batches, all threads",
        speed_table(results, large),
        "### Nearest neighbors",
        f"{source}. faiss is `IndexFlatIP` of faiss-cpu {results['about']['faiss-cpu']}, by hand is blocks of rows.",
        speed_table(results, neighbors),
        "### Peak memory of a step beyond its inputs",
        memory_table(results),
        "### Where a rival is faster",
        losses(results),
    ]
    parts += ["### Not measured", missing] if missing else []
    return "\n\n".join(parts)


def _found(results: Results, rows: Sequence[Row]) -> list[dict[str, Any]]:
    native = next(iter(results["speed"].values()))
    return [native[str(row)] for row in rows]


def peaks_of(results: Results, row: Row) -> str:
    """Peaks of ours and of the code by hand at the row's size, else at the largest N that was measured."""
    measured = {Row.parse(key): peaks for key, peaks in results["peaks"].items()}
    same_case = [other for other in measured if other.case == row.case]
    found = row if row in measured else max(same_case, default=None, key=lambda other: other.n)
    if found is None:
        return ""
    cells = [memory_cell(measured[found][name]) for name in (rivals.OURS, rivals.BY_HAND) if name in measured[found]]
    return ("" if found == row else f"N = {found.n:,}: ") + ", ".join(cells)


def readme(results: Results) -> str:
    """The generated part of README.md: five rows and the chart."""
    native = next(iter(results["speed"].values()))
    header = ["op", "N x D", "by hand", "compiled", "another library", "memory: hardmine, by hand"]
    lines = []
    for key in README_ROWS:
        found = native.get(key)
        if found is None:  # of a quick run
            continue
        row = Row.parse(key)
        other = next((name for name in ("PML", "faiss") if ratio(found, name)), None)
        threads = ", 1 thread" if row.threads == 1 else ""
        lines.append(
            [
                f"`{rivals.CASES[row.case].title}`",
                size(row) + threads,
                times_cell(found, rivals.BY_HAND),
                times_cell(found, rivals.COMPILED),
                f"{times_cell(found, other)} ({other})" if other else "",
                "" if row.threads == 1 else peaks_of(results, row),
            ]
        )
    chart = "https://raw.githubusercontent.com/hardmine/hardmine/main/docs/images/benchmarks.png"
    return "\n\n".join(
        [
            table(header, lines),
            origin(results),
            f"![Time and peak memory of a step against the batch size]({chart})",
        ]
    )


def raw(results: Results) -> str:
    """Every row with its quartiles and its command, for bench/results."""
    about = table(["", ""], [[name, value] for name, value in results["about"].items()])
    parts = ["# Losses and neighbors against their rivals, on CPU", about]
    native = next(iter(results["speed"]))
    for target, rows in results["speed"].items():
        lines = []
        for key, found in rows.items():
            for name, entry in found.get("ratios", {}).items():
                spread = f"{entry['of_medians']:.3f} ({entry['quartile_1']:.3f}-{entry['quartile_3']:.3f})"
                command = f"`python bench/report.py {'' if target == native else f'--simd {target} '}{key}`"
                lines.append([f"{key}", name, f"{found['ms'][name]:.4f}", spread, str(entry["rounds"]), command])
        parts += [
            f"## Forward + backward, {target}",
            "Median times, and the rival's time divided by hardmine's: the ratio of the medians, and the quartiles of "
            "the ratios within a round.",
            table(["row", "rival", "ms", "of hardmine", "rounds", "command"], lines),
        ]
    lines = [
        [key, name, memory_cell(found), f"{found.get('seconds', 0):.2f}", f"`python bench/report.py --memory {key}`"]
        for key, peaks in results["peaks"].items()
        for name, found in peaks.items()
    ]
    parts += [
        "## Peak memory of a step beyond its inputs",
        table(["row", "rival", "peak", "seconds of this step", "command"], lines),
    ]
    missing = problems(results)
    parts += ["## Not measured", missing] if missing else []
    return "\n\n".join(parts) + "\n"
