"""The hinge of every triplet of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine import ops
from hardmine.losses._base import Loss
from hardmine.ops._arguments import (
    FLOAT_DTYPES,
    INTEGER_DTYPES,
    check_has_values,
    check_tensor,
    is_without_values,
    shape_of,
)
from hardmine.types import BatchAllReduction, DistanceSimilarity, GradientReduction, TripletCounts


class BatchAllTripletLoss(Loss):
    r"""The hinge of every triplet of the batch (HTL, ECCV 2018, section 3).

    .. math:: L = \frac{1}{|T|} \sum_{(a, p, n) \in T} \frac{1}{2} \max(0, d_{ap} - d_{an} + \alpha)

    with the squared distances d. :func:`hardmine.ops.batch_all_triplet_loss` documents the options in full.

    Args:
        margin: :math:`\alpha`, in units of the distance (squared, if ``squared``): a number, or a table [C, C] with
            ``margin[y_a, y_n]`` for an anchor of class y_a and a negative of class y_n. The module copies the table.
        margin_labels: The labels of the table's rows, [C] distinct integers. None: 0 to C - 1.
        squared: Whether distances are squared.
        similarity: ``"cosine"``: distances of the normalized rows; ``"euclidean"``: of the rows as given.
        reduction: ``"mean"`` over the triplets, ``"mean_active"`` over those with a loss above 0, or ``"sum"``.
        ignore_index: Rows with this label are neither anchors nor candidates, as if they were not in the batch.
        group: As in :class:`TripletLoss`: the rows of all ranks of a process group.
        gradient_reduction: As in :class:`TripletLoss`.

    Attributes:
        margin: The current margin: a number, or the table, which is a buffer. :meth:`set_margin` changes it.
        margin_labels: The labels of the table's rows, or None.

    Raises:
        TypeError: An option of the constructor has the wrong type.
        ValueError: An option of the constructor has the wrong value. Numbers must be finite in float32, because the
            embeddings' dtype is not known yet.

    Note:
        The module's state is the table, if there is one, and the labels of its rows, which ``load_state_dict``
        compares with the module's labels. A number never becomes a table, and a table keeps its shape and storage, so
        ``state_dict``, ``AveragedModel``, DDP and compiled graphs always see the same buffer. ``margin_labels`` is not
        a buffer, because averaging integers would round. So ``broadcast_from_rank0`` of
        ``torch.distributed.checkpoint`` does not send the labels, and needs ``strict=False``.

    Example:
        >>> import torch
        >>> from hardmine.losses import BatchAllTripletLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]], requires_grad=True)
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> loss, counts = BatchAllTripletLoss(margin=0.2)(embeddings, labels, return_counts=True)
        >>> round(loss.item(), 3)
        0.265
        >>> int(counts.active), int(counts.total)
        (6, 8)
        >>> loss_of = BatchAllTripletLoss(margin=torch.tensor([[0.0, 0.1], [0.5, 0.0]]))
        >>> round(loss_of(embeddings, labels).item(), 4)
        0.3025
    """

    _op: ClassVar[Callable[..., Any]] = staticmethod(ops.batch_all_triplet_loss)
    margin: float | Tensor

    def __init__(
        self,
        *,
        margin: float | Tensor = 0.2,
        margin_labels: Tensor | None = None,
        squared: bool = True,
        similarity: DistanceSimilarity = "cosine",
        reduction: BatchAllReduction = "mean",
        ignore_index: int | None = None,
        group: ProcessGroup | None = None,
        gradient_reduction: GradientReduction | None = None,
    ) -> None:
        options = {"squared": squared, "similarity": similarity, "reduction": reduction, "ignore_index": ignore_index}
        super().__init__({**options, "group": group, "gradient_reduction": gradient_reduction})
        self._check({"margin": margin, "margin_labels": margin_labels})
        self.margin_labels = margin_labels
        if isinstance(margin, Tensor):
            check_finite_table("margin", margin)
            self.register_buffer("margin", margin.detach().clone())
            if margin_labels is not None:
                self.margin_labels = check_has_values("margin_labels", margin_labels).clone()
        else:
            self.margin = float(margin)

    def set_margin(self, margin: float | Tensor) -> None:
        """Change the margin.

        Args:
            margin: A number, which fills the table if the module has one; or a table of the same shape for the same
                labels, if the module has a table.

        Raises:
            TypeError: ``margin`` is neither a number nor a table.
            ValueError: ``margin`` is not finite, has another shape, or is a table where the module has a number.
        """
        self._check({"margin": margin})
        if not isinstance(self.margin, Tensor):
            if isinstance(margin, Tensor):
                raise ValueError(
                    f"margin must be a number, as it was when the module was made, got a table {shape_of(margin)}"
                )
            self.margin = float(margin)
            return
        if isinstance(margin, Tensor) and margin.shape != self.margin.shape:
            raise ValueError(
                f"margin must be [C, C] = {shape_of(self.margin)}, as it was when the module was made, "
                f"got {shape_of(margin)}"
            )
        if isinstance(margin, Tensor) and not self.margin.is_meta:
            check_has_values("margin", margin)
        with torch.no_grad():  # in place: DDP and compiled graphs hold the buffer itself
            if isinstance(margin, Tensor):
                table = margin.to(self.margin.dtype)
                check_finite_table("margin", table)
                self.margin.copy_(table)
            else:
                limit = torch.finfo(self.margin.dtype).max
                if abs(margin) > limit:
                    raise ValueError(f"margin must be a number in the range of {self.margin.dtype}, got {margin}")
                self.margin.fill_(float(margin))

    # The overloads differ in the flag and the result: the layout shows only these side by side.
    # fmt: off
    @overload
    def forward(
        self, embeddings: Tensor, labels: Tensor,
        ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
        ids: Tensor | None = None, ref_ids: Tensor | None = None,
        return_counts: Literal[False] = False,
    ) -> Tensor: ...
    @overload
    def forward(
        self, embeddings: Tensor, labels: Tensor,
        ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
        ids: Tensor | None = None, ref_ids: Tensor | None = None,
        return_counts: Literal[True],
    ) -> tuple[Tensor, TripletCounts]: ...
    @overload
    def forward(
        self, embeddings: Tensor, labels: Tensor,
        ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
        ids: Tensor | None = None, ref_ids: Tensor | None = None,
        return_counts: bool = False,
    ) -> Tensor | tuple[Tensor, TripletCounts]: ...
    # fmt: on
    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_embeddings: Tensor | None = None,
        ref_labels: Tensor | None = None,
        *,
        ids: Tensor | None = None,
        ref_ids: Tensor | None = None,
        return_counts: bool = False,
    ) -> Tensor | tuple[Tensor, TripletCounts]:
        """The loss of a batch. Positives and negatives are samples of the batch, or refs.

        Args:
            embeddings: The anchors, [B, D].
            labels: The anchors' classes, [B].
            ref_embeddings: The rows that are positives and negatives, [M, D]; None takes both from the anchors.
            ref_labels: The classes of the refs, [M].
            ids: The anchors' ids, [B]; no triplet has a pair of equal ids >= 0. With refs, only this excludes an
                anchor's own copy.
            ref_ids: The ids of the refs, [M]; given together with ``ids`` if there are refs.
            return_counts: Also return the :class:`hardmine.types.TripletCounts`.

        Returns:
            The loss; with ``return_counts``, a tuple of the loss and the counts.
        """
        margin, margin_labels = self.margin, self.margin_labels
        if margin_labels is not None and isinstance(margin, Tensor):
            margin_labels = margin_labels.to(margin.device)  # if only the buffers were moved
        return self._op(
            embeddings,
            labels,
            ref_embeddings,
            ref_labels,
            ids=ids,
            ref_ids=ref_ids,
            margin=margin,
            margin_labels=margin_labels,
            return_counts=return_counts,
            **self.options,
        )

    if TYPE_CHECKING:
        __call__ = forward

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BatchAllTripletLoss:
        super()._apply(fn, recurse)
        # The labels follow the table to its device, except to "meta", where they would lose their values.
        if self.margin_labels is not None and isinstance(self.margin, Tensor) and not self.margin.is_meta:
            self.margin_labels = self.margin_labels.to(self.margin.device)
        return self

    def _labels_of_rows(self) -> Tensor:
        """The labels of the table's rows, also if they are the row numbers."""
        table: Any = self.margin
        return torch.arange(len(table), device="cpu") if self.margin_labels is None else self.margin_labels

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if isinstance(self.margin, Tensor):
            # A copy, because torch.distributed.checkpoint.load writes into the tensors of a state.
            destination[f"{prefix}margin_labels"] = self._labels_of_rows().clone()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        *args: Any,
    ) -> None:
        table = state_dict.get(f"{prefix}margin")
        if isinstance(table, Tensor):  # torch itself reports other types and shapes
            check_tensor(f"{prefix}margin", table)
            if table.dtype not in FLOAT_DTYPES:
                raise TypeError(
                    f"{prefix}margin must be float32, float64, float16 or bfloat16, got {table.dtype} in state_dict"
                )
            dtype = self.margin.dtype if isinstance(self.margin, Tensor) else table.dtype
            check_finite_table(f"{prefix}margin", table.to(dtype))
        key, missing = f"{prefix}margin_labels", []
        if isinstance(self.margin, Tensor):
            if key in state_dict:
                self._check_labels(key, state_dict.pop(key))  # torch would report what is no buffer as unexpected
            elif strict:
                missing.append(key)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, *args)
        missing_keys += missing

    def _check_labels(self, name: str, labels: Any) -> None:
        """The labels of a state are those of the module, in the same order."""
        expected = self._labels_of_rows()
        check_tensor(name, labels)
        if labels.dtype not in INTEGER_DTYPES or labels.shape != expected.shape:
            got = f"{labels.dtype} {shape_of(labels)}"
            raise ValueError(f"{name} must be integers [C] = {shape_of(expected)}, got {got} in state_dict")
        if is_without_values(labels) or is_without_values(expected):
            return
        differ = (labels.long().cpu() != expected.long().cpu()).nonzero()
        if len(differ):
            row = int(differ[0])
            raise ValueError(
                f"{name} must be {expected[row].item()} at [{row}], as when the module was made, "
                f"got {labels[row].item()} in state_dict"
            )

    def _arguments(self) -> dict[str, Any]:
        margin = list(self.margin.shape) if isinstance(self.margin, Tensor) else self.margin
        labels = None if self.margin_labels is None else self.margin_labels.tolist()
        return {"margin": margin, "margin_labels": labels, **self.options}


def check_finite_table(name: str, table: Tensor) -> None:
    """All entries are finite. The op reads only the entries for a batch's classes and would find others late."""
    if is_without_values(table) or torch.compiler.is_compiling():
        return
    if not table.isfinite().all():
        position = (~table.isfinite()).nonzero()[0].tolist()
        raise ValueError(f"{name} must be finite, got {table[tuple(position)].item()} at {position}")
