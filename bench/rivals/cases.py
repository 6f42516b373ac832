"""The cases: an op with its options, its inputs, and its counterparts in other libraries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rivals import inputs, neighbors, pml
from rivals.common import Inputs, Rival

Bytes = Callable[[int, int], float]  # (N, images per class) -> peak bytes of a step, rounded up from bench/memory.py


@dataclass(frozen=True)
class Counterpart:
    """Another library's counterpart of the case's op, and the op of ours that must give the same result."""

    build: Callable[[Inputs], Rival]
    bytes_needed: Bytes = lambda n, per_class: 0
    equals: tuple[str, dict[str, Any]] | None = None  # our op and its options; None: those of the case
    scale: float = 1.0  # the counterpart's loss divided by ours
    equal_at: int | None = None  # images per class at which both agree; None: any number, if equal for all classes


@dataclass(frozen=True)
class Case:
    """One op with its options, and its rivals in addition to those that every op has."""

    op: str
    options: dict[str, Any]
    counterparts: dict[str, Counterpart] = field(default_factory=dict)
    make_inputs: Callable[[int, int, int], Inputs] = inputs.class_samples
    reference_bytes: Bytes = lambda n, per_class: 24 * n**2
    fixed_d: int | None = None  # if the data determines D
    note: str = ""

    @property
    def kind(self) -> str:
        """The kind of result: "loss", "selection" or "neighbors"."""
        return {"select_triplets": "selection", "knn": "neighbors"}.get(self.op, "loss")

    @property
    def rivals(self) -> tuple[str, ...]:
        """Every rival of this case, hardmine first."""
        compiled = () if self.kind == "neighbors" else ("torch.compile",)
        return ("hardmine", "pytorch", *compiled, *self.counterparts, "matmul", "matmul_out")


# --- one positive and one negative per anchor ----------------------------------------------------------------------


def mined(positive: str, negative: str, ours: tuple[str, dict[str, Any]] | None, **loss: Any) -> dict[str, Counterpart]:
    names = {"easiest": "easy", "hardest": "hard", "semihard": "semihard"}
    build = partial(pml.build_miner, positive=names[positive], negative=names[negative], loss=loss or None)
    return {"pytorch-metric-learning": Counterpart(build, lambda n, per_class: 40 * n**2, ours)}


def selection_case(positive: str, negative: str) -> Case:
    return Case("select_triplets", {"positive": positive, "negative": negative}, mined(positive, negative, None))


# PML's TripletMarginLoss(margin=0, smooth_loss=True) on cosine similarities is softplus(s_an - s_ap), which is our NCA
# term at temperature 1. The PML loss has no temperature, so the check uses 1. A temperature costs no time, so the
# comparison is fair.
PML_NCA = {"margin": 0.0, "smooth_loss": True}
NCA_AT_1 = {"term": "nca", "temperature": 1.0}
EPSHN = {"positive": "easiest", "negative": "semihard"}
EPHN = {"positive": "easiest", "negative": "hardest"}
HPHN = {"positive": "hardest", "negative": "hardest"}
MINED_NOTE = """\
PML is its miner with its TripletMarginLoss. It has no temperature, so the results are compared at temperature 1."""

# --- all negatives of an anchor ------------------------------------------------------------------------------------

TEMPERATURE = 0.1
ALL_POSITIVES = {"positive": "all", "temperature": TEMPERATURE}  # both losses of PML compute this where they agree


def pairs_by_triples(n: int, per_class: int) -> float:
    """Peak bytes of NTXentLoss: it stores matrices of all positive pairs against all negative pairs of the batch."""
    return 18 * n * (per_class - 1) * n * (n - per_class)


ALL_PAIRS = {
    "NTXentLoss": Counterpart(
        partial(pml.build_all_pairs, loss="NTXentLoss", temperature=TEMPERATURE),
        pairs_by_triples,
        ("tuplet_loss", ALL_POSITIVES),
    ),
    "SupConLoss": Counterpart(
        partial(pml.build_all_pairs, loss="SupConLoss", temperature=TEMPERATURE),
        lambda n, per_class: 50 * n**2,
        ("tuplet_loss", ALL_POSITIVES),
        equal_at=2,
    ),
}
ALL_PAIRS_NOTE = """\
EP uses the easiest positive of each anchor. BatchAll (positive="all") uses the mean over all positives. Their common
replacements in PML are NTXentLoss and SupConLoss, both with all positives. All use temperature 0.1. NTXentLoss averages
-log(e^(s_ap/t) / (e^(s_ap/t) + sum_n e^(s_an/t))) over the positive *pairs*. BatchAll averages over anchors, and per
anchor over its positives. The two are equal if all anchors have the same number of positives, as here; this is checked
on the timed inputs. SupConLoss also adds the anchor's other positives to the denominator. It is equal for classes of 2
samples, and is checked on such a batch."""


def tuplet_case(positive: str) -> Case:
    return Case(
        "tuplet_loss",
        {"positive": positive, "temperature": TEMPERATURE},
        ALL_PAIRS,
        reference_bytes=lambda n, per_class: 40 * n**2,
        note=ALL_PAIRS_NOTE,
    )


# --- all triplets --------------------------------------------------------------------------------------------------

MARGIN = 0.2


def triplet_bytes(n: int, per_class: int) -> float:
    """Peak bytes of TripletMarginLoss: N^3 bytes (from 2^31 on, a loop), plus indices and terms per triplet."""
    cube = n**3 if n**3 < 2**31 else 0
    return cube + 50 * n * (per_class - 1) * (n - per_class)


def all_triplets_case(reduction: str) -> Case:
    build = partial(pml.build_all_triplets, margin=MARGIN, active_only=reduction == "mean_active")
    return Case(
        "batch_all_triplet_loss",
        {"margin": MARGIN, "reduction": reduction},
        {"pytorch-metric-learning": Counterpart(build, triplet_bytes, scale=2.0)},
        reference_bytes=lambda n, per_class: 26 * n * (per_class - 1) * n,  # every positive pair with all its negatives
        note=(
            "PML is TripletMarginLoss without a miner: it uses every triplet of the batch. Its distance is "
            "LpDistance(normalize_embeddings=True, power=2), its reducer is "
            f"{'AvgNonZeroReducer' if reduction == 'mean_active' else 'MeanReducer'}. It lacks HTL's factor 1/2, so "
            "the check expects twice hardmine's loss."
        ),
    )


# --- neighbors ----------------------------------------------------------------------------------------------------

K = 50


def neighbors_case(make_inputs: Callable[[int, int, int], Inputs], d: int) -> Case:
    counterparts = {
        "pytorch-chunks": Counterpart(partial(neighbors.build_chunks, k=K)),
        "faiss": Counterpart(partial(neighbors.build_faiss, k=K)),
        "hnswlib": Counterpart(partial(neighbors.build_hnswlib, k=K)),
        "matmul-chunks": Counterpart(neighbors.build_matmul_chunks),
    }
    return Case(
        "knn",
        {"k": K},
        counterparts,
        make_inputs,
        reference_bytes=lambda n, per_class: 21 * n**2,  # the reference sorts whole rows
        fixed_d=d,
        note=f"""\
