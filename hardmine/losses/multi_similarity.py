"""The multi-similarity loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine import ops
from hardmine.losses._base import Loss
from hardmine.types import GradientReduction, ProductSimilarity, Reduction


class MultiSimilarityLoss(Loss):
    r"""The multi-similarity loss (CVPR 2019, equation 15), with or without its mining.

    .. math:: \ell_a = \frac{1}{\alpha} \log\left(1 + \sum_p e^{-\alpha (s_{ap} - b)}\right)
        + \frac{1}{\beta} \log\left(1 + \sum_n e^{\beta (s_{an} - b)}\right)

    averaged over all anchors. :func:`hardmine.ops.multi_similarity_loss` documents the options in full.

    Args:
        alpha: The weight of positives in the exponent.
        beta: That of negatives.
        base: The similarity at which pairs are neither rewarded nor punished.
        epsilon: With a number, only the pairs that the paper's mining keeps count. None: all pairs.
        similarity: ``"cosine"`` or ``"dot"``.
        reduction: ``"mean"`` over all anchors, ``"sum"``, or ``"none"``: [B].
        ignore_index: Rows with this label are neither anchors nor candidates, as if they were not in the batch.
        group: A ``torch.distributed`` process group: the candidates are the rows of all its ranks, and the loss is that
            of one process with all rows. None: this process alone.
        gradient_reduction: Only with ``group``: how the trainer reduces gradients over the ranks, ``"mean"`` as DDP and
            FSDP do (and the default), or ``"sum"``.

    Raises:
        TypeError: An option of the constructor has the wrong type.
        ValueError: An option of the constructor has the wrong value.

    Example:
        >>> import torch
        >>> from hardmine.losses import MultiSimilarityLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
        >>> round(MultiSimilarityLoss()(embeddings, torch.tensor([0, 0, 1, 1])).item(), 3)
        0.679
    """

    _op: ClassVar[Callable[..., Any]] = staticmethod(ops.multi_similarity_loss)

    def __init__(
        self,
        *,
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        epsilon: float | None = None,
        similarity: ProductSimilarity = "cosine",
        reduction: Reduction = "mean",
        ignore_index: int | None = None,
        group: ProcessGroup | None = None,
        gradient_reduction: GradientReduction | None = None,
    ) -> None:
        super().__init__(locals())

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
    ) -> Tensor:
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

        Returns:
            The loss.
        """
        loss: Tensor = self._op(
            embeddings, labels, ref_embeddings, ref_labels, ids=ids, ref_ids=ref_ids, weights=weights, **self.options
        )
        return loss

    if TYPE_CHECKING:
        __call__ = forward
