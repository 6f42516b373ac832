"""Selection of the hardest, easiest, semi-hard or a random positive and negative of every anchor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args, overload

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine._hooks import observed
from hardmine._options import resolve_options
from hardmine.ops._all_positives import as_pair_selection, check_all_positives
from hardmine.ops._arguments import POSITIVES, check_choice, check_ids, check_labeled_rows, check_selection
from hardmine.ops._autograd import forbid_double_backward, register_autograd
from hardmine.ops._fakes import fake_gradients, fake_selection
from hardmine.ops._groups import agree_on_checks, check_group
from hardmine.ops._hyperbolic import takes_hyperbolic
from hardmine.ops._ignored import drops_ignored
from hardmine.ops._random_draws import check_random, draw_random
from hardmine.ops._ranked_negatives import (
    check_ranks,
    has_ranks,
    of_negatives,
    of_positives,
    with_ranked_negatives,
    without_ranks,
)
from hardmine.ops._ranks import Anchors, check_tensors, own_part
from hardmine.types import (
    AllPositives,
    AnySelection,
    AnySimilarity,
    NegativeRule,
    NegativeSelectionOptions,
    PairSelection,
    PositiveRule,
    Selection,
    SelectionOptions,
    SemihardFallback,
    TieRule,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

POSITIVE_RULES = (*POSITIVES, *get_args(AllPositives))


# The overloads differ in the rule and the result: the layout shows only these side by side.
# fmt: off
@overload
def select_triplets(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    group: ProcessGroup | None = None, **options: Unpack[SelectionOptions],
) -> Selection: ...
@overload
def select_triplets(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    positive: AllPositives, group: ProcessGroup | None = None, **options: Unpack[NegativeSelectionOptions],
) -> PairSelection: ...
@overload
def select_triplets(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    negative_ranks: tuple[int, int], group: ProcessGroup | None = None, **options: Unpack[SelectionOptions],
) -> AnySelection: ...
# fmt: on
@observed("select_triplets")
@drops_ignored
@takes_hyperbolic
def select_triplets(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
    positive: PositiveRule | AllPositives = "easiest",
    negative: NegativeRule = "hardest",
    negative_ranks: tuple[int, int] | None = None,
    similarity: AnySimilarity = "cosine",
    duplicate_threshold: float | None = None,
    semihard_fallback: SemihardFallback | None = None,
    tie: TieRule | None = None,
    semihard_margin: float | None = None,
    generator: torch.Generator | None = None,
    group: ProcessGroup | None = None,
) -> AnySelection:
    """Selects one positive and one negative for every anchor, without the matrix of similarities.

    Replaces, with ``x = F.normalize(embeddings)`` and its masks::

        s = x @ x.T
        positive_similarity, positive_index = s.masked_fill(~same_class | self, -inf).max(1)
        negative_similarity, negative_index = s.masked_fill(same_class, -inf).max(1)

    and, for a random positive, ``torch.multinomial((same_class & ~self).float(), 1)``.

    Args:
        embeddings: The anchors, [B, D], float32, float64, float16 or bfloat16.
        labels: The anchors' classes, [B], any integer dtype.
        ref_embeddings: Rows to select from, such as a gallery or a memory bank: [M, D], dtype and device of
            ``embeddings``. None selects among the anchors themselves, where a sample is never its own positive. With
            refs, an anchor's own copy is a candidate, unless ``ids`` and ``ref_ids`` exclude it.
        ref_labels: The refs' classes, [M], any integer dtype.
        ids: The anchors' ids, [B], any integer dtype; a negative id stands for none. A pair of equal ids is no
            candidate, neither as a positive nor as a negative: an anchor's own copy in a memory bank, or an augmented
            copy of its image.
        ref_ids: The refs' ids, [M], any integer dtype. Given together with ``ids`` if there are refs.
        ignore_index: Rows with this label are neither anchors nor candidates, refs included, as if they were not there.
            Results keep the shape: such an anchor has index -1, similarity NaN, loss 0 and gradient 0, whatever its
            embedding. On a GPU the host reads the number of other rows.
        positive: ``"easiest"`` (most similar sample of the class), ``"hardest"`` (least similar), or ``"random"``
            (every candidate is equally likely). ``"all"``: every pair of an anchor and one of its positives is listed,
            each with its own negative, which must not be random. On a GPU the host reads the number of pairs, and
            semi-hard negatives take B D multiply-adds per pair.
        negative: ``"hardest"`` (most similar sample of another class), ``"easiest"`` (least similar), ``"random"``, or
            ``"semihard"``: the most similar one that is less similar than the selected positive; with
            ``positive="all"``, than the positive of its pair, as in FaceNet.
        negative_ranks: With ``negative="hardest"``, ``(first, last)``: instead of its hardest negative an anchor has
            those of ranks ``first`` to ``last`` in descending order of similarity, from 1 to 1024, which is robust
            against wrong labels. The result is then a :class:`PairSelection` with an entry per anchor and rank, also
            for missing positives and negatives. With ``negative="random"``, one negative is drawn from these ranks: the
            floor(u n)-th of the n ranks that exist. An error with ``positive="all"``.
        similarity: ``"cosine"`` (normalizes inside, see the note), ``"dot"``, or ``"euclidean"``: the negative
            distance, ``-|a - b|``. Distances are computed from differences, so that close pairs far from the origin
            keep their precision. ``"hyperbolic"``: the negative distance of the Poincare ball of curvature -1,
            ``-arcosh(1 + 2 |a - b|^2 / ((1 - |a|^2) (1 - |b|^2)))`` (Nickel and Kiela, NeurIPS 2017, equation
            1). Rows must have norms below 1: others are an error on a CPU, and NaN on a GPU or under ``torch.compile``.
        duplicate_threshold: Positives more similar than this are excluded as near duplicates.
        semihard_fallback: The negative of an anchor, or pair, that has no semi-hard one: None (no negative),
            ``"hardest"``, or ``"easiest"`` (TensorFlow Addons and sentence-transformers).
        tie: Whether a negative exactly as similar as the positive counts as semi-hard: ``"exclude"`` (the papers, and
            the default) or ``"include"`` (the SCT authors' code).
        semihard_margin: Semi-hard negatives must also have ``s_an > s_ap - semihard_margin`` (FaceNet). None: no such
            limit.
        generator: Source of random picks, on the device of ``embeddings``. None: the device's default generator, which
            :func:`torch.manual_seed` seeds. With ``group``, its state must be the same on every rank.
        group: A ``torch.distributed`` process group, such as ``torch.distributed.group.WORLD``: candidates are the rows
            of all its ranks, or with refs, the refs of all ranks. Indices are row numbers of all ranks, rank 0's rows
            first. The selection is bitwise that of one process with all rows. None: this process alone.

    Returns:
        A :class:`Selection`: two int64 and two floating-point tensors, each [B]. Indices are rows of ``embeddings``, or
        of ``ref_embeddings`` if given. Similarities are float64 for float64 inputs, else float32. With
        ``positive="all"``, a :class:`PairSelection` of tensors [P] instead, ascending by anchor, then by positive; its
        anchors are rows of ``embeddings``, of this rank with ``group``.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape, value or device, or an option does nothing, such as ``tie`` without
            semi-hard negatives.

    Note:
        Ties go to the lowest index; Euclidean ties are decided on squared distances. NaN similarities are never
        selected, nor is -inf as a maximum or +inf as a minimum. Memory is O((B + M) D), plus
        O(P) with ``positive="all"``. Results are bitwise equal on every repeat, for any number of threads and at every
        SIMD level.

        Cosine similarities are clamped to [-1, 1] when they are returned or compared with a threshold. Among candidates
        that rounding puts outside, the unclamped sums decide. Rows of norm 1e-12 or less are divided by 1e-12, as
        ``F.normalize`` does. Such rows have no direction, so their gradient is 0. All ops normalize this way.

        Products and squares of elements below 1e-19 underflow in float32. Dot similarities below about 1e-38 and
        Euclidean distances below about 1e-19 may therefore be 0, as may their gradients. In float64 the limit for
        elements is 1e-154.

        A random selection draws one float64 number u in [0, 1) per anchor, for the positives first. It picks the
        floor(u n)-th of the anchor's n candidates in ascending order of index, so equal generator states give equal
        picks. Only the similarities of the picks are computed, unless ``duplicate_threshold`` or ``ids`` require all.
        Under inductor the numbers differ from those of eager mode, as they do for ``torch.rand``; ``torch.manual_seed``
        fixes them too. torch cannot trace a ``generator``: the graph breaks, and ``fullgraph=True`` raises. A
        ``generator`` is an error under ``torch.utils.checkpoint``, which restores the default generator only.

    Reference:
        Xuan et al., "Improved Embeddings with Easy Positive Triplet Mining", WACV 2020, section 3 (whose bound on
        semi-hard negatives, printed as d(x_a, x_n), means d(x_a, x_p)); Schroff et al., "FaceNet", CVPR 2015, section
        3.2.

    Example:
        >>> import torch
        >>> from hardmine import ops
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])
        >>> selection = ops.select_triplets(embeddings, torch.tensor([0, 0, 1, 1]))
        >>> selection.positive_index, selection.negative_index
        (tensor([1, 0, 3, 2]), tensor([2, 2, 1, 1]))
        >>> selection.positive_similarity
        tensor([0.8000, 0.8000, 0.8000, 0.8000])
        >>> pairs = ops.select_triplets(embeddings, torch.tensor([0, 0, 0, 1]), positive="all")
        >>> pairs.anchor_index, pairs.positive_index
        (tensor([0, 0, 1, 1, 2, 2]), tensor([1, 2, 0, 2, 0, 1]))
    """
    options = {
        "positive": positive,
        "negative": negative,
        "negative_ranks": negative_ranks,
        "similarity": similarity,
        "duplicate_threshold": duplicate_threshold,
        "semihard_fallback": semihard_fallback,
        "tie": tie,
        "semihard_margin": semihard_margin,
        "generator": generator,
    }
    inputs = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
    if group is None:
        return _select(inputs, resolve_options("select_triplets", options))
    group = check_group(group)

    def check() -> None:
        check_tensors(inputs, group)
        resolved = resolve_options("select_triplets", options)
        check_rules(embeddings, resolved)

    agree_on_checks(group, check)
    options = resolve_options("select_triplets", options)
    part, anchors = own_part(group, "select_triplets", options, inputs)
    return _select(part, options, anchors)


def check_rules(embeddings: Tensor, options: dict[str, Any]) -> list[int | float]:
    """Checks the resolved options of a selection; returns them in the order of the schema of its compiled op."""
    check_choice("positive", options["positive"], POSITIVE_RULES)
    if options["positive"] == "all":
        compiled_options = check_all_positives(embeddings, options)
    else:
        compiled_options = check_selection(embeddings, options)
    check_random(embeddings, options)
    if has_ranks(options):
        check_ranks(options)
    return compiled_options


def _select(inputs: tuple[Any, ...], options: dict[str, Any], anchors: Anchors | None = None) -> AnySelection:
    """The selection, from resolved options."""
    embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids = inputs
    labels, ref_labels = check_labeled_rows(embeddings, labels, ref_embeddings, ref_labels)
    ids, ref_ids = check_ids(ids, embeddings, ref_ids, ref_embeddings)
    selection_options = check_rules(embeddings, options)
    if options["positive"] == "all":
        pairs = torch.ops.hardmine.select_all_positives(
            embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids, *selection_options
        )
        return as_pair_selection(*pairs)
    random = draw_random(embeddings, options, anchors)
    rows = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
    if has_ranks(options):
        s_ap, _, positive, _ = torch.ops.hardmine.select_triplets(
            *rows, of_positives(random, options), *check_selection(embeddings, without_ranks(options))
        )
        return with_ranked_negatives(rows, options, (s_ap, positive), of_negatives(random, options))
    return as_selection(*torch.ops.hardmine.select_triplets(*rows, random, *selection_options))


def as_selection(
    positive_similarity: Tensor, negative_similarity: Tensor, positive_index: Tensor, negative_index: Tensor
) -> Selection:
    """The public tuple of the compiled ops' outputs, which have the differentiable ones first."""
    return Selection(positive_index, negative_index, positive_similarity, negative_similarity)


