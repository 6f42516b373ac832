"""InfoNCE: against F.cross_entropy and the reference, gradients, edges, and what all ops promise."""

import itertools
import math
import sys

import pytest
import torch
import torch.nn.functional as F

import hardmine
from hardmine import ops, reference
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded
from support.ops import EMULATED, SIMILARITIES
from support.processes import threads

pytestmark = pytest.mark.emulated

IMPLEMENTATIONS = pytest.mark.parametrize("library", [ops, reference], ids=["op", "ref"])
each_similarity = pytest.mark.parametrize("similarity", SIMILARITIES)
# Negatives: of the batch alone, [K, D] and [B, K, D], also without the batch
KINDS = {
    "one direction": {},
    "symmetric": {"symmetric": True},
    "ids": {"ids": True},
    "symmetric with ids": {"ids": True, "symmetric": True},
    "shared": {"negatives": "shared"},
    "shared with ids": {"negatives": "shared", "ids": True},
    "shared alone": {"negatives": "shared", "in_batch": False},
    "own": {"negatives": "own"},
    "own alone": {"negatives": "own", "in_batch": False},
}
# On a CPU, a mean of one loss is an op of its own.
each_reduction = pytest.mark.parametrize("reduction", ["none", "mean"])
each_kind = pytest.mark.parametrize("kind", KINDS)


