"""How well clusters of an embedding agree with classes."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor

from hardmine._extras import require
from hardmine.metrics._search import all_finite
from hardmine.ops._arguments import check_choice, check_integer, check_labeled_rows

AVERAGES = ("arithmetic", "geometric")


def nmi(
    embeddings: Tensor,
    labels: Tensor,
    *,
    seed: int = 0,
    n_init: int = 1,
    max_iter: int = 300,
    average: Literal["arithmetic", "geometric"] = "arithmetic",
) -> float:
    """Normalized mutual information of classes and of the clusters that a k-means finds, as many as there are classes.

    The rows are scaled to unit length, clustered by scikit-learn's ``KMeans``, and scored by its
    ``normalized_mutual_info_score``.

    Args:
        embeddings: [N, D], float32, float64, float16 or bfloat16. They need not have unit length.
        labels: Classes [N], any integer dtype.
        seed: Seed of the k-means++ that starts the clusters, 0 to 2**32 - 1.
        n_init: Number of starts, of which the one with the least inertia counts.
        max_iter: Iterations of a k-means at most.
        average: What the mutual information is divided by, of the two entropies: their ``"arithmetic"`` mean, which
            the tables of the field use, or their ``"geometric"`` mean.

    Returns:
        NMI in [0, 1]; NaN if an embedding is not finite, so that divergence is not hidden.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value, or there is no row.
        ModuleNotFoundError: scikit-learn is not installed.

    Note:
        The same arguments give the same number on every repeat, whatever the number of threads: k-means runs on one, as
        the order in which threads add up their parts would show in the centers. Its time is that of N x classes x D
        multiply-adds an iteration.

    Reference:
        Smart Mining section 4.1, whose text has the "product of entropies" below the fraction; that is a normalization
        by their geometric mean, of which the text leaves out the root.

    Example:
        >>> import torch
        >>> from hardmine import metrics
        >>> embeddings = torch.tensor([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]])
        >>> round(metrics.nmi(embeddings, torch.tensor([0, 0, 1, 1])), 3)
        1.0
    """
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
        # A collapsed embedding has fewer distinct rows than there are classes. Its score says so, no warning need.
        warnings.simplefilter("ignore", require("sklearn.exceptions").ConvergenceWarning)
        clusters = k_means.fit_predict(rows.numpy())
    return float(metrics.normalized_mutual_info_score(classes, clusters, average_method=average))
