"""What a call of ``all_knn`` computes, and the memory and disk that it needs."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from hardmine._extras import require
from hardmine._version import __version__
from hardmine.mining._list_files import FORMAT, FORMAT_VERSION
from hardmine.mining._row_source import RowSource, check_row_numbers, check_same_space, digest_of
from hardmine.mining.lists import METHODS
from hardmine.ops._arguments import SIMILARITIES, check_choice
from hardmine.ops._numbers import check_integer
from hardmine.ops.knn import BLOCK_STEP, MAX_NEIGHBORS

DEFAULT_MEMORY = 2**30
_BLOCKS_PER_RANK = 2  # so that the ranks have about equal parts; more blocks cost more time
_MIN_BLOCK_ROWS = 43 * BLOCK_STEP  # smaller blocks cost more time than an even division among ranks saves
_GRAPH_BYTES = 2000  # of a graph per row, beside its vectors


class KnnPlan(NamedTuple):
    """What a run of :func:`hardmine.mining.all_knn` needs.

    Attributes:
        rows: Rows that get lists.
        block_rows: Rows per block, and per shard of the results.
        blocks: Blocks of rows.
        block_pairs: Pairs of blocks to compare, each once.
        memory_bytes: Bound on the memory of one rank, beside what the process has before.
        disk_bytes: Bound on the size of all files of the folder at any time.
        result_bytes: Size of the finished shards.
    """

    rows: int
    block_rows: int
    blocks: int
    block_pairs: int
    memory_bytes: int
    disk_bytes: int
    result_bytes: int


class KnnCall:
    """The checked arguments of a call of ``all_knn`` that say what to compute."""

    def __init__(
        self,
        rows: Any,
        k: Any,
        refs: Any,
        ids: Any,
        ref_ids: Any,
        similarity: Any,
        method: Any,
        fanng: Any,
        block_rows: Any,
        memory: Any,
    ) -> None:
        require("numpy")
        require("safetensors")
        check_choice("method", method, METHODS)
        check_choice("similarity", similarity, SIMILARITIES)
        self.k = check_integer("k", k, 1, MAX_NEIGHBORS)
        self.memory = check_integer("memory", memory, 1)
        self.block_rows = None if block_rows is None else check_integer("block_rows", block_rows, BLOCK_STEP)
        if self.block_rows is not None and self.block_rows % BLOCK_STEP:
            raise ValueError(f"block_rows must be a multiple of {BLOCK_STEP}, got {self.block_rows}")
        self.rows = RowSource("rows", rows)
        self.refs = None if refs is None else RowSource("refs", refs)
        if self.refs is not None:
            check_same_space(self.rows, self.refs)
        others, what = (self.rows.count - 1, "other rows") if self.refs is None else (self.refs.count, "refs")
        if self.k > others:
            raise ValueError(f"k must be at most {max(others, 0)}, the number of {what}, got {self.k}")
        if self.refs is None and ref_ids is not None:
            raise ValueError(f"ref_ids must be None without refs, got {type(ref_ids).__name__}")
        if self.refs is not None and (ids is None) != (ref_ids is None):
            missing, given = ("ids", "ref_ids") if ids is None else ("ref_ids", "ids")
            raise ValueError(f"{missing} must be given together with {given}, got None")
        self.ids = None if ids is None else check_row_numbers("ids", ids, self.rows.count, "Q")
        self.ref_ids = None if ref_ids is None else check_row_numbers("ref_ids", ref_ids, self.refs.count, "M")  # type: ignore[union-attr]
        self.similarity, self.method, self.fanng = similarity, method, dict(fanng or {})
        if fanng is not None and method != "fanng":
            raise ValueError(f"fanng must be None with method={method!r}, got {fanng!r}")
        if method == "fanng":
            self._check_graph()

    def _check_graph(self) -> None:
        for name, value in (("refs", self.refs), ("ids", self.ids)):
            if value is not None:
                raise ValueError(f"{name} must be None with method='fanng'")
        if self.similarity != "cosine":
            raise ValueError(f"similarity must be 'cosine' with method='fanng', got {self.similarity!r}")

    @property
    def accumulate_dtype(self) -> torch.dtype:
        """The dtype of similarities."""
        return torch.float64 if self.rows.dtype == torch.float64 else torch.float32

    def plan(self, ranks: int, block_rows: int | None = None) -> KnnPlan:
        """The plan of a run with these blocks; None: those that fit the memory."""
        number = self.accumulate_dtype.itemsize
        stored, depth, k = self.rows.dtype.itemsize, self.rows.depth, self.k
        list_bytes = k * (number + 8)
        total = self.rows.count if self.refs is None else max(self.rows.count, self.refs.count)
        # Bytes per row of a block: the rows of the pair and of the next block, the pair in one matrix, converted, and
        # packed twice.
        per_row = depth * (3 * stored + 2 * stored + (0 if stored == number else 2 * number) + 4 * number)
        per_row += 2 * (k + min(max(k, 16), 256)) * 2 * number  # reservoirs
        per_row += 5 * list_bytes  # lists of the pair and of the next block, and a block on its way to the disk
        fixed = 0 if self.ids is None else 24 * total
        # One block of all rows: its rows, converted, packed twice, reservoirs, and lists while they are written.
        per_row_alone = depth * (2 * stored + (0 if stored == number else number) + 2 * number) + 3 * list_bytes
        per_row_alone += (k + min(max(k, 16), 256)) * 2 * number
        fits_alone = self.refs is None and ranks == 1 and per_row_alone * total + fixed <= self.memory
        block_rows = block_rows or self.block_rows
        if block_rows is None and fits_alone:
            block_rows = math.ceil(total / BLOCK_STEP) * BLOCK_STEP or BLOCK_STEP
        if block_rows is None:
            fitting = max((self.memory - fixed) // per_row // BLOCK_STEP * BLOCK_STEP, BLOCK_STEP)
            blocks = max(math.ceil(total / fitting), 1)
            if ranks > 1:
                blocks = max(blocks, min(_BLOCKS_PER_RANK * ranks, total // _MIN_BLOCK_ROWS))
            block_rows = math.ceil(math.ceil(total / blocks) / BLOCK_STEP) * BLOCK_STEP or BLOCK_STEP
        in_block = min(block_rows, total)
        blocks = math.ceil(self.rows.count / block_rows)
        ref_blocks = blocks if self.refs is None else math.ceil(self.refs.count / block_rows)
        memory = (per_row_alone if self.refs is None and blocks == 1 else per_row) * in_block + fixed
        if self.method == "fanng":
            memory = self.rows.count * (2 * 4 * depth + stored * depth + _GRAPH_BYTES + 2 * list_bytes)
        if memory > self.memory:
            raise ValueError(
                f"memory must be at least {memory:,} bytes for method={self.method!r}"
                + (f" and blocks of {block_rows} rows" if self.method == "exact" else "")
                + f", got {self.memory:,}"
            )
        result = self.rows.count * list_bytes
        progress = 0 if self.method == "fanng" or blocks * ref_blocks == 1 else ranks * result + in_block * list_bytes
        files = 4096 * (4 + blocks * (3 + ranks))
        pairs = blocks * ref_blocks if self.refs is not None else blocks * (blocks + 1) // 2
        return KnnPlan(
            self.rows.count,
            block_rows,
            blocks,
            pairs,
            memory,
            result + in_block * list_bytes + progress + files,
            result,
        )

    def manifest(self, plan: KnnPlan) -> dict[str, Any]:
        """What identifies a run, without the contents of the rows."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "library_version": __version__,
            "rows": self.rows.count,
            "depth": self.rows.depth,
            "dtype": str(self.rows.dtype).removeprefix("torch."),
            "refs": None if self.refs is None else self.refs.count,
            "k": self.k,
            "similarity": self.similarity,
            "method": self.method,
            "fanng": {name: repr(value) for name, value in sorted(self.fanng.items())},
            "ids": None if self.ids is None else digest_of(self.ids),
            "ref_ids": None if self.ref_ids is None else digest_of(self.ref_ids),
            "block_rows": plan.block_rows,
        }
