"""Recall@K: whether a query's nearest gallery samples include its class."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine import ops
from hardmine._hooks import mixes_dtypes
from hardmine.metrics import _search
from hardmine.metrics._search import all_finite, check_progress, neighbors, progress_bar, without_ignored
from hardmine.ops._arguments import check_ids, check_label_pair, check_labeled_rows, check_rows
from hardmine.ops._groups import agree_on_checks, all_counts, check_group
from hardmine.ops._losses_with_gradients import has_cpu_op
from hardmine.ops._ranks import check_tensors, own_part
from hardmine.ops.knn import MAX_NEIGHBORS
from hardmine.types import HotelRecall

MAX_COUNTED = 64  # candidates that torch.ops.hardmine.best_positive_ranks counts
CHUNKS_PER_PART, MAX_PARTS = 4, 16  # a part takes seconds: it packs all rows anew
_COUNTS = has_cpu_op("best_positive_ranks")


@mixes_dtypes
def recall_at_1(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
) -> float:
    """Share of queries whose most similar gallery sample, by cosine similarity, has the query's class.

    The nearest sample has the query's class exactly when the easiest positive beats the hardest negative. So one call
    of `hardmine.ops.select_triplets`, which streams the similarities, replaces
    `(ref_labels[(queries @ gallery.T).argmax(1)] == labels).float().mean()`, which holds all of them.

    Args:
        embeddings: Queries [B, D], float32, float64, float16 or bfloat16. Rows need not have unit length.
        labels: Classes of the queries [B], any integer dtype.
        ref_embeddings: Gallery [M, D]. None: the other queries.
        ref_labels: Classes of the gallery [M].
        ids: Ids of the queries [B], any integer dtype; a negative id stands for none. Gallery samples with the query's
            id are skipped. With a gallery, only this excludes a query's own copy.
        ref_ids: Ids of the gallery [M]; given together with ``ids`` if there is a gallery.
        ignore_index: Rows with this label are left out, of the queries and of the gallery.

    Returns:
        Recall@1 in [0, 1]; NaN if an embedding is not finite, so that divergence is not hidden.

    Raises:
        ValueError: No query has a positive in the gallery, or an argument has the wrong shape, dtype or device, as in
            `select_triplets`.

    Note:
        A query without any positive in the gallery counts as a miss. Between equal similarities the lowest
        gallery index is the nearest. Memory is O((B + M) D).

    Reference:
        Recall@K with K = 1, as in SCT section 6 and EP section 5.1.

    Example:
        >>> import torch
        >>> from hardmine import metrics
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> metrics.recall_at_1(embeddings, labels)
        0.5
    """
    with torch.no_grad():
        embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids = without_ignored(
            ignore_index, embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
        )
        selection = ops.select_triplets(
            embeddings, labels, ref_embeddings, ref_labels, ids=ids, ref_ids=ref_ids, negative="hardest"
        )
        if not all_finite(embeddings, ref_embeddings):
            return float("nan")
        has_positive = selection.positive_index >= 0
        _check_any_positive(has_positive)
        positive, negative = selection.positive_similarity, selection.negative_similarity
        tie_won = (positive == negative) & (selection.positive_index < selection.negative_index)
        found = (positive > negative) | tie_won | (selection.negative_index < 0)
        return (found & has_positive).double().mean().item()


@mixes_dtypes
def recall_at_k(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
    k: int | Iterable[int] = (1, 2, 4, 8),
    progress: bool | None = None,
    group: ProcessGroup | None = None,
) -> dict[int, float]:
    """Share of queries with a sample of their class among the K most similar gallery samples, for several K.

    One pass over all similarities serves all K. Replaces, with normalized rows and each query itself excluded::

        nearest = (queries @ gallery.T).topk(max(k)).indices
        match = ref_labels[nearest] == labels[:, None]
        {each: match[:, :each].any(1).float().mean() for each in k}

    Args:
        embeddings: Queries [B, D], float32, float64, float16 or bfloat16. Rows need not have unit length.
        labels: Classes of the queries [B], any integer dtype.
        ref_embeddings: Gallery [M, D]. None: the other queries.
        ref_labels: Classes of the gallery [M].
        ids: Ids of the queries [B], any integer dtype; a negative id stands for none. Gallery samples with the query's
            id are skipped. With a gallery, only this excludes a query's own copy.
        ref_ids: Ids of the gallery [M]; given together with ``ids`` if there is a gallery.
        ignore_index: Rows with this label are left out, of the queries and of the gallery.
        k: One K or several, integers from 1 to 1024. A K larger than the gallery finds the whole gallery.
        progress: Show a progress bar on stderr, which needs tqdm: True, False or None. None shows it if the work is
            long and tqdm is installed.
        group: A ``torch.distributed`` process group: each rank passes a part of the queries, and of the gallery if
            there is one. Every rank gets the result of one process with all of them. None: this process alone.

    Returns:
        Recall@K in [0, 1] per K, in the given order; NaN if an embedding is not finite, so that divergence is not
        hidden.

    Raises:
        TypeError: ``k``, ``progress`` or, as in the ops, another argument has the wrong type.
        ValueError: ``k`` is empty or out of range, or no query has a positive in the gallery. As in the ops, an
            argument has the wrong shape, dtype or device.
        ModuleNotFoundError: ``progress`` is True and tqdm is not installed.

    Note:
        A query without any positive in the gallery counts as a miss. Between equal similarities the lowest gallery
        index is the nearest. On a CPU and with K up to 64, the pass counts the samples above each query's nearest
        positive, with memory O((B + M) (D + max(k))); a progress bar makes it up to a tenth slower. Else long work is
        done in chunks of queries, with memory O((B + M) D + chunk x max(k)). Without a gallery, K = 1024 takes all
        queries at once.

    Reference:
        Recall@K as in SCT section 6, EP section 5.1 and Smart Mining section 4.1.

    Example:
        >>> import torch
        >>> from hardmine import metrics
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> metrics.recall_at_k(embeddings, labels, k=(1, 2))
        {1: 0.5, 2: 1.0}
    """
    with torch.no_grad():
        inputs = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
        if group is not None:
            group = check_group(group)
            kept: list[Any] = []
            agree_on_checks(group, lambda: kept.extend(without_ignored(ignore_index, *inputs)))
            return _recall_of_ranks(group, tuple(kept), k, progress, ignore_index)
        embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids = without_ignored(ignore_index, *inputs)
        sizes = _check_k(k)
        check_progress(progress)
        labels, ref_labels = check_labeled_rows(embeddings, labels, ref_embeddings, ref_labels)
        ids, ref_ids = check_ids(ids, embeddings, ref_ids, ref_embeddings)
        if not all_finite(embeddings, ref_embeddings):
            return dict.fromkeys(sizes, float("nan"))
        _check_any_positive(_has_positive(labels, ref_labels, ids, ref_ids))
        hits = _hits(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids, sizes, progress)
    return {size: hits[size] / len(labels) for size in sizes}


def _hits(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    ref_labels: Tensor | None,
    ids: Tensor | None,
    ref_ids: Tensor | None,
    sizes: list[int],
    progress: bool | None,
) -> dict[int, int]:
    """For each K, the number of queries that have a sample of their class among the first K."""
    if max(sizes) <= MAX_COUNTED and embeddings.is_cpu and _COUNTS:
        inputs = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
        better = _better_than_positives(inputs, max(sizes), progress)
        return {size: int((better < size).sum()) for size in sizes}
    hits = dict.fromkeys(sizes, 0)
    for queries, found in neighbors(embeddings, ref_embeddings, max(sizes), progress, "recall", ids, ref_ids):
        _add_hits(hits, labels[queries], labels if ref_labels is None else ref_labels, found.index)
    return hits


def _better_than_positives(inputs: tuple[Any, ...], limit: int, progress: bool | None) -> Tensor:
    """The number of candidates that are more similar to each query than its most similar positive, int64 [B].

    At least ``limit`` if these are as many, or there is no positive. A progress bar costs parts, which pack all rows.
    """
    embeddings, _, ref_embeddings, *_ = inputs
    count, depth = embeddings.shape
    work = count * depth * (count // 2 if ref_embeddings is None else len(ref_embeddings))
    chunks = work // _search.CHUNK_WORK
    with progress_bar(count, progress, "recall", "query", long=chunks >= _search.LONG_WORK_CHUNKS) as bar:
        parts = 1 if bar is None else min(max(1, chunks // CHUNKS_PER_PART), MAX_PARTS)
        better = embeddings.new_zeros(count, dtype=torch.int64)
        for part in range(parts):
            better += torch.ops.hardmine.best_positive_ranks(*inputs, limit, part, parts)
            if bar is not None:
                bar.update(count * (part + 1) // parts - count * part // parts)
    return better


def _recall_of_ranks(
    group: ProcessGroup, inputs: tuple[Any, ...], k: Any, progress: bool | None, ignore_index: int | None
) -> dict[int, float]:
    """Recall@K of all ranks: each searches the whole gallery for its own queries."""
    agree_on_checks(group, lambda: _check_k(k), lambda: check_progress(progress), lambda: check_tensors(inputs, group))
    sizes = _check_k(k)
    part, _ = own_part(group, "recall_at_k", {"k": str(sizes), "ignore_index": str(ignore_index)}, inputs)
    embeddings, labels, gallery, gallery_labels, ids, gallery_ids = part
    labels, gallery_labels = check_labeled_rows(embeddings, labels, gallery, gallery_labels)
    ids, gallery_ids = check_ids(ids, embeddings, gallery_ids, gallery)
    finite = all_finite(embeddings, gallery)
    with_positive = int(_has_positive(labels, gallery_labels, ids, gallery_ids).sum())
    hits = dict.fromkeys(sizes, 0)
    if finite:
        hits = _hits(embeddings, labels, gallery, gallery_labels, ids, gallery_ids, sizes, progress)
    local = [int(finite), with_positive, len(labels), *hits.values()]
    counts = all_counts(group, local, embeddings.device).sum(0).tolist()
    if counts[0] < group.size():
        return dict.fromkeys(sizes, float("nan"))
    _check_any_positive(torch.arange(counts[2]) < counts[1])
    return {size: hit / counts[2] for size, hit in zip(sizes, counts[3:], strict=True)}


@mixes_dtypes
def hotel_recall(
    embeddings: Tensor,
    instances: Tensor,
    chains: Tensor,
    ref_embeddings: Tensor,
    ref_instances: Tensor,
    ref_chains: Tensor,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    instance_k: int | Iterable[int] = (1, 10, 100),
    chain_k: int | Iterable[int] = (1, 3, 5),
    progress: bool | None = None,
) -> HotelRecall:
    """Recall@K of the hotel and of the hotel's chain, by one search of the gallery.

    Args:
        embeddings: Queries [B, D], the test set; float32, float64, float16 or bfloat16.
        instances: The queries' hotels [B], any integer dtype.
        chains: The queries' chains [B], any signed integer dtype; negative if unknown.
        ref_embeddings: Gallery [M, D], the training set.
        ref_instances: The gallery's hotels [M].
        ref_chains: The gallery's chains [M].
        ids: Ids of the queries [B], as in :func:`recall_at_k`: only they exclude a query's own copy.
        ref_ids: Ids of the gallery [M]; given together with ``ids``.
        instance_k: One K or several for hotels, integers from 1 to 1024.
        chain_k: One K or several for chains.
        progress: As in :func:`recall_at_k`.

    Returns:
        :class:`HotelRecall`; NaN everywhere if an embedding is not finite.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value, no query has its hotel in the gallery, or no query has its
            known chain there.
        ModuleNotFoundError: ``progress`` is True and tqdm is not installed.

    Note:
        Queries of an unknown chain do not count for chains, as in the published evaluation of Hotels-50K
        (``evaluate/retrieval.py``). Gallery samples of an unknown chain never match. The notes on :func:`recall_at_k`
        apply.

    Reference:
        SCT section 6 and Table 1, EP section 5.1 and Table 3; Stylianou et al., "Hotels-50K", AAAI 2019.

    Example:
        >>> import torch
        >>> from hardmine import metrics
        >>> gallery = torch.eye(4)
        >>> hotels, chains = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 1, -1])  # the chain of hotel 3 is unknown
        >>> queries = gallery[[0, 1]] + 0.1
        >>> recall = metrics.hotel_recall(
        ...     queries, hotels[[0, 2]], chains[[0, 2]], gallery, hotels, chains, instance_k=1, chain_k=(1, 4)
        ... )
        >>> recall.instance, recall.chain
        ({1: 0.5}, {1: 0.5, 4: 1.0})
    """
    sizes, chain_sizes = _check_k(instance_k, "instance_k"), _check_k(chain_k, "chain_k")
    check_progress(progress)
    check_rows("embeddings", embeddings, None)
    check_rows("ref_embeddings", ref_embeddings, embeddings)
    instances, ref_instances = check_label_pair("instances", instances, embeddings, ref_instances, ref_embeddings)
    chains, ref_chains = check_label_pair("chains", chains, embeddings, ref_chains, ref_embeddings)
    ids, ref_ids = check_ids(ids, embeddings, ref_ids, ref_embeddings)
    known = chains >= 0
    # Unknown chains get different labels in queries (-1) and gallery (-2), so that they never match.
    chains, ref_chains = chains.clamp_min(-1), torch.where(ref_chains < 0, -2, ref_chains)
    with torch.no_grad():
        if not all_finite(embeddings, ref_embeddings):
            return HotelRecall(dict.fromkeys(sizes, float("nan")), dict.fromkeys(chain_sizes, float("nan")))
        _check_any_positive(_has_positive(instances, ref_instances, ids, ref_ids), "instances")
        _check_any_positive(_has_positive(chains, ref_chains, ids, ref_ids), "chains")
        hits, chain_hits = dict.fromkeys(sizes, 0), dict.fromkeys(chain_sizes, 0)
        largest = max(sizes + chain_sizes)
        for queries, found in neighbors(embeddings, ref_embeddings, largest, progress, "recall", ids, ref_ids):
            _add_hits(hits, instances[queries], ref_instances, found.index)
            _add_hits(chain_hits, chains[queries], ref_chains, found.index)
    return HotelRecall(
        {size: hits[size] / len(instances) for size in sizes},
        {size: chain_hits[size] / int(known.sum()) for size in chain_sizes},
    )


def _add_hits(hits: dict[int, int], labels: Tensor, gallery_labels: Tensor, index: Tensor) -> None:
    """For each K, count the queries that have a sample of their class among the first K of index [Q, k]."""
    match = (gallery_labels[index] == labels[:, None]) & (index >= 0)
    for size in hits:
        hits[size] += int(match[:, :size].any(1).sum())


def _check_k(k: Any, name: str = "k") -> list[int]:
    """``k`` is one or more integers from 1 to 1024; returned as a list."""
    sizes = list(k) if isinstance(k, Iterable) and not isinstance(k, Tensor) else [k]
    for size in sizes:
        if not isinstance(size, Integral) or isinstance(size, bool):
            raise TypeError(f"{name} must be an integer or several integers, got {size!r}")
    if not sizes or min(sizes) < 1 or max(sizes) > MAX_NEIGHBORS:
        raise ValueError(f"{name} must be one or more integers from 1 to {MAX_NEIGHBORS}, got {sizes}")
    return [int(size) for size in sizes]


def _has_positive(labels: Tensor, ref_labels: Tensor | None, ids: Tensor | None, ref_ids: Tensor | None) -> Tensor:
    """Whether a gallery sample, not the query nor one with its id, has the query's class: bool [B]."""
    gallery, gallery_ids = (labels, ids) if ref_labels is None else (ref_labels, ref_ids)
    if ids is None or gallery_ids is None:
        classes, count = gallery.unique(return_counts=True)
        return torch.isin(labels, classes[count >= 2] if ref_labels is None else classes)
    _, label = torch.cat([labels, gallery]).unique(return_inverse=True)
    _, number = torch.cat([ids, gallery_ids]).unique(return_inverse=True)
    copies = torch.where(ids >= 0, _count_equal(label * len(number) + number, len(ids)), int(ref_labels is None))
    return _count_equal(label, len(labels)) > copies


def _count_equal(keys: Tensor, queries: int) -> Tensor:
    """For each of the first ``queries`` keys, the number of the other keys that are equal to it."""
    _, number = keys.unique(return_inverse=True)
    return number[queries:].bincount(minlength=len(keys))[number[:queries]]


def _check_any_positive(has_positive: Tensor, name: str = "labels") -> None:
    """At least one query has a positive in the gallery."""
    if not has_positive.any():
        raise ValueError(
            f"{name} must give at least one query a positive in the gallery, got none for {len(has_positive)} queries"
        )
