"""hardmine.verify of the ops on all pairs, all triplets, given triplets and neighbors: wrong results are found."""

import math
import sys

import pytest
import torch
from torch import Tensor

import hardmine
from hardmine import ops
from support.inputs import random_inputs
from support.ops import POSITIVES, each_of
from support.runs import arguments_of
from triplets import CASES, GIVEN, case_id, random_batch
from verification_cases import WRONG_GRADIENTS, at_anchor, break_output

WRONG_TERMS = {
    # the position in the compiled op's output, the change, and verify's message; with easiest positives
    "level a little off": (1, lambda t: t + 1e-3, "negative_logsumexp deviates by"),
    "level not a number": (1, at_anchor(math.nan, 3), "negative_logsumexp deviates by"),
    "level missing": (1, at_anchor(-math.inf, 3), "negative_logsumexp must be -inf exactly"),
    "similarity a little off": (2, at_anchor(lambda s: s + 1e-3, 7), "positive_similarity deviates by"),
    "no positive": (6, at_anchor(-1), "positive_index is not the best candidate for 1 anchors"),
    "itself": (
        6,
        at_anchor(0),
        "positive_index is not the best candidate for 1 anchors, first at anchor 0: got 0",
    ),
    "another positive": (6, lambda t: t.roll(1), "positive_index is not the best candidate"),
    "loss a little off": (0, lambda t: t * 1.001, "the loss deviates by"),
    "no loss": (0, lambda t: t * 0.0, "the loss deviates by"),
    "loss not a number": (0, lambda t: t * math.nan, "the loss deviates by nan"),
}


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(("position", "change", "message"), WRONG_TERMS.values(), ids=WRONG_TERMS)
def test_verify_wrong_tuplet_terms_raise(reduction, position, change, message, verify, monkeypatch):
    break_output(monkeypatch, "tuplet_loss", position, change)
    with verify(), pytest.raises(hardmine.VerificationError, match=message):
        ops.tuplet_loss(*random_inputs(spread=1.5), reduction=reduction)


@pytest.mark.parametrize(
    ("options", "wrong", "message"),
    [
        ({"positive": "easiest"}, {"positive": "hardest"}, "positive_index is not the best"),
        ({"positive": "hardest"}, {"positive": "easiest"}, "positive_index is not the best"),
        ({"positive": "easiest"}, {"positive": "all"}, "positive_index is not the best"),
        ({"positive": "all"}, {"positive": "easiest"}, "positive_index must be -1"),
        ({"temperature": 0.1}, {"temperature": 0.1001}, "negative_logsumexp deviates by"),
        (
            {"positive": "hardest"},
            {"positive": "hardest", "duplicate_threshold": 0.2},
            "positive_index is not|deviates",
        ),
        ({"positive": "all", "duplicate_threshold": 0.6}, {"positive": "all"}, "the loss deviates by"),
        ({"similarity": "dot"}, {"similarity": "cosine"}, "negative_logsumexp deviates by"),
        ({"reduction": "mean"}, {"reduction": "sum"}, "the loss deviates by"),
    ],
    ids=str,
)
def test_verify_other_tuplet_rule_raises(options, wrong, message, verify, monkeypatch):
    """The op is made to follow the rule ``wrong``: it receives the arguments of that call."""
    inputs = random_inputs(spread=1.2)
    monkeypatch.setattr(sys.modules["hardmine.ops.tuplet_loss"], "has_labeled_losses", lambda *given: False)
    monkeypatch.setattr("hardmine.ops._known_options.KNOWN_OPTIONS", {})  # of calls of another op
    right, calls = torch.ops.hardmine.tuplet_loss, []
    monkeypatch.setattr(torch.ops.hardmine, "tuplet_loss", lambda *given: calls.append(given) or right(*given))
    ops.tuplet_loss(*inputs, **wrong)
    monkeypatch.setattr(torch.ops.hardmine, "tuplet_loss", lambda *given: right(*given[:4], *calls[0][4:]))
    with verify(), pytest.raises(hardmine.VerificationError, match=message):
        ops.tuplet_loss(*inputs, **options)


WRONG_COUNTS = {
    "loss a little off": (0, lambda t: t * 1.001, "the loss deviates by"),
    "no loss": (0, lambda t: t * 0.0, "the loss deviates by"),
    "loss not a number": (0, lambda t: t * math.nan, "the loss deviates by nan"),
    "one more active": (3, lambda t: t + 1, "active is .* and only 0 triplets are within rounding"),
    "one less active": (3, lambda t: t - 1, "active is .* and only 0 triplets are within rounding"),
    "one more in all": (4, lambda t: t + 1, "total must be"),
}


@pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum"])
@pytest.mark.parametrize(("position", "change", "message"), WRONG_COUNTS.values(), ids=WRONG_COUNTS)
def test_verify_wrong_batch_all_counts_raise(reduction, position, change, message, verify, monkeypatch):
    """None of these triplets is at the kink."""
    break_output(monkeypatch, "batch_all_triplet_loss", position, change)
    with verify(), pytest.raises(hardmine.VerificationError, match=message):
        ops.batch_all_triplet_loss(*random_inputs(20, dtype=torch.float64)[:2], reduction=reduction)


@pytest.mark.parametrize(
    ("options", "wrong", "message"),
    [
        ({"margin": 0.2}, {"margin": 0.21}, "active is"),
        ({"squared": True}, {"squared": False}, "active is"),
        ({"reduction": "mean"}, {"reduction": "sum"}, "the loss deviates by"),
        ({"similarity": "euclidean"}, {"similarity": "cosine"}, "active is"),
        ({"margin": torch.eye(6)}, {"margin": torch.eye(6).roll(1, 0)}, "active is"),
        ({"margin": torch.eye(6).roll(1, 0)}, {"margin": torch.eye(6).roll(1, 1)}, "active is"),
    ],
    ids=str,
)
def test_verify_other_batch_all_option_raises(options, wrong, message, verify, monkeypatch):
    inputs = random_inputs(spread=1.2)
    x, labels = inputs.embeddings, (inputs.labels + 4) // 3
    right, calls = torch.ops.hardmine.batch_all_triplet_loss, []
    name = "batch_all_triplet_loss"
    monkeypatch.setattr(torch.ops.hardmine, name, lambda *given: calls.append(given) or right(*given))
    ops.batch_all_triplet_loss(x, labels, **wrong)
    monkeypatch.setattr(torch.ops.hardmine, name, lambda *given: right(*given[:4], *calls[0][4:-2], *given[-2:]))
    with verify(), pytest.raises(hardmine.VerificationError, match=message):
        ops.batch_all_triplet_loss(x, labels, **options)


def at_pair(value, query: int = 3, rank: int = 1):
    """A change of one entry of a [Q, k] tensor: to a number, or to a function of the old entry."""

    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor[query, rank] = value(tensor[query, rank]) if callable(value) else value
        return tensor

    return change


WRONG_NEIGHBORS = {
    "one missing": ([(1, at_pair(-1, rank=4)), (0, at_pair(math.nan, rank=4))], "query 3 must have 5 neighbors"),
    "a gap": ([(1, at_pair(-1)), (0, at_pair(math.nan))], "query 3 must have 5 neighbors and -1 after them"),
    "itself": ([(1, at_pair(3))], "index is not a nearest neighbor for 1 queries, first at query 3"),
    "a far one": ([(1, at_pair(lambda i: (i + 20) % 40))], "index is not a nearest neighbor for"),
    "twice the same": ([(1, lambda t: torch.cat([t[:, :1], t[:, :1], t[:, 2:]], 1))], "no nearest|repeats a neighbor"),
    "out of range": ([(1, at_pair(10**6))], "index must be less than 40"),
    "unsorted": (
        [(0, lambda t: t.flip(1)), (1, lambda t: t.flip(1))],
        "index is not a nearest neighbor|must be sorted",
    ),
    "of other queries": (
        [(0, lambda t: t.roll(1, 0)), (1, lambda t: t.roll(1, 0))],
        "index is not a nearest neighbor for",
    ),
    "similarity a little off": ([(0, lambda t: t + 1e-3)], "similarity deviates by"),
    "one similarity off": ([(0, at_pair(lambda s: s - 1e-4, rank=4))], "similarity deviates by"),
    "similarity not a number": ([(0, at_pair(math.nan))], "similarity must be NaN exactly where the index is -1"),
}


@pytest.mark.parametrize("among", ["self", "refs"])
@pytest.mark.parametrize(("changes", "message"), WRONG_NEIGHBORS.values(), ids=WRONG_NEIGHBORS)
def test_verify_wrong_neighbors_raise(among, changes, message, verify, monkeypatch):
    if among == "refs" and "at query 3" in message:
        pytest.skip("a ref of that index is no copy of the query")
    for position, change in changes:
        break_output(monkeypatch, "knn", position, change)
    inputs = random_inputs(40, refs=40 if among == "refs" else None)
    with verify(), pytest.raises(hardmine.VerificationError, match=message):
        ops.knn(inputs.embeddings, inputs.ref_embeddings, k=5)


def test_verify_repeated_neighbor_raises(verify, monkeypatch):
    """All rows are equal, so no neighbor is too far away; but each may occur only once."""
    break_output(monkeypatch, "knn", 1, lambda t: t[:, :1].expand(-1, 3).contiguous())
    with verify(), pytest.raises(hardmine.VerificationError, match="index repeats a neighbor"):
        ops.knn(torch.ones(9, 2), k=3)


def test_verify_unsorted_neighbors_raise(verify, monkeypatch):
    """Two similarities that differ by less than the tolerance are both right, but the larger must come first."""
    refs = torch.tensor([[1.0, 1e-3], [1.0, 1.01e-3], [-1.0, 0.0]])
    query = torch.tensor([[1.0, 0.0]])
    similarity, index = ops.knn(query, refs, k=2, similarity="cosine")
    assert index.tolist() == [[0, 1]]
    assert similarity[0, 0] >= similarity[0, 1]
    break_output(monkeypatch, "knn", 0, lambda t: t * 0.0 + torch.tensor([[1.0 - 2**-23, 1.0]]))
    with verify(), pytest.raises(hardmine.VerificationError, match="must be sorted, the most similar first"):
        ops.knn(query, refs, k=2)


each_wrong_gradient = pytest.mark.parametrize("change", WRONG_GRADIENTS.values(), ids=WRONG_GRADIENTS)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("tuplet_loss", {"positive": positive, "reduction": "none"}) for positive in POSITIVES),
        ("tuplet_loss", {"temperature": 0.02}),
        ("knn", {"k": 3}),
    ],
    ids=str,
)
@pytest.mark.parametrize("of", ["embeddings", "refs"])
@each_wrong_gradient
def test_verify_wrong_gradient_of_pair_op_raises(name, options, of, change, verify, monkeypatch):
    break_output(monkeypatch, f"{name}_backward", ["embeddings", "refs"].index(of), change)
    inputs = random_inputs(20, refs=20, spread=2.0)
    with verify(), pytest.raises(hardmine.VerificationError, match="the gradient deviates by"):
        getattr(ops, name)(*arguments_of(name, inputs), **options)


class _Changed(torch.autograd.Function):
    """The identity, with a changed gradient."""

    @staticmethod
    def forward(ctx, x, change):
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return ctx.change(grad), None


def break_gradient(monkeypatch, op: str, change, position: int = 0) -> None:
    """Make torch.ops.hardmine.<op> return change(gradient) for one of its arguments."""
    right = getattr(torch.ops.hardmine, op)

    def broken(*arguments):
        return right(*(_Changed.apply(a, change) if i == position else a for i, a in enumerate(arguments)))

    monkeypatch.setattr(torch.ops.hardmine, op, broken)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
@pytest.mark.parametrize("of", ["embeddings", "anchors", "refs"])
@each_wrong_gradient
def test_verify_wrong_batch_all_gradient_raises(squared, similarity, of, change, verify, monkeypatch):
    break_gradient(monkeypatch, "batch_all_triplet_loss", change, 2 if of == "refs" else 0)
    inputs = random_inputs(20, refs=None if of == "embeddings" else 20, spread=2.0)
    with verify(), pytest.raises(hardmine.VerificationError, match="the gradient deviates by"):
        ops.batch_all_triplet_loss(*inputs, squared=squared, similarity=similarity)


@pytest.mark.thinned(5)
@pytest.mark.parametrize(("name", "options"), CASES, ids=case_id)
@each_wrong_gradient
def test_verify_wrong_gradient_of_given_triplets_raises(name, options, change, verify, monkeypatch):
    break_gradient(monkeypatch, name, change)
    with verify(), pytest.raises(hardmine.VerificationError, match="the gradient deviates by"):
        getattr(ops, name)(*random_batch(spread=2.0), **options)


@pytest.mark.thinned(5)
@pytest.mark.parametrize(("name", "options"), CASES, ids=case_id)
@pytest.mark.parametrize("factor", [1.001, 0.0, math.nan])
def test_verify_wrong_loss_of_given_triplets_raises(name, options, factor, verify, monkeypatch):
    break_output(monkeypatch, name, 0, lambda loss: loss * factor)
    batch = random_batch(spread=2.0)
    batch = batch._replace(embeddings=batch.embeddings + 3)  # makes similarities and losses large
    with verify(), pytest.raises(hardmine.VerificationError, match="the loss deviates by"):
        getattr(ops, name)(*batch, **options)


@each_of(("tuplet_loss", "batch_all_triplet_loss", *GIVEN))
def test_verify_finite_loss_of_nonfinite_input_raises(name, verify, monkeypatch):
    embeddings, labels, _, _ = random_inputs()
    embeddings[3, 3] = math.inf
    other = torch.tensor([[0, 1, 2]]) if name in GIVEN else labels
    break_output(monkeypatch, name, 0, lambda loss: loss.nan_to_num(1.0))
    with verify(), pytest.raises(hardmine.VerificationError, match="must be NaN where an embedding is not finite"):
        getattr(ops, name)(embeddings, other)
