"""Cars196: both layouts, its split by class, complete and partial copies."""

import pytest
import torch

from image_trees import load_partial, require_torchvision, unpack, write_image, write_lines
from papers.datasets import cars, load_cars

np = pytest.importorskip("numpy")
scipy_io = pytest.importorskip("scipy.io")
pytest.importorskip("PIL")
require_torchvision()

CLASSES = 196
NAMES = np.array([f"Car {k}" for k in range(1, CLASSES + 1)], dtype=object)


def write_annotations(path, columns: dict, names: bool = False) -> None:
    """Write annotations in the official format: a struct array [1, N] of 1 x 1 arrays."""
    rows = len(next(iter(columns.values())))
    annotations = np.empty((1, rows), dtype=[(name, object) for name in columns])
    for name, values in columns.items():
        for row, value in enumerate(values):
            annotations[name][0, row] = value if isinstance(value, str) else np.array([[value]], dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy_io.savemat(path, {"annotations": annotations} | ({"class_names": NAMES[None]} if names else {}))


def labels_of(images: int) -> list[int]:
    """Labels of the images, in a mixed order of the classes."""
    return [k * 5 % CLASSES + 1 for k in range(images)]


def write_devkit(root, test: bool = True):
    """The layout of torchvision: in the training half class k has red k, likewise in the test half green k."""
    home = root / "stanford_cars"
    halves = {"train": home / "devkit/cars_train_annos.mat", "test": home / "cars_test_annos_withlabels.mat"}
    for half, annotations in halves.items():
        if half == "test" and not test:
            continue
        labels = labels_of(2 * CLASSES)
        files = [f"{k + 1:05d}.png" for k in range(len(labels))]
        for label, file in zip(labels, files, strict=True):
            write_image(home / f"cars_{half}" / file, (label, 0, 0) if half == "train" else (0, label, 0), (1, 1))
        write_annotations(annotations, {"bbox_x1": [1] * len(labels), "class": labels, "fname": files})
    scipy_io.savemat(home / "devkit/cars_meta.mat", {"class_names": NAMES[None]})
    return root


def write_one_list(root, halves=(0, 1)):
    """The older layout: one list, one folder, class k has red k.

    Every other image of a class belongs to the test half.
    """
    labels = sorted(labels_of(4 * CLASSES))
    files = [f"car_ims/{k + 1:06d}.png" for k in range(len(labels))]
    tests = [k % 2 for k in range(len(labels))]
    (root / "car_ims").mkdir(parents=True)
    for label, file, test in zip(labels, files, tests, strict=True):
        if test in halves:
            write_image(root / file, (label, 0, 0), (1, 1))
    columns = {"relative_im_path": files, "bbox_x1": [1] * len(labels), "class": labels, "test": tests}
    write_annotations(root / "cars_annos.mat", columns, names=True)
    return root


@pytest.fixture(autouse=True)
def small_counts(monkeypatch):
    """The published counts of the tiny copies: 4 images of each of 196 classes, of which 2 are in the training half."""
    published = dict(cars.PUBLISHED), cars.OFFICIAL_TRAINING_IMAGES
    monkeypatch.setattr(cars, "PUBLISHED", {"training": 4 * 98, "test": 4 * 98})
    monkeypatch.setattr(cars, "OFFICIAL_TRAINING_IMAGES", 2 * CLASSES)
    return published


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    return write_devkit(tmp_path_factory.mktemp("devkit"))


def check_split(split, name):
    assert split.name == split.train.name == split.test.name == name
    assert split.query is split.gallery
    assert split.train.labels.unique().tolist() == list(range(98))
    assert split.test.labels.unique().tolist() == list(range(98, 196))
    assert split.test.class_names == tuple(NAMES)
    for part in (split.train, split.test):
        for row in (0, len(part) // 2, len(part) - 1):
            image, label = part[row]
            assert sum(image.getpixel((0, 0))) == label + 1 == part.labels[row] + 1


def test_published_counts_match_paper(small_counts):
    assert small_counts == ({"training": 8054, "test": 8131}, 8144)


@pytest.mark.parametrize("inside", ["", "stanford_cars"])
@pytest.mark.parametrize("partial", [False, True])
def test_load_cars_torchvision_layout(devkit, inside, partial):
    split = load_cars(devkit / inside, partial=partial)
    check_split(split, "CAR")
    assert len(split.train) == len(split.test) == 4 * 98
    assert sum("cars_test" in path for path in split.train.paths) == 2 * 98


@pytest.mark.slow
@pytest.mark.parametrize("inside", ["", "cars196"])
def test_load_cars_older_layout(tmp_path, inside):
    write_one_list(tmp_path / inside)
    split = load_cars(tmp_path)
    check_split(split, "CAR")
    assert len(split.train) == len(split.test) == 4 * 98


@pytest.mark.parametrize(
    "write", [lambda root: write_devkit(root, test=False), lambda root: write_one_list(root, (0,))]
)
def test_load_cars_training_half_has_own_name(tmp_path, write):
    root = write(tmp_path)
    message = (
        r"root must contain all of Cars196: .* has 196 training images \(392 published\), "
        r"196 test images \(392 published\)"
    )
    split = load_partial(load_cars, root, message)
    check_split(split, "CAR, training half")
    assert len(split.train) == len(split.test) == 2 * 98


@pytest.mark.slow
def test_load_cars_other_subsets_named_partial(tmp_path):
    write_one_list(tmp_path / "test", (1,))
    check_split(load_cars(tmp_path / "test", partial=True), "CAR, partial")
    write_devkit(tmp_path / "half", test=False)
    (tmp_path / "half/stanford_cars/cars_train/00007.png").unlink()
    message = r"1 listed files are missing, the first is .*00007\.png"
    check_split(load_partial(load_cars, tmp_path / "half", message), "CAR, partial")
    # The size is that of a half, but it is not a half.
    root = write_one_list(tmp_path / "mixed", (0,))
    (root / "car_ims/000001.png").unlink()
    write_image(root / "car_ims/000002.png", (1, 0, 0), (1, 1))
    split = load_cars(root, partial=True)
    assert len(split.train) + len(split.test) == 2 * CLASSES
    check_split(split, "CAR, partial")


@pytest.mark.slow
def test_load_cars_test_list_or_folder_missing_is_partial(devkit, tmp_path):
    import shutil

    for lost in ("cars_test_annos_withlabels.mat", "cars_test"):
        copy = tmp_path / lost
        shutil.copytree(devkit, copy)
        (copy / "stanford_cars" / lost).rename(tmp_path / f"{lost} elsewhere")
        check_split(load_cars(copy, partial=True), "CAR, training half")


@pytest.mark.slow
def test_load_cars_test_half_alone_named_partial(tmp_path):
    write_devkit(tmp_path)
    for image in (tmp_path / "stanford_cars/cars_train").iterdir():
        image.unlink()
    split = load_cars(tmp_path, partial=True)
    check_split(split, "CAR, partial")
    assert len(split.train) == len(split.test) == 2 * 98


def test_load_cars_missing_files_raise(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"root must contain Cars196 in its official layout: .* does not exist\. "
        r"Expected:\n    ROOT/stanford_cars/devkit(.|\n)*older,\n    ROOT/cars_annos\.mat",
    ):
        load_cars(tmp_path / "nowhere")
    write_devkit(tmp_path, test=False)
    (tmp_path / "stanford_cars/devkit/cars_meta.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"stanford_cars.devkit.cars_meta\.mat is missing"):
        load_cars(tmp_path, partial=True)
    packed = write_lines(tmp_path / "packed/cars_train.tgz", "").parent
    with pytest.raises(FileNotFoundError, match=r"cars_train\.tgz is not unpacked"):
        load_cars(packed)


def test_load_cars_renamed_folder_raises(tmp_path):
    write_devkit(tmp_path, test=False)
    (tmp_path / "stanford_cars").rename(tmp_path / "mine")
    with pytest.raises(FileNotFoundError, match=r"torchvision requires .*mine to have the name stanford_cars"):
        load_cars(tmp_path / "mine", partial=True)


def test_load_cars_accepts_relative_root(devkit, monkeypatch):
    monkeypatch.chdir(devkit / "stanford_cars")
    assert load_cars(".").name == "CAR"


@pytest.mark.slow
def test_load_cars_damaged_list_raises(tmp_path):
    write_devkit(tmp_path / "one", test=False)
    (tmp_path / "one/stanford_cars/devkit/cars_train_annos.mat").write_bytes(b"no list at all, but long enough" * 9)
    with pytest.raises(ValueError, match=r"stanford_cars.devkit.cars_train_annos\.mat cannot be read: "):
        load_cars(tmp_path / "one", partial=True)
    write_one_list(tmp_path / "two")
    scipy_io.savemat(tmp_path / "two/cars_annos.mat", {"something": [1]})
    with pytest.raises(ValueError, match=r"cars_annos\.mat cannot be read: KeyError: 'annotations'"):
        load_cars(tmp_path / "two")
    whole = (tmp_path / "one/stanford_cars/devkit/cars_meta.mat").read_bytes()
    (tmp_path / "two/cars_annos.mat").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cars_annos\.mat cannot be read: "):
        load_cars(tmp_path / "two")
    (tmp_path / "two/cars_annos.mat").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cars_annos\.mat cannot be read: "):
        load_cars(tmp_path / "two")


def test_load_cars_real_training_half(tmp_path, monkeypatch, small_counts):
    unpack("stanford_cars_train_128.tar", tmp_path)
    monkeypatch.setattr(cars, "PUBLISHED", small_counts[0])
    monkeypatch.setattr(cars, "OFFICIAL_TRAINING_IMAGES", small_counts[1])
    message = r"has 4,052 training images \(8,054 published\), 4,092 test images \(8,131 "
    split = load_partial(load_cars, tmp_path, message)
    assert split.name == "CAR, training half"
    assert (len(split.train), len(split.test)) == (4052, 4092)
    assert split.train.labels.unique().tolist() == list(range(98))
    assert split.test.labels.unique().tolist() == list(range(98, 196))
    both = torch.cat([split.train.labels, split.test.labels]).bincount()
    assert (both.min(), both.max()) == (24, 68)
    assert split.train.class_names[0] == "AM General Hummer SUV 2000"
    assert split.train.class_names[13] == "Audi TTS Coupe 2012"
    first = next(row for row, path in enumerate(split.train.paths) if path.endswith("cars_train/00001.jpg"))
    assert split.train.labels[first] == 13
    assert split.train[first][0].size == (128, 128)
