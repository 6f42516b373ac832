"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings of each, as tensors or as image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from papers._extras import require
from papers.datasets._layout import Layout, check_complete
from papers.datasets.digits import RetrievalSplit
from papers.datasets.images import ImageDataset, ImageSplit, read_image

# Both halves of Omniglot, as its authors published them (Lake, Salakhutdinov, Tenenbaum, Science 2015).
OMNIGLOT_HALVES = ("images_background", "images_evaluation")
OMNIGLOT_TREE = """\
    ROOT/omniglot-py/images_background/<Alphabet>/character<NN>/<drawing>.png
    ROOT/omniglot-py/images_evaluation/<Alphabet>/character<NN>/<drawing>.png
(the folder omniglot-py may be omitted)"""
PUBLISHED = {"training": 964 * 20, "test": 659 * 20}

SIZE = 28  # pixels

_LAYOUT = Layout("Omniglot", OMNIGLOT_TREE, OMNIGLOT_HALVES, ("", "omniglot-py"), ("omniglot", "images_"))


def load_omniglot(root: str | Path, size: int = SIZE, progress: bool = True) -> RetrievalSplit:
    """Load Omniglot from its official layout: `images_background` trains, `images_evaluation` is only retrieved.

    The drawings, 105 x 105 pixels of one bit, are scaled to `size` with antialiasing. 28 is the customary size (Vinyals
    et al., Matching Networks, NeurIPS 2016). Strokes are 2 to 3 pixels wide, so they remain visible as gray at 28
    pixels. A convolution costs one fourteenth of its cost at 105.

    Args:
        root: Folder that holds `omniglot-py`, or directly `images_background` and `images_evaluation`.
        size: Height and width of the returned images, in pixels.
        progress: Show a progress bar on stderr.

    Returns:
        The split, images [N, 1, size, size]. Each character is a class. Labels number the characters in sorted order,
        first the background half, then the evaluation half.

    Raises:
        FileNotFoundError: A part of the tree is missing. The message shows the expected tree.
        ValueError: `size` is below 1, or a file is not a readable image; the message names the file.
        ModuleNotFoundError: Pillow or tqdm is not installed.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    home = _LAYOUT.home(root)
    # Both halves are listed before the first image is read, so a missing folder fails at once.
    train_files, test_files = (_characters(home / half) for half in OMNIGLOT_HALVES)
    train, train_labels = _flat(train_files, 0)
    test, test_labels = _flat(test_files, len(train_files))
    train_images, test_images = (
        read_drawings(paths, size, half, progress) for paths, half in zip((train, test), OMNIGLOT_HALVES, strict=True)
    )
    return RetrievalSplit(train_images, torch.tensor(train_labels), test_images, torch.tensor(test_labels), "omniglot")


def load_omniglot_images(root: str | Path, *, partial: bool = False) -> ImageSplit:
    """List Omniglot's drawings as image files: `images_background` trains, `images_evaluation` is only retrieved.

    torchvision's `Omniglot` is not used: it requires the published archives beside the unpacked folders.

    Args:
        root: Folder that holds `omniglot-py`, or directly `images_background` and `images_evaluation`.
        partial: Accept a copy that lacks drawings. Its name says so.

    Returns:
        The split "Omniglot": 19,280 drawings of 964 characters, and 13,180 of 659 others. Labels are those of
        :func:`load_omniglot`, class names `Alphabet/characterNN`. Images are gray (mode `"L"`), the paper white.

    Raises:
        FileNotFoundError: A part of the tree is missing. The message shows the expected tree.
        ValueError: The copy is incomplete and `partial` is False.
    """
    home = _LAYOUT.home(root)
    halves = [_characters(home / half) for half in OMNIGLOT_HALVES]
    found = {part: sum(map(len, half)) for part, half in zip(PUBLISHED, halves, strict=True)}
    name = "Omniglot" if check_complete(_LAYOUT, home, found, PUBLISHED, [], partial) else "Omniglot, partial"
    characters = [character for half in halves for character in half]
    class_names = [f"{drawings[0].parent.parent.name}/{drawings[0].parent.name}" for drawings in characters]
    parts, first_label = [], 0
    for half in halves:
        paths, labels = _flat(half, first_label)
        parts.append(ImageDataset(paths, labels, name=name, class_names=class_names, mode="L"))
        first_label += len(half)
    return ImageSplit(name, parts[0], parts[1], parts[1])


def _characters(half: Path) -> list[list[Path]]:
    """The drawings of every character of one half, in sorted order."""

    def folders(parent: Path) -> list[Path]:
        found = sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
        if not found:
            raise FileNotFoundError(f"root: {parent} contains no folders. Expected:\n{OMNIGLOT_TREE}")
        return found

    characters = []
    for character in (character for alphabet in folders(half) for character in folders(alphabet)):
        drawings = sorted(path for path in character.glob("*.png") if not path.name.startswith("."))
        if not drawings:
            raise FileNotFoundError(f"root: {character} contains no PNG drawings. Expected:\n{OMNIGLOT_TREE}")
        characters.append(drawings)
    return characters


def _flat(characters: list[list[Path]], first_label: int) -> tuple[list[str], list[int]]:
    """All drawings of a half, and the label of each."""
    files = [(str(path), label) for label, drawings in enumerate(characters, first_label) for path in drawings]
    return [path for path, _ in files], [label for _, label in files]


def read_drawings(paths: Sequence[str], size: int, title: str, progress: bool) -> torch.Tensor:
    """Read drawings as float32 [N, 1, size, size], ink 1 on paper 0. `title` labels the progress bar."""
    images = torch.empty(len(paths), 1, size, size)
    for row, path in enumerate(require("tqdm").tqdm(paths, desc=title, unit="image", disable=not progress)):
        images[row, 0] = 1 - _read_gray(path, size) / 255
    return images


def _read_gray(path: str, size: int) -> torch.Tensor:
    """One image file as gray values 0 to 255, float32 [size, size]."""
    gray = read_image(path, "L").resize((size, size), require("PIL.Image").Resampling.BILINEAR)
    return torch.frombuffer(bytearray(gray.tobytes()), dtype=torch.uint8).view(size, size).to(torch.float32)
