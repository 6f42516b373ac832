"""Any folder of images, with one folder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hardmine.ops._numbers import check_integer
from papers.datasets._layout import Layout, split_by_class
from papers.datasets.images import ImageDataset, ImageSplit

FOLDER_TREE = """\
    ROOT/train/<class>/<image>        ROOT/<class>/<image>        ROOT/train/<class>/<image>
    ROOT/test/<class>/<image>    or                          or   ROOT/query/<class>/<image>
                                                                  ROOT/gallery/<class>/<image>"""

_LAYOUT = Layout("images in one folder per class", FOLDER_TREE, (".",), ("",))
_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_PARTS = (("train", "test"), ("train", "query", "gallery"))


def load_image_folder(
    root: str | Path, *, name: str | None = None, train_classes: int | None = None, mode: str = "RGB"
) -> ImageSplit:
    """List a folder of images that has one folder per class.

    Args:
        root: Folder that holds `train` and `test`, or `train`, `query` and `gallery`, each with one folder per class.
            Or it holds the class folders directly: in sorted order, the first classes train and the others are only
            retrieved.
        name: Name of the data in tables; by default the folder's name.
        train_classes: Number of training classes, if `root` holds the class folders directly. By default half of the
            classes, rounded down.
        mode: Pillow's mode that images are converted to: `"RGB"`, or `"L"` for gray.

    Returns:
        The split. Labels number the class names of all parts in sorted order, so a class in two parts has the same
        label in both. Files count as images by their suffix, also those of folders inside a class folder. Hidden files
        and folders are ignored. Links to folders are followed; a folder that is reached twice counts once.

    Raises:
        FileNotFoundError: There are no folders, or a folder has no images. The message shows the expected tree.
        TypeError: `train_classes` is not an integer.
        ValueError: `train_classes` does not leave at least 2 classes on each side, or is given although folders define
            the split. Or links put one folder into two classes of a part.
    """
    home = Path(root).expanduser()
    _LAYOUT.home(home)
    name = home.absolute().name if name is None else name
    parts = next((parts for parts in _PARTS if all((home / part).is_dir() for part in parts)), None)
    if parts is None:
        classes = _class_folders(home)
        if len(classes) < 4:
            raise ValueError(
                f"root must contain folders of at least 4 classes, 2 of them to train on, got {len(classes)}"
            )
        training = len(classes) // 2
        if train_classes is not None:
            training = check_integer("train_classes", train_classes, 2, len(classes) - 2)
        return split_by_class(_images(home, classes, classes, name, mode), training)
    if train_classes is not None:
        raise ValueError(f"train_classes must be None if {home / 'train'} exists, got {train_classes}")
    class_folders = [_class_folders(home / part) for part in parts]
    classes = sorted(set().union(*class_folders))
    sets = [
        _images(home / part, folders, classes, name, mode) for part, folders in zip(parts, class_folders, strict=True)
    ]
    return ImageSplit(name, sets[0], sets[1], sets[-1])


def _class_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return names or _LAYOUT.fail(f"{folder} contains no folders")


def _images(folder: Path, folders: list[str], classes: list[str], name: str, mode: str) -> ImageDataset:
    """The images of some classes."""
    numbers = {each: number for number, each in enumerate(classes)}
    real = Path(os.path.realpath(folder))
    # A link to a folder around the class folders would lead to all of them, again and again.
    owners = dict.fromkeys([real, *real.parents])
    paths: list[str] = []
    labels: list[int] = []
    for each in folders:
        found = [path for _, files in sorted(_walk(folder / each, each, owners)) for path in files]
        if not found:
            _LAYOUT.fail(f"{folder / each} contains no images with the suffixes {', '.join(_SUFFIXES)}")
        paths += found
        labels += [numbers[each]] * len(found)
    return ImageDataset(paths, labels, name=name, class_names=classes, mode=mode)


def _walk(folder: Path, label: str, owners: dict[Path, str | None]) -> Iterator[tuple[str, list[str]]]:
    """The folders of a class and the images of each. `owners` has the folders that were reached, and their classes."""
    for home, inner, files in os.walk(folder, followlinks=True):
        real = Path(os.path.realpath(home))
        if real in owners:
            if owners[real] not in (label, None):
                raise ValueError(
                    f"root must have each folder in one class: links put {real} into {owners[real]!r} and {label!r}"
                )
            inner.clear()
            continue
        owners[real] = label
        inner[:] = [each for each in inner if not each.startswith(".")]
        yield home, [os.path.join(home, file) for file in sorted(files) if _is_image(home, file)]


def _is_image(home: str, file: str) -> bool:
    suits = file.lower().endswith(_SUFFIXES) and not file.startswith(".")
    return suits and os.path.isfile(os.path.join(home, file))  # no pipe, and no link to nothing
