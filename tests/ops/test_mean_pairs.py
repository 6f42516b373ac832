"""``reduction="mean_pairs"`` of tuplet_loss: the mean over all pairs of an anchor and a positive."""

import itertools

import pytest
import torch

import hardmine
from hardmine import losses, ops, reference
from support.comparisons import assert_bitwise_equal
from support.inputs import Inputs, random_inputs, seeded
from support.processes import threads

pytestmark = pytest.mark.emulated

OPTIONS = {"positive": "all", "reduction": "mean_pairs"}
with_and_without_refs = pytest.mark.parametrize("refs", [None, 90], ids=["self", "refs"])
# A number, and a tensor, which another path computes
each_temperature = pytest.mark.parametrize("temperature", [0.1, torch.tensor(0.1, dtype=torch.float64)], ids=type)


def unbalanced(rows=60, refs=None, dtype=torch.float64) -> Inputs:
    """Classes of very different sizes, one of them with a single row."""
    inputs = random_inputs(rows, 12, 8, refs, dtype=dtype)
    inputs.labels[:20] = 3
    inputs.labels[20] = 99
    return inputs


def evaluate(library, inputs: Inputs, **options) -> list[torch.Tensor]:
    """The loss, its gradients and the count."""
    leaves = [t.detach().clone().requires_grad_() for t in inputs[::2] if t is not None]
    rest = () if inputs.ref_embeddings is None else (leaves[1], inputs.ref_labels)
    loss, count = library.tuplet_loss(leaves[0], inputs.labels, *rest, **OPTIONS, **options, return_count=True)
    return [loss.detach(), *torch.autograd.grad(loss, leaves), count]


@with_and_without_refs
@each_temperature
def test_mean_pairs_is_ntxent_loss_of_pytorch_metric_learning(refs, temperature):
    theirs = pytest.importorskip("pytorch_metric_learning.losses").NTXentLoss(float(temperature))
    inputs = unbalanced(refs=refs)
    leaves = [t.detach().clone().requires_grad_() for t in inputs[::2] if t is not None]
    rest = {} if refs is None else {"ref_emb": leaves[1], "ref_labels": inputs.ref_labels}
    expected = theirs(leaves[0], inputs.labels, **rest)
    found = evaluate(ops, inputs, temperature=temperature)
    for a, b in zip(found, [expected, *torch.autograd.grad(expected, leaves)], strict=False):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    per_anchor = ops.tuplet_loss(*inputs, positive="all", temperature=temperature)
    assert abs(per_anchor - expected) > 1e-2


@with_and_without_refs
@each_temperature
@pytest.mark.parametrize("weighted", [False, True])
def test_mean_pairs_matches_reference(refs, temperature, weighted):
    for dtype, threshold in itertools.product((torch.float64, torch.float32), (None, 0.3)):
        inputs = unbalanced(refs=refs, dtype=dtype)
        weights = torch.rand(len(inputs.labels), generator=seeded(3)) if weighted else None
        options = {"temperature": temperature, "duplicate_threshold": threshold}
        found = evaluate(ops, inputs, weights=weights, **options)
        expected = evaluate(reference, inputs.to(torch.float64), weights=weights, **options)
        for a, b in zip(found, expected, strict=True):
            tolerance = 1e-10 if dtype == torch.float64 else 1e-5
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, check_dtype=False)


def test_mean_pairs_hand_worked_count_and_value():
    """Two anchors with two positives each, and none for the others."""
    embeddings = torch.eye(5, dtype=torch.float64)
    loss, count = ops.tuplet_loss(embeddings, torch.tensor([0, 0, 0, 1, 2]), **OPTIONS, return_count=True)
    assert count == 6  # all similarities are 0
    torch.testing.assert_close(loss, torch.tensor(3.0, dtype=torch.float64).log())


def test_mean_pairs_without_a_pair_is_zero():
    inputs = random_inputs(5, 3, 2)
    loss, gradient, count = evaluate(ops, inputs._replace(labels=torch.arange(5)))
    assert loss == count == gradient.abs().sum() == 0


@pytest.mark.cpu
def test_mean_pairs_any_thread_count_gives_same_bits():
    inputs = unbalanced(700, dtype=torch.float32)
    found = []
    for count in (1, 3):
        with threads(count):
            found.append(evaluate(ops, inputs))
    for a, b in zip(*found, strict=True):
        assert_bitwise_equal(a, b)


def test_mean_pairs_gradcheck():
    inputs = random_inputs(9, 4, 3, 7, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in inputs[::2]]
    assert torch.autograd.gradcheck(
        lambda x, r: ops.tuplet_loss(x, inputs.labels, r, inputs.ref_labels, temperature=0.5, **OPTIONS), leaves
    )


@pytest.mark.cpu
def test_mean_pairs_compiles_whole():
    torch._dynamo.reset()
    inputs = unbalanced()
    compiled = torch.compile(ops.tuplet_loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs[:2], **OPTIONS), ops.tuplet_loss(*inputs[:2], **OPTIONS))


def test_mean_pairs_module_passes_it_on():
    inputs = unbalanced()
    found, count = losses.TupletLoss(**OPTIONS)(*inputs[:2], return_count=True)
    expected = ops.tuplet_loss(*inputs[:2], **OPTIONS, return_count=True)
    assert_bitwise_equal(found, expected[0])
    assert count == expected[1]


def test_verify_checks_mean_pairs():
    with hardmine.verify(every=1) as report:
        for dtype, refs in itertools.product((torch.float32, torch.float64), (None, 30)):
            ops.tuplet_loss(*unbalanced(refs=refs, dtype=dtype), **OPTIONS)
    assert report.ops["tuplet_loss"].checks == 4


def test_verify_mean_over_anchors_in_place_of_pairs_raises(monkeypatch):
    right = torch.ops.hardmine.tuplet_loss
    monkeypatch.setattr(torch.ops.hardmine, "tuplet_loss", lambda *a: (*(f := right(*a))[:-1], f[-1].clamp(max=1)))
    with pytest.raises(hardmine.VerificationError, match="count must be"), hardmine.verify(every=1):
        ops.tuplet_loss(*unbalanced(), **OPTIONS)
