"""The ops on log-sum-exps: values worked by hand, against the reference, gradients, edges, and what all ops promise."""

import functools
import math

import pytest
import torch

import hardmine
from hardmine import ops, reference
from hardmine.ops._sums import softplus
from support.comparisons import assert_bitwise_equal
from support.inputs import HAND_POINTS, Inputs, exact_inputs, inputs_of_sizes, random_ids, random_inputs, seeded
from support.ops import FLOAT_DTYPES, SIMILARITIES, SOFT_LABELED_OPS
from support.processes import output_of, run_python, simd_levels, threads

pytestmark = pytest.mark.emulated

IMPLEMENTATIONS = pytest.mark.parametrize("library", [ops, reference], ids=["op", "ref"])
each_op = pytest.mark.parametrize("name", SOFT_LABELED_OPS)
each_similarity = pytest.mark.parametrize("similarity", SIMILARITIES)
PAIRS = ("positive", "negative", "all")
# Every op and option with code of its own
CALLS = [("logsumexp", {"pairs": pairs}) for pairs in PAIRS] + [("supcon_loss", {"reduction": "none"})]
each_call = pytest.mark.parametrize(("name", "options"), CALLS, ids=[f"{n}-{next(iter(o.values()))}" for n, o in CALLS])


def leaves_of(inputs: Inputs, temperature: float) -> list[torch.Tensor]:
    """New leaves: the embeddings, the refs if there are any, and the temperature."""
    rows = [t for t in (inputs.embeddings, inputs.ref_embeddings) if t is not None]
    t = torch.tensor(temperature, dtype=torch.float64, device=rows[0].device)
    return [leaf.detach().clone().requires_grad_() for leaf in (*rows, t)]


def evaluate(op, inputs: Inputs, temperature: float, **options) -> list[torch.Tensor]:
    """The result, and the gradients of a weighted sum of its finite elements."""
    leaves = leaves_of(inputs, temperature)
    x, *refs, t = leaves
    result = op(x, inputs.labels, *([refs[0], inputs.ref_labels] if refs else []), temperature=t, **options)
    weights = torch.linspace(0.5, 1.5, result.numel(), dtype=result.dtype).reshape(result.shape)
    total = (torch.where(result == -math.inf, 0.0, result) * weights).sum()
    gradients = torch.autograd.grad(total, leaves, allow_unused=True) if total.requires_grad else [None] * len(leaves)
    found = [torch.zeros_like(a) if g is None else g for a, g in zip(leaves, gradients, strict=True)]
    return [result.detach(), *found]


def assert_close(actual: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float) -> None:
    for a, e in zip(actual, expected, strict=True):
        scale = e.double().nan_to_num(0.0, 0.0, 0.0).abs().max().item() if e.numel() else 0.0
        torch.testing.assert_close(a, e, rtol=0, atol=tolerance * max(1.0, scale), equal_nan=True, check_dtype=False)


# Cosines of HAND_POINTS (labels 0 0 1 0 1), as in test_tuplet_loss.py
POSITIVES = [[0.6, 0.0], [0.6, 0.8], [-0.8], [0.0, 0.8], [-0.8]]
NEGATIVES = [[0.8, -1.0], [0.96, -0.6], [0.8, 0.96, 0.6], [0.6, 0.0], [-1.0, -0.6, 0.0]]


def level(*s: float, temperature: float) -> float:
    return math.log(sum(math.exp(x / temperature) for x in s))


@IMPLEMENTATIONS
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_logsumexp_hand_worked_values_match(library, temperature):
    for pairs in PAIRS:
        of = {"positive": POSITIVES, "negative": NEGATIVES, "all": map(list.__add__, POSITIVES, NEGATIVES)}[pairs]
        found = library.logsumexp(*HAND_POINTS, pairs=pairs, temperature=temperature)
        assert found.tolist() == pytest.approx([level(*s, temperature=temperature) for s in of], abs=4e-6)


@IMPLEMENTATIONS
def test_supcon_loss_hand_worked_values_match(library):
    each = [level(*p, *n, temperature=0.5) - sum(p) / len(p) / 0.5 for p, n in zip(POSITIVES, NEGATIVES, strict=True)]
    options = {"temperature": 0.5}
    assert library.supcon_loss(*HAND_POINTS, **options, reduction="none").tolist() == pytest.approx(each, abs=4e-6)
    assert library.supcon_loss(*HAND_POINTS, **options).item() == pytest.approx(sum(each) / 5, abs=4e-6)
    loss, count = library.supcon_loss(*HAND_POINTS, **options, reduction="sum", return_count=True)
    assert (loss.item(), count.item()) == (pytest.approx(sum(each), abs=2e-5), 5)


