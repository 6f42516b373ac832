"""The multi-similarity loss: values worked by hand, against pytorch-metric-learning and the reference, and edges."""

import itertools
import math

import pytest
import torch

import hardmine
from hardmine import ops, reference
from support.inputs import HAND_POINTS, Inputs, inputs_of_sizes, random_ids, random_inputs

pytestmark = pytest.mark.emulated

OPTIONS = (
    {},
    {"alpha": 5.0, "beta": 10.0, "base": 0.1},
    {"similarity": "dot", "beta": 2.0, "reduction": "none"},
    {"epsilon": 0.1},
    {"epsilon": -0.2, "similarity": "dot", "beta": 2.0, "reduction": "none"},
)
each_options = pytest.mark.parametrize("options", OPTIONS, ids=str)
with_and_without_refs = pytest.mark.parametrize("refs", [None, 90], ids=["self", "refs"])


def evaluate(library, inputs: Inputs, **options) -> list[torch.Tensor]:
    """The loss and the gradients of a weighted sum."""
    leaves = [t.detach().clone().requires_grad_() for t in inputs[::2] if t is not None]
    rest = () if inputs.ref_embeddings is None else (leaves[1], inputs.ref_labels)
    loss = library.multi_similarity_loss(leaves[0], inputs.labels, *rest, **options)
    weights = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).reshape(loss.shape)
    gradients = torch.autograd.grad((loss * weights).sum(), leaves, allow_unused=True)
    return [loss.detach(), *(0 * a if g is None else g for a, g in zip(leaves, gradients, strict=True))]


def assert_close(actual, expected, tolerance: float) -> None:
    for a, e in zip(actual, expected, strict=True):
        scale = max(1.0, e.abs().max().item()) if e.numel() else 1.0
        torch.testing.assert_close(a, e, rtol=0, atol=tolerance * scale, check_dtype=False)


@pytest.mark.parametrize("library", [ops, reference], ids=["op", "ref"])
def test_multi_similarity_loss_hand_worked_values_match(library):
    """Cosines of HAND_POINTS, as in test_tuplet_loss.py."""
    positives = [[0.6, 0.0], [0.6, 0.8], [-0.8], [0.0, 0.8], [-0.8]]
    negatives = [[0.8, -1.0], [0.96, -0.6], [0.8, 0.96, 0.6], [0.6, 0.0], [-1.0, -0.6, 0.0]]
    each = [
        math.log(1 + sum(math.exp(-2 * (s - 0.5)) for s in p)) / 2
        + math.log(1 + sum(math.exp(50 * (s - 0.5)) for s in n)) / 50
        for p, n in zip(positives, negatives, strict=True)
    ]
    assert library.multi_similarity_loss(*HAND_POINTS, reduction="none").tolist() == pytest.approx(each, abs=4e-6)
    assert library.multi_similarity_loss(*HAND_POINTS).item() == pytest.approx(sum(each) / 5, abs=4e-6)
    assert library.multi_similarity_loss(*HAND_POINTS, reduction="sum").item() == pytest.approx(sum(each), abs=2e-5)


@with_and_without_refs
def test_multi_similarity_loss_matches_pytorch_metric_learning(refs):
    theirs = pytest.importorskip("pytorch_metric_learning.losses").MultiSimilarityLoss
    inputs = random_inputs(60, 12, 20, refs, dtype=torch.float64)
    rows = [t.requires_grad_() for t in inputs[::2] if t is not None]
    for options in OPTIONS[:2]:
        expected = theirs(**options)(
            inputs.embeddings, inputs.labels, ref_emb=inputs.ref_embeddings, ref_labels=inputs.ref_labels
        )
        found = ops.multi_similarity_loss(*inputs, **options)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
        for a, b in zip(torch.autograd.grad(found, rows), torch.autograd.grad(expected, rows), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-14)


@with_and_without_refs
@pytest.mark.parametrize("epsilon", [0.1, 0.0, -0.3, 5.0])
def test_multi_similarity_loss_with_epsilon_matches_pml_loss_and_miner(refs, epsilon):
    theirs = pytest.importorskip("pytorch_metric_learning.losses").MultiSimilarityLoss()
    miner = pytest.importorskip("pytorch_metric_learning.miners").MultiSimilarityMiner(epsilon)
    inputs = random_inputs(60, 12, 12, refs, dtype=torch.float64)
    rows = [t.requires_grad_() for t in inputs[::2] if t is not None]
    refs_of = {"ref_emb": inputs.ref_embeddings, "ref_labels": inputs.ref_labels}
    mined = miner(*inputs[:2], *refs_of.values())
    expected = theirs(*inputs[:2], mined, **refs_of)
    found = ops.multi_similarity_loss(*inputs, epsilon=epsilon)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for a, b in zip(torch.autograd.grad(found, rows), torch.autograd.grad(expected, rows), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-14)
    all_pairs = ops.multi_similarity_loss(*inputs)
    assert epsilon == 5.0 or found < all_pairs
    assert epsilon != 5.0 or torch.isclose(found, all_pairs, rtol=1e-12)


def test_multi_similarity_loss_with_epsilon_hand_worked_values_match():
    """Cosines of HAND_POINTS: positives and negatives of the first row are 0.6, 0.0 and 0.8, -1.0."""
    found = ops.multi_similarity_loss(*HAND_POINTS, epsilon=0.1, reduction="none")[0].item()
    kept = math.log(1 + math.exp(-2 * (0.6 - 0.5)) + math.exp(-2 * (0.0 - 0.5))) / 2
    kept += math.log(1 + math.exp(50 * (0.8 - 0.5))) / 50
    assert found == pytest.approx(kept, abs=4e-6)


