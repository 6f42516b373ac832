"""Samplers and miners: which images share a batch or a triplet."""

from hardmine.mining._knn_call import KnnPlan
from hardmine.mining.adaptive_kappa import AdaptiveKappa
from hardmine.mining.all_knn import all_knn, plan_all_knn
from hardmine.mining.anchor_neighbor_sampler import AnchorNeighborSampler
from hardmine.mining.class_distances import class_distances
from hardmine.mining.class_tree import ClassTree
from hardmine.mining.epoch import EpochRecord, MinedEpoch
from hardmine.mining.hard_negatives import HardNegatives, hard_negatives, newest_negatives
from hardmine.mining.miner import SmartMiner
from hardmine.mining.neighbor_shards import NeighborShards
from hardmine.mining.sampler import ClassBalancedSampler
from hardmine.mining.smart_triplets import random_triplets, smart_triplets
from hardmine.types import ClassDistances, MinedTriplets, TripletBatch

__all__ = [
    "AdaptiveKappa",
    "AnchorNeighborSampler",
    "ClassBalancedSampler",
    "ClassDistances",
    "ClassTree",
    "EpochRecord",
    "HardNegatives",
    "KnnPlan",
    "MinedEpoch",
    "MinedTriplets",
    "NeighborShards",
    "SmartMiner",
    "TripletBatch",
    "all_knn",
    "class_distances",
    "hard_negatives",
    "newest_negatives",
    "plan_all_knn",
    "random_triplets",
    "smart_triplets",
]
