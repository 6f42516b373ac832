"""The library's performance targets: one line per target says whether a run of report.py meets it, with the number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import tables
from tables import Size

Results = dict[str, Any]

BASELINE_TOLERANCE = 1.1  # between runs minutes or weeks apart, ratios to each run's matmul agree no better


@dataclass(frozen=True)
class Verdict:
    """Whether a target is met; `met` is None if the run did not measure it."""

    target: str
    met: bool | None
    found: str = "not measured"

    def line(self) -> str:
        word = {True: "**met**", False: "**missed**", None: "open"}[self.met]
        return f"- {word}: {self.target}: {self.found}"


def sizes_of(results: Results, *cases: str, n_from: int = 0) -> list[Size]:
    return [size for size in results["speed"] if size["case"] in cases and size["n"] >= n_from]


def ratio(size: Size, rival: str) -> float | None:
    """The ratio of medians: forward + backward if there is a backward, else forward."""
    return tables.ratio(size, rival, "both" if tables.has_backward(size) else "forward")


def worst_speed_up(target: str, sizes: Iterable[Size], rival: str, min_speed_up: float, batches: set[int]) -> Verdict:
    """Whether hardmine is at least `min_speed_up` times faster than the rival at every measured size.

    The verdict is open if one of the `batches` (values of N) was not measured.
    """
    found = [(value, size) for size in sizes if (value := ratio(size, rival)) is not None]
    missing = batches - {size["n"] for _, size in found}
    if missing:
        return Verdict(target, None, f"not measured at N = {', '.join(f'{n:,}' for n in sorted(missing))}")
    value, size = min(found, key=lambda pair: pair[0])
    where = f"{size['case']}, N = {size['n']:,}, D = {size['d']}"
    return Verdict(target, value >= min_speed_up, f"{value:.2f}x at worst ({where})")


def tuplet_never_slower(results: Results) -> Verdict:
    target = "tuplet_loss forward + backward is never slower than plain PyTorch"
    return worst_speed_up(target, sizes_of(results, "EP", "BatchAll"), "pytorch", 1.0, {512, 2048, 8192})


def tuplet_twice_as_fast(results: Results) -> Verdict:
    target = "tuplet_loss forward + backward is at least 2x faster than plain PyTorch for N >= 2,048"
    return worst_speed_up(target, sizes_of(results, "EP", "BatchAll", n_from=2048), "pytorch", 2.0, {2048, 8192})


def all_triplets_faster(results: Results) -> Verdict:
    target = "batch_all_triplet_loss forward + backward at N = 1,024 is at least 100x faster than PML's"
    sizes = [size for size in sizes_of(results, "BatchAllTriplet", "BatchAllTriplet_active") if size["n"] == 1024]
    return worst_speed_up(target, sizes, "pytorch-metric-learning", 100.0, {1024})


def knn_share(results: Results, rival: str) -> float | None:
    """Hardmine's time divided by the rival's, on the 100,000 word vectors."""
    found = [ratio(size, rival) for size in sizes_of(results, "knn_words", n_from=100_000)]
    return 1 / found[0] if found and found[0] else None


def knn_against_faiss(results: Results) -> Verdict:
    target = "knn of 100,000 word vectors takes at most 0.35 of faiss IndexFlatIP's time"
    share = knn_share(results, "faiss")
    return Verdict(target, None) if share is None else Verdict(target, share <= 0.35, f"{share:.2f}")


def knn_against_hnswlib(results: Results) -> Verdict:
    target = "knn of 100,000 word vectors takes less time than hnswlib's build and query at recall 0.99"
    share = knn_share(results, "hnswlib")
    return Verdict(target, None) if share is None else Verdict(target, share < 1, f"{share:.2f} of hnswlib's time")


def linear_memory(op: str, cases: tuple[str, ...], min_n: int) -> Callable[[Results], Verdict]:
    """Memory is O(N D): the peak beyond the inputs is at most a fixed multiple of the inputs' size, for every N."""

    def judge(results: Results) -> Verdict:
        target = f"{op} takes O(N D) memory, measured for N >= {min_n:,}"
        peaks = [
            peak
            for peak in results["memory"]
            if peak["case"] in cases and peak["rival"] == "hardmine" and peak["n"] >= min_n
        ]
        if not peaks:
            return Verdict(target, None)
        if any("skipped" in peak for peak in peaks):
            return Verdict(target, False, next(peak["skipped"] for peak in peaks if "skipped" in peak))
        # Unit: the size of the inputs. The gradient takes 1; panels and partial results of threads take more; the limit
        # is 16. An N x N matrix would take N / D, which is 128 at N = 16,384 and D = 128.
        multiples: dict[int, float] = {}
        for peak in peaks:
            multiple = peak["peak_extra_mib"] * 2**20 / (4 * peak["n"] * peak["d"])
            multiples[peak["n"]] = max(multiples.get(peak["n"], 0.0), multiple)
        found = ", ".join(f"{multiple:.1f} times the inputs at N = {n:,}" for n, multiple in multiples.items())
        return Verdict(target, max(multiples.values()) <= 16, found)

    return judge


def as_fast_as_before(results: Results) -> Verdict:
    baseline = results.get("baseline")
    target = "no op is slower than in the baseline, relative to the matmul of the same run"
    if baseline is None:
        return Verdict(target, None, "no baseline was given")
    before = {(size["case"], size["n"], size["d"]): ratio(size, "matmul_out") for size in baseline["speed"]}
    found = []
    for size in results["speed"]:
        before_ratio = before.get((size["case"], size["n"], size["d"]))
        now_ratio = ratio(size, "matmul_out")
        if before_ratio and now_ratio:
            found.append((now_ratio / before_ratio, size))
    if not found:
        return Verdict(target, None)
    growth, size = max(found, key=lambda pair: pair[0])
    where = f"{size['case']}, N = {size['n']:,}, D = {size['d']}"
    middle = sorted(growth for growth, _ in found)[len(found) // 2]
    text = f"{growth:.2f} of the baseline's time at worst ({where}), {middle:.2f} in the median of {len(found)} sizes"
    return Verdict(
        target, growth <= BASELINE_TOLERANCE, f"{text}; the baseline is commit {baseline['about']['commit']}"
    )


TARGETS: dict[Callable[[Results], Verdict], tuple[str, ...]] = {
    tuplet_never_slower: ("EP", "BatchAll"),
    tuplet_twice_as_fast: ("EP", "BatchAll"),
    linear_memory("tuplet_loss", ("EP", "BatchAll"), 16384): ("EP", "BatchAll"),
    all_triplets_faster: ("BatchAllTriplet", "BatchAllTriplet_active"),
    linear_memory("batch_all_triplet_loss", ("BatchAllTriplet", "BatchAllTriplet_active"), 16384): (
        "BatchAllTriplet",
        "BatchAllTriplet_active",
    ),
    knn_against_faiss: ("knn_words",),
    knn_against_hnswlib: ("knn_words",),
    as_fast_as_before: ("sct_loss", "EPSHN"),
}


def judge(results: Results) -> list[Verdict]:
    """The verdicts on the targets of every requested case."""
    requested = set(results["notes"])
    return [target(results) for target, cases in TARGETS.items() if requested & set(cases)]
