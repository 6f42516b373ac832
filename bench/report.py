"""Times every loss against its rivals, measures peak memory, and writes tables, chart and raw results.

    make bench                                            # everything: about a quarter of an hour on a quiet machine
    python bench/report.py --quick                        # small sizes, a minute
    python bench/report.py sct:128x128:1 supcon:2048x512  # only these rows: CASE:NxD or CASE:NxD:THREADS
    python bench/report.py --simd avx2 sct:2048x128       # with the kernels for AVX2, and torch restricted to AVX2 too
    python bench/report.py --memory supcon:8192x128       # peak memory instead of time
    python bench/report.py --busy 2 sct:512x128:2         # beside two other processes that compute

A run without rows writes the marked parts of docs/benchmarks.md and README.md, docs/images/benchmarks.png and .svg, and
a file in bench/results. Every row is kept in build/bench as soon as it is measured: an interrupted run of the same
commit continues where it ended. Before a rival is timed, its value and gradient are asserted equal to those of the
plain PyTorch by hand. A ratio is that of medians from rounds in which all rivals take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import chart
import environment
import hardmine
import measuring
import rivals
import tables
from measuring import Row, in_child

ROOT = Path(__file__).resolve().parents[1]
# What restricts hardmine, torch, MKL and oneDNN to a SIMD target below that of the CPU.
SIMD_ENVIRONMENT = {
    "avx2": {
        "HARDMINE_SIMD": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    }
}
CHARTED = ("sct", "supcon")
CHART_SIZES, QUICK_SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768), (128, 256, 512)
LARGEST_TIMED_N = 8192  # larger batches have the time of the one step whose memory is measured
MEASURED = (rivals.OURS, rivals.BY_HAND, rivals.COMPILED)


def speed_rows(quick: bool, native: bool, threads: int) -> list[Row]:
    """The rows of the tables and, with the SIMD target of the CPU, those of the chart."""
    if quick:
        rows = [Row(case, 64, 32, 1) for case in rivals.LOSSES]
        rows += [Row(case, n, 32, threads) for case in CHARTED for n in QUICK_SIZES if native]
        return [*rows, Row("knn", 512, 50, threads)]
    rows = [Row(case, n, 128, 1) for case in rivals.LOSSES for n in (128, 512)]
    for case in rivals.LOSSES:
        charted = case in CHARTED and native
        sizes = [n for n in CHART_SIZES if n <= LARGEST_TIMED_N] if charted else [2048]
        rows += [Row(case, n, 128, threads) for n in sizes]
        rows.append(Row(case, 2048, 512, threads))
    return [*rows, *(Row("knn", n, 50, threads) for n in ((10_000, 50_000) if native else (10_000,)))]


def peak_rows(quick: bool, threads: int) -> list[Row]:
    """The chart's rows, ascending in N, and one row of every other loss."""
    sizes, d = (QUICK_SIZES, 32) if quick else (CHART_SIZES, 128)
    rows = [Row(case, n, d, threads) for case in CHARTED for n in sizes]
    largest = 256 if quick else 8192
    return rows + [Row(case, largest, d, threads) for case in rivals.LOSSES if case not in CHARTED]


def names_of(row: Row, native: bool, quick: bool) -> list[str]:
    """The rivals of a row: compiled code and other libraries only with the SIMD target of the CPU."""
    names = rivals.rival_names(row.case)
    if not native:
        return [name for name in names if name in (rivals.OURS, rivals.BY_HAND, rivals.MATMUL)]
    return [name for name in names if name != rivals.COMPILED or compiles(row, quick)]


def compiles(row: Row, quick: bool) -> bool:
    """Whether compiled code is measured: in a quick run only once, because compiling takes seconds."""
    return not quick or (row.case == "sct" and row.threads == 1)


def show(row: Row, found: dict[str, Any]) -> str:
    """One line of a row's numbers."""
    if "error" in found:
        return f"{row}  FAILED: {found['error']}"
    parts = [f"hardmine {tables.number(found['ms'][rivals.OURS])} ms"] if "ms" in found else []
    parts += [f"{name} {tables.times_cell(found, name)}" for name in found["ratios"] if name != rivals.MATMUL]
    parts += [f"{tables.floor_cell(found)} of matmul"] if rivals.MATMUL in found["ratios"] else []
    parts += [f"no {name}: {why}" for name, why in found["skipped"].items()]
    return f"{row!s:<28} {', '.join(parts)}"


