"""The inputs of a training: images, or features of a frozen backbone, with their classes."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from hardmine.ops._arguments import shape_of
from papers._extras import require
from papers.datasets import (
    IMAGE_SPLITS,
    ImageDataset,
    ImageSplit,
    Transforms,
    check_images,
    load_digits,
    load_image_folder,
)
from papers.datasets.omniglot import OMNIGLOT_HALVES, SIZE, read_drawings
from papers.networks import BACKBONES, Backbone, backbone, cache_features
from papers.networks.cache import weights_digest
from papers.recipes.fields import RecipeError, msgspec
from papers.recipes.recipe import Recipe
from papers.recipes.sections import Data, Triplets
from papers.training.samplers import make_sampler

Images = Tensor | ImageDataset
_SKIPPED = "skipped: "


@dataclass(frozen=True)
class Part:
    """A part of the data: images and their classes.

    Attributes:
        images: A tensor [N, ...] of images or features, or image files with transforms.
        labels: int64 [N].
        coarse_labels: int64 [N], the classes one level up, -1 if unknown; or None.
    """

    images: Images
    labels: Tensor
    coarse_labels: Tensor | None = None


@dataclass(frozen=True)
class TrainingData:
    """The inputs of a training.

    Attributes:
        name: Name of the data in tables; the name of a partial copy says so.
        train: The part to train on.
        query: The part to retrieve the classes of.
        gallery: The part to search; the same object as `query` if each query is left out of its own search.
        notes: Lines about classes that training or retrieval cannot use, and about skipped images.
        feature_dim: Number of features if they replace the images, else None.
        fingerprint: Identifies the data: a digest of the name, the labels, and the features or file names.
        split: The image files; None for digits.
        weights: SHA-256 of the weights of the frozen backbone that computed the features, else None.
    """

    name: str
    train: Part
    query: Part
    gallery: Part
    notes: tuple[str, ...]
    feature_dim: int | None
    fingerprint: str
    split: ImageSplit | None = None
    weights: str | None = None

    def with_notes_for(self, recipe: Recipe) -> TrainingData:
        """The same data with the notes of another recipe, whose batches may have another number of images per class."""
        if self.split is None:
            return self
        skipped = [note for note in self.notes if note.startswith(_SKIPPED)]
        return replace(self, notes=(*_summary(recipe, self.split), *skipped))


def load_data(
    recipe: Recipe,
    root: str | os.PathLike[str] | None,
    cache: Path,
    *,
    progress: bool = True,
    device: str = "cpu",
) -> TrainingData:
    """Load the data of a recipe. Features of a frozen backbone are computed if necessary, and cached.

    Args:
        recipe: The recipe.
        root: Folder of the data; None is valid for digits.
        cache: Folder of cached features.
        progress: Show progress bars on stderr.
        device: Device on which a frozen backbone computes features. The features are kept on the CPU.

    Raises:
        OSError: A part of the data is missing; the message shows the expected tree. Or `network.weights` or
            `data.features` is not a file.
        ValueError: The data are incomplete and `data.partial` is false; images are unreadable and `data.on_corrupt` is
            refuse; `root` is None; `data.features` does not fit the images; other keys of `[data]` are given for
            digits; or the sampler does not suit the classes.
    """
    if recipe.data.name == "digits":
        return _digits(recipe)
    _check_files(recipe, root)
    split = _split(recipe.data, _root(recipe, root))
    if not isinstance(recipe.sampler, Triplets):  # fail now, not after reading all images
        make_sampler(recipe, split.train.labels, split.name)
    notes = _summary(recipe, split)
    if recipe.data.on_corrupt != "unchecked":
        split, corrupt = check_images(split, recipe.data.on_corrupt, progress=progress)
        notes += [f"{_SKIPPED}{path}: {reason}" for path, reason in corrupt]
    if recipe.data.name == "omniglot":
        return _omniglot(split, notes, progress)
    split = split.with_transforms(transforms_of(recipe))
    if not recipe.network.frozen:
        parts = [Part(part, part.labels, part.coarse_labels) for part in (split.train, split.query, split.gallery)]
        return _data(split.name, parts, split.query is split.gallery, notes, None, split)
    weights = None
    if recipe.data.features:
        features = _features_from_file(recipe, split, root)
    else:
        network = make_backbone(recipe).to(device)
        weights = weights_digest(network)
        features = _features(recipe, split, network, cache, progress)
    parts = [
        Part(rows, part.labels, part.coarse_labels)
        for rows, part in zip(features, (split.train, split.query, split.gallery), strict=True)
    ]
    data = _data(split.name, parts, split.query is split.gallery, notes, features[0].shape[1], split)
    return replace(data, weights=weights)


def plain_train_images(data: TrainingData) -> Images:
    """The training images with the transform of retrieved images, without random crops."""
    images = data.train.images
    return images if isinstance(images, Tensor) else images.with_transform(data.query.images.transform)


def transforms_of(recipe: Recipe) -> Transforms:
    """The transforms of a recipe's image files."""
    data = recipe.data
    # Backbones scale images themselves. Features use the test transform, and are the same for every seed.
    options = {"normalization": None, "seed": 0 if recipe.network.frozen else recipe.seed}
    return Transforms(data.size, data.crop, data.padding, data.flip, data.keep_aspect, **options)


