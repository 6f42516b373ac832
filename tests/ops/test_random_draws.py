"""Which generator draws the numbers of random selections, and when: threads, compiled calls, verify."""

import copy
import pickle

import pytest
import torch

import hardmine
from hardmine import losses, ops
from random_selection_cases import BOTH, each_op, pick, with_and_without_refs
from support.comparisons import assert_bitwise_equal, assert_results_bitwise_equal, assert_same_selection
from support.inputs import Inputs, exact_inputs, random_inputs, seeded
from support.ops import SELECTED_LOSSES, SIMILARITIES
from support.processes import threads
from support.runs import run
from verification_cases import break_output

# Which generator draws, and when


@each_op
def test_generator_same_seed_repeats_draws(name):
    inputs = random_inputs(60, classes=3, refs=50)
    first, again = seeded(7), seeded(7)
    op = getattr(ops, name)
    results = [run(op, inputs, **BOTH, generator=g) for g in (first, first, again, again)]
    assert_results_bitwise_equal(results[0], results[2])
    assert_results_bitwise_equal(results[1], results[3])
    assert not torch.equal(results[0].selection[0], results[1].selection[0])
    assert not torch.equal(results[0].selection[1], results[1].selection[1])


@each_op
def test_generator_none_follows_manual_seed(name):
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
def test_generator_is_used_only_for_random_selections(name, generator):
    """Without a random selection nothing is drawn.

    With one and a given generator, the global generator draws nothing.
    """
    inputs = random_inputs()
    own = None if generator is None else seeded(generator)
    for options in (*([{}] if own is None else []), {"positive": "random"}, BOTH):
        before, own_before = torch.get_rng_state(), own and own.get_state()
        getattr(ops, name)(*inputs, **options, generator=own)
        assert torch.equal(torch.get_rng_state(), before) == (own is not None or not options)
        if own is not None:
            assert not torch.equal(own.get_state(), own_before)


def test_generator_is_unchanged_after_failing_call():
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="temperature"):
        ops.triplet_loss(*random_inputs(), **BOTH, temperature=0.0)
    with pytest.raises(ValueError, match="labels"):
        ops.select_triplets(random_inputs().embeddings, torch.zeros(3).long(), **BOTH)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.thinned(11)
