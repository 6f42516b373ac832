"""In-shop Clothes Retrieval, of DeepFashion: 52,712 images of 7,982 clothes."""

from __future__ import annotations

from pathlib import Path

import torch

from papers.datasets._layout import Layout, check_complete, existing, first_of, read_rows
from papers.datasets.images import ImageDataset, ImageSplit

IN_SHOP_TREE = """\
    ROOT/Eval/list_eval_partition.txt
    ROOT/Img/img/<MEN or WOMEN>/<kind>/<item>/<image>.jpg
(the folders Eval and Img may be omitted)"""
PUBLISHED = {"train": 25_882, "query": 14_218, "gallery": 12_612}

_LIST = ("Eval/list_eval_partition.txt", "list_eval_partition.txt")
_IMAGES = ("Img/img", "img")  # the paths of the list begin with img/
_LAYOUT = Layout(
    "In-shop Clothes Retrieval",
    IN_SHOP_TREE,
    (_LIST, _IMAGES),
    ("", "In-shop Clothes Retrieval Benchmark", "In-shop", "in-shop", "inshop"),
    ("In-shop", "in-shop", "inshop", "img"),
)


def load_in_shop(root: str | Path, *, partial: bool = False) -> ImageSplit:
    """List In-shop Clothes Retrieval in its official split: queries search a gallery of other images.

    Args:
        root: Folder that holds `Eval` and `Img`.
        partial: Accept a copy that lacks images, under the name "In-shop, partial".

    Returns:
        The split "In-shop": 25,882 images to train on, 14,218 queries and a gallery of 12,612. Labels number the items
        (`id_00000001` and so on) of all three parts in sorted order.

    Raises:
        FileNotFoundError: A part of the tree is missing. The message shows the expected tree.
        ValueError: The list is malformed, or the copy is incomplete and `partial` is False.

    Reference:
        Liu et al., DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich Annotations, CVPR 2016.
    """
    home = _LAYOUT.home(root)
    images = first_of(home, *_IMAGES).parent
    list_file = first_of(home, *_LIST)
    rows = read_rows(list_file, (str, str, str), skip=2)  # the number of images, then the names of the columns
    unknown = sorted({row[2] for row in rows} - set(PUBLISHED))
    if unknown:
        raise ValueError(f"root: {list_file} must have train, query or gallery in its last column, got {unknown[0]!r}")
    items = sorted({row[1] for row in rows})
    numbers = {item: number for number, item in enumerate(items)}
    listed = {part: [row for row in rows if row[2] == part] for part in PUBLISHED}
    by_part = {part: existing([str(images / row[0]) for row in part_rows]) for part, part_rows in listed.items()}
    found = {part: len(paths) for part, (paths, _, _) in by_part.items()}
    missing = [path for _, _, absent in by_part.values() for path in absent]
    name = "In-shop" if check_complete(_LAYOUT, home, found, PUBLISHED, missing, partial) else "In-shop, partial"
    parts = []
    for part, (paths, mask, _) in by_part.items():
        if not paths:
            _LAYOUT.fail(f"no {part} image exists")
        labels = torch.tensor([numbers[row[1]] for row in listed[part]])[mask]
        parts.append(ImageDataset(paths, labels, name=name, class_names=items))
    return ImageSplit(name, *parts)
