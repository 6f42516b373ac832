"""Random positives and negatives: which candidate a number picks, how often each is picked, and who decides that.

That an op and its reference pick alike, for every rule and shape, is checked where the other selections are.
"""

import copy
import math
import pickle

import pytest
import torch

import hardmine
from hardmine import losses, ops, reference
from helpers import (
    FLOAT_DTYPES,
    HAND_POINTS,
    SELECTED_LOSSES,
    SELECTING_OPS,
    SIMILARITIES,
    Inputs,
    assert_bitwise_equal,
    assert_results_bitwise_equal,
    assert_same_selection,
    exact_inputs,
    random_inputs,
    run,
    seeded,
    threads,
    with_numbers,
)
from test_verification import break_output, verify  # noqa: F401 (a fixture)

each_op = pytest.mark.parametrize("name", SELECTING_OPS)
IMPLEMENTATIONS = pytest.mark.parametrize("select", [ops.select_triplets, reference.select_triplets], ids=["op", "ref"])
with_and_without_refs = pytest.mark.parametrize("refs", [None, 30], ids=["self", "refs"])
BOTH = {"positive": "random", "negative": "random"}
NONE = (-1, math.nan)


@pytest.fixture
def draw(monkeypatch):
    """Makes the next calls draw the given numbers, a row for each random selection."""

    def make(*rows: list[float]) -> None:
        numbers = torch.tensor(rows, dtype=torch.float64)

        def rand(*size, dtype, device, generator=None):
            assert size == numbers.shape
            assert dtype == torch.float64
            return numbers.to(device)

        monkeypatch.setattr(torch, "rand", rand)

    return make


def pick(op, inputs: Inputs, *, seed: int = 0, **options):
    """A selection, by the same numbers in every call."""
    return op(*inputs, **with_numbers(options, inputs.embeddings.device, seed))


# Which candidate a number picks

# Of HAND_POINTS, anchors 0, 1, 3 are each other's positives, and 2, 4 their negatives; and the other way round.
U_POSITIVE = [0.0, 0.5, 0.99, 0.49, 0.3]
U_NEGATIVE = [0.999, 0.25, 0.34, 0.5, 0.66]
# Candidates (1 3), (0 3), (4), (0 1), (2), of which the numbers pick numbers 0, 1, 0, 0, 0.
POSITIVES = [(1, 0.6), (3, 0.8), (4, -0.8), (0, 0.0), (2, -0.8)]
# Candidates (2 4), (2 4), (0 1 3), (2 4), (0 1 3), of which the numbers pick numbers 1, 0, 1, 1, 1.
NEGATIVES = [(4, -1.0), (2, 0.96), (1, 0.96), (4, 0.0), (1, -0.6)]
HAND_WORKED = {
    # options, numbers, then (index, similarity) of each anchor's positive, then of its negative
    "both": (BOTH, [U_POSITIVE, U_NEGATIVE], POSITIVES, NEGATIVES),
    "positive, hardest negative": (
        {"positive": "random"},
        [U_POSITIVE],
        POSITIVES,
        [(2, 0.8), (2, 0.96), (1, 0.96), (2, 0.6), (3, 0.0)],
    ),
    "negative, hardest positive": (
        {"positive": "hardest", "negative": "random"},
        [U_NEGATIVE],
        [(3, 0.0), (0, 0.6), (4, -0.8), (0, 0.0), (2, -0.8)],
        NEGATIVES,
    ),
    # Below 0.6, 0.8, -0.8, 0, -0.8: anchor 3 has negatives 0.6 and 0, neither of them below 0.
    "positive, semi-hard negative": (
        {"positive": "random", "negative": "semihard"},
        [U_POSITIVE],
        POSITIVES,
        [(4, -1.0), (4, -0.6), NONE, NONE, (0, -1.0)],
    ),
    "positive, semi-hard negative, else hardest": (
        {"positive": "random", "negative": "semihard", "semihard_fallback": "hardest"},
        [U_POSITIVE],
        POSITIVES,
        [(4, -1.0), (4, -0.6), (1, 0.96), (2, 0.6), (0, -1.0)],
    ),
    # 1 and 3 are too alike, which leaves (1 3), (0), (4), (0), (2).
    "no duplicates": (
        {**BOTH, "duplicate_threshold": 0.7},
        [U_POSITIVE, U_NEGATIVE],
        [(1, 0.6), (0, 0.6), (4, -0.8), (0, 0.0), (2, -0.8)],
        NEGATIVES,
    ),
    # (3), (), (4), (0), (2)
    "hardly a positive": (
        {**BOTH, "duplicate_threshold": 0.3},
        [U_POSITIVE, U_NEGATIVE],
        [(3, 0.0), NONE, (4, -0.8), (0, 0.0), (2, -0.8)],
        NEGATIVES,
    ),
    # |a - b|^2 of the same pairs: 20, 18, 34, 2, 34 and 4, 2, 2, 2, 32
    "euclidean": (
        {**BOTH, "similarity": "euclidean"},
        [U_POSITIVE, U_NEGATIVE],
        [(i, -math.sqrt(d)) for i, d in zip((1, 3, 4, 0, 2), (20, 18, 34, 2, 34), strict=True)],
        [(i, -math.sqrt(d)) for i, d in zip((4, 2, 1, 4, 1), (4, 2, 2, 2, 32), strict=True)],
    ),
}


