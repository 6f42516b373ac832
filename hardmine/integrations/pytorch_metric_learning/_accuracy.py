"""Nearest neighbors and accuracy for pytorch-metric-learning's ``AccuracyCalculator``, testers and inference models."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_metric_learning.utils import accuracy_calculator
from pytorch_metric_learning.utils import common_functions as c_f
from pytorch_metric_learning.utils.inference import return_results
from torch import Tensor

from hardmine.metrics.retrieval import retrieval
from hardmine.ops._arguments import SIMILARITIES, check_choice, check_tensor
from hardmine.ops.knn import MAX_NEIGHBORS, knn
from hardmine.types import Similarity

# PML's metrics of ranks, and the names that hardmine.metrics.retrieval has for them.
_RANK_METRICS = {
    "precision_at_1": "recall@1",
    "mean_average_precision_at_r": "map_at_r",
    "r_precision": "r_precision",
    "mean_average_precision": "map",
    "mean_reciprocal_rank": "mrr",
}
# These do not change if no more than the R nearest neighbors are known; the others need all.
_OF_R_NEIGHBORS = ("precision_at_1", "mean_average_precision_at_r", "r_precision")


class KNN:
    """A ``knn_func`` for PML, computed by :func:`hardmine.ops.knn`; it takes the place of ``FaissKNN``.

    Args:
        similarity: ``"euclidean"``, as ``FaissKNN()`` has, ``"cosine"`` or ``"dot"``.

    Note:
        The distances are those of faiss: squared for ``"euclidean"``, similarities for the others. More than 1,024
        neighbors come from a sort of the matrix of similarities.

    Example:
        >>> import torch
        >>> from hardmine.integrations.pytorch_metric_learning import KNN
        >>> query, reference = torch.tensor([[0.0], [5.0]]), torch.tensor([[4.0], [1.0], [-3.0]])
        >>> KNN()(query, 2, reference)
        (tensor([[ 1.,  9.],
                [ 1., 16.]]), tensor([[1, 2],
                [0, 1]]))
    """

    def __init__(self, similarity: Similarity = "euclidean") -> None:
        check_choice("similarity", similarity, SIMILARITIES)
        self.similarity: Similarity = similarity
        self.rows: Tensor | None = None

    def __call__(
        self, query: Tensor, k: int, reference: Tensor | None = None, ref_includes_query: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The distances and indices [Q, k] of the nearest rows of the reference, or of the rows that were added.

        Args:
            query: [Q, D].
            k: The number of neighbors, at most that of the candidates.
            reference: [M, D]. None: the rows of :meth:`train` and :meth:`add`.
            ref_includes_query: The first Q rows of the reference are the queries: none is its own neighbor.
        """
        refs = self.rows if reference is None else reference
        check_tensor("query", query)
        if reference is not None:
            check_tensor("reference", reference)
        if refs is None:
            raise ValueError("reference must be given before train() or add() was called, got None")
        refs = refs.to(query.device)
        candidates = len(refs) - bool(ref_includes_query)
        if not 1 <= k <= candidates:
            raise ValueError(f"k must be from 1 to the number of candidates, {candidates}, got {k}")
        query, refs = (rows.detach().contiguous() for rows in (query, refs))
        if refs.dtype != query.dtype:
            query, refs = query.float(), refs.float()
        if k > MAX_NEIGHBORS:
            similarity, index = self._sorted(query, refs, k, ref_includes_query)
        else:
            own = torch.arange(len(refs), device=refs.device) if ref_includes_query else None
            found = knn(
                query,
                refs,
                k=k,
                ids=None if own is None else own[: len(query)],
                ref_ids=own,
                similarity=self.similarity,
            )
            similarity, index = found.similarity, found.index
        return similarity.square() if self.similarity == "euclidean" else similarity, index

    def _sorted(self, query: Tensor, refs: Tensor, k: int, ref_includes_query: bool) -> tuple[Tensor, Tensor]:
        """As :func:`hardmine.ops.knn`, for any k; equal similarities are in any order."""
        query, refs = (rows if rows.dtype == torch.float64 else rows.float() for rows in (query, refs))
        if self.similarity == "euclidean":
            similarity = -torch.cdist(query, refs, compute_mode="donot_use_mm_for_euclid_dist")
        else:
            if self.similarity == "cosine":
                query, refs = (torch.nn.functional.normalize(rows) for rows in (query, refs))
            similarity = query @ refs.T
        values, index = similarity.topk(k + bool(ref_includes_query), dim=1)
        return return_results(values, index, ref_includes_query)

    def train(self, embeddings: Any) -> None:
        """Search these rows from now on."""
        self.reset()
        self.add(embeddings)

    def add(self, embeddings: Any) -> None:
        """Search these rows too."""
        rows = c_f.numpy_to_torch(embeddings).detach()
        self.rows = rows if self.rows is None else torch.cat([self.rows, rows.to(self.rows)])

    def reset(self) -> None:
        """Forget all rows."""
        self.rows = None

    def save(self, filename: Any) -> None:
        """Save the rows."""
        torch.save(self.rows, filename)

    def load(self, filename: Any) -> None:
        """Load the rows that :meth:`save` saved."""
        self.rows = torch.load(filename, weights_only=True)


