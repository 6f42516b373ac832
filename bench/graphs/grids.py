"""The settings to try, and how long a run may take."""

from __future__ import annotations

from dataclasses import dataclass

from graphs.contestants import Contestant, Exact, FaissHnsw, FaissNNDescent, Fanng, Hnswlib

K = 50
TARGET_RECALL = 0.98
DEFAULT_EFFORT = 20 * K
KEPT_SHARES = (0.95, 0.80)  # shares of the 10-neighbor lists that stay in the small moves
WARM_TARGET = 0.3
MIN_KEPT_SHARE = 0.75  # a move that keeps less is not small: it is shown, but not judged
GROWTH_SIZES = (10_000, 20_000, 50_000, 100_000)

# hardmine's efforts are distance computations per search: FANNG's backtrack search. Words need many, which takes long,
# so fewer are tried.
FANNG_EFFORTS = (200, 300, 400, 500, 600, 700, 800, 900, DEFAULT_EFFORT, 1200, 1500, 2000, 3000, 4500, 6000)
FANNG_FEW_EFFORTS = (400, 700, DEFAULT_EFFORT, 1200, 1350, 1500, 2000, 3000, 4500)
DEFAULTS = (0,)  # the lists of a build and search with default arguments
EFS = (51, 60, 70, 85, 100, 125, 150, 200, 250, 300, 400, 500)
FEW_EFS = (70, 100, 125, 150, 200, 250, 300, 400, 500)

# (M, ef_construction). The grid was M = 8, 12, 16, 24 by ef_construction = 40, 60, 100, 200, and M = 32 with
# ef_construction up to 100. Of the settings that reach the recall, these took the least processor time.
HNSWLIB = {
    "sift": ((12, 60), (16, 40), (24, 60)),
    "cars": ((12, 40), (16, 40), (24, 40)),
    "words": ((12, 60), (16, 100)),
}
FAISS = {
    "sift": ((8, 40), (12, 60), (16, 40)),
    "cars": ((12, 40), (16, 60), (24, 40)),
    "words": ((16, 60), (24, 40)),
}
NNDESCENT = {"sift": ((15, 5), (10, 7)), "cars": ((15, 5), (10, 7)), "words": ((15, 6), (20, 7))}  # (S, rounds)
# The sweep tries no higher effort after one that reaches STOP_RECALL or takes MAX_TIMES_EXACT times exact search.
STOP_RECALL = {"sift": 0.995, "cars": 0.995, "words": 0.985}
MAX_TIMES_EXACT = 25.0


@dataclass(frozen=True)
class Plan:
    """The rows and repetitions of a run."""

    rows: int | None  # per data set; None: all
    passes: int  # maximum per sweep
    seconds: float  # per sweep of one data set: no pass starts that would end later
    rounds: int  # head to head
    kept_shares: tuple[float, ...]  # one per move
    growth_sizes: tuple[int, ...]
    only_defaults: bool = False  # of hardmine's settings


FULL = Plan(None, 5, 25.0, 5, KEPT_SHARES, GROWTH_SIZES)
QUICK = Plan(2000, 1, 5.0, 1, KEPT_SHARES[:1], (1000, 2000, 4000))


def fanng_settings(name: str) -> list[Fanng]:
    """The small grid of hardmine: each kind of start, as in the paper, and with less or no traverse-add."""
    if name == "words":
        return [
            Fanng(DEFAULTS, init="auto", success_rate=0.0),
            Fanng(FANNG_FEW_EFFORTS),
            Fanng(FANNG_FEW_EFFORTS, traversals_per_row=20, refinements=2),
            Fanng(FANNG_FEW_EFFORTS, init="exact"),
            Fanng(FANNG_FEW_EFFORTS, init="exact", success_rate=0.0),
        ]
    return [
        Fanng(DEFAULTS, init="auto", success_rate=0.0),
        Fanng(FANNG_EFFORTS),
        Fanng(FANNG_EFFORTS, traversals_per_row=10, refinements=1),
        Fanng(FANNG_EFFORTS, traversals_per_row=20),
        Fanng(FANNG_EFFORTS, init="exact"),
        Fanng(FANNG_EFFORTS, init="exact", success_rate=0.0),  # only the pruned lists
    ]


def contestants(name: str, only_defaults: bool = False) -> list[Contestant]:
    """All contestants in the sweep of this data set, exact search first. Of hardmine perhaps only the defaults."""
    efs = FEW_EFS if name == "words" else EFS
    return [
        Exact(),
        *fanng_settings(name)[: 1 if only_defaults else None],
        *(Hnswlib(m, ef_construction, efs) for m, ef_construction in HNSWLIB[name]),
        *(FaissHnsw(m, ef_construction, efs) for m, ef_construction in FAISS[name]),
        *(FaissNNDescent(sampled, (rounds,)) for sampled, rounds in NNDESCENT[name]),
    ]
