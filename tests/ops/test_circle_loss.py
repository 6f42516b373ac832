"""The circle loss: values worked by hand, against pytorch-metric-learning and the reference, and edges."""

import itertools
import math

import pytest
import torch

import hardmine
from hardmine import losses, ops, reference
from hardmine.reference.select_triplets import candidate_pairs
from support.comparisons import assert_bitwise_equal
from support.inputs import HAND_POINTS, Inputs, inputs_of_sizes, random_ids, random_inputs
from support.processes import output_of, run_python, simd_levels, threads

pytestmark = pytest.mark.emulated

OPTIONS = ({}, {"m": 0.25, "gamma": 256.0}, {"m": -0.1, "gamma": 2.0, "reduction": "none"})
each_options = pytest.mark.parametrize("options", OPTIONS, ids=str)
with_and_without_refs = pytest.mark.parametrize("refs", [None, 90], ids=["self", "refs"])


def evaluate(library, inputs: Inputs, **options) -> list[torch.Tensor]:
    """The loss, the gradients of a weighted sum, and the count."""
    leaves = [t.detach().clone().requires_grad_() for t in inputs[::2] if t is not None]
    rest = () if inputs.ref_embeddings is None else (leaves[1], inputs.ref_labels)
    loss, count = library.circle_loss(leaves[0], inputs.labels, *rest, **options, return_count=True)
    weights = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).reshape(loss.shape)
    gradients = torch.autograd.grad((loss * weights).sum(), leaves, allow_unused=True)
    return [loss.detach(), *(0 * a if g is None else g for a, g in zip(leaves, gradients, strict=True)), count]


def assert_close(actual, expected, tolerance: float) -> None:
    for a, e in zip(actual, expected, strict=True):
        scale = max(1.0, e.abs().max().item()) if e.numel() else 1.0
        torch.testing.assert_close(a, e, rtol=0, atol=tolerance * scale, check_dtype=False)


@pytest.mark.parametrize("library", [ops, reference], ids=["op", "ref"])
def test_circle_loss_hand_worked_values_match(library):
    """Cosines of HAND_POINTS, as in test_tuplet_loss.py."""
    positives = [[0.6, 0.0], [0.6, 0.8], [-0.8], [0.0, 0.8], [-0.8]]
    negatives = [[0.8, -1.0], [0.96, -0.6], [0.8, 0.96, 0.6], [0.6, 0.0], [-1.0, -0.6, 0.0]]
    m, gamma = 0.4, 3.0
    each = [
        math.log1p(
            sum(math.exp(-gamma * max(0, 1 + m - s) * (s - 1 + m)) for s in p)
            * sum(math.exp(gamma * max(0, s + m) * (s - m)) for s in n)
        )
        for p, n in zip(positives, negatives, strict=True)
    ]
    found = library.circle_loss(*HAND_POINTS, gamma=gamma, reduction="none")
    assert found.tolist() == pytest.approx(each, abs=4e-6)
    assert library.circle_loss(*HAND_POINTS, gamma=gamma).item() == pytest.approx(sum(each) / 5, abs=4e-6)
    total, count = library.circle_loss(*HAND_POINTS, gamma=gamma, reduction="sum", return_count=True)
    assert total.item() == pytest.approx(sum(each), abs=2e-5)
    assert count == 5


@with_and_without_refs
@each_options
def test_circle_loss_matches_pytorch_metric_learning(refs, options):
    pml = pytest.importorskip("pytorch_metric_learning.losses")
    sum_reducer = pytest.importorskip("pytorch_metric_learning.reducers").SumReducer()
    inputs = random_inputs(60, 12, 20, refs, dtype=torch.float64)
    rows = [t.requires_grad_() for t in inputs[::2] if t is not None]
    own = {key: value for key, value in options.items() if key != "reduction"}
    theirs = pml.CircleLoss(**own, reducer=sum_reducer)
    expected = theirs(inputs.embeddings, inputs.labels, ref_emb=inputs.ref_embeddings, ref_labels=inputs.ref_labels)
    found = ops.circle_loss(*inputs, **options).sum()
    if "reduction" not in options:
        found = found * evaluate(ops, inputs, **options)[-1]
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)
    for a, b in zip(torch.autograd.grad(found, rows), torch.autograd.grad(expected, rows), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-8)  # PML's softplus is the identity above 20


