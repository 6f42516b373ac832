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
from hardmine.ops._arguments import check_integer
from hardmine.types import ClassDistances


class AnchorNeighborSampler(ClassSampler):
    """Batches of l' random classes, each with the m - 1 classes that are nearest to it, and t images of every class.

    Classes that are hard to tell apart then meet in a batch, however many classes there are. Which are near is learned
    from :meth:`update`, once an epoch; before the first time, the l' m classes are all random. Pass it to
    `torch.utils.data.DataLoader` as `batch_sampler`, or iterate over it.

    Args:
        labels: Integers [N], the class of every image; a tensor of any integer dtype or a sequence.
        anchors_per_batch: l', the number of classes in a batch that are drawn at random, at least 1.
        classes_per_anchor: m, the number of classes that each of them brings, itself included, at least 1.
        images_per_class: t, the number of images of each class in a batch, at least 1.
        small_classes: What becomes of a class with fewer images: `"leave_out"` or `"use_all"`, as in
            :class:`ClassBalancedSampler`. With `"use_all"` a batch has fewer than l' m t images where it draws one.
        batches_per_epoch: Number of batches in one pass, on each rank. By default so many that an epoch of all ranks
            draws about as many images as the classes in use have, rounded down, and at least one.
        seed: Seed of the draws. The same labels, sizes, distances, seed and epoch give the same batches on every
            machine.
        rank: Number of this process among those that train together, from 0.
        world_size: Number of those processes. As in :class:`ClassBalancedSampler`, every rank draws the same plan and
            takes every `world_size`-th batch of it. The plan is the same only if what :meth:`update` is given is, too:
            let one rank compute the distances and broadcast them.

    Attributes:
        classes: int64 [C], the classes in use, sorted.
        batch_size: l' m t; None where it varies, with `"use_all"`.
        epoch: Number of the next epoch. It grows by one whenever an iteration starts, so epochs differ; set it to
            repeat an epoch or to resume at one.

    Raises:
        TypeError: A number is not an integer.
        ValueError: An argument is out of range, or fewer than l' m classes are in use.

    Note:
        The classes of a batch are distinct, as the paper's count of triplets has it: the l' are drawn first, and then
        each in turn takes the nearest that are not in the batch yet. What to do where neighborhoods overlap
        the paper leaves open. Equal distances go to the lower label. The classes of a batch stand in the order: a
        random one, its neighbors from the nearest on, the next random one.
        Memory is O(C l' m) beside the labels.

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
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(
            labels, images_per_class, small_classes=small_classes, seed=seed, rank=rank, world_size=world_size
        )
        self.anchors_per_batch = check_integer("anchors_per_batch", anchors_per_batch, 1)
        self.classes_per_anchor = check_integer("classes_per_anchor", classes_per_anchor, 1)
        self.classes_per_batch = self.anchors_per_batch * self.classes_per_anchor
        self._check_number_of_classes("anchors_per_batch * classes_per_anchor", self.classes_per_batch)
        if small_classes == "leave_out":
            self.batch_size = self.classes_per_batch * self.images_per_class
        self._set_batches_per_epoch(batches_per_epoch, self.classes_per_batch)
        # Every class's l' m - 1 nearest others: so many that m - 1 are left when all others of a batch are taken.
        self._neighbors: Tensor | None = None

    def update(self, tree: ClassTree | ClassDistances) -> None:
        """Learn which classes are near, from the next epoch on; an epoch under way goes on as it began.

        Args:
            tree: A tree, or the distances of the classes. Classes that the sampler does not use are passed over.

        Raises:
            TypeError: ``tree`` is neither.
            ValueError: It lacks a class that the sampler uses, or its distances are none of unit vectors.
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
                f"tree must have the {len(self.classes)} classes in use, got none of class "
                f"{self.classes[missing][0].item()} among its {len(classes)}"
            )
        used = torch.searchsorted(classes, self.classes)
        self._neighbors = nearest_classes(sq_dist[used[:, None], used], self.classes_per_batch - 1)

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs beside the same arguments: the next epoch, and which classes are near."""
        return {"epoch": self.epoch, "classes": self.classes, "neighbors": self._neighbors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another sampler's :meth:`state_dict` was taken.

        Raises:
            TypeError: An entry of the wrong type or dtype.
            ValueError: ``state`` is no state of such a sampler, or of one with other classes or sizes. The sampler
                stays as it was.
        """
        check_entries("state", state, self.state_dict())
        epoch = check_count("state['epoch']", state["epoch"])
        check_tensor("state['classes']", state["classes"], torch.int64, (None,))
        if not torch.equal(state["classes"], self.classes):
            raise ValueError(
                f"state must be of a sampler of the same {len(self.classes)} classes, got one of "
                f"{len(state['classes'])}, or others"
            )
        neighbors, count = state["neighbors"], len(self.classes)
        if neighbors is not None:
            check_tensor("state['neighbors']", neighbors, torch.int32, (count, self.classes_per_batch - 1))
            check_range("state['neighbors']", neighbors, count)
            listed = (
                torch.cat([torch.arange(count, dtype=torch.int32, device="cpu")[:, None], neighbors], 1).sort(1).values
            )
            if (repeated := (listed[:, 1:] == listed[:, :-1]).any(1)).any():
                row = int(repeated.int().argmax())
                raise ValueError(
                    f"state['neighbors'] must be distinct other classes, got {neighbors[row].tolist()} at [{row}]"
                )
        self.epoch = epoch
        self._neighbors = None if neighbors is None else neighbors.clone()

    def _chooser(self) -> Callable[[torch.Generator], list[int]]:
        neighbors = self._neighbors  # those of now, whenever the batches are drawn

        def choose(generator: torch.Generator) -> list[int]:
            drawn = torch.randperm(len(self.classes), generator=generator, device="cpu")
            order: list[int] = drawn[: self.classes_per_batch].tolist()
            if neighbors is None:
                return order
            anchors = order[: self.anchors_per_batch]
            taken, chosen = set(anchors), []
            for anchor in anchors:
                free = [position for position in neighbors[anchor].tolist() if position not in taken]
                near = free[: self.classes_per_anchor - 1]
                taken.update(near)
                chosen += [anchor, *near]
            return chosen

        return choose
