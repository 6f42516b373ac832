"""The contrastive losses of open_clip, computed by hardmine's ops: same names, arguments, defaults and values.

Each class is a subclass of open_clip's. Where no op gives open_clip's result, its own code runs, with one warning per
class and reason.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hardmine.integrations._fallback import NotFused, as_theirs, forbid_refused_rows, fused_or_theirs
from hardmine.integrations._versions import check_version
from hardmine.ops._arguments import SIMILARITIES, allow_tf32
from hardmine.ops._soft import soft_sums
from hardmine.ops._sums import ordered_sum
from hardmine.ops.info_nce_loss import info_nce_loss

check_version(
    "open_clip", "open_clip_torch", major=3, tested="3.3.0", hint="it needs the torchvision of the installed torch"
)

from open_clip import loss as theirs  # noqa: E402

__all__ = ["ClipLoss", "SigLipLoss"]


class ClipLoss(theirs.ClipLoss):
    """The ``ClipLoss`` of open_clip, without the matrix of logits.

    Arguments, values and gradients are those of open_clip, with one process or several, for ``local_loss`` and
    ``gather_with_grad``: its own code exchanges the features. A ``logit_bias`` changes no softmax, so its gradient is
    exactly 0.

    Example:
        >>> import torch
        >>> from hardmine.integrations.open_clip import ClipLoss
        >>> image = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
        >>> text = torch.tensor([[0.8, 0.6], [0.6, 0.8]])
        >>> ClipLoss()(image, text, logit_scale=torch.tensor(2.0), output_dict=True)
        {'contrastive_loss': tensor(0.5130, grad_fn=<...>)}
    """

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """The mean loss of the images and texts [B, D], in both directions.

        Args:
            image_features: [B, D], normalized, as open_clip's models give them.
            text_features: [B, D].
            logit_scale: The factor of the similarities, a number or a tensor [].
            logit_bias: Added to all logits.
            output_dict: Whether to return ``{"contrastive_loss": loss}`` in place of the loss.
        """

        def fused(image: Tensor, text: Tensor, *_: Any) -> Tensor:
            return _clip_loss(self, image, text, logit_scale, logit_bias)

        given = image_features, text_features, logit_scale, logit_bias
        value: Tensor = fused_or_theirs("open_clip", self, ClipLoss, fused, super().forward, *given)
        return {"contrastive_loss": value} if output_dict else value


class SigLipLoss(theirs.SigLipLoss):
    """The ``SigLipLoss`` of open_clip, without the matrix of logits.

    Arguments, values and gradients are those of open_clip, with one process or several, and every ``dist_impl``: its
    own code exchanges the features.

    Example:
        >>> import torch
        >>> from hardmine.integrations.open_clip import SigLipLoss
        >>> image = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
        >>> text = torch.tensor([[0.8, 0.6], [0.6, 0.8]])
        >>> SigLipLoss()(image, text, logit_scale=torch.tensor(10.0), logit_bias=torch.tensor(-10.0))
        tensor(2.1451, grad_fn=<DivBackward0>)
    """

    def _loss(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        negative_only: bool = False,
    ) -> Tensor:
        """The loss of images and texts [B, D] of one process, or of two, whose pairs are all negative."""

        def fused(image: Tensor, text: Tensor, *_: Any) -> Tensor:
            image, text = _features(image, text)
            bias = 0.0 if logit_bias is None else logit_bias
            logit = torch.stack(
                [_number(name, value, image) for name, value in (("scale", logit_scale), ("bias", bias))]
            )
            number = torch.arange(len(image), device=image.device)
            text_number = number.new_full((len(text),), -1) if negative_only else number
            losses, _ = torch.ops.hardmine.sigmoid_loss(
                image, number, text, text_number, logit, SIMILARITIES.index("dot"), allow_tf32(image)
            )
            return as_theirs(ordered_sum(losses) / len(image), image_features)

        given = image_features, text_features, logit_scale, logit_bias, negative_only
        value: Tensor = fused_or_theirs("open_clip", self, SigLipLoss, fused, super()._loss, *given)
        return value


def _features(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """The features that an op takes: under autocast, in the dtype that holds both."""
    if image.dtype != text.dtype and torch.is_autocast_enabled(image.device.type):
        dtype = torch.promote_types(image.dtype, text.dtype)
        image, text = image.to(dtype), text.to(dtype)
    forbid_refused_rows(image, text)
    if len(image) != len(text):
        raise ValueError(
            f"text_features must be [B, D] = {list(image.shape)}, as image_features, got {list(text.shape)}"
        )
    if not len(image):
        raise NotFused(None)  # theirs has a mean of nothing
    return image, text


def _number(name: str, value: Tensor | float, features: Tensor) -> Tensor:
    """A number or a tensor of one element as float64 [] on the device of the features. Differentiable."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.device != features.device:
            raise NotFused(f"its logit_{name} has the shape {list(value.shape)}")
        return value.reshape(()).to(torch.float64)
    return torch.tensor(float(value), dtype=torch.float64, device=features.device)


def _clip_loss(
    loss: theirs.ClipLoss,
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float | None,
) -> Tensor:
    image, text = _features(image_features, text_features)
    scale = _number("scale", logit_scale, image)
    if not scale.is_cuda and not 1e-30 <= scale <= 1e30:
        raise NotFused(f"its logit_scale is {scale.item()}")
    count, all_image, all_text = len(image), image, text
    if loss.world_size > 1:
        all_image, all_text = theirs.gather_features(
            image,
            text,
            local_loss=loss.local_loss,
            gather_with_grad=loss.gather_with_grad,
            rank=loss.rank,
            world_size=loss.world_size,
            use_horovod=loss.use_horovod,
        )
    if loss.world_size > 1 and loss.local_loss:
        number = torch.arange(len(all_image), device=image.device)
        own = number[loss.rank * count : (loss.rank + 1) * count].clone()
        value = (_of_own(image, own, all_text, number, scale) + _of_own(text, own, all_image, number, scale)) / 2
    else:
        value = info_nce_loss(all_image, all_text, temperature=1 / scale, symmetric=True, similarity="dot")
    if logit_bias is not None:  # a bias that is trained has a gradient
        value = value + 0.0 * _number("bias", logit_bias, image).to(value.dtype)
    return as_theirs(value, image_features)


def _of_own(rows: Tensor, own: Tensor, refs: Tensor, number: Tensor, scale: Tensor) -> Tensor:
    """The mean of -log softmax over the refs [W, D] of the one of the row's number."""
    sums, _ = soft_sums((rows, own, refs, number, None, None), 1 / scale, "dot", "all", positives=True)
    return ordered_sum(sums.logsumexp_minus(sums.positive_similarity)) / len(rows)
