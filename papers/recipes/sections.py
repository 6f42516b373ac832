"""What a recipe holds, a dataclass a section. TOML keys are the attributes; those without a default must be given."""

from __future__ import annotations

from dataclasses import dataclass

from hardmine.mining.class_tree import LINKAGES
from hardmine.mining.lists import METHODS as LISTS
from hardmine.mining.sampler import SMALL_CLASSES
from papers.datasets import IMAGE_SPLITS
from papers.networks import BACKBONES
from papers.recipes.fields import number, one_of

# Sets that are small enough to be held as tensors; they suit the network convnet4.
TENSOR_SETS = ("digits", "omniglot")
DATA = (*TENSOR_SETS, *(name for name in IMAGE_SPLITS if name not in TENSOR_SETS), "folder")
NETWORKS = (*BACKBONES, "convnet4")


@dataclass(frozen=True)
class Data:
    """[data]: the images, and what is done to them; nothing to Omniglot's drawings, which are always 28 x 28.

    Attributes:
        name: Which set: digits (of scikit-learn), omniglot, cub, cars, online_products, in_shop, hotels; or folder,
            any folder of images.
        partial: Take a copy that is not whole, and say so in the tables.
        on_corrupt: What becomes of images that cannot be read: refuse, skip; or unchecked: they are not looked for
            before the training, which saves reading every image once.
        features: File of features of a frozen backbone, relative to the data's root, instead of computing them: .npy
            [N, F], a row for each image of the set, in the order of their paths.
        train_classes: Of a folder: number of classes that train, where no folders say so.
        size: Pixels that images are resized to.
        crop: Pixels of the crop; without it, `size`.
        padding: Pixels of black around the image that a training crop is taken from.
        flip: Whether training mirrors every other image.
        keep_aspect: Resize the shorter side, and keep the shape.
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
    """[network]: from images to embeddings.

    Attributes:
        backbone: resnet18, resnet50, googlenet, efficientnet_lite0, or convnet4.
        weights: imagenet, random, or a file of weights.
        embedding_dim: Dimensions of the embedding.
        hidden_dim: Width of a layer between features and embedding; 0: there is none.
        frozen: Train the head alone, on features that are computed once.
        standardize: Scale the features of a frozen backbone to mean 0 and standard deviation 1.
        frozen_statistics: Batch normalization keeps the mean and variance that came with the weights.
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
    """[sampler] kind = "class_balanced": as :class:`hardmine.mining.ClassBalancedSampler`."""

    kind: str
    batch_size: int = number(2, default=128)
    images_per_class: int = number(2, default=2)  # with one, no anchor has a positive
    small_classes: str = one_of(*SMALL_CLASSES, default="leave_out")
    batches_per_epoch: int | None = number(1, default=None)


@dataclass(frozen=True)
class AnchorNeighbor:
    """[sampler] kind = "anchor_neighbor": as :class:`hardmine.mining.AnchorNeighborSampler`, updated every epoch."""

    kind: str
    anchors_per_batch: int = number(1)
    classes_per_anchor: int = number(1)
    images_per_class: int = number(2)
    small_classes: str = one_of(*SMALL_CLASSES, default="leave_out")
    batches_per_epoch: int | None = number(1, default=None)


@dataclass(frozen=True)
class Triplets:
    """[sampler] kind = "triplets": as :class:`hardmine.mining.SmartMiner`.

    Attributes:
        batch_size: Triplets in a batch.
        batches_per_epoch: Batches; without it so many that every image is an anchor about once.
        mined_share: Share of mined triplets in a batch; 0 for random ones alone.
        target_error: What the controller of kappa aims at.
        neighbors: Length of the lists that triplets are mined from.
        per_anchor: Triplets mined of an anchor, at most.
        lists: How neighbors are listed.
    """

    kind: str
    batch_size: int = number(1, default=64)
    batches_per_epoch: int | None = number(1, default=None)
    mined_share: float = number(0, most=1, default=1.0)
    target_error: float = number(above=0, most=0.99, default=0.5)
    neighbors: int = number(1, most=1024, default=50)
    per_anchor: int = number(1, default=1)
    lists: str = one_of(*LISTS, default="exact")


SAMPLERS = {"class_balanced": ClassBalanced, "anchor_neighbor": AnchorNeighbor, "triplets": Triplets}


@dataclass(frozen=True)
class Tree:
    """[tree]: HTL's class tree, which is made anew every epoch where the loss or the sampler wants one."""

    levels: int = number(1, most=32767, default=16)
    linkage: str = one_of(*LINKAGES, default="single")


@dataclass(frozen=True)
class Optimizer:
    """[optimizer].

    Attributes:
        lr: Learning rate of all but the last layer.
        name: sgd or adam.
        momentum: Of SGD.
        weight_decay: L2 penalty.
        last_layer_factor: By how much faster the last layer, the head, learns.
    """

    lr: float = number(above=0)
    name: str = one_of("sgd", "adam", default="sgd")
    momentum: float = number(0, most=1, default=0.0)
    weight_decay: float = number(0, default=0.0)
    last_layer_factor: float = number(above=0, default=1.0)


@dataclass(frozen=True)
class Schedule:
    """[schedule].

    Attributes:
        epochs: Number of epochs.
        milestones: Numbers of epochs after which the learning rate is multiplied by `factor`.
        every: The same after each so many epochs, instead.
        factor: What it is multiplied by.
    """

    epochs: int = number(1)
    milestones: tuple[int, ...] = number(1, default=())
    every: int | None = number(1, default=None)
    factor: float = number(above=0, default=0.1)

    def lr_factor(self, epoch: int) -> float:
        """What the learning rate is multiplied by in an epoch, counted from 0."""
        passed = sum(epoch >= milestone for milestone in self.milestones)
        if self.every is not None:
            passed = epoch // self.every
        return self.factor**passed


@dataclass(frozen=True)
class Evaluation:
    """[evaluation], on the classes that are only retrieved.

    Attributes:
        recall_at: The K of Recall@K; 1 is always among them.
        every: Evaluate after each so many epochs, and after the last one.
        nmi: Also the normalized mutual information, at the end.
        diagrams: Numbers of the steps, from 0, whose triplets are kept before and after them.
        embeddings: Keep the embeddings of both halves of the data at the end.
    """

    recall_at: tuple[int, ...] = number(1, most=1024, default=(1, 2, 4, 8))
    every: int = number(1, default=1)
    nmi: bool = False
    diagrams: tuple[int, ...] = number(0, default=())
    embeddings: bool = False
