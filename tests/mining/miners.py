"""A small set of images, and SmartMiners on it, for the miners' tests."""

import itertools

import torch

from hardmine.mining import SmartMiner
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded

CLASSES, SIZE, DEPTH = 12, 10, 6
# Every vertex is reached, so the lists of the graph equal those over all pairs.
FULL_EFFORT = {"max_distance_computations": 10_000, "success_rate": 1.0}


def make_images(seed: int = 0) -> torch.Tensor:
    """Overlapping clusters, so the lists of neighbors mix the classes."""
    centers = torch.randn(CLASSES, DEPTH, generator=seeded(seed)).repeat_interleave(SIZE, 0)
    return centers + 0.8 * torch.randn(CLASSES * SIZE, DEPTH, generator=seeded(seed + 1))


LABELS = torch.arange(CLASSES).repeat_interleave(SIZE)


def make_miner(model=torch.nn.Identity(), images=None, labels=LABELS, **settings) -> SmartMiner:  # noqa: B008
    settings = {"batch_size": 16, "kappa": 1.0, "neighbors": 30} | settings
    return SmartMiner(model, make_images() if images is None else images, labels, **settings)


def run_epoch(miner: SmartMiner) -> list:
    with miner.epoch() as epoch:
        return list(epoch)


def original_triplets(batches) -> torch.Tensor:
    """The triplets of some batches, with the indices of the data set."""
    return torch.cat([batch.rows[batch.triplets] for batch in batches])


def assert_same_batches(actual, expected) -> None:
    for a, b in itertools.zip_longest(actual, expected):
        for x, y in zip(a, b, strict=True):
            assert_bitwise_equal(x, y)
