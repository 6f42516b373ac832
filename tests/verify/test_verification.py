"""hardmine.verify: it finds every kind of wrong result, raises no false alarm, and does not disturb the training."""

import math

import pytest
import torch

import hardmine
from hardmine import ops
from support.inputs import HAND_POINTS, Inputs, exact_inputs, random_inputs
from support.ops import (
    FLOAT_DTYPES,
    OPS,
    PRESETS,
    REDUCTIONS,
    SELECTED_LOSSES,
    SELECTING_OPS,
    TERMS,
    each_of,
    each_with_similarity,
    selection_options,
)
from support.runs import run
from verification_cases import WRONG_GRADIENTS, at_anchor, break_output

each_op = each_of(SELECTING_OPS)
with_and_without_refs = pytest.mark.parametrize("refs", [None, 30], ids=["self", "refs"])


def compiled(name: str) -> str:
    """The compiled op that the Python wrapper of this name calls."""
    return "select_triplets" if name == "select_triplets" else "triplet_loss"


# No false alarms


@pytest.mark.thinned(5)
@each_with_similarity(OPS)
@with_and_without_refs
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_verify_correct_results_of_every_dtype_pass(name, refs, dtype, similarity, verify):
    with verify() as report:
        for seed in range(3):
            run(getattr(ops, name), random_inputs(40, 20, refs=refs, dtype=dtype, seed=seed), similarity=similarity)
        run(getattr(ops, name), exact_inputs(similarity, refs=refs, dtype=dtype), similarity=similarity)
    assert report.checks == 4
    assert report.largest_deviation < {torch.float64: 1e-13, torch.float32: 1e-5}.get(dtype, 0.02)


@pytest.mark.slow
@with_and_without_refs
def test_verify_correct_results_of_every_option_pass(refs, verify):
    inputs = random_inputs(refs=refs)
    with verify() as report:
        for options in selection_options():
            ops.select_triplets(*inputs, **options)
            for reduction in REDUCTIONS:
                for term in TERMS:
                    ops.triplet_loss(*inputs, **options, term=term, reduction=reduction, min_similarity=-0.3)
                for preset in PRESETS:
                    ops.sct_loss(*inputs, **options, preset=preset, reduction=reduction)
    assert report.checks == len(selection_options()) * (1 + len(REDUCTIONS) * (len(TERMS) + len(PRESETS)))


def edge_cases() -> dict[str, Inputs]:
    x, labels, refs, ref_labels = random_inputs(24, 5, 3, 30)
    cases = {
        "no rows": Inputs(x[:0], labels[:0]),
        "one row": Inputs(x[:1], labels[:1]),
        "two rows": Inputs(x[:2], labels[:2]),
        "no rows, refs": Inputs(x[:0], labels[:0], refs, ref_labels),
        "no refs": Inputs(x, labels, refs[:0], ref_labels[:0]),
        "refs of other classes": Inputs(x, labels, refs, ref_labels + 100),
        "one class": Inputs(x, torch.zeros_like(labels)),
        "all distinct": Inputs(x, torch.arange(24)),
        "zeros": Inputs(torch.zeros_like(x), labels),
        "other integers": Inputs(x, labels.int(), refs, ref_labels.short()),
        # Collapsed embeddings: cosines of 1, whose gradients cancel out except for rounding errors
        "equal rows": Inputs(x[:1].expand(24, 5), labels),
        "copies as refs": Inputs(x, labels, x, labels + 100),
        "almost equal rows": Inputs(x[:1] + 1e-6 * x, labels),
    }
    for bad in (math.nan, math.inf):
        for rows in ("embeddings", "ref_embeddings"):
            case = Inputs(x.clone(), labels, refs.clone(), ref_labels)
            getattr(case, rows)[3, 2] = bad
            cases[f"{bad} in {rows}"] = case
    return cases


@pytest.mark.thinned(7)
@each_with_similarity(OPS)
@pytest.mark.parametrize("case", edge_cases())
def test_verify_correct_results_of_edge_cases_pass(name, similarity, case, verify):
    with verify() as report:
        run(getattr(ops, name), edge_cases()[case], similarity=similarity)
    assert report.checks == 1


# Wrong results


POSITIVE_SIMILARITY, NEGATIVE_SIMILARITY, POSITIVE_INDEX, NEGATIVE_INDEX = range(-4, 0)

