"""One epoch of Smart Mining: its batches, and what it was like."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NoReturn

import torch
from torch import Tensor

from hardmine.fanng import Index
from hardmine.mining.batches import TripletBatch
from hardmine.mining.lists import METHODS
from hardmine.ops._arguments import check_finite, check_integer, shape_of


@dataclass(frozen=True)
class EpochRecord:
    """What an epoch of mining and training was like.

    Attributes:
        epoch: Its number, from 1.
        kappa: The kappa that its triplets were mined with; None in an epoch of random triplets only.
        error: Share of the observed triplets, mined and random ones, whose loss was not zero: what the controller
            learns. NaN if no triplet was observed.
        mined_error: The same of the mined ones alone; NaN if none was observed.
        mined_share: Share of mined triplets among all of the epoch's.
        method: How the neighbors were listed, ``"exact"`` or ``"fanng"``; None where they were not.
        embedding_seconds: Time of embedding the whole set.
        list_seconds: Time of listing the neighbors.
        triplet_seconds: Time of making triplets and batches of them.
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
        """Share of the epoch's time that lists and triplets took: what the paper says is below 1 %."""
        return (self.list_seconds + self.triplet_seconds) / self.epoch_seconds

    @property
    def embedding_share(self) -> float:
        """Share of the epoch's time that embedding the whole set took."""
        return self.embedding_seconds / self.epoch_seconds


class MinedEpoch(Sequence[TripletBatch]):
    """The batches of one epoch, made by :meth:`SmartMiner.epoch`; a context manager, whose clean end ends the epoch.

    Attributes:
        number: Number of the epoch, from 1.
        kappa: The kappa that its triplets were mined with, or None.
        mined_share: Share of mined triplets among all.
    """

    def __init__(
        self,
        end: Callable[[EpochRecord, Index | None], None],
        batches: list[TripletBatch],
        graph: Index | None,
        measured: dict[str, Any],
        start: float,
    ) -> None:
        """For :meth:`SmartMiner.epoch`."""
        self._end, self._batches, self._graph, self._measured, self._start = end, batches, graph, measured, start
        self.number: int = measured["epoch"]
        self.kappa: float | None = measured["kappa"]
        self.mined_share: float = measured["mined_share"]
        # Of all triplets and of the mined ones: how many were observed, and how many of them had a loss.
        self._observed, self._nonzero = torch.zeros(2, 2, dtype=torch.int64, device="cpu")

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._batches)

    def __getitem__(self, batch: int) -> TripletBatch:  # type: ignore[override]
        """One batch."""
        return self._batches[batch]

    @property
    def image_rows(self) -> list[list[int]]:
        """The image numbers of every batch: the ``batch_sampler`` of a ``DataLoader`` that reads them in this order."""
        return [batch.rows.tolist() for batch in self._batches]

    def observe(self, batch: TripletBatch, losses: Tensor) -> float:
        """Count the triplets of a batch that the loss still acts on.

        Args:
            batch: A batch of this epoch.
            losses: [T], the loss of each triplet, with ``reduction="none"``; or bool, whether it is not zero.

        Returns:
            The error so far, as in :attr:`error`.

        Raises:
            TypeError: ``batch`` is no batch, or ``losses`` are no tensor.
            ValueError: ``losses`` are not [T].
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
            raise FloatingPointError(f"a loss is NaN in epoch {self.number}: has training diverged?")
        nonzero = losses != 0
        # New tensors: those made under inference_mode can't be added to outside it.
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
        """What going on in the middle of the epoch needs: its batches, and what was observed so far.

        Holds tensors, plain numbers and text only, so that ``torch.load(weights_only=True)`` takes it.
        :meth:`SmartMiner.resumed_epoch` makes the epoch of it again.
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
            "a MinedEpoch cannot be pickled or copied, since its end is its miner's: keep its state_dict(), "
            "and give a DataLoader its image_rows"
        )

    def __enter__(self) -> MinedEpoch:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        # After an error or Ctrl-C the miner stands where it stood before the epoch, and can begin it again.
        if kind is None:
            seconds = time.perf_counter() - self._start
            errors = {"error": self.error, "mined_error": self.mined_error}
            record = EpochRecord(**{**self._measured, **errors, "epoch_seconds": seconds})
            self._end(record, self._graph)


