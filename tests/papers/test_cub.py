"""CUB-200-2011: its lists, its split by class, complete and partial copies."""

import re

import pytest
import torch

from image_trees import load_partial, unpack, write_cub, write_image, write_lines
from papers.datasets import cub, load_cub

pytest.importorskip("PIL")


@pytest.fixture
def small_counts(monkeypatch):
    """The published counts of the tiny copy: 3 images of each of 200 classes."""
    monkeypatch.setattr(cub, "PUBLISHED", {"training": 300, "test": 300})


@pytest.fixture(scope="module")
def complete_cub(tmp_path_factory):
    return write_cub(tmp_path_factory.mktemp("whole"), dict.fromkeys(range(1, 201), 3))


def test_published_counts_match_paper():
    assert cub.PUBLISHED == {"training": 5864, "test": 5924}
    assert sum(cub.PUBLISHED.values()) == 11788


@pytest.mark.parametrize("inside", ["", "CUB_200_2011"])
@pytest.mark.parametrize("partial", [False, True])
def test_load_cub_first_100_classes_train(complete_cub, small_counts, inside, partial):
    split = load_cub(complete_cub / inside, partial=partial)
    assert split.name == split.train.name == split.test.name == "CUB"
    assert split.train.labels.tolist() == [label for label in range(100) for _ in range(3)]
    assert split.test.labels.tolist() == [label for label in range(100, 200) for _ in range(3)]
    assert split.query is split.gallery
    image, label = split.test[4]
    assert (image.getpixel((0, 0)), label) == ((102, 1, 0), 101)  # class 102 has label 101
    assert split.test.paths[4].endswith("CUB_200_2011/images/102.Bird_102/Bird_102_0001.png")
    assert split.train.class_names[0] == "001.Bird_1"
    assert split.test.class_names[199] == "200.Bird_200"


def test_load_cub_expands_user_folder(complete_cub, small_counts, monkeypatch):
    monkeypatch.setenv("HOME", str(complete_cub))
    monkeypatch.setenv("USERPROFILE", str(complete_cub))
    assert load_cub("~").name == load_cub("~/CUB_200_2011").name == "CUB"
    with pytest.raises(FileNotFoundError, match=rf"{re.escape(str(complete_cub / 'nowhere'))} does not exist"):
        load_cub("~/nowhere")


def test_load_cub_first_classes_only_named_and_halved(tmp_path, small_counts):
    root = write_cub(tmp_path, dict.fromkeys(range(1, 11), 3))
    message = (
        r"root must contain all of CUB-200-2011: .*CUB_200_2011 has 30 training images "
        r"\(300 published\), 0 test images \(300 published\)\. Use partial=True to accept"
    )
    split = load_partial(load_cub, root, message)
    assert split.name == split.train.name == split.gallery.name == "CUB, first 10 classes"
    assert split.train.labels.tolist() == [label for label in range(5) for _ in range(3)]
    assert split.test.labels.tolist() == [label for label in range(5, 10) for _ in range(3)]


def test_load_cub_102_classes_keep_split(tmp_path, small_counts):
    split = load_cub(write_cub(tmp_path, dict.fromkeys(range(1, 103), 3)), partial=True)
    assert split.name == "CUB, first 102 classes"
    assert split.train.labels.unique().tolist() == list(range(100))
    assert split.test.labels.unique().tolist() == [100, 101]


def test_load_cub_one_test_class_splits_in_half(tmp_path, small_counts):
    split = load_cub(write_cub(tmp_path, dict.fromkeys(range(1, 102), 3)), partial=True)
    assert split.train.labels.unique().tolist() == list(range(50))
    assert split.test.labels.unique().tolist() == list(range(50, 101))


def test_load_cub_one_training_class_splits_in_half(tmp_path, small_counts):
    split = load_cub(write_cub(tmp_path, dict.fromkeys(range(100, 105), 3)), partial=True)
    assert split.train.labels.unique().tolist() == [99, 100]
    assert split.test.labels.unique().tolist() == [101, 102, 103]


