"""The triplet loss on one selected positive and one selected negative per anchor."""

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
    SemihardFallback,
    Term,
    TermReduction,
    TieRule,
)


class TripletLoss(SelectionLoss):
    r"""The mean of a term :math:`f(s_{ap}, s_{an})` over the anchors, on the selected positives and negatives.

    :func:`hardmine.ops.triplet_loss` documents the options in full. With the default term,

    .. math:: L = \frac{1}{|A|} \sum_{a \in A} \log\left(1 + e^{(s_{an} - s_{ap}) / \tau}\right)

    where A are the anchors that have both a positive and a negative.

    Args:
        positive: The ``"easiest"``, ``"hardest"`` or a ``"random"`` sample of the anchor's class; or ``"all"``: a term
            per pair of an anchor and one of its positives, each with its own negative.
        negative: The ``"hardest"``, ``"semihard"``, ``"easiest"`` or a ``"random"`` sample of another class.
        term: ``"nca"``, ``"hinge"``, ``"soft_margin"`` or ``"sct"``.
        margin: Only for hinge; in units of the similarity, 0.2 if None.
        temperature: Only for nca and sct; in units of the similarity, > 0: a number or a tensor []; 0.1 if None.
        lam: Only for sct: the weight of the hard part; 1 if None.
        negative_ranks: With ``negative="hardest"``, ``(first, last)``: a term for each of the negatives of these ranks,
            the hardest being 1. With ``negative="random"``, one negative drawn from these ranks. None: no ranks.
        similarity: ``"cosine"``, ``"dot"``, or a negative distance: ``"euclidean"`` or ``"hyperbolic"``.
        reduction: ``"mean"`` over the anchors or pairs that count, ``"mean_active"`` over those with a term above 0,
            ``"sum"``, or ``"none"``: [B], or [P] pairs.
        semihard_fallback: With ``negative="semihard"``: the negative of an anchor without a semi-hard one,
            ``"hardest"``, ``"easiest"`` or None.
        tie: With ``negative="semihard"``: whether a negative exactly as similar as the positive is semi-hard,
            ``"include"`` or ``"exclude"``; excluded if None.
        semihard_margin: With ``negative="semihard"``: how much less similar than the positive a semi-hard negative may
            be, in units of the similarity; None sets no limit.
        duplicate_threshold: Positives more similar than this are excluded as near duplicates.
        min_similarity: Anchors count only if both their similarities exceed this.
        ignore_index: Rows with this label are neither anchors nor candidates, as if they were not in the batch.
        generator: Source of random picks; None stands for the device's default generator. The generator is not part of
            the module's ``state_dict``: save its ``get_state()`` too, to resume training. A copy or a pickle of the
            module has a separate generator in the same state. It must be None under ``torch.utils.checkpoint``, which
            restores only the default generator's state before it recomputes the loss.
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
        >>> from hardmine.losses import TripletLoss
        >>> loss_of = TripletLoss(negative="hardest", term="hinge", margin=0.3)
        >>> loss_of
        TripletLoss(negative='hardest', term='hinge', margin=0.3)
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]], requires_grad=True)
        >>> loss, selection = loss_of(embeddings, torch.tensor([0, 0, 1, 1]), return_selection=True)
        >>> round(loss.item(), 3)
        0.58
        >>> selection.negative_index
        tensor([2, 2, 1, 1])
    """

    _op = staticmethod(ops.triplet_loss)

    def __init__(
        self,
        *,
        positive: PositiveRule | AllPositives = "easiest",
        negative: NegativeRule = "semihard",
        negative_ranks: tuple[int, int] | None = None,
        term: Term = "nca",
        margin: float | None = None,
        temperature: float | Tensor | None = None,
        lam: float | None = None,
        similarity: AnySimilarity = "cosine",
        reduction: TermReduction = "mean",
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
