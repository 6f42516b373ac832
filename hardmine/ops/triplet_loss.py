"""The triplet losses on one selected positive and one selected negative per anchor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine._hooks import observed
from hardmine._options import resolve_options
from hardmine.ops._hyperbolic import takes_hyperbolic
from hardmine.ops._ignored import drops_ignored
from hardmine.ops._known_options import labeled_tensors, remembers_options
from hardmine.ops._labeled_losses import triplet_loss_with_gradients
from hardmine.ops._losses_of_selected import loss_of_selected
from hardmine.types import (
    AllPositives,
    AllPositivesTripletLossOptions,
    AnySelection,
    AnySimilarity,
    GradientReduction,
    LossResult,
    NegativeRule,
    PairSelection,
    PositiveRule,
    Selection,
    SemihardFallback,
    Term,
    TermReduction,
    TieRule,
    TripletLossOptions,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack


# The overloads differ in the flags and the result: the layout shows only these side by side.
# fmt: off
@overload
def triplet_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    return_selection: Literal[False] = False, return_count: Literal[False] = False,
    **options: Unpack[TripletLossOptions],
) -> Tensor: ...
@overload
def triplet_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    return_selection: Literal[True], return_count: Literal[False] = False,
    **options: Unpack[TripletLossOptions],
) -> tuple[Tensor, Selection]: ...
@overload
def triplet_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    return_selection: Literal[False] = False, return_count: Literal[True],
    **options: Unpack[TripletLossOptions],
) -> tuple[Tensor, Tensor]: ...
@overload
def triplet_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    return_selection: Literal[True], return_count: Literal[True],
    **options: Unpack[TripletLossOptions],
) -> tuple[Tensor, Selection, Tensor]: ...
@overload
def triplet_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    return_selection: bool = False, return_count: bool = False,
    **options: Unpack[TripletLossOptions],
) -> LossResult[Selection]: ...
@overload
def triplet_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    positive: AllPositives, return_selection: Literal[False] = False, return_count: Literal[False] = False,
    **options: Unpack[AllPositivesTripletLossOptions],
) -> Tensor: ...
@overload
def triplet_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    positive: AllPositives, return_selection: Literal[True], return_count: Literal[False] = False,
    **options: Unpack[AllPositivesTripletLossOptions],
) -> tuple[Tensor, PairSelection]: ...
@overload
def triplet_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    positive: AllPositives, return_selection: Literal[False] = False, return_count: Literal[True],
    **options: Unpack[AllPositivesTripletLossOptions],
) -> tuple[Tensor, Tensor]: ...
@overload
def triplet_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    positive: AllPositives, return_selection: Literal[True], return_count: Literal[True],
    **options: Unpack[AllPositivesTripletLossOptions],
) -> tuple[Tensor, PairSelection, Tensor]: ...
@overload
def triplet_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    negative_ranks: tuple[int, int], return_selection: bool = False, return_count: bool = False,
    **options: Unpack[TripletLossOptions],
) -> LossResult[AnySelection]: ...
# fmt: on
@remembers_options(triplet_loss_with_gradients, labeled_tensors)
@observed("triplet_loss")
@drops_ignored
@takes_hyperbolic
def triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
    positive: PositiveRule | AllPositives = "easiest",
    negative: NegativeRule = "semihard",
    negative_ranks: tuple[int, int] | None = None,
    term: Term = "nca",
    temperature: float | Tensor | None = None,
    margin: float | None = None,
    lam: float | None = None,
    similarity: AnySimilarity = "cosine",
    reduction: TermReduction = "mean",
    semihard_fallback: SemihardFallback | None = None,
    tie: TieRule | None = None,
    semihard_margin: float | None = None,
    duplicate_threshold: float | None = None,
    min_similarity: float | None = None,
    weights: Tensor | None = None,
    return_selection: bool = False,
    return_count: bool = False,
    generator: torch.Generator | None = None,
    group: ProcessGroup | None = None,
    gradient_reduction: GradientReduction | None = None,
) -> LossResult[AnySelection]:
    """A triplet loss on the selected pairs, forward and backward, without the matrix of similarities.

    Replaces ``term(*similarities of select_triplets(...)).mean()`` over the anchors that have both a positive and a
    negative. The gradient flows through both selected similarities into anchors, positives and negatives.

    Args:
        embeddings: [B, D], float32, float64, float16 or bfloat16.
        labels: [B], any integer dtype.
        ref_embeddings: [M, D] to select from; None selects among the anchors. Gets a gradient if it requires one.
        ref_labels: [M], any integer dtype.
        ids: [B], any integer dtype; a pair of equal ids >= 0 is no candidate, as in
            :func:`hardmine.ops.select_triplets`. With refs, only this excludes an anchor's own copy.
        ref_ids: [M], the refs' ids; given together with ``ids`` if there are refs.
        ignore_index: Rows with this label are neither anchors nor candidates, as in
            :func:`hardmine.ops.select_triplets`; they do not count in a mean.
        positive: As in :func:`hardmine.ops.select_triplets`, like ``negative``, ``similarity``,
            ``semihard_fallback``, ``tie``, ``semihard_margin`` and ``duplicate_threshold``. ``"all"``: the loss has a
            term per pair of an anchor and one of its positives, which counts like an anchor below.
        negative_ranks: As in :func:`hardmine.ops.select_triplets`. With ``negative="hardest"`` the loss has a term per
            anchor and rank, [B R] for R ranks, which counts like an anchor below. Rows that ``ignore_index`` leaves out
            have no terms; the selection's ``anchor_index`` names the anchor of each term.
        term: The loss f(s_ap, s_an) of one anchor:
            ``"nca"``: ``softplus((s_an - s_ap) / temperature)``;
            ``"hinge"``: ``max(0, s_an - s_ap + margin)``; with ``similarity="euclidean"``, the papers'
            ``max(0, d_ap - d_an + margin)``;
            ``"soft_margin"``: ``softplus(s_an - s_ap)``;
            ``"sct"``: ``lam * s_an`` if ``s_an > s_ap``, else nca (see :func:`hardmine.ops.sct_loss` for its presets).
        temperature: Only for nca and sct; from 1e-30 to 1e30, 0.1 by default. Or a tensor [] of a floating-point dtype
            on the device of ``embeddings``, which gets a gradient if it requires one; see
            :func:`hardmine.ops.logsumexp`.
        margin: Only for hinge; in units of the similarity, 0.2 by default.
        lam: Only for sct: the weight of the hard part; 1 by default.
        reduction: ``"mean"`` over the valid anchors, ``"mean_active"`` over those with a term above 0, ``"sum"``, or
            ``"none"``: [B], or [P] with ``positive="all"``; 0 for anchors that do not count.
        min_similarity: Anchors count only if both their similarities exceed this (0 in the EP authors' code). None: all
            count.
        weights: [B], a floating-point dtype: finite and at least 0. Each anchor's term is multiplied with its weight,
            and means are divided by the sum of the weights of the anchors that count. Gets a gradient if it requires
            one, which is an error with ``group``.
        return_selection: Also return the :class:`hardmine.types.Selection`, at no further cost; with
            ``positive="all"``, the :class:`hardmine.types.PairSelection`.
        return_count: Also return the number of anchors that count in the mean, int64 []. This does not synchronize a
            GPU.
        generator: Source of random ``positive`` and ``negative`` picks, as in :func:`hardmine.ops.select_triplets`.
        group: A ``torch.distributed`` process group, such as ``torch.distributed.group.WORLD``: candidates are the rows
            of all its ranks, or with refs, the refs of all ranks. The loss is that of one process with all rows, on
            every rank, except that ``reduction="none"`` returns the losses of this rank's anchors. The selection is
            that of this rank's anchors, without a gradient; indices are row numbers of all ranks. The count is that of
            all. None: this process alone.
        gradient_reduction: Only with ``group``: how the trainer reduces the parameters' gradients over the ranks,
            ``"mean"`` as DDP and FSDP do (and the default), or ``"sum"``. Both give the gradient of one process. The
            gradients of ``reduction="none"`` are never scaled.

    Returns:
        The loss, float64 for float64 inputs, else float32; with ``return_selection`` or ``return_count``, a tuple of
        the loss and what was requested: the selection, then the count.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape, value or device, or an option does nothing, such as ``margin`` with
            nca.
        NotImplementedError: A second derivative is requested.

    Note:
        An anchor without a positive or a negative is excluded from the loss and the mean. Without any valid anchor the
        loss and its gradient are 0. The terms nca and soft margin are always active. A non-finite element, or a row
        whose norm overflows, makes the loss and all gradients NaN. At exactly equal similarities the hinge and the
        Euclidean distance take the subgradient 0. Memory is O((B + M) D), plus O(P) with ``positive="all"``, forward
        and backward. Results are bitwise equal on every repeat, for any number of threads and at every SIMD level.

    Reference:
        nca: Xuan et al., WACV 2020, section 4, and ECCV 2020, eq. 1; hinge: WACV 2020, section 2.1; soft margin:
        Hermans et al., arXiv:1703.07737; sct: ECCV 2020, eq. 13; a semi-hard negative per pair: Schroff et al.,
        "FaceNet", CVPR 2015, section 3.2.

    Example:
        >>> import torch
        >>> from hardmine import ops
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]], requires_grad=True)
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> loss = ops.triplet_loss(embeddings, labels, negative="hardest", term="hinge", margin=0.3)
        >>> loss
        tensor(0.0500, grad_fn=<TripletLossBackward>)
        >>> loss.backward()
        >>> loss, count = ops.triplet_loss(embeddings, labels, min_similarity=0.5, return_count=True)
        >>> count
        tensor(2)
        >>> labels = torch.tensor([0, 0, 0, 1])
        >>> ops.triplet_loss(embeddings.detach(), labels, positive="all", term="hinge", margin=1.0, reduction="none")
        tensor([0.0000, 0.4000, 0.2000, 0.4000, 0.0000, 0.0000])
    """
    options = {
        "positive": positive,
        "negative": negative,
        "negative_ranks": negative_ranks,
        "term": term,
        "temperature": temperature,
        "margin": margin,
        "lam": lam,
        "similarity": similarity,
        "reduction": reduction,
        "semihard_fallback": semihard_fallback,
        "tie": tie,
        "semihard_margin": semihard_margin,
        "duplicate_threshold": duplicate_threshold,
        "min_similarity": min_similarity,
        "generator": generator,
    }
    inputs = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
    flags = return_selection, return_count
    return loss_of_selected("triplet_loss", _resolve, inputs, options, flags, group, gradient_reduction, weights)


def _resolve(options: dict[str, Any]) -> dict[str, Any]:
    return resolve_options("triplet_loss", options)
