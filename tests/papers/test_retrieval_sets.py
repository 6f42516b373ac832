"""Stanford Online Products, In-shop and Hotels-50K: their own splits, coarse labels, complete and partial copies."""

import pytest

from image_trees import load_partial, write_image, write_lines
from papers.datasets import hotels, in_shop, load_hotels, load_in_shop, load_online_products, online_products

pytest.importorskip("PIL")
pytest.importorskip("tqdm")


def colors(part):
    """The color and the label of each image."""
    return [(image.getpixel((0, 0)), label) for image, label in part]


def test_published_counts_match_papers():
    assert online_products.PUBLISHED == {"training": 59551, "test": 60502}
    assert in_shop.PUBLISHED == {"train": 25882, "query": 14218, "gallery": 12612}
    assert sum(in_shop.PUBLISHED.values()) == 52712
    assert hotels.PUBLISHED == {"training": 1027871, "test": 17954}


# Stanford Online Products


@pytest.fixture
def products(tmp_path, monkeypatch):
    """3 training images of products 1 and 2, 4 test images of products 4 and 3. The red of image k is k."""
    monkeypatch.setattr(online_products, "PUBLISHED", {"training": 3, "test": 4})
    home = tmp_path / "Stanford_Online_Products"
    header = "image_id class_id super_class_id path"
    rows = [(1, 1, 1), (2, 1, 1), (3, 2, 12), (4, 4, 2), (5, 4, 2), (6, 3, 1), (7, 3, 1)]
    lines = []
    for k, product, kind in rows:
        file = f"kind{kind}_final/{product}_{k}.png"
        write_image(home / file, (k, 0, 0))
        lines.append(f"{k} {product} {kind} {file}")
    write_lines(home / "Ebay_train.txt", header, *lines[:3])
    write_lines(home / "Ebay_test.txt", header, *lines[3:])
    return tmp_path


@pytest.mark.parametrize("inside", ["", "Stanford_Online_Products"])
def test_load_online_products_complete_copy(products, inside):
    split = load_online_products(products / inside)
    assert split.name == split.train.name == split.test.name == "SOP"
    assert colors(split.train) == [((1, 0, 0), 0), ((2, 0, 0), 0), ((3, 0, 0), 1)]
    assert colors(split.test) == [((4, 0, 0), 3), ((5, 0, 0), 3), ((6, 0, 0), 2), ((7, 0, 0), 2)]
    assert split.train.coarse_labels.tolist() == [0, 0, 11]
    assert split.test.coarse_labels.tolist() == [1, 1, 0, 0]
    assert split.query is split.gallery
    assert split.train.class_names == ("1", "2", "3", "4")


@pytest.mark.parametrize("number", [0, 22_635, 10**12])
def test_load_online_products_class_beyond_published_raises(products, number):
    with open(products / "Stanford_Online_Products/Ebay_test.txt", "a") as file:
        file.write(f"8 {number} 1 kind1_final/{number}_8.png\n")
    with pytest.raises(ValueError, match=rf"Ebay_test\.txt must number classes from 1 to 22,634, got {number}"):
        load_online_products(products, partial=True)


def test_load_online_products_partial_copy(products):
    home = products / "Stanford_Online_Products"
    (home / "kind1_final/1_1.png").unlink()
    (home / "kind2_final/4_5.png").unlink()
    message = (
        r"all of Stanford Online Products: .* has 2 training images \(3 published\), 3 test images \(4 published\)\. "
        r"2 listed files are missing, the first is .*1_1\.png"
    )
    split = load_partial(load_online_products, products, message)
    assert split.name == split.train.name == split.test.name == "SOP, partial"
    assert colors(split.train) == [((2, 0, 0), 0), ((3, 0, 0), 1)]
    assert split.train.coarse_labels.tolist() == [0, 11]
    assert colors(split.test) == [((4, 0, 0), 3), ((6, 0, 0), 2), ((7, 0, 0), 2)]
    assert split.summary().splitlines()[1:] == [
        "training classes with fewer than 2 images, too few for a batch: 2 of 2: 1 (1), 2 (1)",
        "queries without another image of their class, counted as misses: 1 of 3",
    ]


