"""The papers' transforms: results pixel by pixel, and draws that depend only on seed, epoch and image."""

import collections
import pickle

import pytest
import torch

from image_trees import require_torchvision, write_image
from papers.datasets import ImageDataset, Transforms

np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")
require_torchvision()

SIZE = 24
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture
def image():
    """All pixels differ, and none is black: red is the row, green the column."""
    rows, columns = np.mgrid[1 : SIZE + 1, 1 : SIZE + 1]
    return Image.fromarray(np.stack([rows, columns, rows * 0 + 7], axis=2).astype(np.uint8))


def crop_position(image, crop: torch.Tensor, padding: int) -> tuple[int, int, bool]:
    """The position of a crop in the padded image, and whether it is mirrored, by exhaustive search."""
    pixels = (crop * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    padded = np.pad(np.asarray(image), ((padding, padding), (padding, padding), (0, 0)))
    size = len(pixels)
    found = [
        (top, left, flipped)
        for top in range(len(padded) - size + 1)
        for left in range(len(padded) - size + 1)
        for flipped in (False, True)
        if np.array_equal(padded[top : top + size, left : left + size][:, :: -1 if flipped else 1], pixels)
    ]
    assert len(found) == 1, f"a crop must be in one place, got {found}"
    return found[0]


@pytest.mark.slow
def test_train_crops_anywhere_and_mirrors_half(image):
    transform = Transforms(size=SIZE, padding=2).train
    positions = [crop_position(image, transform(image, 0, index), 2) for index in range(1000)]
    tops, lefts, flips = (collections.Counter(values) for values in zip(*positions, strict=True))
    assert sorted(tops) == sorted(lefts) == [0, 1, 2, 3, 4]
    # 200 of each are expected, with a standard deviation of 12.6, and 500 mirrored, with a standard deviation of 15.8.
    assert all(140 < count < 260 for counts in (tops, lefts) for count in counts.values())
    assert 420 < flips[True] < 580
    assert len(set(positions)) == 50, "all combinations must come up"


@pytest.mark.slow
def test_train_crop_smaller_than_image_moves(image):
    transform = Transforms(size=SIZE, crop=20, padding=0).train
    positions = {crop_position(image, transform(image, 0, index), 0) for index in range(500)}
    assert {top for top, _, _ in positions} == {left for _, left, _ in positions} == {0, 1, 2, 3, 4}


def test_defaults_follow_the_papers():
    options = Transforms()
    assert (options.size, options.crop_size, options.padding, options.flip) == (256, 256, 10, True)
    assert options.normalization is None
    image = Image.new("RGB", (300, 200), (124, 116, 104))
    tops, lefts = set(), set()
    for index in range(60):
        crop = options.train(image, 0, index)
        assert crop.shape == (3, 256, 256)
        assert crop.dtype == torch.float32
        assert type(crop) is torch.Tensor
        inside = crop[0] > 0.1  # the padding is black, the image is 124 / 255
        rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
        tops.add(int(rows[0]) or int(rows[-1]) - 255)
        lefts.add(int(columns[0]) or int(columns[-1]) - 255)
    for moves in (tops, lefts):
        assert min(moves) >= -10
        assert max(moves) <= 10
        assert max(moves) - min(moves) > 15


def test_train_flip_off_keeps_crops(image):
    mirrored = Transforms(size=SIZE, padding=2).train
    upright = Transforms(size=SIZE, padding=2, flip=False).train
    flips = 0
    for index in range(50):
        one, other = (crop_position(image, transform(image, 3, index), 2) for transform in (mirrored, upright))
        assert one[:2] == other[:2]
        assert not other[2]
        flips += one[2]
    assert flips


@pytest.mark.slow
def test_train_draws_depend_only_on_seed_epoch_and_index(image):
    options = Transforms(size=SIZE)
    first = [options.train(image, epoch, index) for epoch in range(3) for index in range(5)]
    torch.manual_seed(1)
    again = [options.train(image, epoch, index) for epoch in (2, 1, 0) for index in (4, 3, 2, 1, 0)][::-1]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    drawn = {crop_position(image, crop, 10) for crop in first}
    assert len(drawn) > 10, "epochs and images must differ"
    seeded = [Transforms(size=SIZE, seed=1).train(image, 0, index) for index in range(5)]
    assert not all(torch.equal(one, other) for one, other in zip(first[:5], seeded, strict=True))
    # Draws depend on more than the sum of seed, epoch and index: image i of epoch 1 is not drawn like image i + 1 of
    # epoch 0.
    shifted = [
        crop_position(image, options.train(image, 1, index), 10)
        == crop_position(image, options.train(image, 0, index + 1), 10)
        for index in range(10)
    ]
    assert sum(shifted) < 5


def test_train_draws_equal_recorded_values(image):
    """A training that a later release resumes must see the same crops."""
    transform = Transforms(size=SIZE).train
    positions = [crop_position(image, transform(image, 2, index), 10) for index in range(4)]
    assert positions == [(1, 8, False), (11, 6, False), (19, 11, False), (1, 17, True)]


def test_train_keeps_global_random_state(image):
    before = torch.get_rng_state()
    Transforms(size=SIZE).train(image, 0, 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.subprocess)])
