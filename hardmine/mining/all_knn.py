"""Neighbor lists of sets that fit neither memory nor one machine."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine.metrics._search import check_progress
from hardmine.mining._block_pairs import BlockPairs, Pair
from hardmine.mining._knn_call import DEFAULT_MEMORY, KnnCall, KnnPlan
from hardmine.mining._list_files import (
    MANIFEST,
    ListFolder,
    check_folder,
    check_space,
    describe_difference,
    read_json,
    sole_writer,
    write_json,
)
from hardmine.mining._row_source import RowSource, changed_rows, digest_of
from hardmine.mining.lists import neighbor_lists
from hardmine.mining.neighbor_shards import NeighborShards, check_format, map_shard
from hardmine.ops._groups import NUM_SIZES, agree, check_group
from hardmine.ops._numbers import check_integer
from hardmine.types import Similarity

if TYPE_CHECKING:
    import numpy as np

    Shard = Tensor | np.ndarray | str | os.PathLike[str]
    Rows = Shard | Sequence[Shard]

_OPTIONS = ("rows", "depth", "dtype", "refs", "k", "similarity", "method", "fanng", "ids", "ref_ids")


def plan_all_knn(
    rows: Rows,
    k: int = 10,
    *,
    refs: Rows | None = None,
    ids: Tensor | Sequence[int] | None = None,
    ref_ids: Tensor | Sequence[int] | None = None,
    similarity: Similarity = "cosine",
    method: Literal["exact", "fanng"] = "exact",
    block_rows: int | None = None,
    memory: int = DEFAULT_MEMORY,
    ranks: int = 1,
) -> KnnPlan:
    """The memory and disk that :func:`hardmine.mining.all_knn` with these arguments needs, without starting it.

    Args:
        rows: As for :func:`hardmine.mining.all_knn`, and so are the other arguments but ``ranks``.
        k: Neighbors per row.
        refs: The gallery, or None.
        ids: The rows' ids, or None.
        ref_ids: The refs' ids, or None.
        similarity: ``"cosine"``, ``"dot"`` or ``"euclidean"``.
        method: ``"exact"`` or ``"fanng"``.
        block_rows: Rows per block, or None.
        memory: Bytes that one rank may use.
        ranks: Number of ranks of the group.

    Returns:
        :class:`hardmine.mining.KnnPlan`.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value, or ``memory`` is too small.
        FileNotFoundError: A shard does not exist.

    Example:
        >>> import torch
        >>> from hardmine.mining import plan_all_knn
        >>> plan = plan_all_knn(torch.zeros(1000, 8), k=5, block_rows=480)
        >>> plan.blocks, plan.block_pairs, plan.result_bytes
        (3, 6, 60000)
    """
    call = KnnCall(rows, k, refs, ids, ref_ids, similarity, method, None, block_rows, memory)
    return call.plan(check_integer("ranks", ranks, 1))


def all_knn(
    rows: Rows,
    folder: str | os.PathLike[str],
    k: int = 10,
    *,
    refs: Rows | None = None,
    ids: Tensor | Sequence[int] | None = None,
    ref_ids: Tensor | Sequence[int] | None = None,
    similarity: Similarity = "cosine",
    method: Literal["exact", "fanng"] = "exact",
    fanng: Mapping[str, Any] | None = None,
    block_rows: int | None = None,
    memory: int = DEFAULT_MEMORY,
    group: ProcessGroup | None = None,
    progress: bool | None = None,
) -> NeighborShards:
    """The ``k`` nearest neighbors of every row of a set that need not fit memory, written to shards in a folder.

    Replaces :func:`hardmine.ops.knn` of the whole set, bit for bit, for any block size and number of ranks. Blocks of
    rows are compared in pairs, each pair once. A run that was killed goes on where it was: call again with the same
    arguments.

    Args:
        rows: The rows [N, D], float32, float64, float16 or bfloat16: a CPU tensor, a NumPy array, memory-mapped ones
            included, a path to a .npy file or to a .safetensors file with one tensor, or a sequence of these, whose
            rows follow each other.
        folder: Where the lists are written. It is created if its parent exists.
        k: Neighbors per row, 1 to 1024, and no more than there are candidates.
        refs: The gallery [M, D], given like ``rows``. None: the rows themselves, without each row's own copy.
        ids: The rows' ids, [N] integers; a negative id stands for none. Rows of equal ids are not each other's
            neighbors: labels as ids leave out all rows of the same class.
        ref_ids: The refs' ids, [M] integers, given together with ``ids`` if there are refs.
        similarity: ``"cosine"``, ``"dot"`` or ``"euclidean"``, as in :func:`hardmine.ops.knn`.
        method: ``"exact"``; or ``"fanng"``: a :class:`hardmine.fanng.Index`, for sets that fit memory, without refs,
            ids and ranks, by cosine similarity. It is not resumed in the middle.
        fanng: Options of :meth:`hardmine.fanng.Index.build`, and ``max_distance_computations``.
        block_rows: Rows per block and per shard, a multiple of 96. None: as many as ``memory`` allows; when a run is
            resumed, those of its first call.
        memory: Bytes that one rank may use beside the rows it is given in memory. More means fewer, larger blocks.
        group: A ``torch.distributed`` process group whose ranks share the pairs of blocks. All ranks must be given the
            same rows, and a folder on a disk that they share. None: this process alone.
        progress: Show a progress bar with an estimate of the remaining time on stderr, which needs tqdm; on rank 0
            only. None: only for long runs with method "exact", and only if tqdm is installed.

    Returns:
        :class:`hardmine.mining.NeighborShards`, the lists in the folder.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value; rows, ids or options differ from those of the run that the
            folder holds; or a file of the folder is damaged.
        FileNotFoundError: A shard of rows does not exist.
        OSError: The disk is too small, which is checked before the start, or a file cannot be read or written. What was
            complete is kept.
        RuntimeError: Another process writes to the folder.

    Note:
        Ties go to the lowest row number, and results have the dtypes of :func:`hardmine.ops.knn`. Similarities of NaN
        are never selected. :func:`hardmine.mining.plan_all_knn` says how much memory and disk a run needs.
        Results of a block are written when its last pair is done; lists in progress are saved every minute.

    Example:
        >>> import torch
        >>> from hardmine.mining import all_knn
        >>> lists = all_knn(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.2, 0.8]]), "neighbors", k=1)
        >>> lists[0:4].index
        tensor([[1],
                [0],
                [3],
                [2]])
    """
    group = None if group is None else check_group(group)
    ranks, rank = (1, 0) if group is None else (group.size(), group.rank())
    run: _Run | None = None
    failure: Exception | None = None
    try:
        call = KnnCall(rows, k, refs, ids, ref_ids, similarity, method, fanng, block_rows, memory)
        if group is not None and method == "fanng":
            raise ValueError("group must be None with method='fanng'")
        check_progress(progress)
        run = _Run(call, check_folder(folder), group, rank, ranks, progress)
    except Exception as error:
        failure = error
    facts = (
        {} if run is None else {f"{name} must be the same on every rank": value for name, value in run.facts().items()}
    )
    meet(group, facts, failure)
    assert run is not None
    return run.run()


def meet(group: ProcessGroup | None, facts: Mapping[str, Any], failure: Exception | None) -> None:
    """Waits for the other ranks. If one of them fails, or their facts differ, every rank raises the same error."""
    if group is not None:
        agree(group, {name: str(value) for name, value in facts.items()}, [0] * NUM_SIZES, failure)
    elif failure is not None:
        raise failure


class _Run:
    """A run of ``all_knn`` on one rank."""

    def __init__(
        self, call: KnnCall, folder: Path, group: ProcessGroup | None, rank: int, ranks: int, progress: bool | None
    ) -> None:
        self.call, self.path, self.group, self.rank, self.ranks, self.progress = (
            call,
            folder,
            group,
            rank,
            ranks,
            progress,
        )
        self.manifest: dict[str, Any] = {}
        call.plan(ranks)  # its errors come before any work

    def facts(self) -> dict[str, Any]:
        """What must be equal on every rank."""
        call = self.call
        return {**call.manifest(call.plan(self.ranks)), "folder": self.path.name}

    def run(self) -> NeighborShards:
        """Computes what is missing."""
        with ExitStack() as stack:
            self._together(lambda: self._prepare(stack) if self.rank == 0 else None)
            self._together(self._read_manifest)
            files = ListFolder(self.path, self.manifest["run"], self._blocks())
            if self.manifest["complete"] and all(files.is_finished(block) for block in range(files.blocks)):
                return self._opened()
            if self.call.method == "fanng":
                self._list_by_graph(files)
            else:
                self._list_exactly(files)
            self._together(lambda: self._complete() if self.rank == 0 else None)
            return self._opened()

    def _together(self, work: Any, facts: Mapping[str, Any] | None = None) -> Any:
        """What ``work`` returns, once all ranks have done theirs."""
        result, failure = None, None
        try:
            result = work()
        except Exception as error:
            failure = error
        meet(self.group, facts or {}, failure)
        return result

    def _blocks(self) -> int:
        return math.ceil(self.manifest["rows"] / self.manifest["block_rows"])

    def _prepare(self, stack: ExitStack) -> None:
        """Rank 0 locks the folder, and writes the manifest of a new run or compares that of an earlier one."""
        self.path.mkdir(exist_ok=True)
        stack.enter_context(sole_writer(self.path))
        file = self.path / MANIFEST
        earlier = read_json(file) if file.exists() else None
        if earlier is not None:
            check_format(earlier, self.path)
        wanted = self.call.block_rows or (None if earlier is None else earlier["block_rows"])
        plan = self.call.plan(self.ranks, wanted)
        manifest = self.call.manifest(plan)
        if earlier is not None:
            describe_difference(earlier, manifest, self.path, (*_OPTIONS, "block_rows"))
        files = ListFolder(self.path, "", plan.blocks)
        files.remove_drafts()
        check_space(self.path, plan.disk_bytes - files.used_bytes())
        digests = {
            f"{source.name}_digests": self._digests(source, plan.block_rows, earlier)
            for source in (self.call.rows, self.call.refs)
            if source is not None
        }
        if earlier is None:
            manifest.update(digests)
            manifest["run"] = hashlib.sha256(repr(sorted(manifest.items())).encode()).hexdigest()
            write_json(file, {**manifest, "complete": False})

    def _digests(self, source: RowSource, block_rows: int, earlier: dict[str, Any] | None) -> list[str]:
        """A digest per block of rows; those of an earlier run must be equal."""
        found = []
        for block, first in enumerate(range(0, source.count, block_rows)):
            last = min(first + block_rows, source.count)
            digest = digest_of(source.read(first, last))
            if earlier is not None and earlier[f"{source.name}_digests"][block] != digest:
                raise changed_rows(source.name, first, last, self.path)
            found.append(digest)
        return found

    def _read_manifest(self) -> None:
        file = self.path / MANIFEST
        if not file.exists():
            raise FileNotFoundError(f"folder must be on a disk that all ranks share, got {self.path}, which is not")
        self.manifest = read_json(file)

    def _opened(self) -> NeighborShards:
        shards = self._together(lambda: NeighborShards(self.path))
        assert isinstance(shards, NeighborShards)
        return shards

    def _check_shards(self, files: ListFolder) -> None:
        """The shards that an earlier run finished are whole."""
        number = str(self.call.accumulate_dtype).removeprefix("torch.")
        for block in range(files.blocks):
            count = min(self.manifest["block_rows"], self.manifest["rows"] - block * self.manifest["block_rows"])
            if files.is_finished(block):
                map_shard(files.shard("similarity", block), [count, self.call.k], number)
                map_shard(files.shard("index", block), [count, self.call.k], "int64")

    def _list_exactly(self, files: ListFolder) -> None:
        call = self.call
        pairs = BlockPairs(
            call.rows,
            call.refs,
            (call.ids, call.ref_ids),
            k=call.k,
            similarity=call.similarity,
            block_rows=self.manifest["block_rows"],
            digests=(self.manifest["rows_digests"], self.manifest.get("refs_digests")),
            files=files,
            slot=self.rank,
            memory=call.memory - call.plan(self.ranks, self.manifest["block_rows"]).memory_bytes,
        )

        def missing() -> list[Pair]:
            self._check_shards(files)
            return pairs.missing()

        todo = self._together(missing)
        # All ranks must have read the files before one of them writes.
        self._together(
            lambda: None, {"the files of the folder must look the same to every rank": digest_of_pairs(todo)}
        )
        own = part_of_pairs(todo, pairs.weight, self.rank, self.ranks)
        done_before = pairs.total_weight() - sum(map(pairs.weight, todo))
        progress = self.progress if self.rank == 0 else False
        self._together(lambda: pairs.run(own, progress, done_before / max(self.ranks, 1)))
        self._together(lambda: pairs.finish([b for b in range(files.blocks) if b % self.ranks == self.rank]))

    def _list_by_graph(self, files: ListFolder) -> None:
        call, block_rows = self.call, self.manifest["block_rows"]
        embeddings = call.rows.read(0, call.rows.count).float()
        found = neighbor_lists(
            embeddings, call.k, method="fanng", fanng={"init": "auto", **call.fanng}, progress=bool(self.progress)
        )
        for block, first in enumerate(range(0, call.rows.count, block_rows)):
            part = slice(first, first + block_rows)
            similarity = (1 - found.sq_dist[part] / 2).to(call.accumulate_dtype)
            files.finish(block, similarity, found.index[part])

    def _complete(self) -> None:
        """Removes what is left of the work, and marks the lists as complete."""
        files = ListFolder(self.path, self.manifest["run"], self._blocks())
        for block in range(files.blocks):
            for path in files.slots(block):  # of ranks that were late to learn that a block is done
                path.unlink()
        write_json(self.path / MANIFEST, {**self.manifest, "complete": True})


def digest_of_pairs(pairs: list[Pair]) -> str:
    """A digest of a list of pairs."""
    return hashlib.sha256(repr([tuple(pair) for pair in pairs]).encode()).hexdigest()


def part_of_pairs(pairs: list[Pair], weight: Any, rank: int, ranks: int) -> list[Pair]:
    """The pairs of one rank: consecutive ones of about equal weight.

    Ranks take pairs from squares of the matrix of pairs, so that each keeps lists of few blocks.
    """
    if ranks > 1:
        side = max(round(math.sqrt(len(pairs) / ranks)), 1)
        pairs = sorted(pairs, key=lambda pair: (pair.row // side, pair.column // side, pair))
    total, before, own = sum(map(weight, pairs)), 0.0, []
    for pair in pairs:
        middle = (before + weight(pair) / 2) / total
        if min(int(middle * ranks), ranks - 1) == rank:
            own.append(pair)
        before += weight(pair)
    return own
