"""Stanford Online Products: 120,053 images of 22,634 products that were sold on eBay."""

from __future__ import annotations

from pathlib import Path

import torch

from papers.datasets._layout import Layout, check_complete, existing, read_rows
from papers.datasets.images import ImageDataset, ImageSplit

ONLINE_PRODUCTS_TREE = """\
    ROOT/Stanford_Online_Products/Ebay_train.txt
    ROOT/Stanford_Online_Products/Ebay_test.txt
    ROOT/Stanford_Online_Products/<kind>_final/<image>.JPG
(the folder Stanford_Online_Products may be omitted)"""
PUBLISHED = {"training": 59_551, "test": 60_502}
CLASSES = 22_634
LISTS = {"training": "Ebay_train.txt", "test": "Ebay_test.txt"}

_LAYOUT = Layout(
    "Stanford Online Products",
    ONLINE_PRODUCTS_TREE,
    tuple(LISTS.values()),
    ("", "Stanford_Online_Products"),
    ("Stanford_Online_Products",),
)


def load_online_products(root: str | Path, *, partial: bool = False) -> ImageSplit:
    """List Stanford Online Products in its official split: some products train, the others are only retrieved.

    Args:
        root: Folder that holds `Stanford_Online_Products`, or `Stanford_Online_Products` itself.
        partial: Accept a copy that lacks images, under the name "SOP, partial".

    Returns:
        The split "SOP": 59,551 images to train on, 60,502 to retrieve. Labels are 0 for class 1 and so on. Coarse
        labels number the 12 super-classes from 0.

    Raises:
        FileNotFoundError: A part of the tree is missing. The message shows the expected tree.
        ValueError: A list is malformed, or the copy is incomplete and `partial` is False.

    Reference:
        Oh Song et al., Deep Metric Learning via Lifted Structured Feature Embedding, CVPR 2016.
    """
    home = _LAYOUT.home(root)
    rows = {part: read_rows(home / file, (int, int, int, str), skip=1) for part, file in LISTS.items()}
    by_part = {part: existing([str(home / row[3]) for row in listed]) for part, listed in rows.items()}
    found = {part: len(paths) for part, (paths, _, _) in by_part.items()}
    missing = [path for _, _, absent in by_part.values() for path in absent]
    name = "SOP" if check_complete(_LAYOUT, home, found, PUBLISHED, missing, partial) else "SOP, partial"
    for part, listed in rows.items():
        wrong = next((row[1] for row in listed if not 1 <= row[1] <= CLASSES), None)
        if wrong is not None:
            raise ValueError(f"root: {home / LISTS[part]} must number classes from 1 to {CLASSES:,}, got {wrong}")
    class_names = [str(label) for label in range(1, 1 + max(row[1] for listed in rows.values() for row in listed))]
    parts = []
    for part, (paths, mask, _) in by_part.items():
        if not paths:
            _LAYOUT.fail(f"no image listed in {LISTS[part]} exists")
        _, classes, super_classes, _ = zip(*rows[part], strict=True)
        parts.append(
            ImageDataset(
                paths,
                torch.tensor(classes)[mask] - 1,
                name=name,
                class_names=class_names,
                coarse_labels=torch.tensor(super_classes)[mask] - 1,
            )
        )
    return ImageSplit(name, parts[0], parts[1], parts[1])
