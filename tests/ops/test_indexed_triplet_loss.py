"""The losses on given triplets: values worked by hand, exact values of integers, accuracy, gradients, the reference."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardmine import losses, ops, reference
from support.comparisons import assert_bitwise_equal
from support.inputs import HAND_POINTS, exact_inputs, seeded
from support.ops import REDUCTIONS, SIMILARITIES
from support.runs import effective_options
from triplets import (
    INDEXED_TERMS,
    Batch,
    assert_given_as_accurate_as_plain_torch,
    assert_outcomes_close,
    options_of,
    random_batch,
    random_triplets,
    run_given,
    run_given_both,
)

pytestmark = pytest.mark.emulated

IMPLEMENTATIONS = pytest.mark.parametrize(
    "loss", [ops.indexed_triplet_loss, reference.indexed_triplet_loss], ids=["op", "ref"]
)
each_kind = pytest.mark.parametrize(
    "options", options_of("indexed_triplet_loss"), ids=lambda o: "-".join(map(str, o.values()))
)

# Four triplets of HAND_POINTS (see support.inputs), their cosines, inner products and squared distances:
#   (a, p, n)   cos_ap  cos_an    dot_ap  dot_an    |a - p|^2  |a - n|^2
#   (0, 1, 2)     0.6     0.8        3       4          20         18
#   (0, 1, 4)     0.6    -1          3      -1          20          4
#   (3, 1, 2)     0.8     0.6        4       3          18         20
#   (4, 0, 3)    -1       0         -1       0           4          2
TRIPLETS = torch.tensor([[0, 1, 2], [0, 1, 4], [3, 1, 2], [4, 0, 3]])
HAND_WORKED = {
    # Of unit rows |u - v| = sqrt(2 - 2 cos): d_ap = 0.894427 0.894427 0.632456 2, d_an = 0.632456 2 0.894427 1.414214;
    # 1 - d_an / (d_ap + 0.2): 1 - 0.632456 / 1.094427, below 0, below 0, 1 - 1.414214 / 2.2.
    "ratio": ({}, [0.422112, 0.0, 0.0, 0.357175]),
    # 1 - 0.632456 / 1.894427, 1 - 2 / 1.894427 < 0, 1 - 0.894427 / 1.632456, 1 - 1.414214 / 3
    "ratio, margin 1": ({"margin": 1.0}, [0.666149, 0.0, 0.452097, 0.528595]),
    # d_ap = 4.472136 4.472136 4.242641 2, d_an = 4.242641 2 4.472136 1.414214
    "ratio of distances": ({"similarity": "euclidean"}, [0.091927, 0.571930, 0.0, 0.357175]),
    # softplus of 10 x, x = cos_an - cos_ap = 0.2, -1.6, -0.2, 1
    "nca": ({"term": "nca"}, [2.126928, 1.125352e-7, 0.126928, 10.000045]),
    "nca, temperature 0.5": ({"term": "nca", "temperature": 0.5}, [0.913015, 0.039953, 0.513015, 2.126928]),
    "hinge": ({"term": "hinge", "margin": 0.3}, [0.5, 0.0, 0.1, 1.3]),
    "hinge of inner products": ({"term": "hinge", "margin": 0.5, "similarity": "dot"}, [1.5, 0.0, 0.0, 1.5]),
    "hinge of distances": (
        {"term": "hinge", "margin": 1.0, "similarity": "euclidean"},
        [1.229495, 3.472136, 0.770505, 1.585786],
    ),
    "soft margin": ({"term": "soft_margin"}, [0.798139, 0.183901, 0.598139, 1.313262]),
    # The first and the last are hard: lam * cos_an.
    "sct": ({"term": "sct", "lam": 0.5}, [0.4, 1.125352e-7, 0.126928, 0.0]),
}


@IMPLEMENTATIONS
@pytest.mark.parametrize(("options", "values"), HAND_WORKED.values(), ids=HAND_WORKED)
def test_indexed_triplet_loss_hand_worked_values_match(loss, device, options, values):
    points, triplets = HAND_POINTS.embeddings.to(device), TRIPLETS.to(device)
    assert loss(points, triplets, **options, reduction="none").tolist() == pytest.approx(values, abs=2e-6)
    assert loss(points, triplets, **options, reduction="sum").item() == pytest.approx(sum(values), abs=2e-6)
    assert loss(points, triplets, **options).item() == pytest.approx(sum(values) / 4, abs=2e-6)


def test_ratio_module_matches_equation_2():
    """Equation 2 of the paper, term by term: two of four triplets are active."""
    unit = [(1.0, 0.0), (0.6, 0.8), (0.8, 0.6), (0.0, 1.0), (-1.0, 0.0)]
    expected = [
        max(0.0, 1 - math.dist(unit[a], unit[n]) / (math.dist(unit[a], unit[p]) + 0.2)) for a, p, n in TRIPLETS.tolist()
    ]
    assert sum(value > 0 for value in expected) == 2
    module = losses.RatioTripletLoss()
    assert module(HAND_POINTS.embeddings, TRIPLETS).item() == pytest.approx(sum(expected) / 4, abs=1e-6)
    assert module(HAND_POINTS.embeddings, TRIPLETS).item() == pytest.approx(0.194822, abs=1e-6)


def test_indexed_triplet_loss_hand_worked_gradient_matches():
    """d_ap = 5, d_an = 10: r = 5 + 15; the slope of d_ap is 10 / 20^2, that of d_an -1 / 20."""
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, -10.0], [7.0, 7.0]])
    batch = Batch(x, torch.tensor([[0, 1, 2]]))
    loss, grad = run_given(ops.indexed_triplet_loss, batch, margin=15.0, similarity="euclidean", reduction="sum")
    assert loss.item() == 0.5
    of_p, of_n = torch.tensor([0.6, 0.8]) / 40, torch.tensor([0.0, -1.0]) / -20
    torch.testing.assert_close(grad * 2, torch.stack([-of_p - of_n, of_p, of_n, torch.zeros(2)]))  # upstream: 0.5


# Exact values


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_indexed_triplet_loss_hinge_of_integers_is_exact(similarity, reduction, device):
    batch = Batch(exact_inputs(similarity).embeddings, random_triplets(61, 128)).to(device)
    options = {"term": "hinge", "margin": 0.5, "similarity": similarity, "reduction": reduction}
    result, expected = run_given_both("indexed_triplet_loss", batch, **options)
    assert expected.loss.count_nonzero() > 0
    assert_bitwise_equal(result.loss, expected.loss)
    if similarity == "dot" and reduction != "none":
        assert expected.grad.any(1).sum() > 40
        torch.testing.assert_close(result.grad, expected.grad, rtol=0, atol=0)


def test_indexed_triplet_loss_ratio_of_integers_is_exact(device):
    """The distances carry no rounding error, so the quotient is rounded as PyTorch's is."""
    x = torch.randint(-50, 50, (61, 1), generator=seeded(3)).float()
    batch = Batch(x, random_triplets(61, 300)).to(device)
    options = {"margin": 0.5, "similarity": "euclidean", "reduction": "none"}
    result, expected = run_given_both("indexed_triplet_loss", batch, **options)
    assert 50 < (expected.loss > 0).sum() < 250
    assert_bitwise_equal(result.loss, expected.loss)


