"""The sigmoid loss: values worked by hand, against the reference, gradients, edges, and what all ops promise."""

import itertools
import math
import sys

import pytest
import torch

import hardmine
from hardmine import ops, reference
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded
from support.ops import SIMILARITIES
from support.processes import output_of, run_python, simd_levels, threads

pytestmark = pytest.mark.emulated

each_similarity = pytest.mark.parametrize("similarity", SIMILARITIES)
NUMBERS = [(10.0, -10.0), (3.0, 0.5), (-2.0, 40.0)]


def pairs(count: int, depth: int = 7, dtype=torch.float64) -> list[torch.Tensor]:
    """Queries with keys near them."""
    generator = seeded(count)
    query = torch.randn(count, depth, generator=generator, dtype=torch.float64)
    key = query + torch.randn(count, depth, generator=generator, dtype=torch.float64)
    return [query.to(dtype).requires_grad_(), key.to(dtype).requires_grad_()]


def evaluate(library, rows, scale: float, bias: float, **options) -> list[torch.Tensor]:
    """The loss and the gradients, those of scale and bias too."""
    numbers = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (scale, bias)]
    loss = library.sigmoid_loss(*rows, logit_scale=numbers[0], logit_bias=numbers[1], **options)
    weights = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).reshape(loss.shape)
    gradients = torch.autograd.grad((loss * weights).sum(), [*rows, *numbers], allow_unused=True)
    return [loss.detach(), *(0 * a if g is None else g for a, g in zip([*rows, *numbers], gradients, strict=True))]


@pytest.mark.parametrize("library", [ops, reference], ids=["op", "ref"])
def test_sigmoid_loss_hand_worked_values_match(library):
    """Cosines 0.8 and 0.6 of query 0, 0.6 and 0.8 of query 1 with keys 0 and 1."""
    query, key = torch.eye(2), torch.tensor([[0.8, 0.6], [0.6, 0.8]])
    each = math.log(1 + math.exp(-(10 * 0.8 - 10))) + math.log(1 + math.exp(10 * 0.6 - 10))
    assert library.sigmoid_loss(query, key, reduction="none").tolist() == pytest.approx([each, each])
    assert library.sigmoid_loss(query, key).item() == pytest.approx(each)
    assert library.sigmoid_loss(query, key, reduction="sum").item() == pytest.approx(2 * each)
    each = math.log(1 + math.exp(-(2 * 0.8 + 1))) + math.log(1 + math.exp(2 * 0.6 + 1))
    assert library.sigmoid_loss(query, key, logit_scale=2, logit_bias=1).item() == pytest.approx(each)


@each_similarity
@pytest.mark.parametrize(("scale", "bias"), NUMBERS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_sigmoid_loss_matches_reference(similarity, scale, bias, reduction):
    options = {"similarity": similarity, "reduction": reduction}
    for count, dtype in itertools.product((1, 2, 95, 97, 193), (torch.float64, torch.float32)):
        rows = pairs(count, dtype=dtype)
        exact = [r.detach().double().requires_grad_() for r in rows]
        found, expected = (
            evaluate(ops, rows, scale, bias, **options),
            evaluate(reference, exact, scale, bias, **options),
        )
        tolerance = 1e-11 if dtype == torch.float64 else 1e-5
        for a, e in zip(found, expected, strict=True):
            largest = max(1.0, e.abs().max().item())
            torch.testing.assert_close(a, e, rtol=0, atol=tolerance * largest, check_dtype=False)


@each_similarity
def test_sigmoid_loss_gradcheck(similarity):
    numbers = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (3.0, -1.0)]
    assert torch.autograd.gradcheck(
        lambda q, k, scale, bias: ops.sigmoid_loss(
            q, k, logit_scale=scale, logit_bias=bias, similarity=similarity, reduction="none"
        ),
        [*pairs(6, 4), *numbers],
    )


def test_sigmoid_loss_second_derivatives_raise():
    query, key = pairs(6)
    scale = torch.tensor(2.0, requires_grad=True)
    for leaf in (query, scale):
        (first,) = torch.autograd.grad(ops.sigmoid_loss(query, key, logit_scale=scale), leaf, create_graph=True)
        with pytest.raises(NotImplementedError, match="has no second derivative"):
            first.sum().backward()


