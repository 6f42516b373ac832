"""Hotels-50K: a million images of rooms in 50,000 hotels."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hardmine.ops._arguments import check_choice
from papers._extras import require
from papers.datasets._layout import Layout, check_complete, first_of, names_in
from papers.datasets.images import ImageDataset, ImageSplit

HOTELS_TREE = """\
    ROOT/input/dataset/train_set.csv
    ROOT/input/dataset/test_set.csv
    ROOT/input/dataset/hotel_info.csv
    ROOT/images/train/<chain>/<hotel>/<source>/<image>.jpg
    ROOT/images/test/unoccluded/<chain>/<hotel>/<source>/<image>.jpg
(the folder input may be omitted)"""
PUBLISHED = {"training": 1_027_871, "test": 17_954}
OCCLUSIONS = ("unoccluded", "low_occlusions", "medium_occlusions", "high_occlusions")
UNKNOWN_CHAIN = -1

_LISTS = ("input/dataset", "dataset")
_LAYOUT = Layout(
    "Hotels-50K",
    HOTELS_TREE,
    (
        *(tuple(f"{lists}/{name}.csv" for lists in _LISTS) for name in ("hotel_info", "train_set", "test_set")),
        "images/train",
        "images/test",
    ),
    ("", "Hotels-50K"),
    ("Hotels-50K", "dataset.tar", "test.tar"),
)


def load_hotels(
    root: str | Path, *, partial: bool = False, occlusion: str = "unoccluded", progress: bool = True
) -> ImageSplit:
    """List Hotels-50K: test images are queries into the training set, by hotel and by chain.

    Args:
        root: Folder that holds `input/dataset`, with the lists, and `images`, as the published script downloads them.
        partial: Accept a copy with another number of images than is published, under the name "Hotels-50K, partial".
            The lists were revised in 2020, after the papers, because images had disappeared from the web. Only a copy
            from before the revision is complete.
        occlusion: Which test images to use: `"unoccluded"`, or those with a person's shape cut out: `"low_occlusions"`,
            `"medium_occlusions"` or `"high_occlusions"`. The name includes the occlusion level.
        progress: Show a progress bar on stderr.

    Returns:
        The split "Hotels-50K": 1,027,871 images to train on, which are also the gallery, and 17,954 queries. Labels
        number the hotels of both lists by ascending hotel id; class names are the ids. Coarse labels are the chains'
        ids, -1 if the chain is unknown. Queries with an unknown chain are left out of chain recall.

    Raises:
        FileNotFoundError: A part of the tree is missing. The message shows the expected tree.
        ValueError: A list is malformed, or the copy is incomplete and `partial` is False.
        ModuleNotFoundError: tqdm is not installed, and `progress` is True.

    Reference:
        Stylianou et al., Hotels-50K: A Global Hotel Recognition Dataset, AAAI 2019.
    """
    check_choice("occlusion", occlusion, OCCLUSIONS)
    home = _LAYOUT.home(root)
    lists = first_of(home, *(f"{folder}/hotel_info.csv" for folder in _LISTS)).parent
    chains = dict(_read_csv(lists / "hotel_info.csv", {0: int, 2: int}))
    rows = {
        "training": _read_csv(lists / "train_set.csv", {0: int, 1: int, 3: str}),
        "test": _read_csv(lists / "test_set.csv", {0: int, 1: int, 3: str}),
    }
    folders = {"training": home / "images/train", "test": home / "images/test" / occlusion}
    by_part = {part: _existing(folders[part], listed, chains, progress) for part, listed in rows.items()}
    found = {part: len(paths) for part, (paths, _, _) in by_part.items()}
    missing = [path for _, _, absent in by_part.values() for path in absent]
    name = "Hotels-50K" if occlusion == OCCLUSIONS[0] else f"Hotels-50K, {occlusion.replace('_', ' ')}"
    if not check_complete(_LAYOUT, home, found, PUBLISHED, missing, partial):
        name += ", partial"
    hotels = sorted({hotel for listed in rows.values() for _, hotel, _ in listed})
    numbers = {hotel: number for number, hotel in enumerate(hotels)}
    parts = []
    for part, (paths, present, _) in by_part.items():
        if not paths:
            _LAYOUT.fail(f"{folders[part]} contains none of its images")
        parts.append(
            ImageDataset(
                paths,
                [numbers[hotel] for hotel in present],
                name=name,
                class_names=hotels,
                coarse_labels=[chains.get(hotel, UNKNOWN_CHAIN) for hotel in present],
            )
        )
    train, query = parts
    return ImageSplit(name, train, query, gallery=train)


def _read_csv(path: Path, kinds: Mapping[int, Callable[[str], Any]]) -> list[tuple]:
    """Selected columns of a CSV file, by position, without the header."""
    rows = []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.reader(file)
        next(reader, None)
        for fields in reader:
            try:
                rows.append(tuple(kind(fields[column]) for column, kind in kinds.items()))
            except (IndexError, ValueError) as error:
                expected = ", ".join(
                    f"{'an integer' if kind is int else 'a string'} in column {column + 1}"
                    for column, kind in kinds.items()
                )
                raise ValueError(f"{path}, line {reader.line_num}: must have {expected}, got {fields}") from error
    return rows


def _existing(
    folder: Path, listed: list[tuple], chains: Mapping[int, int], progress: bool
) -> tuple[list[str], list[int], list[str]]:
    """The listed images that exist, their hotels, and the missing images."""
    names: dict[str, dict[str, str]] = {}
    paths, hotels, missing = [], [], []
    title = f"{folder.name} images"
    for image, hotel, source in require("tqdm").tqdm(listed, title, unit="image") if progress else listed:
        # Each folder is read once. File extensions vary: they come from the URLs of the images.
        source_folder = f"{folder}/{chains.get(hotel, 'Unknown')}/{hotel}/{source}"
        if source_folder not in names:
            names[source_folder] = {name.partition(".")[0]: name for name in names_in(source_folder)}
        name = names[source_folder].get(str(image))
        if name is None:
            missing.append(f"{source_folder}/{image}.jpg")
        else:
            paths.append(f"{source_folder}/{name}")
            hotels.append(hotel)
    return paths, hotels, missing