def show_peak(row: Row, name: str, found: dict[str, Any]) -> str:
    """One line of a peak, or why there is none."""
    return f"{row!s:<28} {name}: {tables.memory_cell(found)} {found.get('skipped', '')}{found.get('error', '')}"


class Store:
    """The numbers of one SIMD target, a file in build/bench: a line with the run's settings, then a line per step."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.found: dict[str, dict[str, Any]] = {}
        # A line is complete if it ends: a run may be killed while it writes.
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        lines = [line for line in lines if line.endswith("\n")]
        header = json.dumps(settings) + "\n"
        if not lines or lines[0] != header:
            lines = [header]
        self.found = {key: value for line in lines[1:] for key, value in json.loads(line).items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines))

    def add(self, key: str, value: dict[str, Any]) -> None:
        self.found[key] = value
        with self.path.open("a") as file:
            file.write(json.dumps({key: value}) + "\n")


def measure_target(store: Store, native: bool, args: argparse.Namespace) -> None:
    """Measures what the store lacks of all rows with this process's SIMD target."""
    threads = torch.get_num_threads()
    steps = [("speed", row, names_of(row, native, args.quick)) for row in speed_rows(args.quick, native, threads)]
    if native:
        steps += [("peak", row, [name]) for row in peak_rows(args.quick, threads) for name in MEASURED]
    start, done = time.monotonic(), len(store.found)
    for count, (kind, row, names) in enumerate(steps, 1):
        key = f"{row}" if kind == "speed" else f"{row} {names[0]}"
        if key in store.found:
            continue
        if kind == "speed":
            found = in_child(measuring.speed, row, names, args.seconds)
            line = show(row, found)
        else:
            found = peak_or_reason(store, row, names[0], args.quick)
            line = show_peak(row, names[0], found)
        store.add(key, found)
        passed = time.monotonic() - start
        left = passed / (len(store.found) - done) * (len(steps) - len(store.found))
        print(f"[{count}/{len(steps)}, {passed / 60:.1f} min, about {left / 60:.0f} left] {line}", flush=True)


def peak_or_reason(store: Store, row: Row, name: str, quick: bool) -> dict[str, Any]:
    """The peak, unless half of the rows tell that it would not fit, or it is not measured for this loss."""
    if name == rivals.COMPILED and (row.case not in CHARTED or not compiles(row, quick)):
        return {"left_out": True}
    half = store.found.get(f"{Row(row.case, row.n // 2, row.d, row.threads)} {name}")
    reason = measuring.too_large(half)
    return {"skipped": reason} if reason else in_child(measuring.peak, row, name)


def replace_part(page: str, text: str) -> str:
    """The page with the text between the two markers of `make bench`.

    Raises:
        ValueError: The page lacks a marker.
    """
    before, begin, rest = page.partition("<!-- begin: make bench -->\n")
    _, end, after = rest.partition("<!-- end: make bench -->")
    if not (begin and end):
        raise ValueError("a page must have the markers <!-- begin: make bench --> and <!-- end: make bench -->")
    return f"{before}{begin}\n{text}\n\n{end}{after}"


def write(results: dict[str, Any], root: Path) -> list[Path]:
    """Writes raw results, chart and the pages of this repository below the root; returns their paths."""
    raw = root / "bench" / "results" / f"{results['about']['date'][:10]}-losses.md"
    image = root / "docs" / "images" / "benchmarks"
    raw.parent.mkdir(parents=True, exist_ok=True)
    raw.write_text(tables.raw(results))
    chart.draw(results, CHARTED, image)
    written = [raw, image.with_suffix(".png"), image.with_suffix(".svg")]
    for name, text in (("docs/benchmarks.md", tables.page(results)), ("README.md", tables.readme(results))):
        (root / name).write_text(replace_part((ROOT / name).read_text(), text))
        written.append(root / name)
    return written


def restricted(simd: str, arguments: list[str]) -> int:
    """Runs this script again with another SIMD target; returns its exit status."""
    variables = {**os.environ, **SIMD_ENVIRONMENT[simd]}
    return subprocess.run([sys.executable, __file__, *arguments], env=variables, check=False).returncode


