"""From features to embeddings: standardization, heads, and networks of a backbone and a head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hardmine.ops._arguments import shape_of
from hardmine.ops._numbers import check_integer, check_number
from papers.networks.backbones import Backbone

_CHUNK_ROWS = 4096  # rows with a float64 copy in memory at once


class Standardize(nn.Module):
    """Subtract a fixed mean from every feature and divide by a fixed standard deviation.

    Features of a frozen backbone have very different scales, and a head trains far better on standardized ones. Mean
    and standard deviation are buffers, so a checkpoint of the network contains them.

    Args:
        mean: [F], floating.
        std: [F], floating, positive.

    Raises:
        ValueError: `mean` and `std` are not two vectors of the same length, finite, with a positive `std`.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        if mean.ndim != 1 or mean.shape != std.shape:
            raise ValueError(f"mean and std must be [F] each, got {shape_of(mean)} and {shape_of(std)}")
        if not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
            raise ValueError("mean and std must be finite and std positive")
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @classmethod
    def of(cls, features: Tensor) -> Standardize:
        """The standardization that gives these features mean 0 and standard deviation 1.

        Replaces ``(features - features.mean(0)) / features.std(0, correction=0)``, summed in float64. A feature that is
        constant over all rows becomes 0.

        Args:
            features: [N, F], floating, of the training set.

        Returns:
            The module, in the features' dtype.

        Raises:
            ValueError: `features` has another shape, no rows, or a value that is not finite.
        """
        if features.ndim != 2 or len(features) == 0 or not features.is_floating_point():
            raise ValueError(f"features must be floating [N, F] with N >= 1, got {features.dtype} {shape_of(features)}")
        chunks = features.split(_CHUNK_ROWS)
        mean = sum(chunk.double().sum(0) for chunk in chunks) / len(features)
        std = (sum((chunk.double() - mean).square().sum(0) for chunk in chunks) / len(features)).sqrt()
        if not (mean.isfinite() & std.isfinite()).all():
            raise ValueError("features must be finite")
        constant = features.amin(0) == features.amax(0)  # rounding can give these a tiny nonzero std
        std = torch.where(constant | (std.to(features.dtype) == 0), 1.0, std)
        return cls(mean.to(features.dtype), std.to(features.dtype))

    def forward(self, features: Tensor) -> Tensor:
        """Standardize features [B, F]."""
        return (features - self.mean) / self.std


class EmbeddingHead(nn.Module):
    """A linear layer from features to embeddings, or two with a ReLU between them.

    Args:
        feature_dim: Number of the features.
        embedding_dim: Dimensions of the embedding.
        hidden_dim: Width of the hidden layer, or None for no hidden layer.
        normalize: Scale embeddings to unit length. The losses normalize their inputs anyway.
        standardize: Applied to the features first; see `Standardize.of`.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range, or `standardize` has another number of features.

    Reference:
        One layer: SCT section 6, EP section 5.1, Smart Mining section 4, HTL section 4.
    """

    def __init__(
        self,
        feature_dim: int,
        embedding_dim: int,
        *,
        hidden_dim: int | None = None,
        normalize: bool = False,
        standardize: Standardize | None = None,
    ) -> None:
        super().__init__()
        feature_dim = check_integer("feature_dim", feature_dim, 1)
        self.embedding_dim = check_integer("embedding_dim", embedding_dim, 1)
        layers: list[nn.Module] = []
        if standardize is not None:
            if len(standardize.mean) != feature_dim:
                raise ValueError(
                    f"standardize must have feature_dim = {feature_dim} features, got {len(standardize.mean)}"
                )
            layers.append(standardize)
        if hidden_dim is not None:
            layers += [nn.Linear(feature_dim, check_integer("hidden_dim", hidden_dim, 1)), nn.ReLU()]
            feature_dim = hidden_dim
        self.layers = nn.Sequential(*layers, nn.Linear(feature_dim, self.embedding_dim))
        self.normalize = normalize

    def forward(self, features: Tensor) -> Tensor:
        """Embed features [B, F] as [B, D]."""
        embeddings = self.layers(features)
        return nn.functional.normalize(embeddings) if self.normalize else embeddings


class EmbeddingNetwork(nn.Module):
    """A backbone and a head, which together embed images.

    Args:
        backbone: Maps images to features.
        head: Maps features to embeddings, for example `EmbeddingHead(backbone.feature_dim, 64)`, a linear layer.
        frozen: Keep the backbone unchanged. Its weights need no gradients, and it stays in evaluation mode, so its
            batch-normalization statistics stay too. Its features can then be computed once, with
            :func:`papers.networks.cache_features`, and the head trained on them alone.
        frozen_statistics: The backbone's batch normalization keeps its means and variances and uses them in training
            too, while its weights learn. Statistics of few training classes suit other classes badly.
    """

    def __init__(
        self, backbone: Backbone, head: nn.Module, *, frozen: bool = False, frozen_statistics: bool = False
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.frozen, self.frozen_statistics = backbone, head, frozen, frozen_statistics
        if frozen:
            backbone.requires_grad_(False)
        self._keep_frozen()

    def train(self, mode: bool = True) -> EmbeddingNetwork:
        """Set the training mode. A frozen backbone and frozen statistics stay in evaluation mode."""
        super().train(mode)
        self._keep_frozen()
        return self

    def _keep_frozen(self) -> None:
        """Put frozen modules into evaluation mode, regardless of the others' mode."""
        if self.frozen:
            self.backbone.eval()
        if self.frozen_statistics:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Embed images, in the backbone's input format, as [B, D]."""
        return self.head(self.backbone(images))


def parameter_groups(model: nn.Module, lr: float, last_layer_factor: float = 10.0) -> list[dict[str, Any]]:
    """Group a model's parameters for an optimizer, with a higher learning rate for the last layer.

    If the model has a `head`, like `EmbeddingNetwork`, the last layer is the complete head: it starts from random
    weights, while the backbone is pretrained. Otherwise it is the last module that directly has parameters.

    Args:
        model: The model.
        lr: Learning rate of all parameters except the last layer's. torch's schedulers scale both groups alike.
        last_layer_factor: The last layer's learning rate is `last_layer_factor * lr`.

    Returns:
        Two groups, `{"params": [...], "lr": ...}`; the second is the last layer's. Parameters without gradients, such
        as a frozen backbone's, are in neither group. An empty group is left out.

    Raises:
        TypeError: A numeric argument is not a number.
        ValueError: A numeric argument is not positive, or the model has no trainable parameter.

    Reference:
        Smart Mining section 4, with a factor of 10.
    """
    lr = check_number("lr", lr, above=0.0)
    factor = check_number("last_layer_factor", last_layer_factor, above=0.0)
    last = {id(parameter) for parameter in _last_layer(model).parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if id(parameter) not in last], "lr": lr},
        {"params": [parameter for parameter in trained if id(parameter) in last], "lr": lr * factor},
    ]
    if not trained:
        raise ValueError("model must have parameters that need gradients, got none")
    return [group for group in groups if group["params"]]


def _last_layer(model: nn.Module) -> nn.Module:
    if isinstance(getattr(model, "head", None), nn.Module):
        return model.head
    parametrized = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    return parametrized[-1] if parametrized else model