@IMPLEMENTATIONS
@pytest.mark.parametrize(("options", "numbers", "positives", "negatives"), HAND_WORKED.values(), ids=HAND_WORKED)
def test_worked_by_hand(select, device, draw, options, numbers, positives, negatives):
    draw(*numbers)
    selection = select(*HAND_POINTS.to(device), **options)
    assert selection.positive_index.tolist() == [index for index, _ in positives]
    assert selection.negative_index.tolist() == [index for index, _ in negatives]
    assert selection.positive_similarity.tolist() == pytest.approx([s for _, s in positives], abs=1e-6, nan_ok=True)
    assert selection.negative_similarity.tolist() == pytest.approx([s for _, s in negatives], abs=1e-6, nan_ok=True)


@IMPLEMENTATIONS
def test_worked_by_hand_with_refs(select, device, draw):
    """Anchors of classes 0 and 7 against the five points: a copy of the anchor is a candidate like any other."""
    anchors = Inputs(torch.tensor([[2.0, 0.0], [0.0, -1.0]]), torch.tensor([0, 7]), *HAND_POINTS[:2]).to(device)
    draw([0.33, 0.5], [0.5, 0.79])  # of positives 0 1 3 and none; of negatives 2 4 and 0 1 2 3 4
    selection = select(*anchors, **BOTH)
    assert selection.positive_index.tolist() == [0, -1]
    assert selection.negative_index.tolist() == [4, 3]
    assert selection.positive_similarity.tolist() == pytest.approx([1.0, math.nan], nan_ok=True)
    assert selection.negative_similarity.tolist() == pytest.approx([-1.0, -1.0])


def test_the_loss_is_that_of_the_pairs_drawn(draw):
    """The hinges of margin 0.3 of the hand-worked pairs: s_an - s_ap = -1.6, 0.16, 1.76, 0, 0.2."""
    draw(U_POSITIVE, U_NEGATIVE)
    for op in (ops.triplet_loss, reference.triplet_loss):
        loss, selection = op(*HAND_POINTS, **BOTH, term="hinge", margin=0.3, reduction="none", return_selection=True)
        assert loss.tolist() == pytest.approx([0.0, 0.46, 2.06, 0.3, 0.5], abs=1e-6)
        assert selection.positive_index.tolist() == [index for index, _ in POSITIVES]


