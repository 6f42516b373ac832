"""Data sets of image files, splits of them, and what is reported about their classes."""

import copy
import os
import pickle

import pytest
import torch

from image_trees import write_image
from papers.datasets import ImageDataset, ImageSplit, SeededTransform

pytest.importorskip("PIL")


class Draws(SeededTransform):
    """Returns its arguments."""

    def __call__(self, image, epoch, index):
        return torch.tensor([image.getpixel((0, 0))[0], epoch, index])


@pytest.fixture
def paths(tmp_path):
    """Five images; the red of image k is 10 k."""
    return [str(write_image(tmp_path / f"{k}.png", (10 * k, 1, 2))) for k in range(5)]


@pytest.fixture
def images(paths):
    return ImageDataset(
        paths, [2, 0, 2, 1, 2], name="five", class_names=["ant", "bee", "cat"], coarse_labels=[7, 8, 7, -1, 7]
    )


def split(train, query, gallery=None, names="abcdefgh"):
    """A split with images that are never read."""
    parts = [
        ImageDataset([f"{part}{k}" for k in range(len(labels))], labels, name="toy", class_names=names)
        for part, labels in enumerate((train, query, gallery or [0]))
    ]
    return ImageSplit("toy", parts[0], parts[1], parts[2] if gallery else parts[1])


def test_image_dataset_items_are_images_and_labels(images, paths):
    assert len(images) == 5
    image, label = images[3]
    assert image.size == (6, 4)
    assert image.mode == "RGB"
    assert image.getpixel((5, 3)) == (30, 1, 2)
    assert (label, type(label)) == (1, int)
    assert images[-1][0].getpixel((0, 0)) == (40, 1, 2)
    assert images[torch.tensor(2)][1] == 2
    assert images.paths == tuple(paths)
    assert images.labels.tolist() == [2, 0, 2, 1, 2]
    assert images.coarse_labels.tolist() == [7, 8, 7, -1, 7]
    assert images.labels.dtype == images.coarse_labels.dtype == torch.int64
    assert images.name == "five"
    assert images.class_names == ("ant", "bee", "cat")
    with pytest.raises(IndexError):
        images[5]


def test_image_dataset_default_names_and_coarse_labels(paths):
    images = ImageDataset(paths, torch.tensor([0, 3, 1, 1, 0], dtype=torch.uint8), name="plain")
    assert tuple(images.class_names) == ("0", "1", "2", "3")
    assert images.coarse_labels is None
    assert images.labels.dtype == torch.int64


def test_image_dataset_mode_l_gives_gray(tmp_path):
    path = write_image(tmp_path / "one.png", (255, 0, 0))
    image, _ = ImageDataset([path], [0], name="gray", mode="L")[0]
    assert image.mode == "L"
    assert image.getpixel((0, 0)) == 76  # 0.299 of 255


def test_with_transform_is_applied(images):
    images = images.with_transform(lambda image: image.getpixel((0, 0))[0] + 1)
    assert [image for image, _ in images] == [1, 11, 21, 31, 41]


def test_seeded_transform_gets_epoch_and_index(images):
    drawn = images.with_transform(Draws())
    assert drawn[3][0].tolist() == [30, 0, 3]
    drawn.set_epoch(7)
    assert drawn[-2][0].tolist() == [30, 7, 3]
    assert drawn.epoch == 7
    # A copy has its own epoch.
    other = drawn.with_transform(Draws())
    other.set_epoch(8)
    assert (images.epoch, drawn.epoch, other.epoch) == (0, 7, 8)
    assert copy.deepcopy(drawn)[0][0].tolist() == [0, 7, 0]
    assert pickle.loads(pickle.dumps(drawn))[1][0].tolist() == [10, 7, 1]


@pytest.mark.subprocess
def test_set_epoch_reaches_persistent_workers(images):
    drawn = images.with_transform(Draws())
    loader = torch.utils.data.DataLoader(drawn, batch_size=5, num_workers=1, persistent_workers=True)
    for epoch in (0, 1, 5):
        drawn.set_epoch(epoch)
        ((batch, labels),) = loader
        assert batch.tolist() == [[10 * k, epoch, k] for k in range(5)]
        assert labels.tolist() == [2, 0, 2, 1, 2]


@pytest.mark.parametrize("rows", [torch.tensor([3, 0]), torch.tensor([True, False, False, True, False])])
def test_select_returns_rows_in_order(images, rows):
    selected = images.with_transform(Draws()).select(rows, "some")
    order = [3, 0] if rows.dtype == torch.int64 else [0, 3]
    assert selected.paths == tuple(images.paths[k] for k in order)
    assert selected.labels.tolist() == [[2, 0, 2, 1, 2][k] for k in order]
    assert selected.coarse_labels.tolist() == [[7, 8, 7, -1, 7][k] for k in order]
    assert selected[1][0].tolist() == [10 * order[1], 0, 1]
    assert selected.name == "some"
    assert selected.class_names == images.class_names
    assert len(images) == 5
    assert images.select(rows).name == "five"


def test_select_keeps_the_epoch(images):
    images.set_epoch(3)
    assert images.select(torch.tensor([0])).epoch == 3


def test_select_nothing_raises(images):
    with pytest.raises(ValueError, match="rows must select at least one image of five, got none"):
        images.select(torch.zeros(5, dtype=torch.bool))


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        ([0.5, 1.0], TypeError, "labels must be integers, got torch.float32"),
        ([True, False], TypeError, "labels must be integers, got torch.bool"),
        ([0], ValueError, r"labels must be \[N\] = \[2\], one per path, got \[1\]"),
        ([[0, 1]], ValueError, r"labels must be \[N\] = \[2\], one per path, got \[1, 2\]"),
        ([0, 3], ValueError, "labels must be from 0 to 2, the number of class_names minus 1, got 0 to 3"),
        ([-1, 2], ValueError, "labels must be from 0 to 2, the number of class_names minus 1, got -1 to 2"),
    ],
)
def test_image_dataset_invalid_labels_raise(labels, kind, message):
    with pytest.raises(kind, match=message):
        ImageDataset(["a", "b"], labels, name="wrong", class_names=["x", "y", "z"])


