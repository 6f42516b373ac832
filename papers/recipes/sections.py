"""The sections of a recipe, one class each. TOML keys are attributes; those without a default are required."""

from __future__ import annotations

from typing import Annotated, Literal

from hardmine.mining.class_tree import LINKAGES
from hardmine.mining.lists import METHODS as LISTS
from hardmine.mining.sampler import SMALL_CLASSES
from papers.datasets import IMAGE_SPLITS
from papers.recipes.fields import (
    Above1,
    AtLeast0,
    AtLeast1,
    AtLeast2,
    Fraction,
    NotNegative,
    Pixels,
    Positive,
    Table,
    Text,
    UpTo1024,
    msgspec,
)

# Data sets that are small enough to be held as tensors; they suit the network convnet4.
TENSOR_SETS = ("digits", "omniglot")
DATA = (*TENSOR_SETS, *(name for name in IMAGE_SPLITS if name not in TENSOR_SETS), "folder")


class Data(Table):
    """[data]: the images and their transforms. Omniglot's drawings are always 28 x 28, without transforms.

    Attributes:
        name: The data set; digits are scikit-learn's, and folder is any folder of images.
        partial: Accept an incomplete copy, and name it so in tables.
        on_corrupt: Handling of unreadable images. With unchecked, they are not searched for before the training, which
            saves reading every image once.
        features: File with the features of a frozen backbone, to use instead of computing them; relative to the data's
            root. The format is .npy [N, F], one row per image of the data set, in the order of the paths.
        train_classes: For a folder: number of training classes, if its subfolders don't define the split.
        size: Pixels that images are resized to.
        crop: Pixels of the crop; by default `size`.
        padding: Black pixels around the image before a training crop.
        flip: Whether training mirrors images with probability 1/2.
        keep_aspect: Resize the shorter side and keep the aspect ratio.
    """

    name: Literal[DATA]
    partial: bool = False
    on_corrupt: Literal["refuse", "skip", "unchecked"] = "refuse"
    features: Text | None = None
    train_classes: AtLeast2 | None = None
    size: Pixels = 256
    crop: Pixels | None = None
    padding: AtLeast0 = 10
    flip: bool = True
    keep_aspect: bool = False


class Network(Table):
    """[network]: the map from images to embeddings.

    Attributes:
        backbone: The network before the embedding: convnet4 for digits and Omniglot; for images resnet18, resnet50,
            googlenet, efficientnet_lite0, timm/MODEL, or the module.function of an own network, which takes `weights`
            and returns a `papers.networks.Backbone`.
        weights: imagenet, random, or a file of weights.
        embedding_dim: Dimensions of the embedding.
        hidden_dim: Width of the hidden layer between features and embedding, or 0 for no hidden layer.
        frozen: Train only the head, on features that are computed once.
        standardize: Scale the features of a frozen backbone to mean 0 and standard deviation 1.
        frozen_statistics: Batch normalization keeps the means and variances of the pretrained weights.
    """

    backbone: Text
    weights: Text = "imagenet"
    embedding_dim: AtLeast1 = 64
    hidden_dim: AtLeast0 = 0
    frozen: bool = False
    standardize: bool = True
    frozen_statistics: bool = False


class ClassBalanced(Table, tag_field="kind", tag="class_balanced"):
    """[sampler] kind = "class_balanced": see :class:`hardmine.mining.ClassBalancedSampler`.

    Attributes:
        batch_size: Images per batch.
        images_per_class: Images per class and batch. With one, no anchor would have a positive.
        small_classes: Handling of classes with fewer images.
        batches_per_epoch: Batches per epoch; by default, an epoch draws about as many images as there are.
    """

    batch_size: AtLeast2 = 128
    images_per_class: AtLeast2 = 2
    small_classes: Literal[SMALL_CLASSES] = "leave_out"
    batches_per_epoch: AtLeast1 | None = None


class AnchorNeighbor(Table, tag_field="kind", tag="anchor_neighbor"):
    """[sampler] kind = "anchor_neighbor": :class:`hardmine.mining.AnchorNeighborSampler`, updated once per epoch.

    Attributes:
        anchors_per_batch: Anchor classes per batch.
        classes_per_anchor: Classes per anchor class, itself included.
        images_per_class: Images per class and batch.
        small_classes: Handling of classes with fewer images.
        batches_per_epoch: Batches per epoch; by default, an epoch draws about as many images as there are.
    """

    anchors_per_batch: AtLeast1
    classes_per_anchor: AtLeast1
    images_per_class: AtLeast2
    small_classes: Literal[SMALL_CLASSES] = "leave_out"
    batches_per_epoch: AtLeast1 | None = None


