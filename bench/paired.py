"""A timer for noisy machines: every round times every rival once, in shuffled order.

The speed of a shared machine drifts by a third between minutes. pytest-benchmark times one callable after another, so a
ratio of two of its numbers contains that drift. Here the two sides of a ratio come from the same rounds, seconds apart.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from rivals import Rival

PHASES = ("forward", "backward", "both")
LONG_STEP_S = 2.0  # what a first call does besides does not matter to a step this long
SHORTEST_SAMPLE_S = 5e-3  # repeat a step until one sample is this long: the timer and the scheduler then do not matter


@dataclass
class Samples:
    """Seconds of one step, by phase and round; NaN in the rounds that the rival sat out."""

    forward: np.ndarray  # [rounds]
    backward: np.ndarray  # [rounds]

    @property
    def both(self) -> np.ndarray:
        """Forward + backward."""
        return self.forward + self.backward


@dataclass
class Ratio:
    """How many times the first time is the second, over the rounds that both took part in."""

    of_medians: float
    median: float  # of the ratio within a round
    quartile_1: float
    quartile_3: float
    rounds: int


def time_step(rival: Rival, repeats: int) -> tuple[float, float]:
    """Mean seconds of (forward, backward) over `repeats` steps in a row."""
    forward_s = backward_s = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        output = rival.forward()
        middle = time.perf_counter()
        if rival.backward is not None:
            rival.backward(output)
            output = None  # inside the time: in training, too, each step releases its graph
            backward_s += time.perf_counter() - middle
        output = None  # outside the time: the bare matmul is not charged for returning its matrix
        forward_s += middle - start
    return forward_s / repeats, backward_s / repeats


def measure(
    rivals: Mapping[Hashable, Rival],
    seconds_per_rival: float,
    min_rounds: int = 5,
    max_rounds: int = 100,
    description: str = "",
) -> dict[Hashable, Samples]:
    """Times all rivals, interleaved.

    A rival takes part in as many rounds as its share of time allows, `min_rounds` at least; a slow one sits out
    rounds, evenly spread, so that it meets the same drifts as the quick ones. The first rival, which the others are
    compared with, takes part in all.
    """
    rounds, repeats = {}, {}
    for name, rival in rivals.items():
        step_s = sum(time_step(rival, 1))  # the first call may allocate, start threads or tune itself
        if step_s < LONG_STEP_S:
            step_s = sum(time_step(rival, 1))
        repeats[name] = max(1, min(200, round(SHORTEST_SAMPLE_S / step_s)))
        rounds[name] = int(np.clip(seconds_per_rival / (step_s * repeats[name]), min_rounds, max_rounds))
    total = max(rounds.values())
    rounds[next(iter(rivals))] = total
    samples = {name: Samples(np.full(total, np.nan), np.full(total, np.nan)) for name in rivals}
    order = list(rivals)
    shuffler = random.Random(0)
    gc.collect()
    gc.disable()  # a collection would land in one rival's sample by chance
    try:
        for turn in tqdm(range(total), desc=description, leave=False, unit="round"):
            shuffler.shuffle(order)
            for name in order:
                if (turn + 1) * rounds[name] // total > turn * rounds[name] // total:
                    taken = time_step(rivals[name], repeats[name])
                    samples[name].forward[turn], samples[name].backward[turn] = taken
            gc.collect(0)
    finally:
        gc.enable()
    return samples


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> Ratio:
    """Compares two rivals' seconds over the rounds they share."""
    shared = ~(np.isnan(numerator) | np.isnan(denominator))
    numerator, denominator = numerator[shared], denominator[shared]
    quartile_1, median, quartile_3 = np.percentile(numerator / denominator, [25, 50, 75])
    of_medians = np.median(numerator) / np.median(denominator)
    return Ratio(float(of_medians), float(median), float(quartile_1), float(quartile_3), int(shared.sum()))