@with_and_without_refs
@each_options
def test_multi_similarity_loss_matches_reference(refs, options):
    for rows, dtype in itertools.product((1, 2, 97, 130), (torch.float64, torch.float32)):
        inputs = random_inputs(rows, 7, 9, refs, dtype=dtype)
        expected = evaluate(reference, inputs.to(torch.float64), **options)
        assert_close(evaluate(ops, inputs, **options), expected, 1e-11 if dtype == torch.float64 else 2e-5)


@with_and_without_refs
@pytest.mark.parametrize("kind", ["few", "many"])
def test_multi_similarity_loss_with_ids_or_ignored_rows_matches_reference(refs, kind):
    inputs = random_inputs(80, 7, 9, refs, dtype=torch.float64)
    for more in (random_ids(inputs, kind), {"ignore_index": int(inputs.labels[0])}):
        expected = evaluate(reference, inputs, **more)
        assert_close(evaluate(ops, inputs, **more), expected, 1e-11)
        assert expected[0] != evaluate(reference, inputs)[0]


@with_and_without_refs
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_multi_similarity_loss_gradcheck(refs, similarity):
    inputs = random_inputs(9, 4, 3, None if refs is None else 7, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in inputs[::2] if t is not None]

    def loss(x, *r):
        rest = (*r, inputs.ref_labels) if r else ()
        return ops.multi_similarity_loss(x, inputs.labels, *rest, beta=5.0, similarity=similarity, reduction="none")

    assert torch.autograd.gradcheck(loss, leaves)


def test_multi_similarity_loss_edges_match_reference():
    for inputs in (inputs_of_sizes([6]), inputs_of_sizes([1] * 6), random_inputs(4, 3, 2, 0, dtype=torch.float64)):
        assert_close(evaluate(ops, inputs), evaluate(reference, inputs), 1e-11)
    for refs in (None, 3):
        loss, *gradients = evaluate(ops, random_inputs(0, 3, 2, refs))
        assert loss == 0
        assert all((g == 0).all() for g in gradients)


@with_and_without_refs
def test_multi_similarity_loss_non_finite_row_makes_everything_nan(refs):
    inputs = random_inputs(40, 7, 5, refs)
    inputs.embeddings[3, 2] = math.inf
    assert all(part.isnan().all() for part in evaluate(ops, inputs, reduction="none"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_multi_similarity_loss_of_half_precision_is_that_of_its_rows_in_float32(dtype):
    inputs = random_inputs(60, 9, 5, 40, dtype=dtype)
    found = evaluate(ops, inputs)
    assert (found[0].dtype, found[1].dtype) == (torch.float32, dtype)
    assert_close(found, evaluate(ops, inputs.to(torch.float32)), 2 * torch.finfo(dtype).eps)


@pytest.mark.cpu
def test_multi_similarity_loss_compiles_whole():
    torch._dynamo.reset()
    inputs = random_inputs(20, 5, 3, dtype=torch.float64)
    compiled = torch.compile(ops.multi_similarity_loss, fullgraph=True, backend="aot_eager")
    x = inputs.embeddings.requires_grad_()
    found, expected = compiled(x, inputs.labels), ops.multi_similarity_loss(x, inputs.labels)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, x), torch.autograd.grad(expected, x))


@each_options
def test_verify_checks_multi_similarity_loss(options):
    with hardmine.verify(every=1) as report:
        for dtype, refs in itertools.product((torch.float32, torch.float16, torch.float64), (None, 30)):
            inputs = random_inputs(40, 9, 5, refs, dtype=dtype)
            ops.multi_similarity_loss(*inputs, **options)
            ops.multi_similarity_loss(*inputs, ignore_index=int(inputs.labels[0]), **options)
    assert report.ops["multi_similarity_loss"].checks == 12


def test_verify_pairs_within_rounding_of_their_bound_may_count_or_not():
    """Without tolerance for such pairs, the reference in float64 decides otherwise."""
    inputs = random_inputs(60, 3, 6)
    s = torch.nn.functional.normalize(inputs.embeddings) @ torch.nn.functional.normalize(inputs.embeddings).T
    same = inputs.labels[:, None] == inputs.labels
    epsilon = (s.masked_fill(~same, 2.0)[0].min() - s.masked_fill(same, -2.0)[0].sort().values[-3]).item()
    with hardmine.verify(every=1) as report:
        ops.multi_similarity_loss(*inputs, epsilon=epsilon)
    assert report.ops["multi_similarity_loss"].ties == 1


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_verify_wrong_multi_similarity_loss_raises(what, monkeypatch):
    inputs = random_inputs(40, 9, 5)
    right, backward = torch.ops.hardmine.logsumexp, torch.ops.hardmine.logsumexp_backward
    if what == "loss":
        monkeypatch.setattr(torch.ops.hardmine, "logsumexp", lambda *a: (1.05 * (found := right(*a))[0], *found[1:]))
    else:
        monkeypatch.setattr(torch.ops.hardmine, "logsumexp_backward", lambda *a: [1.01 * g for g in backward(*a)])
    with pytest.raises(hardmine.VerificationError, match=f"the {what} deviates by"), hardmine.verify(every=1):
        ops.multi_similarity_loss(*inputs, reduction="none")  # reduced on a CPU, it is an op of its own
