"""The Selectively Contrastive Triplet loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, overload

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine._hooks import observed
from hardmine._options import check_choice, resolve_options
from hardmine.ops._hyperbolic import takes_hyperbolic
from hardmine.ops._ignored import drops_ignored
from hardmine.ops._known_options import labeled_tensors, remembers_options
from hardmine.ops._labeled_losses import triplet_loss_with_gradients
from hardmine.ops._losses_of_selected import loss_of_selected
from hardmine.types import (
    AllPositives,
    AllPositivesSCTLossOptions,
    AnySelection,
    AnySimilarity,
    GradientReduction,
    HardRule,
    LossResult,
    NegativeRule,
    PairSelection,
    PositiveRule,
    Preset,
    SCTLossOptions,
    Selection,
    SemihardFallback,
    TermReduction,
    TieRule,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Published(NamedTuple):
    """The definition of hard triplets, and the averaging, of a published version of SCT."""

    hard_rule: HardRule
    hard_cutoff: float | None
    separate_means: bool
    duplicate_threshold: float | None
    tie: TieRule


PRESETS: dict[Preset, Published] = {
    "paper": Published("above", None, False, None, "exclude"),
    "code2020": Published("above_and_cutoff", 0.5, True, 0.9999, "include"),
    "code2021": Published("above_or_cutoff", 0.8, False, 0.9999, "include"),
}


def resolve_preset(options: dict[str, Any]) -> dict[str, Any]:
    """The options, with the preset's value for each option that the user left at None."""
    check_choice("preset", options["preset"], get_args(Preset))
    published = PRESETS[options["preset"]]._asdict()
    given = {name: value for name, value in options.items() if value is not None or name not in published}
    return {**published, **given, "term": "sct", "margin": None}


