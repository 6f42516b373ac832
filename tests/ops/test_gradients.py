"""The gradients of every op: against finite differences, in their dtypes, and only where they are required."""

import pytest
import torch

from hardmine import ops
from support.comparisons import assert_bitwise_equal
from support.inputs import Inputs, exact_inputs, random_inputs
from support.ops import (
    FLOAT_DTYPES,
    OPS,
    PRESETS,
    REDUCTIONS,
    SELECTED_LOSSES,
    SIMILARITIES,
    TERMS,
    each_of,
    each_with_refs,
)
from support.runs import differentiable_outputs, effective_options, evaluate, leaves_of, loss_of, run, with_generator

pytestmark = pytest.mark.emulated

each_similarity = pytest.mark.parametrize("similarity", SIMILARITIES)
with_and_without_refs = pytest.mark.parametrize("refs", [None, 30], ids=["self", "refs"])


# Finite differences. The inputs are asserted to lie away from every kink and jump, and their spread keeps them away
# from ties. So no finite difference below reaches another selection.


def gradcheck(op, inputs, **options):
    """Compare the gradients of embeddings and refs, which must not be all zero, with finite differences."""
    leaves = leaves_of(inputs)

    def function(x, refs=None):
        return op(x, inputs.labels, refs, inputs.ref_labels, **with_generator(options, x.device))

    assert torch.autograd.gradcheck(function, leaves, eps=1e-6, atol=1e-6, rtol=1e-5)
    for leaf in leaves:
        (gradient,) = torch.autograd.grad(function(*leaves).sum(), leaf)
        assert gradient.any(), "no gradient, nothing checked"


def assert_far(values, *, gap=1e-3):
    """No number is close to 0, and both signs occur."""
    assert values.abs().min() > gap
    assert (values > 0).any()
    assert (values < 0).any()


def in_widest_gap(values):
    """A number in the widest gap between those given, far from each."""
    values = values.sort().values
    gap = values.diff().argmax()
    middle = (values[gap] + values[gap + 1]).item() / 2
    assert_far(values - middle)
    return middle


def similarities_of(inputs, **options):
    """s_ap and s_an of the anchors that have both."""
    selection = ops.select_triplets(*inputs, **options)
    valid = (selection.positive_index >= 0) & (selection.negative_index >= 0)
    assert valid.sum() > 4
    return selection.positive_similarity[valid].detach(), selection.negative_similarity[valid].detach()


@pytest.mark.thinned(13)
@each_similarity
@with_and_without_refs
@pytest.mark.parametrize("positive", ["easiest", "hardest", "random"])
@pytest.mark.parametrize("negative", ["hardest", "easiest", "semihard", "random"])
def test_select_triplets_similarities_gradcheck_passes(similarity, refs, positive, negative, device):
    inputs = random_inputs(10, 4, 3, refs, dtype=torch.float64).to(device)
    options = {"similarity": similarity, "positive": positive, "negative": negative}
    for quantity in ("positive_index", "negative_index"):

        def similarities(*arguments, quantity=quantity, **options):
            selection = ops.select_triplets(*arguments, **options)
            chosen = getattr(selection, quantity.replace("index", "similarity"))
            return chosen[getattr(selection, quantity) >= 0]  # gradcheck cannot compare NaN

        gradcheck(similarities, inputs, **options)


@pytest.mark.thinned(7)
@pytest.mark.cpu
@each_similarity
@with_and_without_refs
@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_triplet_loss_gradcheck_passes(similarity, refs, term, reduction, device):
    inputs = random_inputs(12, 4, 3, refs, spread=1.2, dtype=torch.float64, seed=1).to(device)
    options = {"similarity": similarity, "negative": "hardest"}
    s_ap, s_an = similarities_of(inputs, **options)
    if term == "sct":
        assert_far(s_an - s_ap)
    if term == "hinge":
        assert_far(s_an - s_ap + 0.2)
    numbers = effective_options({"term": term, "temperature": 0.5, "lam": 0.7})
    gradcheck(ops.triplet_loss, inputs, **options, **numbers, reduction=reduction)


