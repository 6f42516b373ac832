"""Batches in which every class has the same number of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch


class ClassBalancedSampler(torch.utils.data.Sampler[list[int]]):
    """Batches of a fixed number of images from each of a fixed number of classes.

    Every anchor then has `images_per_class - 1` positives in its batch, which plain shuffling does not give when there
    are many classes. Each batch draws its classes without repetition, each with the same chance, and then its images
    without repetition from each class. Pass it to `torch.utils.data.DataLoader` as `batch_sampler`, or iterate over
    it.

    A class with fewer than `images_per_class` images is left out: repeating an image would make an anchor its own
    positive, at similarity 1, which is exactly the positive that easiest-positive mining then picks.

    Args:
        labels: Integers [N], the class of every image; a tensor of any integer dtype or a sequence.
        classes_per_batch: Number of classes in a batch, at least 1.
        images_per_class: Number of images of each class in a batch, at least 1.
        batches_per_epoch: Number of batches in one pass. By default so many that an epoch draws as many images as
            the classes in use have, rounded down, and at least one.
        seed: Seed of the draws. The same labels, sizes, seed and epoch give the same batches on every machine.

    Attributes:
        classes: int64 [C], the classes in use, sorted.
        epoch: Number of the next epoch. It grows by one whenever an iteration starts, so epochs differ; set it to
            repeat an epoch or to resume at one.

    Raises:
        ValueError: An argument is out of range, or fewer than `classes_per_batch` classes have enough images.

    Reference:
        SCT section 5 and EP section 5.1 train with 2 and with 4 or 16 images a class.
    """

    def __init__(
        self,
        labels: torch.Tensor | Sequence[int],
        classes_per_batch: int,
        images_per_class: int,
        *,
        batches_per_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        labels = torch.as_tensor(labels)
        if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(f"labels must be integers [N], got {labels.dtype} {list(labels.shape)}")
        sizes = {"classes_per_batch": classes_per_batch, "images_per_class": images_per_class}
        if batches_per_epoch is not None:
            sizes["batches_per_epoch"] = batches_per_epoch
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

        classes, counts = labels.cpu().unique(return_counts=True)
        enough = counts >= images_per_class
        self.classes = classes[enough].to(torch.int64)
        if classes_per_batch > len(self.classes):
            raise ValueError(
                f"classes_per_batch must be at most {len(self.classes)}, the number of classes with at least "
                f"images_per_class = {images_per_class} images, got {classes_per_batch}"
            )
        by_class = labels.cpu().argsort(stable=True).split(counts.tolist())
        self._members = [members for members, used in zip(by_class, enough.tolist(), strict=True) if used]
        self.classes_per_batch = classes_per_batch
        self.images_per_class = images_per_class
        batch_size = classes_per_batch * images_per_class
        self.batches_per_epoch = batches_per_epoch or max(1, int(counts[enough].sum()) // batch_size)
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of one epoch: lists of image indices, the images of a class side by side."""
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        self.epoch += 1
        for _ in range(self.batches_per_epoch):
            batch: list[int] = []
            for chosen in torch.randperm(len(self._members), generator=generator)[: self.classes_per_batch].tolist():
                members = self._members[chosen]
                drawn = torch.randperm(len(members), generator=generator)[: self.images_per_class]
                batch.extend(members[drawn].tolist())
            yield batch
