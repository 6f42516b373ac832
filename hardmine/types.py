"""Types of the library's results and options. They need torch, but not the compiled library.

A name's position in its ``Literal`` is its code in the compiled ops, so the order must match csrc/core.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias, TypedDict, TypeVar

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

Similarity: TypeAlias = Literal["cosine", "dot", "euclidean"]
AnySimilarity: TypeAlias = Literal["cosine", "dot", "euclidean", "hyperbolic"]
ProductSimilarity: TypeAlias = Literal["cosine", "dot"]
DistanceSimilarity: TypeAlias = Literal["cosine", "euclidean"]
PositiveRule: TypeAlias = Literal["easiest", "hardest", "random"]
AllPositives: TypeAlias = Literal["all"]
NegativeRule: TypeAlias = Literal["hardest", "easiest", "semihard", "random"]
TupletPositiveRule: TypeAlias = Literal["easiest", "hardest", "all"]
LogSumExpPairs: TypeAlias = Literal["positive", "negative", "all"]
SemihardFallback: TypeAlias = Literal["hardest", "easiest"]
TieRule: TypeAlias = Literal["exclude", "include"]
Term: TypeAlias = Literal["nca", "hinge", "soft_margin", "sct"]
IndexedTerm: TypeAlias = Literal["nca", "hinge", "soft_margin", "sct", "ratio"]
HardRule: TypeAlias = Literal["above", "above_and_cutoff", "above_or_cutoff"]
Reduction: TypeAlias = Literal["mean", "sum", "none"]
TupletReduction: TypeAlias = Literal["mean", "sum", "none", "mean_pairs"]
TermReduction: TypeAlias = Literal["mean", "sum", "none", "mean_active"]
GradientReduction: TypeAlias = Literal["mean", "sum"]
BatchAllReduction: TypeAlias = Literal["mean", "mean_active", "sum"]
Preset: TypeAlias = Literal["paper", "code2020", "code2021"]


def _check_one_problem(index: Tensor) -> None:
    """Triplets are rows of one problem: those of several would be mixed up."""
    if index.dim() != 1:
        raise ValueError(
            f"triplets() must have a selection of one problem, with indices [B], got {list(index.shape)}, as from "
            "torch.vmap: call it on the selection of each problem"
        )


class Selection(NamedTuple):
    """The selected pairs of [B] anchors. Index -1 and similarity NaN stand for "no candidate".

    The similarities are differentiable with respect to the embeddings; the choice of indices is not.
    """

    positive_index: Tensor
    negative_index: Tensor
    positive_similarity: Tensor
    negative_similarity: Tensor

    @property
    def valid(self) -> Tensor:
        """Whether each anchor has both a positive and a negative, bool [B]."""
        return (self.positive_index >= 0) & (self.negative_index >= 0)

    def count(self) -> Tensor:  # type: ignore[override]  # of tuple
        """The number of valid anchors, int64 []. This does not synchronize a GPU."""
        return self.valid.sum()

    def triplets(self) -> tuple[Tensor, Tensor, Tensor]:
        """The V valid triplets, as miners return them: indices of anchors, positives and negatives, each int64 [V].

        Raises:
            ValueError: The selection is that of several problems, from ``torch.vmap``.

        Note:
            The shape depends on the values, so this synchronizes a GPU.

        Example:
            >>> import torch, hardmine
            >>> embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [1.0, 1.0]])
            >>> selection = hardmine.ops.select_triplets(embeddings, torch.tensor([0, 0, 1, 1, 2]))
            >>> selection.triplets()
            (tensor([0, 1, 2, 3]), tensor([1, 0, 3, 2]), tensor([4, 4, 4, 4]))
        """
        _check_one_problem(self.positive_index)
        anchor = self.valid.nonzero().squeeze(1)
        return anchor, self.positive_index[anchor], self.negative_index[anchor]


class PairSelection(NamedTuple):
    """The [P] pairs of an anchor and one of its positives, each with its own negative: ``positive="all"``.

    All pairs are listed, ascending by anchor, then by positive. With ``negative_ranks`` the entries are an anchor's one
    positive with each of its negatives, ascending by anchor, then by rank. Index -1 and similarity NaN stand for "no
    candidate". The similarities are differentiable with respect to the embeddings; the choice of indices is not.
    """

    anchor_index: Tensor
    positive_index: Tensor
    negative_index: Tensor
    positive_similarity: Tensor
    negative_similarity: Tensor

    @property
    def valid(self) -> Tensor:
        """Whether each entry has a positive and a negative, bool [P]."""
        return (self.positive_index >= 0) & (self.negative_index >= 0)

    def count(self) -> Tensor:  # type: ignore[override]  # of tuple
        """The number of valid pairs, int64 []."""
        return self.valid.sum()

    def triplets(self) -> tuple[Tensor, Tensor, Tensor]:
        """The V valid triplets, as miners return them: indices of anchors, positives and negatives, each int64 [V].

        Raises:
            ValueError: The selection is that of several problems, from ``torch.vmap``.

        Example:
            >>> import torch, hardmine
            >>> embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [1.0, 1.0]])
            >>> labels = torch.tensor([0, 0, 0, 1, 1])
            >>> selection = hardmine.ops.select_triplets(embeddings, labels, positive="all", negative="semihard")
            >>> anchor, positive, negative = selection.triplets()
            >>> list(zip(anchor.tolist(), positive.tolist(), negative.tolist()))
            [(0, 1, 4), (1, 0, 4), (3, 4, 1), (4, 3, 0)]
        """
        _check_one_problem(self.positive_index)
        valid = self.valid
        return self.anchor_index[valid], self.positive_index[valid], self.negative_index[valid]


class TupletTerms(NamedTuple):
    """The terms of the loss of each of [B] anchors. Not differentiable."""

    positive_index: Tensor
    positive_similarity: Tensor
    negative_logsumexp: Tensor


AnySelection: TypeAlias = Selection | PairSelection
Details = TypeVar("Details")
# What a loss returns: alone, with its details (a selection or TupletTerms), with the count of anchors, or with both.
LossResult: TypeAlias = Tensor | tuple[Tensor, Details] | tuple[Tensor, Tensor] | tuple[Tensor, Details, Tensor]


class TripletCounts(NamedTuple):
    """How many triplets have a loss above 0, and how many there are: int64, each []."""

    active: Tensor
    total: Tensor


class Neighbors(NamedTuple):
    """The nearest neighbors of [Q] queries, [Q, k], most similar first; index -1 and similarity NaN if missing.

    The similarities are differentiable with respect to queries and refs; the choice of indices is not.
    """

    similarity: Tensor
    index: Tensor  # type: ignore[assignment]  # a method of tuple


class Nearest(NamedTuple):
    """The nearest rows of [Q] queries, [Q, k], nearest first; index -1 and distance NaN if missing."""

    distance: Tensor
    index: Tensor  # type: ignore[assignment]  # a method of tuple


class MinedTriplets(NamedTuple):
    """Triplets of the whole training set, by ascending anchor.

    Attributes:
        triplets: int64 [T, 3]: anchor, positive, negative, as :func:`hardmine.ops.indexed_triplet_loss` takes them.
        mined: bool [T]: the negative is from the anchor's list. False: the whole triplet is random.
        mined_positive: bool [T]: the positive is from the anchor's list as well. False if ``mined`` is False, or if the
            list has no positive that is farther than the negative; the positive is then random.
    """

    triplets: Tensor
    mined: Tensor
    mined_positive: Tensor


class TripletBatch(NamedTuple):
    """Some triplets and their images: embed ``images[rows]``, then apply a loss to the result and ``triplets``.

    Attributes:
        rows: int64 [B], the distinct image numbers in the data set, ascending.
        triplets: int64 [T, 3], anchor, positive and negative as positions in ``rows``.
        mined: bool [T], whether the triplet was mined; the others were drawn at random.
    """

    rows: Tensor
    triplets: Tensor
    mined: Tensor


class ClassDistances(NamedTuple):
    """Mean squared distances between the samples of classes, on the unit sphere.

    Attributes:
        classes: int64 [C], the classes, ascending.
        sq_dist: float64 [C, C], symmetric, 0 to 4. Entry p, q is the mean over all pairs of two different samples, one
            of class p and one of class q. The diagonal is s_y in the paper, or NaN for a class of one sample.
    """

    classes: Tensor
    sq_dist: Tensor


class GatheredRows(NamedTuple):
    """The rows of all ranks, rank 0's first, as :func:`hardmine.distributed.all_gather_rows` returns them.

    Attributes:
        embeddings: [N, D], on the device and in the dtype of this rank's. Differentiable.
        labels: int64 [N].
        ids: int64 [N], or None if no rank has ids.
        offset: int64 [], on the CPU: the number of the first row of this rank. Its rows are
            ``embeddings[offset : offset + B]``.
        counts: int64 [ranks], on the CPU: the number of rows of every rank.
    """

    embeddings: Tensor
    labels: Tensor
    ids: Tensor | None
    offset: Tensor
    counts: Tensor


class HotelRecall(NamedTuple):
    """Recall@K on Hotels-50K: one dictionary from K to recall per kind."""

    instance: dict[int, float]
    chain: dict[int, float]


class Verification(NamedTuple):
    """Accuracy of verification by a threshold, over folds.

    Attributes:
        accuracy: Mean of the folds' accuracies, in [0, 1].
        std_error: Standard error of that mean.
        accuracies: Accuracy in each fold.
        thresholds: Per fold, the smallest cosine similarity at which a pair is classified as the same.
    """

    accuracy: float
    std_error: float
    accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]


class PairIds(TypedDict, total=False):
    """Ids of rows and refs: a pair of equal ids >= 0 is no candidate."""

    ids: Tensor | None
    ref_ids: Tensor | None


class GroupOptions(TypedDict, total=False):
    """Options of every loss for several ranks."""

    group: ProcessGroup | None
    gradient_reduction: GradientReduction | None


class NegativeSelectionOptions(PairIds, total=False):
    """Options of every op that selects negatives, beside ``positive``."""

    ignore_index: int | None
    negative: NegativeRule
    similarity: AnySimilarity
    duplicate_threshold: float | None
    semihard_fallback: SemihardFallback | None
    semihard_margin: float | None
    tie: TieRule | None
    generator: torch.Generator | None


class SelectionOptions(NegativeSelectionOptions, total=False):
    """Options of every op that selects one positive and one negative per anchor."""

    positive: PositiveRule


class TripletTermOptions(GroupOptions, total=False):
    """Options of :func:`hardmine.ops.triplet_loss` beside the selection."""

    weights: Tensor | None

    term: Term
    temperature: float | Tensor | None
    margin: float | None
    lam: float | None
    reduction: TermReduction
    min_similarity: float | None


class TripletLossOptions(SelectionOptions, TripletTermOptions, total=False):
    """Options of :func:`hardmine.ops.triplet_loss` with one positive per anchor."""


class AllPositivesTripletLossOptions(NegativeSelectionOptions, TripletTermOptions, total=False):
    """Options of :func:`hardmine.ops.triplet_loss` with ``positive="all"``."""


class SCTTermOptions(GroupOptions, total=False):
    """Options of :func:`hardmine.ops.sct_loss` beside the selection."""

    weights: Tensor | None

    lam: float
    temperature: float | Tensor
    preset: Preset
    reduction: TermReduction
    hard_cutoff: float | None
    min_similarity: float | None


class SCTLossOptions(SelectionOptions, SCTTermOptions, total=False):
    """Options of :func:`hardmine.ops.sct_loss` with one positive per anchor."""


class AllPositivesSCTLossOptions(NegativeSelectionOptions, SCTTermOptions, total=False):
    """Options of :func:`hardmine.ops.sct_loss` with ``positive="all"``."""


class TupletLossOptions(PairIds, GroupOptions, total=False):
    """Options of :func:`hardmine.ops.tuplet_loss`."""

    ignore_index: int | None
    positive: TupletPositiveRule
    temperature: float | Tensor
    similarity: AnySimilarity
    duplicate_threshold: float | None
    reduction: TupletReduction
    weights: Tensor | None


class BatchAllTripletLossOptions(PairIds, GroupOptions, total=False):
    """Options of :func:`hardmine.ops.batch_all_triplet_loss`."""

    ignore_index: int | None
    margin: float | Tensor
    margin_labels: Tensor | None
    squared: bool
    similarity: DistanceSimilarity
    reduction: BatchAllReduction