@torch.library.register_fake("hardmine::select_triplets")
def _(embeddings, labels, ref_embeddings, ref_labels, *options):
    return fake_selection(embeddings)


@torch.library.register_fake("hardmine::select_triplets_backward")
def _(
    grad_positive,
    grad_negative,
    embeddings,
    ref_embeddings,
    positive_index,
    negative_index,
    similarity,
    need_embeddings,
    need_ref_embeddings,
):
    return fake_gradients(embeddings, ref_embeddings, need_embeddings, need_ref_embeddings)


def _setup_context(ctx, arguments, outputs):
    embeddings, _, ref_embeddings, _, _, _, _, ctx.similarity, *_ = arguments
    ctx.save_for_backward(embeddings, ref_embeddings, outputs[2], outputs[3])


def _backward(ctx, saved, grad_positive, grad_negative, _grad_positive_index, _grad_negative_index):
    embeddings, ref_embeddings, positive_index, negative_index = saved
    need, need_ref, *_ = ctx.needs_input_grad
    grad, grad_ref = torch.ops.hardmine.select_triplets_backward(
        grad_positive,
        grad_negative,
        embeddings,
        ref_embeddings,
        positive_index,
        negative_index,
        ctx.similarity,
        need,
        need_ref,
    )
    return grad if need else None, grad_ref if need_ref else None


register_autograd("select_triplets", (0, 2), _setup_context, _backward)
forbid_double_backward("select_triplets", (0, 1, 2, 3))