The {K} nearest other vectors of every vector, by cosine similarity. faiss is IndexFlatIP, which is exact, as hardmine
is. faiss and PyTorch in chunks compute both s_ij and s_ji; hardmine computes only one of them. hnswlib is approximate:
build and query, at the fastest setting of a small grid that reaches recall {neighbors.TARGET_RECALL}. Exact lists are
compared with faiss's, and may differ only in near-ties.""",
    )


CASES = {
    # PML has no SCT loss: NCA on the same triplets replaces it. The two differ in N scalars, not in any N x N pass.
    "sct_loss": Case(
        "sct_loss",
        {},
        mined("easiest", "hardest", ("triplet_loss", {**EPHN, **NCA_AT_1}), **PML_NCA),
        note="PML has no SCT loss: its NCA loss on the same triplets is timed instead. " + MINED_NOTE,
    ),
    "EPSHN": Case(
        "triplet_loss",
        {**EPSHN, "term": "nca"},
        mined("easiest", "semihard", ("triplet_loss", {**EPSHN, **NCA_AT_1}), **PML_NCA),
        note=MINED_NOTE,
    ),
    # BatchHardMiner, and the hinge that is usually combined with it.
    "HPHN": Case(
        "triplet_loss",
        {**HPHN, "term": "hinge", "margin": MARGIN},
        mined("hardest", "hardest", None, margin=MARGIN),
        note="PML is BatchHardMiner with TripletMarginLoss on cosine similarities.",
    ),
    "select_EPHN": selection_case("easiest", "hardest"),
    "select_EPSHN": selection_case("easiest", "semihard"),
    "select_HPHN": selection_case("hardest", "hardest"),
    "EP": tuplet_case("easiest"),
    "BatchAll": tuplet_case("all"),
    "BatchAllTriplet": all_triplets_case("mean"),
    "BatchAllTriplet_active": all_triplets_case("mean_active"),
    "knn_words": neighbors_case(inputs.word_vectors, 50),
    "knn_sift": neighbors_case(inputs.sift, 128),
}
