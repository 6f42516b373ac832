"""HTL's batches: random classes, each with the classes that are nearest to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from hardmine.mining._states import check_count, check_entries, check_range, check_tensor
from hardmine.mining.class_distances import check_class_distances, nearest_classes
from hardmine.mining.class_tree import ClassTree
from hardmine.mining.sampler import ClassSampler
from hardmine.ops._numbers import check_integer
from hardmine.types import ClassDistances


class AnchorNeighborSampler(ClassSampler):
    """Batches of l' random classes, the m - 1 classes nearest to each of them, and t images per class.

    Classes that are hard to tell apart then share a batch, however many classes there are. Call :meth:`update` once per
    epoch to set which classes are near; before the first call, all l' m classes are random. Pass it to
    `torch.utils.data.DataLoader` as `batch_sampler`, or iterate over it.

    Args:
        labels: Integers [N], the class of every image; a tensor of any integer dtype or a sequence.
        anchors_per_batch: l', the number of randomly drawn classes per batch, at least 1.
        classes_per_anchor: m, the number of classes per randomly drawn class, itself included, at least 1.
        images_per_class: t, the number of images per class in a batch, at least 1.
        small_classes: How a class with fewer images is used: `"leave_out"` or `"use_all"`, as in
            :class:`ClassBalancedSampler`. With `"use_all"` a batch that draws such a class has fewer than l' m t
            images.
        batches_per_epoch: Number of batches per epoch, at least 1. By default an epoch draws about as many images as
            the used classes have, rounded down.
        seed: Seed of the draws. The same labels, sizes, distances, seed and epoch give the same batches on every
            machine.
        num_replicas: Number of processes that train together, by default those of the initialized default process
            group, or 1. Every rank has its images of the same global batch, as in :class:`ClassBalancedSampler`. The
            batches agree only if every rank passes the same distances to :meth:`update`: compute the distances on one
            rank and broadcast them.
        rank: Rank of this process, from 0. Either both this and `num_replicas` are given, or neither.

    Attributes:
        classes: int64 [C], the used classes, sorted.
        batch_size: l' m t, of all ranks together; None with `"use_all"`, where it varies.
        epoch: Number of the next epoch. Each iteration increments it when it starts, so epochs differ. Set it to repeat
            an epoch or to resume at one.

    Raises:
        TypeError: A number is not an integer.
        ValueError: An argument is out of range, or fewer than l' m classes are used.

    Note:
        The classes of a batch are distinct, as the paper's count of triplets implies. The l' random classes are drawn
        first. Each of them in turn then takes its nearest classes that are not in the batch yet. The paper does not say
        what to do if neighborhoods overlap. Equal distances go to the lower label. Within a batch, each random class is
        followed by its neighbors, nearest first. A rank's images are contiguous, so a neighborhood is split between
        ranks only where a boundary falls inside it. Memory is O(C l' m) beside the labels.

    Reference:
        Ge et al., "Deep Metric Learning with Hierarchical Triplet Loss", ECCV 2018, section 4.2.

    Example:
        >>> import torch
        >>> from hardmine.mining import AnchorNeighborSampler, class_distances
        >>> labels = torch.arange(6).repeat_interleave(3)
        >>> angles = labels + 0.1 * torch.arange(18)  # classes 0 to 5 lie side by side on a circle
        >>> sampler = AnchorNeighborSampler(labels, 1, 3, 2, seed=0)
        >>> sampler.update(class_distances(torch.stack([angles.cos(), angles.sin()], 1), labels))
        >>> batches = list(sampler)
        >>> labels[batches[0]]
        tensor([2, 2, 1, 1, 3, 3])
    """

    def __init__(
        self,
        labels: Tensor | Sequence[int],
        anchors_per_batch: int,
        classes_per_anchor: int,
        images_per_class: int,
        *,
        small_classes: Literal["leave_out", "use_all"] = "leave_out",
        batches_per_epoch: int | None = None,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__(
            labels, images_per_class, small_classes=small_classes, seed=seed, num_replicas=num_replicas, rank=rank
        )
        self.anchors_per_batch = check_integer("anchors_per_batch", anchors_per_batch, 1)
        self.classes_per_anchor = check_integer("classes_per_anchor", classes_per_anchor, 1)
        self.classes_per_batch = self.anchors_per_batch * self.classes_per_anchor
        self._check_number_of_classes("anchors_per_batch * classes_per_anchor", self.classes_per_batch)
        if small_classes == "leave_out":
            self.batch_size = self.classes_per_batch * self.images_per_class
        self._finish_sizes(batches_per_epoch, self.classes_per_batch)
        # The l' m - 1 nearest other classes per class: m - 1 are left even if the rest of the batch is among them.
        self._neighbors: Tensor | None = None

    def update(self, tree: ClassTree | ClassDistances) -> None:
        """Set which classes are near, from the next epoch on. A running epoch is not affected.

        Args:
            tree: A tree, or the distances of the classes. Classes that the sampler does not use are ignored.

        Raises:
            TypeError: ``tree`` is neither a tree nor distances.
            ValueError: ``tree`` lacks a class that the sampler uses, or its distances cannot be those of unit vectors.
        """
        if isinstance(tree, ClassTree):
            classes, sq_dist = tree.distances
        elif isinstance(tree, ClassDistances):
            classes, sq_dist = check_class_distances(tree)
        else:
            raise TypeError(f"tree must be a ClassTree or ClassDistances, got {type(tree).__name__}")
        missing = ~torch.isin(self.classes, classes)
        if missing.any():
            raise ValueError(
                f"tree must have all {len(self.classes)} classes of the sampler, "
                f"got {len(classes)} classes without {self.classes[missing][0].item()}"
            )
        used = torch.searchsorted(classes, self.classes)
        self._neighbors = nearest_classes(sq_dist[used[:, None], used], self.classes_per_batch - 1)

    def state_dict(self) -> dict[str, Any]:
        """The state needed to resume with the same arguments: the next epoch, and which classes are near.

        It is the same on every rank, and the batches then resume bit for bit with any number of ranks.
        """
        return {"epoch": self.epoch, "classes": self.classes, "neighbors": self._neighbors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from another sampler's :meth:`state_dict`.

        Raises:
            TypeError: An entry has the wrong type or dtype.
            ValueError: ``state`` is not a sampler's state, or belongs to other classes or sizes. The sampler is
                unchanged.
        """
        check_entries("state", state, self.state_dict())
        epoch = check_count("state['epoch']", state["epoch"])
        check_tensor("state['classes']", state["classes"], torch.int64, (None,))
        if not torch.equal(state["classes"], self.classes):
            raise ValueError(
                f"state['classes'] must be the sampler's {len(self.classes)} classes, "
                f"got {len(state['classes'])} that differ"
            )
        neighbors, count = state["neighbors"], len(self.classes)
        if neighbors is not None:
            check_tensor("state['neighbors']", neighbors, torch.int32, (count, self.classes_per_batch - 1))
            check_range("state['neighbors']", neighbors, count)
            row_and_neighbors = (
                torch.cat([torch.arange(count, dtype=torch.int32, device="cpu")[:, None], neighbors], 1).sort(1).values
            )
            if (repeated := (row_and_neighbors[:, 1:] == row_and_neighbors[:, :-1]).any(1)).any():
                row = int(repeated.int().argmax())
                raise ValueError(
                    f"state['neighbors'] must be distinct other classes, got {neighbors[row].tolist()} at [{row}]"
                )
        self.epoch = epoch
        self._neighbors = None if neighbors is None else neighbors.clone()

    def _chooser(self) -> Callable[[torch.Generator], list[int]]:
        neighbors = self._neighbors  # bound now: an update must not change a running epoch

        def choose(generator: torch.Generator) -> list[int]:
            drawn = torch.randperm(len(self.classes), generator=generator, device="cpu")
            order: list[int] = drawn[: self.classes_per_batch].tolist()
            if neighbors is None:
                return order
            anchors = order[: self.anchors_per_batch]
            taken, chosen = set(anchors), []
            for anchor in anchors:
                free = [position for position in neighbors[anchor].tolist() if position not in taken]
                neighborhood = free[: self.classes_per_anchor - 1]
                taken.update(neighborhood)
                chosen += [anchor, *neighborhood]
            return chosen

        return choose
