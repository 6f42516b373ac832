"""The triplet losses on one selected positive and one selected negative per anchor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine._hooks import observed
from hardmine._options import resolve_options
from hardmine.ops._all_positives import as_pair_selection
from hardmine.ops._anchor_losses import check_group_weights, read_weights, weighted_mean
from hardmine.ops._arguments import (
    TERM_REDUCTIONS,
    check_ids,
    check_labeled_rows,
    check_loss,
    draw_random,
    temperature_tensor,
)
from hardmine.ops._autograd import forbid_double_backward, register_autograd
from hardmine.ops._fakes import fake_gradients, fake_selection
from hardmine.ops._groups import agree_on_checks
from hardmine.ops._hyperbolic import takes_hyperbolic
from hardmine.ops._ignored import drops_ignored
from hardmine.ops._known_options import remember, remembers_options
from hardmine.ops._numbers import check_flag
from hardmine.ops._ranked_negatives import has_ranks, of_negatives, of_positives, with_ranked_negatives, without_ranks
from hardmine.ops._ranks import (
    Anchors,
    PartialLoss,
    all_rows,
    check_tensors,
    group_loss,
    own_part,
    shares_pairs,
    with_requested,
)
from hardmine.ops._shared_losses import TRIPLET_OPTIONS, split_options
from hardmine.ops._sums import ordered_sum, softplus, softplus_at
from hardmine.ops._triplet_loss_with_gradients import has_op_with_gradients, triplet_loss_with_gradients
from hardmine.ops.select_triplets import as_selection, check_rules
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
@observed("triplet_loss")
@drops_ignored
@takes_hyperbolic
@remembers_options(lambda *arguments: loss_with_known_options(*arguments))
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


_MEANS = ("mean", "mean_active")


def _resolve(options: dict[str, Any]) -> dict[str, Any]:
    return resolve_options("triplet_loss", options)


def loss_of_selected(
    op: str,
    resolve: Callable[[dict[str, Any]], dict[str, Any]],
    inputs: tuple[Any, ...],
    options: dict[str, Any],
    flags: tuple[bool, bool],
    group: Any,
    gradient_reduction: Any,
    weights: Any = None,
) -> LossResult[Any]:
    """The results of triplet_loss and sct_loss; ``flags`` say whether the selection and the count are among them."""
    call = group_loss(op, group, gradient_reduction, options["reduction"])
    count: Tensor | None
    if call is None:
        resolved = resolve(options)
        if not _is_composed(resolved, weights):
            loss, selection, counted = _compute(inputs, resolved, flags)
        else:
            _check_options(inputs[0], resolved, flags)
            loss, selection, counted = _weighted(inputs, resolved, weights)
        count = counted.sum() if flags[1] else None
    else:

        def check() -> None:
            check_tensors(inputs, call.group)
            _check_options(inputs[0], resolve(options), flags)
            check_group_weights(weights, inputs[0])

        agree_on_checks(call.group, call.check, check)
        resolved = resolve(options)
        same = {**{name: resolved[name] for name in options}, "gradient_reduction": gradient_reduction}
        same["weights"] = weights
        composed = _is_composed(resolved, weights)
        if not composed and resolved["positive"] != "all" and shares_pairs(inputs, resolved):
            compiled_options = split_options(_check_options(inputs[0], resolved, flags), TRIPLET_OPTIONS)
            rows, anchors = all_rows(call.group, op, same, inputs)
            loss, *selected = torch.ops.hardmine.triplet_loss_in_parts(
                *rows, *compiled_options, call.scale, call.group.group_name
            )
            selection = as_selection(*(values[anchors.own] for values in selected)) if flags[0] else None
            count = _counts(as_selection(*selected), resolved).sum() if flags[1] else None
            return with_requested(loss, (selection, count), flags)
        part, anchors = own_part(call.group, op, same, inputs)
        mean = resolved["reduction"] in _MEANS
        size = 2 if mean and resolved.get("separate_means") else 1
        loss, selection, counts = call.add_up(
            lambda: _part_of_loss(part, resolved, anchors, weights),
            inputs[0].device,
            mean=mean,
            size=size + 1 if mean and composed else size,
        )
        selection = type(selection)(*(values.detach() for values in selection))
        count = counts[-1] if composed else counts.sum()
    return with_requested(loss, (selection, count), flags)


def _is_composed(options: dict[str, Any], weights: Any) -> bool:
    """Whether the loss is computed from the terms of all entries, because the compiled op does not reduce it."""
    return weights is not None or isinstance(options["temperature"], Tensor) or has_ranks(options)


def loss_with_known_options(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    ref_labels: Tensor | None,
    compiled_options: list[int | float],
) -> Tensor:
    """The reduced loss of selected pairs, with options that passed their checks."""
    labels, ref_labels = check_labeled_rows(embeddings, labels, ref_embeddings, ref_labels)
    rows = embeddings, labels, ref_embeddings, ref_labels, None, None
    return triplet_loss_with_gradients(*rows, None, *compiled_options)


def _check_options(embeddings: Tensor, options: dict[str, Any], flags: tuple[Any, Any]) -> list[int | float]:
    """Checks the resolved options and the flags; returns the options in the order of the compiled ops' schemas."""
    for name, flag in zip(("return_selection", "return_count"), flags, strict=True):
        check_flag(name, flag)
    return check_rules(embeddings, options) + check_loss(embeddings, options)


