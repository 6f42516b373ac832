"""The hierarchical triplet loss."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine.losses.batch_all import BatchAllTripletLoss
from hardmine.ops._arguments import INTEGER_DTYPES, check_has_values, check_int64, check_tensor, shape_of
from hardmine.ops._numbers import check_finite, check_integer
from hardmine.types import BatchAllReduction, GradientReduction

if TYPE_CHECKING:
    from hardmine.mining import ClassTree


class HierarchicalTripletLoss(BatchAllTripletLoss):
    r"""The hinge of every triplet, with margins by the classes of anchor and negative (HTL, ECCV 2018, section 4.2).

    .. math::

        L = \frac{1}{|T|} \sum_{(a, p, n) \in T} \frac{1}{2} \max(0, d_{ap} - d_{an} + \alpha_{y_a y_n}), \quad
        \alpha_{y_a y_n} = \beta + d_H(y_a, y_n) - s_{y_a}

    The class tree of the embeddings gives d_H and s. Build a new tree every epoch; before the first one all margins are
    equal. The tree's distances are those of unit vectors, so the similarity is cosine::

        loss_of = HierarchicalTripletLoss(classes=train_labels)
        for epoch in range(30):
            for rows in sampler:  # an AnchorNeighborSampler
                loss = loss_of(network(images[rows]), train_labels[rows])
                optimizer.zero_grad(); loss.backward(); optimizer.step()
            tree = ClassTree.from_embeddings(embed_all(network, images), train_labels)
            loss_of.update(tree)
            sampler.update(tree)

    Args:
        classes: The labels of the classes, integers [C], in any order. Duplicates are ignored, so the labels of the
            training set can be passed. Or the number of classes C, whose labels are 0 to C - 1.
        margin: The alpha of every pair of classes before the first tree, in units of the squared distance.
        beta: How much farther apart the classes should move, in units of the squared distance.
        squared: Whether distances are squared.
        reduction: ``"mean"`` over the triplets, ``"mean_active"`` over those with a loss above 0, or ``"sum"``.
        ignore_index: Rows with this label are neither anchors nor candidates, as if they were not in the batch.
        group: As in :class:`TripletLoss`: the rows of all ranks of a process group. The tables must be the same.
        gradient_reduction: As in :class:`TripletLoss`.

    Attributes:
        margin: The current margins, a buffer [C, C]: alpha[y_a, y_n].
        margin_labels: The labels of the table's rows, ascending, [C]; None if they are 0 to C - 1.
        beta: As given.

    Raises:
        TypeError: An option of the constructor has the wrong type.
        ValueError: An option of the constructor has the wrong value.

    Note:
        The module's state is the table ``margin`` and the labels of its rows. Their shapes are the same before and
        after the first tree, so training resumes bit for bit. A state can be loaded into any module made with the same
        ``classes``, before or after the module's first tree; other classes are an error. ``update`` writes into the
        table in place, as an optimizer writes into a parameter. The table has torch's default dtype until ``to``
        changes it. Memory is O(C^2). The paper prints the loss with unsquared distances, which is ``squared=False``;
        the paper's margins are squared distances.

    Example:
        >>> import torch
        >>> from hardmine.losses import HierarchicalTripletLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]], requires_grad=True)
        >>> loss_of = HierarchicalTripletLoss(classes=2)
        >>> round(loss_of(embeddings, torch.tensor([0, 0, 1, 1])).item(), 3)
        0.265
        >>> loss_of.state_dict().keys()
        odict_keys(['margin', 'margin_labels'])
    """

    margin: Tensor

    def __init__(
        self,
        *,
        classes: int | Tensor | Sequence[int],
        margin: float = 0.2,
        beta: float = 0.1,
        squared: bool = True,
        reduction: BatchAllReduction = "mean",
        ignore_index: int | None = None,
        group: ProcessGroup | None = None,
        gradient_reduction: GradientReduction | None = None,
    ) -> None:
        if isinstance(classes, (int, Integral)):
            count, labels = check_integer("classes", classes, 1), None
        else:
            labels = _distinct(classes)
            count = len(labels)
            if labels[0] == 0 and labels[-1] == count - 1:
                labels = None
        dtype = torch.get_default_dtype()
        first = check_finite("margin", margin, like=torch.empty(0, dtype=dtype, device="cpu"))
        # No explicit device: torch's default device, such as "meta", applies as for other buffers.
        super().__init__(
            margin=torch.full((count, count), first),
            squared=squared,
            reduction=reduction,
            ignore_index=ignore_index,
            group=group,
            gradient_reduction=gradient_reduction,
        )
        self.margin_labels = labels
        self.beta = check_finite("beta", beta)
        self._first_margin = first

    def update(self, tree: ClassTree) -> None:
        """Replace the margins by those of a tree.

        Args:
            tree: A tree of all the module's classes, and possibly of others.

        Raises:
            TypeError: ``tree`` is not a :class:`hardmine.mining.ClassTree`.
            ValueError: ``tree`` lacks a class.
        """
        from hardmine.mining import ClassTree  # imported late: other losses do not need mining's dependencies

        if not isinstance(tree, ClassTree):
            raise TypeError(f"tree must be a ClassTree, got {type(tree).__name__}")
        labels = self._labels_of_rows().cpu()
        missing = ~torch.isin(labels, tree.classes)
        if missing.any():
            raise ValueError(
                f"tree must have the {len(labels)} classes of the module, got a tree of {len(tree.classes)} classes "
                f"without class {labels[missing][0].item()}"
            )
        rows = torch.searchsorted(tree.classes, labels)
        self.set_margin(tree.margin_table(self.beta, dtype=self.margin.dtype)[rows[:, None], rows])

    def _arguments(self) -> dict[str, Any]:
        classes = len(self.margin) if self.margin_labels is None else self.margin_labels.tolist()
        return {"classes": classes, "margin": self._first_margin, "beta": self.beta, **self.options}


def _distinct(classes: Tensor | Sequence[int]) -> Tensor:
    """The distinct labels, ascending, on the CPU."""
    try:
        labels = classes if isinstance(classes, Tensor) else torch.as_tensor(classes, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"classes must be a number or integers [C], got {classes!r}") from error
    check_tensor("classes", labels)
    if labels.dtype not in INTEGER_DTYPES or labels.dim() != 1 or len(labels) == 0:
        raise ValueError(f"classes must be a number or integers [C], got {labels.dtype} {shape_of(labels)}")
    return check_int64("classes", check_has_values("classes", labels)).to("cpu", torch.int64).unique()