def test_image_dataset_invalid_arguments_raise(images):
    with pytest.raises(ValueError, match=r"coarse_labels must be \[N\] = \[2\]"):
        ImageDataset(["a", "b"], [0, 1], name="wrong", coarse_labels=[0])
    with pytest.raises(ValueError, match="paths must name at least one image, got none"):
        ImageDataset([], [], name="empty")
    with pytest.raises(TypeError, match="epoch must be an integer, got float"):
        images.set_epoch(1.5)
    with pytest.raises(ValueError, match="epoch must be at least 0, got -1"):
        images.set_epoch(-1)


@pytest.mark.parametrize("damage", ["empty", "cut short", "foreign", "a wrong length", "no number"])
def test_image_dataset_corrupt_image_names_file(paths, damage):
    with open(paths[2], "rb") as file:
        whole = file.read()
    with open(paths[2], "wb") as file:
        file.write(
            {
                "empty": b"",
                "cut short": whole[: len(whole) // 2],
                "foreign": b"not an image",
                "a wrong length": whole[:36] + bytes([whole[36] // 2]) + whole[37:],  # of the pixel data: a SyntaxError
                "no number": b"P6 6 x 255 ",  # as the height: a ValueError
            }[damage]
        )
    with pytest.raises(ValueError, match=r"2\.png is not a readable image: "):
        ImageDataset(paths, [0] * 5, name="damaged")[2]


def test_image_dataset_reads_no_format_that_starts_programs(tmp_path):
    """Pillow runs Ghostscript on PostScript, whatever the file's suffix."""
    path = tmp_path / "cat.jpg"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n%%EndComments\nshowpage\n")
    with pytest.raises(ValueError, match=r"cat\.jpg is not a readable image: cannot identify image file"):
        ImageDataset([path], [0], name="PostScript")[0]


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpg", "png", "ppm", "tiff", "webp"])
def test_image_dataset_reads_each_format(tmp_path, suffix):
    path = write_image(tmp_path / f"1.{suffix}", (200, 200, 200))
    assert ImageDataset([path], [0], name="one")[0][0].getpixel((0, 0)) == pytest.approx((200,) * 3, abs=2)


def test_image_dataset_pipe_raises(tmp_path):
    """Opening a pipe that nobody writes to would wait for ever."""
    os.mkfifo(tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"1\.png is not a readable image: it is not a regular file"):
        ImageDataset([tmp_path / "1.png"], [0], name="pipe")[0]


def test_image_dataset_large_label_takes_no_memory():
    images = ImageDataset(["a", "b"], [0, 10**12], name="sparse")
    assert len(images.class_names) == 10**12 + 1
    assert images.class_names[10**12] == "1000000000000"
    assert images.class_names[:2] == ("0", "1")


def test_image_dataset_missing_file_names_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        ImageDataset([tmp_path / "gone.png"], [0], name="gone")[0]


def test_image_dataset_huge_image_raises(paths, monkeypatch):
    from PIL import Image

    # the image has 24 pixels; Pillow refuses more than twice the limit
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6)
    with pytest.raises(ValueError, match=r"0\.png is not a readable image: .*decompression bomb"):
        ImageDataset(paths, [0] * 5, name="huge")[0]


def test_small_classes_counts_images(images):
    assert images.small_classes() == {0: 1, 1: 1}
    assert images.small_classes(3) == {0: 1, 1: 1}
    assert images.small_classes(4) == {0: 1, 1: 1, 2: 3}
    assert images.small_classes(1) == {}
    with pytest.raises(ValueError, match="images_per_class must be at least 1, got 0"):
        images.small_classes(0)


def test_split_test_requires_query_is_gallery():
    shared = split([0, 0], [1, 1])
    assert shared.test is shared.query is shared.gallery
    separate = split([0, 0], [1, 1], [1, 1])
    with pytest.raises(AttributeError, match="toy has no single test set: use query and gallery"):
        separate.test  # noqa: B018


def test_summary_states_sizes():
    assert split([0, 0, 1, 1], [2, 2, 3, 3, 3]).summary() == (
        "toy: training: 4 images of 2 classes; retrieval: 5 images of 2 classes"
    )
    assert split([0, 0, 1, 1], [2, 3], [2, 2, 3]).summary() == (
        "toy: training: 4 images of 2 classes; retrieval: 2 images of 2 classes in a gallery of 3 images of 2 classes"
    )


def test_summary_lists_too_small_classes():
    train = [0, 0, 0, 1, 2, 3, 4, 5, 6, 6]
    assert split(train, [7, 7]).summary(3).splitlines()[1:] == [
        "training classes with fewer than 3 images, too few for a batch: 6 of 7: "
        "b (1), c (1), d (1), e (1), f (1) and 1 more"
    ]
    assert split([0, 0, 1], [7, 7]).summary().splitlines()[1:] == [
        "training classes with fewer than 2 images, too few for a batch: 1 of 2: b (1)"
    ]


def test_summary_counts_unmatched_queries():
    message = "queries without another image of their class, counted as misses:"
    assert split([0, 0], [1, 2, 2, 3]).summary().splitlines()[1:] == [f"{message} 2 of 4"]
    assert split([0, 0], [1, 2, 2, 3, 1], [2, 3, 4]).summary().splitlines()[1:] == [f"{message} 2 of 5"]