def _compute(
    inputs: tuple[Any, ...],
    options: dict[str, Any],
    flags: tuple[Any, Any],
    anchors: Anchors | None = None,
) -> tuple[Tensor, Any, Any]:
    """The loss, the selection if a flag is set, and whether each anchor counts, [B], if the last is set."""
    embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids = inputs
    labels, ref_labels = check_labeled_rows(embeddings, labels, ref_embeddings, ref_labels)
    ids, ref_ids = check_ids(ids, embeddings, ref_ids, ref_embeddings)
    compiled_options = _check_options(embeddings, options, flags)
    rows = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
    named: Callable[..., AnySelection]
    if options["positive"] == "all":
        named = as_pair_selection
        loss, *selected = torch.ops.hardmine.all_positives_triplet_loss(*rows, *compiled_options)
    else:
        named = as_selection
        random = draw_random(embeddings, options, anchors)
        if not any(flags) and options["reduction"] != "none" and has_op_with_gradients(embeddings):
            if random is None:
                remember(compiled_options)
            return triplet_loss_with_gradients(*rows, random, *compiled_options), None, None
        loss, *selected = torch.ops.hardmine.triplet_loss(*rows, random, *compiled_options)
    if not any(flags):
        return loss, None, None
    selection = named(*selected)
    return loss, selection, _counts(selection, options) if flags[1] else None


class _Terms(NamedTuple):
    """The weighted terms of all entries of a selection, 0 where one does not count, and their weights."""

    terms: Tensor
    weights: Tensor
    counts: Tensor
    selection: AnySelection
    parts: tuple[Tensor, ...]  # whose means are added: all entries, or hard ones and others


def _weighted_terms(
    inputs: tuple[Any, ...], options: dict[str, Any], weights: Any, anchors: Anchors | None = None
) -> _Terms:
    """The terms, with weights of 1 if there are none."""
    if has_ranks(options):
        losses, selection = _terms_of_ranks(inputs, options, anchors)
    elif isinstance(options["temperature"], Tensor):
        losses, selection = _terms_at_tensor(inputs, options, anchors)
    else:
        losses, selection, _ = _compute(inputs, {**options, "reduction": "none"}, (True, False), anchors)
    counts = _counts(selection, options)
    if weights is None:
        weights = torch.ones_like(losses)
    else:
        weights = read_weights(weights, inputs[0], losses.dtype)
        if isinstance(selection, PairSelection):
            weights = weights[selection.anchor_index]
    # A loss is NaN if some row is not finite, whether the anchor counts or not.
    terms = torch.where(counts | losses.isnan(), losses, 0.0) * weights
    if options.get("separate_means"):
        hard = _is_hard(selection, options)
        parts: tuple[Tensor, ...] = hard, ~hard
    else:
        parts = (torch.ones_like(counts),)
    return _Terms(terms, torch.where(counts, weights, 0.0), counts, selection, parts)


def _terms_at_tensor(
    inputs: tuple[Any, ...], options: dict[str, Any], anchors: Anchors | None
) -> tuple[Tensor, AnySelection]:
    """The terms nca or sct at a temperature tensor, from the similarities of the selection; and the selection."""
    soft_margins, selection, _ = _compute(inputs, {**options, **_SOFT_MARGINS}, (True, False), anchors)
    return _terms_of(selection, options, soft_margins), selection


