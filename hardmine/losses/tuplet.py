"""The tuplet loss: an anchor's positive, or all its positives, against all its negatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine import ops
from hardmine.losses._base import Loss
from hardmine.types import (
    AnySimilarity,
    GradientReduction,
    LossResult,
    TupletPositiveRule,
    TupletReduction,
    TupletTerms,
)


class TupletLoss(Loss):
    r"""A softmax loss of each anchor's positive against all its negatives (WACV 2020, sections 2.2 and 4).

    .. math:: \ell_a = -\log \frac{e^{s_{ap} / \tau}}{e^{s_{ap} / \tau} + \sum_n e^{s_{an} / \tau}}

    averaged over the anchors that have both a positive and a negative. :func:`hardmine.ops.tuplet_loss` documents the
    options in full.

    Args:
        positive: The ``"easiest"`` or ``"hardest"`` sample of the anchor's class, or ``"all"``: the mean of the loss
            over all positives.
        temperature: In units of the similarity, at least 1e-30; a number or a tensor []. An ``nn.Parameter`` becomes a
            parameter of the module, and is trained with it.
        similarity: ``"cosine"``, ``"dot"``, or a negative distance: ``"euclidean"`` or ``"hyperbolic"``.
        duplicate_threshold: Positives more similar than this are excluded as near duplicates.
        reduction: ``"mean"`` over the anchors that count, ``"sum"``, or ``"none"``: [B]. With ``positive="all"`` also
            ``"mean_pairs"``: the mean over all pairs of an anchor and a positive.
        ignore_index: Rows with this label are neither anchors nor candidates, as if they were not in the batch.
        group: A ``torch.distributed`` process group: the candidates are the rows of all its ranks, and the loss is that
            of one process with all rows. None: this process alone.
        gradient_reduction: Only with ``group``: how the trainer reduces gradients over the ranks, ``"mean"`` as DDP and
            FSDP do (and the default), or ``"sum"``.

    Raises:
        TypeError: An option of the constructor has the wrong type.
        ValueError: An option of the constructor has the wrong value. Numbers must be finite in float32, because the
            embeddings' dtype is not known yet.

    Example:
        >>> import torch
        >>> from hardmine.losses import TupletLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]], requires_grad=True)
        >>> loss, terms = TupletLoss(positive="hardest")(embeddings, torch.tensor([0, 0, 1, 1]), return_terms=True)
        >>> round(loss.item(), 3)
        2.967
        >>> terms.positive_index
        tensor([1, 0, 3, 2])
    """

    _op: ClassVar[Callable[..., Any]] = staticmethod(ops.tuplet_loss)

    def __init__(
        self,
        *,
        positive: TupletPositiveRule = "easiest",
        temperature: float | Tensor = 0.1,
        similarity: AnySimilarity = "cosine",
        duplicate_threshold: float | None = None,
        reduction: TupletReduction = "mean",
        ignore_index: int | None = None,
        group: ProcessGroup | None = None,
        gradient_reduction: GradientReduction | None = None,
    ) -> None:
        super().__init__(locals())

    # The overloads differ in the flags and the result: the layout shows only these side by side.
    # fmt: off
    @overload
    def forward(
        self, embeddings: Tensor, labels: Tensor,
        ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
        ids: Tensor | None = None, ref_ids: Tensor | None = None, weights: Tensor | None = None,
        return_terms: Literal[False] = False, return_count: Literal[False] = False,
    ) -> Tensor: ...
    @overload
    def forward(
        self, embeddings: Tensor, labels: Tensor,
        ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
        ids: Tensor | None = None, ref_ids: Tensor | None = None, weights: Tensor | None = None,
        return_terms: Literal[True], return_count: Literal[False] = False,
    ) -> tuple[Tensor, TupletTerms]: ...
    @overload
    def forward(
        self, embeddings: Tensor, labels: Tensor,
        ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
        ids: Tensor | None = None, ref_ids: Tensor | None = None, weights: Tensor | None = None,
        return_terms: Literal[False] = False, return_count: Literal[True],
    ) -> tuple[Tensor, Tensor]: ...
    @overload
    def forward(
        self, embeddings: Tensor, labels: Tensor,
        ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
        ids: Tensor | None = None, ref_ids: Tensor | None = None, weights: Tensor | None = None,
        return_terms: Literal[True], return_count: Literal[True],
    ) -> tuple[Tensor, TupletTerms, Tensor]: ...
    @overload
    def forward(
        self, embeddings: Tensor, labels: Tensor,
        ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
        ids: Tensor | None = None, ref_ids: Tensor | None = None, weights: Tensor | None = None,
        return_terms: bool = False, return_count: bool = False,
    ) -> LossResult[TupletTerms]: ...
    # fmt: on
    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_embeddings: Tensor | None = None,
        ref_labels: Tensor | None = None,
        *,
        ids: Tensor | None = None,
        ref_ids: Tensor | None = None,
        weights: Tensor | None = None,
        return_terms: bool = False,
        return_count: bool = False,
    ) -> LossResult[TupletTerms]:
        """The loss of a batch. Samples are compared with each other or with refs.

        Args:
            embeddings: The anchors, [B, D].
            labels: The anchors' classes, [B].
            ref_embeddings: Rows to compare with, [M, D]; None compares the anchors among themselves.
            ref_labels: The classes of the refs, [M].
            ids: The anchors' ids, [B]; a pair of equal ids >= 0 is no candidate. With refs, only this excludes an
                anchor's own copy.
            ref_ids: The ids of the refs, [M]; given together with ``ids`` if there are refs.
            weights: The anchors' weights, [B], finite and at least 0: each loss is multiplied with its anchor's weight,
                and means are divided by the sum of the weights that count.
            return_terms: Also return the :class:`hardmine.types.TupletTerms`.
            return_count: Also return the number of anchors, or with ``"mean_pairs"`` of pairs, that count, int64 [].

        Returns:
            The loss, or a tuple of the loss and what was requested: the terms, then the count.
        """
        return self._op(
            embeddings,
            labels,
            ref_embeddings,
            ref_labels,
            ids=ids,
            ref_ids=ref_ids,
            weights=weights,
            return_terms=return_terms,
            return_count=return_count,
            **self.options,
        )

    if TYPE_CHECKING:
        __call__ = forward