@IMPLEMENTATIONS
def test_indexed_triplet_loss_ratio_at_kink_has_zero_gradient(loss, device):
    """d_an = d_ap + margin exactly; then slightly less."""
    x = torch.tensor([[0.0], [1.0], [-1.25], [-1.0]])
    kink = run_given(loss, Batch(x, torch.tensor([[0, 1, 2]])).to(device), margin=0.25, similarity="euclidean")
    assert kink.loss.item() == 0.0
    assert not kink.grad.any()
    beside = run_given(loss, Batch(x, torch.tensor([[0, 1, 3]])).to(device), margin=0.25, similarity="euclidean")
    assert beside.loss.item() == pytest.approx(0.2)
    assert beside.grad.any()


@IMPLEMENTATIONS
@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_indexed_triplet_loss_ratio_of_equal_rows_is_defined(loss, similarity, device):
    """For a positive equal to its anchor, r is the margin, and the distance has the subgradient 0.

    For a negative equal to its anchor, the loss is 1 - 0.
    """
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], device=device)
    near = run_given(loss, Batch(x, torch.tensor([[0, 1, 2]])).to(device), margin=2.0, similarity=similarity)
    assert near.loss.item() == pytest.approx(1 - math.sqrt(2) / 2)
    assert not near.grad[1].any()
    assert near.grad.isfinite().all()
    assert near.grad[2].any()
    far = run_given(loss, Batch(x, torch.tensor([[0, 2, 1]])).to(device), margin=2.0, similarity=similarity)
    assert far.loss.item() == 1.0
    assert not far.grad.any()


def test_indexed_triplet_loss_mean_counts_repeated_triplets():
    batch = random_batch()
    once = ops.indexed_triplet_loss(*batch, reduction="sum")
    assert once > 0
    again = torch.cat([batch.triplets, batch.triplets[:20]])
    more = ops.indexed_triplet_loss(batch.embeddings, again, reduction="sum")
    each = ops.indexed_triplet_loss(*batch, reduction="none")
    torch.testing.assert_close(more, once + each[:20].sum())
    torch.testing.assert_close(ops.indexed_triplet_loss(*batch), once / 60)


# Accuracy and gradients


