"""``negative_ranks=(first, last)``: negatives by rank, all of them or a random one."""

import itertools
import math

import pytest
import torch

import hardmine
from hardmine import losses, ops, reference
from hardmine.reference.select_triplets import candidate_pairs
from support.comparisons import assert_bitwise_equal
from support.inputs import HAND_POINTS, Inputs, random_ids, random_inputs, seeded
from support.processes import threads

pytestmark = pytest.mark.emulated

with_and_without_refs = pytest.mark.parametrize("refs", [None, 90], ids=["self", "refs"])
each_negative = pytest.mark.parametrize("negative", ["hardest", "random"])
LOSSES = [
    ("triplet_loss", {}),
    ("triplet_loss", {"term": "hinge", "margin": 0.3, "similarity": "euclidean", "reduction": "mean_active"}),
    ("triplet_loss", {"term": "soft_margin", "positive": "hardest", "reduction": "sum"}),
    ("triplet_loss", {"term": "sct", "temperature": torch.tensor(0.2), "min_similarity": -0.2}),
    ("sct_loss", {"preset": "code2020", "lam": 0.3}),
    ("sct_loss", {"preset": "code2021", "positive": "random", "reduction": "none"}),
]
each_loss = pytest.mark.parametrize(("name", "options"), LOSSES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(LOSSES)])


def evaluate(library, name, inputs: Inputs, **options) -> list[torch.Tensor]:
    """The loss, the gradients of a weighted sum, the count and the selection."""
    leaves = [t.detach().clone().requires_grad_() for t in inputs[::2] if t is not None]
    rest = () if inputs.ref_embeddings is None else (leaves[1], inputs.ref_labels)
    if "random" in options.values():
        options["generator"] = seeded(5)
    loss, selection, count = getattr(library, name)(
        leaves[0], inputs.labels, *rest, **options, return_selection=True, return_count=True
    )
    weights = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).reshape(loss.shape)
    gradients = torch.autograd.grad((loss * weights).sum(), leaves)
    return [loss.detach(), *gradients, count, *(part.detach() for part in selection)]


def select(library, inputs: Inputs, **options):
    if "random" in options.values():
        options["generator"] = seeded(5)
    return library.select_triplets(*inputs, **options)


@pytest.mark.parametrize("library", [ops, reference], ids=["op", "ref"])
def test_negative_ranks_hand_worked_selection_matches(library):
    """Negatives of HAND_POINTS have the cosines [0.8, -1], [0.96, -0.6], [0.96, 0.8, 0.6], [0.6, 0], [0, -0.6, -1]."""
    found = library.select_triplets(*HAND_POINTS, negative_ranks=(2, 3))
    assert found.anchor_index.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    values = found.negative_similarity.nan_to_num(9.0).tolist()
    assert values == pytest.approx([-1.0, 9.0, -0.6, 9.0, 0.8, 0.6, 0.0, 9.0, -0.6, -1.0], abs=1e-6)
    assert (found.negative_index == -1).tolist() == [value == 9.0 for value in values]
    assert found.count() == 7
    whole = library.select_triplets(*HAND_POINTS)
    assert found.positive_index.tolist() == whole.positive_index.repeat_interleave(2).tolist()


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
@with_and_without_refs
@each_negative
def test_negative_ranks_of_small_integers_are_exactly_those_of_the_reference(negative, refs, similarity):
    for ranks, ids in itertools.product(((1, 1), (2, 4), (5, 60), (200, 210)), (None, "few", "many")):
        inputs = random_inputs(50, 5, 6, refs, dtype=torch.float64)
        exact = [None if t is None else (2 * t).round() if t.is_floating_point() else t for t in inputs]
        if similarity == "cosine":
            exact = [
                t if t is None or not t.is_floating_point() else torch.nn.functional.one_hot(t.argmax(1), 5).to(t.dtype)
                for t in exact
            ]
        inputs = Inputs(*exact)
        options = {"negative": negative, "negative_ranks": ranks, "similarity": similarity}
        options |= {} if ids is None else random_ids(inputs, ids)
        found, expected = (select(library, inputs, **options) for library in (ops, reference))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, equal_nan=True)


