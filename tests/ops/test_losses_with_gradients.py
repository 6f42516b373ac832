"""The CPU ops of reduced losses, which compute their gradients with them."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import hardmine
from hardmine import ops
from hardmine.ops._known_options import KNOWN_OPTIONS
from hardmine.ops._labeled_losses import has_labeled_losses
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded
from support.ops import FLOAT_DTYPES, SIMILARITIES
from support.processes import threads

pytestmark = pytest.mark.skipif(not has_labeled_losses(torch.zeros(1)), reason="a GPU computes them apart")


def rows(count: int, depth: int = 6, dtype=torch.float32, seed: int = 0):
    generator = seeded(seed + count)
    x = torch.randn(count, depth, generator=generator).to(dtype).requires_grad_()
    return x, torch.randint(0, max(count // 3, 1), (count,), generator=generator)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum"])
@pytest.mark.parametrize("with_refs", [False, True])
def test_triplet_loss_with_gradients_equals_loss_and_gradient_of_its_selection(dtype, similarity, reduction, with_refs):
    """A call that returns the selection takes the op whose backward pass computes the gradients."""
    x, y = rows(40, dtype=dtype)
    refs = rows(50, dtype=dtype, seed=1) if with_refs else ()
    leaves = [x, *refs[:1]]
    options = {"similarity": similarity, "reduction": reduction}
    loss = ops.triplet_loss(x, y, *refs, **options)
    expected, _ = ops.triplet_loss(x, y, *refs, **options, return_selection=True)
    assert_bitwise_equal(loss.detach(), expected.detach())
    with torch.no_grad():
        assert_bitwise_equal(ops.triplet_loss(x, y, *refs, **options), expected.detach())
    found, wanted = (torch.autograd.grad(4 * value, leaves) for value in (loss, expected))
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == dtype
        assert (a != 0).any()
        assert_bitwise_equal(a, b)


def gradients(loss, leaves):
    return torch.autograd.grad(4 * loss, leaves)  # a power of 2, which rounds nothing


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("positive", ["easiest", "all"])
@pytest.mark.parametrize(("count", "depth", "with_refs"), [(40, 6, False), (40, 6, True), (100, 40, False)])
def test_tuplet_loss_with_gradients_equals_its_two_passes(
    dtype, similarity, reduction, positive, count, depth, with_refs
):
    """A call that returns the count takes the ops of both passes. 100 x 40 keeps the similarities between passes."""
    x, y = rows(count, depth, dtype)
    refs = rows(50, depth, dtype, seed=1) if with_refs else ()
    leaves = [x, *refs[:1]]
    options = {"similarity": similarity, "reduction": reduction, "positive": positive, "temperature": 0.3}
    loss = ops.tuplet_loss(x, y, *refs, **options)
    expected, _ = ops.tuplet_loss(x, y, *refs, **options, return_count=True)
    assert_bitwise_equal(loss.detach(), expected.detach())
    for a, b in zip(gradients(loss, leaves), gradients(expected, leaves), strict=True):
        assert (a != 0).any()
        assert_bitwise_equal(a, b)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("count", "depth", "with_refs"), [(40, 6, False), (40, 6, True), (100, 40, False)])
def test_supcon_loss_with_gradients_equals_its_log_sum_exps(dtype, similarity, reduction, count, depth, with_refs):
    """A call that returns the count is composed of log-sum-exps."""
    x, y = rows(count, depth, dtype)
    refs = rows(50, depth, dtype, seed=1) if with_refs else ()
    leaves = [x, *refs[:1]]
    options = {"similarity": similarity, "reduction": reduction, "temperature": 0.3, "ids": torch.arange(count) // 9}
    if with_refs:
        options["ref_ids"] = torch.arange(50) // 9
    loss = ops.supcon_loss(x, y, *refs, **options)
    expected, _ = ops.supcon_loss(x, y, *refs, **options, return_count=True)
    torch.testing.assert_close(loss, expected)
    for a, b in zip(gradients(loss, leaves), gradients(expected, leaves), strict=True):
        assert a.dtype == dtype
        assert (a != 0).any()
        torch.testing.assert_close(
            a, b, rtol=None if dtype != torch.float32 else 1e-5, atol=None if dtype != torch.float32 else 1e-6
        )


TWO_SUMS = {
    "multi_similarity_loss": (ops.multi_similarity_loss, {"alpha": 3.0, "beta": 9.0, "base": 0.2}),
    "dot multi_similarity_loss": (ops.multi_similarity_loss, {"alpha": 0.3, "beta": 0.5, "similarity": "dot"}),
    "circle_loss": (ops.circle_loss, {"m": 0.3, "gamma": 9.0}),
}


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("name", TWO_SUMS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    ("count", "depth", "with_refs"),
    [(40, 6, False), (40, 6, True), (100, 40, False), (100, 100, True), (300, 40, False)],
)
def test_loss_of_two_sums_with_gradients_equals_its_log_sum_exps(dtype, name, reduction, count, depth, with_refs):
    """A call for the losses of anchors is composed of log-sum-exps. Depth 6 computes the similarities twice."""
    op, options = TWO_SUMS[name]
    x, y = rows(count, depth, dtype)
    refs = rows(150, depth, dtype, seed=1) if with_refs else ()
    leaves = [x, *refs[:1]]
    options = {**options, "ids": torch.arange(count) // 9}
    if with_refs:
        options["ref_ids"] = torch.arange(150) // 9
    loss = op(x, y, *refs, **options, reduction=reduction)
    each = op(x, y, *refs, **options, reduction="none")
    expected = each.sum()
    if reduction == "mean":
        expected = expected / (each != 0).sum()
        assert name != "multi_similarity_loss" or (each != 0).all()
    torch.testing.assert_close(loss, expected, rtol=1e-13 if dtype == torch.float64 else 1e-5, atol=0)
    exact = dtype in (torch.float32, torch.float64)
    for a, b in zip(gradients(loss, leaves), gradients(expected, leaves), strict=True):
        assert a.dtype == dtype
        assert (a != 0).any()
        scale = b.abs().max().item()
        torch.testing.assert_close(a, b, rtol=1e-5 if exact else 0.02, atol=(2e-6 if exact else 0.01) * scale)


LOSSES = {
    "multi_similarity_loss": ops.multi_similarity_loss,
    "circle_loss": ops.circle_loss,
    "tuplet_loss": ops.tuplet_loss,
    "tuplet_loss of all positives": lambda x, y: ops.tuplet_loss(x, y, positive="all"),
    "supcon_loss": ops.supcon_loss,
    "euclidean supcon_loss": lambda x, y: ops.supcon_loss(x, y, similarity="euclidean"),
    "batch_all_triplet_loss": ops.batch_all_triplet_loss,
}
each_loss = pytest.mark.parametrize("loss_of", LOSSES.values(), ids=LOSSES.keys())


@each_loss
@pytest.mark.parametrize("depth", [64, 8])
def test_loss_with_gradients_any_thread_count_is_bitwise_equal(loss_of, depth):
    """At depth 64 similarities are kept between passes, at depth 8 they are computed twice."""
    x, y = rows(700, depth)
    found = []
    for count in (1, 2, 3):
        with threads(count):
            loss = loss_of(x, y)
            found.append((loss.detach(), *torch.autograd.grad(loss, x)))
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert_bitwise_equal(a, b)


@each_loss
def test_loss_with_gradients_without_positives_or_rows_is_zero(loss_of):
    x, _ = rows(20)
    for y in (torch.arange(20), torch.arange(0)):
        if loss_of is ops.multi_similarity_loss and len(y):
            continue  # an anchor without positives has a loss of negatives
        leaf = x.detach()[: len(y)].requires_grad_()
        loss = loss_of(leaf, y)
        assert loss == 0
        assert (torch.autograd.grad(loss, leaf)[0] == 0).all()


@each_loss
def test_loss_with_gradients_makes_everything_nan_for_a_nonfinite_row(loss_of):
    x, y = rows(20)
    with torch.no_grad():
        x[3, 1] = float("nan")
    loss = loss_of(x, y)
    assert loss.isnan()
    assert torch.autograd.grad(loss, x)[0].isnan().all()


@each_loss
def test_loss_with_gradients_second_derivative_raises(loss_of):
    x, y = rows(20)
    gradient = torch.autograd.grad(loss_of(x, y), x, create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="has no second derivative"):
        gradient.sum().backward()


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    ("loss_of", "name"),
    [
        (ops.triplet_loss, "triplet_loss_with_gradients"),
        (ops.sct_loss, "triplet_loss_with_gradients"),
        (lambda x, y: ops.triplet_loss(x, y, negative="random"), "triplet_loss_with_gradients"),
        (lambda x, y: ops.triplet_loss(x, y, ignore_index=1), "triplet_loss_with_gradients"),
        (ops.tuplet_loss, "tuplet_loss_with_gradients"),
        (ops.supcon_loss, "supcon_loss"),
        (ops.multi_similarity_loss, "multi_similarity_loss"),
        (ops.circle_loss, "circle_loss"),
    ],
    ids=["triplet", "sct", "random negatives", "ignored rows", "tuplet", "supcon", "multi-similarity", "circle"],
)
def test_verify_wrong_loss_with_gradients_raises(loss_of, name, place, monkeypatch):
    """The check runs the op of the call, and not only the one that also returns what was selected."""
    right = getattr(torch.ops.hardmine, name)

    def wrong(*arguments):
        found = list(right(*arguments))
        found[place] = 1.01 * found[place]
        return found

    x, y = rows(40)
    with hardmine.verify(every=1) as report:
        loss_of(x, y)
    assert report.checks == 1
    monkeypatch.setattr(torch.ops.hardmine, name, wrong)
    what = ("loss", "gradient")[place]
    with pytest.raises(hardmine.VerificationError, match=f"the {what} deviates by"), hardmine.verify(every=1):
        loss_of(x, y)


def test_verify_wrong_supcon_loss_with_its_count_raises(monkeypatch):
    """A call that returns the count is composed of log-sum-exps, which verify runs."""
    right = torch.ops.hardmine.logsumexp
    monkeypatch.setattr(torch.ops.hardmine, "logsumexp", lambda *given: (right(*given)[0] + 0.01, *right(*given)[1:]))
    x, y = rows(40)
    with pytest.raises(hardmine.VerificationError, match="the loss deviates by"), hardmine.verify(every=1):
        ops.supcon_loss(x, y, return_count=True)


@pytest.mark.parametrize("name", TWO_SUMS)
@pytest.mark.parametrize("refs", [12288, 12289, 18433])
def test_loss_of_two_sums_of_few_rows_among_many_refs_equals_its_log_sum_exps(name, refs):
    """From 12,289 refs on, the blocks of a pass are wider, and from 18,433 on wider again; all are kept."""
    op, options = TWO_SUMS[name]
    x, y = rows(40, 40)
    refs, ref_labels = rows(refs, 40, seed=1)
    ref_labels[-3:] = y[:3]
    found = []
    for count in (1, 2, 3):
        with threads(count):
            loss = op(x, y, refs, ref_labels, **options)
            found.append((loss.detach(), *gradients(loss, (x, refs))))
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert_bitwise_equal(a, b)
    each = op(x, y, refs, ref_labels, **options, reduction="none")
    expected = each.sum() / (each != 0).sum()
    torch.testing.assert_close(found[0][0], expected)
    for a, b in zip(found[0][1:], gradients(expected, (x, refs)), strict=True):
        assert (a != 0).any()
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * b.abs().max().item())


@pytest.mark.parametrize("loss_of", [ops.supcon_loss, ops.tuplet_loss])
def test_loss_with_gradients_of_few_rows_among_many_refs_equals_its_two_passes(loss_of):
    """Beyond 12,288 refs, the blocks of a pass are wider. The similarities of few rows are kept nevertheless."""
    x, y = rows(40, 40)
    refs, ref_labels = rows(12500, 40, seed=1)
    options = {"temperature": 0.3}
    loss = loss_of(x, y, refs, ref_labels, **options)
    expected, _ = loss_of(x, y, refs, ref_labels, **options, return_count=True)
    torch.testing.assert_close(loss, expected)
    for a, b in zip(gradients(loss, (x, refs)), gradients(expected, (x, refs)), strict=True):
        assert (a != 0).any()
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_losses_of_sums_with_gradients_pass_opcheck():
    x, y = rows(9)
    for refs in ((None, None), rows(7, seed=1)):
        arguments, flags = (x, y, *refs, None, None), (True, refs[0] is not None)
        tuplet = (0, 0, 0.1, float("inf"), 0, False)
        torch.library.opcheck(torch.ops.hardmine.tuplet_loss_with_gradients.default, (*arguments, *tuplet, *flags))
        torch.library.opcheck(torch.ops.hardmine.supcon_loss.default, (*arguments, 0, 0.1, True, *flags))
        multi_similarity = (0, 2.0, 50.0, 0.5, True)
        torch.library.opcheck(torch.ops.hardmine.multi_similarity_loss.default, (*arguments, *multi_similarity, *flags))
        torch.library.opcheck(torch.ops.hardmine.circle_loss.default, (*arguments, 0.4, 80.0, True, *flags))


def test_triplet_loss_with_gradients_any_thread_count_is_bitwise_equal():
    x, y = rows(700, depth=64)
    found = []
    for count in (1, 2, 3):
        with threads(count):
            loss = ops.sct_loss(x, y)
            found.append((loss.detach(), *torch.autograd.grad(loss, x)))
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert_bitwise_equal(a, b)


def test_triplet_loss_with_gradients_passes_opcheck():
    x, y = rows(9)
    options = (0, 0, 0, 0, 0, float("inf"), float("inf"), False, 3, 0, False, 0.1, 0.0, 1.0, 0.0, -float("inf"), 0)
    for refs in ((None, None), rows(7, seed=1)):
        arguments = (x, y, *refs, None, None, None, *options, True, refs[0] is not None)
        torch.library.opcheck(torch.ops.hardmine.triplet_loss_with_gradients.default, arguments)


def test_triplet_loss_with_gradients_refuses_losses_of_each_anchor():
    x, y = rows(9)
    options = (0, 0, 0, 0, 0, float("inf"), float("inf"), False, 3, 0, False, 0.1, 0.0, 1.0, 0.0, -float("inf"), 2)
    with pytest.raises((ValueError, RuntimeError), match="reduction must not be 'none'"):
        torch.ops.hardmine.triplet_loss_with_gradients(x, y, *(None,) * 5, *options, True, False)


@pytest.mark.parametrize("call", ["eager", "compiled"])
def test_triplet_loss_with_gradients_second_derivative_raises(call):
    x, y = rows(20)
    loss = ops.triplet_loss
    if call == "compiled":
        torch._dynamo.reset()
        loss = torch.compile(loss, fullgraph=True, backend="eager")
    gradient = torch.autograd.grad(loss(x, y), x, create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="has no second derivative"):
        gradient.sum().backward()


def test_triplet_loss_with_gradients_accepts_inference_tensors_as_refs():
    x, y = rows(20)
    with torch.inference_mode():
        refs, ref_labels = (t.clone() for t in rows(30, seed=1))
    loss = ops.triplet_loss(x, y, refs, ref_labels)
    assert (torch.autograd.grad(loss, x)[0] != 0).any()


def test_triplet_loss_with_gradients_makes_everything_nan_for_a_nonfinite_row():
    x, y = rows(20)
    with torch.no_grad():
        x[3, 1] = float("inf")
    loss = ops.sct_loss(x, y)
    assert loss.isnan()
    assert torch.autograd.grad(loss, x)[0].isnan().all()


def test_options_of_an_earlier_call_are_checked_for_their_types_and_dtype():
    """Equal values of other types, and other dtypes, need their own check."""
    x, y = rows(20)
    ops.triplet_loss(x, y, term="hinge", margin=1)
    with pytest.raises(TypeError, match="margin must be a number, got bool"):
        ops.triplet_loss(x, y, term="hinge", margin=True)
    ops.triplet_loss(x.double(), y, term="hinge", margin=1e300)
    with pytest.raises(ValueError, match="margin must be a"):
        ops.triplet_loss(x, y, term="hinge", margin=1e300)


def test_options_of_many_calls_do_not_pile_up():
    x, y = rows(5)
    for k in range(1100):
        ops.triplet_loss(x, y, term="hinge", margin=k / 1000)
    assert len(KNOWN_OPTIONS) <= 1000


@pytest.mark.parametrize("factor", [1.0, 0.0, -2.5])
def test_gradients_of_a_retained_graph_are_not_overwritten(factor):
    x, y = rows(20)
    expected = factor * torch.autograd.grad(ops.triplet_loss(x, y, return_selection=True)[0], x)[0]
    loss = factor * ops.triplet_loss(x, y)
    for last in (False, False, True):
        found = torch.autograd.grad(loss, x, retain_graph=not last)[0]
        assert_bitwise_equal(found, expected)
        found.fill_(7)
    with pytest.raises(RuntimeError, match="a second time"):
        torch.autograd.grad(loss, x)


def test_gradients_that_backward_leaves_in_grad_are_added_up():
    x, y = rows(20)
    expected = torch.autograd.grad(ops.triplet_loss(x, y), x)[0]
    for _ in range(2):
        ops.triplet_loss(x, y).backward()
    assert_bitwise_equal(x.grad, expected + expected)


def test_gradients_of_a_batch_of_loss_gradients_are_scaled():
    x, y = rows(20)
    expected = torch.autograd.grad(ops.triplet_loss(x, y), x)[0]
    loss = ops.triplet_loss(x, y)
    found = torch.autograd.grad(loss, x, torch.tensor([1.0, 3.0]), is_grads_batched=True)[0]
    assert_bitwise_equal(found, torch.stack([expected, 3 * expected]))


@each_loss
@pytest.mark.parametrize("tracing_mode", ["real", "fake"])
def test_recorded_backward_pass_gives_the_gradients_of_other_rows(loss_of, tracing_mode):
    x, y = rows(20)
    other, _ = rows(20, seed=1)

    def gradient(x, y):
        return torch.autograd.grad(3 * loss_of(x, y), x)[0]

    recorded = make_fx(gradient, tracing_mode=tracing_mode)(x, y)
    torch.testing.assert_close(recorded(other, y), gradient(other, y))


def test_known_options_are_those_of_the_same_call_alone():
    """Dropped rows, ids, flags and other options must not be lost in a call like an earlier one."""
    x, y = rows(20)
    plain = ops.triplet_loss(x, y)
    assert_bitwise_equal(ops.triplet_loss(x, y), plain)
    for options in ({"ignore_index": 0}, {"ids": y}, {"temperature": 0.2}, {"weights": torch.rand(20)}):
        first, second = ops.triplet_loss(x, y, **options), ops.triplet_loss(x, y, **options)
        assert first != plain
        assert_bitwise_equal(second, first)
    for _ in range(2):
        assert len(ops.triplet_loss(x, y, return_count=True)) == 2
    assert len({ops.triplet_loss(x, y, negative="random").item() for _ in range(9)}) > 1
    refs = rows(30, seed=1)
    assert_bitwise_equal(ops.triplet_loss(x, y, *refs), ops.triplet_loss(x, y, *refs, return_selection=True)[0])


@pytest.mark.parametrize("loss_of", [ops.triplet_loss, ops.sct_loss, ops.tuplet_loss, ops.supcon_loss])
def test_known_options_are_not_those_of_hyperbolic_rows_or_ignored_rows(loss_of):
    """Other decorators change the rows of such calls."""
    x, y = rows(20)
    ball = (x / 9).detach()
    for options in ({"similarity": "hyperbolic"}, {"ignore_index": 0}):
        first, second = (loss_of(ball, y, **options) for _ in range(2))
        assert first != loss_of(ball, y)
        assert_bitwise_equal(second, first)


@pytest.mark.parametrize("loss_of", [ops.triplet_loss, ops.supcon_loss, ops.batch_all_triplet_loss])
def test_calls_of_known_options_mix_dtypes_under_autocast_and_are_observed(loss_of):
    x, y = rows(20)
    refs, ref_labels = rows(30, seed=1)
    expected = loss_of(x, y, refs.bfloat16().float(), ref_labels)
    with pytest.raises(TypeError, match="ref_embeddings must have the dtype of embeddings"):
        loss_of(x, y, refs.bfloat16(), ref_labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert_bitwise_equal(loss_of(x, y, refs.bfloat16(), ref_labels), expected)
    with hardmine.verify(every=1) as report:
        loss_of(x, y, refs, ref_labels)
    assert report.checks == 1


def test_known_options_of_pairs_are_those_of_the_same_call_alone():
    (x, _), (key, _), (others, _) = rows(20), rows(20, seed=1), rows(9, seed=2)
    plain = ops.info_nce_loss(x, key)
    assert_bitwise_equal(ops.info_nce_loss(x, key), plain)
    named: list[dict] = [{"negative_keys": others}, {"ids": torch.arange(20) // 2}, {"weights": torch.rand(20)}]
    for options in (*named, {"temperature": 0.2}, {"temperature": torch.tensor(0.2)}, {"symmetric": True}):
        first, second = (ops.info_nce_loss(x, key, **options) for _ in range(2))
        assert first != plain
        assert_bitwise_equal(second, first)
    assert_bitwise_equal(ops.info_nce_loss(x, key, others), ops.info_nce_loss(x, key, **named[0]))
    assert ops.info_nce_loss(x, key, reduction="none").shape == (20,)
    with pytest.raises(ValueError, match="positive_key must be"):
        ops.info_nce_loss(x, key[:-1])
    with pytest.raises(TypeError, match="positive_key must have the dtype of query"):
        ops.info_nce_loss(x, key.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.info_nce_loss(x, key.double()).dtype == torch.float64


def test_known_options_of_pairs_from_inference_mode_serve_training():
    x, _ = rows(20)
    KNOWN_OPTIONS.clear()
    with torch.inference_mode():
        expected = ops.info_nce_loss(x, x.detach())
    loss = ops.info_nce_loss(x, x.detach())
    assert_bitwise_equal(loss.detach(), expected.clone())
    assert (torch.autograd.grad(loss, x)[0] != 0).any()


def test_known_options_of_batch_all_are_those_of_the_same_call_alone():
    x, y = rows(20)
    plain = ops.batch_all_triplet_loss(x, y)
    assert_bitwise_equal(ops.batch_all_triplet_loss(x, y), plain)
    table = torch.linspace(0.1, 0.6, 49).view(7, 7)
    for options in ({"margin": 0.3}, {"margin": table}, {"ids": y}, {"reduction": "sum"}, {"ignore_index": 0}):
        first, second = (ops.batch_all_triplet_loss(x, y, **options) for _ in range(2))
        assert first != plain
        assert_bitwise_equal(second, first)
    for _ in range(2):
        loss, counts = ops.batch_all_triplet_loss(x, y, return_counts=True)
        assert_bitwise_equal(loss, plain)
        assert counts.total > 0


def test_known_options_do_not_hide_bad_rows():
    x, y = rows(20)
    ops.triplet_loss(x, y)
    for labels, error in ((y[:-1], ValueError), (y.float(), TypeError)):
        with pytest.raises(error, match="labels must"):
            ops.triplet_loss(x, labels)


def test_known_options_do_not_hide_an_argument_that_is_given_twice():
    x, y = rows(20)
    ops.circle_loss(x, y, ref_labels=None)
    with pytest.raises(TypeError, match="multiple values for argument 'ref_labels'"):
        ops.circle_loss(x, y, x, y, ref_labels=None)