# The overloads differ in the flags and the result: the layout shows only these side by side.
# fmt: off
@overload
def sct_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    return_selection: Literal[False] = False, return_count: Literal[False] = False,
    **options: Unpack[SCTLossOptions],
) -> Tensor: ...
@overload
def sct_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    return_selection: Literal[True], return_count: Literal[False] = False,
    **options: Unpack[SCTLossOptions],
) -> tuple[Tensor, Selection]: ...
@overload
def sct_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    return_selection: Literal[False] = False, return_count: Literal[True],
    **options: Unpack[SCTLossOptions],
) -> tuple[Tensor, Tensor]: ...
@overload
def sct_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    return_selection: Literal[True], return_count: Literal[True],
    **options: Unpack[SCTLossOptions],
) -> tuple[Tensor, Selection, Tensor]: ...
@overload
def sct_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    return_selection: bool = False, return_count: bool = False,
    **options: Unpack[SCTLossOptions],
) -> LossResult[Selection]: ...
@overload
def sct_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    positive: AllPositives, return_selection: Literal[False] = False, return_count: Literal[False] = False,
    **options: Unpack[AllPositivesSCTLossOptions],
) -> Tensor: ...
@overload
def sct_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    positive: AllPositives, return_selection: Literal[True], return_count: Literal[False] = False,
    **options: Unpack[AllPositivesSCTLossOptions],
) -> tuple[Tensor, PairSelection]: ...
@overload
def sct_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    positive: AllPositives, return_selection: Literal[False] = False, return_count: Literal[True],
    **options: Unpack[AllPositivesSCTLossOptions],
) -> tuple[Tensor, Tensor]: ...
@overload
def sct_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    positive: AllPositives, return_selection: Literal[True], return_count: Literal[True],
    **options: Unpack[AllPositivesSCTLossOptions],
) -> tuple[Tensor, PairSelection, Tensor]: ...
@overload
def sct_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    negative_ranks: tuple[int, int], return_selection: bool = False, return_count: bool = False,
    **options: Unpack[SCTLossOptions],
) -> LossResult[AnySelection]: ...
# fmt: on
@remembers_options(triplet_loss_with_gradients, labeled_tensors)
@observed("sct_loss")
@drops_ignored
@takes_hyperbolic
def sct_loss(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
    lam: float = 1.0,
    temperature: float | Tensor = 0.1,
    preset: Preset = "paper",
    positive: PositiveRule | AllPositives = "easiest",
    negative: NegativeRule = "hardest",
    negative_ranks: tuple[int, int] | None = None,
    similarity: AnySimilarity = "cosine",
    reduction: TermReduction = "mean",
    hard_cutoff: float | None = None,
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
    """The Selectively Contrastive Triplet loss, forward and backward, without the matrix of similarities.

    Per anchor: ``lam * s_an`` if the triplet is hard (``s_an > s_ap``), so that no gradient reaches its positive
    pair; else ``softplus((s_an - s_ap) / temperature)``. Replaces, with the similarities of
    :func:`hardmine.ops.select_triplets`::

        torch.where(s_an > s_ap, lam * s_an, F.softplus((s_an - s_ap) / temperature)).mean()

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
        lam: Weight of the hard part. The paper uses 1 on CUB and CAR, and 0.1 on SOP, In-shop and Hotels.
        temperature: Temperature of the easy part, from 1e-30 to 1e30. The paper prints eq. 1 with 1; its code and EP
            use 0.1. Or a tensor [], as in :func:`hardmine.ops.triplet_loss`.
        preset: The published version to follow.

            `paper`: hard if ``s_an > s_ap``, all others easy; mean over all valid anchors.
            `code2020`: hard if ``s_an > s_ap`` and ``s_an > 0.5``, all others easy; each part is averaged over its own
            count, and the two are added.
            `code2021`: hard if ``s_an > s_ap`` or ``s_an > 0.8``, easy if ``s_an < s_ap`` and ``s_an < 0.8``, so that
            ties count in neither; mean over the anchors of both parts.

            Both versions of the code drop positives above 0.9999 and keep ties of semi-hard negatives.
        positive: As in :func:`hardmine.ops.select_triplets`, like ``negative``, ``similarity``,
            ``semihard_fallback`` and ``semihard_margin``; ``"all"`` as in :func:`hardmine.ops.triplet_loss`.
        negative_ranks: As in :func:`hardmine.ops.triplet_loss`.
        tie: Overrides the preset's rule for semi-hard negatives: ``"exclude"`` (`paper`) or ``"include"``.
        reduction: ``"mean"`` as the preset says, ``"mean_active"``: the same over anchors with a term above 0 only,
            ``"sum"``, or ``"none"``: [B], or [P] with ``positive="all"``; 0 for anchors that do not count.
        hard_cutoff: Overrides the 0.5 of `code2020` or the 0.8 of `code2021`.
        duplicate_threshold: Overrides the preset's threshold (`paper` has none); infinity disables it.
        min_similarity: Anchors count only if both their similarities exceed this. None: all count.
        weights: As in :func:`hardmine.ops.triplet_loss`.
        return_selection: Also return the :class:`hardmine.types.Selection`, at no further cost; with
            ``positive="all"``, the :class:`hardmine.types.PairSelection`.
        return_count: Also return the number of anchors that count in the mean, int64 []. In `code2020` these are the
            anchors of both parts, in `code2021` those that are hard or easy. This does not synchronize a GPU.
        generator: Source of random ``positive`` and ``negative`` picks, as in :func:`hardmine.ops.select_triplets`.
        group: As in :func:`hardmine.ops.triplet_loss`, like ``gradient_reduction``: the candidates of all ranks of a
            ``torch.distributed`` process group, and the loss of one process with all rows.
        gradient_reduction: Only with ``group``: whether the trainer averages gradients over the ranks, ``"mean"``, or
            adds them up, ``"sum"``.

    Returns:
        The loss, float64 for float64 inputs, else float32; with ``return_selection`` or ``return_count``, a tuple of
        the loss and what was requested: the selection, then the count.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape, value or device, or an option does nothing, such as ``hard_cutoff``
            in `paper`.
        NotImplementedError: A second derivative is requested.

    Note:
        The notes on :func:`hardmine.ops.triplet_loss` apply. The loss jumps at s_an = s_ap, from log 2 to
        ``lam * s_an``, as the paper intends.

    Reference:
        Xuan et al., "Hard negative examples are hard, but useful", ECCV 2020, eq. 13, and the authors' published code.

    Example:
        >>> import torch
        >>> from hardmine import ops
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [-0.6, 0.8]], requires_grad=True)
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> loss, count = ops.sct_loss(embeddings, labels, lam=0.1, return_count=True)
        >>> loss, count
        (tensor(0.0750, grad_fn=<TripletLossBackward>), tensor(4))
        >>> loss.backward()
    """
    options = {
        "preset": preset,
        "positive": positive,
        "negative": negative,
        "negative_ranks": negative_ranks,
        "temperature": temperature,
        "lam": lam,
        "similarity": similarity,
        "reduction": reduction,
        "hard_cutoff": hard_cutoff,
        "semihard_fallback": semihard_fallback,
        "tie": tie,
        "semihard_margin": semihard_margin,
        "duplicate_threshold": duplicate_threshold,
        "min_similarity": min_similarity,
        "generator": generator,
    }
    inputs = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
    flags = return_selection, return_count
    return loss_of_selected("sct_loss", _resolve, inputs, options, flags, group, gradient_reduction, weights)


def _resolve(options: dict[str, Any]) -> dict[str, Any]:
    return resolve_preset(resolve_options("sct_loss", options))
