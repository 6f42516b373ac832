"""The tuplet losses: values worked by hand, both ways to sum exponentials, accuracy, and against the reference."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardmine import ops, reference
from hardmine.reference.select_triplets import candidate_pairs
from support.comparisons import (
    assert_as_accurate_as_plain_torch,
    assert_bitwise_equal,
    assert_results_close,
    largest_error,
)
from support.inputs import HAND_POINTS, Inputs, exact_inputs, inputs_of_sizes, random_inputs
from support.ops import POSITIVES, REDUCTIONS, SIMILARITIES
from support.runs import leaves_of, run, run_both

pytestmark = pytest.mark.emulated

IMPLEMENTATIONS = pytest.mark.parametrize("loss", [ops.tuplet_loss, reference.tuplet_loss], ids=["op", "ref"])
each_positive = pytest.mark.parametrize("positive", POSITIVES)
each_similarity = pytest.mark.parametrize("similarity", SIMILARITIES)
with_and_without_refs = pytest.mark.parametrize("refs", [None, 150], ids=["self", "refs"])

# For the cosine similarity, temperatures of at least 0.0451 share one exponent shift among all anchors; lower ones have
# one shift per anchor. The other similarities always have one shift per anchor.
TEMPERATURES = (0.01, 0.046, *(pytest.param(t, marks=pytest.mark.cpu) for t in (0.045, 0.1, 1.0)))


def tuplet(s_ap: float, *s_an: float, temperature: float) -> float:
    """-log(exp(s_ap) / (exp(s_ap) + sum of exp(s_an))), with similarities divided by the temperature."""
    positive, *negatives = (math.exp(s / temperature) for s in (s_ap, *s_an))
    return -math.log(positive / (positive + sum(negatives)))


# Of HAND_POINTS (labels 0 0 1 0 1): each anchor's positives and negatives, with their cosines and squared distances.
#   0: positives 1, 3: 0.6   0      20   2      negatives 2, 4:     0.8   -1         18   4
#   1: positives 0, 3: 0.6   0.8    20  18      negatives 2, 4:     0.96  -0.6        2  32
#   2: positive  4:   -0.8          34          negatives 0, 1, 3:  0.8   0.96  0.6  18   2  20
#   3: positives 0, 1: 0     0.8     2  18      negatives 2, 4:     0.6    0         20   2
#   4: positive  2:   -0.8          34          negatives 0, 1, 3: -1    -0.6   0     4  32   2
HAND_WORKED = {
    # log(1 + exp(0.8 - 0.6) + exp(-1 - 0.6)) = log(1 + 1.221403 + 0.201897), and so on
    "easiest": (
        {"positive": "easiest", "temperature": 1.0},
        [
            math.log(1 + math.exp(0.2) + math.exp(-1.6)),
            math.log(1 + math.exp(0.16) + math.exp(-1.4)),
            math.log(1 + math.exp(1.6) + math.exp(1.76) + math.exp(1.4)),
            math.log(1 + math.exp(-0.2) + math.exp(-0.8)),
            math.log(1 + math.exp(-0.2) + math.exp(0.2) + math.exp(0.8)),
        ],
    ),
    "hardest": (
        {"positive": "hardest", "temperature": 0.5},
        [
            math.log(1 + math.exp(1.6) + math.exp(-2.0)),
            math.log(1 + math.exp(0.72) + math.exp(-2.4)),
            math.log(1 + math.exp(3.2) + math.exp(3.52) + math.exp(2.8)),
            math.log(1 + math.exp(1.2) + math.exp(0.0)),
            math.log(1 + math.exp(-0.4) + math.exp(0.4) + math.exp(1.6)),
        ],
    ),
    "all": (
        {"positive": "all", "temperature": 0.1},
        [
            (math.log(1 + math.exp(2.0) + math.exp(-16.0)) + math.log(1 + math.exp(8.0) + math.exp(-10.0))) / 2,
            (math.log(1 + math.exp(3.6) + math.exp(-12.0)) + math.log(1 + math.exp(1.6) + math.exp(-14.0))) / 2,
            math.log(1 + math.exp(16.0) + math.exp(17.6) + math.exp(14.0)),
            (math.log(1 + math.exp(6.0) + math.exp(0.0)) + math.log(1 + math.exp(-2.0) + math.exp(-8.0))) / 2,
            math.log(1 + math.exp(-2.0) + math.exp(2.0) + math.exp(8.0)),
        ],
    ),
    # s = -d: the nearest positives are at squared distances 2, 18, 34, 2, 34
    "euclidean": (
        {"positive": "easiest", "temperature": 2.0, "similarity": "euclidean"},
        [
            tuplet(-(2**0.5), -(18**0.5), -2.0, temperature=2.0),
            tuplet(-(18**0.5), -(2**0.5), -(32**0.5), temperature=2.0),
            tuplet(-(34**0.5), -(18**0.5), -(2**0.5), -(20**0.5), temperature=2.0),
            tuplet(-(2**0.5), -(20**0.5), -(2**0.5), temperature=2.0),
            tuplet(-(34**0.5), -2.0, -(32**0.5), -(2**0.5), temperature=2.0),
        ],
    ),
    # Positives above 0.7 are dropped: anchors 1 and 3 use 0.6 and 0
    "near duplicates": (
        {"positive": "all", "temperature": 0.5, "duplicate_threshold": 0.7},
        [
            (tuplet(0.6, 0.8, -1.0, temperature=0.5) + tuplet(0.0, 0.8, -1.0, temperature=0.5)) / 2,
            tuplet(0.6, 0.96, -0.6, temperature=0.5),
            tuplet(-0.8, 0.8, 0.96, 0.6, temperature=0.5),
            tuplet(0.0, 0.6, 0.0, temperature=0.5),
            tuplet(-0.8, -1.0, -0.6, 0.0, temperature=0.5),
        ],
    ),
    # The easiest of those that remain. With -0.9 only anchors 2 and 4 would keep a positive, with -0.85 none does.
    "no positive left": ({"positive": "easiest", "duplicate_threshold": -0.85}, [None] * 5),
}


@IMPLEMENTATIONS
@pytest.mark.parametrize(("options", "losses"), HAND_WORKED.values(), ids=HAND_WORKED)
def test_tuplet_loss_hand_worked_values_match(loss, device, options, losses):
    points = HAND_POINTS.to(device)
    counted = [value for value in losses if value is not None]
    expected = [0.0 if value is None else value for value in losses]
    assert loss(*points, **options, reduction="none").tolist() == pytest.approx(expected, abs=4e-6)
    assert loss(*points, **options, reduction="sum").item() == pytest.approx(sum(counted), abs=8e-6)
    assert loss(*points, **options).item() == pytest.approx(sum(counted) / max(len(counted), 1), abs=4e-6)


@IMPLEMENTATIONS
def test_tuplet_loss_hand_worked_terms_match(loss, device):
    points = HAND_POINTS.to(device)
    for positive, index, s_ap in (
        ("easiest", [1, 3, 4, 1, 2], [0.6, 0.8, -0.8, 0.8, -0.8]),
        ("hardest", [3, 0, 4, 0, 2], [0.0, 0.6, -0.8, 0.0, -0.8]),
        ("all", [-1] * 5, [math.nan] * 5),
    ):
        value, terms = loss(*points, positive=positive, temperature=0.5, reduction="none", return_terms=True)
        assert terms.positive_index.tolist() == index
        assert terms.positive_similarity.tolist() == pytest.approx(s_ap, abs=1e-6, nan_ok=True)
        level = [math.log(sum(math.exp(2 * s) for s in negatives)) for negatives in NEGATIVES_BY_HAND]
        assert terms.negative_logsumexp.tolist() == pytest.approx(level, abs=2e-6)
        assert_bitwise_equal(value, loss(*points, positive=positive, temperature=0.5, reduction="none"))


NEGATIVES_BY_HAND = [[0.8, -1.0], [0.96, -0.6], [0.8, 0.96, 0.6], [0.6, 0.0], [-1.0, -0.6, 0.0]]


def test_tuplet_loss_defaults_are_ep():
    """The defaults are EP: the easiest positive, temperature 0.1, mean."""
    s_ap = [0.6, 0.8, -0.8, 0.8, -0.8]
    each = [tuplet(s, *negatives, temperature=0.1) for s, negatives in zip(s_ap, NEGATIVES_BY_HAND, strict=True)]
    assert ops.tuplet_loss(*HAND_POINTS).item() == pytest.approx(sum(each) / 5, abs=1e-6)


# What is dropped, and what is reported about it


@IMPLEMENTATIONS
@each_positive
def test_tuplet_loss_anchors_without_pairs_are_excluded(loss, positive, device):
    """Anchor 0 has both, 1 no positive, 2 no negative, 3 neither; no ref has the class of anchors 4 and 5."""
    x = torch.eye(4, 3) + 0.5
    refs = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    cases = [([7, 8], [7, 7, 8], [True, True]), ([7, 9], [7, 7, 8], [True, False]), ([7, 7], [7, 7, 7], [False, False])]
    for labels, ref_labels, valid in cases:
        inputs = Inputs(x[:2], torch.tensor(labels), refs, torch.tensor(ref_labels)).to(device)
        value, terms = loss(*inputs, positive=positive, reduction="none", return_terms=True)
        assert (value > 0).tolist() == valid
        assert terms.negative_logsumexp.isinf().tolist() == [len({label, *ref_labels}) == 1 for label in labels]
        has_positive = [label in ref_labels and positive != "all" for label in labels]
        assert (terms.positive_index >= 0).tolist() == has_positive
        assert (~terms.positive_similarity.isnan()).tolist() == has_positive
        assert loss(*inputs, positive=positive).item() == pytest.approx(value.sum().item() / max(sum(valid), 1))


@each_positive
@with_and_without_refs
@each_similarity
def test_tuplet_loss_small_integers_give_exact_positives(similarity, refs, positive, device):
    inputs = exact_inputs(similarity, depth=4, refs=refs).to(device)
    options = {"similarity": similarity, "positive": positive, "temperature": 2.0}
    result, expected = run_both("tuplet_loss", inputs, **options)
    for actual, wanted in zip(result.selection[:2], expected.selection[:2], strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=0, equal_nan=True)
    assert_results_close(result, expected, 1e-5)
    if positive != "all" and refs is None:
        s, positives, _ = candidate_pairs(*inputs, similarity=similarity)
        ties = (s == expected.selection[1][:, None]) & positives
        assert (ties.sum(1) > 1).sum() > 2, "ties are what the lowest index decides"


def test_tuplet_loss_duplicate_threshold_keeps_equal_similarity(device):
    """0.5 is not above 0.5. Anchor 0 has positives 0.5 and 0.25 among the refs, and a negative 0."""
    inputs = Inputs(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), torch.tensor([[0.5, 1], [0.25, 1], [0, 1]]), Y_REFS)
    for threshold, kept in ((0.5, [0.5, 0.25]), (0.49, [0.25]), (0.2, [])):
        options = {"similarity": "dot", "temperature": 0.25, "duplicate_threshold": threshold}
        each = [math.log1p(math.exp(-s / 0.25)) for s in kept]
        chosen = {"easiest": each[:1], "hardest": each[-1:], "all": each}
        for positive, values in chosen.items():
            loss = ops.tuplet_loss(*inputs.to(device), **options, positive=positive)
            assert loss.item() == pytest.approx(sum(values) / max(len(values), 1), abs=1e-6)


Y_REFS = torch.tensor([0, 0, 1])


# Relations between the losses


@each_similarity
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_tuplet_loss_two_per_class_makes_positives_equal(similarity, temperature, device):
    """EP, HP and Batch All equal N-pair here, as WACV 2020 says at the end of section 4."""
    inputs = random_inputs(200, 16, spread=2.0)._replace(labels=torch.arange(200) % 100).to(device)
    easiest, hardest, every = (
        run(ops.tuplet_loss, inputs, positive=positive, similarity=similarity, temperature=temperature)
        for positive in POSITIVES
    )
    assert_results_close(easiest, hardest, 0.0)
    for a, b in ((every.loss, easiest.loss), (every.grad, easiest.grad)):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * b.abs().max().item())


@each_similarity
def test_tuplet_loss_one_negative_equals_nca(similarity, device):
    inputs = random_inputs(40, 8, 2, seed=3)
    labels = torch.cat([torch.zeros(39, dtype=torch.int64), torch.ones(1, dtype=torch.int64)])
    for positive in ("easiest", "hardest"):
        options = {"positive": positive, "similarity": similarity, "temperature": 0.3, "reduction": "none"}
        given = inputs._replace(labels=labels).to(device)
        one = run(ops.tuplet_loss, given, **options)
        two = run(ops.triplet_loss, given, **options, negative="hardest", term="nca")
        torch.testing.assert_close(one.loss, two.loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-5 * two.grad.abs().max().item())


@each_similarity
@each_positive
def test_tuplet_loss_batch_as_refs_adds_anchor_itself(similarity, positive, device):
    """Given as refs, the sample is its own positive; a threshold just below that similarity drops it again."""
    x, labels = random_inputs(60, 8, spread=2.0, dtype=torch.float64)[:2]
    itself = {"cosine": 1.0, "euclidean": 0.0}.get(similarity)
    if itself is None:
        x, itself = torch.nn.functional.normalize(x), 1.0
    options = {"positive": positive, "similarity": similarity, "temperature": 0.2, "reduction": "none"}
    alone = ops.tuplet_loss(*Inputs(x, labels).to(device), **options)
    with_refs = Inputs(x, labels, x.clone(), labels).to(device)
    assert (ops.tuplet_loss(*with_refs, **options) - alone).abs().max() > 0.01 or positive == "hardest"
    threshold = itself - 1e-9
    torch.testing.assert_close(ops.tuplet_loss(*with_refs, **options, duplicate_threshold=threshold), alone)


@pytest.mark.cpu
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("temperature", [0.02, 0.1])
def test_tuplet_loss_sums_and_means_are_rounded_once(reduction, temperature, device):
    """A float32 sum of 3000 numbers would be off by more than the single rounding of the op."""
    inputs = random_inputs(3000, 8, 50, spread=1.0).to(device)
    each = ops.tuplet_loss(*inputs, reduction="none", temperature=temperature).double()
    loss = ops.tuplet_loss(*inputs, reduction=reduction, temperature=temperature)
    assert loss.item() == pytest.approx(getattr(each, reduction)().item(), rel=2**-23)


# Accuracy, shapes and extremes


@pytest.mark.thinned(7)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@each_similarity
@with_and_without_refs
@each_positive
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_tuplet_loss_error_is_at_most_twice_plain_torch(dtype, similarity, refs, positive, temperature, device):
    inputs = random_inputs(200, 40, refs=refs, dtype=dtype, spread=2.5).to(device)
    scale = {"cosine": 1, "dot": 100, "euclidean": 10}[similarity]
    options = {"similarity": similarity, "positive": positive, "temperature": temperature * scale}
    exact = assert_as_accurate_as_plain_torch("tuplet_loss", inputs, **options, reduction="none")
    assert (exact.loss > 0.01).sum() > 60
    assert exact.grad.any(1).sum() > 60


@pytest.mark.cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_positive
@pytest.mark.parametrize("size", [1e3, 1e5])
def test_tuplet_loss_large_similarities_do_not_overflow(dtype, positive, size, device):
    """Similarities up to ``size`` over a temperature of 0.1: their exp would be infinite."""
    inputs = random_inputs(100, 8, dtype=dtype, seed=5)
    largest = inputs.embeddings.norm(dim=1).max().item()
    inputs = inputs._replace(embeddings=inputs.embeddings * (size**0.5 / largest)).to(device)
    options = {"similarity": "dot", "positive": positive, "reduction": "none"}
    result = run(ops.tuplet_loss, inputs, **options)
    exact = run(reference.tuplet_loss, inputs.to(torch.float64), **options)
    assert exact.loss.max() > 10 * size / 20
    assert (exact.loss == 0).any() or exact.loss.min() < 1e-3, "and to the other side"
    error = 4 * torch.finfo(dtype).eps * size / 0.1
    assert largest_error(result.loss, exact.loss) <= error
    assert largest_error(result.selection[2], exact.selection[2]) <= error
    assert result.grad.isfinite().all()
    assert largest_error(result.grad, exact.grad) <= 8 * error * exact.grad.abs().max()


def test_tuplet_loss_softplus_tail_is_precise(device):
    """With one negative far below the positive, the loss is exp(-20) to float32's relative precision, not 0."""
    inputs = Inputs(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), torch.tensor([[2.0, 0], [0.0, 1]]), Y_REFS[1:])
    for positive in POSITIVES:
        result = run(ops.tuplet_loss, inputs.to(device), similarity="dot", temperature=0.1, positive=positive)
        assert result.loss.item() == pytest.approx(math.exp(-20), rel=1e-4)
        assert result.ref_grad[0, 0].item() == pytest.approx(-10 * math.exp(-20), rel=1e-4)
        assert result.ref_grad[1, 0].item() == pytest.approx(10 * math.exp(-20), rel=1e-4)


