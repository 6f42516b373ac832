"""Tiny copies of the published image sets, in their official layouts, and real copies from HARDMINE_DATA."""

import os
import tarfile
from pathlib import Path

import pytest

from papers._extras import require


def require_torchvision() -> None:
    """Skip where torchvision is not installed."""
    try:
        require("torchvision.datasets")
    except ModuleNotFoundError:
        pytest.skip("torchvision is not installed", allow_module_level=True)


def write_image(path: Path, color: tuple[int, int, int] = (0, 0, 0), size: tuple[int, int] = (6, 4)) -> Path:
    """Write an image of one color, width 6 and height 4."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def write_cub(root: Path, images_of_classes: dict[int, int], classes: int = 200) -> Path:
    """Write a CUB-200-2011 with images of some classes; the lists of classes and of labels name all classes.

    Every class has 3 images in the list of labels. The list of images holds only the given number per class, as in a
    truncated copy. The red of an image is its class, its green is its number in the class.
    """
    home = root / "CUB_200_2011"
    home.mkdir(parents=True)
    images, labels, number = [], [], 0
    for label in range(1, classes + 1):
        for k in range(3):
            number += 1
            labels.append(f"{number} {label}")
            if k < images_of_classes.get(label, 0):
                file = f"{label:03d}.Bird_{label}/Bird_{label}_{k:04d}.png"
                images.append(f"{number} {file}")
                write_image(home / "images" / file, (label, k, 0))
    (home / "images.txt").write_text("\n".join(images) + "\n")
    (home / "image_class_labels.txt").write_text("\n".join(labels) + "\n")
    (home / "classes.txt").write_text("".join(f"{label} {label:03d}.Bird_{label}\n" for label in range(1, classes + 1)))
    return root


def write_lines(path: Path, *lines: str) -> Path:
    """Write a text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def load_partial(load, root: Path, message: str, **options):
    """Load a partial copy; as a complete copy it is refused, with a message."""
    with pytest.raises(ValueError, match=message):
        load(root, **options)
    return load(root, partial=True, **options)


def unpack(archive: str, folder: Path) -> Path:
    """Unpack an archive of HARDMINE_DATA into a folder; skip if it is missing."""
    path = Path(os.environ.get("HARDMINE_DATA") or "nowhere") / archive
    if not path.is_file():
        pytest.skip(f"HARDMINE_DATA names no folder with {archive}")
    with tarfile.open(path) as packed:
        # Later Python versions warn without a filter. The first releases of 3.10 and 3.11 do not have it.
        packed.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder
