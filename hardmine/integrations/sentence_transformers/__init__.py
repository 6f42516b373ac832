"""Losses and mining of sentence-transformers, computed by hardmine's ops: same names, arguments, defaults and values.

Each loss is a subclass of that of sentence-transformers, so that its trainer, model cards and loss wrappers take it.
Where no op gives the result of sentence-transformers, its own code runs, with one warning per class and reason.
:mod:`losses` holds all of its losses.
"""

from hardmine.integrations._versions import check_version

check_version("sentence_transformers", "sentence-transformers", major=6, tested="6.2.0")

from hardmine.integrations.sentence_transformers import losses  # noqa: E402
from hardmine.integrations.sentence_transformers._mining import mine_hard_negatives  # noqa: E402
from hardmine.integrations.sentence_transformers._ranking import (  # noqa: E402
    CachedMultipleNegativesRankingLoss,
    CachedMultipleNegativesSymmetricRankingLoss,
    MultipleNegativesRankingLoss,
    MultipleNegativesSymmetricRankingLoss,
)
from hardmine.integrations.sentence_transformers._triplets import (  # noqa: E402
    BatchAllTripletLoss,
    BatchHardSoftMarginTripletLoss,
    BatchHardTripletLoss,
    BatchSemiHardTripletLoss,
)

__all__ = [
    "BatchAllTripletLoss",
    "BatchHardSoftMarginTripletLoss",
    "BatchHardTripletLoss",
    "BatchSemiHardTripletLoss",
    "CachedMultipleNegativesRankingLoss",
    "CachedMultipleNegativesSymmetricRankingLoss",
    "MultipleNegativesRankingLoss",
    "MultipleNegativesSymmetricRankingLoss",
    "losses",
    "mine_hard_negatives",
]
