"""Features cached in a file: equal to freshly computed features, and never those of other data."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from feature_cache_cases import (
    CHUNK,
    COUNT,
    Images,
    compute,
    expected_features,
    parts_of,
    small_backbone,
)
from papers.networks import Backbone, cache_features
from support.inputs import seeded

safetensors = pytest.importorskip("safetensors")
safetensors_torch = pytest.importorskip("safetensors.torch")
pytest.importorskip("tqdm")


class Darken:
    """A transform whose repr describes it."""

    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels // self.by

    def __repr__(self) -> str:
        return f"Darken({self.by})"


# Results


def test_cache_features_equal_backbone_output(images, path):
    expected = expected_features(images)
    features = compute(images, path)
    assert torch.equal(features, expected)
    assert features.dtype == torch.float32
    assert features.shape == (COUNT, 6)
    assert expected.std() > 0.01


def test_cache_features_file_contains_features_and_fingerprints(images, path):
    features = compute(Images(path.parents[1], [str(p) for p in images.paths], Darken(2)), path)
    assert os.listdir(path.parent) == [path.name], "no parts are left"
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        assert list(file.keys()) == ["features"]
        assert torch.equal(file.get_tensor("features"), features)
    assert metadata["format"] == "hardmine.features"
    assert metadata["format_version"] == "1"
    assert metadata["transform"] == "Darken(2)"
    assert all(re.fullmatch("sha256 [0-9a-f]{64}", metadata[name]) for name in ("data", "weights"))
    assert re.fullmatch("[0-9a-f]{64}", metadata["sha256"])


def test_cache_features_second_call_reads_file(images, path, monkeypatch):
    features = compute(images, path)
    images.read.clear()
    monkeypatch.setattr(Backbone, "forward", None)
    assert torch.equal(compute(images, path), features)
    assert torch.equal(compute(images, path, chunk=7), features), "the size of the chunks does not matter"
    assert images.read == []


def test_cache_features_accepts_tensor(path):
    pixels = torch.randint(256, (COUNT, 3, 8, 8), generator=seeded(0), dtype=torch.uint8)
    with torch.no_grad():
        expected = torch.cat([small_backbone().eval()(some) for some in pixels.split(CHUNK)])
    assert torch.equal(compute(pixels, path), expected)
    assert torch.equal(compute(pixels, path), expected)
    changed = pixels.clone()
    changed[3, 1, 4, 4] ^= 1
    for other in (changed, pixels[:-1], pixels.flip(0), pixels / 255):
        with pytest.raises(ValueError, match="contains features of other data: "):
            compute(other, path)


def test_cache_features_restores_training_mode(images, path):
    backbone = small_backbone().train()
    backbone.trunk[1].eval()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    assert torch.equal(compute(images, path, backbone), expected_features(images))
    assert backbone.training
    assert [part.training for part in backbone.trunk] == [True, False, True, True, True, True]
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_cache_features_accepts_relative_path_without_suffix(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert torch.equal(compute(images, "features"), expected_features(images))
    assert Path("features").is_file()


@pytest.mark.subprocess
def test_cache_features_workers_read_images(images, path):
    assert torch.equal(compute(images, path, num_workers=1), expected_features(images))
    assert images.read == list(range(COUNT)), "by the test itself only"


# Which data and weights the features belong to


def test_cache_features_other_bytes_or_names_raise(images, path, tmp_path):
    compute(images, path)
    content = images.paths[5].read_bytes()
    images.paths[5].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"contains features of other data: data 'sha256 .*', requested data 'sha256 "):
        compute(images, path)
    images.paths[5].write_bytes(content)
    compute(images, path)
    names = [str(p) for p in images.paths]
    for other in (names[:-1], [names[1], names[0], *names[2:]], [*names[:-1], names[0]]):
        with pytest.raises(ValueError, match="contains features of other data: "):
            compute(Images(Path("/"), other), path)
    images.paths[5].rename(images.paths[5].with_name("99.raw"))
    with pytest.raises(ValueError, match="contains features of other data: "):
        compute(Images(Path("/"), [*names[:5], str(images.paths[5].with_name("99.raw")), *names[6:]]), path)


def test_cache_features_moved_data_is_same_data(images, path, tmp_path, monkeypatch):
    """Files are known by their names relative to the folder that holds all images."""
    features = compute(images, path)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "images", tmp_path / "elsewhere" / "pictures")
    names = [str(p.relative_to(tmp_path / "images")) for p in images.paths]
    moved = Images(tmp_path / "elsewhere" / "pictures", names)
    assert torch.equal(compute(moved, path), features)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert torch.equal(compute(Images(Path("pictures"), names), path), features)


def test_cache_features_other_weights_raise(images, path):
    compute(images, path)

    def refused(change):
        backbone = small_backbone()
        change(backbone)
        with pytest.raises(ValueError, match="contains features of other weights: "):
            compute(images, path, backbone)

    refused(lambda b: b.trunk[0].weight.data[0, 0, 0, 0].add_(1e-6))
    refused(lambda b: b.trunk[1].running_var.add_(0.1))
    refused(lambda b: b.mean.add_(0.1))
    refused(lambda b: b.double())
    refused(lambda b: b.trunk.insert(2, nn.Tanh()))
    other = small_backbone()
    other.weights = "from/another/file"
    compute(images, path, other)


def test_cache_features_other_transform_raises(images, path):
    names = [str(p) for p in images.paths]
    compute(Images(Path("/"), names, Darken(2)), path)
    compute(Images(Path("/"), names, Darken(2)), path)
    with pytest.raises(
        ValueError, match=re.escape("other transform: transform 'Darken(2)', requested transform 'Darke")
    ):
        compute(Images(Path("/"), names, Darken(3)), path)
    with pytest.raises(
        ValueError, match=re.escape("other transform: transform 'Darken(2)', requested transform 'None'")
    ):
        compute(images, path)
    message = r"other weights and transform: weights 'sha256 .*', transform 'Darken\(2\)', requested weights 'sha256 "
    with pytest.raises(ValueError, match=message):
        compute(images, path, small_backbone(nn.Tanh))


def test_cache_features_unidentified_transform_raises(images, path):
    images.transform = lambda pixels: pixels
    message = "dataset.transform must have a repr that identifies it, unless transform_fingerprint is given, got <func"
    with pytest.raises(ValueError, match=re.escape(message)):
        compute(images, path)
    compute(images, path, transform_fingerprint="identity")
    assert images.read
    with pytest.raises(ValueError, match="other transform: transform 'identity', requested transform 'None'"):
        compute(Images(Path("/"), [str(p) for p in images.paths]), path)


def test_cache_features_unidentified_backbone_raises(images, path):
    backbone = small_backbone()
    backbone.extra_repr = lambda: repr(object())
    with pytest.raises(ValueError, match=r"backbone must have a repr that identifies it, including its parts, got "):
        compute(images, path, backbone)


def test_cache_features_data_without_paths_needs_fingerprint(path):
    pixels = torch.randint(256, (COUNT, 3, 8, 8), generator=seeded(0), dtype=torch.uint8)
    data = torch.utils.data.TensorDataset(pixels)
    message = (
        "dataset must be a tensor or have paths, the files of its images, got a TensorDataset; "
        "without them, pass data_fingerprint"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        compute(data, path)
    features = compute(data, path, data_fingerprint="noise, seed 0")
    assert torch.equal(compute(data, path, data_fingerprint="noise, seed 0"), features)
    with pytest.raises(ValueError, match="other data: data 'noise, seed 0', requested data 'noise, seed 1'"):
        compute(data, path, data_fingerprint="noise, seed 1")


def test_cache_features_fingerprint_given_skips_reading_files(images, path):
    features = compute(images, path, data_fingerprint="mine")
    for file in images.paths:
        file.unlink()
    assert torch.equal(compute(images, path, data_fingerprint="mine"), features)


# Files of another kind


def test_cache_features_damaged_file_raises(images, path):
    compute(images, path)
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    for damaged, message in (
        (whole[:-3], "is truncated or damaged"),
        (b"", "is truncated or damaged"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), "is damaged: its checksum does not match its contents; delete it"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + message):
            compute(images, path)
        assert path.read_bytes() == damaged, "left for whoever wants to look at it"
    header["__metadata__"]["transform"] = "Nope"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
    with pytest.raises(ValueError, match="checksum"):
        compute(images, path)


def test_cache_features_other_file_kind_raises(images, path):
    path.parent.mkdir()
    safetensors_torch.save_file({"features": torch.ones(COUNT, 6)}, path)
    message = f"{path} is not a file of features; delete it or choose another path"
    with pytest.raises(ValueError, match=re.escape(message)):
        compute(images, path)
    safetensors_torch.save_file(
        {"features": torch.ones(COUNT, 6)}, path, {"format": "hardmine.features", "format_version": "2"}
    )
    with pytest.raises(
        ValueError, match=r"has the format version '2', hardmine .* reads '1'; delete it or choose another"
    ):
        compute(images, path)
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        compute(images, path)


def test_cache_features_other_image_count_raises(images, path):
    compute(images, path, data_fingerprint="mine")
    few = Images(Path("/"), [str(p) for p in images.paths[:6]])
    with pytest.raises(ValueError, match=f"must contain 6 rows from row 0 on, got {COUNT} from row 0"):
        compute(few, path, data_fingerprint="mine")


def test_cache_features_impossible_folder_fails_first(images, path):
    path.parent.write_text("a file")
    with pytest.raises(OSError, match=re.escape(str(path.parent))):
        compute(images, path)
    assert images.read == []


# Other errors


def test_cache_features_nonfinite_feature_names_image(images, path):
    class Broken(Backbone):
        def forward(self, some):
            features = super().forward(some)
            features[0] += float("nan") if len(some) == 2 else 0  # the last, shorter chunk, which begins at image 16
            return features

    backbone = small_backbone()
    backbone.__class__ = Broken
    backbone.train()
    with pytest.raises(FloatingPointError, match="a non-finite one for image 16"):
        compute(images, path, backbone)
    assert len(parts_of(path)) == 4
    assert all(part.training for part in backbone.modules())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"backbone": torch.relu}, TypeError, "backbone must be a torch.nn.Module, got builtin_function_or_method"),
        ({"chunk": 0}, ValueError, "chunk must be at least 1, got 0"),
        ({"chunk": 2.0}, TypeError, "chunk must be an integer, got float"),
        ({"dataset": torch.ones(0, 3, 8, 8)}, ValueError, "dataset must contain at least one image, got none"),
    ],
)
def test_cache_features_invalid_arguments_raise(changes, error, message, path):
    given = {"backbone": small_backbone(), "dataset": torch.ones(2, 3, 8, 8), "path": path, **changes}
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        cache_features(**given)
    assert not path.parent.exists()


def test_cache_features_path_count_mismatch_raises(images, path):
    images.paths = images.paths[:-1]
    images.__class__ = type("Longer", (Images,), {"__len__": lambda self: COUNT})
    with pytest.raises(ValueError, match=f"dataset must have one path for each of its {COUNT} images, got 17 paths"):
        compute(images, path)