@pytest.mark.cpu
def test_sigmoid_loss_compiles_whole_and_passes_opcheck():
    torch._dynamo.reset()
    query, key = pairs(9)
    bias = torch.tensor(-1.0, requires_grad=True)

    def op(q, k, b):
        return ops.sigmoid_loss(q, k, logit_scale=2.0, logit_bias=b)

    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(query, key, bias), op(query, key, bias))
    torch.autograd.grad(compiled(query, key, bias), (query, key, bias))
    number, logit = torch.arange(9), torch.tensor([2.0, -1.0], dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.hardmine.sigmoid_loss.default, (query, number, key, number, logit, 0, False))
    with_gradients = torch.ops.hardmine.sigmoid_loss_with_gradients.default
    torch.library.opcheck(with_gradients, (query, key, logit, 0, True, True, True, True))
    torch.library.opcheck(with_gradients, (query, key.detach(), logit.detach(), 2, False, True, False, False))


@pytest.mark.cpu
@each_similarity
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("count", [1, 33, 200])
def test_sigmoid_loss_with_gradients_equals_that_of_each_query(similarity, dtype, reduction, count):
    """On a CPU a reduced loss is an op of its own."""
    rows = pairs(count, dtype=dtype)
    numbers = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (4.0, -3.0)]
    options = {"similarity": similarity, "logit_scale": numbers[0], "logit_bias": numbers[1]}
    loss = ops.sigmoid_loss(*rows, **options, reduction=reduction)
    each = ops.sigmoid_loss(*rows, **options, reduction="none")
    expected = each.sum() if reduction == "sum" else each.mean()
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(3 * value, [*rows, *numbers]) for value in (loss, expected))
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype
        assert (a != 0).any()
        torch.testing.assert_close(
            a, b, atol=1e-6 * b.abs().max().item(), rtol=0.01 if dtype == torch.bfloat16 else 1e-5
        )
    with torch.no_grad():
        assert_bitwise_equal(ops.sigmoid_loss(*rows, **options, reduction=reduction), loss.detach())
    only = torch.autograd.grad(
        3 * ops.sigmoid_loss(*rows, logit_scale=4.0, logit_bias=-3.0, similarity=similarity, reduction=reduction),
        rows[1],
    )[0]
    assert_bitwise_equal(only, found[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sigmoid_loss_of_half_precision_is_that_of_its_rows_in_float32(dtype):
    rows = pairs(60, dtype=dtype)
    found = ops.sigmoid_loss(*rows)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, ops.sigmoid_loss(*(r.float() for r in rows)), rtol=1e-4, atol=1e-4)
    assert all(g.dtype == dtype for g in torch.autograd.grad(found, rows))
    mixed = rows[0], rows[1].float()
    with torch.autocast(rows[0].device.type, torch.bfloat16):
        assert_bitwise_equal(ops.sigmoid_loss(*mixed), ops.sigmoid_loss(rows[0].float(), mixed[1]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_sigmoid_loss_non_finite_row_makes_everything_nan(bad, side):
    rows = pairs(30)
    with torch.no_grad():
        rows[side][3, 2] = bad
    assert all(part.isnan().all() for part in evaluate(ops, rows, 2.0, -1.0, reduction="none"))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["logit_scale", "logit_bias"])
def test_sigmoid_loss_unchecked_bad_number_makes_everything_nan(bad, name, monkeypatch):
    """Compiled graphs and GPUs cannot check values."""
    for module in ("_arguments", "sigmoid_loss"):
        monkeypatch.setattr(sys.modules[f"hardmine.ops.{module}"], "has_values", lambda tensor: False)
    rows, number = pairs(30), torch.full((), bad, dtype=torch.float64, requires_grad=True)
    loss = ops.sigmoid_loss(*rows, **{name: number})
    assert loss.isnan()
    assert all(gradient.isnan().all() for gradient in torch.autograd.grad(loss, [*rows, number]))


def test_sigmoid_loss_without_pairs_is_zero():
    loss, *gradients = evaluate(ops, pairs(0), 2.0, -1.0)
    assert loss == 0
    assert all((g == 0).all() for g in gradients)


@pytest.mark.cpu
@each_similarity
def test_sigmoid_loss_any_thread_count_is_bitwise_equal(similarity):
    found = []
    for count in (1, 2, 3, 3):
        with threads(count):
            rows = pairs(700, 16, torch.float32)
            found.append([])
            for reduction in ("mean", "none"):
                found[-1] += evaluate(ops, rows, 10.0, -10.0, similarity=similarity, reduction=reduction)
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert_bitwise_equal(a, b)


LEVELS_SCRIPT = """
import sys, torch
from ops.test_sigmoid_loss import NUMBERS, SIMILARITIES, evaluate, pairs
from hardmine import ops
results = []
for dtype in (torch.float32, torch.float64):
    for similarity in SIMILARITIES:
        for numbers in NUMBERS:
            for count, depth in ((97, 7), (250, 40)):
                for reduction in ("mean", "none"):
                    options = dict(similarity=similarity, reduction=reduction)
                    results += evaluate(ops, pairs(count, depth, dtype), *numbers, **options)
torch.save(results, sys.argv[1])
"""


@pytest.mark.subprocess
@pytest.mark.cpu
def test_sigmoid_loss_any_simd_level_gives_same_bits(tmp_path):
    found = []
    for simd in simd_levels():
        output_of(run_python("-c", LEVELS_SCRIPT, str(tmp_path / simd), HARDMINE_SIMD=simd))
        found.append(torch.load(tmp_path / simd))
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert_bitwise_equal(a, b)


@each_similarity
def test_verify_checks_sigmoid_loss(similarity):
    with hardmine.verify(every=1) as report:
        for dtype, reduction in itertools.product((torch.float32, torch.float16, torch.float64), ("mean", "none")):
            rows = pairs(20, dtype=dtype)
            for scale, bias in ((10.0, -10.0), (torch.tensor(2.0), torch.tensor(0.5))):
                ops.sigmoid_loss(*rows, logit_scale=scale, logit_bias=bias, similarity=similarity, reduction=reduction)
    assert report.ops["sigmoid_loss"].checks == 12


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_verify_wrong_sigmoid_loss_raises(what, monkeypatch):
    right, backward = torch.ops.hardmine.sigmoid_loss, torch.ops.hardmine.sigmoid_loss_backward
    if what == "loss":
        monkeypatch.setattr(torch.ops.hardmine, "sigmoid_loss", lambda *a: (1.01 * (found := right(*a))[0], found[1]))
    else:
        monkeypatch.setattr(torch.ops.hardmine, "sigmoid_loss_backward", lambda *a: [1.01 * g for g in backward(*a)])
    with pytest.raises(hardmine.VerificationError, match=f"the {what} deviates by"), hardmine.verify(every=1):
        ops.sigmoid_loss(*pairs(20), reduction="none")


@pytest.mark.cpu
@pytest.mark.parametrize("place", [0, 1, 2])
def test_verify_wrong_sigmoid_loss_with_gradients_raises(place, monkeypatch):
    right = torch.ops.hardmine.sigmoid_loss_with_gradients

    def wrong(*arguments):
        found = list(right(*arguments))
        found[place] = 1.01 * found[place]
        return found

    monkeypatch.setattr(torch.ops.hardmine, "sigmoid_loss_with_gradients", wrong)
    what = "gradient" if place else "loss"
    with pytest.raises(hardmine.VerificationError, match=f"the {what} deviates by"), hardmine.verify(every=1):
        ops.sigmoid_loss(*pairs(20))


@pytest.mark.cpu
def test_sigmoid_loss_with_gradients_direct_calls_with_wrong_arguments_raise():
    x, logit = torch.ones(4, 3), torch.ones(2, dtype=torch.float64)
    good = [x, x, logit, 0, True, True, True, True]
    torch.ops.hardmine.sigmoid_loss_with_gradients(*good)
    changes = [(0, x[0]), (0, x.int()), (1, x[:3]), (1, x[:, :2]), (1, x.double()), (2, logit[:1]), (2, logit.float())]
    for place, value in [*changes, (3, -1), (3, 3)]:
        with pytest.raises((ValueError, RuntimeError), match="must"):
            torch.ops.hardmine.sigmoid_loss_with_gradients(*good[:place], value, *good[place + 1 :])
    backward, one = torch.ops.hardmine.sigmoid_loss_with_gradients_backward, torch.ones(())
    given = [one, x, x, logit, x, x, logit, True, True, True]
    assert_bitwise_equal(backward(2 * one, *given[1:])[2], 2 * logit)
    for place, value in [(0, one.int()), (0, torch.ones(2)), (1, x.double()), (2, x.int()), (3, logit.float())]:
        with pytest.raises((ValueError, RuntimeError), match="must"):
            backward(*given[:place], value, *given[place + 1 :])
