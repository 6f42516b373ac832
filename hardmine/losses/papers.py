"""The papers' losses by name. A choice that the name implies is not an option: EPHN's positive is the easiest."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine.losses.triplet import TripletLoss
from hardmine.losses.tuplet import TupletLoss
from hardmine.types import (
    AnySimilarity,
    GradientReduction,
    PositiveRule,
    Reduction,
    SemihardFallback,
    TieRule,
    TupletPositiveRule,
)


class _HardestNegativeLoss(TripletLoss):
    """NCA on the positive that the class names and the hardest negative."""

    _positive: ClassVar[PositiveRule]

    def __init__(
        self,
        *,
        temperature: float | Tensor = 0.1,
        similarity: AnySimilarity = "cosine",
        reduction: Reduction = "mean",
        duplicate_threshold: float | None = None,
        min_similarity: float | None = None,
        ignore_index: int | None = None,
        group: ProcessGroup | None = None,
        gradient_reduction: GradientReduction | None = None,
    ) -> None:
        super().__init__(
            positive=self._positive,
            negative="hardest",
            term="nca",
            temperature=temperature,
            similarity=similarity,
            reduction=reduction,
            duplicate_threshold=duplicate_threshold,
            min_similarity=min_similarity,
            ignore_index=ignore_index,
            group=group,
            gradient_reduction=gradient_reduction,
        )


class _AllNegativesLoss(TupletLoss):
    """The positives that the class names against all negatives."""

    _positive: ClassVar[TupletPositiveRule]

    def __init__(
        self,
        *,
        temperature: float | Tensor = 0.1,
        similarity: AnySimilarity = "cosine",
        duplicate_threshold: float | None = None,
        reduction: Reduction = "mean",
        ignore_index: int | None = None,
        group: ProcessGroup | None = None,
        gradient_reduction: GradientReduction | None = None,
    ) -> None:
        super().__init__(
            positive=self._positive,
            temperature=temperature,
            similarity=similarity,
            duplicate_threshold=duplicate_threshold,
            reduction=reduction,
            ignore_index=ignore_index,
            group=group,
            gradient_reduction=gradient_reduction,
        )


class EPHNLoss(_HardestNegativeLoss):
    r"""EPHN (WACV 2020, section 4): NCA on the easiest positive and the hardest negative.

    .. math:: \ell_a = \log\left(1 + e^{(\max_n s_{an} - \max_p s_{ap}) / \tau}\right)

    Args:
        temperature: In units of the similarity, > 0: a number or a tensor [].
        similarity: As in :class:`TripletLoss`, like the other options.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        duplicate_threshold: Positives more similar than this are excluded as near duplicates.
        min_similarity: Anchors count only if both their similarities exceed this (0 in the authors' code).
        ignore_index: Rows with this label are neither anchors nor candidates, as if they were not in the batch.
        group: As in :class:`TripletLoss`: the candidates of all ranks of a process group.
        gradient_reduction: As in :class:`TripletLoss`.

    Example:
        >>> import torch
        >>> from hardmine.losses import EPHNLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]], requires_grad=True)
        >>> round(EPHNLoss(temperature=0.1)(embeddings, torch.tensor([0, 0, 1, 1])).item(), 3)
        2.877
    """

    _positive = "easiest"


class EPSHNLoss(TripletLoss):
    r"""EPSHN (WACV 2020, section 4): NCA on the easiest positive and the semi-hard negative.

    .. math:: \ell_a = \log\left(1 + e^{(s_{an} - s_{ap}) / \tau}\right), \quad s_{ap} = \max_p s_{ap'},
        \quad s_{an} = \max_{s_{an'} < s_{ap}} s_{an'}

    Args:
        temperature: In units of the similarity, > 0: a number or a tensor [].
        similarity: As in :class:`TripletLoss`, like the other options.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        semihard_fallback: The negative of an anchor without a semi-hard one: ``"hardest"``, ``"easiest"`` or None.
        tie: Whether a negative exactly as similar as the positive is semi-hard: ``"include"`` or ``"exclude"``.
        semihard_margin: How much less similar than the positive a semi-hard negative may be, in units of the
            similarity.
        duplicate_threshold: Positives more similar than this are excluded as near duplicates.
        min_similarity: Anchors count only if both their similarities exceed this (0 in the authors' code).
        ignore_index: Rows with this label are neither anchors nor candidates, as if they were not in the batch.
        group: As in :class:`TripletLoss`: the candidates of all ranks of a process group.
        gradient_reduction: As in :class:`TripletLoss`.

    Example:
        >>> import torch
        >>> from hardmine.losses import EPSHNLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]], requires_grad=True)
        >>> loss, selection = EPSHNLoss()(embeddings, torch.tensor([0, 0, 1, 1]), return_selection=True)
        >>> selection.negative_index
        tensor([ 3, -1, -1,  0])
    """

    def __init__(
        self,
        *,
        temperature: float | Tensor = 0.1,
        similarity: AnySimilarity = "cosine",
        reduction: Reduction = "mean",
        semihard_fallback: SemihardFallback | None = None,
        tie: TieRule | None = None,
        semihard_margin: float | None = None,
        duplicate_threshold: float | None = None,
        min_similarity: float | None = None,
        ignore_index: int | None = None,
        group: ProcessGroup | None = None,
        gradient_reduction: GradientReduction | None = None,
    ) -> None:
        super().__init__(
            positive="easiest",
            negative="semihard",
            term="nca",
            temperature=temperature,
            similarity=similarity,
            reduction=reduction,
            semihard_fallback=semihard_fallback,
            tie=tie,
            semihard_margin=semihard_margin,
            duplicate_threshold=duplicate_threshold,
            min_similarity=min_similarity,
            ignore_index=ignore_index,
            group=group,
            gradient_reduction=gradient_reduction,
        )


class HNLoss(EPHNLoss):
    """HN (ECCV 2020, section 6): :class:`EPHNLoss` under the name that this paper gives it, with the same options.

    With two images per class, as in that paper, each anchor has only one positive. With more, this is EPHN.

    Example:
        >>> from hardmine.losses import HNLoss
        >>> HNLoss(temperature=1.0)
        HNLoss(temperature=1.0)
    """


class SHNLoss(EPSHNLoss):
    """SHN (ECCV 2020, section 6): :class:`EPSHNLoss` under the name that this paper gives it, with the same options.

    With two images per class, as in that paper, each anchor has only one positive. With more, this is EPSHN.

    Example:
        >>> from hardmine.losses import SHNLoss
        >>> SHNLoss(semihard_fallback="hardest")
        SHNLoss(semihard_fallback='hardest')
    """


class HPHNLoss(_HardestNegativeLoss):
    r"""HPHN, batch-hard (WACV 2020, section 3): NCA on the hardest positive and the hardest negative.

    .. math:: \ell_a = \log\left(1 + e^{(\max_n s_{an} - \min_p s_{ap}) / \tau}\right)

    Args:
        temperature: In units of the similarity, > 0: a number or a tensor [].
        similarity: As in :class:`TripletLoss`, like the other options.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        duplicate_threshold: Positives more similar than this are excluded as near duplicates.
        min_similarity: Anchors count only if both their similarities exceed this.
        ignore_index: Rows with this label are neither anchors nor candidates, as if they were not in the batch.
        group: As in :class:`TripletLoss`: the candidates of all ranks of a process group.
        gradient_reduction: As in :class:`TripletLoss`.

    Example:
        >>> import torch
        >>> from hardmine.losses import HPHNLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.8, -0.6]], requires_grad=True)
        >>> loss, selection = HPHNLoss()(embeddings, torch.tensor([0, 0, 0, 1]), return_selection=True)
        >>> selection.positive_index
        tensor([ 2,  0,  0, -1])
    """

    _positive = "hardest"


class EPLoss(_AllNegativesLoss):
    r"""EP (WACV 2020, section 4): the easiest positive against all negatives.

    .. math:: \ell_a = \log\left(1 + \sum_n e^{(s_{an} - \max_p s_{ap}) / \tau}\right)

    Args:
        temperature: In units of the similarity, at least 1e-30: a number or a tensor [].
        similarity: As in :class:`TupletLoss`, like the other options.
        duplicate_threshold: Positives more similar than this are excluded as near duplicates.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        ignore_index: Rows with this label are neither anchors nor candidates, as if they were not in the batch.
        group: As in :class:`TripletLoss`: the candidates of all ranks of a process group.
        gradient_reduction: As in :class:`TripletLoss`.

    Example:
        >>> import torch
        >>> from hardmine.losses import EPLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]], requires_grad=True)
        >>> round(EPLoss(temperature=1.0)(embeddings, torch.tensor([0, 0, 1, 1])).item(), 3)
        1.157
    """

    _positive = "easiest"


class NPairLoss(EPLoss):
    """N-pair (WACV 2020, section 2.2): the one positive of a batch with two images per class, against all negatives.

    With two images per class, each anchor has only one positive. With more images the positive is the easiest one. The
    options are those of :class:`EPLoss`, which computes the same loss. The paper prints no temperature, which is
    ``temperature=1.0``, and trains with 0.1 (section 5.1).

    Example:
        >>> from hardmine.losses import NPairLoss
        >>> NPairLoss(temperature=1.0)
        NPairLoss(temperature=1.0)
    """


class HPLoss(_AllNegativesLoss):
    r"""HP (WACV 2020, section 4): the hardest positive against all negatives.

    .. math:: \ell_a = \log\left(1 + \sum_n e^{(s_{an} - \min_p s_{ap}) / \tau}\right)

    Args:
        temperature: In units of the similarity, at least 1e-30: a number or a tensor [].
        similarity: As in :class:`TupletLoss`, like the other options.
        duplicate_threshold: Positives more similar than this are excluded as near duplicates.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        ignore_index: Rows with this label are neither anchors nor candidates, as if they were not in the batch.
        group: As in :class:`TripletLoss`: the candidates of all ranks of a process group.
        gradient_reduction: As in :class:`TripletLoss`.

    Example:
        >>> import torch
        >>> from hardmine.losses import HPLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.8, -0.6]], requires_grad=True)
        >>> loss, terms = HPLoss()(embeddings, torch.tensor([0, 0, 0, 1]), return_terms=True)
        >>> terms.positive_index
        tensor([ 2,  0,  0, -1])
    """

    _positive = "hardest"


class BatchAllLoss(_AllNegativesLoss):
    r"""Batch All (WACV 2020, section 6.1): each positive against all negatives, then the mean over the positives.

    .. math:: \ell_a = \frac{1}{|P_a|} \sum_{p \in P_a} \log\left(1 + \sum_n e^{(s_{an} - s_{ap}) / \tau}\right)

    Args:
        temperature: In units of the similarity, at least 1e-30: a number or a tensor [].
        similarity: As in :class:`TupletLoss`, like the other options.
        duplicate_threshold: Positives more similar than this are excluded as near duplicates.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        ignore_index: Rows with this label are neither anchors nor candidates, as if they were not in the batch.
        group: As in :class:`TripletLoss`: the candidates of all ranks of a process group.
        gradient_reduction: As in :class:`TripletLoss`.

    Example:
        >>> import torch
        >>> from hardmine.losses import BatchAllLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]], requires_grad=True)
        >>> round(BatchAllLoss(temperature=1.0)(embeddings, torch.tensor([0, 0, 1, 1])).item(), 3)
        1.157
    """

    _positive = "all"
