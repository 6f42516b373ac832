"""One epoch of Smart Mining: its batches and its record."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn

import torch
from torch import Tensor

from hardmine.fanng import Index
from hardmine.mining._states import check_count, check_entries, check_list, check_range, check_real, check_tensor
from hardmine.mining.lists import METHODS
from hardmine.mining.ranks import rows_of_rank
from hardmine.ops._arguments import shape_of
from hardmine.types import TripletBatch


@dataclass(frozen=True)
class EpochRecord:
    """Settings, errors and times of an epoch of mining and training.

    Attributes:
        epoch: Number of the epoch, from 1.
        kappa: The kappa that its triplets were mined with; None in an epoch of random triplets only.
        error: Share of the observed triplets, mined and random, whose loss was not zero; the controller is updated with
            it. NaN if no triplet was observed.
        mined_error: The same share of the mined triplets alone; NaN if none was observed.
        mined_share: Share of mined triplets among all triplets of the epoch.
        method: How the neighbors were listed, ``"exact"`` or ``"fanng"``; None if they were not.
        embedding_seconds: Time of embedding the whole set.
        list_seconds: Time of listing the neighbors.
        triplet_seconds: Time of making triplets and batches.
        epoch_seconds: Time of the whole epoch, mining included.
    """

    epoch: int
    kappa: float | None
    error: float
    mined_error: float
    mined_share: float
    method: str | None
    embedding_seconds: float
    list_seconds: float
    triplet_seconds: float
    epoch_seconds: float

    @property
    def mining_share(self) -> float:
        """Share of the epoch's time that lists and triplets took. The paper reports less than 1 %."""
        return (self.list_seconds + self.triplet_seconds) / self.epoch_seconds

    @property
    def embedding_share(self) -> float:
        """Share of the epoch's time that embedding the whole set took."""
        return self.embedding_seconds / self.epoch_seconds


def check_record(name: str, state: Any, number: int) -> EpochRecord:
    """The record of epoch ``number`` from its fields in a state."""
    check_entries(name, state, (field.name for field in fields(EpochRecord)))
    for error in ("error", "mined_error"):
        if not (isinstance(state[error], float) and math.isnan(state[error])):
            check_real(f"{name}['{error}']", state[error], 0, 1)
    check_real(f"{name}['epoch_seconds']", state["epoch_seconds"], 0)
    _check_measured(name, state)
    if state["epoch"] != number:
        raise ValueError(f"{name}['epoch'] must be {number}, got {state['epoch']}")
    return EpochRecord(**state)


def check_epoch(state: Any, images: int) -> None:
    """``state`` is a valid state of a :class:`MinedEpoch` over ``images`` images."""
    check_entries("state", state, ("batches", "measured", "observed", "nonzero", "seconds"))
    check_entries("state['measured']", state["measured"], _MEASURED)
    _check_measured("state['measured']", state["measured"])
    check_real("state['seconds']", state["seconds"], 0)
    for name in ("observed", "nonzero"):
        check_tensor(f"state['{name}']", state[name], torch.int64, (2,))
    observed, nonzero = state["observed"].tolist(), state["nonzero"].tolist()
    # Entry 0 counts all triplets, entry 1 the mined ones.
    is_valid = observed[0] >= observed[1] >= nonzero[1] >= 0 and observed[0] >= nonzero[0] >= nonzero[1]
    if not is_valid:
        raise ValueError(f"state['nonzero'] must be counts within state['observed'] = {observed}, got {nonzero}")
    for number, batch in enumerate(check_list("state['batches']", state["batches"])):
        name = f"state['batches'][{number}]"
        if len(check_list(name, batch)) != 3:
            raise ValueError(f"{name} must be (rows, triplets, mined), got {len(batch)} entries")
        rows = check_tensor(f"{name}[0]", batch[0], torch.int64, (None,))
        check_range(f"{name}[0]", rows, images)
        triplets = check_tensor(f"{name}[1]", batch[1], torch.int64, (None, 3))
        check_range(f"{name}[1]", triplets, len(rows))
        check_tensor(f"{name}[2]", batch[2], torch.bool, (len(triplets),))


# The fields of EpochRecord that are known when an epoch begins.
_MEASURED = ("epoch", "kappa", "mined_share", "method", "embedding_seconds", "list_seconds", "triplet_seconds")


def _check_measured(name: str, state: Mapping[str, Any]) -> None:
    check_count(f"{name}['epoch']", state["epoch"], 1)
    if state["kappa"] is not None:
        check_real(f"{name}['kappa']", state["kappa"], 0)
    check_real(f"{name}['mined_share']", state["mined_share"], 0, 1)
    if state["method"] not in (None, *METHODS):
        raise ValueError(f"{name}['method'] must be None or one of {', '.join(METHODS)}, got {state['method']!r}")
    for seconds in ("embedding_seconds", "list_seconds", "triplet_seconds"):
        check_real(f"{name}['{seconds}']", state[seconds], 0)


