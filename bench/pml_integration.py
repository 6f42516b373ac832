"""How much faster the classes of hardmine.integrations.pytorch_metric_learning are than those they replace.

Every class runs on the same batch as the class of pytorch-metric-learning (PML), after a check that the results agree.
Rounds of `bench/paired.py` give the ratio of the medians.

    python bench/pml_integration.py --sizes 512 2048 --threads 2
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_metric_learning import distances
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners as pml_miners
from torch import Tensor

import paired
from hardmine.integrations.pytorch_metric_learning import losses, miners
from rivals import Inputs, Rival
from rivals.common import gradient_of
from rivals.inputs import class_samples


class Case(NamedTuple):
    """A miner, a loss on all pairs or triplets, or a loss on what the miner selects.

    Attributes:
        miner: Name of the miner, or None.
        loss: Name of the loss, or None.
        options: Of both.
        max_rows: The largest batch; above it PML takes gigabytes.
    """

    miner: str | None
    loss: str | None
    options: Any = MappingProxyType({})
    max_rows: int = 10**9

    @property
    def name(self) -> str:
        shown = ", ".join(
            f"{key}={value if isinstance(value, str) else type(value).__name__}" for key, value in self.options.items()
        )
        return " + ".join(filter(None, (self.miner, self.loss))) + (f", {shown}" if shown else "")

    def step(self, side_losses: Any, side_miners: Any, inputs: Inputs) -> Callable[[], Any]:
        """The forward pass with the classes of one side."""
        mine = getattr(side_miners, self.miner)(**self.options) if self.miner else None
        term = getattr(side_losses, self.loss)(**self.options) if self.loss else None
        embeddings, labels = inputs.embeddings, inputs.labels
        if term is None:
            return lambda: mine(embeddings, labels)
        if mine is None:
            return lambda: term(embeddings, labels)
        return lambda: term(embeddings, labels, mine(embeddings, labels))


CASES = [
    Case("BatchHardMiner", None),
    Case("BatchEasyHardMiner", None, {"pos_strategy": "easy", "neg_strategy": "semihard"}),
    Case("BatchEasyHardMiner", None, {"pos_strategy": "semihard", "neg_strategy": "hard"}),
    Case("TripletMarginMiner", None, {"type_of_triplets": "semihard"}, 512),
    Case("MultiSimilarityMiner", None),
    Case("PairMarginMiner", None),
    Case("BatchHardMiner", "TripletMarginLoss"),
    Case("BatchHardMiner", "TripletMarginLoss", {"distance": distances.CosineSimilarity()}),
    Case(None, "TripletMarginLoss", max_rows=512),
    Case(None, "NTXentLoss", max_rows=256),
    Case(None, "SupConLoss"),
    Case(None, "MultiSimilarityLoss"),
    Case(None, "CircleLoss"),
    Case(None, "NPairsLoss"),
]


def check(own: Any, expected: Any) -> None:
    """Results agree: losses up to rounding; mined rows up to pairs within rounding of the margin."""
    if isinstance(own, Tensor):
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-4)
        return
    for one, other in zip(own, expected, strict=True):
        if abs(len(one) - len(other)) > 1e-3 * len(other):
            raise AssertionError(f"{len(one)} indices, and {len(other)} of PML")
        if len(one) == len(other) and (one != other).double().mean() > 1e-2:
            raise AssertionError("more than 1 % of the indices differ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 2048], help="rows of the batch")
    parser.add_argument("--depth", type=int, default=128, help="columns of the batch")
    parser.add_argument("--per-class", type=int, default=4, help="rows of each class")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each side of a ratio")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| case | N x D | time of PML / hardmine | hardmine, ms | PML, ms |\n|---|---|---|---|---|")
    for rows in arguments.sizes:
        inputs = class_samples(rows, arguments.depth, arguments.per_class)
        for case in CASES:
            if rows > case.max_rows:
                continue
            sides = {"hardmine": (losses, miners), "PML": (pml_losses, pml_miners)}
            steps = {side: case.step(*modules, inputs) for side, modules in sides.items()}
            check(*(step() for step in steps.values()))
            backward = gradient_of(inputs) if case.loss else None
            rivals = {side: Rival(side, step, backward, inputs) for side, step in steps.items()}
            samples = paired.measure(rivals, arguments.seconds, description=case.name)
            ratio = paired.ratio(samples["PML"].both, samples["hardmine"].both).of_medians
            times = " | ".join(f"{1e3 * np.nanmedian(samples[side].both):.2f}" for side in sides)
            print(f"| {case.name} | {rows:,} x {arguments.depth} | {ratio:.1f} | {times} |", flush=True)


if __name__ == "__main__":
    main()