@pytest.mark.thinned(7)
@pytest.mark.cpu
@each_similarity
@with_and_without_refs
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_sct_loss_gradcheck_passes(similarity, refs, preset, reduction, device):
    inputs = random_inputs(12, 4, 3, refs, spread=1.2, dtype=torch.float64, seed=1).to(device)
    s_ap, s_an = similarities_of(inputs, similarity=similarity)
    assert_far(s_an - s_ap)
    options = {"similarity": similarity, "lam": 0.7, "temperature": 0.5}
    if preset != "paper":
        # A cutoff that separates hard triplets; no positive is dropped.
        options |= {"hard_cutoff": in_widest_gap(s_an[s_an > s_ap]), "duplicate_threshold": float("inf")}
        assert_far(s_an - options["hard_cutoff"])
    gradcheck(ops.sct_loss, inputs, **options, preset=preset, reduction=reduction)


@each_of(SELECTED_LOSSES)
@each_similarity
def test_loss_with_min_similarity_gradcheck_passes(name, similarity, device):
    inputs = random_inputs(12, 4, 3, dtype=torch.float64, spread=1.2, seed=1).to(device)
    s_ap, s_an = similarities_of(inputs, similarity=similarity, negative="hardest")
    min_similarity = in_widest_gap(torch.minimum(s_ap, s_an))
    gradcheck(getattr(ops, name), inputs, similarity=similarity, negative="hardest", min_similarity=min_similarity)


@pytest.mark.parametrize("name", ["select_triplets", "triplet_loss"])
def test_dot_hand_worked_gradient_matches(name):
    """The loss of one anchor is a.n - a.p. Its gradient is n - p in a, -a in p, a in n, and 0 elsewhere."""
    a, p, n, other = [1.0, 2.0], [3.0, 1.0], [2.0, 2.0], [-1.0, -1.0]
    inputs = Inputs(torch.tensor([a]), torch.tensor([0]), torch.tensor([other, n, p]), torch.tensor([1, 1, 0]))
    leaves = leaves_of(inputs)
    if name == "select_triplets":
        selection = ops.select_triplets(*inputs, similarity="dot")
        value = selection.negative_similarity - selection.positive_similarity
    else:
        value = ops.triplet_loss(*inputs, similarity="dot", negative="hardest", term="hinge", margin=0.0)
    assert value.item() == 6 - 5
    grad, ref_grad = torch.autograd.grad(value, leaves)
    assert grad.tolist() == [[-1.0, 1.0]]
    assert ref_grad.tolist() == [[0.0, 0.0], [1.0, 2.0], [-1.0, -2.0]]


@with_and_without_refs
def test_cosine_gradient_is_orthogonal_to_row(refs, device):
    result = run(ops.select_triplets, random_inputs(refs=refs, dtype=torch.float64).to(device))
    inputs = random_inputs(refs=refs, dtype=torch.float64).to(device)
    for rows, grad in ((inputs.embeddings, result.grad), (inputs.ref_embeddings, result.ref_grad)):
        if rows is not None:
            assert grad.abs().max() > 0.1
            assert (rows * grad).sum(1).abs().max() < 1e-13


def test_euclidean_gradient_of_equal_points_is_zero():
    """PyTorch's norm has the same subgradient. Both anchors equal ref 0, and are at distance 1 from ref 1."""
    refs = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    inputs = Inputs(torch.ones(2, 3), torch.tensor([0, 0]), refs, torch.tensor([0, 1]))
    result = run(ops.select_triplets, inputs, similarity="euclidean")
    assert result.selection[2].tolist() == [0.0, 0.0]
    assert result.ref_grad[0].tolist() == [0.0, 0.0, 0.0]
    assert result.ref_grad[1].tolist() == [-4.0, 0.0, 0.0]  # two anchors, with weights 2 * 0.5 and 2 * 1.5
    assert result.grad.tolist() == [[1.0, 0.0, 0.0], [3.0, 0.0, 0.0]]


# Which tensors get a gradient, and which gradient


def dtypes_of_returned(name, values):
    """The dtypes of what an op returns besides its loss; ``values`` is the dtype of losses and similarities."""
    if name == "knn":
        return [values, torch.int64]
    if name == "tuplet_loss":
        return [torch.int64, values, values]
    return [torch.int64, torch.int64] + ([] if name == "batch_all_triplet_loss" else [values, values])


@each_with_refs(OPS)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_op_outputs_and_gradients_have_documented_dtypes(name, refs, dtype, device):
    inputs = exact_inputs("euclidean", refs=refs, dtype=dtype).to(device)
    result = run(getattr(ops, name), inputs, similarity="euclidean")
    computed_in = torch.float64 if dtype == torch.float64 else torch.float32
    assert [t.dtype for t in result.selection] == dtypes_of_returned(name, computed_in)
    assert result.loss.dtype == computed_in
    assert all(grad.dtype == dtype and grad.any() for grad in (result.grad, result.ref_grad) if grad is not None)


