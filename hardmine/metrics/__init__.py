"""Scores of an embedding: retrieval, clustering, verification and distributions of similarities."""

from hardmine.metrics.clustering import nmi
from hardmine.metrics.distributions import Distribution, nearest_train_similarities, within_class_similarities
from hardmine.metrics.recall import hotel_recall, recall_at_1, recall_at_k
from hardmine.metrics.retrieval import retrieval
from hardmine.metrics.triplets import hard_share, hard_triplet_share
from hardmine.metrics.verification import verification_accuracy
from hardmine.types import HotelRecall, Verification

__all__ = [
    "Distribution",
    "HotelRecall",
    "Verification",
    "hard_share",
    "hard_triplet_share",
    "hotel_recall",
    "nearest_train_similarities",
    "nmi",
    "recall_at_1",
    "recall_at_k",
    "retrieval",
    "verification_accuracy",
    "within_class_similarities",
]
