"""smart_triplets: every branch of Algorithm 1 by hand, its reference, invariants of any set, hardmine.verify."""

import math

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

import hardmine
from hardmine import fanng, reference
from hardmine.mining import smart_triplets
from lists import lists_from_text, random_lists, triplets_of_sample_0
from support.inputs import seeded

# Algorithm 1, branch by branch


def test_smart_triplets_negative_gets_nearest_farther_positive():
    assert triplets_of_sample_0("p1 n2 p3 p4") == [(3, 2, True, True)]


def test_smart_triplets_negatives_before_first_positive_are_skipped():
    assert triplets_of_sample_0("n1 n2 p3 n4 p5") == [(5, 4, True, True)]


@pytest.mark.parametrize("kappa", [0, 0.5, 1])
def test_smart_triplets_kappa_below_one_acts_as_one(kappa):
    assert triplets_of_sample_0("n1 p2 n2 p4", kappa=kappa) == [(4, 3, True, True)]


def test_smart_triplets_neighbors_within_bound_are_skipped():
    assert triplets_of_sample_0("p1 n1.5 p2 n3 p4 n5 p6", kappa=2.5) == [(5, 4, True, True)]


def test_smart_triplets_negative_at_bound_is_taken():
    assert triplets_of_sample_0("p2 n3 p4", kappa=1.5) == [(3, 2, True, True)]
    assert triplets_of_sample_0("p2 n3 p4", kappa=math.nextafter(1.5, 2))[0][2] is False


def test_smart_triplets_bound_uses_first_positive_only():
    assert triplets_of_sample_0("p1 p2 n3 p4", kappa=3) == [(4, 3, True, True)]


@pytest.mark.thinned(5)
@pytest.mark.parametrize(
    ("text", "kappa"), [("p1 n2 p3", 10), ("p1 p2 p3", 1), ("n1 n2 p3", 1), ("n1 n2 n3", 1), ("", 1)]
)
def test_smart_triplets_without_valid_negative_is_random(text, kappa):
    seen = {triplets_of_sample_0(text, "ppnn", kappa, seed=seed)[0] for seed in range(200)}
    kinds = dict(enumerate((*(item[0] for item in text.split()), *"ppnn"), 1))
    positives, negatives = ([number for number, kind in kinds.items() if kind == k] for k in "pn")
    assert seen == {(p, n, False, False) for p in positives for n in negatives}


@pytest.mark.slow
def test_smart_triplets_without_farther_positive_draws_outside_pos():
    # 1 is the nearest positive and 4 is beyond the bound, so both are in pos.
    # 2 is inside the bound; 6 and 7 are in no list.
    seen = {triplets_of_sample_0("p1 p1.5 n1.6 p3 n4", "ppn", kappa=2, seed=seed)[0] for seed in range(200)}
    assert seen == {(2, 5, True, False), (6, 5, True, False), (7, 5, True, False)}


def test_smart_triplets_whole_class_nearer_takes_farthest():
    assert triplets_of_sample_0("p1 p2 n3", "n", per_anchor=1) == [(2, 3, True, True)]
    assert triplets_of_sample_0("p1 n3", "n") == [(1, 2, True, True)]


def test_smart_triplets_negatives_used_once_then_random():
    found = triplets_of_sample_0("p1 n2 n3 n4 p5", per_anchor=5)
    assert found[:3] == [(5, 2, True, True), (5, 3, True, True), (5, 4, True, True)]
    assert [row[2:] for row in found[3:]] == [(False, False)] * 2
    # Also after a random positive outside pos: random triplets choose among all positives.
    seen = {triplets_of_sample_0("p1 n2", "pn", per_anchor=2, seed=seed)[1][0] for seed in range(100)}
    assert seen == {1, 3}


def test_smart_triplets_nearest_negatives_come_first():
    assert [row[:2] for row in triplets_of_sample_0("p1 n2 p3 n4 p5 n6", "p", per_anchor=3)] == [(3, 2), (5, 4), (7, 6)]
    assert [row[:2] for row in triplets_of_sample_0("p1 n2 n3 p4 p5", per_anchor=2)] == [(4, 2), (4, 3)]


def test_smart_triplets_equal_distances_keep_list_order():
    assert triplets_of_sample_0("p1 n1 p1") == [(3, 2, True, True)]
    assert triplets_of_sample_0("p1 p1 n1") == [(2, 3, True, True)]  # no positive follows it, and none is outside pos
    assert triplets_of_sample_0("p0 n0 p0", kappa=5) == [(3, 2, True, True)]


def test_smart_triplets_sample_in_its_own_list_is_ignored():
    assert triplets_of_sample_0("s0 n0 p1 n2 p3", per_anchor=1) == [(4, 3, True, True)]
    assert triplets_of_sample_0("p1 s1 n2 p3") == [(3, 2, True, True)]


def test_smart_triplets_square_root_of_kappa_fits_unsquared_distances():
    lists, sq_dist, labels = lists_from_text("p1 n2 p3 n5 p7")
    squared = smart_triplets(lists, sq_dist, labels, 4.0, generator=seeded(0))
    rooted = smart_triplets(lists, sq_dist.sqrt(), labels, 2.0, generator=seeded(0))
    assert squared.triplets[0].tolist() == rooted.triplets[0].tolist() == [0, 5, 4]


# The set


def test_smart_triplets_anchors_ascend_without_unusable_ones():
    lists = torch.full((6, 1), -1)
    found = smart_triplets(lists, lists.float(), torch.tensor([5, 3, 5, 4, 3, 5]), 1.0, 2)
    assert found.triplets[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 4, 4, 5, 5]
    assert found.triplets.dtype == torch.int64
    assert found.mined.dtype == found.mined_positive.dtype == torch.bool


@pytest.mark.parametrize("labels", [[], [1], [1, 1], [1, 2], [1, 2, 3], [4, 4, 4]], ids=str)
@pytest.mark.parametrize("k", [0, 1, 5])
def test_smart_triplets_set_without_triplets_is_empty(labels, k):
    lists = torch.full((len(labels), k), -1)
    found = smart_triplets(lists, lists.double(), torch.tensor(labels, dtype=torch.int64), 1.0, 3)
    assert found.triplets.shape == (0, 3)
    assert found.mined.shape == found.mined_positive.shape == (0,)


def test_smart_triplets_lists_longer_than_set_are_valid():
    lists = torch.tensor([[1, 2, -1, -1, -1], [0, 2, -1, -1, -1], [1, 0, -1, -1, -1]])
    sq_dist = torch.where(lists >= 0, torch.arange(5.0), math.nan)
    found = smart_triplets(lists, sq_dist, torch.tensor([0, 0, 1]), 1.0)
    assert found.triplets.tolist() == [[0, 1, 2], [1, 0, 2]]
    assert found.mined.tolist() == [True, True]