@with_and_without_refs
@each_negative
@each_loss
def test_losses_of_negative_ranks_match_reference(name, options, negative, refs):
    for dtype, more in itertools.product((torch.float64, torch.float32), ("", "ids", "ignored", "weights")):
        inputs = random_inputs(60, 6, 9, refs, dtype=dtype)
        given = {**options, "negative": negative, "negative_ranks": (2, 5)}
        if more == "ids":
            given |= random_ids(inputs, "many")
        elif more == "ignored":
            given["ignore_index"] = int(inputs.labels[0])
        elif more == "weights":
            given["weights"] = torch.rand(60, generator=seeded(1))
        found = evaluate(ops, name, inputs, **given)
        expected = evaluate(reference, name, inputs.to(torch.float64), **given)
        tolerance = 1e-10 if dtype == torch.float64 else 1e-4
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True, check_dtype=False)
        assert found[0].abs().sum() > 0


def test_negative_ranks_are_a_mean_over_ranks():
    inputs = random_inputs(60, 6, 9, dtype=torch.float64)
    options = {"negative": "hardest", "term": "hinge", "margin": 1.0}
    each = [ops.triplet_loss(*inputs, **options, negative_ranks=(rank, rank)) for rank in (2, 3, 4)]
    torch.testing.assert_close(ops.triplet_loss(*inputs, **options, negative_ranks=(2, 4)), sum(each) / 3)
    first = ops.triplet_loss(*inputs, **options, negative_ranks=(1, 1))
    torch.testing.assert_close(first, ops.triplet_loss(*inputs, **options))


def test_random_rank_is_drawn_evenly_and_fixed_by_the_seed():
    inputs = random_inputs(400, 6, 9)
    options = {"negative": "random", "negative_ranks": (3, 6)}
    found = ops.select_triplets(*inputs, **options, generator=seeded(1))
    again = ops.select_triplets(*inputs, **options, generator=seeded(1))
    other = ops.select_triplets(*inputs, **options, generator=seeded(2))
    assert_bitwise_equal(found.negative_index, again.negative_index)
    assert (found.negative_index != other.negative_index).sum() > 200
    listed = ops.select_triplets(*inputs, negative_ranks=(3, 6)).negative_index.reshape(400, 4)
    place = (listed == found.negative_index[:, None]).int()
    assert (place.sum(1) == 1).all()
    assert place.sum(0).min() > 70
    torch.manual_seed(7)
    default = ops.select_triplets(*inputs, **options)
    torch.manual_seed(7)
    assert_bitwise_equal(default.negative_index, ops.select_triplets(*inputs, **options).negative_index)


def test_negative_ranks_without_candidates_are_missing():
    inputs = random_inputs(5, 3, 2)._replace(labels=torch.zeros(5, dtype=torch.int64))
    for negative in ("hardest", "random"):
        loss, gradient, count, *selection = evaluate(
            ops, "triplet_loss", inputs, negative=negative, negative_ranks=(1, 3)
        )
        assert loss == count == gradient.abs().sum() == 0
        assert (selection[-3] == -1).all()
    for rows, refs in ((0, None), (0, 3), (4, 0)):
        empty = random_inputs(rows, 3, 2, refs)
        assert evaluate(ops, "triplet_loss", empty, negative="hardest", negative_ranks=(1, 3))[0] == 0


@with_and_without_refs
@each_negative
def test_negative_ranks_non_finite_row_makes_everything_nan(negative, refs):
    inputs = random_inputs(40, 7, 5, refs)
    inputs.embeddings[3, 2] = math.inf
    found = evaluate(ops, "triplet_loss", inputs, negative=negative, negative_ranks=(1, 2), reduction="none")
    assert all(part.isnan().all() for part in found[: 2 if refs is None else 3])