def case(kind: str, pairs: int, depth: int = 7, negatives: int = 5, dtype=torch.float64, seed: int = 0):
    """The leaves, and a function of a library and of leaves and a temperature."""
    options = dict(KINDS[kind])
    generator = seeded(seed + pairs)
    centers = torch.randn(pairs, depth, generator=generator, dtype=torch.float64)
    shapes = [(pairs, depth), (pairs, depth)]
    given = options.pop("negatives", None)
    if given is not None:
        shapes.append((negatives, depth) if given == "shared" else (pairs, negatives, depth))
    leaves = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    leaves = [(leaf + centers if leaf.shape == centers.shape else leaf).to(dtype).requires_grad_() for leaf in leaves]
    if options.pop("ids", False):
        options["ids"] = torch.randint(-2, max(pairs // 2, 1), (pairs,), generator=generator)

    def call(library, *leaves, temperature, **more):
        return library.info_nce_loss(*leaves, temperature=temperature, **options, **more)

    return leaves, call


def evaluate(
    library, kind: str, temperature: float, pairs: int, dtype=torch.float64, exact: bool = False, **more
) -> list[torch.Tensor]:
    """The loss and the gradients, of the temperature too; with ``exact`` in float64."""
    leaves, call = case(kind, pairs, dtype=dtype)
    if exact:
        leaves = [leaf.detach().double().requires_grad_() for leaf in leaves]
    t = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    loss = call(library, *leaves, temperature=t, **more)
    weights = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).reshape(loss.shape)
    gradients = torch.autograd.grad((loss * weights).sum(), [*leaves, t], allow_unused=True)
    return [loss.detach(), *(0 * a if g is None else g for a, g in zip([*leaves, t], gradients, strict=True))]


@IMPLEMENTATIONS
def test_info_nce_loss_hand_worked_values_match(library):
    """Cosines 0.8 and 0.6 of query 0, 0.6 and 0.8 of query 1 with keys 0 and 1; a third key for all has 1 and 0."""
    query, key = torch.eye(2), torch.tensor([[0.8, 0.6], [0.6, 0.8]])
    one = math.log(1 + math.exp(-0.2 / 0.5))
    assert library.info_nce_loss(query, key, temperature=0.5, reduction="none").tolist() == pytest.approx([one, one])
    assert library.info_nce_loss(query, key, temperature=0.5, symmetric=True).item() == pytest.approx(one)
    shared = query[:1]
    expected = [
        math.log(1 + math.exp(-0.2 / 0.5) + math.exp((1 - 0.8) / 0.5)),
        math.log(1 + math.exp(-0.2 / 0.5) + math.exp((0 - 0.8) / 0.5)),
    ]
    for negatives in (shared, shared.expand(2, 1, 2)):
        found = library.info_nce_loss(query, key, negatives, temperature=0.5, reduction="none")
        assert found.tolist() == pytest.approx(expected)
    alone = [math.log(1 + math.exp((1 - 0.8) / 0.5)), math.log(1 + math.exp((0 - 0.8) / 0.5))]
    found = library.info_nce_loss(query, key, shared, temperature=0.5, in_batch=False, reduction="none")
    assert found.tolist() == pytest.approx(alone)
    equal = library.info_nce_loss(query, key, temperature=0.5, ids=torch.tensor([3, 3]), reduction="none")
    assert equal.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("symmetric", [False, True])
def test_info_nce_loss_is_cross_entropy_of_logits(symmetric):
    (q, k), _ = case("one direction", 130)
    logits, target = F.normalize(q) @ F.normalize(k).T / 0.07, torch.arange(130)
    expected = F.cross_entropy(logits, target)
    if symmetric:
        expected = (expected + F.cross_entropy(logits.T, target)) / 2
    found = ops.info_nce_loss(q, k, temperature=0.07, symmetric=symmetric)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for a, b in zip(torch.autograd.grad(found, [q, k]), torch.autograd.grad(expected, [q, k]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-14)


@each_kind
@each_similarity
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
def test_info_nce_loss_matches_reference(kind, similarity, temperature):
    for pairs, dtype, reduction in itertools.product((1, 2, 97, 130), (torch.float64, torch.float32), ("none", "mean")):
        options = {"similarity": similarity, "reduction": reduction}
        found = evaluate(ops, kind, temperature, pairs, dtype, **options)
        expected = evaluate(reference, kind, temperature, pairs, dtype, exact=True, **options)
        if dtype == torch.float32:
            plain = evaluate(reference, kind, temperature, pairs, dtype, **options)
            for a, p, e in zip(found, plain, expected, strict=True):
                scale = e.abs().max().item()
                assert (a - e).abs().max() <= 4 * (p - e).abs().max() + 32 * torch.finfo(dtype).eps * scale + 1e-15
            continue
        for a, e in zip(found, expected, strict=True):
            torch.testing.assert_close(a, e, rtol=0, atol=1e-11 * max(1.0, e.abs().max().item()), check_dtype=False)


@each_kind
def test_info_nce_loss_reductions_agree(kind):
    each = evaluate(ops, kind, 0.1, 30, reduction="none")[0]
    assert each.shape == (30,)
    torch.testing.assert_close(evaluate(ops, kind, 0.1, 30, reduction="sum")[0], each.sum())
    torch.testing.assert_close(evaluate(ops, kind, 0.1, 30)[0], each.mean())


@each_kind
@each_similarity
@each_reduction
def test_info_nce_loss_gradcheck(kind, similarity, reduction):
    leaves, call = case(kind, 6, depth=4, negatives=3)
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *a: call(ops, *a[:-1], temperature=a[-1], similarity=similarity, reduction=reduction), [*leaves, t]
    )


@pytest.mark.cpu
@each_kind
def test_info_nce_loss_compiles_whole(kind):
    torch._dynamo.reset()
    leaves, call = case(kind, 9)
    op = torch.compile(lambda *a: call(ops, *a, temperature=0.2), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(op(*leaves), call(ops, *leaves, temperature=0.2))
    torch.autograd.grad(op(*leaves), leaves)


@each_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_info_nce_loss_of_half_precision_is_that_of_its_rows_in_float32(kind, dtype):
    leaves, call = case(kind, 20, dtype=dtype)
    found = call(ops, *leaves, temperature=0.2)
    expected = call(ops, *(leaf.float() for leaf in leaves), temperature=0.2)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert all(g.dtype == dtype for g in torch.autograd.grad(found, leaves))


@each_kind
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@each_reduction
def test_info_nce_loss_non_finite_row_makes_everything_nan(kind, bad, reduction):
    for place in range(len(case(kind, 20)[0])):
        leaves, call = case(kind, 20)
        with torch.no_grad():
            leaves[place].view(-1)[9] = bad
        loss = call(ops, *leaves, temperature=0.1, reduction=reduction)
        assert loss.isnan().all()
        assert all(g.isnan().any() for g in torch.autograd.grad(loss.sum(), leaves))


def test_info_nce_loss_without_queries_or_negatives_is_zero():
    for shape, negatives in (
        ((0, 3), None),
        ((0, 3), (4, 3)),
        ((0, 3), (0, 4, 3)),
        ((1, 3), None),
        ((3, 3), (3, 0, 3)),
    ):
        query, key = torch.randn(shape, requires_grad=True), torch.randn(shape)
        given = None if negatives is None else torch.randn(negatives)
        loss = ops.info_nce_loss(query, key, given, in_batch=negatives is None)
        assert loss == 0
        if loss.requires_grad:
            assert (torch.autograd.grad(loss, query)[0] == 0).all()


@pytest.mark.cpu
@each_kind
def test_info_nce_loss_any_thread_count_is_bitwise_equal(kind):
    found = []
    for count in (1, 2, 3, 3):
        with threads(count):
            found.append(evaluate(ops, kind, 0.05, 700, torch.float32))
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert_bitwise_equal(a, b)


@pytest.mark.parametrize("kind", ["one direction", "symmetric", "shared"])
def test_info_nce_loss_value_does_not_depend_on_needed_gradients(kind):
    leaves, call = case(kind, 200)
    t = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        expected = call(ops, *leaves, temperature=t)
    everything = torch.autograd.grad(call(ops, *leaves, temperature=t), [*leaves, t])
    for place, leaf in enumerate([*leaves, t]):
        alone = [given.detach().requires_grad_(given is leaf) for given in [*leaves, t]]
        loss = call(ops, *alone[:-1], temperature=alone[-1])
        assert_bitwise_equal(loss.detach(), expected)
        assert_bitwise_equal(torch.autograd.grad(loss, alone[place])[0], everything[place])


def test_info_nce_loss_second_derivative_raises():
    for reduction in ("mean", "none"):
        leaves, call = case("one direction", 9)
        loss = call(ops, *leaves, temperature=0.1, reduction=reduction).sum()
        gradient = torch.autograd.grad(loss, leaves, create_graph=True)[0]
        with pytest.raises(NotImplementedError, match="has no second derivative"):
            gradient.sum().backward()


@pytest.mark.cpu
def test_info_nce_loss_passes_opcheck():
    query, key = (torch.randn(5, 4, requires_grad=True) for _ in range(2))
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    for needed in ((True, True, True), (False, True, False)):
        arguments = (query, key, temperature, 0, True, True, *needed)
        torch.library.opcheck(
            torch.ops.hardmine.info_nce_loss.default,
            arguments if all(needed) else [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments],
        )


def test_info_nce_loss_is_tuplet_loss_of_numbered_pairs():
    (q, k), _ = case("one direction", 50)
    number = torch.arange(50)
    torch.testing.assert_close(ops.info_nce_loss(q, k), ops.tuplet_loss(q, number, k, number))


@each_kind
@each_similarity
def test_verify_checks_info_nce_loss(kind, similarity):
    with hardmine.verify(every=1) as report:
        for dtype, reduction in itertools.product((torch.float32, torch.float16, torch.float64), ("mean", "none")):
            leaves, call = case(kind, 20, dtype=dtype)
            for temperature in (0.05, torch.tensor(1.0)):
                call(ops, *leaves, temperature=temperature, reduction=reduction, similarity=similarity)
    assert report.ops["info_nce_loss"].checks == 12


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_verify_wrong_info_nce_loss_raises(what, reduction, monkeypatch):
    leaves, call = case("symmetric", 20)
    if reduction == "mean" and not EMULATED:
        module = sys.modules["hardmine.ops.info_nce_loss"]
        right_loss = module.loss_of_pairs

        def wrong_loss(*arguments):
            loss = right_loss(*arguments)
            return 1.01 * loss - (0.01 * loss.detach() if what == "gradient" else 0)

        monkeypatch.setattr(module, "loss_of_pairs", wrong_loss)
    else:
        name = "logsumexp_backward" if what == "gradient" else "logsumexp"
        right = getattr(torch.ops.hardmine, name)
        monkeypatch.setattr(torch.ops.hardmine, name, lambda *given: (1.01 * (found := right(*given))[0], *found[1:]))
    with pytest.raises(hardmine.VerificationError, match=f"the {what} deviates by"), hardmine.verify(every=1):
        call(ops, *leaves, temperature=0.1, reduction=reduction)


@each_kind
def test_info_nce_loss_of_mixed_dtypes_under_autocast_is_that_of_float32(kind):
    leaves, call = case(kind, 20, dtype=torch.bfloat16)
    mixed = [leaves[0], *(leaf.float() for leaf in leaves[1:])]
    expected = call(ops, *(leaf.float() for leaf in leaves), temperature=0.2)
    with pytest.raises(TypeError, match=r"^positive_key must have the dtype of query"):
        call(ops, *mixed, temperature=0.2)
    with torch.autocast(mixed[0].device.type, torch.bfloat16), hardmine.verify(every=1) as report:
        found = call(ops, *mixed, temperature=0.2)
    assert_bitwise_equal(found, expected)
    assert report.ops["info_nce_loss"].checks == 1
    assert torch.autograd.grad(found, leaves[0])[0].dtype == torch.bfloat16


def test_info_nce_without_any_negative_has_loss_and_gradient_0():
    query, key = (torch.randn(3, 4, generator=seeded(i)).requires_grad_() for i in range(2))
    same = torch.zeros(3, dtype=torch.int64)
    loss = ops.info_nce_loss(query, key, torch.zeros(3, 0, 4), ids=same)
    loss.backward()
    assert loss == 0
    assert not query.grad.any()
    assert not key.grad.any()


@pytest.mark.cpu  # threads
def test_soft_losses_sum_in_the_same_order_for_any_number_of_threads():
    """Torch splits sums of more than 32,768 numbers among threads."""
    rows, refs = torch.randn(100003, 4, generator=seeded(0)), torch.randn(4, 4, generator=seeded(1))
    labels, ref_labels = torch.arange(100003) % 3, torch.arange(4) % 3
    found = []
    for number in (1, 2, 3):
        t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        with threads(number):
            supcon = ops.supcon_loss(rows, labels, refs, ref_labels, temperature=t)
            supcon.backward()
            similar = ops.multi_similarity_loss(rows, labels, refs, ref_labels)
            info_nce = ops.info_nce_loss(rows, rows.flip(0), refs[:3], in_batch=False, reduction="sum")
        found.append((supcon.detach(), t.grad, similar, info_nce))
    for values in found[1:]:
        for value, first in zip(values, found[0], strict=True):
            assert_bitwise_equal(value, first)
