"""The triplet losses: values worked by hand, exact values of integers, accuracy, and options against the reference."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardmine import ops, reference
from support.comparisons import assert_as_accurate_as_plain_torch, assert_bitwise_equal, assert_results_close
from support.inputs import HAND_POINTS, anchors_with, exact_inputs, random_inputs
from support.ops import REDUCTIONS, SIMILARITIES, TERMS, selection_options
from support.runs import effective_options, run, run_both, with_generator

pytestmark = pytest.mark.emulated

IMPLEMENTATIONS = pytest.mark.parametrize("loss", [ops.triplet_loss, reference.triplet_loss], ids=["op", "ref"])

# HAND_POINTS with easiest positives and hardest negatives have
#   s_ap = 0.6  0.8   -0.8   0.8  -0.8
#   s_an = 0.8  0.96   0.96  0.6   0
#   x = s_an - s_ap = 0.2  0.16  1.76  -0.2  0.8
# and, with the distances in place of the cosines, d_ap = sqrt of 2, 18, 34, 2, 34 and d_an = sqrt of 4, 2, 2, 2, 2.
# Options, then the loss of every anchor.
HAND_WORKED = {
    # log(1 + exp(x / 0.1)): softplus of 2, 1.6, 17.6, -2, 8
    "nca": ({"term": "nca"}, [2.126928, 1.783901, 17.6, 0.126928, 8.000335]),
    # softplus of 0.4, 0.32, 3.52, -0.4, 1.6
    "nca, temperature 0.5": ({"term": "nca", "temperature": 0.5}, [0.913015, 0.865893, 3.549170, 0.513015, 1.783901]),
    "hinge": ({"term": "hinge", "margin": 0.3}, [0.5, 0.46, 2.06, 0.1, 1.1]),
    "hinge, margin 0": ({"term": "hinge", "margin": 0.0}, [0.2, 0.16, 1.76, 0.0, 0.8]),
    # log(1 + exp(x)): exp(x) = 1.221403, 1.173511, 5.812437, 0.818731, 2.225541
    "soft margin": ({"term": "soft_margin"}, [0.798139, 0.776344, 1.918750, 0.598139, 1.171101]),
    # All but anchor 3 are hard, with the loss lam * s_an.
    "sct": ({"term": "sct", "lam": 0.5}, [0.4, 0.48, 0.48, 0.126928, 0.0]),
    # The hinge of the papers: d_ap - d_an + 1
    "hinge of distances": (
        {"term": "hinge", "margin": 1.0, "similarity": "euclidean"},
        [0.414214, 3.828427, 5.416738, 1.0, 5.416738],
    ),
    # The semi-hard negatives have s_an = -1, -0.6, none, 0.6, -1: x = -1.6, -1.4, ., -0.2, -0.2.
    "semi-hard": ({"negative": "semihard", "term": "hinge", "margin": 1.5}, [0.0, 0.1, None, 1.3, 1.3]),
    # Only anchors 0, 1 and 3 have two similarities above 0.
    "min_similarity": ({"term": "hinge", "margin": 0.3, "min_similarity": 0.0}, [0.5, 0.46, None, 0.1, None]),
}


@IMPLEMENTATIONS
@pytest.mark.parametrize(("options", "losses"), HAND_WORKED.values(), ids=HAND_WORKED)
def test_triplet_loss_hand_worked_values_match(loss, device, options, losses):
    options = {"negative": "hardest", **options}
    points = HAND_POINTS.to(device)
    counted = [value for value in losses if value is not None]
    expected = [0.0 if value is None else value for value in losses]
    assert loss(*points, **options, reduction="none").tolist() == pytest.approx(expected, abs=2e-6)
    assert loss(*points, **options, reduction="sum").item() == pytest.approx(sum(counted), abs=2e-6)
    assert loss(*points, **options).item() == pytest.approx(sum(counted) / len(counted), abs=2e-6)


def test_triplet_loss_defaults_are_epshn():
    """NCA with temperature 0.1 on the easiest positive and the semi-hard negative; their x is given above."""
    expected = sum(math.log1p(math.exp(10 * x)) for x in (-1.6, -1.4, -0.2, -0.2)) / 4
    assert ops.triplet_loss(*HAND_POINTS).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("refs", [None, 45], ids=["self", "refs"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_triplet_loss_hinge_of_integers_is_exact(similarity, refs, reduction, device):
    inputs = exact_inputs(similarity, refs=refs).to(device)
    options = {"term": "hinge", "margin": 0.5, "similarity": similarity, "negative": "hardest", "reduction": reduction}
    result, expected = run_both("triplet_loss", inputs, **options)
    assert expected.loss.count_nonzero() > 0
    assert_bitwise_equal(result.loss, expected.loss)
    if similarity == "dot" and reduction == "sum":
        torch.testing.assert_close(result.grad, expected.grad, rtol=0, atol=0)


def test_triplet_loss_hinge_at_kink_has_zero_gradient(device):
    inputs = anchors_with([0.75, 0.75], [0.5, 0.625]).to(device)
    result = run(
        ops.triplet_loss, inputs, term="hinge", margin=0.25, similarity="dot", negative="hardest", reduction="sum"
    )
    assert result.loss.item() == 0.125
    assert not result.grad[0].any()
    assert result.grad[1].any()


@IMPLEMENTATIONS
def test_triplet_loss_min_similarity_bounds_both_similarities(loss, device):
    """0.25 does not exceed 0.25, as s_ap or as s_an."""
    inputs = anchors_with([0.25, 0.75, 0.26, 0.75], [0.5, 0.25, 0.5, 0.26]).to(device)
    options = {"similarity": "dot", "negative": "hardest", "term": "hinge", "margin": 1.0}
    values = [1.25, 0.5, 1.24, 0.51]
    assert loss(*inputs, **options, reduction="none").tolist() == pytest.approx(values)
    limited = {**options, "min_similarity": 0.25}
    assert loss(*inputs, **limited, reduction="none").tolist() == pytest.approx([0.0, 0.0, 1.24, 0.51])
    assert loss(*inputs, **limited).item() == pytest.approx((1.24 + 0.51) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_triplet_loss_softplus_tails_are_precise(dtype, device):
    """X / temperature = 5e4, -5e4 and -20: the losses are 5e4, 0 and exp(-20), the slopes 1, 0 and exp(-20)."""
    inputs = anchors_with([0.25, 0.75, 0.5], [0.75, 0.25, 0.4998], dtype).to(device)
    options = {"similarity": "dot", "negative": "hardest", "temperature": 1e-5}
    value = ops.triplet_loss(*inputs, **options, reduction="none")
    assert value[:2].tolist() == pytest.approx([5e4, 0.0], rel=1e-5)
    assert value[2].item() == pytest.approx(math.exp(-20), rel=1e-3 if dtype == torch.float64 else 0.01)
    result = run(ops.triplet_loss, inputs, **options, reduction="sum")
    assert result.grad.isfinite().all()
    assert result.ref_grad.diag().tolist()[:2] == pytest.approx([-1e5, 0.0], rel=1e-5)


def test_triplet_loss_return_selection_equals_select_triplets(device):
    inputs = random_inputs(refs=30).to(device)
    for options in selection_options():
        loss, (same_loss, selection), alone = (
            op(*inputs, **with_generator({**options, **more}, device))
            for op, more in (
                (ops.triplet_loss, {}),
                (ops.triplet_loss, {"return_selection": True}),
                (ops.select_triplets, {}),
            )
        )
        assert isinstance(selection, ops.Selection)
        assert_bitwise_equal(loss, same_loss)
        for actual, expected in zip(selection, alone, strict=True):
            assert_bitwise_equal(actual, expected)


@pytest.mark.parametrize("term", TERMS)
def test_triplet_loss_sums_and_means_are_rounded_once(term, device):
    """A float32 sum of 3000 numbers would be off by more than the single rounding of the op."""
    inputs = random_inputs(3000, 8, 50, spread=1.0).to(device)
    options = {"term": term, "negative": "hardest"}
    each = ops.triplet_loss(*inputs, **options, reduction="none").double()
    assert ops.triplet_loss(*inputs, **options, reduction="sum") == each.sum().float()
    assert ops.triplet_loss(*inputs, **options).item() == pytest.approx(each.mean().item(), rel=2**-23)


@pytest.mark.thinned(7)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("refs", [None, 150], ids=["self", "refs"])
@pytest.mark.parametrize("term", TERMS)
def test_triplet_loss_error_is_at_most_twice_plain_torch(dtype, similarity, refs, term, device):
    inputs = random_inputs(200, 40, refs=refs, dtype=dtype, spread=2.5).to(device)
    options = {"similarity": similarity, "term": term, "negative": "hardest", "reduction": "none"}
    exact = assert_as_accurate_as_plain_torch("triplet_loss", inputs, **options)
    hard = exact.selection[3] > exact.selection[2]
    assert 20 < hard.sum() < 180
    assert exact.grad.any(1).sum() > 60


@st.composite
def loss_problems(draw):
    inputs = random_inputs(
        rows=draw(st.integers(0, 30)),
        depth=draw(st.integers(1, 20)),
        classes=draw(st.integers(1, 6)),
        refs=draw(st.none() | st.integers(0, 30)),
        spread=draw(st.sampled_from([0.3, 1.0])),
        dtype=torch.float64,
        seed=draw(st.integers(0, 10_000)),
    )
    options = {
        "similarity": draw(st.sampled_from(SIMILARITIES)),
        "positive": draw(st.sampled_from(["easiest", "hardest", "random"])),
        "negative": draw(st.sampled_from(["hardest", "easiest", "semihard", "random"])),
        "term": draw(st.sampled_from(TERMS)),
        "temperature": draw(st.sampled_from([0.05, 1.0])),
        "margin": draw(st.sampled_from([0.0, 0.3])),
        "lam": draw(st.sampled_from([0.1, 1.0])),
        "reduction": draw(st.sampled_from([*REDUCTIONS, "mean_active"])),
        "semihard_fallback": draw(st.sampled_from([None, "hardest", "easiest"])),
        "tie": draw(st.sampled_from(["exclude", "include"])),
        "semihard_margin": draw(st.none() | st.just(0.4)),
        "duplicate_threshold": draw(st.none() | st.sampled_from([-1.3, 0.8])),
        "min_similarity": draw(st.none() | st.sampled_from([-1.7, 0.15])),
    }
    return inputs, effective_options(options)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(loss_problems())
def test_triplet_loss_random_inputs_and_options_match_reference(problem):
    inputs, options = problem
    assert_results_close(*run_both("triplet_loss", inputs, **options), 1e-10)