# Anchor 0 of HAND_POINTS has positives 1 and 3, the first more similar, and negatives 2 and 4.
WRONG_INDICES = {
    # the labels, which pair is wrong, and the index that the op returns
    "no positive": ([0, 0, 1, 0, 1], "positive", -1),
    "a worse positive": ([0, 0, 1, 0, 1], "positive", 3),
    "a positive of another class": ([0, 0, 1, 0, 1], "positive", 2),
    "itself": ([0, 0, 1, 0, 1], "positive", 0),
    "a positive where there is none": ([7, 0, 1, 0, 1], "positive", 1),
    "no negative": ([0, 0, 1, 0, 1], "negative", -1),
    "a worse negative": ([0, 0, 1, 0, 1], "negative", 4),
    "a negative of its class": ([0, 0, 1, 0, 1], "negative", 1),
    "a negative where there is none": ([0, 0, 0, 0, 0], "negative", 1),
}


@each_op
@pytest.mark.parametrize("among", ["self", "refs"])
@pytest.mark.parametrize(("labels", "which", "index"), WRONG_INDICES.values(), ids=WRONG_INDICES)
def test_verify_wrong_index_raises(name, among, labels, which, index, verify, monkeypatch):
    labels = torch.tensor(labels)
    inputs = Inputs(HAND_POINTS.embeddings, labels)
    if among == "refs":  # ref 0 is not a copy of the anchor, but its worst positive
        refs = HAND_POINTS.embeddings.clone()
        refs[0] = torch.tensor([-5.0, -1.0])
        inputs = Inputs(inputs.embeddings[:1], labels[:1], refs, torch.cat([torch.tensor([0]), labels[1:]]))
    position = POSITIVE_INDEX if which == "positive" else NEGATIVE_INDEX
    break_output(monkeypatch, compiled(name), position, at_anchor(index))
    message = f"{which}_index is not the best candidate for 1 anchors, first at anchor 0: got {index}"
    with verify(), pytest.raises(hardmine.VerificationError, match=message):
        getattr(ops, name)(*inputs, negative="hardest")


SEMIHARD = {"positive": "hardest", "negative": "semihard"}  # some anchors have no semi-hard negative


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (SEMIHARD, {**SEMIHARD, "negative": "hardest"}),
        (SEMIHARD, {**SEMIHARD, "semihard_fallback": "easiest"}),
        ({**SEMIHARD, "semihard_fallback": "easiest"}, SEMIHARD),
        ({**SEMIHARD, "semihard_fallback": "easiest"}, {**SEMIHARD, "semihard_fallback": "hardest"}),
        ({**SEMIHARD, "semihard_margin": 0.1}, SEMIHARD),
        ({"negative": "hardest"}, {"negative": "easiest"}),
        ({"positive": "hardest"}, {"positive": "easiest"}),
        ({"duplicate_threshold": 0.4}, {}),
        ({"similarity": "dot"}, {"similarity": "euclidean"}),
    ],
    ids=str,
)
@with_and_without_refs
def test_verify_other_selection_rule_raises(options, wrong, refs, verify, monkeypatch):
    """The op is made to follow the rule ``wrong``: it receives the arguments of that call."""
    inputs = random_inputs(refs=refs, spread=1.2)
    right, calls = torch.ops.hardmine.select_triplets, []

    def record(*arguments):
        calls.append(arguments)
        return right(*arguments)

    monkeypatch.setattr(torch.ops.hardmine, "select_triplets", record)
    ops.select_triplets(*inputs, **wrong)
    monkeypatch.setattr(torch.ops.hardmine, "select_triplets", lambda *given: right(*given[:4], *calls[0][4:]))
    with verify(), pytest.raises(hardmine.VerificationError, match="_index is not the best candidate"):
        ops.select_triplets(*inputs, **options)


@each_op
@pytest.mark.parametrize("which", ["positive", "negative"])
@pytest.mark.parametrize("error", [1e-3, -1e-3, math.nan])
def test_verify_wrong_similarity_raises(name, which, error, verify, monkeypatch):
    position = POSITIVE_SIMILARITY if which == "positive" else NEGATIVE_SIMILARITY
    break_output(monkeypatch, compiled(name), position, at_anchor(lambda s: s + error, 7))
    message = f"{which}_similarity (deviates by|must be NaN exactly)"
    with verify(), pytest.raises(hardmine.VerificationError, match=message):
        getattr(ops, name)(*random_inputs(), negative="hardest")


