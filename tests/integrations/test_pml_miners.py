"""Miners select the indices that those of pytorch-metric-learning select, and leave the same statistics."""

import itertools

import pytest
import torch
from pytorch_metric_learning import distances
from pytorch_metric_learning import miners as pml

from hardmine.integrations.pytorch_metric_learning import _miners, miners
from integrations.pml_cases import DTYPES, LABELS, REFS, batch_of, fused

DISTANCES = {
    "cosine": distances.CosineSimilarity,
    "normalized dot": distances.DotProductSimilarity,
    "dot": lambda **options: distances.DotProductSimilarity(normalize_embeddings=False, **options),
    "normalized euclidean": distances.LpDistance,
    "euclidean": lambda **options: distances.LpDistance(normalize_embeddings=False, **options),
    "normalized squared": lambda **options: distances.LpDistance(power=2, **options),
    "squared": lambda **options: distances.LpDistance(normalize_embeddings=False, power=2, **options),
}
RULES = ["hard", "semihard", "easy", "all"]
PAIRS_OF_RULES = [
    (pos, neg)
    for pos, neg in itertools.product(RULES, RULES)
    if (pos, neg) not in (("semihard", "semihard"), ("all", "semihard"), ("semihard", "all"))
]


def assert_same_indices(own, expected, batch):
    with fused():
        found = own(*batch)
    wanted = expected(*batch)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    return found


def assert_same_statistics(own, expected):
    names = expected._record_these_stats
    assert names
    assert own._record_these_stats == names
    for name in names:
        assert getattr(own, name) == pytest.approx(getattr(expected, name), rel=1e-4, abs=1e-5, nan_ok=True), name


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_batch_hard_miner_selects_indices_of_pml(distance, labels):
    own, expected = (side.BatchHardMiner(distance=DISTANCES[distance]()) for side in (miners, pml))
    for refs, dtype in itertools.product(REFS, DTYPES):
        a, _, _ = assert_same_indices(own, expected, batch_of(labels, refs, dtype))
        assert len(a) or labels in ("no positives", "one class")


@pytest.mark.parametrize("distance", ["cosine", "euclidean", "normalized squared"])
@pytest.mark.parametrize(("pos", "neg"), PAIRS_OF_RULES)
def test_batch_easy_hard_miner_selects_indices_of_pml(pos, neg, distance):
    own, expected = (
        side.BatchEasyHardMiner(pos_strategy=pos, neg_strategy=neg, distance=DISTANCES[distance]())
        for side in (miners, pml)
    )
    for labels, refs in itertools.product(LABELS, REFS):
        assert_same_indices(own, expected, batch_of(labels, refs, torch.float64))


@pytest.mark.parametrize("pos", ["easy", "hard", "semihard"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_batch_easy_hard_miner_takes_range_of_positives(pos, distance):
    options = {"pos_strategy": pos, "neg_strategy": "easy", "distance": DISTANCES[distance]()}
    allowed = (-0.3, 0.5) if distance == "cosine" else (2.5, 4.0)
    own, expected = (side.BatchEasyHardMiner(allowed_pos_range=allowed, **options) for side in (miners, pml))
    for refs in REFS:
        batch = batch_of("some alone", refs, torch.float64)
        a, *_ = assert_same_indices(own, expected, batch)
        assert len(a) > 0
        free = pml.BatchEasyHardMiner(**options)(*batch)
        assert not all(map(torch.equal, expected(*batch), free))


@pytest.mark.parametrize(("pos", "neg"), [pair for pair in PAIRS_OF_RULES if pair[1] != "all"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_batch_easy_hard_miner_leaves_statistics_of_pml(pos, neg, distance):
    batch = batch_of("some alone")
    own, expected = (
        side.BatchEasyHardMiner(
            pos_strategy=pos,
            neg_strategy=neg,
            distance=DISTANCES[distance](collect_stats=True),
            collect_stats=True,
        )
        for side in (miners, pml)
    )
    assert_same_indices(own, expected, batch)
    assert_same_statistics(own, expected)
    assert_same_statistics(own.distance, expected.distance)


def test_batch_hard_miner_without_triplets_leaves_statistics_of_pml():
    own, expected = (side.BatchHardMiner(collect_stats=True) for side in (miners, pml))
    for labels in ("balanced", "no positives", "one class"):
        assert_same_indices(own, expected, batch_of(labels))
        assert_same_statistics(own, expected)


@pytest.mark.parametrize("kind", ["all", "hard", "semihard", "easy"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_triplet_margin_miner_selects_indices_of_pml(distance, kind, monkeypatch):
    own, expected = (
        side.TripletMarginMiner(margin=0.3, type_of_triplets=kind, distance=DISTANCES[distance](), collect_stats=True)
        for side in (miners, pml)
    )
    for labels, refs, chunk in itertools.product(LABELS, REFS, (2**22, 50)):
        monkeypatch.setattr(_miners, "_CHUNK", chunk)
        a, *_ = assert_same_indices(own, expected, batch_of(labels, refs))
        assert len(a) or labels in ("no positives", "one class")
        assert_same_statistics(own, expected)


@pytest.mark.parametrize("distance", DISTANCES)
def test_multi_similarity_miner_selects_indices_of_pml(distance):
    refs_of_others = REFS[:-1]  # the last kind runs PML's own code
    for epsilon, labels, refs, dtype in itertools.product((0.1, -0.4), LABELS, refs_of_others, DTYPES):
        own, expected = (side.MultiSimilarityMiner(epsilon, distance=DISTANCES[distance]()) for side in (miners, pml))
        a1, _, a2, _ = assert_same_indices(own, expected, batch_of(labels, refs, dtype))
        assert len(a1) * len(a2) or labels in ("no positives", "one class") or epsilon < 0


@pytest.mark.parametrize("distance", DISTANCES)
def test_pair_margin_miner_selects_indices_of_pml(distance):
    own, expected = (
        side.PairMarginMiner(pos_margin=0.4, neg_margin=0.9, distance=DISTANCES[distance](), collect_stats=True)
        for side in (miners, pml)
    )
    for labels, refs, dtype in itertools.product(LABELS, REFS, DTYPES):
        assert_same_indices(own, expected, batch_of(labels, refs, dtype))
        assert_same_statistics(own, expected)


def test_miners_of_pairs_take_every_distance():
    batch = batch_of("some alone", "others")
    for name in ("TripletMarginMiner", "MultiSimilarityMiner", "PairMarginMiner"):
        own, expected = (getattr(side, name)(distance=distances.LpDistance(p=1)) for side in (miners, pml))
        assert len(assert_same_indices(own, expected, batch)[0])
