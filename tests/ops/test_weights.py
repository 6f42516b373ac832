"""``weights=`` of the losses on selected positives and negatives: a number per anchor.

``test_weights_of_soft_losses.py`` has those of the losses on all pairs.
"""

import pytest
import torch

from hardmine import losses, ops, reference
from support.comparisons import assert_bitwise_equal
from support.inputs import Inputs, anchors_with, random_ids, random_inputs, seeded
from support.ops import PRESETS, TERMS
from support.processes import threads

pytestmark = pytest.mark.emulated

REDUCTIONS = ("mean", "mean_active", "sum", "none")
IMPLEMENTATIONS = pytest.mark.parametrize("library", [ops, reference], ids=["op", "ref"])


def some_weights(rows, dtype=torch.float32):
    """Random weights, a third of them 0."""
    weights = torch.rand(rows, generator=seeded(7), dtype=torch.float64)
    return torch.where(torch.arange(rows) % 3 == 0, 0.0, weights).to(dtype)


def evaluate(library, name, inputs, weights, **options):
    """The loss, the count and the gradients of rows and weights."""
    leaves = [t.detach().clone().requires_grad_() for t in (inputs.embeddings, inputs.ref_embeddings) if t is not None]
    rows = Inputs(leaves[0], inputs.labels, *(leaves[1:]), *([inputs.ref_labels] if len(leaves) > 1 else []))
    leaves.append(weights.detach().clone().requires_grad_())
    loss, count = getattr(library, name)(*rows, weights=leaves[-1], return_count=True, **options)
    scale = torch.linspace(0.5, 1.5, len(loss), dtype=loss.dtype) if loss.dim() else 1.0
    return loss.detach(), count, torch.autograd.grad((loss * scale).sum(), leaves)


@IMPLEMENTATIONS
def test_weights_hand_worked_values_match(library):
    """The hinges are 0.5, 0.25, 0 and 1, and the second weight is 0."""
    inputs = anchors_with([0.5, 0.5, 0.5, 0.5], [0.75, 0.5, 0.25, 1.25])
    options = {"similarity": "dot", "negative": "hardest", "term": "hinge", "margin": 0.25}
    weights = torch.tensor([2.0, 0.0, 1.0, 0.5])

    def loss(reduction):
        return library.triplet_loss(*inputs, **options, reduction=reduction, weights=weights)

    assert loss("none").tolist() == [1.0, 0.0, 0.0, 0.5]
    assert loss("sum").item() == 1.5
    assert loss("mean").item() == pytest.approx(1.5 / 3.5)
    assert loss("mean_active").item() == pytest.approx(1.5 / 2.5)


