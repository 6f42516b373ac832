"""Training on mined triplets beside training on random ones: Smart Mining, from the same start."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import hardmine
from hardmine._extras import require
from hardmine.datasets import RetrievalSplit
from hardmine.losses import GlobalLoss, RatioTripletLoss
from hardmine.metrics import recall_at_1
from hardmine.mining import AdaptiveKappa, EpochRecord, MinedEpoch, SmartMiner
from hardmine.mining.embedding import embed_all
from hardmine.networks import EmbeddingNet
from hardmine.train import turn

# The references of mining hold the matrix of similarities: half a gigabyte for so many images, in float64.
VERIFIED_LISTS = 8192


@dataclass(frozen=True)
class SmartSettings:
    """What the run on mined triplets and the run on random ones share.

    Attributes:
        epochs: Number of epochs.
        batch_size: Triplets in a batch.
        batches_per_epoch: Batches in an epoch.
        embedding_dim: Dimensions of the embedding.
        lr: Learning rate of SGD in the first epochs.
        max_turn_deg: Every epoch turns every image by a random angle between minus and plus this many degrees.
        lr_halved_every: The learning rate is halved after so many epochs, as in Smart Mining section 4; 0 for never.
        momentum: Of SGD.
        mined_share: Share of mined triplets wanted in a batch of the run on mined triplets.
        target_error: Share of triplets that should have a loss, which the controller of kappa aims at.
        neighbors: Length of the lists that triplets are mined from.
        lists: How they are made: ``"exact"``, ``"fanng"`` or ``"auto"``.
        global_weight: Weight of the global loss, which is added to the ratio loss.
        verify_every: Each so many loss calls one also runs its reference; 0 verifies none.
        seed: Seed of the weights and the triplets.
    """

    epochs: int
    batch_size: int
    batches_per_epoch: int
    embedding_dim: int
    lr: float
    max_turn_deg: float = 0.0
    lr_halved_every: int = 0
    momentum: float = 0.9
    mined_share: float = 1.0
    target_error: float = 0.5
    neighbors: int = 50
    lists: str = "auto"
    global_weight: float = 1.0
    verify_every: int = 100
    seed: int = 0


# Digits are few and turned by any angle, so that triplets stay hard. Of Omniglot's 964 characters many look alike, some
# across alphabets the same: batches of mined triplets alone cost a network that starts from nothing Recall@1 in trials.
PRESETS = {
    "digits": SmartSettings(
        epochs=30, batch_size=32, batches_per_epoch=28, embedding_dim=8, lr=0.05, max_turn_deg=180.0, neighbors=200
    ),
    "omniglot": SmartSettings(
        epochs=10,
        batch_size=64,
        batches_per_epoch=100,
        embedding_dim=64,
        lr=0.05,
        mined_share=0.3,
        target_error=0.3,
        neighbors=300,
    ),
}


@dataclass(frozen=True)
class EpochResult:
    """What one epoch of one run led to.

    Attributes:
        run: ``"smart"`` or ``"random"``.
        record: What the miner says of it: error, kappa, times.
        loss: Mean loss over the epoch's batches.
        recall: Recall@1 on the retrieved-only classes after the epoch.
    """

    run: str
    record: EpochRecord
    loss: float
    recall: float

    def row(self) -> dict[str, Any]:
        """The result as a flat row of a table."""
        return {
            "run": self.run,
            "epoch": self.record.epoch,
            "training_error": self.record.error,
            "kappa": self.record.kappa,
            "mined_share": self.record.mined_share,
            "loss": self.loss,
            "recall_at_1": self.recall,
            "lists": self.record.method,
            "embedding_seconds": self.record.embedding_seconds,
            "list_seconds": self.record.list_seconds,
            "triplet_seconds": self.record.triplet_seconds,
            "epoch_seconds": self.record.epoch_seconds,
            "embedding_share": self.record.embedding_share,
            "mining_share": self.record.mining_share,
        }


class SmartComparison:
    """Trains one network on mined triplets and one on random triplets, everything else being equal.

    Both start from the same weights, see as many triplets, and, until the controller of kappa starts, the same ones.

    Args:
        split: The images.
        settings: What both runs share.
        progress: Show progress bars on stderr.
        save_dir: Folder where `hardmine.verify` saves the inputs of a disagreement.

    Attributes:
        recall_before: Recall@1 on the retrieved-only classes before training.
        report: What was verified, a `hardmine.Report`; None where nothing is.

    Raises:
        ValueError: As `SmartMiner` does; or the learning rate, say, is of no use to the optimizer.
    """

    def __init__(
        self,
        split: RetrievalSplit,
        settings: SmartSettings,
        progress: bool = True,
        save_dir: str | Path = "hardmine-verify",
    ) -> None:
        self.split, self.settings, self.progress = split, settings, progress
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
            torch.manual_seed(settings.seed)
            mean, std = split.train_images.mean().item(), split.train_images.std().item()
            start = EmbeddingNet(split.train_images.shape[-1], settings.embedding_dim, mean, std)
        self._runs = {
            "random": _Run(copy.deepcopy(start), split, settings, 0.0, progress),
            "smart": _Run(copy.deepcopy(start), split, settings, settings.mined_share, progress),
        }
        self._verify = None
        if settings.verify_every:
            self._verify = hardmine.verify(every=settings.verify_every, save_dir=save_dir)
        self.report = self._verify and self._verify.report
        # A seed apart from the training's, so that what is measured is not what was trained on.
        generator = torch.Generator().manual_seed(settings.seed + 1_000_003)
        self._test_images = turn(split.test_images, settings.max_turn_deg, generator)
        self.recall_before = self._recall(start)

    def epochs(self) -> Iterator[tuple[EpochResult, EpochResult]]:
        """Train epoch after epoch.

        Yields:
            The results of an epoch: that of the run on mined triplets, and that of the run on random ones.

        Raises:
            FloatingPointError: The loss is not finite any more: training has diverged.
            hardmine.VerificationError: A fused op disagrees with its reference.
        """
        for _ in range(self.settings.epochs):
            yield self._epoch("smart"), self._epoch("random")

    def _epoch(self, name: str) -> EpochResult:
        run = self._runs[name]
        verified = self._verify or nullcontext()
        with verified if len(self.split.train_labels) <= VERIFIED_LISTS else nullcontext():
            epoch = run.begin()
        with epoch, verified:
            loss = run.train(epoch, f"{name:>6} {epoch.number:>2}")
        return EpochResult(name, run.miner.history[-1], loss, self._recall(run.network))

    def _recall(self, network: nn.Module) -> float:
        return recall_at_1(embed_all(network, self._test_images), self.split.test_labels)


class _Run:
    """One network, its optimizer and its miner."""

    def __init__(
        self,
        network: nn.Module,
        split: RetrievalSplit,
        settings: SmartSettings,
        mined_share: float,
        progress: bool,
    ) -> None:
        self.network, self.settings, self.progress = network, settings, progress
        self._upright = split.train_images
        self.miner = SmartMiner(
            network,
            split.train_images,
            split.train_labels,
            batch_size=settings.batch_size,
            batches_per_epoch=settings.batches_per_epoch,
            mined_share=mined_share,
            neighbors=settings.neighbors,
            kappa=AdaptiveKappa(target_error=settings.target_error),
            method=settings.lists,
            seed=settings.seed,
            progress=progress,
        )
        self._ratio, self._global = RatioTripletLoss(reduction="none"), GlobalLoss()
        self._optimizer = torch.optim.SGD(network.parameters(), lr=settings.lr, momentum=settings.momentum)

    def begin(self) -> MinedEpoch:
        """Turn the images, and mine triplets of them as they then are."""
        generator = torch.Generator().manual_seed(self.settings.seed + len(self.miner.history))
        self.miner.images = turn(self._upright, self.settings.max_turn_deg, generator)
        return self.miner.epoch()

    def train(self, epoch: MinedEpoch, title: str) -> float:
        """Take a gradient step on every batch; return the mean loss."""
        halvings = (epoch.number - 1) // self.settings.lr_halved_every if self.settings.lr_halved_every else 0
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.lr / 2**halvings
        total = 0.0
        bar = require("tqdm").tqdm(epoch, desc=title, unit="batch", disable=not self.progress, leave=False)
        for step, batch in enumerate(bar, 1):
            embeddings = self.network(self.miner.images[batch.rows])
            losses = self._ratio(embeddings, batch.triplets)
            loss = losses.mean() + self.settings.global_weight * self._global(embeddings, batch.triplets)
            value = loss.item()
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss is {value} in epoch {epoch.number}, step {step}; lr {self.settings.lr} may be too large"
                )
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            epoch.observe(batch, losses)
            total += value
        return total / len(epoch)