@with_and_without_refs
@each_options
def test_circle_loss_matches_reference(refs, options):
    for rows, dtype in itertools.product((1, 2, 97, 130), (torch.float64, torch.float32)):
        inputs = random_inputs(rows, 7, 9, refs, dtype=dtype)
        expected = evaluate(reference, inputs.to(torch.float64), **options)
        assert_close(evaluate(ops, inputs, **options), expected, 1e-11 if dtype == torch.float64 else 2e-5)
    assert 0 < expected[-1] <= rows


@with_and_without_refs
@pytest.mark.parametrize("kind", ["few", "many"])
def test_circle_loss_with_ids_or_ignored_rows_matches_reference(refs, kind):
    inputs = random_inputs(80, 7, 9, refs, dtype=torch.float64)
    for more in (random_ids(inputs, kind), {"ignore_index": int(inputs.labels[0])}):
        expected = evaluate(reference, inputs, **more)
        assert_close(evaluate(ops, inputs, **more), expected, 1e-11)
        assert expected[0] != evaluate(reference, inputs)[0]


@with_and_without_refs
def test_circle_loss_gradcheck_with_weights_held_constant(refs):
    """The gradient is that of the loss with the weights of the given rows."""
    inputs = random_inputs(9, 4, 3, None if refs is None else 7, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in inputs[::2] if t is not None]
    m, gamma = 0.3, 6.0

    def similarities(x, *r):
        units = [torch.nn.functional.normalize(t) for t in (x, *r)]
        return units[0] @ units[-1].T

    masks = candidate_pairs(*inputs)[1:]
    fixed = similarities(*leaves).detach()
    weights = (1 + m - fixed).relu(), (fixed + m).relu()

    def held(*rows):
        s = similarities(*rows)
        logits = -gamma * weights[0] * (s - 1 + m), gamma * weights[1] * (s - m)
        sums = sum(torch.where(mask, logit, -1e30).logsumexp(1) for mask, logit in zip(masks, logits, strict=True))
        return torch.nn.functional.softplus(sums).sum()

    assert torch.autograd.gradcheck(held, leaves)
    rest = (leaves[1], inputs.ref_labels) if refs else ()
    loss = ops.circle_loss(leaves[0], inputs.labels, *rest, m=m, gamma=gamma, reduction="sum")
    for a, b in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(held(*leaves), leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_circle_loss_edges_match_reference():
    for inputs in (inputs_of_sizes([6]), inputs_of_sizes([1] * 6), random_inputs(4, 3, 2, 0, dtype=torch.float64)):
        found = evaluate(ops, inputs)
        assert all((part == 0).all() for part in found)
        assert_close(found, evaluate(reference, inputs), 1e-11)
    for refs in (None, 3):
        assert all((part == 0).all() for part in evaluate(ops, random_inputs(0, 3, 2, refs)))
    mixed = inputs_of_sizes([4, 1, 1, 1])
    loss, _, count = evaluate(ops, mixed, reduction="none")
    assert count == 4
    assert (loss > 0).tolist() == [label == mixed.labels.mode().values for label in mixed.labels]


@with_and_without_refs
def test_circle_loss_non_finite_row_makes_everything_nan(refs):
    inputs = random_inputs(40, 7, 5, refs)
    inputs.embeddings[3, 2] = math.inf
    assert all(part.isnan().all() for part in evaluate(ops, inputs, reduction="none")[:-1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_circle_loss_of_half_precision_is_that_of_its_rows_in_float32(dtype):
    inputs = random_inputs(60, 9, 5, 40, dtype=dtype)
    found = evaluate(ops, inputs, gamma=5.0)
    assert (found[0].dtype, found[1].dtype) == (torch.float32, dtype)
    assert_close(found, evaluate(ops, inputs.to(torch.float32), gamma=5.0), 2 * torch.finfo(dtype).eps)


@pytest.mark.cpu
@with_and_without_refs
def test_circle_loss_any_thread_count_gives_same_bits(refs):
    inputs = random_inputs(700, 40, 90, refs)
    found = []
    for count in (1, 2, 5):
        with threads(count):
            found.append(evaluate(ops, inputs))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert_bitwise_equal(a, b)


LEVELS_SCRIPT = """
import sys, torch
from hardmine import ops
from ops.test_circle_loss import OPTIONS, evaluate
from ops.test_multi_similarity_loss import evaluate as evaluate_multi_similarity
from support.inputs import random_inputs
results = []
for dtype in (torch.float32, torch.float64):
    for rows, refs in ((250, None), (130, 97)):
        inputs = random_inputs(rows, 20, 4, refs, spread=1.5, dtype=dtype)
        for options in OPTIONS:
            results += evaluate(ops, inputs, **options)
        results += evaluate_multi_similarity(ops, inputs, epsilon=0.1)
torch.save(results, sys.argv[1])
"""


@pytest.mark.subprocess
@pytest.mark.cpu
def test_losses_of_logits_any_simd_level_gives_same_bits(tmp_path):
    assert len(simd_levels()) > 1
    found = []
    for simd in simd_levels():
        output_of(run_python("-c", LEVELS_SCRIPT, str(tmp_path / simd), HARDMINE_SIMD=simd))
        found.append(torch.load(tmp_path / simd))
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert_bitwise_equal(a, b)


def test_circle_loss_error_is_that_of_plain_pytorch():
    inputs = random_inputs(200, 32, 20)
    exact = evaluate(reference, inputs.to(torch.float64))
    errors = [
        [(a - e).abs().max().item() for a, e in zip(evaluate(library, inputs), exact, strict=True)]
        for library in (ops, reference)
    ]
    for own, plain in zip(*errors, strict=True):
        assert own <= 2 * plain + 1e-6


@pytest.mark.cpu
def test_circle_loss_compiles_whole():
    torch._dynamo.reset()
    inputs = random_inputs(20, 5, 3, dtype=torch.float64)
    compiled = torch.compile(ops.circle_loss, fullgraph=True, backend="aot_eager")
    x = inputs.embeddings.requires_grad_()
    found, expected = compiled(x, inputs.labels), ops.circle_loss(x, inputs.labels)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, x), torch.autograd.grad(expected, x))


@pytest.mark.parametrize("pairs", [0, 1])
def test_logsumexp_of_circle_logits_opcheck(pairs):
    inputs = random_inputs(12, 5, 3, 7, dtype=torch.float64)
    x, r = (t.requires_grad_() for t in inputs[::2])
    t, bound = torch.tensor(0.3, dtype=torch.float64), torch.linspace(-1, 1, 12, dtype=torch.float64)
    arguments = (x, inputs.labels, r, inputs.ref_labels, None, None, t, bound, 0, pairs, False, False, 2, 0.4, False)
    torch.library.opcheck(torch.ops.hardmine.logsumexp.default, arguments)


def test_circle_loss_module_passes_its_options_on():
    inputs = random_inputs(40, 9, 5)
    options = {"m": 0.2, "gamma": 7.0, "reduction": "none"}
    found, count = losses.CircleLoss(**options)(*inputs[:2], return_count=True)
    assert_bitwise_equal(found, ops.circle_loss(*inputs[:2], **options))
    assert count == ops.circle_loss(*inputs[:2], return_count=True)[1]


@each_options
def test_verify_checks_circle_loss(options):
    with hardmine.verify(every=1) as report:
        for dtype, refs in itertools.product((torch.float32, torch.float16, torch.float64), (None, 30)):
            inputs = random_inputs(40, 9, 5, refs, dtype=dtype)
            ops.circle_loss(*inputs, **options)
            ops.circle_loss(*inputs, ignore_index=int(inputs.labels[0]), **options)
    assert report.ops["circle_loss"].checks == 12


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_verify_wrong_circle_loss_raises(what, monkeypatch):
    inputs = random_inputs(40, 9, 5)
    right, backward = torch.ops.hardmine.logsumexp, torch.ops.hardmine.logsumexp_backward
    if what == "loss":
        monkeypatch.setattr(torch.ops.hardmine, "logsumexp", lambda *a: (1.05 * (found := right(*a))[0], *found[1:]))
    else:
        monkeypatch.setattr(torch.ops.hardmine, "logsumexp_backward", lambda *a: [1.01 * g for g in backward(*a)])
    with pytest.raises(hardmine.VerificationError, match=f"the {what} deviates by"), hardmine.verify(every=1):
        ops.circle_loss(*inputs, gamma=4.0, reduction="none")  # reduced on a CPU, it is an op of its own
