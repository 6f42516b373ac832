"""Sources of an epoch's batches: samplers and Smart Mining, with a state to resume within an epoch."""

from __future__ import annotations

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
from hardmine.mining.embedding import block_signals, embed_all, signals_blocked
from papers.recipes import Recipe, RecipeError
from papers.recipes.sections import AnchorNeighbor, Triplets
from papers.training.data import Images, TrainingData, plain_train_images
from papers.training.samplers import make_sampler


class Batch(NamedTuple):
    """A batch.

    Attributes:
        rows: List of the indices of its images.
        triplets: The triplets to train on, as positions in `rows`; None if the loss selects triplets.
    """

    rows: list[int]
    triplets: TripletBatch | None = None


class Feed(Protocol):
    """A source of batches, epoch by epoch."""

    def __len__(self) -> int:
        """Number of batches per epoch."""

    def begin(self, epoch: int) -> list[Batch]:
        """Start an epoch, counted from 0, and return its batches."""

    def observe(self, batch: Batch, losses: Tensor | None) -> None:
        """Record the result of a step on a batch."""

    def end(self) -> dict[str, float]:
        """Finish the epoch and return the values to log."""

    def state_dict(self) -> dict[str, Any]:
        """The state for resuming within the epoch."""

    def resume(self, epoch: int, state: Mapping[str, Any]) -> list[Batch]:
        """Restore the state and return the batches of its epoch."""


def make_feed(recipe: Recipe, data: TrainingData, network: nn.Module, loss: nn.Module, workers: int) -> Feed:
    """The feed of a recipe.

    Raises:
        RecipeError: The sampler does not suit the classes, for example because a batch needs more classes than there
            are. Or the training ends before the first step of `evaluation.diagrams`.
    """
    feed = _make_feed(recipe, data, network, loss, workers)
    steps, diagrams = recipe.schedule.epochs * len(feed), recipe.evaluation.diagrams
    if diagrams and min(diagrams) >= steps:
        raise RecipeError(
            f"{recipe.name}: evaluation.diagrams must contain a step below {steps}, the number of steps, "
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
    """Batches from a sampler of classes. HTL's tree is rebuilt after every epoch if the sampler or the loss uses it."""

    def __init__(
        self, recipe: Recipe, sampler: Any, data: TrainingData, network: nn.Module, loss: nn.Module, workers: int
    ) -> None:
        self._sampler, self._data, self._network, self._loss = sampler, data, network, loss
        self._tree, self._workers = recipe.tree, workers
        # Users of the tree: the loss HTL and the anchor-neighbor sampler. Other samplers do not need the tree.
        self._learners = [loss] if recipe.loss.name == "HTL" else []
        if isinstance(recipe.sampler, AnchorNeighbor):
            self._learners.append(sampler)

    def __len__(self) -> int:
        return len(self._sampler)

    def begin(self, epoch: int) -> list[Batch]:
        self._sampler.epoch = epoch
        return [Batch(rows) for rows in self._sampler]

    def observe(self, batch: Batch, losses: Tensor | None) -> None:
        """Do nothing: a sampler does not depend on the results of steps."""

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


def _controller(section: Triplets) -> AdaptiveKappa:
    """The controller of kappa. Given values of kappa are its bounds."""
    bounds = {"min_kappa": section.kappa_of(0), "max_kappa": section.kappa_of(0)} if section.kappa else {}
    return AdaptiveKappa(
        target_error=section.target_error,
        window=section.window,
        random_epochs=section.random_epochs,
        soft_kappa=section.soft_kappa,
        max_step=section.max_step,
        gain=(section.min_gain, section.max_gain),
        **bounds,
    )


class MinedFeed:
    """Batches of triplets that Smart Mining finds in the complete training set."""

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
            kappa=_controller(section),
            method=section.lists,
            # A graph that is built from scratch is the same after resuming.
            fanng={"init": None} if section.lists == "fanng" else None,
            num_workers=workers,
            seed=seed,
        )
        self._epoch: MinedEpoch | None = None
        self._section = section

    def __len__(self) -> int:
        return self._miner.batches_per_epoch

    def begin(self, epoch: int) -> list[Batch]:
        self._epoch = self._miner.epoch()
        return self._batches()

    def observe(self, batch: Batch, losses: Tensor | None) -> None:
        self._epoch.observe(batch.triplets, losses)

    def end(self) -> dict[str, float]:
        if self._section.kappa:  # the controller now sets the next epoch's kappa, between its bounds
            following = self._section.kappa_of(len(self._miner.history) + 1)
            self._miner.kappa.min_kappa = self._miner.kappa.max_kappa = following
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
    """Iterate over the images of the batches."""
    rows = [batch.rows for batch in batches]
    if isinstance(images, Tensor):
        return (images[batch_rows] for batch_rows in rows)
    # A separate generator: a resumed epoch makes one more loader, which must not draw from torch's generator.
    loader = torch.utils.data.DataLoader(
        images,
        batch_sampler=rows,
        num_workers=workers,
        generator=torch.Generator(),
        worker_init_fn=block_signals,
    )
    with signals_blocked():  # the parent finishes its step, which needs the workers, and writes a checkpoint
        loaded = iter(loader)
    return (batch_images for batch_images, _ in loaded)
