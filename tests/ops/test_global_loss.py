"""The global loss: values worked by hand, exact values of integers, accuracy, gradients, the reference."""

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardmine import losses, ops, reference
from support.comparisons import assert_bitwise_equal
from support.inputs import HAND_POINTS, exact_inputs, seeded
from triplets import (
    Batch,
    assert_given_as_accurate_as_plain_torch,
    assert_outcomes_close,
    random_batch,
    random_triplets,
    run_given,
    run_given_both,
)

pytestmark = pytest.mark.emulated

IMPLEMENTATIONS = pytest.mark.parametrize("loss", [ops.global_loss, reference.global_loss], ids=["op", "ref"])
each_similarity = pytest.mark.parametrize("similarity", ["cosine", "euclidean"])

# Of HAND_POINTS (see support.inputs) d = (1 - cos) / 2 of unit rows, and a quarter of |x - y|^2 of rows as they are:
#   (a, p, n)   d_ap  d_an     |a - p|^2 / 4  |a - n|^2 / 4
#   (0, 1, 2)   0.2   0.1            5             4.5
#   (4, 0, 3)   1     0.5            1             0.5
# Means 0.6, 0.3 and variances 0.16, 0.04; means 3, 2.5 and variances 4, 4.
TRIPLETS = torch.tensor([[0, 1, 2], [4, 0, 3]])
SWAPPED = TRIPLETS[:, [0, 2, 1]]
HAND_WORKED = {
    "cosine": ({}, TRIPLETS, 0.2 + 0.8 * (0.3 + 0.01)),
    "means in order": ({}, SWAPPED, 0.2),
    "lam and threshold": ({"lam": 2.0, "threshold": 0.5}, TRIPLETS, 0.2 + 2 * 0.8),
    "a threshold that reaches": ({"lam": 2.0, "threshold": 0.5}, SWAPPED, 0.2 + 2 * 0.2),
    "euclidean": ({"similarity": "euclidean"}, TRIPLETS, 8 + 0.8 * 0.51),
    "one triplet has no variance": ({"lam": 1.0}, TRIPLETS[1:], 0.51),
}


@IMPLEMENTATIONS
@pytest.mark.parametrize(("options", "triplets", "value"), HAND_WORKED.values(), ids=HAND_WORKED)
def test_global_loss_hand_worked_values_match(loss, device, options, triplets, value):
    points = HAND_POINTS.embeddings.to(device)
    assert loss(points, triplets.to(device), **options).item() == pytest.approx(value, abs=2e-6)


def test_global_loss_module_matches_equation_3():
    unit = [(1.0, 0.0), (0.6, 0.8), (0.8, 0.6), (0.0, 1.0), (-1.0, 0.0)]
    triplets = torch.tensor([[0, 1, 2], [0, 1, 4], [3, 1, 2], [4, 0, 3], [2, 4, 1]])

    def quarter(i, j):
        return sum((s - t) ** 2 for s, t in zip(unit[i], unit[j], strict=True)) / 4

    positive = [quarter(a, p) for a, p, _ in triplets.tolist()]
    negative = [quarter(a, n) for a, _, n in triplets.tolist()]
    gap = statistics.mean(positive) - statistics.mean(negative) + 0.01
    assert gap > 0.01
    expected = statistics.pvariance(positive) + statistics.pvariance(negative) + 0.8 * gap
    assert losses.GlobalLoss()(HAND_POINTS.embeddings, triplets).item() == pytest.approx(expected, abs=1e-6)


def test_global_loss_hand_worked_gradient_matches():
    """One triplet on a line: d_ap = 4 / 4 and d_an = 1 / 4, with slopes lam and -lam.

    The slope of d in x is (x - y) / 2.
    """
    batch = Batch(torch.tensor([[0.0], [2.0], [-1.0], [9.0]]), torch.tensor([[0, 1, 2]]))
    loss, grad = run_given(ops.global_loss, batch, lam=4.0, threshold=0.0, similarity="euclidean")
    assert loss.item() == 4 * (1 - 0.25)
    # x_p: 4 * (2 - 0) / 2; x_n: -4 * (-1 - 0) / 2; x_a: the negative of both. The upstream gradient is 0.5.
    assert (grad * 2).tolist() == [[-6.0], [4.0], [2.0], [0.0]]


# Exact values


def test_global_loss_small_integers_are_exact(device):
    """Sixty-four triplets, so that means and variances are exact in binary too."""
    batch = Batch(exact_inputs("euclidean").embeddings, random_triplets(61, 64)).to(device)
    for threshold in (0.5, -64.0):
        options = {"lam": 0.75, "threshold": threshold, "similarity": "euclidean"}
        result = run_given(ops.global_loss, batch, **options)
        exact = run_given(reference.global_loss, batch.to(torch.float64), **options)
        assert exact.grad.any(1).sum() > 40
        assert_bitwise_equal(result.loss, exact.loss.float())
        torch.testing.assert_close(result.grad, exact.grad.float(), rtol=0, atol=0)


