"""``positive="all"``: every pair of an anchor and one of its positives, each with its own negative."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hardmine
from hardmine import losses, ops, reference
from hardmine.ops import _all_positives_of_blocks
from hardmine.types import PairSelection
from support.comparisons import assert_bitwise_equal, assert_results_bitwise_equal, assert_results_close
from support.inputs import Inputs, exact_inputs, inputs_of_sizes, random_ids, random_inputs
from support.ops import EMULATED, FLOAT_DTYPES, PRESETS, SIMILARITIES, TERMS
from support.processes import threads
from support.runs import effective_options, run, run_both

pytestmark = pytest.mark.emulated

REDUCTIONS = ("mean", "mean_active", "sum", "none")
NEGATIVES = ("hardest", "easiest", "semihard")
OPS = ("select_triplets", "triplet_loss", "sct_loss")
RULES = [
    *({"negative": negative} for negative in NEGATIVES),
    *({"negative": "semihard", "semihard_fallback": fallback} for fallback in ("hardest", "easiest")),
    {"negative": "semihard", "tie": "include"},
    {"negative": "semihard", "semihard_margin": 2.0},
    {"negative": "semihard", "semihard_margin": 2.0, "semihard_fallback": "easiest", "duplicate_threshold": 0.5},
]
# Four rows of class 0 and three of others on a line, and the inner products with anchor 0 that these give
LINE = torch.tensor([[1.0], [4.0], [2.0], [3.0], [2.5], [0.5], [2.5]])
LINE_LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 2])


def all_pairs(**options):
    return {"positive": "all", **options}


@pytest.mark.parametrize(
    ("rule", "negative"),
    [
        # s_ap = 4, 2, 3 with positives 1, 2, 3; s_an = 2.5, 0.5, 2.5 with negatives 4, 5, 6
        ({"negative": "hardest"}, [4, 4, 4]),
        ({"negative": "easiest"}, [5, 5, 5]),
        ({"negative": "semihard"}, [4, 5, 4]),
        ({"negative": "semihard", "semihard_margin": 1.0}, [-1, -1, 4]),
        ({"negative": "semihard", "semihard_margin": 1.0, "semihard_fallback": "hardest"}, [4, 4, 4]),
        ({"negative": "semihard", "semihard_margin": 1.0, "semihard_fallback": "easiest"}, [5, 5, 4]),
    ],
)
def test_all_positives_hand_worked_negatives_match(rule, negative):
    pairs = ops.select_triplets(LINE, LINE_LABELS, **all_pairs(similarity="dot", **rule))
    assert isinstance(pairs, PairSelection)
    of_anchor_0 = pairs.anchor_index == 0
    assert pairs.positive_index[of_anchor_0].tolist() == [1, 2, 3]
    assert pairs.positive_similarity[of_anchor_0].tolist() == [4.0, 2.0, 3.0]
    assert pairs.negative_index[of_anchor_0].tolist() == negative
    expected = [math.nan if n < 0 else LINE[n].item() for n in negative]
    assert pairs.negative_similarity[of_anchor_0].tolist() == pytest.approx(expected, nan_ok=True)
    assert pairs.valid[of_anchor_0].tolist() == [n >= 0 for n in negative]


def test_all_positives_lists_pairs_by_anchor_then_positive():
    labels = torch.tensor([3, -1, 3, 5, -1, 3])
    pairs = ops.select_triplets(torch.randn(6, 2), labels, **all_pairs())
    listed = list(zip(pairs.anchor_index.tolist(), pairs.positive_index.tolist(), strict=True))
    assert listed == [(0, 2), (0, 5), (1, 4), (2, 0), (2, 5), (4, 1), (5, 0), (5, 2)]
    assert pairs.count() == 8
    assert torch.stack(pairs.triplets()).shape == (3, 8)


def test_all_positives_equals_tensorflow_addons_semihard_loss():
    """The loss of tensorflow_addons and sentence-transformers, by its definition over all triplets."""
    inputs = random_inputs(40, 6, 5, spread=1.5, dtype=torch.float64)
    x, labels = inputs[:2]
    d = torch.cdist(x, x)
    terms, chosen_inside = [], 0
    for a, p in itertools.permutations(range(len(x)), 2):
        if labels[a] != labels[p]:
            continue
        negatives = d[a][labels != labels[a]]
        outside = negatives[negatives > d[a, p]]
        chosen_inside += not len(outside)
        terms.append((1.0 + d[a, p] - (outside.min() if len(outside) else negatives.max())).clamp(min=0))
    assert chosen_inside > 0
    options = all_pairs(semihard_fallback="easiest", similarity="euclidean", term="hinge", margin=1.0)
    torch.testing.assert_close(ops.triplet_loss(x, labels, **options), torch.stack(terms).mean())


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("refs", [None, 45], ids=["self", "refs"])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_all_positives_of_exact_inputs_equal_reference(similarity, refs, rule):
    inputs = exact_inputs(similarity, 61, refs=refs)
    options = all_pairs(similarity=similarity, **rule)
    if similarity == "euclidean" and "duplicate_threshold" in options:
        options["duplicate_threshold"] = -2.0
    actual, expected = (library.select_triplets(*inputs, **options) for library in (ops, reference))
    assert len(expected.anchor_index) > 300
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6 if similarity == "euclidean" else 0, equal_nan=True)


@pytest.mark.parametrize("sizes", [[70, 30, 1], [65, 64, 3, 1], [200], [1] * 70, [2] * 100, [97, 96]], ids=str)
@pytest.mark.parametrize("rule", RULES[2:-1], ids=str)
def test_all_positives_of_large_and_small_classes_equal_reference(sizes, rule):
    """Classes below and above the limit of 64 ranges that the kernel compares at once, in one block of rows."""
    inputs = inputs_of_sizes(sizes)
    actual, expected = (library.select_triplets(*inputs, **all_pairs(**rule)) for library in (ops, reference))
    assert len(expected.anchor_index) == sum(size * (size - 1) for size in sizes)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


@pytest.mark.parametrize("kind", ["few", "many", "all"])
@pytest.mark.parametrize("refs", [None, 80], ids=["self", "refs"])
@pytest.mark.parametrize("rule", RULES[1:5], ids=str)
def test_all_positives_ids_exclude_pairs(kind, refs, rule):
    inputs = random_inputs(70, refs=refs, dtype=torch.float64)
    options = all_pairs(**rule, **random_ids(inputs, kind))
    assert_results_close(*run_both("select_triplets", inputs, **options), 1e-12)
    assert_results_close(*run_both("triplet_loss", inputs, **options), 1e-10)


@pytest.mark.parametrize("ignored", [-4, 2, 77])
@pytest.mark.parametrize("refs", [None, 30], ids=["self", "refs"])
@pytest.mark.parametrize("name", OPS)
def test_all_positives_ignore_index_leaves_rows_out(name, ignored, refs):
    inputs = random_inputs(50, refs=refs, dtype=torch.float64)
    options = all_pairs(negative="semihard", ignore_index=ignored)
    if name != "select_triplets":
        options["reduction"] = "none"
    result, expected = run_both(name, inputs, **options)
    assert_results_close(result, expected, 1e-10)
    if ignored != 77:
        assert not (inputs.labels[result.selection[0]] == ignored).any()
        assert not result.grad[inputs.labels == ignored].any()


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("refs", [None, 30], ids=["self", "refs"])
def test_all_positives_loss_and_gradients_equal_reference(term, reduction, refs):
    inputs = random_inputs(refs=refs, dtype=torch.float64, spread=1.5)
    for rule in RULES:
        options = all_pairs(term=term, reduction=reduction, **rule)
        result, expected = run_both("triplet_loss", inputs, **options)
        assert_results_close(result, expected, 1e-10)
        counts = [library.triplet_loss(*inputs, **options, return_count=True)[1] for library in (ops, reference)]
        assert counts[0] == counts[1]
    assert expected.grad.any()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("lam", [0.5, -0.5])
def test_all_positives_sct_loss_equals_reference(preset, reduction, lam):
    inputs = random_inputs(dtype=torch.float64)
    options = all_pairs(preset=preset, reduction=reduction, lam=lam, return_count=True)
    for negative in NEGATIVES:
        result, expected = run_both("sct_loss", inputs, **all_pairs(preset=preset, reduction=reduction, lam=lam))
        assert_results_close(result, expected, 1e-10)
        assert (
            ops.sct_loss(*inputs, negative=negative, **options)[1]
            == (reference.sct_loss(*inputs, negative=negative, **options)[1])
        )


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("negative", NEGATIVES)
def test_all_positives_of_classes_of_two_equal_one_pair_loss(term, negative):
    """With two samples per class, the only positive is the easiest one: the gradients then agree bit for bit."""
    inputs = inputs_of_sizes([2] * 60, dtype=torch.float32)
    for reduction in REDUCTIONS:
        options = {"term": term, "negative": negative, "reduction": reduction}
        pairs, one = (run(ops.triplet_loss, inputs, **options, positive=positive) for positive in ("all", "easiest"))
        if EMULATED:  # torch computes the terms on GPUs
            torch.testing.assert_close(pairs.loss, one.loss)
        else:
            assert_bitwise_equal(pairs.loss, one.loss)
        assert_bitwise_equal(pairs.grad, one.grad)
        for a, b in zip(pairs.selection[1:], one.selection, strict=True):
            assert_bitwise_equal(a, b)


def test_mean_active_divides_by_terms_above_zero():
    """The hinges of HAND_POINTS would not show it: 3 of 4 here are active, one of them exactly at the kink is not."""
    embeddings = torch.tensor([[1.0], [1.0]])
    refs, ref_labels = torch.tensor([[0.75], [0.5], [0.25]]), torch.tensor([0, 0, 1])
    labels = torch.tensor([0, 0])
    options = all_pairs(negative="hardest", similarity="dot", term="hinge")
    args = embeddings, labels, refs, ref_labels
    assert ops.triplet_loss(*args, **options, margin=0.5, reduction="none").tolist() == [0.0, 0.25, 0.0, 0.25]
    assert ops.triplet_loss(*args, **options, margin=0.5, reduction="mean").item() == 0.125
    loss, count = ops.triplet_loss(*args, **options, margin=0.5, reduction="mean_active", return_count=True)
    assert (loss.item(), count.item()) == (0.25, 2)
    loss, count = ops.triplet_loss(*args, **options, margin=-1.0, reduction="mean_active", return_count=True)
    assert (loss.item(), count.item()) == (0.0, 0)


def test_mean_active_counts_underflowing_softplus():
    inputs = Inputs(torch.tensor([[4.0], [4.0], [-4.0]]), torch.tensor([0, 0, 1]))
    loss, count = ops.triplet_loss(
        *inputs, **all_pairs(similarity="dot", temperature=0.1, reduction="mean_active", return_count=True)
    )
    assert (loss.item(), count.item()) == (0.0, 2)


@pytest.mark.parametrize("refs", [None, 12], ids=["self", "refs"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_all_positives_gradcheck(refs, similarity):
    inputs = random_inputs(14, 4, 3, refs, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (inputs.embeddings, inputs.ref_embeddings) if t is not None]

    def of_leaves(op, *rows, **options):
        x, refs = (*rows, None)[:2]
        return op(x, inputs.labels, refs, inputs.ref_labels, **all_pairs(similarity=similarity, **options))

    def similarities(*rows):
        pairs = of_leaves(ops.select_triplets, *rows, negative="easiest")
        return pairs.positive_similarity, pairs.negative_similarity

    def loss_and_similarity(*rows):
        loss, pairs = of_leaves(
            ops.triplet_loss, *rows, negative="semihard", semihard_fallback="easiest", return_selection=True
        )
        return loss, pairs.positive_similarity, pairs.negative_similarity

    assert torch.autograd.gradcheck(similarities, leaves)
    assert torch.autograd.gradcheck(loss_and_similarity, leaves)


def test_all_positives_second_derivative_is_refused():
    x = torch.randn(6, 3, requires_grad=True)
    loss = ops.triplet_loss(x, torch.arange(6) // 3, **all_pairs())
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("name", OPS)
def test_all_positives_dtypes_and_layouts(name, dtype):
    inputs = random_inputs(60, 8, refs=40, dtype=dtype)
    result = run(getattr(ops, name), inputs, **all_pairs())
    computed = torch.float64 if dtype == torch.float64 else torch.float32
    assert result.loss.dtype == result.selection[3].dtype == computed
    assert result.grad.dtype == result.ref_grad.dtype == dtype
    strided = inputs._replace(embeddings=torch.stack([inputs.embeddings] * 2, 2)[:, :, 0])
    assert not strided.embeddings.is_contiguous()
    x = strided.embeddings
    loss = getattr(ops, name)(x, *inputs[1:], **all_pairs())
    expected = getattr(ops, name)(*inputs, **all_pairs())
    for a, b in zip(loss if name == OPS[0] else [loss], expected if name == OPS[0] else [expected], strict=True):
        assert_bitwise_equal(a, b)


@pytest.mark.parametrize(
    ("rows", "labels"),
    [(0, []), (1, [0]), (2, [0, 1]), (2, [0, 0]), (5, [0] * 5), (4, [0, 1, 2, 3])],
    ids=["empty", "one row", "no positive", "no negative", "one class", "all distinct"],
)
@pytest.mark.parametrize("negative", NEGATIVES)
def test_all_positives_without_valid_pairs_give_zero(rows, labels, negative):
    x = torch.randn(rows, 3, requires_grad=True)
    loss, pairs, count = ops.triplet_loss(
        x, torch.tensor(labels, dtype=torch.int64), **all_pairs(negative=negative), return_selection=True,
        return_count=True,
    )  # fmt: skip
    loss.backward()
    assert (loss.item(), count.item(), pairs.count().item()) == (0.0, 0, 0)
    assert not x.grad.any()
    assert (pairs.negative_index == -1).all()
    assert pairs.negative_similarity.isnan().all()
    assert all(len(indices) == 0 for indices in pairs.triplets())


def test_all_positives_without_refs_rows_give_zero():
    x = torch.randn(3, 2, requires_grad=True)
    loss = ops.triplet_loss(x, torch.zeros(3).long(), torch.empty(0, 2), torch.empty(0).long(), **all_pairs())
    loss.backward()
    assert loss == 0
    assert not x.grad.any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_all_positives_nonfinite_row_makes_loss_nan(bad):
    inputs = random_inputs(30)
    inputs.embeddings[7, 2] = bad
    for reduction in REDUCTIONS:
        result = run(ops.triplet_loss, inputs, **all_pairs(reduction=reduction, similarity="dot"))
        assert result.loss.isnan().all()
        assert result.grad.isnan().all()
    pairs = ops.select_triplets(*inputs, **all_pairs(negative="semihard", similarity="dot"))
    assert all(7 not in indices for indices in pairs[:3])
    assert pairs.positive_similarity.isfinite().all()


@pytest.mark.cpu
@pytest.mark.parametrize("name", OPS)
def test_all_positives_any_threads_give_same_bits(name):
    for inputs in (random_inputs(700, 40, 90, spread=1.5), inputs_of_sizes([300, 200, 3, 2], 40, torch.float32)):
        options = all_pairs(negative="semihard", semihard_fallback="hardest")
        with threads(1):
            expected = run(getattr(ops, name), inputs, **options)
        for count in (2, 5):
            with threads(count):
                assert_results_bitwise_equal(run(getattr(ops, name), inputs, **options), expected)


@pytest.mark.cpu
@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_all_positives_compile_without_graph_breaks(name, dynamic):
    torch.compiler.reset()
    op = getattr(ops, name)

    def step(x, labels):
        found = op(x, labels, **all_pairs(negative="semihard"))
        return found.negative_similarity.nan_to_num().sum() if name == "select_triplets" else found

    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic)
    for rows in (24, 36):
        inputs = random_inputs(rows)
        gradients = []
        for function in (step, compiled):
            x = inputs.embeddings.clone().requires_grad_()
            loss = function(x, inputs.labels)
            loss.backward()
            gradients.append((loss.detach(), x.grad))
        torch.testing.assert_close(gradients[1], gradients[0])


def test_all_positives_ops_pass_opcheck():
    inputs = random_inputs(20, 4, 3)
    x = inputs.embeddings.requires_grad_()
    tensors = x, inputs.labels, None, None, None, None
    selection = 0, 2, 0, 0, math.inf, math.inf, False
    loss = 0, 0, False, 0.1, 0.0, 0.0, 0.0, -math.inf, 0
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.hardmine.select_all_positives, (*tensors, *selection), test_utils=tests)
    torch.library.opcheck(
        torch.ops.hardmine.all_positives_triplet_loss, (*tensors, *selection, *loss), test_utils=tests
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"negative": "random"},
            "negative must be 'hardest', 'easiest' or 'semihard' with positive='all', got 'random'",
        ),
        (
            {"negative": "farthest"},
            "negative must be one of 'hardest', 'easiest', 'semihard', 'random', got 'farthest'",
        ),
        ({"negative": "hardest", "tie": "include"}, "tie must be None with negative='hardest'"),
        ({"generator": torch.Generator()}, "generator must be None with positive='all' and negative="),
        ({"semihard_margin": 0.0, "negative": "semihard"}, "semihard_margin must be a number > 0, got 0.0"),
        ({"reduction": "average"}, "reduction must be one of 'mean', 'sum', 'none', 'mean_active', got 'average'"),
        ({"positive": "every"}, "positive must be one of 'easiest', 'hardest', 'random', 'all', got 'every'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_all_positives_bad_options_are_refused(options, message):
    for name in OPS:
        if name == "select_triplets" and "reduction" in options:
            continue
        with pytest.raises(ValueError, match=message.replace("(", r"\(")):
            getattr(ops, name)(*random_inputs(6), **all_pairs(**{"negative": "semihard", **options}))


@pytest.mark.cpu
def test_all_positives_compiled_ops_check_what_they_are_given():
    x, labels = torch.randn(4, 2), torch.zeros(4, dtype=torch.int64)
    tensors = x, labels, None, None, None, None
    packet = torch.ops.hardmine.select_all_positives
    with pytest.raises(ValueError, match="negative must not be random with all positives"):
        packet(*tensors, 0, 3, 0, 0, math.inf, math.inf, False)
    index, values = torch.zeros(3, dtype=torch.int64), torch.zeros(3)
    backward = torch.ops.hardmine.select_all_positives_backward
    for bad in (-1, 4):
        with pytest.raises(ValueError, match=r"the indices of pairs must lie in \[0, 4\)"):
            backward(values, values, x, None, index + bad, index, index, 0, True, False)
    with pytest.raises(ValueError, match=r"the indices of pairs must lie in \[-1, 4\)"):
        backward(values, values, x, None, index, index + 4, index, 0, True, False)
    with pytest.raises(ValueError, match="negative_index"):
        backward(values, values, x, None, index, index, index[:2], 0, True, False)
    with pytest.raises(ValueError, match="anchor_index"):
        backward(values, values, x, None, index[None], index, index, 0, True, False)


@pytest.mark.parametrize("name", OPS)
def test_all_positives_pass_verification(name, verify):
    with verify() as report:
        for rule in RULES:
            for refs in (None, 20):
                inputs = random_inputs(40, refs=refs)
                inputs.embeddings.requires_grad_()
                getattr(ops, name)(*inputs, **all_pairs(**rule))
                getattr(ops, name)(*inputs, **all_pairs(**rule), ignore_index=2)
    assert report.ops[name].checks == 4 * len(RULES)


@pytest.mark.parametrize("rows", [0, 3, 70])
@pytest.mark.parametrize("refs", [None, 40], ids=["self", "refs"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_all_positives_in_blocks_equal_the_kernel(rows, refs, similarity, monkeypatch):
    """Devices without a kernel select in blocks of pairs. On the CPU both have the same bits."""
    monkeypatch.setattr(_all_positives_of_blocks, "_CHUNK", 100)
    inputs = random_inputs(rows, refs=refs, spread=1.5)
    ids, ref_ids = (*random_ids(inputs, "many").values(), None)[:2]
    tensors = *inputs, ids, ref_ids
    losses = [(3, 2, False, 0.1, 0.0, -0.5, 0.1, -math.inf), (1, 0, False, 1.0, 0.2, 0.0, 0.0, -0.5)]
    for negative, fallback, tie, threshold, margin in (
        (0, 0, 0, math.inf, math.inf),
        (1, 0, 0, 0.5, math.inf),
        (2, 0, 1, math.inf, 0.5),
        (2, 1, 0, 0.5, math.inf),
        (2, 2, 0, math.inf, 0.5),
    ):
        options = SIMILARITIES.index(similarity), negative, fallback, tie, threshold, margin, False
        expected = torch.ops.hardmine.select_all_positives(*tensors, *options)
        pairs = _all_positives_of_blocks.select_in_blocks(*tensors, *options)
        for got, wanted in zip(pairs, expected, strict=True):
            assert_bitwise_equal(got, wanted)
        for loss, reduction in itertools.product(losses, range(4)):
            got = _all_positives_of_blocks.loss_in_blocks(*tensors, *options, *loss, reduction)[0]
            torch.testing.assert_close(
                got, torch.ops.hardmine.all_positives_triplet_loss(*tensors, *options, *loss, reduction)[0]
            )


WRONG = {
    "a pair twice": lambda p: PairSelection(*(t[[0, 0, *range(2, len(t))]] for t in p)),
    "a missing pair": lambda p: PairSelection(*(t[1:] for t in p)),
    "no positive": lambda p: p._replace(positive_index=p.positive_index.clone().index_fill_(0, torch.tensor([0]), 0)),
    "another negative": lambda p: p._replace(
        negative_index=p.negative_index.roll(1), negative_similarity=p.negative_similarity.roll(1)
    ),
    "another similarity": lambda p: p._replace(negative_similarity=p.negative_similarity + 0.01),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_verification_finds_wrong_pairs(wrong, verify, monkeypatch):
    module = __import__("hardmine.ops.select_triplets", fromlist=["as_pair_selection"])
    right = module.as_pair_selection
    monkeypatch.setattr(module, "as_pair_selection", lambda *outputs: WRONG[wrong](right(*outputs)))
    inputs = random_inputs(20, spread=1.5)
    inputs.embeddings.requires_grad_()
    with pytest.raises(hardmine.VerificationError), verify():
        ops.select_triplets(*inputs, **all_pairs(negative="semihard", semihard_fallback="easiest"))


def test_all_positives_modules_equal_ops():
    inputs = random_inputs(30)
    for module, op, options in (
        (losses.TripletLoss, ops.triplet_loss, {"term": "hinge", "reduction": "mean_active"}),
        (losses.SCTLoss, ops.sct_loss, {"preset": "code2021"}),
    ):
        options = all_pairs(negative="semihard", semihard_fallback="easiest", **options)
        loss, pairs, count = module(**options)(*inputs, return_selection=True, return_count=True)
        expected, expected_pairs, expected_count = op(*inputs, **options, return_selection=True, return_count=True)
        assert_bitwise_equal(loss, expected)
        assert count == expected_count
        assert torch.equal(pairs.negative_index, expected_pairs.negative_index)
    with pytest.raises(ValueError, match="negative must be"):
        losses.TripletLoss(positive="all", negative="random")


@st.composite
def problems(draw):
    inputs = random_inputs(
        rows=draw(st.integers(0, 40)),
        depth=draw(st.integers(1, 12)),
        classes=draw(st.integers(1, 6)),
        refs=draw(st.none() | st.integers(0, 40)),
        spread=draw(st.sampled_from([0.3, 1.0])),
        dtype=torch.float64,
        seed=draw(st.integers(0, 10_000)),
    )
    options = {
        "similarity": draw(st.sampled_from(SIMILARITIES)),
        "negative": draw(st.sampled_from(NEGATIVES)),
        "term": draw(st.sampled_from(TERMS)),
        "temperature": draw(st.sampled_from([0.05, 1.0])),
        "margin": draw(st.sampled_from([0.0, 0.3])),
        "lam": draw(st.sampled_from([0.1, -1.0])),
        "reduction": draw(st.sampled_from(REDUCTIONS)),
        "semihard_fallback": draw(st.sampled_from([None, "hardest", "easiest"])),
        "tie": draw(st.sampled_from(["exclude", "include"])),
        "semihard_margin": draw(st.none() | st.just(0.4)),
        "duplicate_threshold": draw(st.none() | st.sampled_from([-1.3, 0.8])),
        "min_similarity": draw(st.none() | st.sampled_from([-1.7, 0.15])),
    }
    return inputs, all_pairs(**effective_options(options))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(problems())
def test_all_positives_random_inputs_and_options_match_reference(problem):
    inputs, options = problem
    assert_results_close(*run_both("triplet_loss", inputs, **options), 1e-10)
