"""The kind of every argument of every op; `test_declared_arguments.py` tests them all.

A new op adds its arguments to `ARGUMENTS`, and a call that works to `CALLS`. The kinds of arguments, which know the
values to try, are in `argument_kinds.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy
import torch

from argument_kinds import (
    BoundedNumber,
    Choice,
    FiniteOrTensor,
    Flag,
    Generator,
    GradientReduction,
    Group,
    Integer,
    Kind,
    Labels,
    Number,
    NumberOrTable,
    Ranks,
    Rows,
    SoftTemperature,
    Temperature,
    Triplets,
    Weights,
    Wrong,
)
from support.inputs import seeded

# Default inputs of the calls

EMBEDDINGS, LABELS = torch.randn(4, 3, generator=seeded(0)), torch.tensor([0, 0, 1, 1])
REFS, REF_LABELS = torch.randn(5, 3, generator=seeded(1)), torch.tensor([0, 1, 0, 1, 2])
TRIPLETS = torch.tensor([[0, 1, 2], [3, 2, 0]])
_LABELED = {"embeddings": EMBEDDINGS, "labels": LABELS}
IDS, REF_IDS = torch.tensor([0, 1, 2, 3]), torch.tensor([7, 1, 8, 2, 9])
_WITH_REFS = {**_LABELED, "ref_embeddings": REFS, "ref_labels": REF_LABELS}
_GIVEN = {"embeddings": EMBEDDINGS, "triplets": TRIPLETS}
CALLS: dict[str, dict[str, Any]] = {
    "select_triplets": _WITH_REFS,
    "triplet_loss": _WITH_REFS,
    "sct_loss": _WITH_REFS,
    "tuplet_loss": _WITH_REFS,
    "batch_all_triplet_loss": _WITH_REFS,
    "logsumexp": _WITH_REFS,
    "info_nce_loss": {"query": EMBEDDINGS, "positive_key": REFS[:4]},
    "supcon_loss": _WITH_REFS,
    "circle_loss": _WITH_REFS,
    "multi_similarity_loss": _WITH_REFS,
    "sigmoid_loss": {"query": EMBEDDINGS, "key": REFS[:4]},
    "indexed_triplet_loss": _GIVEN,
    "global_loss": _GIVEN,
    "knn": {"queries": EMBEDDINGS},
}

# The arguments of every op

SIMILARITIES = ("cosine", "dot", "euclidean")
FLAT_SIMILARITY = Choice(names=SIMILARITIES)
# test_hyperbolic.py tests "hyperbolic", which takes rows in the unit ball.
SIMILARITY = Choice(names=SIMILARITIES, listed=(*SIMILARITIES, "hyperbolic"))
REDUCTION = Choice(names=("mean", "sum", "none"))
THRESHOLD = Number(optional=True, finite=False, values=(0.5, 1, math.inf, -math.inf, numpy.float32(0.5)))
TEMPERATURE = Temperature()
_EMBEDDINGS, _LABELS = Rows(rows=4), Labels(right=LABELS)
_TENSORS = {
    "embeddings": _EMBEDDINGS,
    "labels": _LABELS,
    "ref_embeddings": Rows(
        rows=5,
        like="embeddings",
        more_wrong=(Wrong(None, ValueError, "must be given together with ref_labels, got None"),),
    ),
    "ref_labels": Labels(
        right=REF_LABELS,
        size="M",
        more_wrong=(Wrong(None, ValueError, "must be given together with ref_embeddings, got None"),),
    ),
}
_TOO_LARGE = Wrong(
    torch.tensor([0, 1, 2, 2**64 - 1], dtype=torch.uint64), ValueError, "must be below 2^63, got 18446744073709551615"
)


def _ids(name: str = "ref_embeddings", size: str = "B", **more: Any) -> dict[str, Labels]:
    """Ids of rows and of refs."""
    absent = {"ids": None, name: None} | ({"ref_labels": None} if name == "ref_embeddings" else {})
    return {
        "ids": Labels(
            right=IDS,
            size=size,
            beside={**more, "ref_ids": REF_IDS},
            more_wrong=(
                Wrong(None, ValueError, "must be given together with ref_ids, got None"),
                _TOO_LARGE,
            ),
        ),
        "ref_ids": Labels(
            right=REF_IDS,
            size="M",
            beside={**more, "ids": IDS},
            more_wrong=(
                Wrong(None, ValueError, "must be given together with ids, got None"),
                Wrong(REF_IDS, ValueError, f"must be None without {name}, got Tensor", absent),
            ),
        ),
    }


_IGNORE_INDEX = {"ignore_index": Integer(lower=-(2**63), upper=2**63 - 1, optional=True)}
_TENSORS |= _ids() | _IGNORE_INDEX
_SEMIHARD = {"negative": ("semihard",)}
_RANDOM = {"positive": ("random",), "negative": ("random",)}
_SELECTION = {
    # test_all_positives.py tests "all", which runs on the CPU only.
    "positive": Choice(names=("easiest", "hardest", "random"), listed=("easiest", "hardest", "random", "all")),
    "negative": Choice(names=("hardest", "easiest", "semihard", "random")),
    "negative_ranks": Ranks(only_with={"negative": ("hardest", "random")}),
    "similarity": SIMILARITY,
    "duplicate_threshold": THRESHOLD,
    "semihard_fallback": Choice(names=("hardest", "easiest"), optional=True, only_with=_SEMIHARD),
    "tie": Choice(names=("exclude", "include"), only_with=_SEMIHARD),
    "semihard_margin": Number(above=0.0, finite=False, optional=True, only_with=_SEMIHARD),
    "generator": Generator(only_with=_RANDOM),
    "group": Group(),
}
WEIGHTS = Weights(right=torch.tensor([0.5, 0.0, 2.0, 1.0]))
_PAIR_WEIGHTS = Weights(right=WEIGHTS.right, like="query")
_OVER_RANKS = {"group": Group(), "gradient_reduction": GradientReduction()}
_SELECTED_LOSS = {
    **_SELECTION,
    **_OVER_RANKS,
    "reduction": Choice(names=("mean", "sum", "none", "mean_active")),
    "min_similarity": THRESHOLD,
    "weights": WEIGHTS,
    "return_selection": Flag(),
    "return_count": Flag(),
}


def _distances_only(loss: str) -> Choice:
    words = f"must be 'cosine' or 'euclidean'{loss}, got 'dot'"
    return Choice(names=("cosine", "euclidean"), listed=SIMILARITIES, more_wrong=(Wrong("dot", ValueError, words),))


def _triplets_outside(number: int, row: int, column: int) -> Wrong:
    triplets = TRIPLETS.clone()
    triplets[row, column] = number
    return Wrong(triplets, ValueError, f"must lie in [0, B) = [0, 4), got {number} at [{row}, {column}]")


def _triplets_of_equal_rows(*rows: int) -> Wrong:
    words = f"must be of three different rows each, got {list(rows)} at [1]"
    return Wrong(torch.tensor([[0, 1, 2], list(rows)]), ValueError, words)


def _triplets_of_classes(labels: list[int], triplet: list[int], row: int) -> Wrong:
    words = (
        "must hold an anchor, a positive of the same class and a negative of another class, "
        f"got {triplet} of classes {[labels[i] for i in triplet]} at [{row}]"
    )
    return Wrong(TRIPLETS, ValueError, words, {"labels": torch.tensor(labels)})


_ON_TRIPLETS = {
    "embeddings": _EMBEDDINGS,
    "triplets": Triplets(
        right=TRIPLETS,
        more_wrong=(
            *(
                _triplets_outside(n, *place)
                for n, place in ((4, (1, 1)), (-1, (0, 2)), (2**62, (0, 0)), (-(2**63), (1, 0)))
            ),
            *(_triplets_of_equal_rows(*rows) for rows in ((1, 1, 2), (1, 2, 1), (2, 1, 1))),
            Wrong(TRIPLETS, ValueError, "must lie in [0, B) = [0, 0), got 0 at [0, 0]", {"embeddings": EMBEDDINGS[:0]}),
            _triplets_of_classes([0, 1, 1, 1], [0, 1, 2], 0),
            _triplets_of_classes([1, 1, 1, 1], [0, 1, 2], 0),
            _triplets_of_classes([0, 0, 1, 2], [3, 2, 0], 1),
            # The index is checked first, so no class is looked up with it.
            _triplets_outside(7, 0, 2)._replace(with_options={"labels": LABELS}),
        ),
    ),
    "labels": Labels(right=LABELS, optional=True),
}

TABLE = torch.zeros(3, 3)
TERMS = ("nca", "hinge", "soft_margin", "sct")
NAMES_OF_TERMS = ", ".join(map(repr, TERMS))
ARGUMENTS: dict[str, dict[str, Kind]] = {
    "select_triplets": {**_TENSORS, **_SELECTION},
    "triplet_loss": {
        **_TENSORS,
        **_SELECTED_LOSS,
        # The unknown term is reported first, even with an option that would be refused because the term lacks it.
        "term": Choice(
            names=TERMS,
            more_wrong=(Wrong("ratio", ValueError, f"must be one of {NAMES_OF_TERMS}, got 'ratio'", {"margin": 1}),),
        ),
        "temperature": SoftTemperature(only_with={"term": ("nca", "sct")}),
        "margin": Number(only_with={"term": ("hinge",)}),
        "lam": Number(only_with={"term": ("sct",)}),
    },
    "sct_loss": {
        **_TENSORS,
        **_SELECTED_LOSS,
        "preset": Choice(names=("paper", "code2020", "code2021")),
        "temperature": SoftTemperature(),
        "lam": Number(),
        "hard_cutoff": Number(finite=False, optional=True, only_with={"preset": ("code2020", "code2021")}),
    },
    "tuplet_loss": {
        **_TENSORS,
        "positive": Choice(names=("easiest", "hardest", "all")),
        "temperature": SoftTemperature(),
        "similarity": SIMILARITY,
        "duplicate_threshold": THRESHOLD,
        "reduction": Choice(
            names=("mean", "sum", "none"),
            listed=("mean", "sum", "none", "mean_pairs"),
            more_wrong=(
                Wrong(
                    "mean_pairs",
                    ValueError,
                    "must be 'mean', 'sum' or 'none' with positive='easiest', got 'mean_pairs'",
                ),
            ),
        ),
        "weights": WEIGHTS,
        "return_terms": Flag(),
        "return_count": Flag(),
        **_OVER_RANKS,
    },
    "logsumexp": {
        **_TENSORS,
        "pairs": Choice(names=("positive", "negative", "all")),
        "temperature": SoftTemperature(),
        "similarity": SIMILARITY,
        "group": Group(),
    },
    "sigmoid_loss": {
        "query": _EMBEDDINGS,
        "key": Rows(
            rows=4,
            like="query",
            more_wrong=(Wrong(REFS, ValueError, "must be [B, D] = [4, 3], got [5, 3]"),),
        ),
        "logit_scale": FiniteOrTensor(like="query"),
        "logit_bias": FiniteOrTensor(like="query"),
        "similarity": FLAT_SIMILARITY,
        "reduction": REDUCTION,
        "weights": _PAIR_WEIGHTS,
        **_OVER_RANKS,
    },
    "circle_loss": {
        **_TENSORS,
        "m": BoundedNumber(low=-1, high=1),
        "gamma": TEMPERATURE,
        "reduction": REDUCTION,
        "weights": WEIGHTS,
        "return_count": Flag(),
        **_OVER_RANKS,
    },
    "multi_similarity_loss": {
        **_TENSORS,
        "alpha": TEMPERATURE,
        "beta": TEMPERATURE,
        "base": Number(),
        "epsilon": Number(optional=True),
        "similarity": Choice(names=("cosine", "dot")),
        "reduction": REDUCTION,
        "weights": WEIGHTS,
        **_OVER_RANKS,
    },
    "info_nce_loss": {
        "query": _EMBEDDINGS,
        "positive_key": Rows(rows=4, like="query"),
        "negative_keys": Rows(
            rows=5,
            like="query",
            optional=True,
            dims=(2, 3),
            more_wrong=(
                *(
                    Wrong(
                        torch.ones(shape),
                        ValueError,
                        f"must be [K, D] or [B, K, D] with B = 4 and D = 3 of query, got {list(shape)}",
                    )
                    for shape in ((3, 5, 3), (5, 4, 3), (4, 5, 2), (4, 5, 3, 1), (3,))
                ),
                Wrong(None, ValueError, "must be given with in_batch=False, got None", {"in_batch": False}),
            ),
        ),
        "temperature": SoftTemperature(like="query"),
        "symmetric": Flag(
            more_wrong=(
                Wrong(
                    True,
                    ValueError,
                    "must be False with negative_keys, which are no negatives of keys, got True",
                    {"negative_keys": REFS},
                ),
                Wrong(True, ValueError, "must be False with in_batch=False, got True", {"in_batch": False}),
            )
        ),
        "in_batch": Flag(beside={"negative_keys": REFS}),
        "ids": Labels(
            right=IDS,
            more_wrong=(
                Wrong(
                    IDS,
                    ValueError,
                    "must be None with in_batch=False, got Tensor",
                    {"in_batch": False, "negative_keys": REFS},
                ),
                _TOO_LARGE,
            ),
            optional=True,
        ),
        "similarity": SIMILARITY,
        "reduction": REDUCTION,
        "weights": _PAIR_WEIGHTS,
        **_OVER_RANKS,
    },
    "supcon_loss": {
        **_TENSORS,
        "temperature": SoftTemperature(),
        "similarity": SIMILARITY,
        "reduction": REDUCTION,
        "weights": WEIGHTS,
        "return_count": Flag(),
        **_OVER_RANKS,
    },
    "batch_all_triplet_loss": {
        **_TENSORS,
        "margin": NumberOrTable(),
        "margin_labels": Labels(
            right=torch.tensor([0, 1, 2]),
            size="C",
            device_of="embeddings",
            optional=True,
            only_with={"margin": (TABLE,)},
        ),
        "squared": Flag(),
        "similarity": _distances_only(" with batch_all_triplet_loss"),
        "reduction": Choice(names=("mean", "mean_active", "sum")),
        "return_counts": Flag(),
        **_OVER_RANKS,
    },
    "indexed_triplet_loss": {
        **_ON_TRIPLETS,
        "term": Choice(names=(*TERMS, "ratio")),
        "temperature": SoftTemperature(only_with={"term": ("nca", "sct")}),
        "margin": Number(
            only_with={"term": ("hinge", "ratio")},
            more_wrong=tuple(
                Wrong(value, ValueError, f"must be a number > 0, got {value}", {"term": "ratio"})
                for value in (0.0, -1, math.nan)
            ),
        ),
        "lam": Number(only_with={"term": ("sct",)}),
        "similarity": Choice(
            names=SIMILARITIES,
            beside={"term": "nca"},
            more_wrong=(
                Wrong(
                    "dot",
                    ValueError,
                    "must be 'cosine' or 'euclidean' with term 'ratio', got 'dot'",
                    {"term": "ratio"},
                ),
            ),
        ),
        "reduction": REDUCTION,
        **_OVER_RANKS,
    },
    "global_loss": {
        **_ON_TRIPLETS,
        "lam": Number(),
        "threshold": Number(),
        "similarity": _distances_only(" with global_loss"),
        **_OVER_RANKS,
    },
    "knn": {
        "queries": _EMBEDDINGS,
        "refs": Rows(rows=5, like="queries", optional=True),
        "k": Integer(lower=1, upper=1024),
        **_ids("refs", "Q", refs=REFS),
        "exclude_self": Flag(
            optional=True,
            more_wrong=(
                Wrong(
                    True,
                    ValueError,
                    "must be False or None if refs are given, got True",
                    {"refs": REFS},
                ),
            ),
        ),
        "similarity": SIMILARITY,
        "group": Group(),
    },
}