# Rows around the bounds of blocks and micro-tiles; None: no refs
SIZES = [(1, None), (2, None), (95, None), (97, None), (193, None), (31, 193), (97, 64), (193, 289)]


@each_call
@each_similarity
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_soft_op_matches_reference(name, options, similarity, temperature, dtype):
    for rows, refs in SIZES:
        inputs = random_inputs(rows, 9, 5, refs, dtype=dtype, seed=rows)
        found = evaluate(getattr(ops, name), inputs, temperature, similarity=similarity, **options)
        exact = inputs.to(torch.float64)
        expected = evaluate(getattr(reference, name), exact, temperature, similarity=similarity, **options)
        plain = evaluate(getattr(reference, name), inputs, temperature, similarity=similarity, **options)
        if dtype == torch.float64:
            assert_close(found, expected, 1e-11)
            continue
        for f, p, e in zip(found, plain, expected, strict=True):  # no worse than twice plain PyTorch
            error, allowed = ((a.double() - e.double()).nan_to_num(0.0, 0.0, 0.0).abs() for a in (f, p))
            scale = e.double().nan_to_num(0.0, 0.0, 0.0).abs().max().item() if e.numel() else 0.0
            assert error.max() <= 2 * allowed.max() + 8 * torch.finfo(dtype).eps * scale


@each_call
@pytest.mark.parametrize("refs", [None, 150])
def test_soft_op_of_maxima_far_apart_matches_reference(name, options, refs):
    """Rows of very different lengths: an exponential relative to a common shift would be 0, or infinite."""
    inputs = random_inputs(203, 6, 4, refs, dtype=torch.float64, spread=2.0)
    scale = torch.logspace(-2, 2, 203, dtype=torch.float64)[torch.randperm(203, generator=seeded(0)), None]
    inputs = inputs._replace(embeddings=inputs.embeddings * scale)
    for temperature in (0.3, 20.0):
        given = {"similarity": "dot", **options}
        found = evaluate(getattr(ops, name), inputs, temperature, **given)
        assert_close(found, evaluate(getattr(reference, name), inputs, temperature, **given), 1e-11)


@each_call
@pytest.mark.parametrize("kind", ["few", "many"])
@pytest.mark.parametrize("refs", [None, 150])
def test_soft_op_with_ids_matches_reference(name, options, kind, refs):
    inputs = random_inputs(120, 9, 5, refs, dtype=torch.float64)
    ids = random_ids(inputs, kind)
    found = evaluate(getattr(ops, name), inputs, 0.1, **ids, **options)
    assert_close(found, evaluate(getattr(reference, name), inputs, 0.1, **ids, **options), 1e-11)
    assert not torch.equal(found[0], evaluate(getattr(ops, name), inputs, 0.1, **options)[0])


@each_call
@pytest.mark.parametrize("refs", [None, 50])
def test_soft_op_ignored_rows_are_as_if_not_there(name, options, refs):
    inputs = random_inputs(40, 9, 5, refs, dtype=torch.float64)
    ignored = int(inputs.labels[0])
    found = evaluate(getattr(ops, name), inputs, 0.1, ignore_index=ignored, **options)
    assert_close(found, evaluate(getattr(reference, name), inputs, 0.1, ignore_index=ignored, **options), 1e-11)
    missing = inputs.labels == ignored
    assert (found[0][missing] == (-math.inf if name == "logsumexp" else 0.0)).all()
    assert (found[1][missing] == 0).all()


@each_call
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_soft_op_of_half_precision_is_that_of_its_rows_in_float32(name, options, dtype):
    inputs = random_inputs(60, 9, 5, 40, dtype=dtype)
    found = evaluate(getattr(ops, name), inputs, 0.1, **options)
    expected = evaluate(getattr(ops, name), inputs.to(torch.float32), 0.1, **options)
    assert (found[0].dtype, found[1].dtype) == (torch.float32, dtype)
    assert_close(found, expected, 2 * torch.finfo(dtype).eps)


@each_call
def test_soft_op_without_pairs_has_gradient_zero(name, options):
    one_class, distinct = inputs_of_sizes([6]), inputs_of_sizes([1] * 6)
    for inputs, without in ((one_class, ["negative"]), (distinct, ["positive", "none"])):
        result, *gradients = evaluate(getattr(ops, name), inputs, 0.1, **options)
        expected = evaluate(getattr(reference, name), inputs, 0.1, **options)
        assert_close([result, *gradients], expected, 1e-11)
        if next(iter(options.values())) in without:
            assert (result == (-math.inf if name == "logsumexp" else 0.0)).all()
            assert all((g == 0).all() for g in gradients)


