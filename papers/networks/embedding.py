"""From features to embeddings: standardized features, heads, and networks put together of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hardmine.ops._arguments import check_integer, check_number, shape_of
from papers.networks.backbones import Backbone

_ROWS_AT_ONCE = 4096  # whose float64 copies are held at a time


class Standardize(nn.Module):
    """Subtracts a mean from every feature and divides it by a standard deviation, both fixed.

    Features of a frozen backbone have very different scales; a head on them trains far better when they are
    standardized. Both are buffers, so that a checkpoint of the network holds them.

    Args:
        mean: [F], floating.
        std: [F], floating, positive.

    Raises:
        ValueError: They are not two rows of as many finite numbers, `std` positive.
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
        """The standardization after which these features have mean 0 and standard deviation 1.

        Replaces ``(features - features.mean(0)) / features.std(0, correction=0)``, summed in float64. A feature that is
        the same in all rows becomes 0.

        Args:
            features: [N, F], floating, of the training set.

        Returns:
            The module, in the type of the features.

        Raises:
            ValueError: They do not have the shape, there is no row, or a number is not finite.
        """
        if features.ndim != 2 or len(features) == 0 or not features.is_floating_point():
            raise ValueError(f"features must be floating [N, F] with N >= 1, got {features.dtype} {shape_of(features)}")
        parts = features.split(_ROWS_AT_ONCE)
        mean = sum(part.double().sum(0) for part in parts) / len(features)
        std = (sum((part.double() - mean).square().sum(0) for part in parts) / len(features)).sqrt()
        if not (mean.isfinite() & std.isfinite()).all():
            raise ValueError("features must be finite")
        constant = features.amin(0) == features.amax(0)  # whose std may come out next to 0, of rounding alone
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
        hidden_dim: Width of a layer between them; None: there is none.
        normalize: Scale embeddings to unit length. The losses do so themselves.
        standardize: What the features go through first; see `Standardize.of`.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range, or `standardize` is of another number of features.

    Reference:
        One layer: SCT section 5, EP section 5.1, Smart Mining section 4, HTL section 4.
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
                    f"standardize must be of feature_dim = {feature_dim} features, got {len(standardize.mean)}"
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
    """A backbone and a head: embeds images.

    Args:
        backbone: From images to features.
        head: From features to embeddings; a linear layer, say, `EmbeddingHead(backbone.feature_dim, 64)`.
        frozen: Leave the backbone as it is: its weights need no gradients, and it stays in evaluation mode, so that the
            statistics of its batch normalization stay, too. Its features may then be computed once, with
            :func:`papers.networks.cache_features`, and the head be trained on them alone.
        frozen_statistics: Batch normalization of the backbone keeps its means and variances, and uses them in training,
            too; its weights learn. The statistics of few training classes suit other classes badly.
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
        """Training mode; of the head alone where the backbone is frozen, and not of frozen statistics."""
        super().train(mode)
        self._keep_frozen()
        return self

    def _keep_frozen(self) -> None:
        """Evaluation mode for what is frozen, whatever the mode of the rest."""
        if self.frozen:
            self.backbone.eval()
        if self.frozen_statistics:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Embed images, as the backbone takes them, as [B, D]."""
        return self.head(self.backbone(images))


def parameter_groups(model: nn.Module, lr: float, last_layer_factor: float = 10.0) -> list[dict[str, Any]]:
    """The parameters of a model in groups for an optimizer: the last layer learns faster.

    The last layer is the `head` of a model that has one, as `EmbeddingNetwork`: all of it starts from random weights,
    where the backbone has been trained before. Of other models it is the last module that has parameters of its own.

    Args:
        model: The model.
        lr: Learning rate of all parameters but those of the last layer; schedulers of torch scale both alike.
        last_layer_factor: That of the last layer is `last_layer_factor * lr`.

    Returns:
        Two groups, `{"params": [...], "lr": ...}`, the last layer's second. Parameters without gradients, those of a
        frozen backbone, are in neither, and a group without any is left out.

    Raises:
        TypeError: A number is none.
        ValueError: It is not positive, or the model has nothing to train.

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
    with_own = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    return with_own[-1] if with_own else model
