"""The sections of a recipe, one dataclass each. TOML keys are attributes; those without a default are required."""

from __future__ import annotations

from dataclasses import dataclass

from hardmine.mining.class_tree import LINKAGES
from hardmine.mining.lists import METHODS as LISTS
from hardmine.mining.sampler import SMALL_CLASSES
from papers.datasets import IMAGE_SPLITS
from papers.networks import BACKBONES
from papers.recipes.fields import number, one_of

# Data sets that are small enough to be held as tensors; they suit the network convnet4.
TENSOR_SETS = ("digits", "omniglot")
DATA = (*TENSOR_SETS, *(name for name in IMAGE_SPLITS if name not in TENSOR_SETS), "folder")
NETWORKS = (*BACKBONES, "convnet4")


@dataclass(frozen=True)
class Data:
    """[data]: the images and their transforms. Omniglot's drawings are always 28 x 28, without transforms.

    Attributes:
        name: The data set: digits (of scikit-learn), omniglot, cub, cars, online_products, in_shop, hotels; or folder
            for any folder of images.
        partial: Accept an incomplete copy, and name it so in tables.
        on_corrupt: Handling of unreadable images: refuse, skip, or unchecked. With unchecked, they are not searched for
            before the training, which saves reading every image once.
        features: File with the features of a frozen backbone, to use instead of computing them; relative to the data's
            root. The format is .npy [N, F], one row per image of the data set, in the order of the paths.
        train_classes: For a folder: number of training classes, if its subfolders don't define the split.
        size: Pixels that images are resized to.
        crop: Pixels of the crop; by default `size`.
        padding: Black pixels around the image before a training crop.
        flip: Whether training mirrors images with probability 1/2.
        keep_aspect: Resize the shorter side and keep the aspect ratio.
    """

    name: str = one_of(*DATA)
    partial: bool = False
    on_corrupt: str = one_of("refuse", "skip", "unchecked", default="refuse")
    features: str | None = None
    train_classes: int | None = number(2, default=None)
    size: int = number(8, default=256)
    crop: int | None = number(8, default=None)
    padding: int = number(0, default=10)
    flip: bool = True
    keep_aspect: bool = False


@dataclass(frozen=True)
class Network:
    """[network]: the map from images to embeddings.

    Attributes:
        backbone: resnet18, resnet50, googlenet, efficientnet_lite0, or convnet4.
        weights: imagenet, random, or a file of weights.
        embedding_dim: Dimensions of the embedding.
        hidden_dim: Width of the hidden layer between features and embedding, or 0 for no hidden layer.
        frozen: Train only the head, on features that are computed once.
        standardize: Scale the features of a frozen backbone to mean 0 and standard deviation 1.
        frozen_statistics: Batch normalization keeps the means and variances of the pretrained weights.
    """

    backbone: str = one_of(*NETWORKS)
    weights: str = "imagenet"
    embedding_dim: int = number(1, default=64)
    hidden_dim: int = number(0, default=0)
    frozen: bool = False
    standardize: bool = True
    frozen_statistics: bool = False


@dataclass(frozen=True)
class ClassBalanced:
    """[sampler] kind = "class_balanced": see :class:`hardmine.mining.ClassBalancedSampler`."""

    kind: str
    batch_size: int = number(2, default=128)
    images_per_class: int = number(2, default=2)  # with one, no anchor has a positive
    small_classes: str = one_of(*SMALL_CLASSES, default="leave_out")
    batches_per_epoch: int | None = number(1, default=None)


@dataclass(frozen=True)
class AnchorNeighbor:
    """[sampler] kind = "anchor_neighbor": :class:`hardmine.mining.AnchorNeighborSampler`, updated once per epoch."""

    kind: str
    anchors_per_batch: int = number(1)
    classes_per_anchor: int = number(1)
    images_per_class: int = number(2)
    small_classes: str = one_of(*SMALL_CLASSES, default="leave_out")
    batches_per_epoch: int | None = number(1, default=None)


@dataclass(frozen=True)
class Triplets:
    """[sampler] kind = "triplets": see :class:`hardmine.mining.SmartMiner`.

    Attributes:
        batch_size: Triplets per batch.
        batches_per_epoch: Batches per epoch; by default enough that every image is an anchor about once.
        mined_share: Share of mined triplets per batch; 0 for only random triplets.
        target_error: Target training error of kappa's controller.
        neighbors: Length of the neighbor lists that triplets are mined from.
        per_anchor: Maximum number of mined triplets per anchor.
        lists: Method that makes the neighbor lists.
    """

    kind: str
    batch_size: int = number(1, default=64)
    batches_per_epoch: int | None = number(1, default=None)
    mined_share: float = number(0, at_most=1, default=1.0)
    target_error: float = number(above=0, at_most=0.99, default=0.5)
    neighbors: int = number(1, at_most=1024, default=50)
    per_anchor: int = number(1, default=1)
    lists: str = one_of(*LISTS, default="exact")


SAMPLERS = {"class_balanced": ClassBalanced, "anchor_neighbor": AnchorNeighbor, "triplets": Triplets}


@dataclass(frozen=True)
class Tree:
    """[tree]: HTL's class tree, rebuilt once per epoch if the loss or the sampler uses it."""

    levels: int = number(1, at_most=32767, default=16)
    linkage: str = one_of(*LINKAGES, default="single")


@dataclass(frozen=True)
class Optimizer:
    """[optimizer].

    Attributes:
        lr: Learning rate of all layers except the last.
        name: sgd or adam.
        momentum: SGD's momentum.
        weight_decay: L2 penalty.
        last_layer_factor: Ratio of the learning rate of the last layer, the head, to `lr`.
    """

    lr: float = number(above=0)
    name: str = one_of("sgd", "adam", default="sgd")
    momentum: float = number(0, at_most=1, default=0.0)
    weight_decay: float = number(0, default=0.0)
    last_layer_factor: float = number(above=0, default=1.0)


@dataclass(frozen=True)
class Schedule:
    """[schedule].

    Attributes:
        epochs: Number of epochs.
        milestones: Epochs after which the learning rate is multiplied by `factor`.
        every: Instead of `milestones`: number of epochs between multiplications by `factor`.
        factor: Factor of the learning rate.
    """

    epochs: int = number(1)
    milestones: tuple[int, ...] = number(1, default=())
    every: int | None = number(1, default=None)
    factor: float = number(above=0, default=0.1)

    def lr_factor(self, epoch: int) -> float:
        """The total factor of the learning rate in an epoch, counted from 0."""
        passed = sum(epoch >= milestone for milestone in self.milestones)
        if self.every is not None:
            passed = epoch // self.every
        return self.factor**passed


@dataclass(frozen=True)
class Evaluation:
    """[evaluation], on the classes that are only retrieved.

    Attributes:
        recall_at: The values of K in Recall@K; 1 is always included.
        every: Number of epochs between evaluations. The last epoch is always evaluated.
        nmi: Compute the normalized mutual information at the end.
        diagrams: Indices of steps, from 0, whose triplets are recorded before and after the step.
        embeddings: Save the embeddings of both halves of the data at the end.
    """

    recall_at: tuple[int, ...] = number(1, at_most=1024, default=(1, 2, 4, 8))
    every: int = number(1, default=1)
    nmi: bool = False
    diagrams: tuple[int, ...] = number(0, default=())
    embeddings: bool = False