@each_op
def test_soft_op_of_no_rows_or_refs_has_no_gradient(name):
    for rows, refs in ((0, None), (0, 3), (4, 0), (0, 0)):
        inputs = random_inputs(rows, 3, 2, refs)
        result, *gradients = evaluate(getattr(ops, name), inputs, 0.1)
        expected = torch.full((rows,), -math.inf) if name == "logsumexp" else torch.tensor(0.0)
        assert torch.equal(result, expected)
        assert all((g == 0).all() for g in gradients)


@each_call
@pytest.mark.parametrize("refs", [None, 50])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_soft_op_non_finite_row_makes_everything_nan(name, options, refs, bad):
    inputs = random_inputs(40, 9, 5, refs)
    (inputs.embeddings if refs is None else inputs.ref_embeddings)[7, 3] = bad
    for part in evaluate(getattr(ops, name), inputs, 0.1, **options):
        assert part.isnan().all()


@each_call
@each_similarity
@pytest.mark.parametrize("refs", [None, 7])
def test_soft_op_gradcheck(name, options, similarity, refs):
    inputs = random_inputs(9, 4, 3, refs, dtype=torch.float64)
    inputs.embeddings[2] *= 3

    def finite(x, *rest):
        *y, t = rest
        given = (inputs.labels, *y, *([inputs.ref_labels] if y else []))
        result = getattr(ops, name)(x, *given, temperature=t, similarity=similarity, **options)
        return torch.where(result == -math.inf, 0.0, result)

    assert torch.autograd.gradcheck(finite, leaves_of(inputs, 0.3))


def test_second_derivatives_raise():
    x, t = leaves_of(random_inputs(9, 4, 3), 0.3)
    for leaf in (x, t):
        result = ops.logsumexp(x, random_inputs(9, 4, 3).labels, temperature=t).sum()
        (first,) = torch.autograd.grad(result, leaf, create_graph=True)
        with pytest.raises(NotImplementedError, match="has no second derivative"):
            first.sum().backward()


@pytest.mark.cpu
@each_call
@pytest.mark.parametrize("refs", [None, 20])
def test_soft_op_compiles_whole(name, options, refs):
    inputs = random_inputs(16, 5, 3, refs, dtype=torch.float64)
    torch._dynamo.reset()  # the code of the op is that of the other cases
    op = functools.partial(getattr(ops, name), **options)
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    assert_close(evaluate(compiled, inputs, 0.2), evaluate(op, inputs, 0.2), 1e-12)
    compiled(*inputs, temperature=0.2)  # a number


@pytest.mark.parametrize("of_columns", [False, True])
def test_logsumexp_opcheck(of_columns):
    x, r, t = leaves_of(random_inputs(12, 5, 3, 7, dtype=torch.float64), 0.3)
    inputs = random_inputs(12, 5, 3, 7)
    refs = (r, inputs.ref_labels)
    arguments = (x, inputs.labels, *refs, None, None, t, None, 0, 2, of_columns, True, 0, 0.0, False)
    torch.library.opcheck(torch.ops.hardmine.logsumexp.default, arguments)


@each_op
def test_soft_op_number_or_tensor_of_any_dtype_is_the_same_temperature(name):
    inputs = random_inputs()
    expected = getattr(ops, name)(*inputs, temperature=0.25)
    for dtype in FLOAT_DTYPES:
        t = torch.tensor(0.25, dtype=dtype, requires_grad=True)
        result = getattr(ops, name)(*inputs, temperature=t)
        assert_bitwise_equal(result.detach(), expected)
        result.sum().backward()
        assert (t.grad.dtype, t.grad.shape) == (dtype, ())
        assert t.grad != 0


@pytest.mark.cpu
@each_call
@each_similarity
@pytest.mark.parametrize("refs", [None, 700])
def test_soft_op_any_thread_count_is_bitwise_equal(name, options, similarity, refs):
    inputs = exact_inputs(similarity, 900, 16, 40, refs)
    found = []
    for count in (1, 2, 3, 3):
        with threads(count):
            found.append(evaluate(getattr(ops, name), inputs, 1.0, similarity=similarity, **options))
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert_bitwise_equal(a, b)


LEVELS_SCRIPT = """
import sys, torch
from ops.test_soft_losses import CALLS, SIMILARITIES, evaluate
from hardmine import ops
from support.inputs import random_inputs
results = []
for name, options in CALLS:
    for similarity in SIMILARITIES:
        for dtype in (torch.float32, torch.float64):
            for rows, refs in ((250, None), (130, 97)):
                for temperature in (0.01, 1.0):
                    inputs = random_inputs(rows, 20, 4, refs, spread=1.5, dtype=dtype)
                    results += evaluate(getattr(ops, name), inputs, temperature, similarity=similarity, **options)
torch.save(results, sys.argv[1])
"""


