"""Image sets for retrieval: some classes are trained on, the others are only retrieved.

Scoring retrieval on classes that training never saw is the protocol of deep metric learning (SCT section 5, EP section
5): it asks whether the embedding carries over, not whether it remembers.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hardmine._extras import require

# Both halves of Omniglot, as its authors published them (Lake, Salakhutdinov, Tenenbaum, Science 2015).
OMNIGLOT_HALVES = ("images_background", "images_evaluation")
OMNIGLOT_TREE = """\
    ROOT/omniglot-py/images_background/<Alphabet>/character<NN>/<drawing>.png
    ROOT/omniglot-py/images_evaluation/<Alphabet>/character<NN>/<drawing>.png
(the folder omniglot-py may be left out)"""


@dataclass(frozen=True)
class RetrievalSplit:
    """Images of the training classes and of the classes that are only retrieved.

    Attributes:
        train_images: float32 [N, 1, H, W] in [0, 1], 0 for paper and 1 for ink.
        train_labels: int64 [N].
        test_images: float32 [M, 1, H, W], of the retrieved-only classes.
        test_labels: int64 [M], disjoint from `train_labels`.
        name: What a table calls the data.
    """

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    name: str


def load_digits(train_classes: Collection[int] = (0, 2, 4, 6, 8)) -> RetrievalSplit:
    """Load scikit-learn's handwritten digits, 1,797 images of 8 x 8, and split them by class.

    By default the even digits train and the odd ones are only retrieved. That keeps apart the pairs that a turn or a
    mirror confuses (6 and 9, 2 and 5), so training on turned images teaches nothing false about the retrieved ones.

    Args:
        train_classes: Digits to train on. Those not named here are only retrieved.

    Returns:
        The split, images [N, 1, 8, 8], labels 0 to 9.

    Raises:
        ValueError: `train_classes` is not at least two digits of 0 to 9 that leave at least two others.
        ModuleNotFoundError: scikit-learn is not installed.
    """
    chosen = set(train_classes)
    if not chosen <= set(range(10)) or not 2 <= len(chosen) <= 8:
        raise ValueError(f"train_classes must be 2 to 8 of the digits 0 to 9, got {train_classes!r}")
    digits = require("sklearn.datasets").load_digits()
    images = torch.from_numpy(digits.images).to(torch.float32).div_(16).unsqueeze(1)  # scikit-learn's ink is 0 to 16
    labels = torch.from_numpy(digits.target).to(torch.int64)
    trains = torch.isin(labels, torch.tensor(sorted(chosen)))
    return RetrievalSplit(images[trains], labels[trains], images[~trains], labels[~trains], "digits")


def load_omniglot(root: str | Path, size: int = 28, progress: bool = True) -> RetrievalSplit:
    """Load Omniglot from its official layout: `images_background` trains, `images_evaluation` is only retrieved.

    The drawings, 105 x 105 pixels of one bit, are scaled to `size` with antialiasing. 28 is the size that the field
    settled on (Vinyals et al., Matching Networks, NeurIPS 2016): strokes are 2 to 3 pixels wide, so they survive
    as grey at 28, and a convolution costs a fourteenth of what it costs at 105.

    Args:
        root: Folder that holds `omniglot-py`, or directly `images_background` and `images_evaluation`.
        size: Height and width of the returned images, in pixels.
        progress: Show a progress bar on stderr.

    Returns:
        The split, images [N, 1, size, size]. Each character is a class. The labels count the characters in sorted
        order and go on from the background half to the evaluation half.

    Raises:
        FileNotFoundError: A part of the tree is missing. The message shows the tree that is expected.
        ValueError: `size` is below 1, or a file is not a readable image; the message names the file.
        ModuleNotFoundError: Pillow or tqdm is not installed.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    home = _omniglot_home(Path(root).expanduser())
    # Both halves are listed before the first image is read, so that a missing folder is told at once.
    train_files, test_files = (_omniglot_characters(home / half) for half in OMNIGLOT_HALVES)
    train_images, train_labels = _read_drawings(train_files, 0, size, "images_background", progress)
    test_images, test_labels = _read_drawings(test_files, len(train_files), size, "images_evaluation", progress)
    return RetrievalSplit(train_images, train_labels, test_images, test_labels, "omniglot")


def _omniglot_home(root: Path) -> Path:
    """The folder under `root` that holds both halves."""
    homes = [root, root / "omniglot-py"]
    for home in homes:
        if all((home / half).is_dir() for half in OMNIGLOT_HALVES):
            return home
    reason = f"{root} has no such folder"
    if not root.exists():
        reason = f"{root} does not exist"
    elif not root.is_dir():
        reason = f"{root} is a file; unpack it and give the folder"
    else:
        halves = [home / half for home in homes for half in OMNIGLOT_HALVES if (home / half).is_dir()]
        archives = sorted(path for path in root.iterdir() if path.suffix in (".xz", ".gz", ".tar", ".zip"))
        archives = [path for path in archives if path.name.startswith(("omniglot", "images_"))]
        if halves:
            reason = f"only {halves[0]} is there"
        elif archives:
            reason = f"{archives[0]} is still packed; unpack it and give the folder it is unpacked into"
    raise FileNotFoundError(f"root must hold Omniglot in its official layout: {reason}. Expected:\n{OMNIGLOT_TREE}")


def _omniglot_characters(half: Path) -> list[list[Path]]:
    """The drawings of every character of one half, in sorted order."""

    def folders(parent: Path) -> list[Path]:
        found = sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
        if not found:
            raise FileNotFoundError(f"root: {parent} holds no folders. Expected:\n{OMNIGLOT_TREE}")
        return found

    characters = []
    for character in (character for alphabet in folders(half) for character in folders(alphabet)):
        drawings = sorted(path for path in character.glob("*.png") if not path.name.startswith("."))
        if not drawings:
            raise FileNotFoundError(f"root: {character} holds no PNG drawings. Expected:\n{OMNIGLOT_TREE}")
        characters.append(drawings)
    return characters


def _read_drawings(
    characters: list[list[Path]], first_label: int, size: int, title: str, progress: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """All drawings of a half as float32 [N, 1, size, size], ink 1 on paper 0, with labels int64 [N]."""
    image_module = require("PIL.Image")
    files = [(label, path) for label, drawings in enumerate(characters, first_label) for path in drawings]
    images = torch.empty(len(files), 1, size, size)
    bar = require("tqdm").tqdm(files, desc=title, unit="image", disable=not progress)
    for row, (_, path) in enumerate(bar):
        images[row, 0] = 1 - _read_grey(image_module, path, size) / 255
    return images, torch.tensor([label for label, _ in files], dtype=torch.int64)


def _read_grey(image_module: Any, path: Path, size: int) -> torch.Tensor:
    """One image file as grey values 0 to 255, float32 [size, size]."""
    try:
        with image_module.open(path) as image:
            grey = image.convert("L").resize((size, size), image_module.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for files cut short, damaged or foreign
        raise ValueError(f"{path} is not a readable image: {error}") from error
    return torch.frombuffer(bytearray(grey.tobytes()), dtype=torch.uint8).view(size, size).to(torch.float32)
