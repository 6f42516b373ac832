"""Scores of an embedding: how well classes are found again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from hardmine import ops
from hardmine._extras import require
from hardmine.ops._arguments import check_labelled_rows

_MOST_K = 1024  # of hardmine.ops.knn

# The pairs of rows times their depth that one call of knn may take: a second or so, after which Ctrl-C is noticed.
_WORK_OF_A_CALL = 2**36
_CALLS_OF_LONG_WORK = 5
_LEAST_ROWS_OF_A_CALL = 256


def recall_at_1(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
) -> float:
    """Share of queries whose most similar gallery sample, by cosine similarity, has the query's class.

    The nearest sample has the query's class exactly when the easiest positive beats the hardest negative. So this is
    one `hardmine.ops.select_triplets`, which streams the similarities, instead of
    `(ref_labels[(queries @ gallery.T).argmax(1)] == labels).float().mean()`, which holds all of them.

    Args:
        embeddings: Queries [B, D], float32, float64, float16 or bfloat16. They need not have unit length.
        labels: Classes of the queries [B], any integer dtype.
        ref_embeddings: Gallery [M, D]. Without it the queries are the gallery, each query itself left out.
        ref_labels: Classes of the gallery [M].

    Returns:
        Recall@1 in [0, 1]; NaN if an embedding is not finite, so that divergence is not hidden.

    Raises:
        ValueError: No query has a positive in the gallery, so there is nothing to find, or, from `select_triplets`,
            an argument has the wrong shape, dtype or device.

    Note:
        A query without any positive in the gallery counts as a miss. Between equal similarities the lowest
        gallery index is the nearest. Memory is O((B + M) D).

    Reference:
        Recall@K with K = 1, as in SCT section 5.2 and EP section 5.1.
    """
    with torch.no_grad():
        selection = ops.select_triplets(
            embeddings, labels, ref_embeddings, ref_labels, positive="easiest", negative="hardest"
        )
        if not _all_finite(embeddings, ref_embeddings):
            return float("nan")
        has_positive = selection.positive_index >= 0
        _check_any_positive(has_positive)
        positive, negative = selection.positive_similarity, selection.negative_similarity
        tie_won = (positive == negative) & (selection.positive_index < selection.negative_index)
        found = (positive > negative) | tie_won | (selection.negative_index < 0)
        return (found & has_positive).double().mean().item()


def recall_at_k(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    k: int | Iterable[int] = (1, 2, 4, 8),
    progress: bool | None = None,
) -> dict[int, float]:
    """Share of queries that have a sample of their class among their K most similar gallery samples, for several K.

    One search for the largest K serves them all. Replaces, with normalised rows and each query itself left out::

        nearest = (queries @ gallery.T).topk(max(k)).indices
        match = ref_labels[nearest] == labels[:, None]
        {each: match[:, :each].any(1).float().mean() for each in k}

    Args:
        embeddings: Queries [B, D], float32, float64, float16 or bfloat16. They need not have unit length.
        labels: Classes of the queries [B], any integer dtype.
        ref_embeddings: Gallery [M, D]. Without it the queries are the gallery, each query itself left out.
        ref_labels: Classes of the gallery [M].
        k: The K, integers from 1 to 1024, or one. More than the gallery has is fine: they find all there is.
        progress: Show a progress bar on stderr, which needs tqdm: True or False, or None: if the work is long and
            tqdm is there.

    Returns:
        Recall@K in [0, 1] for every K, in the order given; NaN if an embedding is not finite, so that divergence is
        not hidden.

    Raises:
        TypeError: ``k`` or ``progress``, or, as in the ops, another argument has the wrong type.
        ValueError: ``k`` is empty or out of range, no query has a positive in the gallery, so that there is nothing
            to find, or, as in the ops, an argument has the wrong shape, dtype or device.
        ModuleNotFoundError: ``progress`` is True and tqdm is not installed.

    Note:
        A query without any positive in the gallery counts as a miss. Between equal similarities the lowest gallery
        index is the nearest. Long work goes through the queries in chunks, between which Ctrl-C interrupts it, so that
        memory is O((B + M) D + chunk x max(k)); without a gallery, K = 1024 takes all queries at once.

    Reference:
        Recall@K as in SCT section 5.2, EP section 5.1 and Smart Mining section 4.1.
    """
    sizes = _check_k(k)
    if progress is not None and not isinstance(progress, bool):
        raise TypeError(f"progress must be None, True or False, got {progress!r}")
    labels, ref_labels = check_labelled_rows(embeddings, labels, ref_embeddings, ref_labels)
    gallery_labels = labels if ref_labels is None else ref_labels
    with torch.no_grad():
        if not _all_finite(embeddings, ref_embeddings):
            return dict.fromkeys(sizes, float("nan"))
        classes, count = gallery_labels.unique(return_counts=True)
        _check_any_positive(torch.isin(labels, classes[count >= 2] if ref_labels is None else classes))
        hits = dict.fromkeys(sizes, 0)
        for queries, index in _neighbours(embeddings, ref_embeddings, max(sizes), progress):
            match = (gallery_labels[index] == labels[queries, None]) & (index >= 0)
            for size in sizes:
                hits[size] += int(match[:, :size].any(1).sum())
    return {size: hits[size] / len(labels) for size in sizes}


def _neighbours(
    embeddings: Tensor, ref_embeddings: Tensor | None, k: int, progress: bool | None
) -> Iterator[tuple[slice, Tensor]]:
    """Some queries and the indices of their k nearest gallery rows, -1 where there are no more; then the next."""
    count, depth = embeddings.shape
    gallery = embeddings if ref_embeddings is None else ref_embeddings
    rows = max(_LEAST_ROWS_OF_A_CALL, _WORK_OF_A_CALL // max(len(gallery) * depth, 1))
    alone = ref_embeddings is None
    # Among themselves, in one call: each pair is then visited once. Chunks would need k + 1, which knn may not have.
    if alone and (rows >= count or k == _MOST_K):
        rows = count
    starts = range(0, count, rows)
    with _progress_bar(count, progress, long=len(starts) >= _CALLS_OF_LONG_WORK) as bar:
        for start in starts:
            queries = slice(start, min(start + rows, count))
            if alone and rows == count:
                yield queries, ops.knn(embeddings, k=k).index
            elif alone:
                found = ops.knn(embeddings[queries], embeddings, k=k + 1).index
                yield queries, _without_self(found, start)
            else:
                yield queries, ops.knn(embeddings[queries], ref_embeddings, k=k).index
            if bar is not None:
                bar.update(queries.stop - start)


def _without_self(index: Tensor, start: int) -> Tensor:
    """The k nearest others [Q, k] of queries start, start + 1, ... from their k + 1 nearest, themselves included.

    Neighbours are in a total order (similarity, then index), so that leaving a row out of the gallery moves up those
    behind it and changes nothing else: the first k others are among the first k + 1 of all. Where the query itself
    is not (k + 1 copies of it, with lower indices, can be before it), these are all others, and the last is too many.
    """
    itself = torch.arange(start, start + len(index), device=index.device)[:, None]
    keep = index != itself
    keep[:, -1] &= ~keep.all(1)
    return index[keep].reshape(len(index), -1)


def _progress_bar(queries: int, progress: bool | None, *, long: bool) -> Any:
    """A tqdm bar, or None, as a context manager."""
    if progress is False or (progress is None and not long):
        return nullcontext()
    try:
        tqdm = require("tqdm")
    except ModuleNotFoundError:
        if progress:
            raise
        return nullcontext()
    return tqdm.tqdm(total=queries, desc="recall", unit="query")


def _check_k(k: Any) -> list[int]:
    """``k`` is an integer or some, from 1 to 1024; returned as a list."""
    sizes = list(k) if isinstance(k, Iterable) else [k]
    for size in sizes:
        if not isinstance(size, Integral) or isinstance(size, bool):
            raise TypeError(f"k must be an integer or several, got {size!r}")
    if not sizes or min(sizes) < 1 or max(sizes) > _MOST_K:
        raise ValueError(f"k must be one or more integers from 1 to {_MOST_K}, got {sizes}")
    return [int(size) for size in sizes]


def _all_finite(*given: Tensor | None) -> bool:
    """Whether all rows and their norms are finite, in the type that the ops compute in."""
    rows = [r if r.dtype == torch.float64 else r.float() for r in given if r is not None]
    return all(bool(r.square().sum(1).isfinite().all()) for r in rows)


def _check_any_positive(has_positive: Tensor) -> None:
    """``labels`` give at least one query something to find."""
    if not has_positive.any():
        raise ValueError(f"labels: none of the {len(has_positive)} queries has a gallery sample of its class")