class AccuracyCalculator(accuracy_calculator.AccuracyCalculator):
    """PML's ``AccuracyCalculator``, with exact ranks of :func:`hardmine.metrics.retrieval`; it needs no faiss.

    Arguments and results are those of PML, except that ``knn_func`` is :class:`KNN` by default. With a :class:`KNN`,
    and one label per sample compared for equality, the five metrics of ranks come from one pass over the similarities,
    in memory O((Q + M) D). ``k`` then may be None, or ``"max_bin_count"`` for ``precision_at_1``, ``r_precision`` and
    ``mean_average_precision_at_r``. Everything else is PML's own computation. ``NMI`` and ``AMI`` need faiss, or a
    ``kmeans_func``.

    Example:
        >>> import torch
        >>> from hardmine.integrations.pytorch_metric_learning import AccuracyCalculator
        >>> calculator = AccuracyCalculator(include=("precision_at_1", "mean_average_precision_at_r"))
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> calculator.get_accuracy(embeddings, torch.tensor([0, 0, 1, 1]))
        {'mean_average_precision_at_r': 0.5, 'precision_at_1': 0.5}
    """

    _has_single_labels = False  # of the current call

    def __init__(
        self,
        include: Any = (),
        exclude: Any = (),
        avg_of_avgs: bool = False,
        return_per_class: bool = False,
        k: Any = None,
        label_comparison_fn: Any = None,
        device: Any = None,
        knn_func: Any = None,
        kmeans_func: Any = None,
    ) -> None:
        super().__init__(
            include,
            exclude,
            avg_of_avgs,
            return_per_class,
            k,
            label_comparison_fn,
            device,
            KNN() if knn_func is None else knn_func,
            kmeans_func,
        )

    def get_accuracy(self, query: Any, query_labels: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        """PML's accuracy: see its ``AccuracyCalculator.get_accuracy``."""
        self._has_single_labels = c_f.numpy_to_torch(query_labels).dim() == 1
        return super().get_accuracy(query, query_labels, *arguments, **options)

    def _takes_ranks(self) -> bool:
        """Whether all metrics of the current call that need neighbors follow from exact ranks."""
        wanted = [name for name in self.get_curr_metrics() if name not in self.requires_clustering()]
        known = {None: tuple(_RANK_METRICS), "max_bin_count": _OF_R_NEIGHBORS}.get(self.k, ())
        return (
            type(self) is AccuracyCalculator
            and type(self.knn_func) is KNN
            and self.label_comparison_fn is accuracy_calculator.EQUALITY
            and self._has_single_labels
            and all(name in known for name in wanted)
        )

    def requires_knn(self) -> list[str]:
        """The metrics that need the indices of neighbors."""
        return [] if self._takes_ranks() else super().requires_knn()

    def _get_accuracy(self, function_dict: dict[str, Any], **arguments: Any) -> dict[str, Any]:
        if "knn_labels" in arguments or not self._takes_ranks():
            return super()._get_accuracy(function_dict, **arguments)
        names = [name for name in function_dict if name in _RANK_METRICS]
        of_ranks = self._of_ranks(names, **arguments) if names else {}
        return {
            name: of_ranks[name] if name in of_ranks else function(**arguments)
            for name, function in function_dict.items()
        }

    def _of_ranks(
        self,
        names: list[str],
        *,
        query: Tensor,
        reference: Tensor,
        query_labels: Tensor,
        reference_labels: Tensor,
        ref_includes_query: bool,
        **_: Any,
    ) -> dict[str, Any]:
        """The metrics of all queries that have a positive in the reference."""
        classes, label = torch.cat([query_labels, reference_labels]).unique(return_inverse=True)
        label, ref_label = label.split([len(query_labels), len(reference_labels)])
        has_positive = ref_label.bincount(minlength=len(classes))[label] > int(ref_includes_query)
        if not has_positive.any():
            c_f.LOGGER.warning("None of the query labels are in the reference set.")
            missing = accuracy_calculator.nan_accuracy(query_labels.unique(), self.return_per_class)
            return dict.fromkeys(names, missing)
        refs: dict[str, Any] = {}
        if reference is not query or not ref_includes_query:
            refs = {"ref_embeddings": reference, "ref_labels": ref_label}
            if ref_includes_query:
                own = torch.arange(len(reference), device=reference.device)
                refs |= {"ids": own[: len(query)], "ref_ids": own}
        values = retrieval(
            query,
            label,
            **refs,
            metrics=[_RANK_METRICS[name] for name in names],
            similarity=self.knn_func.similarity,
            per_query=True,
            progress=False,
        )
        kept_labels = query_labels[has_positive][:, None]
        return {
            name: accuracy_calculator.maybe_get_avg_of_avgs(
                values[_RANK_METRICS[name]][has_positive], kept_labels, self.avg_of_avgs, self.return_per_class
            )
            for name in names
        }