@pytest.mark.slow
@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(
    rows=st.integers(0, 40),
    k=st.integers(0, 45),
    classes=st.integers(1, 9),
    kappa=st.one_of(st.sampled_from([0, 1, 2, 1e300]), st.floats(0, 4)),
    per_anchor=st.integers(1, 6),
    seed=st.integers(0, 2**32),
    ties=st.booleans(),
)
def test_smart_triplets_random_lists_match_reference_and_invariants(rows, k, classes, kappa, per_anchor, seed, ties):
    lists, sq_dist, labels = random_lists(rows, k, classes, seed, ties=ties)
    found = smart_triplets(lists, sq_dist, labels, kappa, per_anchor, seeded(seed))
    expected = reference.smart_triplets(lists, sq_dist, labels, kappa, per_anchor, seeded(seed))
    for value, wanted in zip(found, expected, strict=True):
        assert torch.equal(value, wanted)

    assert not (found.mined_positive & ~found.mined).any()
    served = []
    for (a, p, n), mined, mined_positive in zip(*(values.tolist() for values in found), strict=True):
        assert labels[a] == labels[p] != labels[n]
        assert a != p
        if not mined:
            continue
        served.append((a, n))
        row = lists[a].tolist()
        length = dict(zip(row, sq_dist[a].tolist(), strict=True))
        nearest = next(sample for sample in row if sample != a and labels[sample] == labels[a])
        assert length[n] >= kappa * length[nearest]
        assert row.index(nearest) < row.index(n)
        if mined_positive and row.index(p) < row.index(n):  # no other positive may be farther
            own = {int(sample) for sample in (labels == labels[a]).nonzero()} - {a}
            assert own <= {sample for sample in row[: row.index(n)] if sample >= 0}
    assert len(set(served)) == len(served)


def test_smart_triplets_lists_of_index_are_valid():
    generator = seeded(0)
    labels = torch.arange(400) // 10
    vectors = torch.randn(40, 8, generator=generator)[labels] + 0.8 * torch.randn(400, 8, generator=generator)
    neighbors = fanng.Index.build(vectors, metric="euclidean").neighbors(30)
    found = smart_triplets(neighbors.index, neighbors.distance.square(), labels, 1.2, generator=generator)
    assert len(found.triplets) == 400
    ap, an = ((vectors[found.triplets[:, 0]] - vectors[found.triplets[:, i]]).norm(dim=1) for i in (1, 2))
    both = found.mined_positive
    assert both.sum() > 100
    assert (ap[both] >= an[both]).all()


# hardmine.verify


def test_smart_triplets_under_verify_checks_and_draws_nothing_more(tmp_path):
    lists, sq_dist, labels = random_lists(60, 10, 6, seed=5)
    generator, plain = seeded(1), seeded(1)
    torch.manual_seed(0)
    with hardmine.verify(every=1, save_dir=tmp_path) as report:
        found = [
            smart_triplets(lists, sq_dist, labels, 1.0, 2, generator),
            smart_triplets(lists, sq_dist, labels, 1.0, generator=generator),
            smart_triplets(lists, sq_dist, labels, kappa=1.0),
        ]
    assert (report.checks, report.largest_deviation) == (3, 0.0)
    torch.manual_seed(0)
    expected = [
        smart_triplets(lists, sq_dist, labels, 1.0, 2, plain),
        smart_triplets(lists, sq_dist, labels, 1.0, generator=plain),
        smart_triplets(lists, sq_dist, labels, kappa=1.0),
    ]
    assert all(torch.equal(a.triplets, b.triplets) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("position", [0, 1, 2])
def test_verify_wrong_smart_triplets_raises(position, tmp_path, monkeypatch):
    compiled = fanng._fanng.smart_triplets

    def wrong(*arguments):
        outputs = compiled(*arguments)
        values = outputs[position].reshape(len(outputs[position]), -1)
        values[7, -1] = 1 - values[7, -1]
        return outputs

    monkeypatch.setattr(fanng._fanng, "smart_triplets", wrong)
    name = ("triplets", "mined", "mined_positive")[position]
    with hardmine.verify(save_dir=tmp_path), pytest.raises(hardmine.VerificationError, match=rf": {name}\[7\] is") as e:
        smart_triplets(*random_lists(60, 10, 6, seed=5), 1.0, 2, seeded(1))
    saved = torch.load(e.value.path)
    torch.set_rng_state(saved["random_state"])
    again = reference.smart_triplets(**saved["arguments"])
    assert torch.equal(again[position][8:], saved["outputs"][name][8:])
    # The draws equal those of the call, which used its own generator.
    assert torch.equal(again[0], reference.smart_triplets(*random_lists(60, 10, 6, seed=5), 1.0, 2, seeded(1))[0])