@pytest.mark.thinned(5)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@each_kind
def test_indexed_triplet_loss_error_is_at_most_twice_plain_torch(dtype, options, device):
    batch = random_batch(100, 40, 150, spread=2.5, dtype=dtype).to(device)
    exact = assert_given_as_accurate_as_plain_torch("indexed_triplet_loss", batch, **options, reduction="none")
    assert exact.loss.count_nonzero() > 20
    assert exact.grad.any(1).sum() > 60


@each_kind
def test_indexed_triplet_loss_float64_matches_reference_to_last_digits(options, device):
    batch = random_batch(100, 40, 150, spread=2.5, dtype=torch.float64).to(device)
    for reduction in REDUCTIONS:
        result, expected = run_given_both("indexed_triplet_loss", batch, **options, reduction=reduction)
        assert expected.grad.any(1).sum() > 60
        assert_outcomes_close(result, expected, 4e-15)


def test_indexed_triplet_loss_close_rows_far_from_origin_stay_precise():
    """Distances of 1e-3 between rows of length 1e3 are computed from differences, not from inner products."""
    x = 1e3 + 1e-3 * torch.randn(20, 16, generator=seeded(4))
    batch = Batch(x, random_triplets(20, 40))
    options = {"similarity": "euclidean", "margin": 1e-3, "reduction": "none"}
    exact = assert_given_as_accurate_as_plain_torch("indexed_triplet_loss", batch, **options)
    assert exact.loss.count_nonzero() > 10


@pytest.mark.thinned(5)
@each_kind
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_indexed_triplet_loss_gradcheck_passes(options, reduction, device):
    batch = random_batch(8, 4, 14, spread=1.5, dtype=torch.float64, seed=3).to(device)
    x = batch.embeddings.requires_grad_()
    options = effective_options({**options, "reduction": reduction, "lam": 0.7})
    _, s_ap, s_an = measures(x, batch.triplets, options)
    gap = {"ratio": s_an - s_ap + 0.2, "hinge": s_an - s_ap + 0.2, "sct": s_an - s_ap}.get(options["term"])
    if gap is not None:  # values lie away from the kink, and on both sides of it
        assert gap.abs().min() > 1e-3
        assert (gap > 0).any()
        assert (gap < 0).any()

    def loss(x):
        return ops.indexed_triplet_loss(x, batch.triplets, **options)

    assert torch.autograd.gradcheck(loss, x, eps=1e-6, atol=1e-6, rtol=1e-5)
    (gradient,) = torch.autograd.grad(loss(x).sum(), x)
    assert gradient.any(1).sum() > 4


def measures(x, triplets, options):
    """The compiled op's own outputs: loss, s_ap, s_an."""
    similarity = SIMILARITIES.index(options["similarity"])
    term = ("nca", "hinge", "soft_margin", "sct", "ratio").index(options["term"])
    reduction = REDUCTIONS.index(options.get("reduction", "mean"))
    return torch.ops.hardmine.indexed_triplet_loss(x, triplets, similarity, term, 0.7, 0.2, 0.7, reduction)


@each_kind
def test_indexed_triplet_loss_compiled_similarities_gradcheck_passes(options):
    batch = random_batch(12, 5, 20, dtype=torch.float64)
    x = batch.embeddings.requires_grad_()

    def similarities(x):
        return measures(x, batch.triplets, options)[1:]

    assert torch.autograd.gradcheck(similarities, x, eps=1e-6, atol=1e-6, rtol=1e-5)
    loss, s_ap, s_an = measures(x, batch.triplets, options)
    parts = [torch.autograd.grad(output.sum(), x, retain_graph=True)[0] for output in (loss, s_ap, s_an)]
    assert all(part.any() for part in parts)
    (together,) = torch.autograd.grad([loss, s_ap, s_an], x, [torch.ones_like(t) for t in (loss, s_ap, s_an)])
    torch.testing.assert_close(together, sum(parts))


# Random shapes


@st.composite
def problems(draw):
    rows = draw(st.integers(3, 30))
    batch = random_batch(
        rows,
        draw(st.integers(1, 40)),
        draw(st.integers(0, 60)),
        spread=draw(st.sampled_from([0.3, 1.0])),
        dtype=torch.float64,
        seed=draw(st.integers(0, 10_000)),
    )
    options = {
        "term": draw(st.sampled_from(INDEXED_TERMS)),
        "similarity": draw(st.sampled_from(SIMILARITIES)),
        "temperature": draw(st.sampled_from([0.05, 1.0])),
        "margin": draw(st.sampled_from([0.05, 0.3, 2.0])),
        "lam": draw(st.sampled_from([0.1, 1.0])),
        "reduction": draw(st.sampled_from(REDUCTIONS)),
    }
    if options["term"] == "ratio" and options["similarity"] == "dot":
        options["similarity"] = "cosine"
    return batch, effective_options(options)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(problems())
def test_indexed_triplet_loss_random_batches_and_options_match_reference(problem):
    batch, options = problem
    assert_outcomes_close(*run_given_both("indexed_triplet_loss", batch, **options), 1e-10)
