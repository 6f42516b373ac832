"""Labeled Faces in the Wild: do both images of a pair show the same person?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardmine.ops._arguments import check_choice
from papers.datasets._layout import Layout, check_complete, existing
from papers.datasets.images import ImageDataset

LFW_TREE = """\
    ROOT/lfw-py/pairs.txt
    ROOT/lfw-py/lfw_funneled/<Name>/<Name>_<NNNN>.jpg
(the folder lfw-py may be omitted; lfw holds the original images, lfw-deepfunneled the deep-funneled ones)"""
PUBLISHED = {"same": 3_000, "different": 3_000}
IMAGE_SETS = {"original": "lfw", "funneled": "lfw_funneled", "deepfunneled": "lfw-deepfunneled"}


@dataclass(frozen=True)
class VerificationPairs:
    """Pairs of images, and whether both show the same class. Embed `images` once, then compare by `pairs`.

    Attributes:
        name: Name of the data in tables. The name of a partial copy says so.
        images: The images of all pairs, without duplicates.
        pairs: int64 [P, 2], positions in `images`.
        same: bool [P], whether both show the same class.
        folds: int64 [P], the fold of each pair, from 0. The threshold for a fold is chosen on the other folds.
    """

    name: str
    images: ImageDataset
    pairs: Tensor
    same: Tensor
    folds: Tensor

    def with_transform(self, transform: Callable[..., Any] | None) -> VerificationPairs:
        """The same pairs, with another transform of their images."""
        return replace(self, images=self.images.with_transform(transform))

    def select(self, keep: Tensor, name: str) -> VerificationPairs:
        """The pairs whose images are both kept.

        Args:
            keep: bool [N], mask of `images`. Images that are in no remaining pair are removed too.
            name: Name of the remaining pairs in tables.

        Raises:
            ValueError: No pair is left.
        """
        kept = keep[self.pairs].all(1)
        if not kept.any():
            raise ValueError(f"keep must select at least one complete pair of {self.name}, got none")
        used = torch.zeros_like(keep)
        used[self.pairs[kept]] = True
        positions = used.cumsum(0) - 1
        return VerificationPairs(
            name, self.images.select(used, name), positions[self.pairs[kept]], self.same[kept], self.folds[kept]
        )


def load_lfw_pairs(root: str | Path, *, partial: bool = False, image_set: str = "funneled") -> VerificationPairs:
    """List the 6,000 pairs of LFW's view 2, in the 10 folds of `pairs.txt`.

    torchvision's `LFWPairs` is not used: it requires the published archive beside the unpacked folder.

    Args:
        root: Folder that holds `lfw-py`, or directly `pairs.txt` and the images.
        partial: Accept a copy that lacks images or pairs, under the name "LFW, partial". Pairs with a missing image are
            left out.
        image_set: `"original"`, `"funneled"` or `"deepfunneled"`: as published, or aligned in one of two ways.

    Returns:
        The pairs "LFW": 10 folds, each with 300 pairs of the same person and 300 of different persons. Labels number
        the persons in sorted order.

    Raises:
        FileNotFoundError: A part of the tree is missing. The message shows the expected tree.
        ValueError: `pairs.txt` is malformed, or the copy is incomplete and `partial` is False.

    Reference:
        Huang et al., Labeled Faces in the Wild, UMass Amherst TR 07-49.
    """
    check_choice("image_set", image_set, tuple(IMAGE_SETS))
    folder = IMAGE_SETS[image_set]
    layout = Layout("LFW", LFW_TREE, ("pairs.txt", folder), ("", "lfw-py"), ("lfw",))
    home = layout.home(root)
    listed = _read_pairs(home / "pairs.txt")
    # Each image once, in order of first occurrence in the pairs.
    shots = list(dict.fromkeys(shot for pair in listed for shot in pair[:2]))
    people = sorted({person for person, _ in shots})
    labels = {person: label for label, person in enumerate(people)}
    files = [str(home / folder / person / f"{person}_{number:04d}.jpg") for person, number in shots]
    _, existing_mask, missing = existing(files)
    positions = {shot: position for position, shot in enumerate(shots)}
    images = ImageDataset(files, [labels[person] for person, _ in shots], name="LFW", class_names=people)
    pairs = VerificationPairs(
        "LFW",
        images,
        torch.tensor([[positions[first], positions[second]] for first, second, _ in listed]),
        torch.tensor([first[0] == second[0] for first, second, _ in listed]),
        torch.tensor([fold for _, _, fold in listed]),
    )
    complete = existing_mask[pairs.pairs].all(1)
    same = int((pairs.same & complete).sum())
    found = {"same": same, "different": int(complete.sum()) - same}
    if check_complete(layout, home, found, PUBLISHED, missing, partial, "pairs"):
        return pairs
    return pairs.select(existing_mask, "LFW, partial")


def _read_pairs(path: Path) -> list[tuple[tuple[str, int], tuple[str, int], int]]:
    """Per pair: both images, each as person and number, and the fold."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        folds, size = map(int, lines[0].split())
        if folds < 1 or size < 1:
            raise ValueError
    except (IndexError, ValueError):
        first_line = lines[0] if lines else ""
        raise ValueError(
            f"{path}, line 1: must be the number of folds and the number of pairs, got {first_line!r}"
        ) from None
    pairs = []
    for number, line in enumerate(lines[1:], 2):
        fields = line.split()
        if not fields:
            continue
        # Each fold has `size` lines "person number number", then `size` lines "person number person number".
        fold, position = divmod(len(pairs), 2 * size)
        try:
            if position < size:
                person, first, second = fields
                pairs.append(((person, int(first)), (person, int(second)), fold))
            else:
                person, first, other_person, second = fields
                pairs.append(((person, int(first)), (other_person, int(second)), fold))
        except ValueError:
            expected = "a person and two numbers" if position < size else "a person and a number, twice"
            raise ValueError(f"{path}, line {number}: must be {expected}, got {line!r}") from None
    if len(pairs) != folds * 2 * size:
        raise ValueError(f"{path} must have {folds} x 2 x {size} pairs, as its first line says, got {len(pairs)}")
    return pairs
