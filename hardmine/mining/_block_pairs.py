"""The pairs of blocks of a whole set: which are missing, and the lists that they give."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hardmine._extras import require
from hardmine._library import load
from hardmine.mining._list_files import ListFolder, Lists
from hardmine.mining._row_source import RowSource, changed_rows, digest_of
from hardmine.ops._arguments import SIMILARITIES

SAVE_SECONDS = 60.0
"""Lists in progress are saved after this time, or after 50 times as long as the last saving took."""
_SAVE_RATIO = 50
_LONG_WORK = 2**36  # pairs of rows times depth, about a second: more get a progress bar
_MERGE_ROWS = 65536  # rows whose lists are merged at a time


class Pair(NamedTuple):
    """A block of rows, and a block of rows or of refs that it is compared with; without refs, row <= column."""

    row: int
    column: int


class BlockPairs:
    """Compares pairs of blocks, and keeps the lists that are in progress.

    Args:
        rows: The rows that get lists.
        refs: The gallery; None: the rows.
        ids: The ids of rows and refs, or None.
        k: Length of the lists.
        similarity: The name of the similarity.
        block_rows: Rows per block.
        digests: The digests of the blocks of rows and refs, which must not change.
        files: The folder.
        slot: The number of this rank, which has files of its own.
        memory: Bytes for lists in progress beyond those of one pair.
    """

    def __init__(
        self,
        rows: RowSource,
        refs: RowSource | None,
        ids: tuple[Tensor | None, Tensor | None],
        *,
        k: int,
        similarity: str,
        block_rows: int,
        digests: tuple[Sequence[str], Sequence[str] | None],
        files: ListFolder,
        slot: int,
        memory: int,
    ) -> None:
        load()
        self._rows, self._refs, self._ids = rows, refs, ids
        self._k, self._similarity, self._step = k, similarity, block_rows
        self._digests, self._files, self._slot = digests, files, slot
        self._dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
        self._columns = len(digests[0] if digests[1] is None else digests[1])
        block_bytes = min(block_rows, rows.count) * k * (self._dtype.itemsize + 8)
        self._capacity = 4 + max(memory, 0) // max(block_bytes, 1)
        self._lists: OrderedDict[int, Lists] = OrderedDict()  # those in memory, the least recently used first
        self._writes: list[Future[None]] = []

    def total_weight(self) -> float:
        """The work of all pairs."""
        return sum(map(self.weight, self._all_pairs()))

    def weight(self, pair: Pair) -> float:
        """Pairs of rows to compare."""
        first, last = self._range(pair.row, self._rows)
        other_first, other_last = self._range(pair.column, self._refs or self._rows)
        half = 0.5 if self._refs is None and pair.row == pair.column else 1.0
        return (last - first) * (other_last - other_first) * half

    def missing(self) -> list[Pair]:
        """The pairs that the files of the folder do not hold yet, row by row."""
        everything = set(range(self._columns))
        covered = [
            everything if self._files.is_finished(block) else self._files.covered(block)
            for block in range(self._files.blocks)
        ]
        return [
            pair
            for pair in self._all_pairs()
            if pair.column not in covered[pair.row] or (self._refs is None and pair.row not in covered[pair.column])
        ]

    def run(self, pairs: Sequence[Pair], progress: bool | None, done_before: float) -> None:
        """Compares pairs. Whatever ends it, lists in progress are saved if the disk allows."""
        with ThreadPoolExecutor(1, "all_knn") as files, self._bar(pairs, progress, done_before) as bar:
            self._thread = files
            saved, pause = time.monotonic(), SAVE_SECONDS
            try:
                row, rows = -1, torch.empty(0, device="cpu")
                ahead = self._prefetch(pairs[0]) if pairs else None
                for position, pair in enumerate(pairs):
                    if pair.row != row:
                        row, rows = pair.row, self._read(self._rows, pair.row, self._digests[0])
                    assert ahead is not None
                    others, loaded = ahead.result()
                    self._lists = OrderedDict({**loaded, **self._lists})
                    following = pairs[position + 1] if position + 1 < len(pairs) else None
                    ahead = None if following is None else self._prefetch(following)
                    self._compare(pair, rows, others)
                    self._trim(pair, following)
                    if time.monotonic() - saved >= pause:
                        started = time.monotonic()
                        self._save_all()
                        saved = time.monotonic()
                        pause = max(SAVE_SECONDS, _SAVE_RATIO * (saved - started))
                    if bar is not None:
                        bar.update(self.weight(pair))
                self._save_all()
            except OSError:
                raise  # most likely the disk: what is saved stays
            except BaseException:
                with suppress(OSError):
                    self._save_all()
                raise

    def finish(self, blocks: Iterable[int]) -> None:
        """Writes the shards of blocks, from the lists of all ranks."""
        for block in blocks:
            if self._files.is_finished(block):
                continue
            found = [self._files.load(path) for path in self._files.slots(block)]
            covered = set().union(*(lists.covered for lists in found))
            if covered != set(range(self._columns)):
                raise RuntimeError(
                    f"the lists of block {block} in {self._files.path} lack candidates: call all_knn again"
                )
            key, number = found[0].key, found[0].number
            for lists in found[1:]:
                key, number = merged((key, number), (lists.key, lists.number))
            self._files.finish(block, similarity_of(key, self._similarity), number)

    def _all_pairs(self) -> list[Pair]:
        return [
            Pair(row, column)
            for row in range(self._files.blocks)
            for column in range(row if self._refs is None else 0, self._columns)
        ]

    def _range(self, block: int, source: RowSource) -> tuple[int, int]:
        return block * self._step, min((block + 1) * self._step, source.count)

    def _read(self, source: RowSource, block: int, digests: Sequence[str]) -> Tensor:
        first, last = self._range(block, source)
        rows = source.read(first, last)
        if digest_of(rows) != digests[block]:
            raise changed_rows(source.name, first, last, self._files.path)
        return rows

    def _prefetch(self, pair: Pair) -> Future[tuple[Tensor | None, dict[int, Lists]]]:
        """Reads the second block of a pair in the background, and lists in progress that are not in memory.

        One thread reads and writes in order, so lists are read after they were written.
        """
        wanted = {pair.row} if self._refs is not None else {pair.row, pair.column}
        absent = [block for block in sorted(wanted) if block not in self._lists]
        paths = {block: self._files.progress_path(block, self._slot) for block in absent}

        def read() -> tuple[Tensor | None, dict[int, Lists]]:
            loaded = {block: self._files.load(path) for block, path in paths.items() if path.exists()}
            if self._refs is not None:
                assert self._digests[1] is not None
                return self._read(self._refs, pair.column, self._digests[1]), loaded
            same = pair.row == pair.column
            return None if same else self._read(self._rows, pair.column, self._digests[0]), loaded

        return self._thread.submit(read)

    def _compare(self, pair: Pair, rows: Tensor, others: Tensor | None) -> None:
        first, other_first = pair.row * self._step, pair.column * self._step
        lists = self._in_progress(pair.row)
        none = lists.key[:0], lists.number[:0]
        ids, ref_ids = self._ids
        own_ids = None if ids is None else ids[slice(*self._range(pair.row, self._rows))]
        code = SIMILARITIES.index(self._similarity)
        if self._refs is not None:
            column_ids = None if ref_ids is None else ref_ids[slice(*self._range(pair.column, self._refs))]
            torch.ops.hardmine.knn_block(
                rows, others, own_ids, column_ids, *none, lists.key, lists.number, False, code, 0, other_first
            )
        elif others is None:
            torch.ops.hardmine.knn_block(
                rows, None, own_ids, None, *none, lists.key, lists.number, True, code, 0, first
            )
        else:
            other_lists = self._in_progress(pair.column)
            if own_ids is not None and ids is not None:
                own_ids = torch.cat([own_ids, ids[slice(*self._range(pair.column, self._rows))]])
            torch.ops.hardmine.knn_block(
                torch.cat([rows, others]),
                None,
                own_ids,
                None,
                lists.key,
                lists.number,
                other_lists.key,
                other_lists.number,
                True,
                code,
                first,
                other_first,
            )
            other_lists.covered.add(pair.row)
            other_lists.is_saved = False
        lists.covered.add(pair.column)
        lists.is_saved = False

    def _in_progress(self, block: int) -> Lists:
        if block not in self._lists:
            first, last = self._range(block, self._rows)
            self._lists[block] = Lists.empty(last - first, self._k, self._dtype)
        self._lists.move_to_end(block)
        return self._lists[block]

    def _trim(self, done: Pair, following: Pair | None) -> None:
        """Writes finished blocks; and the lists that were used least recently, if there are too many."""
        for block in set(done) if self._refs is None else {done.row}:
            lists = self._lists[block]
            if len(lists.covered) == self._columns:
                del self._lists[block]
                if not self._files.is_finished(block):
                    self._write(lambda block=block, lists=lists: self._finish(block, lists))  # type: ignore[misc]
        kept = set(done) | set(following or ())
        while len(self._lists) > self._capacity:
            evicted = [block for block in self._lists if block not in kept][:1]
            if not evicted:
                break
            block = evicted[0]
            lists = self._lists.pop(block)
            if not lists.is_saved:
                self._write(lambda block=block, lists=lists: self._save(block, lists))  # type: ignore[misc]

    def _finish(self, block: int, lists: Lists) -> None:
        self._files.finish(block, similarity_of(lists.key, self._similarity), lists.number)

    def _save(self, block: int, lists: Lists) -> None:
        if not self._files.is_finished(block):
            self._files.save(self._files.progress_path(block, self._slot), lists)
        lists.is_saved = True

    def _write(self, work: Callable[[], None]) -> None:
        """Writes in the background, one file at a time, so that little memory waits for the disk."""
        self._wait_for_writes()
        self._writes.append(self._thread.submit(work))

    def _wait_for_writes(self) -> None:
        while self._writes:
            self._writes.pop().result()

    def _save_all(self) -> None:
        self._wait_for_writes()
        for block, lists in list(self._lists.items()):
            if not lists.is_saved:
                self._save(block, lists)

    def _bar(self, pairs: Sequence[Pair], progress: bool | None, done_before: float) -> Any:
        work = sum(map(self.weight, pairs))
        if not (work * self._rows.depth >= 5 * _LONG_WORK if progress is None else progress):
            return nullcontext()
        try:
            tqdm = require("tqdm")
        except ModuleNotFoundError:
            if progress:
                raise
            return nullcontext()
        total = work + done_before
        return tqdm.tqdm(total=total, initial=done_before, desc="neighbors", unit=" pairs", unit_scale=True)


def similarity_of(key: Tensor, similarity: str) -> Tensor:
    """The similarities of keys, as the compiled ops compute them."""
    if similarity == "euclidean":
        # Not torch.sqrt, which may differ from the correctly rounded root in the last bit.
        return torch.from_numpy(-require("numpy").sqrt((-key).numpy()))
    return key.clamp(-1, 1) if similarity == "cosine" else key


def merged(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The best of two lists per row, [rows, k] each: keys descending, equal keys by ascending number, none twice."""
    k, parts = first[0].shape[1], []
    for start in range(0, len(first[0]), _MERGE_ROWS):
        rows = slice(start, start + _MERGE_ROWS)
        key, number = (torch.cat([a[rows], b[rows]], 1) for a, b in zip(first, second, strict=True))
        key = key.masked_fill(number < 0, -torch.inf)
        number = number.masked_fill(number < 0, torch.iinfo(torch.int64).max)
        key, number = _sorted_by_key(key, number)
        twice = torch.zeros_like(number, dtype=torch.bool)
        twice[:, 1:] = number[:, 1:] == number[:, :-1]
        if twice.any():
            key = key.masked_fill(twice, -torch.inf)
            number = number.masked_fill(twice, torch.iinfo(torch.int64).max)
            key, number = _sorted_by_key(key, number)
        key, number = key[:, :k], number[:, :k]
        absent = number == torch.iinfo(torch.int64).max
        parts.append((key.masked_fill(absent, torch.nan), number.masked_fill(absent, -1)))
    return torch.cat([key for key, _ in parts]), torch.cat([number for _, number in parts])


def _sorted_by_key(key: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    order = number.argsort(dim=1)
    key, number = key.gather(1, order), number.gather(1, order)
    order = key.argsort(dim=1, descending=True, stable=True)
    return key.gather(1, order), number.gather(1, order)
