"""LFW's pairs: the folds of pairs.txt, each image once, partial copies."""

import pytest
import torch

from image_trees import load_partial, write_image, write_lines
from papers.datasets import lfw, load_lfw_pairs

pytest.importorskip("PIL")

PAIRS = [
    "2\t2",
    "Ann\t1\t2",
    "Bob\t1\t3",
    "Ann\t1\tBob\t3",
    "Cy_Young\t1\tAnn\t2",
    "Bob\t2\t3",
    "Cy_Young\t1\t10",
    "Ann\t2\tCy_Young\t10",
    "Bob\t1\tCy_Young\t10",
]
# In the order of their first occurrence in pairs
SHOTS = [("Ann", 1), ("Ann", 2), ("Bob", 1), ("Bob", 3), ("Cy_Young", 1), ("Bob", 2), ("Cy_Young", 10)]
PAIRS_BY_HAND = [[0, 1], [2, 3], [0, 3], [4, 1], [5, 3], [4, 6], [1, 6], [2, 6]]
SAME_BY_HAND = [True, True, False, False, True, True, False, False]


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """2 folds of 2 + 2 pairs; the red of a face is its position in SHOTS."""
    monkeypatch.setattr(lfw, "PUBLISHED", {"same": 4, "different": 4})
    home = tmp_path / "lfw-py"
    write_lines(home / "pairs.txt", *PAIRS)
    for k, (person, number) in enumerate(SHOTS):
        write_image(home / f"lfw_funneled/{person}/{person}_{number:04d}.jpg", (10 * k, 0, 0))
    return tmp_path


def test_published_counts_match_paper():
    assert lfw.PUBLISHED == {"same": 3000, "different": 3000}


@pytest.mark.parametrize("inside", ["", "lfw-py"])
def test_load_lfw_pairs_complete_copy(faces, inside):
    pairs = load_lfw_pairs(faces / inside)
    assert pairs.name == pairs.images.name == "LFW"
    assert [path.rpartition("/")[2] for path in pairs.images.paths] == [f"{p}_{n:04d}.jpg" for p, n in SHOTS]
    assert pairs.pairs.tolist() == PAIRS_BY_HAND
    assert pairs.same.tolist() == SAME_BY_HAND
    assert pairs.folds.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert pairs.images.labels.tolist() == [0, 0, 1, 1, 2, 1, 2]
    assert pairs.images.class_names == ("Ann", "Bob", "Cy_Young")
    assert (pairs.pairs.dtype, pairs.same.dtype, pairs.folds.dtype) == (torch.int64, torch.bool, torch.int64)
    labels = pairs.images.labels[pairs.pairs]
    assert torch.equal(labels[:, 0] == labels[:, 1], pairs.same)
    assert abs(pairs.images[3][0].getpixel((0, 0))[0] - 30) < 5
    assert pairs.with_transform(lambda image: image.size).images[0] == ((6, 4), 0)


@pytest.mark.parametrize(("image_set", "folder"), [("original", "lfw"), ("deepfunneled", "lfw-deepfunneled")])
def test_load_lfw_pairs_other_image_sets(faces, image_set, folder):
    with pytest.raises(FileNotFoundError, match=r"only .*pairs\.txt exists"):
        load_lfw_pairs(faces, image_set=image_set)
    (faces / "lfw-py/lfw_funneled").rename(faces / "lfw-py" / folder)
    assert f"/{folder}/Ann/Ann_0001.jpg" in load_lfw_pairs(faces, image_set=image_set).images.paths[0]


def test_load_lfw_pairs_partial_copy(faces):
    (faces / "lfw-py/lfw_funneled/Ann/Ann_0001.jpg").unlink()
    message = (
        r"all of LFW: .* has 3 same pairs \(4 published\), 3 different pairs \(4 publish"
        r"ed\)\. 1 listed files are missing, the first is .*Ann_0001\.jpg"
    )
    pairs = load_partial(load_lfw_pairs, faces, message)
    assert pairs.name == pairs.images.name == "LFW, partial"
    assert [path.rpartition("/")[2] for path in pairs.images.paths] == [f"{p}_{n:04d}.jpg" for p, n in SHOTS[1:]]
    kept = [k for k, pair in enumerate(PAIRS_BY_HAND) if 0 not in pair]
    assert pairs.pairs.tolist() == [[position - 1 for position in PAIRS_BY_HAND[k]] for k in kept]
    assert pairs.same.tolist() == [SAME_BY_HAND[k] for k in kept]
    assert pairs.folds.tolist() == [k // 4 for k in kept]


def test_select_drops_images_without_pairs(faces):
    pairs = load_lfw_pairs(faces)
    remaining = pairs.select(torch.tensor([False, True, True, False, True, True, False]), "less")
    assert remaining.pairs.tolist() == [[1, 0]]  # Cy_Young 1 and Ann 2
    assert [path.rpartition("/")[2] for path in remaining.images.paths] == ["Ann_0002.jpg", "Cy_Young_0001.jpg"]
    assert (remaining.name, remaining.images.name) == ("less", "less")
    with pytest.raises(ValueError, match="keep must select at least one complete pair of LFW, got none"):
        pairs.select(torch.tensor([True] + [False] * 6), "none")


def test_load_lfw_pairs_fewer_than_published_is_partial(faces, monkeypatch):
    monkeypatch.setattr(lfw, "PUBLISHED", {"same": 3000, "different": 3000})
    message = r"has 4 same pairs \(3,000 published\), 4 different pairs \(3,000 published\)\. U"
    assert load_partial(load_lfw_pairs, faces, message).name == "LFW, partial"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], r"line 1: must be the number of folds and the number of pairs, got ''"),
        (["10"], r"line 1: must be the number of folds and the number of pairs, got '10'"),
        (["0 300"], r"line 1: must be the number of folds and the number of pairs, got '0 300'"),
        (PAIRS[:-1], r"pairs\.txt must have 2 x 2 x 2 pairs, as its first line says, got 7"),
        ([*PAIRS, "Ann\t1\t2"], r"pairs\.txt must have 2 x 2 x 2 pairs, as its first line says, got 9"),
        ([*PAIRS[:2], "Bob 1 Ann 3", *PAIRS[3:]], r"line 3: must be a person and two numbers, got 'Bob 1 Ann 3'"),
        ([*PAIRS[:3], "Bob 1 3", *PAIRS[4:]], r"line 4: must be a person and a number, twice, got 'Bob 1 3'"),
        ([*PAIRS[:2], "Bob one 3", *PAIRS[3:]], r"line 3: must be a person and two numbers, got 'Bob one 3'"),
    ],
)
def test_load_lfw_pairs_malformed_list_raises(faces, lines, message):
    write_lines(faces / "lfw-py/pairs.txt", *lines)
    with pytest.raises(ValueError, match=message):
        load_lfw_pairs(faces)


def test_load_lfw_pairs_ignores_blank_lines(faces):
    write_lines(faces / "lfw-py/pairs.txt", *PAIRS[:3], "", *PAIRS[3:], "")
    assert load_lfw_pairs(faces).same.tolist() == SAME_BY_HAND


def test_load_lfw_pairs_missing_files_raise(faces, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"root must contain LFW .* does not exist\. Expected:\n    ROOT/lfw-py/pairs"
    ):
        load_lfw_pairs(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="image_set must be one of 'original', 'funneled', 'deepfunneled', got 'flat'"):
        load_lfw_pairs(faces, image_set="flat")
    for path in faces.glob("lfw-py/lfw_funneled/*/*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"none of the pairs listed in .* exists: the first missing f"):
        load_lfw_pairs(faces, partial=True)
