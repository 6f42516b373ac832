"""Every miner of pytorch-metric-learning, those that hardmine's ops compute in place of its own."""

from pytorch_metric_learning.miners import *  # noqa: F403

from hardmine.integrations.pytorch_metric_learning._miners import BatchEasyHardMiner as BatchEasyHardMiner
from hardmine.integrations.pytorch_metric_learning._miners import BatchHardMiner as BatchHardMiner
from hardmine.integrations.pytorch_metric_learning._miners import MultiSimilarityMiner as MultiSimilarityMiner
from hardmine.integrations.pytorch_metric_learning._miners import PairMarginMiner as PairMarginMiner
from hardmine.integrations.pytorch_metric_learning._miners import TripletMarginMiner as TripletMarginMiner
