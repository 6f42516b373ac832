"""Loading digits and Omniglot: shapes, splits, order, and error messages."""

import os
from pathlib import Path

import pytest
import torch

from image_trees import load_partial, unpack
from papers.datasets import IMAGE_SPLITS, load_digits, load_omniglot, load_omniglot_images
from papers.datasets import omniglot as omniglot_module

pytest.importorskip("sklearn")
pytest.importorskip("tqdm")
Image = pytest.importorskip("PIL.Image")

HALVES = {
    "images_background": {"Greek": {"character01": 2, "character02": 1}, "Latin": {"character01": 3}},
    "images_evaluation": {"Tengwar": {"character01": 2, "character02": 2}},
}


def draw(path: Path, ink: tuple[int, int, int, int]) -> None:
    """Write a 105 x 105 one-bit drawing: white paper with one black box."""
    image = Image.new("1", (105, 105), 1)
    image.paste(0, ink)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def omniglot(tmp_path: Path) -> Path:
    """A small Omniglot; drawing k of a character has its ink k rows lower."""
    for half, alphabets in HALVES.items():
        for alphabet, characters in alphabets.items():
            for character, drawings in characters.items():
                for k in range(drawings):
                    path = tmp_path / "omniglot-py" / half / alphabet / character / f"0001_{k + 1:02d}.png"
                    draw(path, (0, 15 * k, 105, 15 * k + 15))
    return tmp_path


def test_load_digits_splits_by_class():
    split = load_digits()
    assert len(split.train_images) + len(split.test_images) == 1797
    assert split.train_labels.unique().tolist() == [0, 2, 4, 6, 8]
    assert split.test_labels.unique().tolist() == [1, 3, 5, 7, 9]
    for images, labels in (split.train_images, split.train_labels), (split.test_images, split.test_labels):
        assert images.shape == (len(labels), 1, 8, 8)
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert images.min() == 0
        assert images.max() == 1


def test_load_digits_keeps_images_with_labels():
    from sklearn.datasets import load_digits as original

    digits = original()
    split = load_digits(train_classes=[3, 7])
    threes = torch.from_numpy(digits.images[digits.target == 3] / 16).float()
    assert torch.equal(split.train_images[split.train_labels == 3].squeeze(1), threes)


@pytest.mark.parametrize("classes", [[], [1], range(9), [1, 10], [-1, 2]])
def test_load_digits_invalid_classes_raise(classes):
    with pytest.raises(ValueError, match="train_classes must be 2 to 8 of the digits 0 to 9, got"):
        load_digits(classes)


@pytest.mark.parametrize("inside", ["", "omniglot-py"])
def test_load_omniglot_official_layout(omniglot, inside):
    split = load_omniglot(omniglot / inside, progress=False)
    assert split.train_labels.tolist() == [0, 0, 1, 2, 2, 2]
    assert split.test_labels.tolist() == [3, 3, 4, 4]
    assert split.train_images.shape == (6, 1, 28, 28)
    assert split.test_images.shape == (4, 1, 28, 28)
    assert split.train_images.dtype == split.test_images.dtype == torch.float32
    assert split.train_labels.dtype == split.test_labels.dtype == torch.int64


def test_load_omniglot_ink_is_1_and_order_kept(omniglot):
    split = load_omniglot(omniglot, progress=False)
    latin = split.train_images[split.train_labels == 2]
    for k, image in enumerate(latin[:, 0]):
        rows = image.mean(dim=1)
        assert rows.argmax() in (4 * k, 4 * k + 1, 4 * k + 2)  # 15 of 105 rows become 4 of 28
        assert rows.max() == 1
        assert rows.min() == 0
        assert torch.isclose(image.mean(), torch.tensor(15 / 105), atol=0.01)


def test_load_omniglot_size_sets_image_size(omniglot):
    assert load_omniglot(omniglot, size=14, progress=False).train_images.shape[2:] == (14, 14)
    with pytest.raises(ValueError, match="size must be at least 1 pixel, got 0"):
        load_omniglot(omniglot, size=0, progress=False)


def test_load_omniglot_ignores_hidden_and_other_files(omniglot):
    character = omniglot / "omniglot-py/images_background/Latin/character01"
    (character / "._0001_01.png").write_bytes(b"left behind by an archiver")
    (character / "notes.txt").write_text("not a drawing")
    (omniglot / "omniglot-py/images_background/.cache").mkdir()
    assert len(load_omniglot(omniglot, progress=False).train_images) == 6


def test_load_omniglot_missing_root_shows_expected_tree(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist. Expected:\n.*images_background/<Alphabet>"):
        load_omniglot(tmp_path / "nowhere")


def test_load_omniglot_missing_half_raises(omniglot):
    (omniglot / "omniglot-py/images_evaluation").rename(omniglot / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"only .*images_background exists. Expected:"):
        load_omniglot(omniglot)


def test_load_omniglot_packed_archive_raises(tmp_path):
    (tmp_path / "omniglot.tar.xz").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"omniglot\.tar\.xz is not unpacked; unpack it"):
        load_omniglot(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"omniglot\.tar\.xz is a file; unpack it"):
        load_omniglot(tmp_path / "omniglot.tar.xz")


