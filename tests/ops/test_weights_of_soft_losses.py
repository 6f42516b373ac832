"""``weights=`` of the losses on all pairs: a number per anchor, or per query."""

import functools

import pytest
import torch

from hardmine import losses, ops, reference
from support.comparisons import assert_bitwise_equal
from support.inputs import random_inputs, seeded
from support.processes import threads

pytestmark = pytest.mark.emulated

REDUCTIONS = ("mean", "sum", "none")
# Every op, with each of its ways to compute a loss
CALLS = [
    ("supcon_loss", {}),
    ("multi_similarity_loss", {}),
    ("circle_loss", {"gamma": 5.0}),
    ("tuplet_loss", {"positive": "easiest"}),
    ("tuplet_loss", {"positive": "all", "duplicate_threshold": 0.9}),
    ("tuplet_loss", {"positive": "hardest", "temperature": torch.tensor(0.2)}),
    ("tuplet_loss", {"positive": "all", "temperature": torch.tensor(0.2)}),
    ("info_nce_loss", {}),
    ("info_nce_loss", {"symmetric": True}),
    ("sigmoid_loss", {}),
]
each_call = pytest.mark.parametrize(
    ("name", "options"), CALLS, ids=["-".join([n, *map(str, o.values())]) for n, o in CALLS]
)
each_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
IMPLEMENTATIONS = pytest.mark.parametrize("library", [ops, reference], ids=["op", "ref"])


def some_weights(rows=48, dtype=torch.float64):
    """Random weights, a third of them 0."""
    weights = torch.rand(rows, generator=seeded(7), dtype=torch.float64)
    return torch.where(torch.arange(rows) % 3 == 0, 0.0, weights).to(dtype)


def inputs_of(name, dtype=torch.float64, rows=48):
    """The leaves of a call, and its labels."""
    inputs = random_inputs(rows, 8, 5, rows, dtype=dtype)
    leaves = [inputs.embeddings.requires_grad_()]
    if name in ("info_nce_loss", "sigmoid_loss"):
        return [*leaves, inputs.ref_embeddings.requires_grad_()], []
    return leaves, [inputs.labels]


def evaluate(library, name, weights, dtype=torch.float64, **options):
    """The loss, and the gradients of the leaves and the weights."""
    leaves, labels = inputs_of(name, dtype, len(weights))
    weights = weights.clone().requires_grad_()
    loss = getattr(library, name)(*leaves, *labels, weights=weights, **options)
    scale = torch.linspace(0.5, 1.5, len(loss), dtype=loss.dtype) if loss.dim() else 1.0
    return loss.detach(), *torch.autograd.grad((loss * scale).sum(), [*leaves, weights])