@each_op
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("refs", [None, 2600], ids=["self", "refs"])
@pytest.mark.parametrize("more", [{}, {"duplicate_threshold": 0.3}, {"negative": "semihard"}], ids=str)
def test_random_selection_any_thread_count_is_bitwise_equal(name, similarity, refs, more):
    inputs = exact_inputs(similarity, 3000, 64, 40, refs)
    options = {**BOTH, "similarity": similarity, **more}
    with threads(1):
        expected = run(getattr(ops, name), inputs, **options)
    assert expected.grad.any()
    for count in (2, 3, 5):
        with threads(count):
            assert_results_bitwise_equal(run(getattr(ops, name), inputs, **options), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@each_op
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_random_selection_torch_compile_has_one_graph(name, backend):
    """One graph. aot_eager draws the numbers of eager mode; inductor draws others, which manual_seed fixes."""
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@each_op
def test_generator_under_torch_compile_equals_eager(name):
    """The graph breaks, and the draws equal those of eager mode."""
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
def test_verify_random_selection_draws_nothing(name, refs, similarity, verify):
    """Verify leaves the user's generators in the same state as without it, so the training continues identically."""
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
def test_verify_candidate_not_drawn_raises(name, which, verify, monkeypatch):
    """An op that rounds its numbers to halves picks valid candidates, but not all of them."""
    compiled = "select_triplets" if name == "select_triplets" else "triplet_loss"
    right = getattr(torch.ops.hardmine, compiled)

    def coarse(*arguments):
        arguments = list(arguments)
        arguments[6] = (arguments[6] * 2).floor() / 2
        return right(*arguments)

    monkeypatch.setattr(torch.ops.hardmine, compiled, coarse)
    message = f"{which}_index is not the drawn candidate for .* anchors, first at anchor"
    with verify(), pytest.raises(hardmine.VerificationError, match=message):
        getattr(ops, name)(*random_inputs(), **{"positive": "hardest", "negative": "hardest", which: "random"})


def test_verify_missing_or_extra_candidate_raises(verify, monkeypatch):
    inputs = random_inputs(20, classes=3)
    inputs.labels[0] = 100  # has no positive
    for position, anchor, wrong in ((2, 0, 5), (2, 1, -1), (3, 1, -1), (3, 1, 1)):
        with monkeypatch.context() as context:
            break_output(
                context, "select_triplets", position, lambda t, a=anchor, w=wrong: t.index_fill(0, torch.tensor([a]), w)
            )
            with verify(), pytest.raises(hardmine.VerificationError, match="is not the drawn candidate for 1 anchors"):
                ops.select_triplets(*inputs, **BOTH)


def rows_at_threshold() -> tuple[Inputs, float]:
    """Classes of 80, half of each being one row, and a threshold between its squared norms in float32 and float64."""
    row = random_inputs(1, 40, 1).embeddings
    rows = torch.cat([row.expand(120, -1), random_inputs(120, 40, 1, seed=1).embeddings])
    inputs = Inputs(rows, torch.arange(240) % 3)
    rounded = ops.knn(row, row, k=1, similarity="dot").similarity.item()
    exact = row.double().square().sum().item()
    assert rounded != exact
    return inputs, (rounded + exact) / 2


def test_verify_rounding_at_threshold_passes(verify, device):
    """The candidates differ between float32 and float64, and so do the counts by which numbers pick."""
    inputs, threshold = rows_at_threshold()
    with verify() as report:
        for seed in range(5):
            options = {**BOTH, "similarity": "dot", "duplicate_threshold": threshold}
            pick(ops.select_triplets, inputs.to(device), **options, seed=seed)
    assert report.checks == 5
    assert report.ops["select_triplets"].ties > 50, "of picks that no rounding moved, little can be said"


@pytest.mark.parametrize("wrong", [-1, 1], ids=["none where there are some", "one of another class"])
def test_verify_wrong_pick_beside_threshold_raises(wrong, verify, monkeypatch):
    inputs, threshold = rows_at_threshold()
    assert inputs.labels[0] != inputs.labels[1]
    break_output(monkeypatch, "select_triplets", 2, lambda t: t.index_fill(0, torch.tensor([0]), wrong))
    with verify(), pytest.raises(hardmine.VerificationError, match="is not the drawn candidate for 1 anchors"):
        ops.select_triplets(*inputs, **BOTH, similarity="dot", duplicate_threshold=threshold)


def test_verify_disagreement_saves_random_state(verify, monkeypatch):
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
def test_module_generator_repeats_draws(name):
    module = getattr(losses, name)(**BOTH, generator=seeded(3))
    inputs = random_inputs(60, classes=3)
    first = [module(*inputs, return_selection=True)[1].positive_index for _ in range(2)]
    assert not torch.equal(*first)
    again = getattr(losses, name)(**BOTH, generator=seeded(3))
    assert_same_selection([again(*inputs, return_selection=True)[1].positive_index for _ in range(2)], first)
    # A copy continues from the state of the original, with its own generator.
    assert not module.state_dict()
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        state = module.options["generator"].get_state()
        drawn = twin(*inputs, return_selection=True)[1]
        assert torch.equal(module.options["generator"].get_state(), state)
        expected = module(*inputs, return_selection=True)[1]
        assert_same_selection(drawn, expected)
        module.options["generator"].set_state(state)


def test_module_init_draws_nothing():
    generator, before = seeded(3), torch.get_rng_state()
    losses.SCTLoss(**BOTH, generator=generator)
    losses.SCTLoss(**BOTH)
    assert torch.equal(generator.get_state(), seeded(3).get_state())
    assert torch.equal(torch.get_rng_state(), before)