def make_backbone(recipe: Recipe) -> Backbone:
    """The backbone of a recipe, with its weights. Not for convnet4, which needs the images."""
    weights, transforms = recipe.network.weights, transforms_of(recipe)
    made = backbone(recipe.network.backbone, None if weights == "random" else weights)
    if recipe.network.backbone not in BACKBONES:  # which take images of any size
        check_features(recipe, made, torch.zeros(1, len(made.mean), transforms.crop_size, transforms.crop_size))
    return made


def check_weights(recipe: Recipe, trained: str | None, found: str | None) -> None:
    """Check that a frozen backbone has the weights of the training, whose SHA-256 a checkpoint has, or None."""
    if None not in (trained, found) and trained != found:
        raise RecipeError(
            f"{recipe.name}: network.weights must be those of the training, with SHA-256 {trained}, "
            f"got {recipe.network.weights!r} with {found}"
        )


def check_features(recipe: Recipe, made: Backbone, images: Tensor) -> None:
    """Check that a backbone takes images of the recipe's size, and makes one row of features per image."""
    shape: object
    try:
        with torch.no_grad():
            shape = shape_of(made.eval()(images))
    except Exception as error:  # of any network
        shape = f"{type(error).__name__}: {error}"
    made.train()
    if shape != shape_of(images.new_empty(len(images), made.feature_dim)):
        raise RecipeError(
            f"{recipe.name}: network.backbone = {recipe.network.backbone!r} must make features "
            f"[1, {made.feature_dim}] of images {shape_of(images)}, got {shape}"
        )


def _root(recipe: Recipe, root: str | os.PathLike[str] | None) -> Path:
    if root is None:
        raise ValueError(
            f"root must be the folder with the data of {recipe.data.name!r}, got None: pass --data or set HARDMINE_DATA"
        )
    return Path(root)


def _summary(recipe: Recipe, split: ImageSplit) -> list[str]:
    return split.summary(getattr(recipe.sampler, "images_per_class", 2)).split("\n")


def _check_files(recipe: Recipe, root: str | os.PathLike[str] | None) -> None:
    """Check that the files named by a recipe exist."""
    weights, features = recipe.network.weights, recipe.data.features
    if features is not None:
        path = _root(recipe, root) / features
        if not path.is_file():
            raise FileNotFoundError(f"{recipe.name}: data.features must be a file, got {path}: no such file")
    elif weights not in ("imagenet", "random") and not Path(weights).is_file():
        raise FileNotFoundError(
            f"{recipe.name}: network.weights must be imagenet, random or a file, got {weights!r}: no such file"
        )