@each_call
@each_reduction
def test_weights_of_soft_loss_equal_reference(name, options, reduction):
    found, expected = (
        evaluate(library, name, some_weights(), reduction=reduction, **options) for library in (ops, reference)
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert all(part.any() for part in found)


@each_call
def test_weights_of_soft_loss_multiply_the_losses(name, options):
    leaves, labels = inputs_of(name)
    call = functools.partial(getattr(ops, name), *leaves, *labels, **options)
    each, weights = call(reduction="none"), some_weights()
    torch.testing.assert_close(call(reduction="none", weights=weights), each * weights)
    torch.testing.assert_close(call(reduction="sum", weights=weights), (each * weights).sum())
    counted = weights if name in ("info_nce_loss", "sigmoid_loss") else weights[each != 0]
    torch.testing.assert_close(call(weights=weights), (each * weights).sum() / counted.sum())
    for reduction in REDUCTIONS:
        torch.testing.assert_close(call(reduction=reduction, weights=torch.ones(48)), call(reduction=reduction))


def is_differentiated(name):
    """circle_loss differentiates its logits as if their slopes were constant, as the paper does."""
    return name != "circle_loss"


@pytest.mark.parametrize(("name", "options"), [call for call in CALLS if is_differentiated(call[0])])
def test_weights_of_soft_loss_gradcheck(name, options):
    leaves, labels = inputs_of(name, rows=10)
    leaves.append(some_weights(10).add(0.1).requires_grad_())
    for reduction in ("mean", "none"):

        def loss(*tensors, reduction=reduction):
            *rows, weights = tensors
            return getattr(ops, name)(*rows, *labels, weights=weights, reduction=reduction, **options)

        assert torch.autograd.gradcheck(loss, leaves)


@each_call
@IMPLEMENTATIONS
def test_weights_of_zero_of_soft_loss_give_zero(name, options, library):
    """A mean over weights of 0 is no function of them: it has no gradient."""
    for reduction in REDUCTIONS:
        loss, *grads, of_weights = evaluate(library, name, torch.zeros(48), reduction=reduction, **options)
        assert not loss.any()
        assert not any(grad.any() for grad in grads)
        assert of_weights.any() == (reduction != "mean")


@each_call
def test_weights_of_zero_do_not_hide_nonfinite_rows(name, options):
    leaves, labels = inputs_of(name)
    leaves[0].data[3, 1] = torch.nan
    for reduction in REDUCTIONS:
        loss = getattr(ops, name)(*leaves, *labels, weights=torch.zeros(48), reduction=reduction, **options)
        assert loss.isnan().all()
        for grad in torch.autograd.grad(loss.sum(), leaves):
            assert grad.isnan().all()


@each_call
def test_weights_of_ignored_rows_of_soft_loss_are_left_out(name, options):
    leaves, labels = inputs_of(name)
    if labels:
        for reduction in REDUCTIONS:
            given = {"weights": some_weights(), "ignore_index": 2, "reduction": reduction, **options}
            found, expected = (getattr(library, name)(*leaves, *labels, **given) for library in (ops, reference))
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@each_call
@each_reduction
def test_weights_of_soft_loss_pass_verification(name, options, reduction, verify):
    leaves, labels = inputs_of(name, torch.float32)
    with verify() as report:
        getattr(ops, name)(*leaves, *labels, weights=3 * some_weights(), reduction=reduction, **options)
    assert report.ops[name].checks == 1


@pytest.mark.cpu
@each_call
def test_weights_of_soft_loss_any_threads_give_same_bits(name, options):
    found = []
    for count in (1, 3):
        with threads(count):
            found.append(evaluate(ops, name, some_weights(3000, torch.float32), torch.float32, **options))
    for a, b in zip(*found, strict=True):
        assert_bitwise_equal(a, b)


@pytest.mark.cpu
@pytest.mark.thinned(5)
@each_call
def test_weights_of_soft_loss_compile_without_graph_breaks(name, options):
    torch.compiler.reset()
    leaves, labels = inputs_of(name, torch.float32)

    def step(weights, *rows):
        return getattr(ops, name)(*rows, *labels, weights=weights, **options)

    compiled, weights = torch.compile(step, fullgraph=True), some_weights(48, torch.float32)
    torch.testing.assert_close(compiled(weights, *leaves), step(weights, *leaves))
    # A graph cannot raise for values: bad weights then make the loss NaN.
    assert compiled(-weights, *leaves).isnan()


@pytest.mark.parametrize("name", ["SupConLoss", "MultiSimilarityLoss", "EPLoss", "InfoNCELoss", "SigmoidLoss"])
def test_weights_of_soft_modules_are_passed_on(name):
    op = {
        "SupConLoss": "supcon_loss", "MultiSimilarityLoss": "multi_similarity_loss", "EPLoss": "tuplet_loss",
        "InfoNCELoss": "info_nce_loss", "SigmoidLoss": "sigmoid_loss",
    }[name]  # fmt: skip
    leaves, labels = inputs_of(op)
    found = getattr(losses, name)()(*leaves, *labels, weights=some_weights())
    assert_bitwise_equal(found, getattr(ops, op)(*leaves, *labels, weights=some_weights()))