_TIMES = ("embedding_seconds", "list_seconds", "triplet_seconds")
_MEASURED = ("epoch", "kappa", "mined_share", "method", *_TIMES)


def check_state_of(kind: str, state: Any, entries: Sequence[str]) -> None:
    """``state`` is a mapping that has the entries."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a mapping, as state_dict() returns it, got {type(state).__name__}")
    if missing := sorted(set(entries) - state.keys()):
        raise ValueError(f"state must be a {kind}'s state_dict, got none of {', '.join(missing)}")


def checked_record(number: int, record: Any) -> EpochRecord:
    """The record of epoch ``number`` from a miner's state."""
    name = f"state['history'][{number - 1}]"
    try:
        made = EpochRecord(**record)
    except TypeError as error:
        raise ValueError(f"state must be a SmartMiner's state_dict, got a history of other records: {error}") from error
    _check_measured(name, dataclasses.asdict(made), ("error", "mined_error", "epoch_seconds"))
    if made.epoch != number:
        raise ValueError(f"{name} must be of epoch {number}, got epoch {made.epoch}")
    return made


def check_epoch_state(state: Any) -> None:
    """``state`` is what :meth:`MinedEpoch.state_dict` returns."""
    check_state_of("MinedEpoch", state, ("batches", "measured", "observed", "nonzero", "seconds"))
    measured = state["measured"]
    if not isinstance(measured, Mapping) or measured.keys() != set(_MEASURED):
        raise ValueError(f"state['measured'] must have the entries {', '.join(_MEASURED)}, got {measured!r:.80}")
    _check_measured("state['measured']", measured)
    _check_real("state['seconds']", state["seconds"])
    for name in ("observed", "nonzero"):
        _check_tensor(f"state['{name}']", state[name], torch.int64, 1)
    if not isinstance(state["batches"], (list, tuple)):
        raise TypeError(f"state['batches'] must be a list, got {type(state['batches']).__name__}")
    for i, batch in enumerate(state["batches"]):
        if not isinstance(batch, (list, tuple)) or len(batch) != 3:
            raise TypeError(f"state['batches'][{i}] must be rows, triplets and mined, got {batch!r:.80}")
        for tensor, field, dtype, dim in zip(
            batch, TripletBatch._fields, (torch.int64, torch.int64, torch.bool), (1, 2, 1), strict=True
        ):
            _check_tensor(f"{field} of state['batches'][{i}]", tensor, dtype, dim)


def _check_measured(name: str, measured: Mapping[str, Any], more: Sequence[str] = ()) -> None:
    check_integer(f"epoch of {name}", measured["epoch"], 1)
    if measured["kappa"] is not None:
        check_finite(f"kappa of {name}", measured["kappa"], at_least=0.0)
    if measured["method"] not in (None, *METHODS):
        raise ValueError(f"method of {name} must be None or one of {METHODS}, got {measured['method']!r}")
    for field in ("mined_share", *_TIMES, *more):
        _check_real(f"{field} of {name}", measured[field])


def _check_real(name: str, value: Any) -> None:
    """A number, NaN included: the share of no triplets."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")


def _check_tensor(name: str, tensor: Any, dtype: torch.dtype, dim: int) -> None:
    if not isinstance(tensor, Tensor) or tensor.dtype != dtype or tensor.dim() != dim:
        got = f"{tensor.dtype} {shape_of(tensor)}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{name} must be a tensor of {dtype} of {dim} dimension{'s'[: dim - 1]}, got {got}")