def _split(data: Data, root: Path) -> ImageSplit:
    if data.name == "folder":
        return load_image_folder(root, train_classes=data.train_classes)
    return IMAGE_SPLITS[data.name](root, partial=data.partial)


def _digits(recipe: Recipe) -> TrainingData:
    """scikit-learn's digits, which are always complete and untransformed."""
    for key, default in msgspec.structs.asdict(Data("digits")).items():
        given = getattr(recipe.data, key)
        if given != default:
            raise RecipeError(
                f"{recipe.name}: data.{key} must be omitted for digits, which have no options, got {given!r}"
            )
    split = load_digits()
    test = Part(split.test_images, split.test_labels)
    return _data("digits", [Part(split.train_images, split.train_labels), test, test], True, [], None)


def _omniglot(split: ImageSplit, notes: list[str], progress: bool) -> TrainingData:
    """Omniglot's drawings as tensors, since they are small enough."""
    train, test = (
        Part(read_drawings(part.paths, SIZE, title, progress), part.labels)
        for part, title in zip((split.train, split.test), OMNIGLOT_HALVES, strict=True)
    )
    return _data(split.name, [train, test, test], True, notes, None, split)


def _features_from_file(recipe: Recipe, split: ImageSplit, root: str | os.PathLike[str] | None) -> list[Tensor]:
    """The features in a file, for train, query and gallery."""
    path = _root(recipe, root) / recipe.data.features
    try:
        rows = torch.from_numpy(require("numpy").load(path, allow_pickle=False))
    except (ValueError, EOFError, TypeError) as error:  # a text file, an empty file, an .npz file
        raise RecipeError(f"{recipe.name}: data.features must be an .npy file, got {path}: {error}") from error
    parts = (split.train, split.query, split.gallery)
    row_of = {image: row for row, image in enumerate(sorted({image for part in parts for image in part.paths}))}
    if rows.ndim != 2 or len(rows) != len(row_of) or not rows.is_floating_point():
        raise RecipeError(
            f"{recipe.name}: data.features must be floating [N, F] with N = {len(row_of)}, the images of {split.name}, "
            f"got {path} with {rows.dtype} {shape_of(rows)}"
        )
    rows = rows.float()
    if not rows.isfinite().all():
        raise RecipeError(f"{recipe.name}: data.features must be finite, got NaN or infinity in {path}")
    return [rows[[row_of[image] for image in part.paths]] for part in parts]


def _features(recipe: Recipe, split: ImageSplit, network: Backbone, cache: Path, progress: bool) -> list[Tensor]:
    """The features of train, query and gallery, from cached files or computed."""
    test_transform = split.query.transform
    # The gallery may be the query or the training set; each part is computed once.
    by_paths: dict[tuple[str, ...], Tensor] = {}
    found = []
    for part in (split.train, split.query, split.gallery):
        if part.paths not in by_paths:
            images = part.with_transform(test_transform)
            about = f"{recipe.network.backbone} {network.weights} {test_transform} {part.paths}"
            digest = hashlib.sha256(about.encode()).hexdigest()[:12]
            about_network = recipe.network.backbone.replace("/", "-")
            path = cache / f"{recipe.data.name}-{about_network}-{digest}.safetensors"
            by_paths[part.paths] = cache_features(network, images, path, progress=progress)
        found.append(by_paths[part.paths])
    return found


def _data(
    name: str,
    parts: list[Part],
    gallery_is_query: bool,
    notes: list[str],
    feature_dim: int | None,
    split: ImageSplit | None = None,
) -> TrainingData:
    train, query, gallery = parts
    if gallery_is_query:
        gallery = query
    digest = hashlib.sha256(name.encode())
    for part in (train, query, gallery):
        digest.update(part.labels.numpy().tobytes())
        if isinstance(part.images, Tensor):
            digest.update(part.images.contiguous().numpy().tobytes())
        else:
            digest.update("\0".join(os.path.basename(path) for path in part.images.paths).encode())
    return TrainingData(name, train, query, gallery, tuple(notes), feature_dim, digest.hexdigest()[:16], split)
