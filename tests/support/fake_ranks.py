"""Ranks as threads of one process, for tests of work that ranks share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hardmine.ops._shared_selection import Shares


class FakeRanks:
    """Runs ``body(rank, gather)`` on a thread per rank; ``gather`` returns the tensors of all ranks, stacked."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._barrier = threading.Barrier(count)
        self._tensors: list[Any] = [None] * count

    def run(self, body: Callable[[int, Callable[[Tensor], Tensor]], Any]) -> list[Any]:
        """What ``body`` returns on each rank."""
        results: list[Any] = [None] * self.count
        errors: list[Exception] = []

        def work(rank: int) -> None:
            try:
                results[rank] = body(rank, lambda tensor: self._gather(rank, tensor))
            except threading.BrokenBarrierError:
                pass  # another rank raised
            except Exception as error:
                errors.append(error)
                self._barrier.abort()

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results

    def _gather(self, rank: int, tensor: Tensor) -> Tensor:
        self._tensors[rank] = tensor
        self._barrier.wait()
        gathered = torch.stack(self._tensors)
        self._barrier.wait()  # before the next call overwrites them
        return gathered


def run_shares(parts: int, body: Callable[[Shares], Any]) -> list[Any]:
    """What ``body`` returns on each of some ranks that share work."""

    def on_rank(rank: int, gather: Callable[[Tensor], Tensor]) -> Any:
        def gathered(compute: Callable[[], Tensor], shape: tuple[int, ...]) -> Tensor:
            tensor = compute()
            assert tensor.shape == shape
            return gather(tensor)

        def maximum(compute: Callable[[], Tensor], shape: tuple[int, ...]) -> Tensor:
            return gathered(compute, shape).amax(0)

        def total(compute: Callable[[], Tensor], shape: tuple[int, ...]) -> Tensor:
            return gathered(compute, shape).sum(0)

        return body(Shares(rank, parts, maximum, total))

    return FakeRanks(parts).run(on_rank)
