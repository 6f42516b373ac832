"""InfoNCE on pairs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine import ops
from hardmine.losses._base import Loss
from hardmine.types import AnySimilarity, GradientReduction, Reduction


class InfoNCELoss(Loss):
    r"""InfoNCE on pairs of a query and its key, as of CLIP and SimCLR, without the matrix of similarities.

    .. math:: \ell_i = -\log \frac{e^{s_{ii} / \tau}}{\sum_j e^{s_{ij} / \tau}}

    averaged over the queries. :func:`hardmine.ops.info_nce_loss` documents the options in full.

    Args:
        temperature: A number, in units of the similarity, or a tensor []. An ``nn.Parameter`` becomes a parameter of
            the module, and is trained with it.
        symmetric: Also classify the queries of each key, as CLIP does: the mean of both directions.
        in_batch: Whether the keys of other queries are negatives.
        similarity: ``"cosine"``, ``"dot"``, or a negative distance: ``"euclidean"`` or ``"hyperbolic"``.
        reduction: ``"mean"`` over the queries, ``"sum"``, or ``"none"``: [B].
        group: A ``torch.distributed`` process group: negatives in the batch are the keys of all its ranks, and the loss
            is that of one process with all pairs. None: this process alone.
        gradient_reduction: Only with ``group``: how the trainer reduces gradients over the ranks, ``"mean"`` as DDP and
            FSDP do (and the default), or ``"sum"``.

    Raises:
        TypeError: An option of the constructor has the wrong type.
        ValueError: An option of the constructor has the wrong value.

    Example:
        >>> import torch
        >>> from hardmine.losses import InfoNCELoss
        >>> image, text = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.8, 0.6], [0.6, 0.8]])
        >>> round(InfoNCELoss(temperature=0.5, symmetric=True)(image, text).item(), 4)
        0.513
    """

    _op: ClassVar[Callable[..., Any]] = staticmethod(ops.info_nce_loss)

    def __init__(
        self,
        *,
        temperature: float | Tensor = 0.1,
        symmetric: bool = False,
        in_batch: bool = True,
        similarity: AnySimilarity = "cosine",
        reduction: Reduction = "mean",
        group: ProcessGroup | None = None,
        gradient_reduction: GradientReduction | None = None,
    ) -> None:
        super().__init__(locals())

    def _check(self, options: dict[str, Any]) -> None:
        """Let the op check its options on an empty batch, so that errors come before the first training step."""
        local, device = self._local_options(options)
        rows = torch.empty(0, 1, device=device)
        needs_negatives = options["in_batch"] is False and options["symmetric"] is False
        inspect.unwrap(self._op)(rows, rows, rows if needs_negatives else None, **local)

    def forward(
        self,
        query: Tensor,
        positive_key: Tensor,
        negative_keys: Tensor | None = None,
        *,
        ids: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch of pairs.

        Args:
            query: [B, D].
            positive_key: The key of each query, [B, D].
            negative_keys: Further negatives: [K, D] for all queries, or [B, K, D], K for each query.
            ids: [B]: pairs of equal ids >= 0, such as duplicate texts, are no negatives of each other.
            weights: The queries' weights, [B], finite and at least 0: each loss is multiplied with its query's weight,
                and means are divided by the sum of the weights.

        Returns:
            The loss.
        """
        loss: Tensor = self._op(query, positive_key, negative_keys, ids=ids, weights=weights, **self.options)
        return loss

    if TYPE_CHECKING:
        __call__ = forward
