"""The epochs of Smart Mining: from the embeddings of the whole training set to batches of triplets."""

from __future__ import annotations

import dataclasses
import inspect
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hardmine.fanng import Index
from hardmine.mining._states import check_count, check_entries, check_list, check_real
from hardmine.mining.adaptive_kappa import AdaptiveKappa
from hardmine.mining.batches import mixed_batches
from hardmine.mining.embedding import check_images, embed_all
from hardmine.mining.epoch import EpochRecord, MinedEpoch, check_epoch, check_record
from hardmine.mining.labels import check_labels
from hardmine.mining.lists import METHODS, neighbor_lists
from hardmine.mining.ranks import check_ranks
from hardmine.mining.smart_triplets import smart_triplets
from hardmine.ops._arguments import check_choice
from hardmine.ops._numbers import check_flag, check_integer
from hardmine.ops.knn import MAX_NEIGHBORS
from hardmine.types import TripletBatch

_INT32_MAX = 2**31 - 1
_GRAPH_OPTIONS = {"max_distance_computations", *inspect.signature(Index.build).parameters} - {"vectors", "metric"}


class SmartMiner:
    """Mines triplets from the whole training set, in each epoch with the current network.

    An epoch embeds all images and lists the nearest neighbors of each. :func:`smart_triplets` makes triplets of the
    lists at the controller's kappa. The batches mix these with random triplets and list each image once. The epochs
    before the controller starts use random triplets only, and embed nothing::

        miner = SmartMiner(network, images, labels, batch_size=64)
        ratio, spread = RatioTripletLoss(reduction="none"), GlobalLoss()
        for _ in range(20):
            with miner.epoch() as epoch:
                for batch in epoch:
                    embeddings = network(images[batch.rows])
                    losses = ratio(embeddings, batch.triplets)
                    loss = losses.mean() + spread(embeddings, batch.triplets)
                    optimizer.zero_grad(); loss.backward(); optimizer.step()
                    epoch.observe(batch, losses)
            print(miner.history[-1])

    A ``DataLoader`` can read the images in the same order::

        loader = DataLoader(data, batch_sampler=epoch.image_rows, num_workers=4)
        for batch, (some_images, _) in zip(epoch, loader): ...

    Args:
        model: The network in training, or any function that embeds n images as [n, D].
        images: A tensor [N, ...], or a map-style data set whose items are images or tuples that begin with one.
        labels: Integers [N], the class of every image.
        batch_size: Triplets per batch.
        batches_per_epoch: Number of batches per epoch. By default every image is an anchor about once, and there is at
            least one batch.
        mined_share: Target share of mined triplets per batch, 0 to 1, rounded to whole triplets; the rest are random.
            If fewer are mined, the batches' numbers of mined triplets differ by at most one. 0 never mines. The paper
            finds 0.5 to 1 best.
        neighbors: Length of the lists, 1 to 1024. Most lists should hold both positives and negatives.
        per_anchor: Maximal number of mined triplets per anchor.
        kappa: The controller, by default ``AdaptiveKappa()``; or a fixed number, which mines from the first epoch on.
        method: How neighbors are listed: ``"exact"`` (:func:`hardmine.ops.knn`) or ``"fanng"``
            (:class:`hardmine.fanng.Index`). Exact lists are faster up to some 120,000 images.
        fanng: Only with ``"fanng"``: options of :meth:`hardmine.fanng.Index.build`, and
            ``max_distance_computations`` of the searches. By default every epoch's graph is built from lists, which
            are the result. ``init="last"`` starts each graph but the first from the last epoch's, and searches it.
        embed_chunk: Number of images per call of the model.
        num_workers: Number of workers of the ``DataLoader`` that reads a data set to embed it.
        seed: Seed of the triplets and batches, and of the graph unless ``fanng`` has a seed.
        progress: Show progress bars on stderr, which needs tqdm.
        num_replicas: Number of processes that train together. By default the size of the initialized default process
            group, or 1. Either both this and ``rank`` are given, or neither.
        rank: Rank of this process, from 0. By default that in the default process group, or 0.

    Attributes:
        history: The :class:`EpochRecord` of every epoch that has ended.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has the wrong shape or value, or the labels admit no triplet.

    Note:
        The same model, images, labels, settings and seed give the same batches, for any number of threads. Memory is
        that of the embeddings and lists, O(N (D + neighbors)), and of one chunk's activations.

        A run resumed after an epoch continues bit for bit. :meth:`state_dict` does not hold the graph, so with
        ``fanng={"init": "last"}`` the first graph after resuming is built without a warm start. The graph then has
        other edges for the same neighbors, and some lists may differ.

        ``batch_size`` and the batches are those of all ranks together, and do not depend on the number of ranks. Rank r
        embeds its part of a batch's images, :attr:`MinedEpoch.image_rows`. The triplets refer to the images of all
        ranks, so the embeddings are gathered before the loss. An image of a batch goes to exactly one rank. Images are
        not grouped by class. Ranks agree on the batches only if their embeddings of the whole set are equal bit for
        bit. To be sure of that, mine on one rank and send the epoch to the others::

            state = [miner.epoch().state_dict() if miner.rank == 0 else None]
            torch.distributed.broadcast_object_list(state)
            epoch = miner.resumed_epoch(state[0])

    Reference:
        Harwood et al., "Smart Mining for Deep Metric Learning", ICCV 2017, section 3.2.

    Example:
        >>> import torch
        >>> from hardmine import ops
        >>> from hardmine.mining import SmartMiner
        >>> labels = torch.arange(40) // 4
        >>> network = torch.nn.Linear(8, 4)
        >>> miner = SmartMiner(network, torch.randn(40, 8), labels, batch_size=10, kappa=1.0)
        >>> with miner.epoch() as epoch:
        ...     for batch in epoch:
        ...         embeddings = network(miner.images[batch.rows])
        ...         losses = ops.indexed_triplet_loss(embeddings, batch.triplets, reduction="none")
        ...         losses.mean().backward()  # and a step of an optimizer
        ...         error = epoch.observe(batch, losses)
        ...
        >>> record = miner.history[-1]
        >>> record.epoch, record.method, len(epoch)
        (1, 'exact', 4)
    """

    def __init__(
        self,
        model: nn.Module | Callable[[Tensor], Tensor],
        images: Tensor | torch.utils.data.Dataset[Any],
        labels: Tensor | Sequence[int],
        *,
        batch_size: int = 64,
        batches_per_epoch: int | None = None,
        mined_share: float = 1.0,
        neighbors: int = 50,
        per_anchor: int = 1,
        kappa: AdaptiveKappa | float | None = None,
        method: Literal["exact", "fanng"] = "exact",
        fanng: Mapping[str, Any] | None = None,
        embed_chunk: int = 256,
        num_workers: int = 0,
        seed: int = 0,
        progress: bool = False,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        if not callable(model):
            raise TypeError(f"model must be a module or a function, got {type(model).__name__}")
        self.labels = check_labels(labels)
        self.model, self.images = model, images
        self._check_images()
        _check_triplets_exist(self.labels)
        self.batch_size = check_integer("batch_size", batch_size, 1, _INT32_MAX)
        if batches_per_epoch is None:
            batches_per_epoch = max(1, len(self.labels) // self.batch_size)
        self.batches_per_epoch = check_integer("batches_per_epoch", batches_per_epoch, 1, _INT32_MAX)
        self.mined_share = _check_share(mined_share)
        self.neighbors = check_integer("neighbors", neighbors, 1, MAX_NEIGHBORS)
        self.per_anchor = check_integer("per_anchor", per_anchor, 1, _INT32_MAX)
        if isinstance(kappa, Real) and not isinstance(kappa, bool):
            if not 0 <= kappa <= sys.float_info.max:
                raise ValueError(f"kappa must be a number from 0, an AdaptiveKappa or None, got {kappa}")
        elif kappa is not None and not isinstance(kappa, AdaptiveKappa):
            raise TypeError(f"kappa must be a number, an AdaptiveKappa or None, got {type(kappa).__name__}")
        self.kappa = AdaptiveKappa() if kappa is None else kappa
        check_choice("method", method, METHODS)
        self.method = method
        if fanng is not None and method != "fanng":
            raise ValueError(f"fanng must be None with method={method!r}: only 'fanng' has a graph, got {fanng!r}")
        if fanng is not None and not isinstance(fanng, Mapping):
            raise TypeError(f"fanng must be a mapping of options or None, got {type(fanng).__name__}")
        self.seed = check_integer("seed", seed, 0, 2**62)
        self.fanng = {"seed": self.seed} | dict(fanng or {})
        if unknown := set(self.fanng) - _GRAPH_OPTIONS:
            raise ValueError(
                f"fanng must have keys from {', '.join(sorted(_GRAPH_OPTIONS))}, got {', '.join(sorted(unknown))}"
            )
        self.embed_chunk = check_integer("embed_chunk", embed_chunk, 1, _INT32_MAX)
        self.num_workers = check_integer("num_workers", num_workers, 0, _INT32_MAX)
        self.progress = check_flag("progress", progress)
        self.num_replicas, self.rank = check_ranks(num_replicas, rank)
        self.history: list[EpochRecord] = []
        self._graph: Index | None = None

    def epoch(self) -> MinedEpoch:
        """Mine the next epoch's triplets with the current model.

        Returns:
            The epoch. Use it in a ``with`` statement. A clean exit records the epoch and updates the controller with
            its error. After an error or Ctrl-C the miner is unchanged, and the next call begins the same epoch.

        Raises:
            FloatingPointError: An embedding is not finite; the message names the image.
            Exception: What ``model`` or ``images`` raise.
        """
        start = time.perf_counter()
        self._check_images()  # the attribute may have been replaced
        number = len(self.history) + 1
        kappa = self.kappa.kappa if isinstance(self.kappa, AdaptiveKappa) else float(self.kappa)
        if self.mined_share == 0:
            kappa = None
        # The stride keeps the epochs of different small seeds distinct.
        generator = torch.Generator("cpu").manual_seed(self.seed + 1_000_003 * number)
        mined = torch.empty(0, 3, dtype=torch.int64, device="cpu")
        method = graph = None
        times = [time.perf_counter()]
        if kappa is not None:
            embeddings = self._embed()
            times.append(time.perf_counter())
            lists = neighbor_lists(
                embeddings,
                self.neighbors,
                method=self.method,
                previous=self._graph,
                fanng=self.fanng,
                progress=self.progress,
            )
            method, graph = lists.method, lists.graph
            times.append(time.perf_counter())
            found = smart_triplets(
                lists.index, lists.sq_dist, self.labels, kappa, per_anchor=self.per_anchor, generator=generator
            )
            mined = found.triplets[found.mined]
        else:
            times *= 3
        batches = mixed_batches(
            self.labels,
            mined,
            batches=self.batches_per_epoch,
            batch_size=self.batch_size,
            mined_share=self.mined_share,
            generator=generator,
        )
        times.append(time.perf_counter())
        measured = {
            "epoch": number,
            "kappa": kappa,
            "mined_share": sum(int(batch.mined.sum()) for batch in batches) / (len(batches) * self.batch_size),
            "method": method,
            "embedding_seconds": times[1] - times[0],
            "list_seconds": times[2] - times[1],
            "triplet_seconds": times[3] - times[2],
        }
        return MinedEpoch(self._end, batches, graph, measured, start, (self.num_replicas, self.rank))

    def resumed_epoch(self, state: Mapping[str, Any]) -> MinedEpoch:
        """The epoch in progress when :meth:`MinedEpoch.state_dict` was taken, with the same batches.

        First load the miner's state of the same moment. The epoch's graph is not saved, so with
        ``fanng={"init": "last"}`` the next graph is built without a warm start.

        Raises:
            TypeError: An entry has the wrong type or dtype.
            ValueError: ``state`` is not such a state, or belongs to another epoch than the next one.
        """
        check_epoch(state, len(self.labels))
        number = state["measured"]["epoch"]
        if number != len(self.history) + 1:
            raise ValueError(f"state must be of epoch {len(self.history) + 1}, the next one, got epoch {number}")
        batches = [TripletBatch(*batch) for batch in state["batches"]]
        start, ranks = time.perf_counter() - state["seconds"], (self.num_replicas, self.rank)
        epoch = MinedEpoch(self._end, batches, None, dict(state["measured"]), start, ranks)
        epoch._observed, epoch._nonzero = state["observed"].clone(), state["nonzero"].clone()
        return epoch

    def _check_images(self) -> None:
        if (count := check_images(self.images)) != len(self.labels):
            raise ValueError(f"images must have N = {len(self.labels)} images, one per label, got {count}")

    def _embed(self) -> Tensor:
        return embed_all(
            self.model, self.images, chunk=self.embed_chunk, num_workers=self.num_workers, progress=self.progress
        )

    def _end(self, record: EpochRecord, graph: Index | None) -> None:
        """Record an ended epoch, and keep its graph."""
        if record.epoch != len(self.history) + 1:
            raise RuntimeError(f"epoch {record.epoch} has already ended, the next is epoch {len(self.history) + 1}")
        if isinstance(self.kappa, AdaptiveKappa):
            if math.isnan(record.error):
                raise RuntimeError(f"epoch {record.epoch} has no error: call observe(batch, losses) after each step")
            self.kappa.update(record.error)
        self._graph = graph
        self.history.append(record)

    def __iter__(self) -> Iterator[MinedEpoch]:
        raise TypeError("a SmartMiner is not iterable: iterate over the batches of `with miner.epoch() as epoch:`")

    def state_dict(self) -> dict[str, Any]:
        """The state needed to resume with the same model and settings: the history and the controller's state.

        During an epoch, this is the state before the epoch. It holds plain numbers and text only, so that
        ``torch.load(weights_only=True)`` and JSON accept it.
        """
        return {
            "images": len(self.labels),
            "seed": self.seed,
            "kappa": self.kappa.state_dict() if isinstance(self.kappa, AdaptiveKappa) else float(self.kappa),
            "history": [dataclasses.asdict(record) for record in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume after the last epoch of a saved run. The note on the class says when resuming is exact.

        Raises:
            TypeError: An entry has the wrong type.
            ValueError: ``state`` belongs to another number of images, another seed or another kind of kappa, or is not
                a miner's state. The miner is unchanged.
        """
        check_entries("state", state, ("images", "seed", "kappa", "history"))
        adaptive = isinstance(self.kappa, AdaptiveKappa)
        for name, expected in {"images": len(self.labels), "seed": self.seed}.items():
            if check_count(f"state['{name}']", state[name]) != expected:
                raise ValueError(f"state must be of a miner with {name} = {expected}, got {state[name]}")
        if isinstance(state["kappa"], Mapping) != adaptive:
            kind = "an adaptive" if adaptive else "a fixed"
            raise ValueError(f"state must be of a miner with {kind} kappa, got {state['kappa']!r}")
        history = [
            check_record(f"state['history'][{number}]", record, number + 1)
            for number, record in enumerate(check_list("state['history']", state["history"]))
        ]
        if isinstance(self.kappa, AdaptiveKappa):
            self.kappa._load("state['kappa']", state["kappa"])
        elif check_real("state['kappa']", state["kappa"]) != float(self.kappa):
            raise ValueError(f"state must be of a miner with kappa = {float(self.kappa)}, got {state['kappa']}")
        self.history, self._graph = history, None


def _check_share(share: Any) -> float:
    if not isinstance(share, Real) or isinstance(share, bool):
        raise TypeError(f"mined_share must be a number from 0 to 1, got {type(share).__name__}")
    if not 0 <= float(share) <= 1:
        raise ValueError(f"mined_share must be from 0 to 1, got {share!r}")
    return float(share)


def _check_triplets_exist(labels: Tensor) -> None:
    classes, sizes = labels.unique(return_counts=True)
    if len(classes) < 2 or sizes.max() < 2:
        raise ValueError(
            "labels must have at least two classes, one of them with at least two images, got "
            f"{len(labels)} images of {len(classes)} classes"
        )
