"""Distributions of similarities, counted as they stream."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hardmine import ops
from hardmine._hooks import mixes_dtypes
from hardmine.metrics._search import (
    CHUNK_WORK,
    LONG_WORK_CHUNKS,
    check_progress,
    finite_rows,
    neighbors,
    progress_bar,
    without_ignored,
)
from hardmine.ops._arguments import check_ids, check_labeled_rows, check_rows
from hardmine.ops._numbers import check_integer
from hardmine.types import Neighbors

_BLOCK_ROWS = 1024  # rows per block; a block's similarities to another are held at once, and come from one call of knn


@dataclass(frozen=True)
class Distribution:
    """A histogram of similarities.

    Attributes:
        edges: float64 [bins + 1], from -1 to 1 in equal steps: the bounds of the bins. A bin excludes its upper bound,
            except the last bin, which includes 1. Distributions with equally many bins have the same edges, so that
            they can be drawn over each other.
        counts: int64 [bins], similarities in each bin.
        mean: Mean of the exact similarities; NaN if there is none.
        std: Population standard deviation of the similarities.
        min: The smallest similarity.
        max: The largest similarity.
    """

    edges: Tensor
    counts: Tensor
    mean: float
    std: float
    min: float
    max: float

    @property
    def total(self) -> int:
        """The number of similarities."""
        return int(self.counts.sum())

    @property
    def density(self) -> Tensor:
        """The density in each bin, float64 [bins]: its integral over [-1, 1] is 1."""
        return self.counts.double() / (self.total * self.edges.diff())


def within_class_similarities(
    embeddings: Tensor,
    labels: Tensor,
    *,
    ids: Tensor | None = None,
    ignore_index: int | None = None,
    bins: int = 200,
    progress: bool | None = None,
) -> Distribution:
    """The distribution of the cosine similarities of all pairs of samples with the same class.

    Replaces, if the matrix of similarities fits into memory::

        same = labels[:, None] == labels
        torch.histogram(similarities[same.triu(1)], bins, range=(-1, 1))

    Args:
        embeddings: [N, D], float32, float64, float16 or bfloat16. Rows need not have unit length.
        labels: Classes [N], any integer dtype.
        ids: Ids [N], any integer dtype; pairs of equal ids >= 0 are left out.
        ignore_index: Rows with this label are left out.
        bins: Number of bins.
        progress: Show a progress bar on stderr, which needs tqdm: True, False or None. None shows it if the work is
            long and tqdm is installed.

    Returns:
        :class:`Distribution` over each unordered pair once.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value.
        FloatingPointError: An embedding is not finite; the message names the first such row.
        ModuleNotFoundError: ``progress`` is True and tqdm is not installed.

    Note:
        Memory is O(N D) for any size of the classes: a large class is processed in blocks of 1024 x 1024 pairs. Counts
        are equal on every repeat and for any number of threads.

    Reference:
        EP figure 2, over the training set.

    Example:
        >>> import torch
        >>> from hardmine import metrics
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> found = metrics.within_class_similarities(embeddings, labels, bins=4)
        >>> found.counts, round(found.mean, 3)
        (tensor([0, 0, 0, 2]), 0.8)
    """
    labels, _ = check_labeled_rows(embeddings, labels, None, None)
    ids, _ = check_ids(ids, embeddings, None, None)
    bins = check_integer("bins", bins, 1)
    check_progress(progress)
    given = without_ignored(ignore_index, embeddings, labels, None, None, ids)
    if not finite_rows(given[0]).all():  # the row's number is that among all rows
        ignored = torch.zeros_like(labels) if ignore_index is None else labels == ignore_index
        _check_finite("embeddings", embeddings.masked_fill(ignored.bool()[:, None], 0.0))
    embeddings, labels, _, _, ids, _ = given
    histogram = _Histogram(bins)
    order, sizes = labels.argsort(stable=True), labels.unique(return_counts=True)[1].tolist()
    work = sum(size**2 for size in sizes) * embeddings.shape[1]
    long = work >= LONG_WORK_CHUNKS * CHUNK_WORK
    with torch.no_grad(), progress_bar(len(labels), progress, "similarities", "row", long=long) as bar:
        for members in order.split(sizes):
            blocks = members.split(_BLOCK_ROWS)
            for i, block in enumerate(blocks):
                rows, row_ids = embeddings[block], None if ids is None else ids[block]
                if len(block) > 1:  # knn finds each pair twice
                    histogram.add(ops.knn(rows, k=len(block) - 1, ids=row_ids), 1)
                for other in blocks[i + 1 :]:
                    ref_ids = None if ids is None else ids[other]
                    histogram.add(ops.knn(rows, embeddings[other], k=len(other), ids=row_ids, ref_ids=ref_ids), 2)
                if bar is not None:
                    bar.update(len(block))
    return histogram.distribution(2)


@mixes_dtypes
def nearest_train_similarities(
    test_embeddings: Tensor,
    train_embeddings: Tensor,
    *,
    test_ids: Tensor | None = None,
    train_ids: Tensor | None = None,
    bins: int = 200,
    progress: bool | None = None,
) -> Distribution:
    """The distribution of the cosine similarity of every test sample to the training sample most similar to it.

    If training has pulled its classes tightly together, new classes often fall close to one of them. The embedding then
    does not separate classes that it was not trained on.

    Args:
        test_embeddings: [Q, D], float32, float64, float16 or bfloat16. Rows need not have unit length.
        train_embeddings: [M, D], dtype and device of the test embeddings, at least one row.
        test_ids: Ids of the test samples [Q], any integer dtype; training samples with a test sample's id >= 0 are not
            compared with it. Only this excludes a sample's own copy.
        train_ids: Ids of the training samples [M]; given together with ``test_ids``.
        bins: Number of bins.
        progress: As in :func:`within_class_similarities`.

    Returns:
        :class:`Distribution` over the Q test samples; one whose id all training samples have does not count.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value.
        FloatingPointError: An embedding is not finite; the message names the first such row.
        ModuleNotFoundError: ``progress`` is True and tqdm is not installed.

    Note:
        One :func:`hardmine.ops.knn` with k = 1, in chunks. Memory is O((Q + M) D).

    Reference:
        EP figure 3.

    Example:
        >>> import torch
        >>> from hardmine import metrics
        >>> train, test = torch.eye(3), torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.0, -1.0]])
        >>> found = metrics.nearest_train_similarities(test, train, bins=4)
        >>> found.counts, round(found.max, 3)
        (tensor([0, 0, 1, 1]), 0.8)
    """
    check_rows("test_embeddings", test_embeddings, None)
    check_rows("train_embeddings", train_embeddings, test_embeddings, like_name="test_embeddings")
    test_ids, train_ids = check_ids(
        test_ids, test_embeddings, train_ids, train_embeddings, names=("test_ids", "train_ids"), size="Q"
    )
    bins = check_integer("bins", bins, 1)
    check_progress(progress)
    if len(train_embeddings) == 0:
        raise ValueError("train_embeddings must have at least one row, got none")
    _check_finite("test_embeddings", test_embeddings)
    _check_finite("train_embeddings", train_embeddings)
    histogram = _Histogram(bins)
    with torch.no_grad():
        for _, found in neighbors(test_embeddings, train_embeddings, 1, progress, "similarities", test_ids, train_ids):
            histogram.add(found, 1)
    return histogram.distribution(1)


class _Histogram:
    """Counts similarities, each with a weight."""

    def __init__(self, bins: int) -> None:
        self._edges = torch.linspace(-1, 1, bins + 1, dtype=torch.float64, device="cpu")
        self._counts = torch.zeros(bins, dtype=torch.int64, device="cpu")
        self._sum = self._sum_of_squares = 0.0
        self._min, self._max = math.inf, -math.inf

    def add(self, found: Neighbors, weight: int) -> None:
        """Counts the similarities of the neighbors that are not missing."""
        values = found.similarity[found.index >= 0].detach().cpu().double()
        if values.numel() == 0:
            return
        # The last bin includes its upper bound.
        bins = torch.bucketize(values, self._edges, right=True).clamp_max(len(self._counts)) - 1
        self._counts += weight * bins.bincount(minlength=len(self._counts))
        self._sum += weight * values.sum().item()
        self._sum_of_squares += weight * values.square().sum().item()
        self._min = min(self._min, values.min().item())
        self._max = max(self._max, values.max().item())

    def distribution(self, weight: int) -> Distribution:
        """The counted distribution, where each similarity has the total weight `weight`."""
        total = int(self._counts.sum())
        if total == 0:
            return Distribution(self._edges, self._counts, *[math.nan] * 4)
        mean = self._sum / total
        std = math.sqrt(max(self._sum_of_squares / total - mean**2, 0.0))
        return Distribution(self._edges, self._counts // weight, mean, std, self._min, self._max)


def _check_finite(name: str, rows: Tensor) -> None:
    """All rows and their norms are finite."""
    finite = finite_rows(rows)
    if not finite.all():
        row = int(finite.logical_not().nonzero()[0])
        raise FloatingPointError(f"{name} must be finite, got a non-finite row {row}: has training diverged?")