def test_train_resumed_loader_is_bit_identical(tmp_path, num_workers):
    rng = np.random.default_rng(0)
    paths = []
    for k in range(12):
        paths.append(tmp_path / f"{k}.png")
        Image.fromarray(rng.integers(0, 256, (30, 20, 3), dtype=np.uint8)).save(paths[-1])

    def read(order, workers):
        images = ImageDataset(paths, range(12), name="noise").with_transform(Transforms(size=32, padding=4).train)
        images.set_epoch(3)
        return dict(
            zip(order, torch.utils.data.DataLoader(images, None, sampler=order, num_workers=workers), strict=True)
        )

    complete, resumed = read(range(12), 0), read([11, 8, 9, 5], num_workers)
    assert all(torch.equal(image, complete[k][0]) and label == k for k, (image, label) in resumed.items())


def test_transforms_test_crops_center(image):
    crop = Transforms(size=SIZE, crop=20).test(image)
    assert crop_position(image, crop, 0) == (2, 2, False)
    assert crop_position(image, Transforms(size=SIZE).test(image), 0) == (0, 0, False)


@pytest.mark.parametrize("kind", ["train", "test"])
def test_resize_is_bilinear_antialiased_and_square(kind):
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (50, 80, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    options = Transforms(size=32, padding=0, flip=False)
    crop = options.test(image) if kind == "test" else options.train(image, 0, 0)
    assert np.array_equal((crop * 255).round().permute(1, 2, 0).numpy(), expected)


@pytest.mark.slow
def test_keep_aspect_resizes_shorter_side():
    rng = np.random.default_rng(2)
    image = Image.fromarray(rng.integers(0, 256, (40, 80, 3), dtype=np.uint8))
    resized = np.asarray(image.resize((40, 20), Image.Resampling.BILINEAR))
    options = Transforms(size=20, crop=16, padding=0, flip=False, keep_aspect=True)
    tested = (options.test(image) * 255).round().permute(1, 2, 0).numpy()
    assert np.array_equal(tested, resized[2:18, 12:28])
    lefts = set()
    for index in range(200):
        crop = (options.train(image, 0, index) * 255).round().permute(1, 2, 0).numpy()
        (found,) = (
            left
            for top in range(5)
            for left in range(25)
            if np.array_equal(resized[top : top + 16, left : left + 16], crop)
        )
        lefts.add(found)
    assert (min(lefts), max(lefts)) == (0, 24)


def test_normalization_matches_formula(image):
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).double()
    for normalization, expected in {
        None: pixels / 255,
        IMAGENET: (pixels / 255 - torch.tensor(IMAGENET[0])[:, None, None]) / torch.tensor(IMAGENET[1])[:, None, None],
        ((0.5,), (0.25,)): pixels / 255 * 4 - 2,
        ((0.5, 0, 1), (0.25, 1, 0.5)): torch.stack([pixels[0] / 255 * 4 - 2, pixels[1] / 255, pixels[2] / 255 * 2 - 2]),
    }.items():
        torch.testing.assert_close(
            Transforms(size=SIZE, normalization=normalization).test(image).double(), expected, rtol=0, atol=2e-6
        )
    # EfficientNet-lite's result is exact, since features of published weights are compared bit by bit.
    lite = Transforms(size=SIZE, normalization=((127 / 255,), (128 / 255,))).test(image)
    assert torch.equal(lite, ((pixels - 127) / 128).float())


