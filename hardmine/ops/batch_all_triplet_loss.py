"""The triplet loss over every triplet of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args, overload

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine._hooks import observed
from hardmine._options import check_distance_similarity
from hardmine._problems import needs_gradient
from hardmine.ops._arguments import (
    FLOAT_DTYPES,
    INTEGER_DTYPES,
    SIMILARITIES,
    allow_tf32,
    check_choice,
    check_ids,
    check_labeled_rows,
    check_same_kind,
    check_tensor,
    has_values,
    shape_of,
)
from hardmine.ops._batch_all_of_ranks import takes_group
from hardmine.ops._fakes import accumulate_dtype, fake_gradients
from hardmine.ops._ignored import drops_ignored
from hardmine.ops._known_options import labeled_tensors, remember, remembers_options
from hardmine.ops._losses_with_gradients import register_loss_with_gradients
from hardmine.ops._numbers import check_finite, check_flag
from hardmine.types import (
    BatchAllReduction,
    BatchAllTripletLossOptions,
    DistanceSimilarity,
    GradientReduction,
    TripletCounts,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack


@torch.library.register_fake("hardmine::batch_all_triplet_loss")
def _(embeddings, labels, ref_embeddings, *options):
    computed = embeddings.new_empty(embeddings.shape, dtype=accumulate_dtype(embeddings.dtype))
    gradients = fake_gradients(computed, ref_embeddings, *options[-2:])
    return computed.new_empty(()), *gradients, labels.new_empty(()), labels.new_empty(())


@torch.library.register_fake("hardmine::batch_all_triplet_loss_backward")
def _(grad_loss, grad_embeddings, grad_ref_embeddings, *options):
    return fake_gradients(grad_embeddings, grad_ref_embeddings, *options[-2:])


# Of a tuple of the compiled op's arguments without the flags.
loss_of_triplets = register_loss_with_gradients("batch_all_triplet_loss", (0, 2), "BatchAllTripletLoss")


# The overloads differ in the flag and the result: the layout shows only these side by side.
# fmt: off
@overload
def batch_all_triplet_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    return_counts: Literal[False] = False, **options: Unpack[BatchAllTripletLossOptions],
) -> Tensor: ...
@overload
def batch_all_triplet_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    return_counts: Literal[True], **options: Unpack[BatchAllTripletLossOptions],
) -> tuple[Tensor, TripletCounts]: ...
@overload
def batch_all_triplet_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    return_counts: bool, **options: Unpack[BatchAllTripletLossOptions],
) -> Tensor | tuple[Tensor, TripletCounts]: ...
# fmt: on
@remembers_options(loss_of_triplets, labeled_tensors)
@observed("batch_all_triplet_loss")
@drops_ignored
@takes_group
def batch_all_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
    margin: float | Tensor = 0.2,
    margin_labels: Tensor | None = None,
    squared: bool = True,
    similarity: DistanceSimilarity = "cosine",
    reduction: BatchAllReduction = "mean",
    return_counts: bool = False,
    group: ProcessGroup | None = None,
    gradient_reduction: GradientReduction | None = None,
) -> Tensor | tuple[Tensor, TripletCounts]:
    """The hinge on every (anchor, positive, negative), in O((B + M) D) memory.

    Replaces, with ``x = F.normalize(embeddings)`` and every triplet (a, p, n) of the batch::

        d = (x[:, None] - x[None, :]).square().sum(2)
        loss = 0.5 * F.relu(d[a, p] - d[a, n] + margin).mean()

    Args:
        embeddings: The anchors, [B, D], float32, float64, float16 or bfloat16.
        labels: The anchors' classes, [B], any integer dtype.
        ref_embeddings: The rows that are positives and negatives, such as a memory bank: [M, D], dtype and device of
            ``embeddings``. None takes both from the anchors, where a sample is never its own positive. Gets a gradient
            if it requires one.
        ref_labels: The refs' classes, [M], any integer dtype.
        ids: [B], any integer dtype; no triplet has a pair of equal ids >= 0, as in
            :func:`hardmine.ops.select_triplets`. With refs, only this excludes an anchor's own copy.
        ref_ids: [M], the refs' ids; given together with ``ids`` if there are refs.
        ignore_index: Rows with this label are neither anchors nor candidates, as in
            :func:`hardmine.ops.select_triplets`; they do not count in a mean.
        margin: alpha, in units of the distance (squared, if ``squared``). A number, or a table [C, C] of finite
            floating-point numbers: ``margin[y_a, y_n]`` for an anchor of class y_a and a negative of class y_n. A
            table gets no gradient.
        margin_labels: [C] distinct integers, the classes of the table's rows (and columns). None: the classes are the
            row numbers, 0 to C - 1.
        squared: Whether distances are squared.
        similarity: ``"cosine"`` normalizes the embeddings first, as :func:`hardmine.ops.select_triplets` does;
            ``"euclidean"`` uses the embeddings as given.
        reduction: ``"mean"`` over all triplets, ``"mean_active"`` over those with a loss above 0, or ``"sum"``.
        return_counts: Also return the :class:`hardmine.types.TripletCounts`, at no further cost.
        group: As in :func:`hardmine.ops.triplet_loss`, like ``gradient_reduction``: the candidates of all ranks of a
            ``torch.distributed`` process group, and the loss of one process with all rows. The counts are those of all.
        gradient_reduction: Only with ``group``: whether the trainer averages gradients over the ranks, ``"mean"``, or
            adds them up, ``"sum"``.

    Returns:
        The loss, float64 for float64 inputs, else float32; with ``return_counts``, a tuple of the loss and the counts.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value; on the CPU, also if a label has no row in the table.
        NotImplementedError: A second derivative is requested.

    Note:
        Without any triplet the loss and its gradient are 0. A non-finite element, or a row whose norm overflows, makes
        the loss and all gradients NaN. A triplet exactly at the margin takes the subgradient 0, as do equal embeddings
        with unsquared distances. The gradients are computed along with the loss. Memory is O((B + M) D). Time is that
        of the similarities, plus one comparison per triplet for classes of at most 32 samples. Larger classes take one
        binary search per pair instead. Results are bitwise equal on every repeat, for any number of threads and at
        every SIMD level. Only the table's entries for the given classes are read and checked. On a GPU, which no check
        synchronizes, a non-finite entry or a label without a row makes the loss and all gradients NaN. Duplicates in
        ``margin_labels`` are not detected on a GPU or under ``torch.compile`` or ``torch.vmap``: one of the two rows is
        used.

    Reference:
        Ge et al., "Deep Metric Learning with Hierarchical Triplet Loss", ECCV 2018, section 3, and section 4.2 for the
        margin by classes. The paper's formula prints unsquared norms; its text squares them.

    Example:
        >>> import torch
        >>> from hardmine import ops
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]], requires_grad=True)
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> loss, counts = ops.batch_all_triplet_loss(embeddings, labels, margin=0.5, return_counts=True)
        >>> loss, counts.active, counts.total
        (tensor(0.0125, grad_fn=<BatchAllTripletLossBackward>), tensor(2), tensor(8))
        >>> loss.backward()
    """
    given_labels = {"labels": labels, "ref_labels": ref_labels}
    labels, ref_labels = check_labeled_rows(embeddings, labels, ref_embeddings, ref_labels)
    ids, ref_ids = check_ids(ids, embeddings, ref_ids, ref_embeddings)
    table, table_row, ref_table_row = None, None, None
    if isinstance(margin, Tensor):
        table_row, ref_table_row = _table_rows(labels, ref_labels, margin, margin_labels)
        table = margin.detach()
        for name, given in given_labels.items():
            if margin_labels is not None and given is not None:
                check_same_kind(name, given, "margin_labels", margin_labels)
    elif margin_labels is not None:
        raise ValueError(f"margin_labels must be None if margin is a number, got {type(margin_labels).__name__}")
    return_counts = check_flag("return_counts", return_counts)
    kind = check_choice("similarity", similarity, SIMILARITIES)
    check_distance_similarity(similarity, "batch_all_triplet_loss")
    tensors = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
    compiled_options = (
        table,
        table_row,
        ref_table_row,
        kind,
        check_flag("squared", squared),
        0.0 if table is not None else check_finite("margin", margin, like=embeddings),
        check_choice("reduction", reduction, get_args(BatchAllReduction)),
        allow_tf32(embeddings),
    )
    if not return_counts:
        remember(compiled_options)
        return loss_of_triplets((*tensors, *compiled_options))
    loss, _, _, active, total = torch.ops.hardmine.batch_all_triplet_loss(
        *tensors, *compiled_options, *map(needs_gradient, (embeddings, ref_embeddings))
    )
    return loss, TripletCounts(active, total)


def _table_rows(
    labels: Tensor, ref_labels: Tensor | None, margin: Tensor, margin_labels: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The table's row per label, [B] and [M]; a label without a row gets a number that the compiled op refuses."""
    check_tensor("margin", margin, labels)
    if margin.dtype not in FLOAT_DTYPES:
        raise TypeError(f"margin must be float32, float64, float16 or bfloat16, got {margin.dtype}")
    if margin.dim() != 2 or margin.shape[0] != margin.shape[1] or margin.shape[0] == 0:
        raise ValueError(f"margin must be a number or [C, C], got {shape_of(margin)}")
    if margin.device != labels.device:
        raise ValueError(f"margin must be on the device of embeddings, {labels.device}, got {margin.device}")
    classes = margin.shape[0]
    if margin_labels is None:
        return labels, ref_labels
    check_tensor("margin_labels", margin_labels, labels)
    if margin_labels.dtype not in INTEGER_DTYPES:
        raise TypeError(f"margin_labels must have an integer dtype, got {margin_labels.dtype}")
    if margin_labels.shape != (classes,):
        raise ValueError(f"margin_labels must be [C] = [{int(classes)}], got {shape_of(margin_labels)}")
    if margin_labels.device != labels.device:
        raise ValueError(
            f"margin_labels must be on the device of embeddings, {labels.device}, got {margin_labels.device}"
        )
    ascending, order = margin_labels.long().sort()
    if has_values(margin_labels) and (ascending[1:] == ascending[:-1]).any():
        duplicate = ascending[1:][ascending[1:] == ascending[:-1]][0].item()
        raise ValueError(f"margin_labels must be distinct, got {duplicate} twice")

    def row_of(labels: Tensor) -> Tensor:
        position = torch.searchsorted(ascending, labels).clamp(max=classes - 1)
        return torch.where(ascending[position] == labels, order[position], -1)

    return row_of(labels), None if ref_labels is None else row_of(ref_labels)
