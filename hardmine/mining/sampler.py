"""Batches with the same number of images per class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from hardmine.mining.labels import check_labels
from hardmine.mining.ranks import check_ranks, rows_of_rank
from hardmine.ops._arguments import check_choice
from hardmine.ops._numbers import check_integer

SMALL_CLASSES = ("leave_out", "use_all")
_INT32_MAX = 2**31 - 1


class ClassSampler(torch.utils.data.Sampler[list[int]]):
    """Base class of the samplers: it holds the images per class, and splits every batch among ranks.

    A subclass chooses the classes of a batch (:meth:`_chooser`), sets ``batch_size`` and calls :meth:`_finish_sizes`.
    """

    def __init__(
        self,
        labels: Tensor | Sequence[int],
        images_per_class: int,
        *,
        small_classes: Literal["leave_out", "use_all"],
        seed: int,
        num_replicas: int | None,
        rank: int | None,
    ) -> None:
        labels = check_labels(labels)
        self.images_per_class = check_integer("images_per_class", images_per_class, 1)
        check_choice("small_classes", small_classes, SMALL_CLASSES)
        self.small_classes = small_classes
        self.seed = check_integer("seed", seed, -_INT32_MAX, 2**62)
        self.num_replicas, self.rank = check_ranks(num_replicas, rank)
        classes, counts = labels.unique(return_counts=True)
        used = counts >= (self.images_per_class if small_classes == "leave_out" else 1)
        self.classes, self._sizes = classes[used], counts[used]
        by_class = labels.argsort(stable=True).split(counts.tolist())
        self._members = [members for members, kept in zip(by_class, used.tolist(), strict=True) if kept]
        self.batch_size: int | None = None
        self.batches_per_epoch = 1
        self.epoch = 0

    def __len__(self) -> int:
        """Number of batches in an epoch, the same on every rank."""
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this rank's images of every batch of one epoch: lists of image indices, grouped by class."""
        generator = torch.Generator("cpu").manual_seed(self.seed + 1_000_003 * self.epoch)
        self.epoch += 1
        choose = self._chooser()
        for _ in range(self.batches_per_epoch):
            batch = self._draw_images(choose(generator), generator)
            yield batch[rows_of_rank(len(batch), self.num_replicas, self.rank)]

    def _chooser(self) -> Callable[[torch.Generator], list[int]]:
        """A function that draws the classes of a batch, as positions in ``classes``; it serves one epoch."""
        raise NotImplementedError

    def _draw_images(self, chosen: list[int], generator: torch.Generator) -> list[int]:
        """Images of the chosen classes in turn, without duplicates, until the batch is full or no class is left."""
        batch: list[int] = []
        for position in chosen:
            capacity = self.images_per_class if self.batch_size is None else self.batch_size - len(batch)
            if capacity == 0:
                break
            members = self._members[position]
            drawn = torch.randperm(len(members), generator=generator, device="cpu")
            batch.extend(members[drawn[: min(capacity, self.images_per_class)]].tolist())
        return batch

    def _check_number_of_classes(self, name: str, number: int) -> None:
        """At least ``number`` classes are used."""
        if number > len(self.classes):
            bound = "the number of classes"
            if self.small_classes == "leave_out":
                bound += f" with at least images_per_class = {self.images_per_class} images"
            raise ValueError(f"{name} must be at most {len(self.classes)}, {bound}, got {number}")

    def _images_of_all_classes(self) -> int:
        """The number of images in a batch of all used classes."""
        return int(self._sizes.clamp(max=self.images_per_class).sum())

    def _finish_sizes(self, batches_per_epoch: int | None, classes_per_batch: int | None) -> None:
        """Set the number of batches; None: an epoch draws about as many images as the used classes have."""
        smallest = self.batch_size
        if smallest is None:  # the batch size varies
            images = self._sizes.clamp(max=self.images_per_class).sort().values
            smallest = int(images[:classes_per_batch].sum())
        if smallest < self.num_replicas:
            raise ValueError(
                f"num_replicas must be at most {smallest}, the images of the smallest batch, got {self.num_replicas}"
            )
        if batches_per_epoch is not None:
            self.batches_per_epoch = check_integer("batches_per_epoch", batches_per_epoch, 1)
            return
        images_of_epoch = int(self._sizes.sum())
        if self.batch_size is None and classes_per_batch is not None:
            # The mean batch size is classes_per_batch / classes of the images of all classes.
            images_of_epoch *= len(self.classes)
            images_per_batch = classes_per_batch * self._images_of_all_classes()
        else:
            images_per_batch = self.batch_size or 1
        self.batches_per_epoch = max(1, images_of_epoch // images_per_batch)


class ClassBalancedSampler(ClassSampler):
    """Batches with a fixed number of images per class.

    Every anchor then has `images_per_class - 1` positives in its batch, which plain shuffling does not give when there
    are many classes. Each batch draws classes uniformly without duplicates, then images without duplicates from each
    class. Pass it to `torch.utils.data.DataLoader` as `batch_sampler`, or iterate over it::

        ClassBalancedSampler(labels, 64, 2)  # 64 classes, 2 images of each
        ClassBalancedSampler(labels, batch_size=128, images_per_class=16, small_classes="use_all")  # as EP section 5.1

    Args:
        labels: Integers [N], the class of every image; a tensor of any integer dtype or a sequence.
        classes_per_batch: Number of classes in a batch, at least 1. Either this or `batch_size` is given.
        images_per_class: Number of images per class in a batch, at least 1.
        batch_size: Number of images in a batch, at least 1. Classes are added until the batch is full; the last class
            contributes only as many images as fit.
        small_classes: How a class with fewer than `images_per_class` images is used. `"leave_out"`: not at all.
            `"use_all"`: a batch that draws the class has all of its images, without duplicates. A duplicate would make
            an anchor its own positive at similarity 1, which easiest-positive mining would always pick.
        batches_per_epoch: Number of batches per epoch, at least 1. By default an epoch draws about as many images as
            the used classes have, rounded down.
        seed: Seed of the draws. The same labels, sizes, seed and epoch give the same batches on every machine.
        num_replicas: Number of processes that train together, at most the images of the smallest batch. By default the
            size of the initialized default process group, or 1. Either both this and `rank` are given, or neither.
        rank: Rank of this process, from 0. By default that in the default process group, or 0.

    Attributes:
        classes: int64 [C], the used classes, sorted.
        batch_size: Images per batch, of all ranks together; None with `classes_per_batch` and `"use_all"`, where it
            varies.
        epoch: Number of the next epoch. Each iteration increments it when it starts, so epochs differ. Set it to repeat
            an epoch or to resume at one.

    Raises:
        TypeError: A number is not an integer.
        ValueError: An argument is out of range; the used classes are too few or too small for a batch; or not exactly
            one of `classes_per_batch` and `batch_size` is given.

    Note:
        All sizes are those of the global batch, the batch of all ranks. It does not depend on the number of ranks: the
        ranks' images in the order of the ranks are the batch that one process draws. Each rank has a contiguous part,
        as `torch.tensor_split` splits: with B images and R ranks, the first B % R ranks have one image more. So an
        image of a batch goes to exactly one rank. Batches are drawn independently: an image can come again in a later
        batch of the epoch, as with one process. A class stays on one rank unless a boundary between ranks falls inside
        it. No boundary does if every class has `images_per_class` images and `classes_per_batch` is a multiple of
        `num_replicas`. Because the batches are those of one process, :attr:`epoch` resumes them bit for bit with any
        number of ranks.

        A class has a single image in a batch, and so no positive, if it has only one image or no more fit into the
        batch. The losses exclude such anchors; the image still serves as a negative.

    Reference:
        SCT (section 6) trains with 2 images per class, EP (section 5.1) with 4 or 16. EP section 5.1 fills batches of
        128: "when a class has fewer than n examples, we use all", and if the last class "does not have space for n
        images, we just include enough images to fill the batch".

    Example:
        >>> import torch
        >>> from hardmine.mining import ClassBalancedSampler
        >>> labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
        >>> sampler = ClassBalancedSampler(labels, classes_per_batch=2, images_per_class=2)
        >>> batches = list(sampler)
        >>> [sorted(labels[batch].tolist()) for batch in batches]
        [[0, 0, 2, 2], [1, 1, 2, 2]]
    """

    def __init__(
        self,
        labels: Tensor | Sequence[int],
        classes_per_batch: int | None = None,
        images_per_class: int = 2,
        *,
        batch_size: int | None = None,
        small_classes: Literal["leave_out", "use_all"] = "leave_out",
        batches_per_epoch: int | None = None,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__(
            labels, images_per_class, small_classes=small_classes, seed=seed, num_replicas=num_replicas, rank=rank
        )
        if (classes_per_batch is None) == (batch_size is None):
            raise ValueError(
                "exactly one of classes_per_batch and batch_size must be given, got "
                f"classes_per_batch={classes_per_batch} and batch_size={batch_size}"
            )
        self.classes_per_batch = classes_per_batch
        if classes_per_batch is not None:
            self.classes_per_batch = check_integer("classes_per_batch", classes_per_batch, 1)
            self._check_number_of_classes("classes_per_batch", classes_per_batch)
            if small_classes == "leave_out":
                self.batch_size = self.classes_per_batch * self.images_per_class
        else:
            self.batch_size = size = check_integer("batch_size", batch_size, 1)
            images = self._images_of_all_classes()
            if size > images:
                raise ValueError(
                    f"batch_size must be at most {images}, the images of {len(self.classes)} classes with "
                    f"images_per_class = {self.images_per_class}, got {batch_size}"
                )
        self._finish_sizes(batches_per_epoch, self.classes_per_batch)

    def _chooser(self) -> Callable[[torch.Generator], list[int]]:
        """Classes in random order: `classes_per_batch`, or all of them, of which the batch takes what fits."""

        def choose(generator: torch.Generator) -> list[int]:
            order = torch.randperm(len(self.classes), generator=generator, device="cpu")
            return order[: self.classes_per_batch].tolist()

        return choose
