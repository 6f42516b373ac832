"""The Selectively Contrastive Triplet loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine import ops
from hardmine.losses._base import SelectionLoss
from hardmine.types import (
    AllPositives,
    AnySimilarity,
    GradientReduction,
    NegativeRule,
    PositiveRule,
    Preset,
    SemihardFallback,
    TermReduction,
    TieRule,
)


class SCTLoss(SelectionLoss):
    r"""The Selectively Contrastive Triplet loss (ECCV 2020, eq. 13): a hard triplet only pushes its negative away.

    .. math::

        \ell(s_{ap}, s_{an}) = \begin{cases}
            \lambda \, s_{an} & s_{an} > s_{ap} \\
            \log\left(1 + e^{(s_{an} - s_{ap}) / \tau}\right) & \text{otherwise}
        \end{cases}

    averaged over the anchors that have both a positive and a negative. :func:`hardmine.ops.sct_loss` documents the
    options in full.

    Args:
        lam: Weight of the hard part. The paper uses 1 on CUB and CAR, and 0.1 on SOP, In-shop and Hotels.
        temperature: Temperature of the easy part, in units of the similarity, > 0: a number or a tensor [].
        preset: The published version to follow: ``"paper"``, ``"code2020"`` or ``"code2021"``.
        positive: The ``"easiest"``, ``"hardest"`` or a ``"random"`` sample of the anchor's class; or ``"all"``: a term
            per pair of an anchor and one of its positives, each with its own negative.
        negative: The ``"hardest"``, ``"semihard"``, ``"easiest"`` or a ``"random"`` sample of another class.
        negative_ranks: With ``negative="hardest"``, ``(first, last)``: a term for each of the negatives of these ranks,
            the hardest being 1. With ``negative="random"``, one negative drawn from these ranks. None: no ranks.
        similarity: ``"cosine"``, ``"dot"``, or a negative distance: ``"euclidean"`` or ``"hyperbolic"``.
        reduction: ``"mean"`` as the preset says, ``"mean_active"``: the same over terms above 0, ``"sum"``, or
            ``"none"``: [B], or [P] pairs.
        hard_cutoff: Overrides the preset's 0.5 or 0.8; `paper` has none.
        semihard_fallback: As in :class:`TripletLoss`, like ``tie`` and ``semihard_margin``: with
            ``negative="semihard"`` only.
        tie: Overrides the preset's rule: ``"exclude"`` or ``"include"``.
        semihard_margin: See ``semihard_fallback``.
        duplicate_threshold: Overrides the preset's threshold (`paper` has none); infinity disables it.
        min_similarity: Anchors count only if both their similarities exceed this.
        ignore_index: Rows with this label are neither anchors nor candidates, as if they were not in the batch.
        generator: As in :class:`TripletLoss`.
        group: A ``torch.distributed`` process group: the candidates are the rows of all its ranks, and the loss is that
            of one process with all rows. None: this process alone.
        gradient_reduction: Only with ``group``: how the trainer reduces gradients over the ranks, ``"mean"`` as DDP and
            FSDP do (and the default), or ``"sum"``.

    Raises:
        TypeError: An option of the constructor has the wrong type.
        ValueError: An option of the constructor has the wrong value, or does nothing beside the others. Numbers must be
            finite in float32, because the embeddings' dtype is not known yet.

    Example:
        >>> import torch
        >>> from hardmine.losses import SCTLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]], requires_grad=True)
        >>> loss = SCTLoss(lam=0.5)(embeddings, torch.tensor([0, 0, 1, 1]))
        >>> round(loss.item(), 3)
        0.44
        >>> loss.backward()
    """

    _op = staticmethod(ops.sct_loss)

    def __init__(
        self,
        *,
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
        ignore_index: int | None = None,
        generator: torch.Generator | None = None,
        group: ProcessGroup | None = None,
        gradient_reduction: GradientReduction | None = None,
    ) -> None:
        super().__init__(locals())
