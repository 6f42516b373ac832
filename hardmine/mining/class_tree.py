"""HTL's class tree: the levels at which classes merge, and the margins derived from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from hardmine._extras import require
from hardmine.mining.class_distances import MAX_SQ_DIST, check_class_distances, class_distances
from hardmine.ops._arguments import FLOAT_DTYPES, check_choice
from hardmine.ops._numbers import check_finite, check_integer
from hardmine.types import ClassDistances

LINKAGES = ("single", "average")


class ClassTree:
    """A hierarchy of classes: the nearer two classes are, the lower the level at which they join.

    Level l has the threshold ``d_l = l (4 - d_0) / L + d_0``. Here d_0 is the mean over the classes of the mean squared
    distance inside a class, and 4 is the largest squared distance on the unit sphere. Two classes join at the lowest
    level whose threshold is above the height at which the linkage merges them. Build a new tree every epoch::

        tree = ClassTree.from_embeddings(embed_all(network, images), labels)
        loss_of.update(tree)  # a HierarchicalTripletLoss
        sampler.update(tree)  # an AnchorNeighborSampler

    Args:
        distances: The result of :func:`class_distances`, for at least 2 classes.
        levels: L, the number of the highest level, 0 to 32,767. The paper found a depth of 16 the best of 1, 8, 16 and
            32. If it counts the leaves as well, that is L = 15, and its depth 1 is L = 0, a flat tree: all classes join
            at d_0, so that no margin depends on the negative's class.
        linkage: ``"single"``: the height is the smallest step length for which a chain of classes connects the two
            classes. So at every level, classes nearer than its threshold are one node, and joining is transitive.
            ``"average"``: the height is the mean distance between the classes of the two nodes, when these are the
            nearest two.

    Attributes:
        distances: The given distances.
        classes: int64 [C], the classes, ascending.
        levels: L.
        linkage: As given.
        thresholds: float64 [L + 1]: d_0, ..., d_L = 4; d_0 alone if L = 0.
        within_sq_dist: float64 [C], s_y, the mean squared distance between two samples of each class; d_0 for a class
            of one sample, which is never an anchor.
        join_levels: int16 [C, C], 0 to L: the level at which two classes join. A class joins itself at level 0.
        node_counts: int64 [L + 1], the number of nodes after each level.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: ``levels`` or ``linkage`` is invalid; the distances are of fewer than 2 classes, not finite, or
            impossible for unit vectors; or all classes have one sample, so that d_0 is undefined.
        ModuleNotFoundError: SciPy is not installed.

    Note:
        In the paper, the classes merge "in the next level" of H(y_a, y_n), at its threshold: the leaves are level 0,
        and d_0 merges them. Here H is the level at which the classes join, 0 to L. Classes join if their height is
        *below* the threshold. A height of 4, which only opposite points have, joins at level L too: the paper's tree
        ends in one node. If every class has collapsed to a point, d_0 is 0, nothing joins at level 0, and the other
        levels are as usual. Results are equal on every repeat. Time and memory are O(C^2).

    Reference:
        Ge et al., "Deep Metric Learning with Hierarchical Triplet Loss", ECCV 2018, section 4.1. The paper does not say
        whether joining is transitive.

    Example:
        >>> import torch
        >>> from hardmine.mining import ClassTree
        >>> angles = torch.tensor([0.0, 0.2, 0.4, 0.6, 3.0, 3.2])
        >>> embeddings = torch.stack([angles.cos(), angles.sin()], 1)
        >>> tree = ClassTree.from_embeddings(embeddings, torch.tensor([0, 0, 1, 1, 2, 2]), levels=4)
        >>> tree.join_level(0, 1), tree.join_level(0, 2)
        (1, 4)
        >>> tree.node_counts
        tensor([3, 2, 2, 2, 1])
        >>> tree.margin_table().shape
        torch.Size([3, 3])
    """

    def __init__(
        self, distances: ClassDistances, *, levels: int = 16, linkage: Literal["single", "average"] = "single"
    ) -> None:
        self.levels = check_integer("levels", levels, 0, 2**15 - 1)
        check_choice("linkage", linkage, LINKAGES)
        self.linkage = linkage
        self.distances = check_class_distances(distances)
        self.classes, sq_dist = self.distances
        if len(self.classes) < 2:
            raise ValueError(f"distances must have at least 2 classes, got {len(self.classes)}")
        within = sq_dist.diagonal()
        if within.isnan().all():
            raise ValueError(
                "distances must include a class with at least two samples, whose distance is part of d_0, "
                f"got {len(within)} classes of one sample"
            )
        d_0 = within.nanmean()
        self.within_sq_dist = within.where(~within.isnan(), d_0)
        level = torch.arange(self.levels + 1, dtype=torch.float64, device="cpu")
        self.thresholds = level * (MAX_SQ_DIST - d_0) / max(self.levels, 1) + d_0
        if self.levels:
            self.thresholds[-1] = MAX_SQ_DIST  # exactly, without rounding
        self.join_levels, self.node_counts = self._join(sq_dist)

    @classmethod
    def from_embeddings(
        cls,
        embeddings: Tensor,
        labels: Tensor | Sequence[int],
        *,
        levels: int = 16,
        linkage: Literal["single", "average"] = "single",
    ) -> ClassTree:
        """The tree of the classes of embeddings [N, D] with labels [N], as :func:`class_distances` takes them.

        Raises:
            FloatingPointError: An embedding is not finite; the message names the row.
        """
        return cls(class_distances(embeddings, labels), levels=levels, linkage=linkage)

    def _join(self, sq_dist: Tensor) -> tuple[Tensor, Tensor]:
        """The level at which each pair of classes joins, and the number of nodes after each level."""
        hierarchy = require("scipy.cluster.hierarchy")
        squareform = require("scipy.spatial.distance").squareform  # between [C, C] and [C (C - 1) / 2]
        merges = hierarchy.linkage(squareform(sq_dist.numpy(), checks=False), method=self.linkage)
        heights = torch.from_numpy(hierarchy.cophenet(merges))
        # The number of thresholds <= height is the index of the first threshold above it.
        levels = torch.searchsorted(self.thresholds, heights, right=True, out_int32=True).clamp_(max=self.levels)
        join_levels = torch.from_numpy(squareform(levels.to(torch.int16).numpy()))
        ascending = torch.from_numpy(merges[:, 2].copy()).sort().values
        node_counts = len(self.classes) - torch.searchsorted(ascending, self.thresholds)
        node_counts[-1] = 1
        return join_levels, node_counts

    def join_level(self, first: int, second: int) -> int:
        """The level at which two classes, given by their labels, become one node.

        Raises:
            TypeError: A label is not an integer.
            ValueError: A label is not one of the tree's classes.
        """
        row, column = (self._position(name, label) for name, label in (("first", first), ("second", second)))
        return int(self.join_levels[row, column])

    def _position(self, name: str, label: int) -> int:
        label = check_integer(name, label, -(2**63), 2**63 - 1)
        position = int(torch.searchsorted(self.classes, label))
        if position == len(self.classes) or self.classes[position] != label:
            raise ValueError(f"{name} must be one of the tree's {len(self.classes)} classes, got {label}")
        return position

    def margin_table(self, beta: float = 0.1, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """alpha(y_a, y_n) = beta + d_H(y_a, y_n) - s_{y_a}, for every anchor's class and every negative's class.

        ::

            ops.batch_all_triplet_loss(x, y, margin=tree.margin_table(), margin_labels=tree.classes)

        Args:
            beta: How much farther apart the classes should move, in units of the squared distance.
            dtype: The result's dtype: float32, float64, float16 or bfloat16.

        Returns:
            [C, C]: rows for the anchors' classes, columns for the negatives', both in the order of ``classes``. The
            diagonal, which no triplet uses, is beta + d_0 - s_y.

        Raises:
            TypeError: ``beta`` is not a number.
            ValueError: ``beta`` is not finite, or ``dtype`` is none of these.

        Note:
            A margin is negative if s_{y_a} exceeds d_H(y_a, y_n) by more than beta.

        Reference:
            ECCV 2018, section 4.2, with beta = 0.1.
        """
        beta = check_finite("beta", beta)
        check_choice("dtype", dtype, FLOAT_DTYPES)
        return (beta + self.thresholds[self.join_levels.int()] - self.within_sq_dist[:, None]).to(dtype)

    def __repr__(self) -> str:
        """The number of classes, and the options."""
        return f"ClassTree({len(self.classes)} classes, levels={self.levels}, linkage={self.linkage!r})"