@pytest.mark.parametrize("name", SELECTED_LOSSES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("factor", [1.001, 0.0, math.nan])
def test_verify_wrong_loss_raises(name, reduction, factor, verify, monkeypatch):
    break_output(monkeypatch, "triplet_loss", 0, lambda loss: loss * factor)
    with verify(), pytest.raises(hardmine.VerificationError, match="the loss deviates by"):
        getattr(ops, name)(*random_inputs(spread=1.5), negative="hardest", reduction=reduction)


def test_verify_finite_loss_of_nonfinite_input_raises(verify, monkeypatch):
    inputs = random_inputs()
    inputs.embeddings[3, 3] = math.inf
    break_output(monkeypatch, "triplet_loss", 0, lambda loss: loss.nan_to_num(1.0))
    with verify(), pytest.raises(hardmine.VerificationError, match="must be NaN where an embedding is not finite"):
        ops.triplet_loss(*inputs)


@pytest.mark.thinned(5)
@each_op
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("of", ["embeddings", "refs"])
@pytest.mark.parametrize("change", WRONG_GRADIENTS.values(), ids=WRONG_GRADIENTS)
def test_verify_wrong_gradient_raises(name, reduction, of, change, verify, monkeypatch):
    break_output(monkeypatch, f"{compiled(name)}_backward", ["embeddings", "refs"].index(of), change)
    options = {"reduction": reduction} if name in SELECTED_LOSSES else {}
    with verify(), pytest.raises(hardmine.VerificationError, match="the gradient deviates by"):
        getattr(ops, name)(*random_inputs(20, refs=20, spread=2.0), negative="hardest", **options)


# Ties and tolerances


def test_verify_ties_pass_and_are_counted(verify, monkeypatch):
    """Verify accepts an op that takes the last of equal candidates. This op sees the refs in reverse order."""
    inputs = exact_inputs("dot", refs=30)
    right = torch.ops.hardmine.select_triplets

    def last_of_ties(x, labels, refs, ref_labels, *options):
        *similarities, positive, negative = right(x, labels, refs.flip(0), ref_labels.flip(0), *options)
        return *similarities, 29 - positive, 29 - negative

    first = ops.select_triplets(*inputs, similarity="dot")
    with verify() as report:
        ops.select_triplets(*inputs, similarity="dot")
        assert report.ops["select_triplets"].ties == 0
        monkeypatch.setattr(torch.ops.hardmine, "select_triplets", last_of_ties)
        last = ops.select_triplets(*inputs, similarity="dot")
    ties = sum(int((a != b).sum()) for a, b in zip(first[:2], last[:2], strict=True))
    assert ties > 5
    assert report.ops["select_triplets"].ties == ties
    assert f"selections that differ by a tie: {ties} of {2 * 2 * 61}" in report.summary()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str)
def test_verify_tolerance_depends_on_dtype(dtype, tolerance, verify, monkeypatch):
    inputs = random_inputs(dtype=dtype)
    with monkeypatch.context() as context:
        break_output(context, "select_triplets", NEGATIVE_SIMILARITY, at_anchor(lambda s: s + tolerance / 2, 7))
        with verify() as report:
            ops.select_triplets(*inputs)
    assert report.largest_deviation == pytest.approx(tolerance / 2, rel=0.2)
    break_output(monkeypatch, "select_triplets", NEGATIVE_SIMILARITY, at_anchor(lambda s: s + tolerance * 2, 7))
    with verify(), pytest.raises(hardmine.VerificationError, match="negative_similarity deviates by"):
        ops.select_triplets(*inputs)


def test_verify_tolerance_option_replaces_default(verify, monkeypatch):
    break_output(monkeypatch, "select_triplets", POSITIVE_SIMILARITY, at_anchor(lambda s: s + 1e-3, 7))
    with verify(tolerance=1e-2) as report:
        ops.select_triplets(*random_inputs())
    assert report.largest_deviation == pytest.approx(1e-3, rel=0.01)
    with verify(tolerance=1e-4), pytest.raises(hardmine.VerificationError):
        ops.select_triplets(*random_inputs())
