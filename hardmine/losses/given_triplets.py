"""Losses on triplets that the user gives, such as mined ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine import ops
from hardmine.losses._base import Loss
from hardmine.types import DistanceSimilarity, GradientReduction, Reduction


class _GivenTripletsLoss(Loss):
    _empty = (0, 3)

    def forward(self, embeddings: Tensor, triplets: Tensor, labels: Tensor | None = None) -> Tensor:
        """The loss of given triplets.

        Args:
            embeddings: [B, D].
            triplets: [T, 3], the rows of anchor, positive and negative.
            labels: The classes of the embeddings, [B]. If given, every triplet must fit them.

        Returns:
            The loss.
        """
        return self._op(embeddings, triplets, labels=labels, **self.options)

    if TYPE_CHECKING:
        __call__ = forward


class RatioTripletLoss(_GivenTripletsLoss):
    r"""The ratio loss of Smart Mining (ICCV 2017, eq. 2), on given triplets.

    .. math:: \ell = \max\left(0, 1 - \frac{d_{an}}{d_{ap} + m}\right)

    averaged over the triplets, with the distances d of the normalized rows: :func:`hardmine.ops.indexed_triplet_loss`
    with the term ``"ratio"``.

    Args:
        margin: m, in units of the distance, > 0.
        similarity: ``"cosine"``: distances of the normalized rows; ``"euclidean"``: of the rows as given.
        reduction: ``"mean"`` over the triplets, ``"sum"``, or ``"none"``: [T].
        group: A ``torch.distributed`` process group: triplets hold row numbers of all its ranks, and the loss is that
            of one process with all triplets. None: this process alone.
        gradient_reduction: Only with ``group``: how the trainer reduces gradients over the ranks, ``"mean"`` as DDP and
            FSDP do (and the default), or ``"sum"``.

    Raises:
        TypeError: An option of the constructor has the wrong type.
        ValueError: An option of the constructor has the wrong value. Numbers must be finite in float32, because the
            embeddings' dtype is not known yet.

    Example:
        >>> import torch
        >>> from hardmine.losses import RatioTripletLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]], requires_grad=True)
        >>> round(RatioTripletLoss()(embeddings, torch.tensor([[0, 1, 2]])).item(), 3)
        0.422
    """

    _op = staticmethod(ops.indexed_triplet_loss)

    def __init__(
        self,
        *,
        margin: float = 0.2,
        similarity: DistanceSimilarity = "cosine",
        reduction: Reduction = "mean",
        group: ProcessGroup | None = None,
        gradient_reduction: GradientReduction | None = None,
    ) -> None:
        super().__init__({**locals(), "term": "ratio"})


class GlobalLoss(_GivenTripletsLoss):
    r"""The global loss of Smart Mining (ICCV 2017, eq. 3), on given triplets.

    .. math:: L = \sigma^2_+ + \sigma^2_- + \lambda \max(0, \mu_+ - \mu_- + t)

    with the means and variances of the squared distances of positive and negative pairs, divided by 4. The op is
    :func:`hardmine.ops.global_loss`.

    Args:
        lam: Weight of the hinge on the means.
        threshold: t, in units of the squared distance divided by 4.
        similarity: ``"cosine"``: distances of the normalized rows; ``"euclidean"``: of the rows as given.
        group: A ``torch.distributed`` process group: triplets hold row numbers of all its ranks, and the loss is that
            of one process with all triplets. None: this process alone.
        gradient_reduction: Only with ``group``: how the trainer reduces gradients over the ranks, ``"mean"`` as DDP and
            FSDP do (and the default), or ``"sum"``.

    Raises:
        TypeError: An option of the constructor has the wrong type.
        ValueError: An option of the constructor has the wrong value. Numbers must be finite in float32, because the
            embeddings' dtype is not known yet.

    Example:
        >>> import torch
        >>> from hardmine.losses import GlobalLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]], requires_grad=True)
        >>> round(GlobalLoss(threshold=0.1)(embeddings, torch.tensor([[0, 1, 2]])).item(), 3)
        0.16
    """

    _op = staticmethod(ops.global_loss)

    def __init__(
        self,
        *,
        lam: float = 0.8,
        threshold: float = 0.01,
        similarity: DistanceSimilarity = "cosine",
        group: ProcessGroup | None = None,
        gradient_reduction: GradientReduction | None = None,
    ) -> None:
        super().__init__(locals())