def run_all(args: argparse.Namespace) -> int:
    """Measures everything with every SIMD target and writes the results; returns the exit status."""
    native = hardmine.simd_level()
    about = environment.describe()
    settings = {"commit": about["commit"], "torch": about["torch"], "quick": args.quick, "seconds": args.seconds}
    settings["threads"] = about["threads"]
    store = Store(args.state / f"{args.simd or native}.jsonl", settings)
    measure_target(store, args.simd is None, args)
    if args.simd is not None:
        return 0
    targets = [native] + (["avx2"] if native == "avx512" else [])
    stores = {native: store}
    for target in targets[1:]:
        common = ["--state", str(args.state), "--seconds", str(args.seconds), *(["--quick"] if args.quick else [])]
        if restricted(target, ["--simd", target, "--inside", *common]):
            return 1
        stores[target] = Store(args.state / f"{target}.jsonl", settings)
    results = {"about": about, "quick": args.quick, "command": "make bench BENCH=quick" if args.quick else "make bench"}
    results["speed"] = {
        target: {key: found for key, found in kept.found.items() if " " not in key} for target, kept in stores.items()
    }
    results["peaks"] = {}
    for key, found in store.found.items():
        row, _, name = key.partition(" ")
        if name and "left_out" not in found:
            results["peaks"].setdefault(row, {})[name] = found
    written = write(results, args.root)
    for kept in stores.values():
        kept.path.unlink()  # the next run begins anew
    failed = [key for rows in results["speed"].values() for key, found in rows.items() if "error" in found]
    print("\n" + tables.readme(results) + "\n\nWrote " + ", ".join(str(path) for path in written))
    if failed:
        print("FAILED: " + ", ".join(failed))
    return 1 if failed else 0


def measure_row(row: Row, name: str, seconds: float) -> dict[str, Any]:
    """The peak of the named rival, or the times of all."""
    if name:
        return in_child(measuring.peak, row, name)
    return in_child(measuring.speed, row, rivals.rival_names(row.case), seconds)


def run_rows(args: argparse.Namespace) -> int:
    """Prints the given rows."""
    failed = False
    with measuring.busy_processes(args.busy):
        for row in args.rows:
            for name in MEASURED if args.memory else ("",):
                found = measure_row(row, name, args.seconds)
                failed |= "error" in found
                print(show_peak(row, name, found) if name else show(row, found), flush=True)
    return int(failed)


def row_argument(text: str) -> Row:
    """A row, or an error whose message argparse prints: it replaces that of a ValueError."""
    try:
        return Row.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "rows", nargs="*", type=row_argument, help="rows to measure and print; without any: all, written"
    )
    parser.add_argument("--memory", action="store_true", help="peak memory of the rows instead of times")
    parser.add_argument("--quick", action="store_true", help="small sizes; also by BENCH=quick")
    parser.add_argument("--seconds", type=float, help="seconds per rival and row; default: 0.4, quick 0.02")
    parser.add_argument("--busy", type=int, default=0, help="other processes that compute while the rows are measured")
    parser.add_argument("--simd", choices=list(SIMD_ENVIRONMENT), help="a SIMD target below that of this CPU")
    parser.add_argument(
        "--root", type=Path, help="folder of the written docs, README.md and bench/results; a quick run's is in build/"
    )
    parser.add_argument("--state", type=Path, help="where rows are kept; default: build/bench of the root")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # the SIMD target is set already
    args = parser.parse_args(arguments)
    chosen = os.environ.get("BENCH") or "all"
    if chosen not in ("all", "quick"):
        parser.error(f"the environment variable BENCH must be all or quick, got {chosen!r}")
    args.quick |= chosen == "quick"
    args.root = args.root or (ROOT / "build" / "bench" / "quick" if args.quick else ROOT)
    if not args.rows and (args.memory or args.busy):
        parser.error("--memory and --busy need rows")
    if args.seconds is None:
        args.seconds = 0.02 if args.quick else 0.4
    args.state = args.state or ROOT / "build" / "bench" / ("quick" if args.quick else "rows")
    return args


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    args = parse_arguments(given)
    if args.simd is not None and not args.inside:
        return restricted(args.simd, ["--inside", *given])
    return run_rows(args) if args.rows else run_all(args)


if __name__ == "__main__":
    raise SystemExit(main())
