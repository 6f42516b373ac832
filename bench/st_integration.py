"""How much faster the losses of hardmine.integrations.sentence_transformers and .open_clip are than those they replace.

Every loss takes the same embeddings as the loss of the other library, after a check that the results agree. No model
runs: these are the times of the losses alone, forward and backward. Rounds of `bench/paired.py` give the ratio of the
medians. `--memory` prints the peak memory of a step beyond its inputs, each measured in a process of its own.

    python bench/st_integration.py --sizes 512 2048 --threads 1
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from multiprocessing import get_context
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import open_clip
import torch
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.sentence_transformer import losses as their_losses
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models
from torch import Tensor

import memory
import paired
from hardmine.integrations import open_clip as clip
from hardmine.integrations.sentence_transformers import losses, mine_hard_negatives
from rivals import Inputs, Rival
from rivals.common import gradient_of
from rivals.inputs import class_samples

ALL = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
MODEL = torch.nn.Sequential(torch.nn.Identity())  # not called
COSINE = their_losses.BatchHardTripletLossDistanceFunction.cosine_distance


class Case(NamedTuple):
    """A loss of columns, of labels, or of images and texts.

    Attributes:
        loss: Name of the loss.
        columns: Columns of a ranking loss; 0: a loss of labels; -1: of images and texts.
        options: Of the loss.
    """

    loss: str
    columns: int = 0
    options: Any = MappingProxyType({})

    @property
    def name(self) -> str:
        shown = [
            f"{key}={getattr(value, '__name__', value)}" for key, value in self.options.items() if value is not ALL
        ]
        if self.columns > 2:
            shown.insert(0, "hard negatives")
        if ALL in self.options.values():
            shown.append("all directions")
        return ", ".join([self.loss, *shown])

    def step(self, side: Any, inputs: Inputs) -> Callable[[], Tensor]:
        """The forward pass; of a cached loss also the gradients of the embeddings."""
        rows = inputs.embeddings
        if self.columns == 0:
            loss = getattr(side, self.loss)(MODEL, **self.options)
            return lambda: loss.compute_loss_from_embeddings([rows], inputs.labels)
        if self.columns < 0:
            loss, scale, bias = getattr(side, self.loss)(), torch.tensor(20.0), torch.tensor(-10.0)
            return lambda: loss(*torch.nn.functional.normalize(rows).chunk(2), scale, bias)
        loss = getattr(side, self.loss)(MODEL, **self.options)
        if not self.loss.startswith("Cached"):
            return lambda: loss.compute_loss_from_embeddings(list(rows.chunk(self.columns)), None)
        parts = [list(column.split(loss.mini_batch_size)) for column in rows.detach().chunk(self.columns)]

        def cached() -> Tensor:
            leaves = [[part.detach().requires_grad_() for part in column] for column in parts]
            return loss.calculate_loss(leaves, None, with_backward=True)

        return cached


CASES = [
    Case("MultipleNegativesRankingLoss", 2),
    Case("MultipleNegativesRankingLoss", 3),
    Case("MultipleNegativesRankingLoss", 2, {"directions": ALL}),
    Case("MultipleNegativesRankingLoss", 3, {"hardness_mode": "all_negatives", "hardness_strength": 5.0}),
    Case("MultipleNegativesSymmetricRankingLoss", 2),
    Case("CachedMultipleNegativesRankingLoss", 2),
    Case("BatchHardTripletLoss"),
    Case("BatchHardTripletLoss", 0, {"distance_metric": COSINE}),
    Case("BatchHardSoftMarginTripletLoss"),
    Case("BatchSemiHardTripletLoss"),
    Case("BatchAllTripletLoss"),
    Case("ClipLoss", -1),
    Case("SigLipLoss", -1),
]


def inputs_of(case: Case, rows: int, depth: int) -> Inputs:
    """Embeddings [N, D] in classes of 4, or [C N, D] whose columns are more alike in a row than across rows."""
    if case.columns == 0:
        return class_samples(rows, depth)
    columns = abs(case.columns) if case.columns > 0 else 2
    generator = torch.Generator().manual_seed(0)
    anchors = torch.randn(rows, depth, generator=generator)
    others = [anchors + 2 * torch.randn(rows, depth, generator=generator) for _ in range(columns - 1)]
    return Inputs(torch.cat([anchors, *others]).requires_grad_(), torch.arange(rows))


class _Embedded(SentenceTransformer):
    """A model whose texts are numbers: the rows of given embeddings."""

    def __init__(self, rows: Tensor) -> None:
        tokenizer = Tokenizer(models.WordLevel({"0": 0}))
        super().__init__(modules=[StaticEmbedding(tokenizer, rows.numpy())], device="cpu")
        self._rows = torch.nn.functional.normalize(rows).numpy()

    def encode(self, inputs: Any, **_: Any) -> Any:
        return self._rows[[int(text) for text in inputs]]


def mining_cases(rows: int, depth: int) -> dict[str, Rival]:
    from datasets import Dataset

    vectors = torch.randn(2 * rows, depth, generator=torch.Generator().manual_seed(0))
    vectors[rows:] += vectors[:rows] / 2
    model = _Embedded(vectors)
    data = Dataset.from_dict(
        {"query": [str(k) for k in range(rows)], "answer": [str(k) for k in range(rows, 2 * rows)]}
    )
    options = {"range_max": 50, "relative_margin": 0.05, "num_negatives": 5, "verbose": False}
    sides = {"hardmine": mine_hard_negatives, "theirs": util.mine_hard_negatives}
    return {
        side: Rival(side, lambda function=function: function(data, model, **options), None, Inputs(vectors, vectors))
        for side, function in sides.items()
    }


def sides_of(case: Case, inputs: Inputs) -> dict[str, Rival]:
    """The step of both libraries."""
    own, theirs = (clip, open_clip.loss) if case.columns < 0 else (losses, their_losses)
    backward = None if case.loss.startswith("Cached") else gradient_of(inputs)
    return {
        side: Rival(side, case.step(library, inputs), backward, inputs)
        for side, library in (("hardmine", own), ("theirs", theirs))
    }


def run_step(rival: Rival) -> None:
    value = rival.forward()
    if rival.backward is not None:
        rival.backward(value)


def peak_bytes(index: int, side: str, rows: int, depth: int) -> int:
    """The peak memory of a step of a case in this process, beyond its inputs."""
    case = CASES[index]
    run_step(sides_of(case, inputs_of(case, 256, depth))[side])  # loads libraries, starts threads
    rival = sides_of(case, inputs_of(case, rows, depth))[side]
    return memory.peak_of(lambda: run_step(rival))[0]


def report(name: str, rows: int, depth: int, rivals: dict[str, Rival], arguments: argparse.Namespace) -> None:
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    samples = paired.measure(rivals, arguments.seconds, description=name, clock=clock)
    ratio = paired.ratio(samples["theirs"].both, samples["hardmine"].both).of_medians
    times = " | ".join(f"{1e3 * np.nanmedian(samples[side].both):.2f}" for side in rivals)
    print(f"| {name} | {rows:,} x {depth} | {ratio:.1f} | {times} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[512, 2048], help="rows of the batch")
    parser.add_argument("--mined", type=int, nargs="*", default=[], help="queries whose negatives are mined")
    parser.add_argument("--memory", type=int, nargs="*", default=[], help="rows of the batch whose memory is measured")
    parser.add_argument("--depth", type=int, default=384, help="columns of the batch")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each side of a ratio")
    parser.add_argument("--cpu-time", action="store_true", help="CPU time, which other processes disturb less")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| case | N x D | time of theirs / hardmine | hardmine, ms | theirs, ms |\n|---|---|---|---|---|")
    for rows in arguments.sizes:
        for case in CASES:
            rivals = sides_of(case, inputs_of(case, rows, arguments.depth))
            torch.testing.assert_close(*(rival.forward().detach() for rival in rivals.values()), rtol=1e-3, atol=1e-4)
            report(case.name, rows, arguments.depth, rivals, arguments)
    for rows in arguments.mined:
        report("mine_hard_negatives", rows, arguments.depth, mining_cases(rows, arguments.depth), arguments)
    if arguments.memory:
        print("\n| case | N x D | peak of hardmine, MiB | peak of theirs, MiB |\n|---|---|---|---|")
    for rows in arguments.memory:
        for case in CASES:
            peaks = []
            for side in ("hardmine", "theirs"):
                with get_context("fork").Pool(1) as process:
                    peak = process.apply(peak_bytes, (CASES.index(case), side, rows, arguments.depth))
                peaks.append(f"{peak / memory.MIB:,.0f}")
            print(f"| {case.name} | {rows:,} x {arguments.depth} | {' | '.join(peaks)} |", flush=True)


if __name__ == "__main__":
    main()