def test_global_loss_unit_sign_rows_are_exact(device):
    batch = Batch(exact_inputs("cosine").embeddings, random_triplets(61, 64)).to(device)
    result = ops.global_loss(*batch, lam=0.75, threshold=0.5)
    exact = reference.global_loss(*batch.to(torch.float64), lam=0.75, threshold=0.5)
    assert exact > 0
    assert_bitwise_equal(result, exact.float())


@IMPLEMENTATIONS
def test_global_loss_at_kink_has_only_variance_gradient(loss, device):
    """Both means are 1 and the threshold is 0, so the hinge is at its kink. A single triplet has no variance either."""
    x = torch.tensor([[0.0], [2.0], [-2.0]])
    kink = run_given(loss, Batch(x, torch.tensor([[0, 1, 2]])).to(device), threshold=0.0, similarity="euclidean")
    assert kink.loss.item() == 0.0
    assert not kink.grad.any()
    beside = run_given(loss, Batch(x, torch.tensor([[0, 1, 2]])).to(device), threshold=1e-3, similarity="euclidean")
    assert beside.grad.any()


# Accuracy and gradients


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@each_similarity
@pytest.mark.parametrize("threshold", [0.5, -100.0])
def test_global_loss_error_is_at_most_twice_plain_torch(dtype, similarity, threshold, device):
    batch = random_batch(100, 40, 150, spread=2.5, dtype=dtype).to(device)
    options = {"similarity": similarity, "threshold": threshold}
    exact = assert_given_as_accurate_as_plain_torch("global_loss", batch, **options)
    assert exact.loss > 1e-3
    assert exact.grad.any(1).sum() > 60


@each_similarity
@pytest.mark.parametrize("threshold", [0.5, -100.0])
def test_global_loss_float64_matches_reference_to_last_digits(similarity, threshold, device):
    batch = random_batch(100, 40, 150, spread=2.5, dtype=torch.float64).to(device)
    result, expected = run_given_both("global_loss", batch, similarity=similarity, threshold=threshold)
    assert expected.grad.any(1).sum() > 60
    assert_outcomes_close(result, expected, 4e-15)


def test_global_loss_close_rows_far_from_origin_stay_precise():
    """Distances of 1e-3 between rows of length 1e3, and variances of their squares: nothing may cancel out."""
    batch = Batch(1e3 + 1e-3 * torch.randn(20, 16, generator=seeded(4)), random_triplets(20, 40))
    options = {"similarity": "euclidean", "lam": 0.0}
    exact = assert_given_as_accurate_as_plain_torch("global_loss", batch, **options)
    assert exact.loss > 0
    result = ops.global_loss(*batch, **options).item()
    assert result == pytest.approx(exact.loss.item(), rel=1e-5)


@each_similarity
@pytest.mark.parametrize("threshold", [20.0, -100.0], ids=["gap", "no gap"])
def test_global_loss_gradcheck_passes(similarity, threshold, device):
    batch = random_batch(8, 4, 14, spread=1.5, dtype=torch.float64, seed=3).to(device)
    x = batch.embeddings.requires_grad_()

    def loss(x, lam=0.7):
        return ops.global_loss(x, batch.triplets, similarity=similarity, threshold=threshold, lam=lam)

    assert (loss(x) > loss(x, 0.0) + 1e-3) == (threshold > 0)
    assert torch.autograd.gradcheck(loss, x, eps=1e-6, atol=1e-6, rtol=1e-5)
    (gradient,) = torch.autograd.grad(loss(x), x)
    assert gradient.any(1).sum() > 4


@each_similarity
def test_global_loss_compiled_distances_gradcheck_passes(similarity):
    batch = random_batch(12, 5, 20, dtype=torch.float64)
    x = batch.embeddings.requires_grad_()
    options = {"cosine": 0, "euclidean": 2}[similarity], 0.8, 0.5

    def distances(x):
        return torch.ops.hardmine.global_loss(x, batch.triplets, *options)[1:]

    assert torch.autograd.gradcheck(distances, x, eps=1e-6, atol=1e-6, rtol=1e-5)
    outputs = torch.ops.hardmine.global_loss(x, batch.triplets, *options)
    parts = [torch.autograd.grad(output.sum(), x, retain_graph=True)[0] for output in outputs]
    assert all(part.any() for part in parts)
    (together,) = torch.autograd.grad(outputs, x, [torch.ones_like(t) for t in outputs])
    torch.testing.assert_close(together, sum(parts))


# Random shapes


@st.composite
def problems(draw):
    batch = random_batch(
        draw(st.integers(3, 30)),
        draw(st.integers(1, 40)),
        draw(st.integers(0, 60)),
        spread=draw(st.sampled_from([0.3, 1.0])),
        dtype=torch.float64,
        seed=draw(st.integers(0, 10_000)),
    )
    return batch, {
        "lam": draw(st.sampled_from([0.0, 0.8, 5.0])),
        "threshold": draw(st.sampled_from([-0.3, 0.01, 1.0])),
        "similarity": draw(st.sampled_from(["cosine", "euclidean"])),
    }


@settings(max_examples=200, deadline=None, derandomize=True)
@given(problems())
def test_global_loss_random_batches_and_options_match_reference(problem):
    batch, options = problem
    assert_outcomes_close(*run_given_both("global_loss", batch, **options), 1e-10)