class Triplets(Table, tag_field="kind", tag="triplets"):
    """[sampler] kind = "triplets": see :class:`hardmine.mining.SmartMiner`.

    Attributes:
        batch_size: Triplets per batch.
        batches_per_epoch: Batches per epoch; by default enough that every image is an anchor about once.
        mined_share: Share of mined triplets per batch; 0 for only random triplets.
        random_epochs: Initial epochs with random triplets only.
        kappa: Values of kappa instead of the controller's, one per epoch after the random ones; the last one is for all
            later epochs.
        target_error: Target training error of kappa's controller, `hardmine.mining.AdaptiveKappa`.
        window: Number of latest epochs that the controller fits its line to.
        soft_kappa: A kappa at which mined triplets are about as easy as random ones; it sets the first kappa.
        max_step: Largest factor by which kappa changes from one epoch to the next.
        min_gain: Smallest response of kappa to an error off the target, relative to kappa.
        max_gain: Largest response.
        neighbors: Length of the neighbor lists that triplets are mined from.
        per_anchor: Maximum number of mined triplets per anchor.
        lists: Method that makes the neighbor lists.
    """

    batch_size: AtLeast1 = 64
    batches_per_epoch: AtLeast1 | None = None
    mined_share: Fraction = 1.0
    random_epochs: AtLeast0 = 2
    kappa: tuple[NotNegative, ...] = ()
    target_error: Annotated[float, msgspec.Meta(gt=0, le=0.99)] = 0.5
    window: AtLeast1 = 3
    soft_kappa: Above1 = 2.0
    max_step: Above1 = 2.0
    min_gain: NotNegative = 1.0
    max_gain: Positive = 4.0
    neighbors: UpTo1024 = 50
    per_anchor: AtLeast1 = 1
    lists: Literal[LISTS] = "exact"

    def kappa_of(self, epoch: int) -> float:
        """The given kappa of an epoch, counted from 0."""
        return self.kappa[min(max(epoch - self.random_epochs, 0), len(self.kappa) - 1)]


SAMPLERS = {kind.__struct_config__.tag: kind for kind in (ClassBalanced, AnchorNeighbor, Triplets)}


class Tree(Table):
    """[tree]: HTL's class tree, rebuilt once per epoch if the loss or the sampler uses it.

    Attributes:
        levels: Number of the highest level; 0 for a flat tree.
        linkage: Distance between two merged classes.
    """

    levels: Annotated[int, msgspec.Meta(ge=0, le=32767)] = 16
    linkage: Literal[LINKAGES] = "single"


class Optimizer(Table):
    """[optimizer].

    Attributes:
        lr: Learning rate of all layers except the last.
        name: The method.
        momentum: SGD's momentum.
        weight_decay: L2 penalty.
        last_layer_factor: Ratio of the learning rate of the last layer, the head, to `lr`.
    """

    lr: Positive
    name: Literal["sgd", "adam"] = "sgd"
    momentum: Fraction = 0.0
    weight_decay: NotNegative = 0.0
    last_layer_factor: Positive = 1.0


class Schedule(Table):
    """[schedule].

    Attributes:
        epochs: Number of epochs.
        milestones: Epochs after which the learning rate is multiplied by `factor`.
        every: Instead of `milestones`: number of epochs between multiplications by `factor`.
        factor: Factor of the learning rate.
    """

    epochs: AtLeast1
    milestones: tuple[AtLeast1, ...] = ()
    every: AtLeast1 | None = None
    factor: Positive = 0.1

    def lr_factor(self, epoch: int) -> float:
        """The total factor of the learning rate in an epoch, counted from 0."""
        passed = sum(epoch >= milestone for milestone in self.milestones)
        if self.every is not None:
            passed = epoch // self.every
        return self.factor**passed


class Evaluation(Table):
    """[evaluation], on the classes that are only retrieved.

    Attributes:
        recall_at: The values of K in Recall@K; 1 is always included.
        every: Number of epochs between evaluations. The last epoch is always evaluated.
        nmi: Compute the normalized mutual information at the end.
        diagrams: Indices of steps, from 0, whose triplets are recorded before and after the step.
        embeddings: Save the embeddings of both halves of the data at the end.
    """

    recall_at: tuple[UpTo1024, ...] = (1, 2, 4, 8)
    every: AtLeast1 = 1
    nmi: bool = False
    diagrams: tuple[AtLeast0, ...] = ()
    embeddings: bool = False
