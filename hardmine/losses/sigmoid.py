"""The sigmoid loss of SigLIP."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine import ops
from hardmine.losses._base import Loss
from hardmine.types import GradientReduction, Reduction, Similarity


class SigmoidLoss(Loss):
    r"""The sigmoid loss of pairs of a query and its key (SigLIP, ICCV 2023), without the matrix of similarities.

    .. math:: \frac{1}{B} \sum_i \sum_j \log\left(1 + e^{-z_{ij} (t s_{ij} + b)}\right), \quad z_{ii} = 1, \;
        z_{ij} = -1 \text{ for } i \ne j

    :func:`hardmine.ops.sigmoid_loss` documents the options in full.

    Args:
        logit_scale: A number, or a tensor []. An ``nn.Parameter`` becomes a parameter of the module, and is trained
            with it.
        logit_bias: Likewise.
        similarity: ``"cosine"``, ``"dot"`` or ``"euclidean"``, the negative distance.
        reduction: ``"mean"``: the sum over all pairs divided by B; ``"sum"``; or ``"none"``: [B].
        group: A ``torch.distributed`` process group: queries are paired with the keys of all its ranks, and the loss
            is that of one process with all pairs. None: this process alone.
        gradient_reduction: Only with ``group``: how the trainer reduces gradients over the ranks, ``"mean"`` as DDP and
            FSDP do (and the default), or ``"sum"``.

    Raises:
        TypeError: An option of the constructor has the wrong type.
        ValueError: An option of the constructor has the wrong value.

    Example:
        >>> import torch
        >>> from hardmine.losses import SigmoidLoss
        >>> bias = torch.nn.Parameter(torch.tensor(-10.0))
        >>> image, text = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.8, 0.6], [0.6, 0.8]])
        >>> round(SigmoidLoss(logit_bias=bias)(image, text).item(), 4)
        2.1451
    """

    _op: ClassVar[Callable[..., Any]] = staticmethod(ops.sigmoid_loss)

    def __init__(
        self,
        *,
        logit_scale: float | Tensor = 10.0,
        logit_bias: float | Tensor = -10.0,
        similarity: Similarity = "cosine",
        reduction: Reduction = "mean",
        group: ProcessGroup | None = None,
        gradient_reduction: GradientReduction | None = None,
    ) -> None:
        super().__init__(locals())

    def _check(self, options: dict[str, Any]) -> None:
        """Let the op check its options on an empty batch, so that errors come before the first training step."""
        local, device = self._local_options(options)
        rows = torch.empty(0, 1, device=device)
        inspect.unwrap(self._op)(rows, rows, **local)

    def forward(self, query: Tensor, key: Tensor, *, weights: Tensor | None = None) -> Tensor:
        """The loss of a batch of pairs.

        Args:
            query: [B, D].
            key: The key of each query, [B, D].
            weights: The queries' weights, [B], finite and at least 0: each loss is multiplied with its query's weight,
                and means are divided by the sum of the weights.

        Returns:
            The loss.
        """
        loss: Tensor = self._op(query, key, weights=weights, **self.options)
        return loss

    if TYPE_CHECKING:
        __call__ = forward