# Options with which the compiled op returns a term per entry, and NaN if some row is not finite.
_SOFT_MARGINS = {"term": "soft_margin", "temperature": None, "margin": None, "lam": None, "reduction": "none"}


def _terms_of_ranks(
    inputs: tuple[Any, ...], options: dict[str, Any], anchors: Anchors | None
) -> tuple[Tensor, AnySelection]:
    """The terms of negatives by rank, with the positives of the compiled op; and the selection."""
    embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids = inputs
    labels, ref_labels = check_labeled_rows(embeddings, labels, ref_embeddings, ref_labels)
    ids, ref_ids = check_ids(ids, embeddings, ref_ids, ref_embeddings)
    rows = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
    random = draw_random(embeddings, options, anchors)
    plain = {**without_ranks(options), **_SOFT_MARGINS}
    soft_margins, s_ap, _, positive, _ = torch.ops.hardmine.triplet_loss(
        *rows, of_positives(random, options), *_check_options(embeddings, plain, (True, False))
    )
    selection = with_ranked_negatives(rows, options, (s_ap, positive), of_negatives(random, options))
    if isinstance(selection, PairSelection):
        soft_margins = soft_margins[selection.anchor_index]
    return _terms_of(selection, options, soft_margins), selection


def _terms_of(selection: AnySelection, options: dict[str, Any], soft_margins: Tensor) -> Tensor:
    """The terms of all entries; NaN where those of the compiled op are, which hides no divergence."""
    s_ap, s_an = (torch.where(selection.valid, s, 0.0) for s in selection[-2:])
    term, temperature = options["term"], options["temperature"]
    if term == "hinge":
        terms = (s_an - s_ap + float(options["margin"])).clamp(min=0)
    elif term == "soft_margin":
        terms = softplus(s_an - s_ap)
    elif isinstance(temperature, Tensor):
        terms = softplus_at(temperature_tensor(temperature, s_ap), s_an - s_ap)
    else:
        terms = softplus((s_an - s_ap) / float(temperature))
    if term == "sct":
        terms = torch.where(_is_hard(selection, options), float(options["lam"]) * s_an, terms)
    return torch.where(soft_margins.isnan(), soft_margins, terms)


def _weighted(inputs: tuple[Any, ...], options: dict[str, Any], weights: Any) -> tuple[Tensor, Any, Tensor]:
    """The weighted loss, the selection, and whether each anchor counts."""
    terms, weights, counts, selection, parts = _weighted_terms(inputs, options, weights)
    if options["reduction"] == "none":
        return terms, selection, counts
    if options["reduction"] == "sum":
        return ordered_sum(terms.double()).to(terms.dtype), selection, counts
    means = []
    for part in parts:
        total, weight = (ordered_sum(torch.where(part, values, 0.0).double()) for values in (terms, weights))
        means.append(weighted_mean(total, weight))
    return sum(means[1:], means[0]).to(terms.dtype), selection, counts


def _weighted_part(inputs: tuple[Any, ...], options: dict[str, Any], anchors: Anchors, weights: Any) -> PartialLoss:
    """The same of this rank's anchors: means divide by sums of weights. A last total of 0 carries the count."""
    terms, weights, counts, selection, parts = _weighted_terms(inputs, options, weights, anchors)
    if options["reduction"] == "none":
        return PartialLoss(terms, selection, counts.sum())
    if options["reduction"] == "sum":
        return PartialLoss(ordered_sum(terms), selection, counts.sum())
    totals, divisors = (
        torch.stack([*(ordered_sum(torch.where(part, values, 0.0)) for part in parts), last.to(terms.dtype)])
        for values, last in ((terms, torch.zeros_like(counts.sum())), (weights.double(), counts.sum()))
    )
    return PartialLoss(totals, selection, divisors)


