"""Choosing which images meet: in a batch, and in a triplet."""

from hardmine.mining.adaptive_kappa import AdaptiveKappa
from hardmine.mining.anchor_neighbor_sampler import AnchorNeighborSampler
from hardmine.mining.batches import TripletBatch
from hardmine.mining.class_distances import ClassDistances, class_distances
from hardmine.mining.class_tree import ClassTree
from hardmine.mining.epoch import EpochRecord, MinedEpoch
from hardmine.mining.miner import SmartMiner
from hardmine.mining.sampler import ClassBalancedSampler
from hardmine.mining.smart_triplets import MinedTriplets, random_triplets, smart_triplets

__all__ = [
    "AdaptiveKappa",
    "AnchorNeighborSampler",
    "ClassBalancedSampler",
    "ClassDistances",
    "ClassTree",
    "EpochRecord",
    "MinedEpoch",
    "MinedTriplets",
    "SmartMiner",
    "TripletBatch",
    "class_distances",
    "random_triplets",
    "smart_triplets",
]