@pytest.mark.subprocess
@pytest.mark.cpu
def test_soft_op_any_simd_level_gives_same_bits(tmp_path):
    assert len(simd_levels()) > 1
    found = []
    for simd in simd_levels():
        path = tmp_path / simd
        output_of(run_python("-c", LEVELS_SCRIPT, str(path), HARDMINE_SIMD=simd))
        found.append(torch.load(path))
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert_bitwise_equal(a, b)


@each_similarity
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_verify_checks_soft_ops(similarity, dtype):
    with hardmine.verify(every=1) as report:
        for refs in (None, 30):
            inputs = random_inputs(40, 9, 5, refs, dtype=dtype)
            for temperature in (1.0, torch.tensor(0.05)):
                for name, options in (*CALLS, ("supcon_loss", {"return_count": True})):
                    getattr(ops, name)(*inputs, temperature=temperature, similarity=similarity, **options)
                    getattr(ops, name)(*inputs, similarity=similarity, ignore_index=int(inputs.labels[0]), **options)
    assert (report.ops["logsumexp"].checks, report.ops["supcon_loss"].checks) == (24, 16)


@each_op
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_verify_wrong_soft_op_raises(name, what, monkeypatch):
    right, backward = torch.ops.hardmine.logsumexp, torch.ops.hardmine.logsumexp_backward
    inputs = random_inputs(40, 9, 5)

    def wrong(*arguments):
        log_sum, *rest = right(*arguments)
        return log_sum * 1.001, *rest

    if what == "loss":
        monkeypatch.setattr(torch.ops.hardmine, "logsumexp", wrong)
    else:
        monkeypatch.setattr(torch.ops.hardmine, "logsumexp_backward", lambda *a: [1.01 * g for g in backward(*a)])
    options = {"reduction": "none"} if name == "supcon_loss" else {}  # reduced on a CPU, it is an op of its own
    with pytest.raises(hardmine.VerificationError, match=f"the {what} deviates by"), hardmine.verify(every=1):
        getattr(ops, name)(*inputs, **options)


def test_soft_ops_agree():
    """SupCon from log-sum-exps, and one-pair losses of two per class."""
    inputs = inputs_of_sizes([2] * 20)
    s_ap = reference.logsumexp(*inputs, pairs="positive", temperature=1.0)
    composed = (ops.logsumexp(*inputs, temperature=0.2) - s_ap / 0.2).mean()
    torch.testing.assert_close(ops.supcon_loss(*inputs, temperature=0.2), composed)
    torch.testing.assert_close(ops.supcon_loss(*inputs, temperature=0.2), ops.tuplet_loss(*inputs, temperature=0.2))
    _, terms = ops.tuplet_loss(*inputs, temperature=0.2, return_terms=True)
    found = ops.logsumexp(*inputs, pairs="negative", temperature=0.2)
    torch.testing.assert_close(found, terms.negative_logsumexp)


@pytest.mark.parametrize("refs", [None, 90])
@pytest.mark.parametrize("temperature", [0.1, 0.02])
def test_supcon_loss_matches_pytorch_metric_learning(refs, temperature):
    theirs = pytest.importorskip("pytorch_metric_learning.losses").SupConLoss(temperature=temperature)
    inputs = random_inputs(60, 12, 9, refs, dtype=torch.float64)
    rows = [t.requires_grad_() for t in (inputs.embeddings, inputs.ref_embeddings) if t is not None]
    expected = theirs(inputs.embeddings, inputs.labels, ref_emb=inputs.ref_embeddings, ref_labels=inputs.ref_labels)
    found = ops.supcon_loss(*inputs, temperature=temperature)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for a, b in zip(torch.autograd.grad(found, rows), torch.autograd.grad(expected, rows), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softplus_is_exact_and_has_derivatives_at_infinities(dtype):
    values = torch.tensor([-math.inf, -40.0, 0.0, 40.0, math.inf], dtype=dtype, requires_grad=True)
    result = softplus(values)
    expected = [0.0, math.log1p(math.exp(-40)), math.log(2), 40.0, math.inf]
    torch.testing.assert_close(result, torch.tensor(expected, dtype=dtype), rtol=4 * torch.finfo(dtype).eps, atol=0)
    (slope,) = torch.autograd.grad(result.sum(), values)
    assert (slope[0], slope[2], slope[4]) == (0, 0.5, 1)
