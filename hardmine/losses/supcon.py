"""The supervised contrastive loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine import ops
from hardmine.losses._base import Loss
from hardmine.types import AnySimilarity, GradientReduction, Reduction


class SupConLoss(Loss):
    r"""The supervised contrastive loss, with the sum outside of the logarithm (NeurIPS 2020, equation 2).

    .. math:: \ell_a = -\frac{1}{|P(a)|} \sum_{p \in P(a)}
        \log \frac{e^{s_{ap} / \tau}}{\sum_{j \ne a} e^{s_{aj} / \tau}}

    averaged over the anchors that have a positive. :func:`hardmine.ops.supcon_loss` documents the options in full.

    Args:
        temperature: A number, in units of the similarity, or a tensor []. An ``nn.Parameter`` becomes a parameter of
            the module, and is trained with it.
        similarity: ``"cosine"``, ``"dot"``, or a negative distance: ``"euclidean"`` or ``"hyperbolic"``.
        reduction: ``"mean"`` over the anchors that count, ``"sum"``, or ``"none"``: [B].
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
        >>> from hardmine.losses import SupConLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]], requires_grad=True)
        >>> loss = SupConLoss(temperature=0.5)(embeddings, torch.tensor([0, 0, 1, 1]))
        >>> round(loss.item(), 3)
        1.271
    """

    _op: ClassVar[Callable[..., Any]] = staticmethod(ops.supcon_loss)

    def __init__(
        self,
        *,
        temperature: float | Tensor = 0.1,
        similarity: AnySimilarity = "cosine",
        reduction: Reduction = "mean",
        ignore_index: int | None = None,
        group: ProcessGroup | None = None,
        gradient_reduction: GradientReduction | None = None,
    ) -> None:
        super().__init__(locals())

    # The overloads differ in the flag and the result: the layout shows only these side by side.
    # fmt: off
    @overload
    def forward(
        self, embeddings: Tensor, labels: Tensor,
        ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
        ids: Tensor | None = None, ref_ids: Tensor | None = None, weights: Tensor | None = None,
        return_count: Literal[False] = False,
    ) -> Tensor: ...
    @overload
    def forward(
        self, embeddings: Tensor, labels: Tensor,
        ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
        ids: Tensor | None = None, ref_ids: Tensor | None = None, weights: Tensor | None = None,
        return_count: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]: ...
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
        return_count: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
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
            return_count: Also return the number of anchors that count, int64 [].

        Returns:
            The loss, or with ``return_count`` a tuple of the loss and the count.
        """
        result: Tensor | tuple[Tensor, Tensor] = self._op(
            embeddings,
            labels,
            ref_embeddings,
            ref_labels,
            ids=ids,
            ref_ids=ref_ids,
            weights=weights,
            return_count=return_count,
            **self.options,
        )
        return result

    if TYPE_CHECKING:
        __call__ = forward
