"""Where the batches of an epoch come from: samplers, and Smart Mining; with a state that resumes in mid-epoch."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from hardmine.mining import (
    AdaptiveKappa,
    AnchorNeighborSampler,
    ClassTree,
    MinedEpoch,
    SmartMiner,
    TripletBatch,
)
from hardmine.mining.embedding import embed_all
from papers.recipes import Recipe, RecipeError
from papers.recipes.sections import AnchorNeighbor, Triplets
from papers.training.data import Images, TrainingData, plain_train_images
from papers.training.samplers import make_sampler


class Batch(NamedTuple):
    """A batch.

    Attributes:
        rows: The numbers of its images, a list.
        triplets: The triplets to train on, with positions in `rows`; None where the loss selects its own.
    """

    rows: list[int]
    triplets: TripletBatch | None = None


class Feed(Protocol):
    """Plans epochs."""

    def __len__(self) -> int:
        """The number of batches of an epoch."""

    def begin(self, epoch: int) -> list[Batch]:
        """The batches of an epoch, counted from 0."""

    def observe(self, batch: Batch, losses: Tensor | None) -> None:
        """Learn what a step on a batch gave."""

    def end(self) -> dict[str, float]:
        """The epoch has ended; returns what there is to log of it."""

    def state_dict(self) -> dict[str, Any]:
        """What resuming in the middle of the epoch needs."""

    def resume(self, epoch: int, state: Mapping[str, Any]) -> list[Batch]:
        """The batches of the epoch in which the state was taken."""


def make_feed(recipe: Recipe, data: TrainingData, network: nn.Module, loss: nn.Module, workers: int) -> Feed:
    """The feed of a recipe.

    Raises:
        RecipeError: The sampler does not suit the classes, as when a batch has more classes than there are; or the
            training ends before the first step of `evaluation.diagrams`.
    """
    feed = _make_feed(recipe, data, network, loss, workers)
    steps, diagrams = recipe.schedule.epochs * len(feed), recipe.evaluation.diagrams
    if diagrams and min(diagrams) >= steps:
        raise RecipeError(
            f"{recipe.name}: evaluation.diagrams must name a step before {steps}, where the training ends, "
            f"got {list(diagrams)}"
        )
    return feed


def _make_feed(recipe: Recipe, data: TrainingData, network: nn.Module, loss: nn.Module, workers: int) -> Feed:
    if isinstance(recipe.sampler, Triplets):
        try:
            return MinedFeed(recipe.sampler, recipe.seed, data, network, workers)
        except ValueError as error:
            raise RecipeError(f"{recipe.name}: [sampler] does not suit {data.name}: {error}") from error
    sampler = make_sampler(recipe, data.train.labels, data.name)
    return SampledFeed(recipe, sampler, data, network, loss, workers)


class SampledFeed:
    """Batches from a sampler of classes; HTL's tree is made anew after every epoch where sampler or loss wants one."""

    def __init__(
        self, recipe: Recipe, sampler: Any, data: TrainingData, network: nn.Module, loss: nn.Module, workers: int
    ) -> None:
        self._sampler, self._data, self._network, self._loss = sampler, data, network, loss
        self._tree, self._workers = recipe.tree, workers
        # What learns from the tree: the loss HTL, and a sampler of neighbors, which batches of one class do not need.
        self._learners = [loss] if recipe.loss.name == "HTL" else []
        if isinstance(recipe.sampler, AnchorNeighbor):
            self._learners.append(sampler)

    def __len__(self) -> int:
        return len(self._sampler)

    def begin(self, epoch: int) -> list[Batch]:
        self._sampler.epoch = epoch
        return [Batch(rows) for rows in self._sampler]

    def observe(self, batch: Batch, losses: Tensor | None) -> None:
        """A sampler learns nothing from steps."""

    def end(self) -> dict[str, float]:
        if not self._learners:
            return {}
        embeddings = embed_all(self._network, plain_train_images(self._data), num_workers=self._workers)
        tree = ClassTree.from_embeddings(
            embeddings, self._data.train.labels, levels=self._tree.levels, linkage=self._tree.linkage
        )
        for learner in self._learners:
            learner.update(tree)
        return {"tree_nodes_mid": float(tree.node_counts[len(tree.node_counts) // 2])}

    def state_dict(self) -> dict[str, Any]:
        return self._sampler.state_dict() if isinstance(self._sampler, AnchorNeighborSampler) else {}

    def resume(self, epoch: int, state: Mapping[str, Any]) -> list[Batch]:
        if isinstance(self._sampler, AnchorNeighborSampler):
            self._sampler.load_state_dict(state)
        return self.begin(epoch)


class MinedFeed:
    """Batches of triplets that Smart Mining finds in the whole training set."""

    def __init__(self, section: Triplets, seed: int, data: TrainingData, network: nn.Module, workers: int) -> None:
        self._miner = SmartMiner(
            network,
            plain_train_images(data),
            data.train.labels,
            batch_size=section.batch_size,
            batches_per_epoch=section.batches_per_epoch,
            mined_share=section.mined_share,
            neighbors=section.neighbors,
            per_anchor=section.per_anchor,
            kappa=AdaptiveKappa(target_error=section.target_error),
            method=section.lists,
            # A graph that is built from nothing is the same after resuming.
            fanng={"init": None} if section.lists == "fanng" else None,
            num_workers=workers,
            seed=seed,
        )
        self._epoch: MinedEpoch | None = None

    def __len__(self) -> int:
        return self._miner.batches_per_epoch

    def begin(self, epoch: int) -> list[Batch]:
        self._epoch = self._miner.epoch()
        return self._batches()

    def observe(self, batch: Batch, losses: Tensor | None) -> None:
        self._epoch.observe(batch.triplets, losses)

    def end(self) -> dict[str, float]:
        with self._epoch:
            pass
        self._epoch = None
        record = self._miner.history[-1]
        logged = {
            "training_error": record.error,
            "kappa": record.kappa,
            "mined_share": record.mined_share,
            "embedding_seconds": record.embedding_seconds,
            "mining_seconds": record.list_seconds + record.triplet_seconds,
        }
        return {name: value for name, value in logged.items() if value is not None}

    def state_dict(self) -> dict[str, Any]:
        return {"miner": self._miner.state_dict(), "epoch": None if self._epoch is None else self._epoch.state_dict()}

    def resume(self, epoch: int, state: Mapping[str, Any]) -> list[Batch]:
        self._miner.load_state_dict(state["miner"])
        if state["epoch"] is None:
            return self.begin(epoch)
        self._epoch = self._miner.resumed_epoch(state["epoch"])
        return self._batches()

    def _batches(self) -> list[Batch]:
        return [Batch(batch.rows.tolist(), batch) for batch in self._epoch]


def images_of(images: Images, batches: list[Batch], workers: int) -> Iterator[Tensor]:
    """The images of the batches, one after the other."""
    rows = [batch.rows for batch in batches]
    if isinstance(images, Tensor):
        return (images[some] for some in rows)
    # A generator of its own, so that a loader draws nothing from torch's: a resumed epoch makes one more.
    loader = torch.utils.data.DataLoader(
        images,
        batch_sampler=rows,
        num_workers=workers,
        generator=torch.Generator(),
        worker_init_fn=_leave_interrupts_to_the_parent,
    )
    return (some for some, _ in loader)


def _leave_interrupts_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal: the parent finishes its step and writes a checkpoint."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