def test_gray_images_accept_one_channel_normalization(image):
    gray = image.convert("L")
    assert Transforms(size=SIZE).test(gray).shape == (1, SIZE, SIZE)
    assert Transforms(size=SIZE, normalization=((0.5,), (0.5,))).train(gray, 0, 0).shape == (1, SIZE, SIZE)
    message = "normalization must have as many channels as the image, 1, or 1, got 3 means"
    with pytest.raises(ValueError, match=message):
        Transforms(size=SIZE, normalization=IMAGENET).test(gray)
    with pytest.raises(ValueError, match=message):
        Transforms(size=SIZE, normalization=IMAGENET).train(gray, 0, 0)


def test_with_transforms_sets_train_and_test(tmp_path):
    from papers.datasets import ImageSplit

    path = write_image(tmp_path / "one.png")
    train, test = (ImageDataset([path] * 2, [0, 0], name="toy") for _ in range(2))
    transforms = Transforms(size=8)
    split = ImageSplit("toy", train, test, test).with_transforms(transforms)
    assert split.train.transform == transforms.train
    assert split.test.transform == transforms.test
    assert split.query is split.gallery
    assert split.train[0][0].shape == (3, 8, 8)
    # If the gallery is the training set, its gallery images are not cropped at random.
    separate = ImageSplit("toy", train, test, train).with_transforms(transforms)
    assert separate.gallery.transform == separate.query.transform == transforms.test
    assert separate.train.transform == transforms.train
    assert repr(transforms.train) == f"TrainTransform(options={transforms!r})"
    assert "seed=0" in repr(transforms)


def test_pickle_contains_no_torchvision_reference():
    for transform in (Transforms().train, Transforms().test):
        transform(Image.new("RGB", (9, 9)), *((0, 0) if transform == Transforms().train else ()))
        assert b"torchvision" not in pickle.dumps(transform)
        assert pickle.loads(pickle.dumps(transform)) == transform


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"size": 0}, ValueError, "size must be at least 1, got 0"),
        ({"size": 2.5}, TypeError, "size must be an integer, got float"),
        ({"crop": 0}, ValueError, "crop must be at least 1, got 0"),
        ({"size": 20, "crop": 21}, ValueError, "crop must be at most size = 20, got 21"),
        ({"padding": -1}, ValueError, "padding must be at least 0, got -1"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"flip": 1}, TypeError, "flip must be True or False, got 1"),
        ({"keep_aspect": "no"}, TypeError, "keep_aspect must be True or False, got 'no'"),
        (
            {"normalization": "imagenet"},
            TypeError,
            "normalization must be None, or a pair of means and standard deviations, got 'imagenet'",
        ),
        ({"normalization": (0.5, 0.5)}, TypeError, "normalization must be None, or a pair of means and"),
        ({"normalization": ((0.5,), (1.0, 1.0))}, ValueError, "as many standard deviations as means"),
        ({"normalization": ((), ())}, ValueError, "as many standard deviations as means"),
        ({"normalization": ((float("nan"),), (1.0,))}, ValueError, "means of normalization must be a number, got nan"),
        ({"normalization": ((0.5,), (0.0,))}, ValueError, "standard deviations of normalization must be a number > 0"),
    ],
)
def test_transforms_invalid_options_raise(options, kind, message):
    with pytest.raises(kind, match=message):
        Transforms(**options)
