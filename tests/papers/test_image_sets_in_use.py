"""Image sets used by backbones, by the feature cache and by metrics."""

import shutil

import pytest
import torch

from hardmine import metrics
from image_trees import require_torchvision, write_cub, write_image, write_lines
from papers.datasets import Transforms, cub, hotels, lfw, load_cub, load_hotels, load_lfw_pairs
from papers.networks import cache_features, convnet4

for module in ("PIL", "tqdm", "numpy", "safetensors"):
    pytest.importorskip(module)
require_torchvision()


class Color(torch.nn.Module):
    """The mean of each channel."""

    def forward(self, images):
        return images.mean((2, 3))


def features(part, path):
    return cache_features(Color(), part, path, progress=False)


def test_cache_features_split_cached_for_same_images_only(tmp_path, monkeypatch):
    monkeypatch.setattr(cub, "PUBLISHED", {"training": 12, "test": 0})
    root = write_cub(tmp_path / "one", dict.fromkeys(range(1, 5), 3))
    split = load_cub(root, partial=True).with_transforms(Transforms(size=8))
    kept = features(split.test, tmp_path / "test.safetensors")
    # the red of an image is its class, from 1
    assert torch.allclose(kept[:, 0] * 255, split.test.labels + 1.0, atol=1e-3)
    # A copy in another folder is the same data; another transform is not.
    shutil.move(root, tmp_path / "two")
    moved = load_cub(tmp_path / "two", partial=True)
    again = features(moved.with_transforms(Transforms(size=8)).test, tmp_path / "test.safetensors")
    assert torch.equal(again, kept)
    with pytest.raises(ValueError, match="transform"):
        features(moved.with_transforms(Transforms(size=9)).test, tmp_path / "test.safetensors")
    with pytest.raises(ValueError, match="data"):
        features(moved.train.with_transform(Transforms(size=8).test), tmp_path / "test.safetensors")


def test_transforms_default_output_fits_backbones(tmp_path):
    root = write_cub(tmp_path, dict.fromkeys(range(1, 5), 3))
    split = load_cub(root, partial=True).with_transforms(Transforms(size=16))
    for part in (split.train, split.test):
        images, _ = next(iter(torch.utils.data.DataLoader(part, 4)))
        assert convnet4(16, channels=3)(images).shape[0] == 4


def test_hotel_recall_scores_hotels_and_chains(tmp_path, monkeypatch):
    monkeypatch.setattr(hotels, "PUBLISHED", {"training": 3, "test": 3})
    header = "image_id,hotel_id,image_url,image_source,upload_timestamp"
    lists = tmp_path / "input/dataset"
    write_lines(lists / "hotel_info.csv", "hotel_id,hotel_name,chain_id,latitude,longitude", "1,A,4,0,0", "2,B,4,0,0")
    write_lines(lists / "train_set.csv", header, "11,1,u,web,t", "12,2,u,web,t", "13,3,u,web,t")
    write_lines(lists / "test_set.csv", header, "21,1,u,cam,t", "22,2,u,cam,t", "23,3,u,cam,t")
    red, green, blue = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    for image, place, color in (
        (11, "4/1/web", red),
        (12, "4/2/web", green),
        (13, "Unknown/3/web", blue),
    ):
        write_image(tmp_path / f"images/train/{place}/{image}.png", color)
    # The first query finds its hotel. The second finds another hotel of its chain. The third has no chain, and finds
    # its hotel.
    for image, place, color in ((21, "4/1/cam", red), (22, "4/2/cam", red), (23, "Unknown/3/cam", blue)):
        write_image(tmp_path / f"images/test/unoccluded/{place}/{image}.png", color)
    split = load_hotels(tmp_path, progress=False).with_transforms(Transforms(size=8))
    recall = metrics.hotel_recall(
        features(split.query, tmp_path / "query.safetensors"),
        split.query.labels,
        split.query.coarse_labels,
        features(split.gallery, tmp_path / "gallery.safetensors"),
        split.gallery.labels,
        split.gallery.coarse_labels,
        instance_k=1,
        chain_k=1,
    )
    assert recall.instance == {1: pytest.approx(2 / 3)}
    assert recall.chain == {1: 1.0}


def test_verification_accuracy_uses_folds_of_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(lfw, "PUBLISHED", {"same": 2, "different": 2})
    home = tmp_path / "lfw-py"
    write_lines(home / "pairs.txt", "2 1", "Ann 1 2", "Ann 1 Bob 1", "Bob 1 2", "Ann 2 Bob 2")
    # Bob's second face looks like Ann.
    for person, number, color in (("Ann", 1, 0), ("Ann", 2, 0), ("Bob", 1, 1), ("Bob", 2, 0)):
        write_image(
            home / f"lfw_funneled/{person}/{person}_000{number}.jpg", tuple(250 * (k == color) for k in range(3))
        )
    pairs = load_lfw_pairs(tmp_path).with_transform(Transforms(size=8).test)
    found = metrics.verification_accuracy(
        features(pairs.images, tmp_path / "lfw.safetensors"), pairs.pairs, pairs.same, folds=pairs.folds
    )
    # Each fold is judged by the threshold of the other fold. The first fold gives a threshold halfway between its
    # pairs, which is wrong twice on the second fold. On the second fold two thresholds are equally good. The lowest is
    # used for the first fold, and all pairs are called the same.
    assert found.accuracies == (0.5, 0.0)