@pytest.mark.parametrize(
    "kept",
    [
        {1: 3, 2: 2, 3: 3, 4: 3},  # an image of a class is missing
        {1: 3, 2: 3, 4: 3, 5: 3},  # a class in the middle is missing
        {197: 3, 198: 3, 199: 3, 200: 3},
    ],
)
def test_load_cub_other_subsets_named_partial(tmp_path, small_counts, kept):
    split = load_cub(write_cub(tmp_path, kept), partial=True)
    assert split.name == split.train.name == "CUB, partial"
    assert len(split.train) + len(split.test) == sum(kept.values())
    assert len(split.train.labels.unique()) == len(split.test.labels.unique()) == 2


def test_load_cub_truncated_label_list_named_partial(tmp_path, small_counts):
    home = write_cub(tmp_path, dict.fromkeys(range(1, 6), 3)) / "CUB_200_2011"
    labels = (home / "image_class_labels.txt").read_text().splitlines()
    write_lines(home / "image_class_labels.txt", *labels[:15])
    assert load_cub(tmp_path, partial=True).name == "CUB, partial"


@pytest.mark.slow
def test_load_cub_missing_files_named_and_counted(tmp_path, small_counts):
    root = write_cub(tmp_path, dict.fromkeys(range(1, 201), 3))
    for k in (0, 2):
        (root / f"CUB_200_2011/images/003.Bird_3/Bird_3_000{k}.png").unlink()
    message = (
        r"has 298 training images \(300 published\), 300 test images \(300 published\)\. "
        r"2 listed files are missing, the first is .*003\.Bird_3.Bird_3_0000\.png\. Use"
    )
    split = load_partial(load_cub, root, message)
    assert split.name == "CUB, partial"
    assert (len(split.train), len(split.test)) == (298, 300)
    assert split.train.small_classes(3) == {2: 1}
    assert split.train[6][0].getpixel((0, 0)) == (3, 1, 0)
    assert split.train[7][0].getpixel((0, 0)) == (4, 0, 0)


def test_load_cub_more_images_than_published_is_partial(complete_cub, monkeypatch):
    monkeypatch.setattr(cub, "PUBLISHED", {"training": 299, "test": 300})
    assert load_partial(load_cub, complete_cub, r"300 training images \(299 published\)").name == "CUB, partial"


def test_load_cub_more_listed_than_published_is_partial(tmp_path, small_counts):
    home = write_cub(tmp_path, dict.fromkeys(range(1, 201), 3)) / "CUB_200_2011"
    for file, line in {"images.txt": "601 one.jpg", "image_class_labels.txt": "601 1"}.items():
        write_lines(home / file, (home / file).read_text() + line)
    message = r"300 test images \(300 published\)\. 1 listed files .* the first is .*one\.jpg"
    assert load_partial(load_cub, tmp_path, message).name == "CUB, partial"


def test_load_cub_no_images_raises(tmp_path, small_counts):
    root = write_cub(tmp_path, {1: 3, 2: 3})
    for file in root.glob("CUB_200_2011/images/*/*.png"):
        file.unlink()
    for partial in (False, True):
        with pytest.raises(
            FileNotFoundError,
            match=r"none of the images listed in .* exists: the first "
            r"missing file is .*Bird_1_0000\.png\. Expected:\n    ROOT/CUB_200_2011/images\.txt",
        ):
            load_cub(root, partial=partial)


def test_load_cub_empty_lists_raise(tmp_path, small_counts):
    root = write_cub(tmp_path, {})
    (root / "CUB_200_2011/images").mkdir()
    with pytest.raises(FileNotFoundError, match=r"none of the images listed in .* exists\. Expected"):
        load_cub(root)


def test_load_cub_too_few_classes_raises(tmp_path, small_counts):
    with pytest.raises(ValueError, match="root must contain images of at least 4 classes, got 3"):
        load_cub(write_cub(tmp_path, {1: 3, 2: 3, 3: 3}), partial=True)


@pytest.mark.parametrize("lost", ["images.txt", "image_class_labels.txt", "classes.txt"])
def test_load_cub_missing_list_raises(tmp_path, lost):
    root = write_cub(tmp_path, {1: 1})
    (root / "CUB_200_2011" / lost).unlink()
    with pytest.raises(FileNotFoundError, match=rf"official layout: .*CUB_200_2011.{lost} is missing\. Expected:\n"):
        load_cub(root, partial=True)