class MinedEpoch(Sequence[TripletBatch]):
    """The batches of an epoch, made by :meth:`SmartMiner.epoch`; a context manager whose clean exit ends the epoch.

    Attributes:
        number: Number of the epoch, from 1.
        kappa: The kappa that its triplets were mined with, or None.
        mined_share: Share of mined triplets among all triplets of the epoch.

    Example:
        >>> import torch
        >>> from hardmine.mining import SmartMiner
        >>> miner = SmartMiner(torch.nn.Linear(8, 4), torch.randn(20, 8), torch.arange(20) // 4, batch_size=5)
        >>> epoch = miner.epoch()
        >>> len(epoch), epoch.number, epoch.mined_share  # the first epoch is random
        (4, 1, 0.0)
        >>> triplets = epoch[0].triplets  # positions in epoch[0].rows
        >>> rows = epoch.image_rows  # for the batch_sampler of a DataLoader
    """

    def __init__(
        self,
        end: Callable[[EpochRecord, Index | None], None],
        batches: list[TripletBatch],
        graph: Index | None,
        measured: dict[str, Any],
        start: float,
        ranks: tuple[int, int],
    ) -> None:
        """Called by :meth:`SmartMiner.epoch` only; ``ranks`` are the number of processes and the rank of this one."""
        self._end, self._batches, self._graph, self._measured, self._start = end, batches, graph, measured, start
        self._num_replicas, self._rank = ranks
        self.number: int = measured["epoch"]
        self.kappa: float | None = measured["kappa"]
        self.mined_share: float = measured["mined_share"]
        # Entry 0 is for all triplets, entry 1 for the mined ones: numbers observed, and numbers with a loss.
        self._observed, self._nonzero = torch.zeros(2, 2, dtype=torch.int64, device="cpu")

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._batches)

    def __getitem__(self, batch: int) -> TripletBatch:  # type: ignore[override]  # no slices
        """One batch."""
        return self._batches[batch]

    @property
    def image_rows(self) -> list[list[int]]:
        """This rank's image numbers of every batch: the ``batch_sampler`` of a ``DataLoader`` that reads them in order.

        With one process these are the ``rows`` of every batch. Each rank has a contiguous part of ``rows``, as
        ``torch.tensor_split`` splits: the first ranks have at most one image more than the others. The embeddings of
        all ranks in the order of the ranks then are those of ``rows``, which ``triplets`` refers to.

        Raises:
            ValueError: A batch has fewer images than there are ranks.
        """
        smallest = min(len(batch.rows) for batch in self._batches)
        if smallest < self._num_replicas:
            raise ValueError(
                f"num_replicas must be at most {smallest}, the images of the smallest batch, got {self._num_replicas}"
            )
        return [
            batch.rows[rows_of_rank(len(batch.rows), self._num_replicas, self._rank)].tolist()
            for batch in self._batches
        ]

    def observe(self, batch: TripletBatch, losses: Tensor) -> float:
        """Count the triplets of a batch whose loss is not zero.

        Args:
            batch: A batch of this epoch.
            losses: [T], the loss per triplet, with ``reduction="none"``; or bool [T], whether each loss is not zero.

        Returns:
            :attr:`error` so far.

        Raises:
            TypeError: ``batch`` is not a batch, or ``losses`` is not a tensor.
            ValueError: ``losses`` is not [T].
            FloatingPointError: A loss is NaN.
        """
        if not isinstance(batch, TripletBatch):
            raise TypeError(f"batch must be a TripletBatch, got {type(batch).__name__}")
        if not isinstance(losses, Tensor):
            raise TypeError(f"losses must be a torch.Tensor, got {type(losses).__name__}")
        if losses.shape != batch.mined.shape:
            raise ValueError(f"losses must be [T] = [{len(batch.mined)}], got {shape_of(losses)}")
        losses = losses.detach().cpu()
        if losses.isnan().any():
            raise FloatingPointError(f"losses must not be NaN, got NaN in epoch {self.number}: has training diverged?")
        nonzero = losses != 0
        # Not in place: tensors made under inference_mode cannot be changed outside it.
        self._observed = self._observed + torch.stack([torch.ones_like(nonzero).sum(), batch.mined.sum()])
        self._nonzero = self._nonzero + torch.stack([nonzero.sum(), (nonzero & batch.mined).sum()])
        return self.error

    @property
    def error(self) -> float:
        """Share of the observed triplets with a loss that is not zero; NaN before the first."""
        return (self._nonzero[0].double() / self._observed[0]).item()

    @property
    def mined_error(self) -> float:
        """Share of the observed mined triplets with a loss that is not zero; NaN before the first."""
        return (self._nonzero[1].double() / self._observed[1]).item()

    def state_dict(self) -> dict[str, Any]:
        """The state needed to resume within the epoch: its batches, and what was observed so far.

        The state holds tensors, plain numbers and text only, so that ``torch.load(weights_only=True)`` accepts it.
        :meth:`SmartMiner.resumed_epoch` restores the epoch from it, with any number of ranks.
        """
        return {
            "batches": [tuple(batch) for batch in self._batches],
            "measured": dict(self._measured),
            "observed": self._observed.clone(),
            "nonzero": self._nonzero.clone(),
            "seconds": time.perf_counter() - self._start,
        }

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a MinedEpoch cannot be pickled or copied, because its end updates its miner: save its state_dict(), "
            "or pass its image_rows to a DataLoader"
        )

    def __enter__(self) -> MinedEpoch:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        # After an error or Ctrl-C the miner's state is that before the epoch, so the epoch can be repeated.
        if kind is None:
            seconds = time.perf_counter() - self._start
            errors = {"error": self.error, "mined_error": self.mined_error}
            record = EpochRecord(**{**self._measured, **errors, "epoch_seconds": seconds})
            self._end(record, self._graph)
