"""Choosing which images meet: in a batch, and in a triplet."""

from hardmine.mining.sampler import ClassBalancedSampler

__all__ = ["ClassBalancedSampler"]
