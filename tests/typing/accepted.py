"""User code that must type-check, with the types that every call must have. Never run."""

import torch
from torch import Tensor
from typing_extensions import assert_type

from hardmine import ops
from hardmine.losses import BatchAllTripletLoss, EPHNLoss, HierarchicalTripletLoss, SCTLoss, TripletLoss, TupletLoss
from hardmine.types import Neighbors, PairSelection, PositiveRule, Selection, Term, TripletCounts, TupletTerms

x = torch.randn(8, 4, requires_grad=True)
labels = torch.arange(8) // 2
triplets = torch.tensor([[0, 1, 2]])


def selections(positive: PositiveRule, generator: torch.Generator) -> None:
    """Selections and their fields."""
    selection = ops.select_triplets(x, labels, positive=positive, negative="semihard", tie="include")
    assert_type(selection, Selection)
    assert_type(selection.triplets(), tuple[Tensor, Tensor, Tensor])
    assert_type(selection.valid, Tensor)
    assert_type(selection.count(), Tensor)
    assert_type(selection.negative_similarity, Tensor)
    assert_type(ops.select_triplets(x, labels, x, labels, negative="random", generator=generator), Selection)
    assert_type(ops.select_triplets(x, labels, x, labels, ids=labels, ref_ids=labels), Selection)
    assert_type(ops.select_triplets(x, labels, ignore_index=-1), Selection)
    pairs = ops.select_triplets(x, labels, positive="all", negative="semihard", semihard_fallback="easiest")
    assert_type(pairs, PairSelection)
    assert_type(pairs.triplets(), tuple[Tensor, Tensor, Tensor])
    assert_type(pairs.count(), Tensor)
    assert_type(ops.knn(x, k=3), Neighbors)
    assert_type(ops.knn(x, x, ids=labels, ref_ids=labels), Neighbors)
    assert_type(ops.knn(x).index, Tensor)


def losses(term: Term, wanted: bool) -> None:
    """Losses alone, and with each additional return value."""
    assert_type(ops.triplet_loss(x, labels, term=term), Tensor)
    assert_type(ops.triplet_loss(x, labels, ignore_index=-1), Tensor)
    assert_type(ops.tuplet_loss(x, labels, ignore_index=-1), Tensor)
    assert_type(ops.batch_all_triplet_loss(x, labels, ignore_index=-1), Tensor)
    assert_type(ops.triplet_loss(x, labels, return_selection=False), Tensor)
    assert_type(ops.triplet_loss(x, labels, return_selection=True), tuple[Tensor, Selection])
    assert_type(ops.triplet_loss(x, labels, return_count=True), tuple[Tensor, Tensor])
    assert_type(ops.triplet_loss(x, labels, return_selection=True, return_count=True), tuple[Tensor, Selection, Tensor])
    assert_type(ops.triplet_loss(x, labels, positive="all", reduction="mean_active"), Tensor)
    assert_type(ops.triplet_loss(x, labels, positive="all", return_selection=True), tuple[Tensor, PairSelection])
    assert_type(ops.triplet_loss(x, labels, positive="all", return_count=True), tuple[Tensor, Tensor])
    assert_type(ops.sct_loss(x, labels, positive="all", return_selection=True), tuple[Tensor, PairSelection])
    assert_type(ops.triplet_loss(x, labels, weights=torch.ones(8)), Tensor)
    assert_type(ops.sct_loss(x, labels, preset="code2021", hard_cutoff=0.7), Tensor)
    assert_type(ops.sct_loss(x, labels, return_selection=True), tuple[Tensor, Selection])
    assert_type(ops.sct_loss(x, labels, return_count=True), tuple[Tensor, Tensor])
    assert_type(ops.triplet_loss(x, labels, x, labels, ids=labels, ref_ids=labels), Tensor)
    assert_type(ops.tuplet_loss(x, labels, ids=labels, return_count=True), tuple[Tensor, Tensor])
    assert_type(ops.batch_all_triplet_loss(x, labels, ids=labels), Tensor)
    assert_type(ops.batch_all_triplet_loss(x, labels, x, labels, ids=labels, ref_ids=labels), Tensor)
    assert_type(ops.sct_loss(x, labels, return_selection=True, return_count=True), tuple[Tensor, Selection, Tensor])
    assert_type(ops.tuplet_loss(x, labels, positive="all"), Tensor)
    assert_type(ops.tuplet_loss(x, labels, return_terms=True), tuple[Tensor, TupletTerms])
    assert_type(ops.tuplet_loss(x, labels, return_count=True), tuple[Tensor, Tensor])
    assert_type(ops.tuplet_loss(x, labels, return_terms=True, return_count=True), tuple[Tensor, TupletTerms, Tensor])
    assert_type(ops.batch_all_triplet_loss(x, labels, margin=torch.eye(4)), Tensor)
    assert_type(ops.batch_all_triplet_loss(x, labels, return_counts=True), tuple[Tensor, TripletCounts])
    assert_type(ops.batch_all_triplet_loss(x, labels, return_counts=wanted), Tensor | tuple[Tensor, TripletCounts])
    assert_type(ops.indexed_triplet_loss(x, triplets, term="ratio", margin=0.2), Tensor)
    assert_type(ops.global_loss(x, triplets, similarity="euclidean"), Tensor)
    ops.sct_loss(x, labels).backward()


def modules(term: Term, wanted: bool) -> None:
    """The modules, which are called like their ops."""
    assert_type(TripletLoss(term=term, positive="random")(x, labels), Tensor)
    assert_type(TripletLoss(term=term, positive="all", reduction="mean_active")(x, labels), Tensor)
    assert_type(TripletLoss()(x, labels, return_selection=True), tuple[Tensor, Selection | PairSelection])
    assert_type(SCTLoss(preset="code2020")(x, labels, x, labels, return_count=True), tuple[Tensor, Tensor])
    assert_type(
        EPHNLoss()(x, labels, return_selection=True, return_count=True),
        tuple[Tensor, Selection | PairSelection, Tensor],
    )
    assert_type(TupletLoss(positive="all").forward(x, labels), Tensor)
    assert_type(TupletLoss()(x, labels, return_terms=True), tuple[Tensor, TupletTerms])
    assert_type(BatchAllTripletLoss(margin=torch.eye(4))(x, labels), Tensor)
    assert_type(BatchAllTripletLoss()(x, labels, ids=labels, return_counts=True), tuple[Tensor, TripletCounts])
    assert_type(SCTLoss()(x, labels, x, labels, ids=labels, ref_ids=labels), Tensor)
    assert_type(TupletLoss()(x, labels, ids=labels), Tensor)
    assert_type(BatchAllTripletLoss()(x, labels, return_counts=wanted), Tensor | tuple[Tensor, TripletCounts])
    assert_type(HierarchicalTripletLoss(classes=[0, 1])(x, labels, return_counts=True), tuple[Tensor, TripletCounts])
    HierarchicalTripletLoss(classes=labels)(x, labels).backward()