def test_negative_ranks_gradcheck():
    inputs = random_inputs(9, 4, 3, 12, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in inputs[::2]]

    def loss(x, r):
        return ops.triplet_loss(
            x, inputs.labels, r, inputs.ref_labels, negative="hardest", negative_ranks=(1, 3), temperature=0.5
        )

    assert torch.autograd.gradcheck(loss, leaves)


@pytest.mark.cpu
def test_negative_ranks_any_thread_count_gives_same_bits():
    inputs = random_inputs(700, 40, 90)
    found = []
    for count in (1, 3):
        with threads(count):
            found.append(evaluate(ops, "triplet_loss", inputs, negative="hardest", negative_ranks=(2, 5)))
    for a, b in zip(*found, strict=True):
        assert_bitwise_equal(a, b)


@pytest.mark.cpu
def test_negative_ranks_compile_whole():
    torch._dynamo.reset()
    inputs = random_inputs(40, 6, 5, dtype=torch.float64)
    compiled = torch.compile(ops.triplet_loss, fullgraph=True, backend="aot_eager")
    x = inputs.embeddings.requires_grad_()
    options = {"negative": "hardest", "negative_ranks": (2, 3)}
    found, expected = compiled(x, inputs.labels, **options), ops.triplet_loss(x, inputs.labels, **options)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, x), torch.autograd.grad(expected, x))


@pytest.mark.parametrize("name", ["TripletLoss", "SCTLoss"])
def test_modules_pass_negative_ranks_on(name):
    inputs = random_inputs(40, 6, 5)
    op = ops.triplet_loss if name == "TripletLoss" else ops.sct_loss
    options = {"negative": "hardest", "negative_ranks": (2, 3)}
    assert_bitwise_equal(getattr(losses, name)(**options)(*inputs[:2]), op(*inputs[:2], **options))


def test_negative_ranks_beside_all_positives_raise():
    inputs = random_inputs(40, 6, 5)
    with pytest.raises(ValueError, match=r"^negative_ranks must be None with positive='all', got \(1, 2\)$"):
        ops.select_triplets(*inputs, positive="all", negative_ranks=(1, 2))


@each_negative
@each_loss
def test_verify_checks_negative_ranks(name, options, negative):
    given = {**options, "negative": negative, "negative_ranks": (2, 4)}
    with hardmine.verify(every=1) as report:
        for dtype, refs in itertools.product((torch.float32, torch.float64), (None, 30)):
            inputs = random_inputs(40, 9, 5, refs, dtype=dtype)
            if "random" in given.values():
                given["generator"] = seeded(3)
            getattr(ops, name)(*inputs, **given)
        ops.select_triplets(*inputs, negative_ranks=(1, 50))
    assert report.ops[name].checks == 4
    assert report.ops["select_triplets"].checks == 1


@each_negative
def test_verify_negatives_of_other_ranks_raise(negative, monkeypatch):
    right = torch.ops.hardmine.knn
    monkeypatch.setattr(torch.ops.hardmine, "knn", lambda *a: [part.roll(1, dims=1) for part in right(*a)])
    inputs = random_inputs(40, 9, 5)
    with pytest.raises(hardmine.VerificationError, match="negative_index is not"), hardmine.verify(every=1):
        ops.select_triplets(*inputs, negative=negative, negative_ranks=(1, 4), generator=None)


def test_negative_ranks_of_wrong_labels_leave_them_out():
    """What ranks are for: the most similar sample of another class has the anchor's class in truth."""
    inputs = random_inputs(40, 6, 5)
    labels = inputs.labels.clone()
    labels[0] = 77  # a copy of row 1, wrongly labeled
    inputs.embeddings[0] = inputs.embeddings[1]
    hardest = ops.select_triplets(inputs.embeddings, labels).negative_index[1]
    ranked = ops.select_triplets(inputs.embeddings, labels, negative_ranks=(2, 2)).negative_index[1]
    s, _, negatives = candidate_pairs(inputs.embeddings, labels)
    assert hardest == 0
    assert ranked == s[1].masked_fill(~negatives[1], -2).topk(2).indices[1]