def test_load_omniglot_empty_folders_raise(omniglot):
    (omniglot / "omniglot-py/images_evaluation/Tengwar/character03").mkdir()
    with pytest.raises(FileNotFoundError, match="character03 contains no PNG drawings"):
        load_omniglot(omniglot, progress=False)
    (omniglot / "omniglot-py/images_background/Empty").mkdir()
    with pytest.raises(FileNotFoundError, match="Empty contains no folders"):
        load_omniglot(omniglot, progress=False)


@pytest.mark.parametrize("damage", ["empty", "cut short", "foreign"])
def test_load_omniglot_corrupt_image_raises(omniglot, damage):
    path = omniglot / "omniglot-py/images_evaluation/Tengwar/character02/0001_02.png"
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "cut short": whole[: len(whole) // 2], "foreign": b"not an image"}[damage])
    with pytest.raises(ValueError, match=r"character02.0001_02\.png is not a readable image"):
        load_omniglot(omniglot, progress=False)


@pytest.fixture
def counts(monkeypatch):
    """The published counts of the small Omniglot."""
    published = omniglot_module.PUBLISHED
    monkeypatch.setattr(omniglot_module, "PUBLISHED", {"training": 6, "test": 4})
    return published


@pytest.mark.parametrize("inside", ["", "omniglot-py"])
def test_load_omniglot_images_match_tensors(omniglot, counts, inside):
    split = load_omniglot_images(omniglot / inside)
    assert split.name == split.train.name == split.test.name == "Omniglot"
    tensors = load_omniglot(omniglot, size=105, progress=False)
    for part, images, labels in (
        (split.train, tensors.train_images, tensors.train_labels),
        (split.test, tensors.test_images, tensors.test_labels),
    ):
        assert torch.equal(part.labels, labels)
        for (image, label), expected, number in zip(part, images, labels, strict=True):
            assert (image.mode, image.size, label) == ("L", (105, 105), number)
            ink = [1 - value / 255 for value in image.tobytes()]
            assert torch.equal(torch.tensor(ink).view(105, 105), expected[0])
    assert split.train.class_names == (
        "Greek/character01",
        "Greek/character02",
        "Latin/character01",
        "Tengwar/character01",
        "Tengwar/character02",
    )
    assert split.query is split.gallery


def test_load_omniglot_images_partial_copy(omniglot, counts):
    assert counts == {"training": 19280, "test": 13180}
    (omniglot / "omniglot-py/images_background/Latin/character01/0001_02.png").unlink()
    message = r"all of Omniglot: .*omniglot-py has 5 training images \(6 published\), 4 test images \(4 published\)"
    split = load_partial(load_omniglot_images, omniglot, message)
    assert split.name == split.train.name == split.gallery.name == "Omniglot, partial"
    assert split.train.labels.tolist() == [0, 0, 1, 2, 2]
    with pytest.raises(FileNotFoundError, match=r"root must contain Omniglot .* does not contain it"):
        load_omniglot_images(omniglot / "omniglot-py/images_background/Latin")


def test_image_splits_load_by_name(omniglot, counts):
    assert sorted(IMAGE_SPLITS) == ["cars", "cub", "hotels", "in_shop", "omniglot", "online_products"]
    assert IMAGE_SPLITS["omniglot"](omniglot, partial=True).name == "Omniglot"
    for loader in IMAGE_SPLITS.values():
        with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
            loader(omniglot / "nowhere", partial=True)


@pytest.fixture(scope="module")
def complete_omniglot(tmp_path_factory):
    """The real Omniglot, unpacked if HARDMINE_DATA has only the archive."""
    root = Path(os.environ.get("HARDMINE_DATA") or "nowhere")
    if any((root / home / "images_background").is_dir() for home in ("", "omniglot-py")):
        return root
    return unpack("omniglot.tar.xz", tmp_path_factory.mktemp("omniglot"))


def test_load_omniglot_real_complete_set(complete_omniglot):
    split = load_omniglot(complete_omniglot, progress=False)
    assert len(split.train_images) == 964 * 20
    assert len(split.test_images) == 659 * 20
    assert split.train_labels.bincount().eq(20).all()
    assert split.test_labels.min() == 964
    assert split.test_labels.bincount()[964:].eq(20).all()
    ink = split.train_images.mean()
    assert 0.02 < ink < 0.2, f"strokes cover a few percent of the paper, got {ink}"


def test_load_omniglot_images_real_complete_set(complete_omniglot):
    split = load_omniglot_images(complete_omniglot)
    assert split.name == "Omniglot"
    assert (len(split.train), len(split.test)) == (19280, 13180)
    assert (split.train.labels.max(), split.test.labels.min(), split.test.labels.max()) == (963, 964, 1622)
    assert split.train.small_classes(20) == split.test.small_classes(20) == {}
    assert split.train[0][0].size == (105, 105)