@each_of(OPS)
def test_op_gradient_only_for_inputs_that_require_it(name):
    inputs = random_inputs(refs=30)
    both = run(getattr(ops, name), inputs)

    def outputs(x_requires: bool, refs_require: bool) -> tuple:
        x = inputs.embeddings.clone().requires_grad_(x_requires)
        refs = inputs.ref_embeddings.clone().requires_grad_(refs_require)
        result = loss_of(name, Inputs(x, inputs.labels, refs, inputs.ref_labels))
        if result.requires_grad:
            result.backward()
        return result.requires_grad, x.grad, refs.grad

    required, grad, ref_grad = outputs(True, False)
    assert required
    assert ref_grad is None
    assert_bitwise_equal(grad, both.grad)
    required, grad, ref_grad = outputs(False, True)
    assert required
    assert grad is None
    assert_bitwise_equal(ref_grad, both.ref_grad)
    assert outputs(False, False) == (False, None, None)


@each_of(OPS)
def test_op_only_similarities_and_losses_require_grad(name):
    inputs = random_inputs()
    leaves_of(inputs)
    loss, returned = evaluate(getattr(ops, name), inputs)
    assert loss.requires_grad
    differentiable = {"tuplet_loss": [False, False, False], "batch_all_triplet_loss": [False, False]}
    expected = differentiable.get(name, [True, False] if name == "knn" else [False, False, True, True])
    assert [t.requires_grad for t in returned] == expected
    with torch.no_grad():
        loss, returned = evaluate(getattr(ops, name), inputs)
    assert not any(t.requires_grad for t in (loss, *returned))
    with torch.inference_mode():
        evaluate(getattr(ops, name), inputs)


@each_of(OPS)
def test_op_second_derivative_raises(name):
    inputs = random_inputs()
    (x,) = leaves_of(inputs)
    loss = loss_of(name, inputs)
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"hardmine::\w+ has no second derivative"):
        grad.square().sum().backward()


@each_of(SELECTED_LOSSES)
@with_and_without_refs
def test_loss_returned_similarities_carry_gradients(name, refs, device):
    """The gradients of the similarities alone equal those of select_triplets; the gradients of the loss add to them."""
    inputs = random_inputs(refs=refs, dtype=torch.float64).to(device)
    leaves = leaves_of(inputs)
    options = {"positive": "hardest", "negative": "hardest"}
    loss, selection = getattr(ops, name)(*inputs, return_selection=True, **options)
    weights = torch.linspace(1, 2, len(inputs.labels), dtype=torch.float64, device=device)

    def gradients(*outputs):
        upstream = [weights if output.dim() else torch.ones_like(output) for output in outputs]
        return torch.autograd.grad(outputs, leaves, upstream, retain_graph=True)

    chosen = ops.select_triplets(*inputs, **options)
    of_loss = gradients(loss)
    for quantity in ("positive_similarity", "negative_similarity"):
        alone, expected = gradients(getattr(selection, quantity)), gradients(getattr(chosen, quantity))
        assert all(g.any() for g in alone)
        torch.testing.assert_close(alone, expected)
        together = gradients(loss, getattr(selection, quantity))
        torch.testing.assert_close(together, tuple(a + b for a, b in zip(of_loss, alone, strict=True)))


@each_of(OPS)
def test_op_noncontiguous_upstream_gradient_is_equal(name, device):
    inputs = random_inputs(40, 9).to(device)
    (x,) = leaves_of(inputs)
    if name in SELECTED_LOSSES:
        loss, selection = getattr(ops, name)(*inputs, reduction="none", return_selection=True)
        outputs = [loss, *selection[2:]]
    else:
        options = {"reduction": "none"} if name == "tuplet_loss" else {}
        outputs = differentiable_outputs(name, inputs, **options)
    upstream = [
        torch.linspace(-1, step, 2 * output.numel(), device=device).reshape(*output.shape, 2)[..., 0]
        for step, output in enumerate(outputs, 1)
    ]
    assert name == "batch_all_triplet_loss" or not any(gradient.is_contiguous() for gradient in upstream)
    (expected,) = torch.autograd.grad(outputs, x, [gradient.contiguous() for gradient in upstream], retain_graph=True)
    (actual,) = torch.autograd.grad(outputs, x, upstream)
    assert expected.any()
    assert_bitwise_equal(actual, expected)
