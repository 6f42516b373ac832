"""Corrupt images are named, counted, refused or skipped before a training begins."""

import threading

import pytest
import torch

from image_trees import write_image
from papers.datasets import CorruptImage, ImageDataset, ImageSplit, VerificationPairs, check, check_images
from papers.datasets.transforms import SeededTransform

pytest.importorskip("PIL")
pytest.importorskip("tqdm")


@pytest.fixture
def paths(tmp_path):
    return [str(write_image(tmp_path / f"{k:02d}.png", (k, 0, 0))) for k in range(40)]


def corrupt_file(path):
    with open(path, "wb") as file:
        file.write(b"not an image")


def dataset(paths, **options):
    return ImageDataset(paths, torch.arange(len(paths)) // 2, name="toy", **options)


def test_check_images_all_readable_returns_same_object(paths):
    images = dataset(paths)
    for on_corrupt in ("refuse", "skip"):
        checked, corrupt = check_images(images, on_corrupt, progress=False)
        assert checked is images
        assert corrupt == ()


@pytest.mark.parametrize("workers", [1, 3, None])
def test_check_images_refuse_names_and_counts_corrupt(paths, workers):
    for k in (3, 17):
        corrupt_file(paths[k])
    with pytest.raises(ValueError) as error:
        check_images(dataset(paths), workers=workers, progress=False)
    first, *named = str(error.value).splitlines()
    assert first == "2 of 40 images of toy cannot be read; on_corrupt='skip' omits them:"
    assert [line.split(" is not a readable image: ")[0] for line in named] == [f"    {paths[k]}" for k in (3, 17)]


def test_check_images_threads_out_of_order_keep_path_order(paths, monkeypatch):
    last_is_read = threading.Event()
    read = check.read_image

    def later(path, mode):
        if path == paths[0]:
            assert last_is_read.wait(60)
        if path == paths[-1]:
            last_is_read.set()
        return read(path, mode)

    corrupt_file(paths[2])
    monkeypatch.setattr(check, "read_image", later)
    _, corrupt = check_images(dataset(paths), "skip", workers=3, progress=False)
    assert [one.path for one in corrupt] == [paths[2]]


def test_check_images_error_names_at_most_ten(paths):
    for path in paths[:13]:
        corrupt_file(path)
    with pytest.raises(ValueError) as error:
        check_images(dataset(paths), progress=False)
    assert len(str(error.value).splitlines()) == 12
    assert str(error.value).endswith("09.png'\n    and 3 more")


def test_check_images_skip_omits_corrupt(paths):
    corrupt_file(paths[3])
    checked, corrupt = check_images(dataset(paths, coarse_labels=range(40)), "skip", progress=False)
    assert checked.paths == (*paths[:3], *paths[4:])
    assert checked.labels.tolist() == [k // 2 for k in range(40) if k != 3]
    assert checked.coarse_labels.tolist() == [k for k in range(40) if k != 3]
    assert checked.name == "toy, 1 corrupt image skipped"
    (one,) = corrupt
    assert isinstance(one, CorruptImage)
    assert one.path == paths[3]
    assert one.reason.startswith(f"{paths[3]} is not a readable image: ")


def test_check_images_missing_or_truncated_files_are_corrupt(paths, tmp_path):
    (tmp_path / "05.png").unlink()
    whole = (tmp_path / "08.png").read_bytes()
    (tmp_path / "08.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "09.png").unlink()
    (tmp_path / "09.png").mkdir()
    _, corrupt = check_images(dataset(paths), "skip", progress=False)
    assert [one.path for one in corrupt] == [paths[k] for k in (5, 8, 9)]


def test_check_images_keeps_transform_without_calling_it(paths):
    class Never(SeededTransform):
        def __call__(self, image, epoch, index):
            raise AssertionError

    corrupt_file(paths[0])
    never = Never()
    images = dataset(paths).with_transform(never)
    images.set_epoch(4)
    checked, _ = check_images(images, "skip", progress=False)
    assert checked.transform is never
    assert checked.epoch == 4


def test_check_images_split_checks_all_parts_once(paths):
    corrupt_file(paths[2])
    corrupt_file(paths[30])
    train, test = (dataset(some) for some in (paths[:20], paths[20:]))
    checked, corrupt = check_images(ImageSplit("toy", train, test, test), "skip", progress=False)
    assert [one.path for one in corrupt] == [paths[2], paths[30]]
    assert checked.name == checked.train.name == checked.test.name == "toy, 2 corrupt images skipped"
    assert checked.train.paths == (*paths[:2], *paths[3:20])
    assert checked.test.paths == (*paths[20:30], *paths[31:])
    assert checked.query is checked.gallery
    # A gallery that is the training set stays the training set, and its images are counted once.
    with pytest.raises(ValueError, match=r"^2 of 40 images"):
        check_images(ImageSplit("toy", train, test, train), progress=False)
    checked, _ = check_images(ImageSplit("toy", train, test, train), "skip", progress=False)
    assert checked.gallery is checked.train
    assert checked.query.paths == (*paths[20:30], *paths[31:])


def test_check_images_pairs_with_corrupt_image_skipped(paths):
    corrupt_file(paths[1])
    pairs = VerificationPairs(
        "pairs",
        dataset(paths[:5]),
        torch.tensor([[0, 1], [4, 2], [2, 0]]),
        torch.tensor([True, False, True]),
        torch.tensor([0, 1, 1]),
    )
    checked, corrupt = check_images(pairs, "skip", progress=False)
    assert [one.path for one in corrupt] == [paths[1]]
    assert checked.name == checked.images.name == "pairs, 1 corrupt image skipped"
    assert checked.images.paths == (paths[0], paths[2], paths[4])
    assert checked.pairs.tolist() == [[2, 1], [1, 0]]
    assert checked.same.tolist() == [False, True]
    assert checked.folds.tolist() == [1, 1]


def test_check_images_all_corrupt_raises(paths):
    for path in paths[:4]:
        corrupt_file(path)
    with pytest.raises(ValueError, match="rows must select at least one image of toy, got none"):
        check_images(dataset(paths[:4]), "skip", progress=False)


def test_check_images_shows_progress(paths, capsys):
    check_images(dataset(paths), progress=False)
    assert capsys.readouterr().err == ""
    check_images(dataset(paths))
    shown = capsys.readouterr().err
    assert "checking images: 100%" in shown
    assert "40/40" in shown


def test_check_images_invalid_arguments_raise(paths):
    with pytest.raises(ValueError, match="on_corrupt must be one of 'refuse', 'skip', got 'ignore'"):
        check_images(dataset(paths), "ignore")
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        check_images(dataset(paths), workers=0)
    with pytest.raises(TypeError, match="images must be an ImageDataset, an ImageSplit or VerificationPairs, got list"):
        check_images(paths)
