"""Every loss of sentence-transformers, those that hardmine's ops compute in place of its own."""

from sentence_transformers.sentence_transformer.losses import *  # noqa: F403

from hardmine.integrations.sentence_transformers._ranking import (
    CachedMultipleNegativesRankingLoss as CachedMultipleNegativesRankingLoss,
)
from hardmine.integrations.sentence_transformers._ranking import (
    CachedMultipleNegativesSymmetricRankingLoss as CachedMultipleNegativesSymmetricRankingLoss,
)
from hardmine.integrations.sentence_transformers._ranking import (
    MultipleNegativesRankingLoss as MultipleNegativesRankingLoss,
)
from hardmine.integrations.sentence_transformers._ranking import (
    MultipleNegativesSymmetricRankingLoss as MultipleNegativesSymmetricRankingLoss,
)
from hardmine.integrations.sentence_transformers._triplets import BatchAllTripletLoss as BatchAllTripletLoss
from hardmine.integrations.sentence_transformers._triplets import (
    BatchHardSoftMarginTripletLoss as BatchHardSoftMarginTripletLoss,
)
from hardmine.integrations.sentence_transformers._triplets import BatchHardTripletLoss as BatchHardTripletLoss
from hardmine.integrations.sentence_transformers._triplets import BatchSemiHardTripletLoss as BatchSemiHardTripletLoss
