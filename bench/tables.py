"""Renders the numbers of report.py as Markdown: only ratios and peak memory, because times depend on the machine."""

from __future__ import annotations

from typing import Any

RIVALS = {
    "pytorch": "plain PyTorch",
    "torch.compile": "torch.compile",
    "pytorch-chunks": "PyTorch in chunks",
    "pytorch-metric-learning": "PML",
    "NTXentLoss": "PML NTXentLoss",
    "SupConLoss": "PML SupConLoss",
    "faiss": "faiss",
    "hnswlib": "hnswlib",
}
FLOORS = {
    "matmul": "of matmul",
    "matmul_out": "of matmul, preallocated",
    "matmul-chunks": "of matmul, in chunks",
}
LARGE_N = 2048  # from this N on, the N x N work dominates

HOW = """\
Each ratio divides two median times. Every round times every rival once, in shuffled order. "of matmul" is hardmine's
time divided by the time of a bare `torch.mm(X, X.T)` of the same X. Smaller is better; 1 is the minimum cost of the
N x N approach, before any similarity is used. Parentheses contain the quartiles of the ratio within a round.
"preallocated" compares with a matmul into a preallocated matrix, which causes no page faults. "in chunks" compares with
a matmul into one reused block of rows, for an N whose N x N matrix does not fit into memory. "faster than" is the
rival's time divided by hardmine's. PML is pytorch-metric-learning. Before the timing, the result and the gradient of
every rival are compared with the reference's, on the timed inputs. If a rival's formula differs, the text above its
table says when the two formulas agree, and the comparison uses such inputs."""

Size = dict[str, Any]  # one case, N and D: the return value of report.measure_size


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ratio(size: Size, rival: str, phase: str) -> float | None:
    """The ratio of medians; None if the rival was not measured."""
    found = size["ratios"].get(rival, {}).get(phase)
    return found["of_medians"] if found else None


def share_cell(size: Size, floor: str, phase: str) -> str:
    value = ratio(size, floor, phase)
    if value is None:
        return "-"
    spread = size["ratios"][floor][phase]
    return f"{value:.2f} ({spread['quartile_1']:.2f}-{spread['quartile_3']:.2f})"


def speed_up_cell(size: Size, rival: str, phase: str) -> str:
    value = ratio(size, rival, phase)
    return "-" if value is None else f"{value:.1f}x"


def has_backward(size: Size) -> bool:
    return "both" in size["median_ms"].get("hardmine", {})


def present(sizes: list[Size], names: dict[str, str]) -> dict[str, str]:
    """The entries of `names` that were measured or skipped at any of the sizes."""
    return {
        name: title
        for name, title in names.items()
        if any(name in size["ratios"] or name in size["skipped"] for size in sizes)
    }


def speed_table(sizes: list[Size], phase: str) -> str:
    floors, compared = present(sizes, FLOORS), present(sizes, RIVALS)
    header = ["N", "D", *floors.values(), *(f"faster than {title}" for title in compared.values())]
    rows = []
    for size in sizes:
        shares = [share_cell(size, floor, phase) for floor in floors]
        speed_ups = [speed_up_cell(size, rival, phase) for rival in compared]
        rows.append([str(size["n"]), str(size["d"]), *shares, *speed_ups])
    return table(header, rows)


def worst(sizes: list[Size], phase: str) -> str:
    """One sentence with the worst value of each column; an average could hide a bad row."""
    parts = []
    for floor, title in FLOORS.items():
        shares = [value for size in sizes if (value := ratio(size, floor, phase)) is not None]
        parts += [f"{max(shares):.2f} {title}"] if shares else []
    for rival, title in RIVALS.items():
        speed_ups = [value for size in sizes if (value := ratio(size, rival, phase)) is not None]
        parts += [f"{min(speed_ups):.1f}x faster than {title}"] if speed_ups else []
    return "; ".join(parts)