@pytest.mark.thinned(7)
@pytest.mark.cpu
@pytest.mark.parametrize("rows", [95, 96, 97, 191, 192, 193, 288, 384, 385, 1000])
@pytest.mark.parametrize("temperature", [0.02, 0.1])
@each_positive
def test_tuplet_loss_rows_around_block_sizes_match_reference(rows, temperature, positive, device):
    for classes in (2, 7, rows // 2):
        inputs = random_inputs(rows, 3, classes, dtype=torch.float64, seed=rows).to(device)
        options = {"temperature": temperature, "positive": positive}
        assert_results_close(*run_both("tuplet_loss", inputs, **options), 1e-11)


@pytest.mark.thinned(7)
@pytest.mark.cpu
@pytest.mark.parametrize(("rows", "refs"), [(1, 400), (3, 2000), (400, 1), (97, 193), (193, 97), (1000, 385)])
@each_similarity
@each_positive
def test_tuplet_loss_few_anchors_or_refs_match_reference(rows, refs, similarity, positive, device):
    inputs = random_inputs(rows, 5, 4, refs, dtype=torch.float64, seed=1).to(device)
    options = {"similarity": similarity, "positive": positive, "temperature": 0.3}
    assert_results_close(*run_both("tuplet_loss", inputs, **options), 1e-11)


CLASS_SIZES = {
    "two huge": [600, 500],
    "one huge, many small": [300, *[2] * 50, *[1] * 30],
    "of every size": [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144],
    "all but one in one class": [300, 1],
    "blocks of one class each": [96, 96, 192, 96],
}


@pytest.mark.thinned(7)
@pytest.mark.cpu
@pytest.mark.parametrize("sizes", CLASS_SIZES.values(), ids=CLASS_SIZES)
@each_similarity
@each_positive
def test_tuplet_loss_class_sizes_match_reference(sizes, similarity, positive, device):
    inputs = inputs_of_sizes(sizes, 6).to(device)
    for temperature in (0.02, 0.2):
        options = {"similarity": similarity, "positive": positive, "temperature": temperature}
        assert_results_close(*run_both("tuplet_loss", inputs, **options), 1e-10)


@each_positive
@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_tuplet_loss_equal_rows_give_log_of_negatives(similarity, positive, device):
    """Collapsed embeddings: all similarities are equal, and the loss is log(1 + number of negatives)."""
    inputs = Inputs(torch.tensor([[0.6, 0.8]]).expand(200, 2), torch.arange(200) % 5).to(device)
    for temperature in (0.02, 0.1):
        options = {"similarity": similarity, "positive": positive, "temperature": temperature}
        result = run(ops.tuplet_loss, inputs, **options, reduction="none")
        assert result.loss.tolist() == pytest.approx([math.log(161)] * 200, rel=1e-5)
        if positive != "all":
            lowest = torch.where(torch.arange(200) < 5, torch.arange(200) + 5, torch.arange(200) % 5)
            assert result.selection[0].tolist() == lowest.tolist()
        assert result.grad.isfinite().all()
        if similarity == "euclidean":
            assert not result.grad.any(), "the subgradient 0"


# Gradients


@pytest.mark.thinned(13)
@each_similarity
@with_and_without_refs
@each_positive
@pytest.mark.parametrize("reduction", ["mean", *(pytest.param(r, marks=pytest.mark.cpu) for r in ("sum", "none"))])
@pytest.mark.parametrize("temperature", [0.04, 0.5])
def test_tuplet_loss_gradcheck_passes(similarity, refs, positive, reduction, temperature, device):
    """The spread of the inputs keeps them away from ties; the loss has no other kinks."""
    inputs = random_inputs(12, 4, 3, refs and 20, spread=1.2, dtype=torch.float64, seed=1).to(device)
    options = {"similarity": similarity, "positive": positive, "reduction": reduction}
    options["temperature"] = temperature * (10 if similarity == "dot" else 1)
    leaves = leaves_of(inputs)

    def function(x, refs=None):
        return ops.tuplet_loss(x, inputs.labels, refs, inputs.ref_labels, **options)

    assert torch.autograd.gradcheck(function, leaves, eps=1e-6, atol=1e-5, rtol=1e-5)
    assert all(g.any(1).sum() > 5 for g in torch.autograd.grad(function(*leaves).sum(), leaves))


def test_tuplet_loss_hand_worked_gradient_matches(device):
    """One anchor a = (1, 2), its positive p = (3, 1) and negatives n = (2, 2) and m = (0, 2), all by dot product.

    The similarities are 5, 6 and 4. With w_n = e / (1 + e + 1/e) and w_m = (1/e) / (1 + e + 1/e), the shares of the
    negatives, the gradient is w_n n + w_m m - (w_n + w_m) p in a, -(w_n + w_m) a in p, w_n a in n and w_m a in m.
    """
    refs = torch.tensor([[3.0, 1.0], [2.0, 2.0], [0.0, 2.0]])
    inputs = Inputs(torch.tensor([[1.0, 2.0]]), torch.tensor([0]), refs, torch.tensor([0, 1, 2])).to(device)
    whole = 1 + math.e + 1 / math.e
    w_n, w_m = math.e / whole, 1 / math.e / whole
    for positive in POSITIVES:
        result = run(ops.tuplet_loss, inputs, positive=positive, similarity="dot", temperature=1.0)
        assert result.loss.item() == pytest.approx(math.log(whole), rel=1e-6)
        expected = [2 * w_n - 3 * (w_n + w_m), 2 * w_n + 2 * w_m - (w_n + w_m)]
        assert result.grad.tolist()[0] == pytest.approx(expected, rel=1e-5)
        for actual, weight in zip(result.ref_grad.tolist(), (-(w_n + w_m), w_n, w_m), strict=True):
            assert actual == pytest.approx([weight, 2 * weight], rel=1e-5)


@each_similarity
def test_tuplet_loss_upstream_gradient_of_one_anchor_matches(similarity, device):
    """With weight on one anchor alone, its gradient equals that of the loss of this anchor against refs."""
    x, labels = (t.to(device) for t in random_inputs(30, 6, 4, dtype=torch.float64)[:2])
    x.requires_grad_()
    options = {"similarity": similarity, "positive": "all", "temperature": 1.0}
    each = ops.tuplet_loss(x, labels, **options, reduction="none")
    (grad,) = torch.autograd.grad(each[7], x)
    others = torch.arange(30) != 7
    alone = Inputs(x[7:8].detach(), labels[7:8], x[others].detach(), labels[others])
    result = run(ops.tuplet_loss, alone, **options)
    torch.testing.assert_close(grad[7:8], result.grad)
    torch.testing.assert_close(grad[others], result.ref_grad)
    assert grad.any(1).all()


# Random inputs and options


@st.composite
def problems(draw):
    inputs = random_inputs(
        rows=draw(st.integers(0, 40)),
        depth=draw(st.integers(1, 20)),
        classes=draw(st.integers(1, 6)),
        refs=draw(st.none() | st.integers(0, 40)),
        spread=draw(st.sampled_from([0.3, 1.0])),
        dtype=torch.float64,
        seed=draw(st.integers(0, 10_000)),
    )
    options = {
        "similarity": draw(st.sampled_from(SIMILARITIES)),
        "positive": draw(st.sampled_from(POSITIVES)),
        "temperature": draw(st.sampled_from([0.04, 0.1, 1.0])),
        "reduction": draw(st.sampled_from(REDUCTIONS)),
        "duplicate_threshold": draw(st.none() | st.sampled_from([-1.3, 0.8])),
    }
    return inputs, options


@settings(max_examples=300, deadline=None, derandomize=True)
@given(problems())
def test_tuplet_loss_random_inputs_and_options_match_reference(problem):
    inputs, options = problem
    assert_results_close(*run_both("tuplet_loss", inputs, **options), 1e-10)


@pytest.mark.parametrize("positive", ["easiest", "hardest"])
@each_similarity
@pytest.mark.parametrize("refs", [None, 50])
def test_tuplet_loss_with_tensor_temperature_matches_reference(positive, similarity, refs):
    """Some anchors have no positive or no negative; the temperature gets a gradient."""
    inputs = random_inputs(60, 7, 25, refs, dtype=torch.float64)
    for reduction, threshold in (("mean", None), ("none", 0.5), ("sum", None)):
        options = {"positive": positive, "similarity": similarity, "reduction": reduction}
        options |= {"duplicate_threshold": threshold, "return_terms": True, "return_count": True}
        found = []
        for library in (ops, reference):
            leaves = [t.detach().clone().requires_grad_() for t in inputs[::2] if t is not None]
            t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
            rest = () if refs is None else (leaves[1], inputs.ref_labels)
            loss, terms, count = library.tuplet_loss(leaves[0], inputs.labels, *rest, temperature=t, **options)
            weights = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).reshape(loss.shape)
            found.append([loss, *terms, count, *torch.autograd.grad((loss * weights).sum(), [*leaves, t])])
        for a, e in zip(*found, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-11, equal_nan=True)
        assert 0 < found[0][4] < 60


def test_tuplet_loss_with_tensor_temperature_is_that_with_a_number():
    inputs = random_inputs(60)
    for temperature in (0.1, 0.01):
        t = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
        found, expected = ops.tuplet_loss(*inputs, temperature=t), ops.tuplet_loss(*inputs, temperature=temperature)
        torch.testing.assert_close(found, expected)


def test_tuplet_loss_with_tensor_temperature_gradcheck():
    inputs = random_inputs(14, 4, 4, dtype=torch.float64)
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, t: ops.tuplet_loss(x, inputs.labels, temperature=t), (inputs.embeddings.requires_grad_(), t)
    )


def test_tuplet_loss_with_tensor_temperature_is_verified_and_nan_for_nan(verify):
    inputs = random_inputs(60)
    with verify(every=1) as report:
        ops.tuplet_loss(*inputs, temperature=torch.tensor(0.2))
        ops.tuplet_loss(*inputs, temperature=torch.tensor(0.2), ignore_index=int(inputs.labels[0]), reduction="none")
    assert report.ops["tuplet_loss"].checks == 2
    inputs.embeddings[3, 2] = math.nan
    assert ops.tuplet_loss(*inputs, temperature=torch.tensor(0.2), reduction="none").isnan().all()
