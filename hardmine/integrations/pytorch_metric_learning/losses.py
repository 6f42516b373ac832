"""Every loss of pytorch-metric-learning, those that hardmine's ops compute in place of its own."""

from pytorch_metric_learning.losses import *  # noqa: F403

from hardmine.integrations.pytorch_metric_learning._losses import CircleLoss as CircleLoss
from hardmine.integrations.pytorch_metric_learning._losses import MultiSimilarityLoss as MultiSimilarityLoss
from hardmine.integrations.pytorch_metric_learning._losses import NPairsLoss as NPairsLoss
from hardmine.integrations.pytorch_metric_learning._losses import NTXentLoss as NTXentLoss
from hardmine.integrations.pytorch_metric_learning._losses import SupConLoss as SupConLoss
from hardmine.integrations.pytorch_metric_learning._losses import TripletMarginLoss as TripletMarginLoss