def test_load_online_products_counts_all_missing(products):
    for file in ("1_1", "3_6", "3_7"):
        (products / f"Stanford_Online_Products/kind1_final/{file}.png").unlink()
    with pytest.raises(ValueError, match=r"3 listed files are missing, the first is .*1_1\.png"):
        load_online_products(products)


def test_load_online_products_no_test_image_raises(products):
    for file in (products / "Stanford_Online_Products").glob("*/[34]_*.png"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"no image listed in Ebay_test\.txt exists\. Expected:\n    ROOT/Stan"):
        load_online_products(products, partial=True)


def test_load_online_products_invalid_list_raises(products):
    home = products / "Stanford_Online_Products"
    write_lines(home / "Ebay_test.txt", "image_id class_id super_class_id path", "4 4 four four.png")
    with pytest.raises(
        ValueError,
        match=r"Ebay_test\.txt, line 2: must be an integer, an integer, an integer, a string, "
        r"got '4 4 four four\.png'",
    ):
        load_online_products(products)
    (home / "Ebay_test.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"only .*Ebay_train\.txt exists\. Expected:"):
        load_online_products(products)
    with pytest.raises(FileNotFoundError, match=r"Online Products .* does not exist"):
        load_online_products(products / "nowhere")


# In-shop


CLOTHES = [
    ("img/MEN/Denim/id_00000080/01_1_front.png", "id_00000080", "train"),
    ("img/MEN/Denim/id_00000080/01_2_side.png", "id_00000080", "train"),
    ("img/WOMEN/Dresses/id_00000002/02_1_front.png", "id_00000002", "query"),
    ("img/WOMEN/Dresses/id_00000002/02_2_side.png", "id_00000002", "gallery"),
    ("img/WOMEN/Dresses/id_00000003/02_1_front.png", "id_00000003", "gallery"),
    ("img/WOMEN/Dresses/id_00000002/02_3_back.png", "id_00000002", "query"),
    ("img/WOMEN/Tees/id_00000007/01_1_front.png", "id_00000007", "train"),
]


def write_clothes(home, list_file="Eval/list_eval_partition.txt", images="Img"):
    """The red of image k of the list is k."""
    for k, (file, _, _) in enumerate(CLOTHES):
        write_image(home / images / file, (k, 0, 0))
    lines = [f"{file:70} {item:15} {part}" for file, item, part in CLOTHES]
    return write_lines(home / list_file, str(len(lines)), "image_name item_id evaluation_status", *lines)


@pytest.fixture
def clothes(tmp_path, monkeypatch):
    monkeypatch.setattr(in_shop, "PUBLISHED", {"train": 3, "query": 2, "gallery": 2})
    return tmp_path


@pytest.mark.parametrize(
    ("home", "list_file", "images"),
    [
        ("", "Eval/list_eval_partition.txt", "Img"),
        ("", "list_eval_partition.txt", ""),
        ("", "Eval/list_eval_partition.txt", ""),
        ("In-shop Clothes Retrieval Benchmark", "Eval/list_eval_partition.txt", "Img"),
    ],
)
def test_load_in_shop_complete_copy(clothes, home, list_file, images):
    write_clothes(clothes / home, list_file, images)
    split = load_in_shop(clothes)
    assert split.name == split.train.name == split.query.name == split.gallery.name == "In-shop"
    assert colors(split.train) == [((0, 0, 0), 3), ((1, 0, 0), 3), ((6, 0, 0), 2)]
    assert colors(split.query) == [((2, 0, 0), 0), ((5, 0, 0), 0)]
    assert colors(split.gallery) == [((3, 0, 0), 0), ((4, 0, 0), 1)]
    assert split.train.class_names == ("id_00000002", "id_00000003", "id_00000007", "id_00000080")


def test_load_in_shop_partial_copy(clothes):
    write_clothes(clothes)
    (clothes / "Img" / CLOTHES[2][0]).unlink()
    message = (
        r"all of In-shop Clothes Retrieval: .* has 3 train images \(3 published\), 1 query "
        r"images \(2 published\), 2 gallery images \(2 published\)\. 1 listed files .* first is .*02_1_front\.png"
    )
    split = load_partial(load_in_shop, clothes, message)
    assert split.name == split.query.name == "In-shop, partial"
    assert colors(split.query) == [((5, 0, 0), 0)]
    (clothes / "Img" / CLOTHES[1][0]).unlink()
    (clothes / "Img" / CLOTHES[3][0]).unlink()
    split = load_in_shop(clothes, partial=True)
    assert colors(split.train) == [((0, 0, 0), 3), ((6, 0, 0), 2)]
    assert colors(split.gallery) == [((4, 0, 0), 1)]
    (clothes / "Img" / CLOTHES[5][0]).unlink()
    with pytest.raises(FileNotFoundError, match="no query image exists"):
        load_in_shop(clothes, partial=True)


def test_load_in_shop_counts_all_missing(clothes):
    write_clothes(clothes)
    for k in (0, 1, 3, 4):
        (clothes / "Img" / CLOTHES[k][0]).unlink()
    with pytest.raises(ValueError, match="4 listed files are missing"):
        load_in_shop(clothes)


def test_load_in_shop_invalid_list_raises(clothes):
    with pytest.raises(
        FileNotFoundError, match=r"In-shop .* does not contain it\. Expected:\n    ROOT/Eval/list_eval_part"
    ):
        load_in_shop(clothes)
    list_file = write_clothes(clothes)
    good = list_file.read_text().splitlines()
    write_lines(list_file, *good, "img/one.png id_00000001 val")
    with pytest.raises(ValueError, match=r"list_eval_partition\.txt must have train, query or gallery .*, got 'val'"):
        load_in_shop(clothes)
    write_lines(list_file, *good, "img/one.png id_00000001")
    with pytest.raises(
        ValueError, match=r"partition\.txt, line 10: must be a string, a string, a string, got 'img/one\.png id_"
    ):
        load_in_shop(clothes)


# Hotels-50K


@pytest.fixture
def rooms(tmp_path, monkeypatch):
    """4 training images of hotels 30, 7 and 100; 3 test images of 7, 100 and 555. No list of hotels has 555."""
    monkeypatch.setattr(hotels, "PUBLISHED", {"training": 4, "test": 3})
    lists = tmp_path / "input/dataset"
    header = "image_id,hotel_id,image_url,image_source,upload_timestamp"
    write_lines(
        lists / "hotel_info.csv",
        "hotel_id,hotel_name,chain_id,latitude,longitude",
        '7,"Inn, the",4,1.5,2.5',
        "30,Lodge,-1,1,1",
        "100,Palace,4,1,1",
    )
    write_lines(
        lists / "train_set.csv",
        header,
        "11,30,http://x/1.png,travel_website,1/1/16",
        "12,7,http://x/2.png,traffickcam,1/1/16",
        "13,7,http://x/3.jpeg,travel_website,1/1/16",
        "14,100,http://x/4.png,travel_website,1/1/16",
    )
    write_lines(
        lists / "test_set.csv",
        header,
        "21,7,http://x/5.png,traffickcam,1/1/16",
        "22,100,http://x/6.png,traffickcam,1/1/16",
        "23,555,http://x/7.png,traffickcam,1/1/16",
    )
    images = tmp_path / "images"
    write_image(images / "train/-1/30/travel_website/11.png", (11, 0, 0))
    write_image(images / "train/4/7/traffickcam/12.png", (12, 0, 0))
    write_image(images / "train/4/7/travel_website/13.bmp", (13, 0, 0))
    write_image(images / "train/4/100/travel_website/14.png", (14, 0, 0))
    for k, occlusion in enumerate(hotels.OCCLUSIONS):
        write_image(images / f"test/{occlusion}/4/7/traffickcam/21.png", (21, k, 0))
        write_image(images / f"test/{occlusion}/4/100/traffickcam/22.png", (22, k, 0))
        write_image(images / f"test/{occlusion}/Unknown/555/traffickcam/23.png", (23, k, 0))
    return tmp_path


def test_load_hotels_complete_copy(rooms, capsys):
    split = load_hotels(rooms, progress=False)
    assert capsys.readouterr().err == ""
    assert split.name == split.train.name == split.query.name == "Hotels-50K"
    assert split.train.class_names == ("7", "30", "100", "555")
    assert colors(split.train) == [((11, 0, 0), 1), ((12, 0, 0), 0), ((13, 0, 0), 0), ((14, 0, 0), 2)]
    assert colors(split.query) == [((21, 0, 0), 0), ((22, 0, 0), 2), ((23, 0, 0), 3)]
    assert split.train.coarse_labels.tolist() == [-1, 4, 4, 4]
    assert split.query.coarse_labels.tolist() == [4, 4, -1]
    assert split.gallery is split.train
    assert split.summary().splitlines()[-1].endswith("counted as misses: 1 of 3")


def test_load_hotels_lists_beside_images(rooms, capsys):
    (rooms / "input/dataset").rename(rooms / "dataset")
    assert len(load_hotels(rooms).train) == 4
    assert "train images" in capsys.readouterr().err


@pytest.mark.parametrize(("occlusion", "k"), [("low_occlusions", 1), ("high_occlusions", 3)])
def test_load_hotels_occlusion_selects_test_images(rooms, occlusion, k):
    split = load_hotels(rooms, occlusion=occlusion, progress=False)
    assert [color for color, _ in colors(split.query)] == [(21, k, 0), (22, k, 0), (23, k, 0)]
    assert split.name == split.query.name == f"Hotels-50K, {occlusion.replace('_', ' ')}"


def test_load_hotels_partial_copy(rooms):
    (rooms / "images/train/4/7/traffickcam/12.png").unlink()
    (rooms / "images/test/unoccluded/Unknown/555/traffickcam/23.png").unlink()
    message = (
        r"all of Hotels-50K: .* has 3 training images \(4 published\), 2 test images \(3 "
        r"published\)\. 2 listed files .* the first is .*images/train/4/7/traffickcam/12\.jpg"
    )
    split = load_partial(load_hotels, rooms, message, progress=False)
    assert split.name == split.query.name == "Hotels-50K, partial"
    assert colors(split.train) == [((11, 0, 0), 1), ((13, 0, 0), 0), ((14, 0, 0), 2)]
    assert split.train.coarse_labels.tolist() == [-1, 4, 4]
    assert colors(split.query) == [((21, 0, 0), 0), ((22, 0, 0), 2)]
    # Labels do not depend on missing images.
    (rooms / "images/train/-1/30/travel_website/11.png").unlink()
    split = load_hotels(rooms, partial=True, progress=False)
    assert colors(split.train) == [((13, 0, 0), 0), ((14, 0, 0), 2)]
    assert split.train.class_names == ("7", "30", "100", "555")


def test_load_hotels_counts_all_missing(rooms):
    for file in ("train/-1/30/travel_website/11.png", "train/4/7/traffickcam/12.png"):
        (rooms / "images" / file).unlink()
    (rooms / "images/test/unoccluded/4/7/traffickcam/21.png").unlink()
    with pytest.raises(ValueError, match="3 listed files are missing"):
        load_hotels(rooms, progress=False)


def test_load_hotels_no_test_image_raises(rooms):
    (rooms / "images/test/low_occlusions").rename(rooms / "elsewhere")
    with pytest.raises(FileNotFoundError, match="low_occlusions contains none of its images"):
        load_hotels(rooms, partial=True, occlusion="low_occlusions", progress=False)
    with pytest.raises(ValueError, match=r"occlusion must be one of 'unoccluded', .*, got 'some'"):
        load_hotels(rooms, occlusion="some")


def test_load_hotels_invalid_list_raises(rooms):
    path = rooms / "input/dataset/test_set.csv"
    good = path.read_text().splitlines()
    for line, got in {"x,7,u,s,t": "'x', '7'", "24,7": "'24', '7'"}.items():
        write_lines(path, *good, line)
        with pytest.raises(
            ValueError,
            match=r"test_set\.csv, line 5: must have an integer in column 1, an integer in "
            rf"column 2, a string in column 4, got \[{got}",
        ):
            load_hotels(rooms, progress=False)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"input.dataset.test_set\.csv is missing\. Expected:\n    ROOT/input"):
        load_hotels(rooms, progress=False)
