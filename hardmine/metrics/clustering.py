"""Agreement of an embedding's clusters with classes."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor

from hardmine._extras import require
from hardmine.metrics._search import all_finite, without_ignored
from hardmine.ops._arguments import check_choice, check_labeled_rows
from hardmine.ops._numbers import check_integer

AVERAGES = ("arithmetic", "geometric")


def nmi(
    embeddings: Tensor,
    labels: Tensor,
    *,
    ignore_index: int | None = None,
    seed: int = 0,
    n_init: int = 1,
    max_iter: int = 300,
    average: Literal["arithmetic", "geometric"] = "arithmetic",
) -> float:
    """Normalized mutual information between the classes and equally many k-means clusters.

    The rows are scaled to unit length, clustered by scikit-learn's ``KMeans``, and scored by its
    ``normalized_mutual_info_score``.

    Args:
        embeddings: [N, D], float32, float64, float16 or bfloat16. Rows need not have unit length.
        labels: Classes [N], any integer dtype.
        ignore_index: Rows with this label are left out.
        seed: Seed of the k-means++ that starts the clusters, 0 to 2**32 - 1.
        n_init: Number of starts; the result with the least inertia is used.
        max_iter: Maximal number of iterations per k-means.
        average: The mean of the two entropies that divides the mutual information: ``"arithmetic"``, as in published
            tables, or ``"geometric"``.

    Returns:
        NMI in [0, 1]; NaN if an embedding is not finite, so that divergence is not hidden.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value, or there is no row.
        ModuleNotFoundError: scikit-learn is not installed.

    Note:
        The result is equal on every repeat, for any number of threads. k-means runs on one thread, because the order of
        partial sums from several threads would change the centers. Its time is N x classes x D multiply-adds per
        iteration.

    Reference:
        Smart Mining section 4.1, whose text divides by the "product of entropies". That is the geometric mean without
        its square root.

    Example:
        >>> import torch
        >>> from hardmine import metrics
        >>> embeddings = torch.tensor([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]])
        >>> round(metrics.nmi(embeddings, torch.tensor([0, 0, 1, 1])), 3)
        1.0
    """
    embeddings, labels = without_ignored(ignore_index, embeddings, labels)[:2]
    labels, _ = check_labeled_rows(embeddings, labels, None, None)
    seed = check_integer("seed", seed, 0, 2**32 - 1)
    n_init, max_iter = check_integer("n_init", n_init, 1), check_integer("max_iter", max_iter, 1)
    check_choice("average", average, AVERAGES)
    if len(labels) == 0:
        raise ValueError("embeddings must have at least one row, got none")
    cluster, metrics = require("sklearn.cluster"), require("sklearn.metrics")
    if not all_finite(embeddings):
        return float("nan")
    rows = embeddings.detach().cpu()
    rows = torch.nn.functional.normalize(rows if rows.dtype == torch.float64 else rows.float())
    classes = labels.cpu().numpy()
    k_means = cluster.KMeans(len(labels.unique()), n_init=n_init, max_iter=max_iter, random_state=seed)
    with require("threadpoolctl").threadpool_limits(1), warnings.catch_warnings():
        # A collapsed embedding has fewer distinct rows than classes. The score shows that without a warning.
        warnings.simplefilter("ignore", require("sklearn.exceptions").ConvergenceWarning)
        clusters = k_means.fit_predict(rows.numpy())
    return float(metrics.normalized_mutual_info_score(classes, clusters, average_method=average))
