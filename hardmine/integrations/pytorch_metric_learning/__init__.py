"""Classes of pytorch-metric-learning (PML), computed by hardmine's ops: same names, arguments, defaults and values.

Each class is a subclass of PML's, so that PML's wrappers, testers and trainers take it. Where no op gives PML's result,
PML's own code runs, with one warning per class and reason. :mod:`losses` and :mod:`miners` hold all of PML's classes.
"""

from hardmine.integrations._versions import check_version

check_version("pytorch_metric_learning", "pytorch-metric-learning", major=2, tested="2.9.0")

from hardmine.integrations.pytorch_metric_learning import losses, miners  # noqa: E402
from hardmine.integrations.pytorch_metric_learning._accuracy import KNN, AccuracyCalculator  # noqa: E402
from hardmine.integrations.pytorch_metric_learning._losses import (  # noqa: E402
    CircleLoss,
    MultiSimilarityLoss,
    NPairsLoss,
    NTXentLoss,
    SupConLoss,
    TripletMarginLoss,
)
from hardmine.integrations.pytorch_metric_learning._miners import (  # noqa: E402
    BatchEasyHardMiner,
    BatchHardMiner,
    MultiSimilarityMiner,
    PairMarginMiner,
    TripletMarginMiner,
)

__all__ = [
    "KNN",
    "AccuracyCalculator",
    "BatchEasyHardMiner",
    "BatchHardMiner",
    "CircleLoss",
    "MultiSimilarityLoss",
    "MultiSimilarityMiner",
    "NPairsLoss",
    "NTXentLoss",
    "PairMarginMiner",
    "SupConLoss",
    "TripletMarginLoss",
    "TripletMarginMiner",
    "losses",
    "miners",
]
