"""The sizes that the report measures for each case."""

from __future__ import annotations

from dataclasses import dataclass, replace

SCALING_SIZES = (2048, 4096, 8192, 16384)  # at D = 128
SCALING_DIMS = (64, 128, 256, 512, 1024)  # at N = 4096


@dataclass(frozen=True)
class Plan:
    """The sizes of one case."""

    sizes: tuple[int, ...]  # N
    dims: tuple[int, ...]  # D
    quick_sizes: tuple[int, ...]
    memory_sizes: tuple[int, ...] = ()  # N, for the peak of every rival at the first D
    large_sizes: tuple[int, ...] = ()  # N, for the peak of hardmine alone
    scaling_sizes: tuple[int, ...] = ()
    scaling_dims: tuple[int, ...] = ()
    min_rounds: int = 5

    def quick(self) -> Plan:
        """Small sizes, to check that the report works."""
        return replace(
            self,
            sizes=self.quick_sizes,
            dims=self.dims[:1],
            memory_sizes=self.quick_sizes[-1:],
            large_sizes=(),
            scaling_sizes=(512, 1024, 2048) if self.scaling_sizes else (),
            scaling_dims=(64, 128, 256) if self.scaling_dims else (),
        )


ONE_PAIR_PER_ANCHOR = Plan(
    sizes=(128, 512, 2048, 4096, 8192),
    dims=(128, 512),
    quick_sizes=(128, 512, 2048),
    memory_sizes=(16384,),
    large_sizes=(65536,),
    scaling_sizes=SCALING_SIZES,
    scaling_dims=SCALING_DIMS,
)
ALL_NEGATIVES = Plan(
    sizes=(512, 2048, 8192),
    dims=(128, 512),
    quick_sizes=(128, 512),
    memory_sizes=(512, 2048, 16384),  # NTXentLoss runs only at the first
    large_sizes=(65536,),
)
ALL_TRIPLETS = Plan(
    sizes=(128, 512, 1024),
    dims=(128,),
    quick_sizes=(128, 256),
    memory_sizes=(1024, 2048, 16384),
)

PLANS = {
    "sct_loss": ONE_PAIR_PER_ANCHOR,
    "EPSHN": ONE_PAIR_PER_ANCHOR,
    "EP": replace(ALL_NEGATIVES, scaling_sizes=SCALING_SIZES, scaling_dims=SCALING_DIMS),
    "BatchAll": ALL_NEGATIVES,
    "BatchAllTriplet": replace(ALL_TRIPLETS, scaling_sizes=SCALING_SIZES, scaling_dims=SCALING_DIMS),
    "BatchAllTriplet_active": ALL_TRIPLETS,
    "knn_sift": Plan(sizes=(10_000,), dims=(128,), quick_sizes=(2048,), memory_sizes=(10_000,)),
    # A rival's step takes up to half a minute, so few rounds are required.
    "knn_words": Plan(sizes=(100_000,), dims=(50,), quick_sizes=(2048,), memory_sizes=(100_000,), min_rounds=3),
}
# For cases that are requested by name and have no entry above.
DEFAULT = replace(ONE_PAIR_PER_ANCHOR, scaling_sizes=(), scaling_dims=())
