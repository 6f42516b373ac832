"""Gallery search in chunks of queries, which bounds memory and lets a progress bar move."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from hardmine import ops
from hardmine._extras import require
from hardmine.ops._arguments import SIMILARITIES, check_ids
from hardmine.ops._fakes import accumulate_dtype
from hardmine.ops._ignored import drop_ignored
from hardmine.ops._numbers import check_flag
from hardmine.ops.knn import BLOCK_STEP, MAX_NEIGHBORS
from hardmine.types import Neighbors

# Pairs of rows times depth per call of knn: about a second, after which the progress bar moves.
CHUNK_WORK = 2**36
LONG_WORK_CHUNKS = 5
MIN_CHUNK_ROWS = 256
MAX_LISTED = 2**24  # neighbors of all rows at once
_COSINE = SIMILARITIES.index("cosine")


def neighbors(
    embeddings: Tensor,
    ref_embeddings: Tensor | None,
    k: int,
    progress: bool | None,
    title: str,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
) -> Iterator[tuple[slice, Neighbors]]:
    """Yields chunks of queries with their k nearest gallery rows; missing neighbors have index -1."""
    count, depth = embeddings.shape
    gallery = embeddings if ref_embeddings is None else ref_embeddings
    rows = max(MIN_CHUNK_ROWS, CHUNK_WORK // max(len(gallery) * depth, 1))
    search_self = ref_embeddings is None
    # Without a gallery, one call visits each pair once. Chunks need k + 1 neighbors, which may exceed knn's limit.
    if search_self and (rows >= count or k == MAX_NEIGHBORS):
        rows = count
    starts = range(0, count, rows)
    if search_self and len(starts) > 1 and embeddings.is_cpu and count * k <= MAX_LISTED:
        with progress_bar(count, progress, title, "query", long=len(starts) >= LONG_WORK_CHUNKS) as bar:
            similarity, index = _neighbors_in_blocks(embeddings.detach(), k, ids, bar)
        for queries in (slice(start, min(start + rows, count)) for start in starts):
            yield queries, Neighbors(similarity[queries], index[queries])
        return
    with progress_bar(count, progress, title, "query", long=len(starts) >= LONG_WORK_CHUNKS) as bar:
        for start in starts:
            queries = slice(start, min(start + rows, count))
            query_ids = None if ids is None else ids[queries]
            if search_self and rows == count:
                yield queries, ops.knn(embeddings, k=k, ids=ids)
            elif search_self:
                found = ops.knn(embeddings[queries], embeddings, k=k + 1, ids=query_ids, ref_ids=ids)
                yield queries, _drop_self(found, start)
            else:
                yield queries, ops.knn(embeddings[queries], ref_embeddings, k=k, ids=query_ids, ref_ids=ref_ids)
            if bar is not None:
                bar.update(queries.stop - start)


def _neighbors_in_blocks(embeddings: Tensor, k: int, ids: Tensor | None, bar: Any) -> Neighbors:
    """``ops.knn(embeddings, k=k, ids=ids)``, from pairs of blocks of rows. Each pair of rows is computed once."""
    count, depth = embeddings.shape
    step = max(math.isqrt(4 * CHUNK_WORK // depth) // BLOCK_STEP, 1) * BLOCK_STEP  # larger: rows are packed less often
    embeddings, (ids, _) = embeddings.contiguous(), check_ids(ids, embeddings, None, None)
    key = embeddings.new_full((count, k), math.nan, dtype=accumulate_dtype(embeddings.dtype))
    number = embeddings.new_full((count, k), -1, dtype=torch.int64)
    done = 0
    for other in range(0, count, step):
        second = slice(other, other + step)
        for first in (slice(start, start + step) for start in range(0, other, step)):
            rows, row_ids = torch.cat([embeddings[first], embeddings[second]]), None
            if ids is not None:
                row_ids = torch.cat([ids[first], ids[second]])
            lists = key[first], number[first], key[second], number[second]
            torch.ops.hardmine.knn_block(rows, None, row_ids, None, *lists, True, _COSINE, first.start, other)
        row_ids = None if ids is None else ids[second]
        lists = key[:0], number[:0], key[second], number[second]
        torch.ops.hardmine.knn_block(embeddings[second], None, row_ids, None, *lists, True, _COSINE, 0, other)
        if bar is not None:  # as far as the pairs are: quadratic in the rows
            progress = round(count * (min(other + step, count) / count) ** 2)
            bar.update(progress - done)
            done = progress
    return Neighbors(key.clamp_(-1, 1), number)


def _drop_self(found: Neighbors, start: int) -> Neighbors:
    """The k nearest others [Q, k] of queries start, start + 1, ... from the k + 1 nearest rows, queries not excluded.

    Neighbors have a total order (similarity, then index). Removing a row from the gallery only moves up the rows behind
    it. So the first k others are among the first k + 1 rows. If the query is not among them, the last row is dropped:
    its id excludes the query, or k + 1 duplicates with lower indices precede it.
    """
    similarity, index = found
    query = torch.arange(start, start + len(index), device=index.device)[:, None]
    keep = index != query
    keep[:, -1] &= ~keep.all(1)
    return Neighbors(*(part[keep].reshape(len(index), -1) for part in (similarity, index)))


def without_ignored(
    ignore_index: int | None,
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """The arguments of a metric without the rows whose label is ``ignore_index``; all if it is None."""
    tensors = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
    if ignore_index is None:
        return tensors
    kept: Any = drop_ignored(ignore_index, *tensors).arguments.values()
    return tuple(kept)


def check_progress(progress: bool | None) -> None:
    """``progress`` is True, False or None. None shows a bar if the work is long."""
    if progress is not None:
        check_flag("progress", progress, "None, True or False")


def progress_bar(total: int, progress: bool | None, title: str, unit: str, *, long: bool) -> Any:
    """A context manager that yields a tqdm bar or None."""
    if not (long if progress is None else progress):
        return nullcontext()
    try:
        tqdm = require("tqdm")
    except ModuleNotFoundError:
        if progress:
            raise
        return nullcontext()
    return tqdm.tqdm(total=total, desc=title, unit=unit)


def all_finite(*matrices: Tensor | None) -> bool:
    """Whether all rows and their norms are finite, in the dtype that the ops compute in."""
    return all(bool(finite_rows(rows).all()) for rows in matrices if rows is not None)


def finite_rows(rows: Tensor) -> Tensor:
    """Whether each row and its norm are finite, in the dtype that the ops compute in: bool [B]."""
    rows = rows if rows.dtype == torch.float64 else rows.float()
    return rows.square().sum(1).isfinite()