def test_load_cub_missing_root_raises(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"root must contain CUB-200-2011 .*: .*nowhere does not exist\. Expected:\n"
    ):
        load_cub(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"does not contain it\. Expected:\n"):
        load_cub(tmp_path)
    write_lines(tmp_path / "another.tgz", "")
    with pytest.raises(FileNotFoundError, match=r"does not contain it\. Expected:\n"):
        load_cub(tmp_path)
    archive = write_lines(tmp_path / "CUB_200_2011.tgz", "")
    with pytest.raises(FileNotFoundError, match=r"CUB_200_2011\.tgz is not unpacked; unpack it"):
        load_cub(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"CUB_200_2011\.tgz is a file; unpack it"):
        load_cub(archive)
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match=r"only .*images exists"):
        load_cub(tmp_path)


def test_load_cub_malformed_list_names_line(tmp_path):
    home = write_cub(tmp_path, {1: 1}) / "CUB_200_2011"
    good = (home / "images.txt").read_text()
    write_lines(home / "images.txt", good.strip(), "", "two three.jpg")
    with pytest.raises(ValueError, match=r"images\.txt, line 3: must be an integer, a string, got 'two three\.jpg'"):
        load_cub(tmp_path)
    write_lines(home / "images.txt", "1 one.jpg more")
    with pytest.raises(ValueError, match=r"images\.txt, line 1: must be an integer, a string, got '1 one\.jpg more'"):
        load_cub(tmp_path)


def test_load_cub_image_without_named_class_raises(tmp_path):
    home = write_cub(tmp_path, {1: 1}) / "CUB_200_2011"
    write_lines(home / "image_class_labels.txt", "7 1")
    with pytest.raises(
        ValueError, match=r"must give a class with a name for image 1, 001\.Bird_1/Bird_1_0000\.png, got class None"
    ):
        load_cub(tmp_path)
    write_lines(home / "image_class_labels.txt", "1 201")
    with pytest.raises(ValueError, match="got class 201"):
        load_cub(tmp_path)


def test_load_cub_file_instead_of_class_folder_is_missing_image(tmp_path, small_counts):
    root = write_cub(tmp_path, dict.fromkeys(range(2, 201), 3) | {1: 0})
    lines = (root / "CUB_200_2011/images.txt").read_text()
    write_lines(root / "CUB_200_2011/images.txt", "1 001.Bird_1/Bird_1_0000.png", lines)
    write_lines(root / "CUB_200_2011/images/001.Bird_1", "no folder")
    with pytest.raises(ValueError, match=r"1 listed files are missing, the first is .*Bird_1_0000\.png"):
        load_cub(root)


@pytest.mark.slow
def test_load_cub_ignores_unlisted_files(tmp_path, small_counts):
    root = write_cub(tmp_path, dict.fromkeys(range(1, 201), 3))
    write_image(root / "CUB_200_2011/images/001.Bird_1/another.png")
    assert len(load_cub(root).train) == 300


def test_load_cub_real_first_50_classes(tmp_path):
    unpack("CUB_200_2011_first50_128.tar", tmp_path)
    split = load_partial(load_cub, tmp_path, r"has 2,889 training images \(5,864 published\), 0 test images")
    assert split.name == "CUB, first 50 classes"
    assert split.train.labels.unique().tolist() == list(range(25))
    assert split.test.labels.unique().tolist() == list(range(25, 50))
    assert len(split.train) + len(split.test) == 2889
    assert torch.cat([split.train.labels, split.test.labels]).bincount().min() > 40
    assert split.train.class_names[24] == "025.Pelagic_Cormorant"
    assert split.test[0][0].size == (128, 128)
    assert all(
        f"/{split.test.class_names[label]}/" in path
        for path, label in zip(split.test.paths, split.test.labels.tolist(), strict=True)
    )


@pytest.mark.parametrize("number", [0, 201, 10**12])
def test_load_cub_class_beyond_published_raises(tmp_path, small_counts, number):
    root = write_cub(tmp_path, {1: 1})
    with open(root / "CUB_200_2011/classes.txt", "a") as file:
        file.write(f"{number} 999.Bird_of_paradise\n")
    with pytest.raises(ValueError, match=rf"classes\.txt must number classes from 1 to 200, got {number}"):
        load_cub(root, partial=True)