def summary(sizes: list[Size], phase: str) -> str:
    """The worst of the large sizes and of the smallest size; empty if there is only one row."""
    if len(sizes) == 1:
        return ""
    smallest = min(size["n"] for size in sizes)
    groups = {
        f"N >= {LARGE_N}": [size for size in sizes if size["n"] >= LARGE_N],
        f"N = {smallest}": [size for size in sizes if size["n"] == smallest < LARGE_N],
    }
    return "\n".join(f"- worst at {title}: {worst(group, phase)}" for title, group in groups.items() if group)


def remarks(sizes: list[Size]) -> str:
    """The source of the inputs, the settings that rivals ran with, and the rivals that did not run."""
    lines = []
    for size in sizes:
        where = f"at N = {size['n']}, D = {size['d']}"
        lines += [f"- inputs {where}: {size['inputs']}"] if size.get("inputs") else []
        lines += [f"- {rival} {where}: {text}" for rival, text in size.get("details", {}).items()]
        lines += [f"- not measured: {rival} {where}: {reason}" for rival, reason in size["skipped"].items()]
    return "\n".join(lines)


def speed_section(case: str, sizes: list[Size], note: str) -> list[str]:
    if not any(has_backward(size) for size in sizes):
        section = [f"## {case}", note]
        if any(size["ratios"] for size in sizes):
            section += [speed_table(sizes, "forward"), summary(sizes, "forward")]
        return [*section, remarks(sizes)]
    section = [
        f"## {case}, forward + backward",
        note,
        speed_table(sizes, "both"),
        summary(sizes, "both"),
        remarks(sizes),
    ]
    for phase in ("forward", "backward"):
        section += [f"### {case}, {phase} alone", speed_table(sizes, phase)]
    return section


def memory_table(peaks: list[dict[str, Any]]) -> str:
    header = ["op", "implementation", "N", "D", "peak beyond the inputs", "one N x N matrix"]
    rows = []
    for peak in peaks:
        row = [peak["case"], peak["rival"], str(peak["n"]), str(peak["d"])]
        found = f"not measured: {peak['skipped']}" if "skipped" in peak else f"{peak['peak_extra_mib']:,.0f} MiB"
        rows.append([*row, found, f"{4 * peak['n'] ** 2 / 2**20:,.0f} MiB"])
    return table(header, rows)


def scaling_table(fits: list[dict[str, Any]]) -> str:
    header = ["op", "implementation", "in", "exponent", "last two sizes", "time relative to the smallest size"]
    rows = []
    for fit in fits:
        axis = f"{fit['axis']} at {'D' if fit['axis'] == 'N' else 'N'} = {fit['fixed']}"
        exponents = [f"{fit['exponent']:.2f}", f"{fit['last_exponent']:.2f}"]
        growth = ", ".join(f"{n}: {t:.2f}" for n, t in zip(fit["sizes"], fit["relative_time"], strict=True))
        op = "bare matmul" if fit["rival"] in FLOORS else fit["case"]
        rows.append([op, fit["rival"], axis, *exponents, growth])
    return table(header, rows)


def render(results: dict[str, Any], verdict_lines: list[str]) -> str:
    parts = ["# hardmine against its rivals, on CPU"]
    if not results["complete"]:
        parts.append("**The run was interrupted. Missing results were not measured.**")
    parts.append(table(["", ""], [[name, value] for name, value in results["about"].items()]))
    parts.append(f"Made by `{results['command']}`. float32, {results['images_per_class']} images per class.")
    if verdict_lines:
        parts += ["## Targets", "\n".join(verdict_lines)]
    parts += ["## How to read the tables", HOW]
    for case in dict.fromkeys(size["case"] for size in results["speed"]):
        sizes = [size for size in results["speed"] if size["case"] == case]
        parts += speed_section(case, sizes, results["notes"][case])
    if results["memory"]:
        parts += ["## Peak memory of one step, forward + backward", memory_table(results["memory"])]
    if results["scaling"]:
        parts += ["## Growth of forward + backward: time ~ N^a D^b", scaling_table(results["scaling"])]
    return "\n\n".join(part for part in parts if part) + "\n"
