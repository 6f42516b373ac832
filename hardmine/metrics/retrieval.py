"""Ranking metrics without a limit of k: all follow from the ranks of each query's positives."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, overload

import torch
from torch import Tensor

from hardmine._hooks import mixes_dtypes
from hardmine.metrics._search import (
    CHUNK_WORK,
    LONG_WORK_CHUNKS,
    MIN_CHUNK_ROWS,
    all_finite,
    check_progress,
    progress_bar,
    without_ignored,
)
from hardmine.ops._arguments import SIMILARITIES, check_choice, check_ids, check_labeled_rows, with_row_numbers
from hardmine.ops._numbers import check_flag
from hardmine.types import Similarity

METRICS = ("map", "map_at_r", "r_precision", "mrr", "precision@K", "recall@K", "cmc@K")
MAX_RANK = 2**63 - 1
MAX_CHUNK_POSITIVES = 2**26  # a rank each, 8 bytes
MAX_REPEATED_SHARE = 1 / 16  # of all pairs, that parts compute more than once
MAX_SORTED_PAIRS = 2**24  # similarities that are sorted at once where no kernel counts ranks


# The overloads differ in the flag and the result: the layout shows only these side by side.
# fmt: off
@overload
def retrieval(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    ids: Tensor | None = None, ref_ids: Tensor | None = None, ignore_index: int | None = None,
    metrics: str | Iterable[str] = ..., similarity: Similarity = "cosine",
    per_query: Literal[False] = False, progress: bool | None = None,
) -> dict[str, float]: ...
@overload
def retrieval(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    ids: Tensor | None = None, ref_ids: Tensor | None = None, ignore_index: int | None = None,
    metrics: str | Iterable[str] = ..., similarity: Similarity = "cosine",
    per_query: Literal[True], progress: bool | None = None,
) -> dict[str, Tensor]: ...
# fmt: on
@mixes_dtypes
def retrieval(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
    metrics: str | Iterable[str] = ("map_at_r", "r_precision", "map", "mrr", "recall@1"),
    similarity: Similarity = "cosine",
    per_query: bool = False,
    progress: bool | None = None,
) -> dict[str, float] | dict[str, Tensor]:
    """mAP, MAP@R, R-precision, MRR, precision@K and Recall@K of a search through the whole gallery.

    A query's candidates are ranked by similarity, ties by the lowest index. Its positives, the R candidates of its
    class, have ranks r_1 < ... < r_R, from 1. The metrics of a query are:

    | name | value |
    |---|---|
    | ``map`` | average precision: the mean over all j of j / r_j |
    | ``map_at_r`` | the sum of j / r_j over the positives with r_j <= R, divided by R |
    | ``r_precision`` | the share of positives among the first R candidates |
    | ``mrr`` | 1 / r_1 |
    | ``precision@K`` | the share of positives among K candidates, where missing candidates count as negatives |
    | ``recall@K``, ``cmc@K`` | 1 if r_1 <= K, else 0: Recall@K of metric learning, CMC of re-identification |

    Replaces, with normalized rows and each query itself excluded, a sort of all similarities::

        order = (queries @ gallery.T).argsort(dim=1, descending=True, stable=True)
        match = ref_labels[order] == labels[:, None]

    Args:
        embeddings: Queries [B, D], float32, float64, float16 or bfloat16.
        labels: Classes of the queries [B], any integer dtype.
        ref_embeddings: Gallery [M, D]. None: the other queries.
        ref_labels: Classes of the gallery [M].
        ids: Ids of the queries [B], any integer dtype; a negative id stands for none. Gallery samples with the query's
            id, such as its own copy or images of the same sequence, are no candidates. With a gallery, only this
            excludes a query's own copy.
        ref_ids: Ids of the gallery [M]; given together with ``ids`` if there is a gallery.
        ignore_index: Rows with this label are left out, of the queries and of the gallery.
        metrics: One or several names of the table, with integers K >= 1 of any size.
        similarity: ``"cosine"``, ``"dot"`` or ``"euclidean"``.
        per_query: Return the values of every query instead of their means.
        progress: Show a progress bar on stderr, which needs tqdm: True, False or None. None shows it if the work is
            long and tqdm is installed.

    Returns:
        The mean over the queries per metric, in the given order, or with ``per_query`` float64 [B] without the queries
        that are left out. NaN if an embedding is not finite, so that divergence is not hidden.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: ``metrics`` is empty or has an unknown name, no query has a positive in the gallery, or an argument
            has the wrong shape, device or value.
        ModuleNotFoundError: ``progress`` is True and tqdm is not installed.

    Note:
        A query without positives counts as 0, as it does in :func:`recall_at_k`. pytorch-metric-learning leaves such
        queries out; with ``per_query`` they can be. Each similarity is computed once. Memory is O((B + M) D) and O(1)
        per positive; long work is done in chunks of queries. On a GPU, rows of similarities are sorted, with memory
        for 2^24 pairs or one query. The result does not depend on the number of threads.

        In re-identification a gallery image of the query's identity and camera is no candidate: make ids of both, such
        as ``identity * cameras + camera``. Market-1501 ignores junk detections, whose identity is -1
        (``ignore_index=-1``), keeps distractors as negatives, and leaves out queries without a match (``mrr`` 0).

    Reference:
        MAP@R and R-precision: Musgrave et al., "A Metric Learning Reality Check", ECCV 2020, section 3.2. CMC and mAP
        of re-identification: Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015.

    Example:
        >>> import torch
        >>> from hardmine import metrics
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> metrics.retrieval(embeddings, labels, metrics=("map", "map_at_r", "recall@2"))
        {'map': 0.75, 'map_at_r': 0.5, 'recall@2': 1.0}
    """
    names = _check_metrics(metrics)
    check_choice("similarity", similarity, SIMILARITIES)
    check_flag("per_query", per_query)
    check_progress(progress)
    with torch.no_grad():
        embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids = without_ignored(
            ignore_index, embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
        )
        labels, ref_labels = check_labeled_rows(embeddings, labels, ref_embeddings, ref_labels)
        ids, ref_ids = check_ids(ids, embeddings, ref_ids, ref_embeddings)
        values = {name: torch.zeros(len(labels), dtype=torch.float64, device=labels.device) for name in names}
        if not all_finite(embeddings, ref_embeddings):
            for each in values.values():
                each.fill_(float("nan"))
        else:
            kind, any_positive = SIMILARITIES.index(similarity), False
            chunks = _ranks(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids, kind, progress)
            for queries, first, rank in chunks:
                any_positive |= len(rank) > 0
                for name, each in values.items():
                    each[queries] = _metric(name, first, rank)
            if not any_positive:
                raise ValueError(
                    f"labels must give at least one query a positive in the gallery, got none for {len(labels)} queries"
                )
    return values if per_query else {name: each.mean().item() for name, each in values.items()}


def _check_metrics(metrics: Any) -> tuple[str, ...]:
    """``metrics`` is one or several names of :data:`METRICS`, with a number for K."""
    names = (metrics,) if isinstance(metrics, str) else tuple(metrics) if isinstance(metrics, Iterable) else metrics
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"metrics must be a name or several names, got {metrics!r}")
    if not names:
        raise ValueError("metrics must have at least one name, got none")
    for name in names:
        if re.sub(r"@[1-9][0-9]*$", "@K", name, flags=re.ASCII) not in METRICS or name.endswith("@K"):
            raise ValueError(f"metrics must be among {', '.join(METRICS)} with an integer K >= 1, got {name!r}")
    return names


def _metric(name: str, first: Tensor, rank: Tensor) -> Tensor:
    """A metric of the queries whose positives have the ranks ``rank[first[q] : first[q + 1]]``: float64 [Q]."""
    count = first.diff()
    query = torch.repeat_interleave(torch.arange(len(count), device=rank.device), count)
    kind, _, size = name.partition("@")

    def total(values: Tensor) -> Tensor:
        """The sum over the positives of each query."""
        sums = torch.zeros(len(count) + 1, dtype=torch.float64, device=rank.device)
        return sums[:-1].index_add_(0, query, values.double())

    if kind in ("mrr", "recall", "cmc"):
        best = rank[first[:-1][count > 0]]
        values = torch.zeros(len(count), dtype=torch.float64, device=rank.device)
        values[count > 0] = 1 / best.double() if kind == "mrr" else (best <= min(int(size), MAX_RANK)).double()
        return values
    if kind == "precision":
        return total(rank <= min(int(size), MAX_RANK)) / float(size)
    position = torch.arange(len(rank), device=rank.device) - first[query] + 1
    counts = rank <= count[query] if name in ("map_at_r", "r_precision") else torch.ones_like(rank)
    return total(counts if name == "r_precision" else counts * position / rank.double()) / count.clamp_min(1)


def _ranks(
    embeddings: Tensor,
    labels: Tensor,
    refs: Tensor | None,
    ref_labels: Tensor | None,
    ids: Tensor | None,
    ref_ids: Tensor | None,
    similarity: int,
    progress: bool | None,
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yields chunks of queries, with the first of their ranks [Q + 1] and the ranks of their positives."""
    count, depth = embeddings.shape
    gallery_labels = labels if ref_labels is None else ref_labels
    _, label = torch.cat([labels, gallery_labels]).unique(return_inverse=True)
    class_size = label[count:].bincount(minlength=int(label.max()) + 1 if len(label) else 0)
    positives = class_size[label[:count]].cumsum(0)
    rows = max(MIN_CHUNK_ROWS, CHUNK_WORK // max(len(gallery_labels) * depth, 1))
    starts = _chunk_starts(positives, rows)
    long = len(starts) > LONG_WORK_CHUNKS
    if refs is None and len(starts) > 2:  # chunks would compute each pair twice, for each of its rows
        parts = len(starts) // 2
        total = int(positives[-1])
        # Every part computes the pairs of equal labels anew.
        if embeddings.is_cpu and total <= MAX_CHUNK_POSITIVES and total * parts <= MAX_REPEATED_SHARE * count * count:
            with progress_bar(count, progress, "retrieval", "query", long=long) as bar:
                yield slice(0, count), *_ranks_in_parts(embeddings, labels, ids, similarity, parts, bar)
            return
        refs, ref_labels = embeddings, labels
        ids = ref_ids = _own_ids(ids, embeddings)
    find = _finder(embeddings)
    with progress_bar(count, progress, "retrieval", "query", long=long) as bar:
        for start, stop in itertools.pairwise(starts):
            queries = slice(start, stop)
            chunk_ids = None if ids is None else ids[queries]
            first, rank = find(embeddings[queries], labels[queries], refs, ref_labels, chunk_ids, ref_ids, similarity)
            yield queries, first, rank
            if bar is not None:
                bar.update(stop - start)


def _ranks_in_parts(
    embeddings: Tensor, labels: Tensor, ids: Tensor | None, similarity: int, parts: int, bar: Any
) -> tuple[Tensor, Tensor]:
    """The ranks of all queries among each other, from parts of the pairs, each of which is computed once."""
    count = len(embeddings)
    first, rank = labels, labels
    for part in range(parts):
        first, found = torch.ops.hardmine.positive_ranks(
            embeddings, labels, None, None, ids, None, similarity, part, parts
        )
        rank = found if part == 0 else rank.add_(found)
        if bar is not None:
            bar.update(count * (part + 1) // parts - count * part // parts)
    without_negatives = torch.arange(1, len(rank) + 1, device=rank.device) - first[:-1].repeat_interleave(first.diff())
    return first, rank.sub_(without_negatives, alpha=parts - 1)


def _finder(embeddings: Tensor) -> Callable[..., tuple[Tensor, Tensor]]:
    """What finds ranks on the device of the embeddings."""
    return _counted_ranks if embeddings.is_cpu else _sorted_ranks


def _counted_ranks(*inputs: Any) -> tuple[Tensor, Tensor]:
    return torch.ops.hardmine.positive_ranks(*inputs, 0, 1)


def _chunk_starts(positives: Tensor, rows: int) -> list[int]:
    """Where chunks of at most ``rows`` queries and about MAX_CHUNK_POSITIVES positives start, and the last one's end.

    ``positives``: the number of positives of each query and those before it, [B].
    """
    starts = [0]
    while starts[-1] < len(positives):
        before = positives[starts[-1] - 1].item() if starts[-1] else 0
        limit = int(torch.searchsorted(positives, before + MAX_CHUNK_POSITIVES, right=True))
        starts.append(min(max(limit, starts[-1] + 1), starts[-1] + rows, len(positives)))
    return starts


def _own_ids(ids: Tensor | None, queries: Tensor) -> Tensor:
    """Ids that exclude the same pairs, and every query itself."""
    number = torch.arange(len(queries), device=queries.device)
    return number if ids is None else with_row_numbers(ids, number)


def _sorted_ranks(
    queries: Tensor,
    labels: Tensor,
    refs: Tensor | None,
    ref_labels: Tensor | None,
    ids: Tensor | None,
    ref_ids: Tensor | None,
    similarity: int,
) -> tuple[Tensor, Tensor]:
    """What ``torch.ops.hardmine.positive_ranks`` returns, by sorting rows of similarities."""
    if refs is None or ref_labels is None:
        refs, ref_labels = queries, labels
        ids = ref_ids = _own_ids(ids, queries)
    counts, ranks = [], []
    for chunk in torch.arange(len(queries), device=labels.device).split(max(1, MAX_SORTED_PAIRS // max(len(refs), 1))):
        s = _similarities(queries[chunk], refs, similarity)
        candidate = torch.ones_like(s, dtype=torch.bool)
        if ids is not None and ref_ids is not None:
            candidate = (ids[chunk, None] < 0) | (ids[chunk, None] != ref_ids)
        order = s.masked_fill(~candidate, -float("inf")).sort(dim=1, descending=True, stable=True).indices
        positive = ((labels[chunk, None] == ref_labels) & candidate).gather(1, order)
        counts.append(positive.sum(1))
        ranks.append(positive.nonzero()[:, 1] + 1)
    empty = torch.zeros(1, dtype=torch.int64, device=labels.device)
    return torch.cat([empty, *counts]).cumsum(0), torch.cat([empty[:0], *ranks])


def _similarities(rows: Tensor, refs: Tensor, similarity: int) -> Tensor:
    """Similarities [Q, M] in float32 or, for float64 inputs, float64."""
    rows, refs = (x if x.dtype == torch.float64 else x.float() for x in (rows, refs))
    if SIMILARITIES[similarity] == "euclidean":
        return -torch.cdist(rows, refs, compute_mode="donot_use_mm_for_euclid_dist")
    if SIMILARITIES[similarity] == "cosine":
        rows, refs = (torch.nn.functional.normalize(x, eps=1e-12) for x in (rows, refs))
    return rows @ refs.T
