"""The Selectively Contrastive Triplet loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hardmine._hooks import observed
from hardmine.ops._arguments import (
    check_choice,
    check_labeled_rows,
    check_loss,
    check_number,
    check_selection,
    draw_random,
)
from hardmine.ops.select_triplets import Selection, as_selection


class Preset(NamedTuple):
    """What a published version of SCT calls hard, and how it averages."""

    hard_rule: str
    hard_cutoff: float | None
    separate_means: bool
    duplicate_threshold: float | None
    tie: str


PRESETS = {
    "paper": Preset("above", None, False, None, "exclude"),
    "code2020": Preset("above_and_cutoff", 0.5, True, 0.9999, "include"),
    "code2021": Preset("above_or_cutoff", 0.8, False, 0.9999, "include"),
}


def resolve_preset(
    preset: str, hard_cutoff: float | None, duplicate_threshold: float | None, tie: str | None
) -> Preset:
    """The preset with the user's own cutoff, threshold and tie rule in it, where given.

    Raises:
        ValueError: If the preset is unknown, or the cutoff is given to one that has none.
    """
    check_choice("preset", preset, tuple(PRESETS))
    values = PRESETS[preset]
    if hard_cutoff is not None:
        if values.hard_cutoff is None:
            raise ValueError(f"hard_cutoff must be None with preset {preset!r}, which has no cutoff, got {hard_cutoff}")
        values = values._replace(hard_cutoff=check_number("hard_cutoff", hard_cutoff))
    if duplicate_threshold is not None:
        values = values._replace(duplicate_threshold=duplicate_threshold)
    if tie is not None:
        values = values._replace(tie=tie)
    return values


@observed("sct_loss")
def sct_loss(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    lam: float = 1.0,
    temperature: float = 0.1,
    preset: str = "paper",
    positive: str = "easiest",
    negative: str = "hardest",
    similarity: str = "cosine",
    reduction: str = "mean",
    hard_cutoff: float | None = None,
    semihard_fallback: str | None = None,
    tie: str | None = None,
    semihard_margin: float | None = None,
    duplicate_threshold: float | None = None,
    min_similarity: float | None = None,
    return_selection: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor | tuple[Tensor, Selection]:
    """The Selectively Contrastive Triplet loss, forward and backward, without the matrix of similarities.

    Per anchor: ``lam * s_an`` if the triplet is hard (``s_an > s_ap``), so that no gradient reaches its positive
    pair; else ``softplus((s_an - s_ap) / temperature)``.

    Args:
        embeddings: [B, D], float32, float64, float16 or bfloat16.
        labels: [B], any integer dtype.
        ref_embeddings: [M, D] to select from; None selects among the anchors. Gets a gradient if it requires one.
        ref_labels: [M], any integer dtype.
        lam: Weight of the hard part: 1 on CUB and CAR, 0.1 on SOP, In-shop and Hotels in the paper.
        temperature: Of the easy part, > 0 (the paper prints eq. 1 with 1; its code, and EP, use 0.1).
        preset: Which published version.

            `paper`: hard if ``s_an > s_ap``, all others easy; mean over all valid anchors.
            `code2020`: hard if ``s_an > s_ap`` and ``s_an > 0.5``, all others easy; each part is averaged over its own
            count, and the two are added.
            `code2021`: hard if ``s_an > s_ap`` or ``s_an > 0.8``, easy if ``s_an < s_ap`` and ``s_an < 0.8``, so that
            ties count in neither; mean over the anchors of both parts.

            Both versions of the code drop positives above 0.9999 and keep ties of semi-hard negatives.
        positive: As in :func:`hardmine.ops.select_triplets`, like ``negative``, ``similarity``,
            ``semihard_fallback`` and ``semihard_margin``.
        tie: Instead of the preset's: ``"exclude"`` (`paper`) or ``"include"``.
        reduction: ``"mean"`` as the preset says, ``"sum"``, or ``"none"``: [B], 0 for anchors that do not count.
        hard_cutoff: Instead of the preset's 0.5 or 0.8.
        duplicate_threshold: Instead of the preset's (none in `paper`); infinity turns it off.
        min_similarity: Anchors count only if both their similarities exceed it. None: all count.
        return_selection: Also return the :class:`Selection`, at no further cost.
        generator: What a random ``positive`` or ``negative`` is drawn from, as in
            :func:`hardmine.ops.select_triplets`.

    Returns:
        The loss, float64 for float64 inputs, else float32; with ``return_selection``, and the selection.

    Raises:
        TypeError: An argument of the wrong type or dtype.
        ValueError: An argument of the wrong shape or value, or on the wrong device.
        NotImplementedError: On a second derivative.

    Note:
        As in :func:`hardmine.ops.triplet_loss`. The loss jumps where s_an = s_ap, from log 2 to ``lam * s_an``; the
        paper means it so.

    Reference:
        Xuan et al., "Hard negative examples are hard, but useful", ECCV 2020, eq. 13, and the authors' published code.
    """
    labels, ref_labels = check_labeled_rows(embeddings, labels, ref_embeddings, ref_labels)
    values = resolve_preset(preset, hard_cutoff, duplicate_threshold, tie)
    selection_options = check_selection(
        embeddings,
        positive,
        negative,
        similarity,
        values.duplicate_threshold,
        semihard_fallback,
        values.tie,
        semihard_margin,
    )
    loss_options = check_loss(
        term="sct",
        temperature=temperature,
        lam=lam,
        reduction=reduction,
        min_similarity=min_similarity,
        hard_rule=values.hard_rule,
        hard_cutoff=values.hard_cutoff or 0.0,
        separate_means=values.separate_means,
    )
    random = draw_random(embeddings, positive, negative, generator)
    loss, *selected = torch.ops.hardmine.triplet_loss(
        embeddings,
        labels,
        ref_embeddings,
        ref_labels,
        random,
        *selection_options,
        *loss_options,
    )
    return (loss, as_selection(*selected)) if return_selection else loss