def _part_of_loss(
    inputs: tuple[Any, ...], options: dict[str, Any], anchors: Anchors, weights: Tensor | None = None
) -> PartialLoss:
    """The loss of this rank's anchors, not divided by their number; for separate means, of hard ones and of others."""
    if _is_composed(options, weights):
        return _weighted_part(inputs, options, anchors, weights)
    reduction = options["reduction"]
    separate = reduction in _MEANS and options.get("separate_means")
    reduced_by = "none" if separate or reduction in ("none", "mean_active") else "sum"
    losses, selection, _ = _compute(inputs, {**options, "reduction": reduced_by}, (True, False), anchors)
    counts = _counts(selection, options)
    if reduction == "mean_active" and not separate:
        return PartialLoss(ordered_sum(torch.where(counts, losses, 0.0)), selection, counts.sum())
    if not separate:
        return PartialLoss(losses, selection, counts.sum())
    hard = counts & _is_hard(selection, options)
    easy = counts & ~hard
    totals = torch.stack([ordered_sum(torch.where(part, losses, 0.0)) for part in (hard, easy)])
    return PartialLoss(totals, selection, torch.stack([hard.sum(), easy.sum()]))


def _is_hard(selection: AnySelection, options: dict[str, Any]) -> Tensor:
    """Whether each anchor's sct term is the hard one, as sct_difficulty in triplet_terms.h has it."""
    hard = selection.negative_similarity > selection.positive_similarity
    rule = options.get("hard_rule", "above")
    if rule == "above":
        return hard
    above_cutoff = selection.negative_similarity > float(options["hard_cutoff"])
    return hard & above_cutoff if rule == "above_and_cutoff" else hard | above_cutoff


def _counts(selection: AnySelection, options: dict[str, Any]) -> Tensor:
    """Whether each anchor counts in the mean, bool [B], as triplet_term in csrc/core/losses/triplet_terms.h has it.

    With ``positive="all"``, whether each pair does, bool [P].
    """
    counts = selection.valid
    s_ap, s_an = selection.positive_similarity, selection.negative_similarity
    floor = -math.inf if options["min_similarity"] is None else float(options["min_similarity"])
    if floor > -math.inf:
        counts = counts & (s_ap > floor) & (s_an > floor)
    if options.get("hard_rule") == "above_or_cutoff":  # ties are neither hard nor easy
        cutoff = float(options["hard_cutoff"])
        counts = counts & ((s_an > s_ap) | (s_an > cutoff) | ((s_an < s_ap) & (s_an < cutoff)))
    return counts & _is_active(selection, options) if options["reduction"] == "mean_active" else counts


def _is_active(selection: AnySelection, options: dict[str, Any]) -> Tensor:
    """Whether the term of each anchor is above 0, in the arithmetic of triplet_terms.h."""
    s_ap, s_an = selection.positive_similarity, selection.negative_similarity
    if options["term"] == "hinge":
        return s_an - s_ap + float(options["margin"]) > 0
    if options["term"] == "sct":
        return (float(options["lam"]) * s_an > 0) | ~_is_hard(selection, options)
    return torch.ones_like(s_an, dtype=torch.bool)


@torch.library.register_fake("hardmine::triplet_loss")
def _(embeddings, *options):
    selection = fake_selection(embeddings)
    values = selection[0]
    return torch.empty_like(values) if TERM_REDUCTIONS[options[-1]] == "none" else values.new_empty(()), *selection


@torch.library.register_fake("hardmine::triplet_loss_backward")
def _(grad_loss, grad_positive, grad_negative, embeddings, ref_embeddings, *options):
    return fake_gradients(embeddings, ref_embeddings, *options[-2:])


def _setup_context(ctx, arguments, outputs):
    embeddings, _, ref_embeddings, _, _, _, _, similarity, _, _, _, _, _, _, _, *loss_options = arguments
    ctx.options = (similarity, *loss_options)
    ctx.loss_shape = outputs[0].shape
    ctx.save_for_backward(embeddings, ref_embeddings, *outputs[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx, saved, grad_loss, grad_positive, grad_negative, _grad_positive_index, _grad_negative_index):
    embeddings, ref_embeddings, *selected = saved
    if grad_loss is None:  # only the returned similarities were used
        grad_loss = selected[0].new_zeros(ctx.loss_shape)
    need, need_ref, *_ = ctx.needs_input_grad
    grad, grad_ref = torch.ops.hardmine.triplet_loss_backward(
        grad_loss, grad_positive, grad_negative, embeddings, ref_embeddings, *selected, *ctx.options, need, need_ref
    )
    return grad if need else None, grad_ref if need_ref else None


register_autograd("triplet_loss", (0, 2), _setup_context, _backward)
forbid_double_backward("triplet_loss", range(7))
