"""Any folder of images: how it is split, which files count, and errors about missing parts."""

import os

import pytest

from image_trees import write_image
from papers.datasets import load_image_folder

pytest.importorskip("PIL")


@pytest.fixture
def class_folders(tmp_path):
    """Five classes; class k has k + 1 images."""
    root = tmp_path / "fruit"
    for k, name in enumerate(["apple", "Banana", "cherry", "date", "elderberry"]):
        for image in range(k + 1):
            write_image(root / name / f"{image}.png", (k, image, 0))
    return root


def test_load_image_folder_first_half_of_classes_trains(class_folders):
    split = load_image_folder(class_folders)
    assert split.name == split.train.name == split.test.name == "fruit"
    assert split.train.class_names == ("Banana", "apple", "cherry", "date", "elderberry")  # in the order of sorted()
    assert [(image.getpixel((0, 0))[:2], label) for image, label in split.train] == [
        ((1, 0), 0),
        ((1, 1), 0),
        ((0, 0), 1),
    ]
    assert split.test.labels.tolist() == [2] * 3 + [3] * 4 + [4] * 5
    assert split.query is split.gallery
    assert split.train[0][0].mode == "RGB"


def test_load_image_folder_train_classes_and_name_options(class_folders):
    split = load_image_folder(str(class_folders), name="my fruit", train_classes=3, mode="L")
    assert split.train.labels.unique().tolist() == [0, 1, 2]
    assert split.name == split.train.name == "my fruit"
    assert split.test[0][0].mode == "L"
    for wrong in (1, 4):
        with pytest.raises(ValueError, match=f"train_classes must be from 2 to 3, got {wrong}"):
            load_image_folder(class_folders, train_classes=wrong)
    with pytest.raises(TypeError, match="train_classes must be an integer, got float"):
        load_image_folder(class_folders, train_classes=2.0)


def test_load_image_folder_relative_root_has_folder_name(class_folders, monkeypatch):
    monkeypatch.chdir(class_folders)
    assert load_image_folder(".").name == "fruit"


def test_load_image_folder_train_and_test_folders(tmp_path):
    for k, file in enumerate(["train/b/1.png", "train/c/1.png", "test/a/1.png", "test/c/sub/2.png", "other/d/1.png"]):
        write_image(tmp_path / file, (k, 0, 0))
    split = load_image_folder(tmp_path, name="given")
    assert split.train.class_names == split.test.class_names == ("a", "b", "c")
    assert [(image.getpixel((0, 0))[0], label) for image, label in split.train] == [(0, 1), (1, 2)]
    assert [(image.getpixel((0, 0))[0], label) for image, label in split.test] == [(2, 0), (3, 2)]
    with pytest.raises(ValueError, match=r"train_classes must be None if .*train exists, got 2"):
        load_image_folder(tmp_path, train_classes=2)


def test_load_image_folder_query_and_gallery_folders(tmp_path):
    for k, file in enumerate(["train/a/1.png", "query/b/1.png", "gallery/b/2.png", "gallery/c/3.png"]):
        write_image(tmp_path / file, (k, 0, 0))
    split = load_image_folder(tmp_path)
    assert [part.labels.tolist() for part in (split.train, split.query, split.gallery)] == [[0], [1], [1, 2]]
    assert split.gallery[1][0].getpixel((0, 0)) == (3, 0, 0)


def test_load_image_folder_ignores_hidden_and_other_files(class_folders):
    (class_folders / "apple/._0.png").write_bytes(b"left behind by an archiver")
    (class_folders / "apple/notes.txt").write_text("not an image")
    (class_folders / ".cache").mkdir()
    (class_folders / "readme.txt").write_text("no class")
    split = load_image_folder(class_folders)
    assert len(split.train) + len(split.test) == 15


def test_load_image_folder_missing_folder_raises(class_folders, tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"root must contain images in one folder per class .*: .*nowhere does not exist\. Exp"
        r"ected:\n    ROOT/train/<class>",
    ):
        load_image_folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"0\.png is a file"):
        load_image_folder(class_folders / "apple/0.png")
    with pytest.raises(FileNotFoundError, match="apple contains no folders"):
        load_image_folder(class_folders / "apple")
    (class_folders / "fig").mkdir()
    with pytest.raises(FileNotFoundError, match=r"fig contains no images with the suffixes \.jpg, .*\. Expected:\n"):
        load_image_folder(class_folders)


def test_load_image_folder_too_few_classes_raises(tmp_path):
    for name in "abc":
        write_image(tmp_path / name / "1.png")
    with pytest.raises(
        ValueError, match="root must contain folders of at least 4 classes, 2 of them to train on, got 3"
    ):
        load_image_folder(tmp_path)
    write_image(tmp_path / "d/1.png")
    assert load_image_folder(tmp_path).train.labels.tolist() == [0, 1]


def test_load_image_folder_counts_images_once_whatever_links_lead_to(class_folders, tmp_path):
    """Links to a folder around the classes, to the class itself and to a folder inside it; and a part elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    write_image(elsewhere / "more/5.png", (4, 5, 0))
    (elsewhere / "more/again").symlink_to(elsewhere)
    for name, target in [
        ("root", class_folders),
        ("up", tmp_path),
        ("same", class_folders / "elderberry"),
        ("else", elsewhere),
    ]:
        (class_folders / "elderberry" / name).symlink_to(target)
    (class_folders / "elderberry/else too").symlink_to(elsewhere)
    split = load_image_folder(class_folders)
    assert split.test.labels.tolist() == [2] * 3 + [3] * 4 + [4] * 6
    assert len(set(split.train.paths + split.test.paths)) == 16


def test_load_image_folder_class_that_is_a_link(class_folders, tmp_path):
    write_image(tmp_path / "figs/1.png", (5, 0, 0))
    (class_folders / "fig").symlink_to(tmp_path / "figs")
    assert load_image_folder(class_folders).test.labels.tolist() == [3] * 4 + [4] * 5 + [5]


def test_load_image_folder_link_between_classes_raises(class_folders):
    (class_folders / "date/more").symlink_to(class_folders / "cherry")
    with pytest.raises(ValueError, match=r"one class: links put .*cherry into 'cherry' and 'date'"):
        load_image_folder(class_folders)


def test_load_image_folder_takes_regular_files_alone(class_folders):
    os.mkfifo(class_folders / "apple/pipe.png")
    (class_folders / "apple/gone.png").symlink_to("nothing.png")
    (class_folders / "apple/folder.png").mkdir()
    split = load_image_folder(class_folders)
    assert len(split.train) + len(split.test) == 15
