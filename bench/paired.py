"""A timer for noisy machines: every round times every rival once, in shuffled order.

The speed of a shared machine drifts by a third within minutes. pytest-benchmark times one callable after another, so a
ratio of two of its numbers contains the drift. Here both sides of a ratio come from the same rounds, seconds apart.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from rivals.common import Rival

PHASES = ("forward", "backward", "both")
LONG_STEP_S = 2.0  # in a step this long, the extra work of a first call is negligible
SHORTEST_SAMPLE_S = 5e-3  # steps repeat until a sample is this long: timer and scheduler noise is then negligible


@dataclass
class Samples:
    """Seconds per step, by phase and round; NaN in rounds that the rival skipped."""

    forward: np.ndarray  # [rounds]
    backward: np.ndarray  # [rounds]

    @property
    def both(self) -> np.ndarray:
        """Forward + backward."""
        return self.forward + self.backward


@dataclass
class Ratio:
    """The first rival's time divided by the second's, over the rounds that both took part in."""

    of_medians: float
    median: float  # the median, like the quartiles, of the ratios within a round
    quartile_1: float
    quartile_3: float
    rounds: int


def time_step(rival: Rival, repeats: int, clock: Callable[[], float] = time.perf_counter) -> tuple[float, float]:
    """Mean seconds of (forward, backward) over `repeats` consecutive steps."""
    forward_s = backward_s = 0.0
    for _ in range(repeats):
        start = clock()
        output = rival.forward()
        middle = clock()
        if rival.backward is not None:
            rival.backward(output)
            output = None  # inside the timed part: a training step also releases its graph
            backward_s += clock() - middle
        output = None  # outside the timed part: the bare matmul is not charged for freeing its matrix
        forward_s += middle - start
    return forward_s / repeats, backward_s / repeats


def measure(
    rivals: Mapping[Hashable, Rival],
    seconds_per_rival: float,
    min_rounds: int = 5,
    max_rounds: int = 100,
    description: str = "",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Hashable, Samples]:
    """Times all rivals, interleaved.

    Each rival takes part in as many rounds as `seconds_per_rival` allows, but in at least `min_rounds`. A slow rival
    skips rounds evenly, so that it sees the same drift as the fast ones. The first rival takes part in all rounds,
    because the others are compared with it. `clock` may be `time.process_time`, the CPU time of all threads.
    """
    rounds, repeats = {}, {}
    for name, rival in rivals.items():
        step_s = sum(time_step(rival, 1, clock))  # the first call may allocate memory, start threads or tune itself
        if step_s < LONG_STEP_S:
            step_s = sum(time_step(rival, 1, clock))
        repeats[name] = max(1, min(200, round(SHORTEST_SAMPLE_S / step_s)))
        rounds[name] = int(np.clip(seconds_per_rival / (step_s * repeats[name]), min_rounds, max_rounds))
    total = max(rounds.values())
    rounds[next(iter(rivals))] = total
    samples = {name: Samples(np.full(total, np.nan), np.full(total, np.nan)) for name in rivals}
    order = list(rivals)
    shuffler = random.Random(0)
    gc.collect()
    gc.disable()  # a collection would fall into one rival's sample by chance
    try:
        for turn in tqdm(range(total), desc=description, leave=False, unit="round", disable=None):
            shuffler.shuffle(order)
            for name in order:
                if (turn + 1) * rounds[name] // total > turn * rounds[name] // total:
                    step_seconds = time_step(rivals[name], repeats[name], clock)
                    samples[name].forward[turn], samples[name].backward[turn] = step_seconds
            gc.collect(0)
    finally:
        gc.enable()
    return samples


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> Ratio:
    """Divides two rivals' seconds over the rounds that both took part in."""
    shared = ~(np.isnan(numerator) | np.isnan(denominator))
    numerator, denominator = numerator[shared], denominator[shared]
    quartile_1, median, quartile_3 = np.percentile(numerator / denominator, [25, 50, 75])
    of_medians = np.median(numerator) / np.median(denominator)
    return Ratio(float(of_medians), float(median), float(quartile_1), float(quartile_3), int(shared.sum()))
