"""The sigmoid loss of SigLIP."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from hardmine import ops
from hardmine.losses._base import Loss
from hardmine.types import Reduction, Similarity


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
    ) -> None:
        super().__init__(locals())

    def _check(self, options: dict[str, Any]) -> None:
        """Let the op check its options on an empty batch, so that errors come before the first training step."""
        devices = [value.device for value in options.values() if isinstance(value, Tensor)]
        rows = torch.empty(0, 1, device=devices[0] if devices else "cpu")
        inspect.unwrap(self._op)(rows, rows, **options)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """The loss of a batch of pairs.

        Args:
            query: [B, D].
            key: The key of each query, [B, D].

        Returns:
            The loss.
        """
        loss: Tensor = self._op(query, key, **self.options)
        return loss

    if TYPE_CHECKING:
        __call__ = forward