@IMPLEMENTATIONS
@pytest.mark.parametrize("refs", [False, True], ids=["self", "refs"])
@pytest.mark.parametrize("by", ["label", "similarity"])
def test_every_candidate_has_an_equal_share_of_the_numbers(select, refs, by, device, draw):
    """Of 2520 numbers spread evenly, each of n candidates is picked by 2520 / n."""
    labels = torch.tensor([5, 9, 5, 5, 5, 2, 2, 2, 9, 9, 5, 2])
    rows = len(labels)
    columns = torch.tensor([9, 2, 5, 5, 2, 9, 9, 5, 5, 5]) if refs else labels
    inputs = Inputs(torch.ones(rows, 3), labels)
    if refs:
        inputs = inputs._replace(ref_embeddings=torch.ones(len(columns), 3), ref_labels=columns)
    usable = torch.ones(rows, len(columns), dtype=torch.bool)
    if not refs:
        usable.fill_diagonal_(False)
    if by == "similarity":  # one column is no candidate of anyone, and has none where it is an anchor
        (inputs.ref_embeddings if refs else inputs.embeddings)[1, 0] = math.nan
        usable[:, 1] = False
        usable[1] &= bool(refs)
    same = labels[:, None] == columns
    positives, negatives = same & usable, ~same & usable
    counted = torch.zeros(2, rows, len(columns), dtype=torch.int64)
    for i in range(2520):
        u = (i + 0.5) / 2520
        draw([u] * rows, [1 - u] * rows)
        selection = select(*inputs.to(device), **BOTH)
        for which, index in enumerate(selection[:2]):
            index = index.cpu()
            counted[which, torch.arange(rows)[index >= 0], index[index >= 0]] += 1
    for actual, candidates in zip(counted, (positives, negatives), strict=True):
        count = candidates.sum(1, keepdim=True).clamp(min=1)
        assert (2520 % count == 0).all()
        assert torch.equal(actual, candidates * (2520 // count))


def test_many_draws_are_uniform_and_positives_tell_nothing_of_negatives():
    """20,000 anchors with 4 positives and 5 negatives: each of the 20 pairs has 1000 on average, and deviation 31."""
    count = 20_000
    inputs = Inputs(torch.ones(count, 2), torch.zeros(count).long(), torch.ones(9, 2), torch.tensor([0, 1] * 4 + [2]))
    selection = ops.select_triplets(*inputs, **BOTH, generator=seeded(1))
    pairs = torch.zeros(9, 9, dtype=torch.int64)
    pairs.index_put_((selection.positive_index, selection.negative_index), torch.tensor(1), accumulate=True)
    positives, negatives = [0, 2, 4, 6], [1, 3, 5, 7, 8]
    counted = pairs[positives][:, negatives]
    assert counted.sum() == count
    assert (counted - 1000).abs().max() < 5 * 31


# Similarities


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("depth", [3, 40, 700])
@pytest.mark.parametrize("refs", [False, True], ids=["self", "refs"])
def test_the_only_candidate_has_the_bits_of_every_other_selection(dtype, similarity, depth, refs, device):
    """Pairs have one positive, and one of two refs is a negative: forward and backward agree with the other rules'."""
    x = random_inputs(60, depth, 1, dtype=dtype, seed=depth).embeddings
    inputs = Inputs(x, torch.arange(60) // 2)
    options = [{"positive": "random"}, {}]
    if refs:
        others = random_inputs(2, depth, 1, dtype=dtype, seed=depth + 1).embeddings
        inputs = Inputs(x, torch.arange(60) % 2, others, torch.tensor([0, 1]))
        options = [BOTH, {}]
    for more in ({}, {"duplicate_threshold": 1e30}):  # candidates by label, and by similarity
        drawn, expected = (run(ops.select_triplets, inputs.to(device), similarity=similarity, **o) for o in options)
        assert (expected.selection[0] >= 0).all()
        assert_results_bitwise_equal(drawn, expected)
        drawn = run(ops.select_triplets, inputs.to(device), similarity=similarity, **options[0], **more)
        assert_results_bitwise_equal(drawn, expected)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@with_and_without_refs
def test_a_threshold_that_drops_nothing_changes_nothing(similarity, refs, device):
    """Candidates known by their labels and candidates that are marked by similarity are the same."""
    for classes in (1, 7, 150):
        inputs = random_inputs(300, 20, classes, refs and 280).to(device)
        options = {**BOTH, "similarity": similarity}
        expected = pick(ops.select_triplets, inputs, **options)
        for a, b in zip(pick(ops.select_triplets, inputs, **options, duplicate_threshold=1e9), expected, strict=True):
            assert_bitwise_equal(a, b)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@with_and_without_refs
def test_every_dtype_draws_the_same(dtype, refs, device):
    inputs = exact_inputs("dot", refs=refs, dtype=dtype).to(device)
    drawn = pick(ops.select_triplets, inputs, **BOTH, similarity="dot")
    expected = pick(reference.select_triplets, inputs.to(torch.float64), **BOTH, similarity="dot")
    assert_same_selection(drawn[:2], expected[:2])
    assert_same_selection([s.double() for s in drawn[2:]], expected[2:])


# No candidates


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("similarity", SIMILARITIES)
@with_and_without_refs
def test_nan_similarities_are_never_drawn(bad, similarity, refs, device):
    inputs = random_inputs(40, 5, 2, refs)
    inputs.embeddings[3, 2] = bad
    if refs:
        inputs.ref_embeddings[7, 1] = bad
    for seed in range(20):
        options = {**BOTH, "similarity": similarity, "generator": seeded(seed)}
        selection = ops.select_triplets(*inputs, **options)
        expected = reference.select_triplets(*inputs, **{**options, "generator": seeded(seed)})
        for actual, wanted in zip(selection, expected, strict=True):
            torch.testing.assert_close(actual, wanted, equal_nan=True)
        if math.isnan(bad):
            assert selection.positive_index[3] == selection.negative_index[3] == -1
            assert not (torch.stack(selection[:2]) == (7 if refs else 3)).any()


@each_op
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("labels", [[], [3], [3] * 9, list(range(9)), [1, 1]], ids=str)
def test_anchors_without_candidates(name, similarity, labels, device):
    x = random_inputs(len(labels), 5, 1, seed=2).embeddings
    inputs = Inputs(x, torch.tensor(labels, dtype=torch.int64)).to(device)
    result = run(getattr(ops, name), inputs, **BOTH, similarity=similarity)
    for index, value in zip(result.selection[:2], result.selection[2:], strict=True):
        assert torch.equal(index == -1, value.isnan())
    assert (result.selection[0] >= 0).all() == (labels.count(labels[0]) > 1 if labels else True)
    assert (result.selection[1] >= 0).all() == (len(set(labels)) > 1 or not labels)
    if name in SELECTED_LOSSES:
        assert result.loss.item() == 0.0
        assert not result.grad.any()


@pytest.mark.parametrize("name", SELECTED_LOSSES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_divergence_is_never_hidden(name, bad, device):
    inputs = random_inputs(24, 5, 3, 30)
    inputs.ref_embeddings[11, 4] = bad
    result = run(getattr(ops, name), inputs.to(device), **BOTH)
    assert result.loss.isnan()
    assert result.grad.isnan().all()
    assert result.ref_grad.isnan().all()


# Who draws, and when


@each_op
def test_a_generator_repeats_the_draws(name):
    inputs = random_inputs(60, classes=3, refs=50)
    first, again = seeded(7), seeded(7)
    op = getattr(ops, name)
    results = [run(op, inputs, **BOTH, generator=g) for g in (first, first, again, again)]
    assert_results_bitwise_equal(results[0], results[2])
    assert_results_bitwise_equal(results[1], results[3])
    assert not torch.equal(results[0].selection[0], results[1].selection[0])
    assert not torch.equal(results[0].selection[1], results[1].selection[1])


@each_op
def test_without_a_generator_manual_seed_rules(name):
    inputs = random_inputs(60, classes=3)
    options = {**BOTH, **({"return_selection": True} if name in SELECTED_LOSSES else {})}

    def indices(**more):
        result = getattr(ops, name)(*inputs, **options, **more)
        return torch.stack((result[1] if name in SELECTED_LOSSES else result)[:2])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        first, second = indices(), indices()
        torch.manual_seed(3)
        assert torch.equal(indices(), first)
        assert torch.equal(indices(), second)
        assert not torch.equal(first, second)
        torch.manual_seed(3)
        assert torch.equal(indices(generator=seeded(3)), first)


@each_op
@pytest.mark.parametrize("generator", [None, 5], ids=["no generator", "generator"])
def test_only_what_is_asked_for_is_drawn(name, generator):
    """Without a random selection, nothing; with one, nothing of the global generator where another one is given."""
    inputs = random_inputs()
    own = None if generator is None else seeded(generator)
    for options in ({}, {"positive": "random"}, BOTH):
        before, own_before = torch.get_rng_state(), own and own.get_state()
        getattr(ops, name)(*inputs, **options, generator=own)
        assert torch.equal(torch.get_rng_state(), before) == (own is not None or not options)
        if own is not None:
            assert torch.equal(own.get_state(), own_before) == (not options)


def test_a_failing_call_draws_nothing():
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="temperature"):
        ops.triplet_loss(*random_inputs(), **BOTH, temperature=0.0)
    with pytest.raises(ValueError, match="labels"):
        ops.select_triplets(random_inputs().embeddings, torch.zeros(3).long(), **BOTH)
    assert torch.equal(torch.get_rng_state(), before)


@each_op
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("refs", [None, 2600], ids=["self", "refs"])
@pytest.mark.parametrize("more", [{}, {"duplicate_threshold": 0.3}, {"negative": "semihard"}], ids=str)
def test_any_number_of_threads_gives_the_same_bits(name, similarity, refs, more):
    inputs = exact_inputs(similarity, 3000, 64, 40, refs)
    options = {**BOTH, "similarity": similarity, **more}
    with threads(1):
        expected = run(getattr(ops, name), inputs, **options)
    assert expected.grad.any()
    for count in (2, 3, 5):
        with threads(count):
            assert_results_bitwise_equal(run(getattr(ops, name), inputs, **options), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@each_op
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_by_torch(name, backend):
    """One graph. aot_eager draws what eager mode draws; inductor draws its own numbers, which manual_seed fixes."""
    options = {**BOTH, **({"return_selection": True} if name in SELECTED_LOSSES else {})}

    def selection(*inputs):
        result = getattr(ops, name)(*inputs, **options)
        return tuple(result[1] if name in SELECTED_LOSSES else result)

    torch.compiler.reset()
    compiled = torch.compile(selection, fullgraph=True, backend=backend)
    with torch.random.fork_rng(devices=[]):
        for rows in (48, 37, 21):
            inputs = random_inputs(rows, refs=30, seed=rows)
            results = []
            for function in (compiled, compiled, selection):
                torch.manual_seed(rows)
                results.append(function(*inputs))
            for actual, again, eager in zip(*results, strict=True):
                assert_bitwise_equal(actual, again)
                if backend == "aot_eager":
                    assert_bitwise_equal(actual, eager)
            positive, negative = results[0][:2]
            assert (inputs.ref_labels[positive] == inputs.labels).all()
            assert (inputs.ref_labels[negative] != inputs.labels).all()
            assert len(negative.unique()) > 5


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@each_op
def test_compiled_with_a_generator(name):
    """The graph breaks, and the draws are those of eager mode."""
    inputs = random_inputs(refs=30)

    def loss(x, labels, refs, ref_labels, generator):
        result = getattr(ops, name)(x, labels, refs, ref_labels, **BOTH, generator=generator)
        return result[2] if name == "select_triplets" else result

    torch.compiler.reset()
    compiled = torch.compile(loss, backend="aot_eager")
    generator, again = seeded(5), seeded(5)
    for _ in range(2):
        assert_bitwise_equal(compiled(*inputs, generator), loss(*inputs, again))


# verify


@each_op
@with_and_without_refs
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_verify_draws_nothing_itself(name, refs, similarity, verify):  # noqa: F811
    """The user's generators stand where they would stand without it, and so the training goes on alike."""
    inputs = random_inputs(refs=refs)
    options = {**BOTH, "similarity": similarity, "duplicate_threshold": -0.1}
    own, twin = seeded(1), seeded(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        expected = [run(getattr(ops, name), inputs, **options, generator=g) for g in (own, None, own)]
        state = torch.get_rng_state()
        torch.manual_seed(2)
        with verify() as report:
            actual = [run(getattr(ops, name), inputs, **options, generator=g) for g in (twin, None, twin)]
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(own.get_state(), twin.get_state())
    assert report.checks == 3
    assert report.ops[name].ties == 0
    for a, b in zip(actual, expected, strict=True):
        assert_results_bitwise_equal(a, b)


@each_op
@pytest.mark.parametrize("which", ["positive", "negative"])
def test_verify_finds_a_candidate_that_was_not_drawn(name, which, verify, monkeypatch):  # noqa: F811
    """An op that rounds its numbers to halves picks candidates, yet not all of them."""
    compiled = "select_triplets" if name == "select_triplets" else "triplet_loss"
    right = getattr(torch.ops.hardmine, compiled)

    def coarse(*arguments):
        arguments = list(arguments)
        arguments[4] = (arguments[4] * 2).floor() / 2
        return right(*arguments)

    monkeypatch.setattr(torch.ops.hardmine, compiled, coarse)
    message = f"{which}_index is not the candidate drawn of .* anchors, first at anchor"
    with verify(), pytest.raises(hardmine.VerificationError, match=message):
        getattr(ops, name)(*random_inputs(), **{"positive": "hardest", "negative": "hardest", which: "random"})


def test_verify_finds_a_missing_candidate_and_one_too_many(verify, monkeypatch):  # noqa: F811
    inputs = random_inputs(20, classes=3)
    inputs.labels[0] = 100  # without a positive
    for position, anchor, wrong in ((2, 0, 5), (2, 1, -1), (3, 1, -1), (3, 1, 1)):
        with monkeypatch.context() as context:
            break_output(
                context, "select_triplets", position, lambda t, a=anchor, w=wrong: t.index_fill(0, torch.tensor([a]), w)
            )
            with verify(), pytest.raises(hardmine.VerificationError, match="is not the candidate drawn of 1 anchors"):
                ops.select_triplets(*inputs, **BOTH)


def rows_at_the_threshold() -> Inputs:
    """Classes of 80, of which half are equal rows: rounding puts their cosines on either side of 1."""
    equal = random_inputs(3, 40, 1).embeddings.repeat(40, 1)
    return Inputs(torch.cat([equal, random_inputs(120, 40, 1, seed=1).embeddings]), torch.arange(240) % 3)


def test_verify_lets_rounding_decide_at_the_threshold(verify, device):  # noqa: F811
    """Candidates, and so the counts that numbers pick by, differ between float32 and float64."""
    inputs = rows_at_the_threshold().to(device)
    with verify() as report:
        for seed in range(5):
            pick(ops.select_triplets, inputs, **BOTH, duplicate_threshold=1.0, seed=seed)
    assert report.checks == 5
    assert report.ops["select_triplets"].ties > 50, "of picks that no rounding moved, little can be said"


@pytest.mark.parametrize("wrong", [-1, 1], ids=["none where there are some", "one of another class"])
def test_verify_finds_a_wrong_pick_where_rounding_decides_on_others(wrong, verify, monkeypatch):  # noqa: F811
    inputs = rows_at_the_threshold()
    assert inputs.labels[0] != inputs.labels[1]
    break_output(monkeypatch, "select_triplets", 2, lambda t: t.index_fill(0, torch.tensor([0]), wrong))
    with verify(), pytest.raises(hardmine.VerificationError, match="is not the candidate drawn of 1 anchors"):
        ops.select_triplets(*inputs, **BOTH, duplicate_threshold=1.0)


def test_the_numbers_of_a_disagreement_are_saved(verify, monkeypatch):  # noqa: F811
    inputs = random_inputs()
    for generator in (None, seeded(4)):
        torch.rand(3, generator=generator)
        drawn_by = torch.default_generator if generator is None else generator
        expected = ops.select_triplets(*inputs, **BOTH, generator=drawn_by.clone_state())
        with monkeypatch.context() as context:
            break_output(context, "select_triplets", 0, lambda s: s + 0.1)
            with verify(), pytest.raises(hardmine.VerificationError) as caught:
                ops.select_triplets(*inputs, **BOTH, generator=generator)
        saved = torch.load(caught.value.path)
        assert saved["arguments"]["generator"] is None
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(saved["random_state"])
            again = ops.select_triplets(**saved["arguments"])
        assert_same_selection(again, expected)
        assert_same_selection(saved["outputs"]["selection"][:2], expected[:2])


# Modules


@pytest.mark.parametrize("name", ["TripletLoss", "SCTLoss"])
def test_modules_take_a_generator(name):
    module = getattr(losses, name)(**BOTH, generator=seeded(3))
    inputs = random_inputs(60, classes=3)
    first = [module(*inputs, return_selection=True)[1].positive_index for _ in range(2)]
    assert not torch.equal(*first)
    again = getattr(losses, name)(**BOTH, generator=seeded(3))
    assert_same_selection([again(*inputs, return_selection=True)[1].positive_index for _ in range(2)], first)
    # A copy goes on from where the original stands, with a generator of its own.
    assert not module.state_dict()
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        state = module.options["generator"].get_state()
        drawn = twin(*inputs, return_selection=True)[1]
        assert torch.equal(module.options["generator"].get_state(), state)
        expected = module(*inputs, return_selection=True)[1]
        assert_same_selection(drawn, expected)
        module.options["generator"].set_state(state)


def test_making_a_module_draws_nothing():
    generator, before = seeded(3), torch.get_rng_state()
    losses.SCTLoss(**BOTH, generator=generator)
    losses.SCTLoss(**BOTH)
    assert torch.equal(generator.get_state(), seeded(3).get_state())
    assert torch.equal(torch.get_rng_state(), before)