@pytest.mark.parametrize("positive", ["easiest", "hardest", "all"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("refs", [None, 30], ids=["self", "refs"])
def test_weights_losses_and_gradients_equal_reference(positive, reduction, term, refs):
    inputs = random_inputs(refs=refs, dtype=torch.float64, spread=1.5)
    weights = some_weights(48, torch.float64)
    options = {"positive": positive, "negative": "semihard", "term": term, "reduction": reduction}
    results = [evaluate(library, "triplet_loss", inputs, weights, **options) for library in (ops, reference)]
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)
    assert results[0][2][0].any()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("positive", ["easiest", "all"])
def test_weights_of_sct_loss_equal_reference(preset, reduction, positive):
    inputs = random_inputs(dtype=torch.float64)
    weights = some_weights(48, torch.float64)
    for lam in (0.5, -0.5):
        options = {"preset": preset, "reduction": reduction, "lam": lam, "positive": positive}
        results = [evaluate(library, "sct_loss", inputs, weights, **options) for library in (ops, reference)]
        torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["triplet_loss", "sct_loss"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_weights_of_one_change_nothing(name, reduction):
    inputs = random_inputs()
    options = {"negative": "hardest", "reduction": reduction}
    weighted = getattr(ops, name)(*inputs, **options, weights=torch.ones(48))
    torch.testing.assert_close(weighted, getattr(ops, name)(*inputs, **options))


def test_weights_gradcheck():
    inputs = random_inputs(14, 4, 3, dtype=torch.float64)
    leaves = inputs.embeddings.requires_grad_(), some_weights(14, torch.float64).add(0.1).requires_grad_()
    for options in ({"positive": "all"}, {"reduction": "sum"}, {"reduction": "none", "negative": "hardest"}):
        assert torch.autograd.gradcheck(
            lambda x, w, options=options: ops.triplet_loss(x, inputs.labels, weights=w, **options), leaves
        )


@IMPLEMENTATIONS
@pytest.mark.parametrize("positive", ["easiest", "all"])
def test_weights_of_zero_give_zero(library, positive):
    """A mean over weights of 0 has no gradient for the weights either: it is no function of them."""
    x, weights = random_inputs().embeddings.requires_grad_(), torch.zeros(48, requires_grad=True)
    for reduction in REDUCTIONS:
        loss = library.triplet_loss(x, random_inputs().labels, positive=positive, reduction=reduction, weights=weights)
        grad, of_weights = torch.autograd.grad(loss.sum(), (x, weights))
        assert not loss.any()
        assert not grad.any()
        assert of_weights.any() == (reduction in ("sum", "none"))


def test_weights_with_empty_batch_give_zero():
    for positive in ("easiest", "all"):
        loss = ops.triplet_loss(torch.empty(0, 2), torch.empty(0).long(), positive=positive, weights=torch.empty(0))
        assert loss == 0


@pytest.mark.parametrize("positive", ["easiest", "all"])
def test_weights_do_not_hide_nonfinite_rows(positive):
    inputs = random_inputs(30)
    inputs.embeddings[3, 1] = torch.nan
    for reduction in REDUCTIONS:
        loss = ops.triplet_loss(*inputs, positive=positive, reduction=reduction, weights=torch.ones(30))
        assert loss.isnan().all()


@pytest.mark.parametrize("positive", ["easiest", "all"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_weights_of_ignored_rows_are_left_out(positive, reduction):
    inputs = random_inputs(dtype=torch.float64)
    options = {"positive": positive, "reduction": reduction, "ignore_index": 2, "weights": some_weights(48)}
    options |= random_ids(inputs, "few")
    torch.testing.assert_close(*(library.triplet_loss(*inputs, **options) for library in (ops, reference)))
    options["weights"] = options["weights"][:-1]
    with pytest.raises(ValueError, match=r"^weights must be \[B\] = \[48\], got \[47\]$"):
        ops.triplet_loss(*inputs, **options)


@pytest.mark.parametrize("positive", ["easiest", "all"])
def test_weights_pass_verification(positive, verify):
    with verify() as report:
        for term in TERMS:
            for reduction in REDUCTIONS:
                inputs = random_inputs(spread=1.5)
                options = {"positive": positive, "term": term, "reduction": reduction, "weights": some_weights(48)}
                ops.triplet_loss(inputs.embeddings.requires_grad_(), inputs.labels, **options)
                ops.triplet_loss(inputs.embeddings, inputs.labels, **options, ignore_index=2)
        ops.sct_loss(*inputs, preset="code2020", positive=positive, weights=some_weights(48))
    assert report.ops["triplet_loss"].checks == 2 * len(TERMS) * len(REDUCTIONS)
    assert report.ops["sct_loss"].checks == 1


@pytest.mark.cpu
def test_weights_any_threads_give_same_bits():
    inputs = random_inputs(3000, 8, 50)
    found = []
    for count in (1, 3):
        with threads(count):
            found.append(evaluate(ops, "triplet_loss", inputs, some_weights(3000)))
    assert_bitwise_equal(found[0][0], found[1][0])
    for a, b in zip(found[0][2], found[1][2], strict=True):
        assert_bitwise_equal(a, b)


@pytest.mark.cpu
@pytest.mark.parametrize("positive", ["easiest", "all"])
def test_weights_compile_without_graph_breaks(positive):
    torch.compiler.reset()
    inputs = random_inputs(24)

    def step(x, weights):
        return ops.triplet_loss(x, inputs.labels, positive=positive, weights=weights)

    compiled = torch.compile(step, fullgraph=True)
    x, weights = inputs.embeddings.requires_grad_(), some_weights(24)
    torch.testing.assert_close(compiled(x, weights), step(x, weights))
    # A graph cannot raise for values: bad weights then make the loss NaN.
    assert compiled(x, -weights).isnan()


def test_weights_modules_pass_them_on():
    inputs = random_inputs()
    weights = some_weights(48)
    loss = losses.EPHNLoss()(*inputs, weights=weights)
    assert_bitwise_equal(loss, ops.triplet_loss(*inputs, negative="hardest", weights=weights))
    assert_bitwise_equal(losses.SCTLoss()(*inputs, weights=weights), ops.sct_loss(*inputs, weights=weights))
