"""The SCT loss: its presets at every boundary, worked by hand, and against the reference."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardmine import ops, reference
from support.comparisons import (
    assert_as_accurate_as_plain_torch,
    assert_bitwise_equal,
    assert_results_bitwise_equal,
    assert_results_close,
)
from support.inputs import HAND_POINTS, anchors_with, random_inputs
from support.ops import PRESETS, REDUCTIONS, SIMILARITIES
from support.runs import effective_options, run, run_both

pytestmark = pytest.mark.emulated

IMPLEMENTATIONS = pytest.mark.parametrize("loss", [ops.sct_loss, reference.sct_loss], ids=["op", "ref"])
each_preset = pytest.mark.parametrize("preset", PRESETS)


def nca(s_ap: float, s_an: float) -> float:
    """softplus((s_an - s_ap) / 0.1)"""
    return math.log1p(math.exp((s_an - s_ap) / 0.1))


@IMPLEMENTATIONS
@pytest.mark.parametrize(
    ("preset", "expected"),
    {
        # s_ap = 0.6 0.8 -0.8 0.8 -0.8, s_an = 0.8 0.96 0.96 0.6 0: hard, easy = NCA
        # all but anchor 3 are hard: 0.5 * (0.8 + 0.96 + 0.96 + 0) = 1.36, softplus(-2) = 0.126928; of 5 anchors
        "paper": (1.36 + 0.126928) / 5,
        # anchor 4, with s_an = 0, is not above 0.5, so it is easy: softplus(8) = 8.000335; each part is divided by its
        # own count
        "code2020": 1.36 / 3 + (0.126928 + 8.000335) / 2,
        # as in the paper: where s_an is above 0.8, s_ap is not above s_an
        "code2021": (1.36 + 0.126928) / 5,
    }.items(),
)
def test_sct_loss_hand_worked_table_matches(loss, device, preset, expected):
    assert loss(*HAND_POINTS.to(device), preset=preset, lam=0.5).item() == pytest.approx(expected, abs=2e-6)


# s_ap, s_an, and the part to which each preset assigns the anchor
BOUNDARIES = [
    # s_ap, s_an      paper  code2020  code2021
    (0.75, 0.25, "easy", "easy", "easy"),
    (0.25, 0.75, "hard", "hard", "hard"),
    (0.5, 0.5, "easy", "easy", "none"),  # a tie
    (0.25, 0.5, "hard", "easy", "hard"),  # at the cutoff of code2020, not above it
    (0.95, 0.875, "easy", "easy", "hard"),  # above the cutoff of code2021
    (0.95, 0.8, "easy", "easy", "none"),  # at the cutoff of code2021
    (0.875, 0.875, "easy", "easy", "hard"),  # a tie above both cutoffs
    (0.7, 0.8, "hard", "hard", "hard"),  # above s_ap, at the cutoff of code2021
]


@IMPLEMENTATIONS
@each_preset
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sct_loss_presets_at_boundaries_match(loss, preset, dtype, device):
    column = 2 + PRESETS.index(preset)
    values = {"easy": [], "hard": [], "none": []}
    each = []
    for row in BOUNDARIES:
        value = {"easy": nca(*row[:2]), "hard": 0.3 * row[1], "none": 0.0}[row[column]]
        values[row[column]].append(value)
        each.append(value)
    assert values["easy"]
    assert values["hard"]

    inputs = anchors_with([row[0] for row in BOUNDARIES], [row[1] for row in BOUNDARIES], dtype).to(device)
    options = {"preset": preset, "similarity": "dot", "lam": 0.3}
    assert loss(*inputs, **options, reduction="none").tolist() == pytest.approx(each, abs=1e-6)
    assert loss(*inputs, **options, reduction="sum").item() == pytest.approx(sum(each), abs=2e-6)
    easy, hard = (sum(values[part]) for part in ("easy", "hard"))
    if preset == "code2020":
        mean = easy / len(values["easy"]) + hard / len(values["hard"])
    else:
        mean = (easy + hard) / (len(values["easy"]) + len(values["hard"]))
    assert loss(*inputs, **options).item() == pytest.approx(mean, abs=1e-6)


@each_preset
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_sct_loss_gradients_at_boundaries_match_reference(preset, reduction, device):
    """The subgradients equal those of the reference, which are PyTorch's, for every part and every mean."""
    inputs = anchors_with([row[0] for row in BOUNDARIES], [row[1] for row in BOUNDARIES], torch.float64).to(device)
    options = {"preset": preset, "similarity": "dot", "lam": 0.3, "reduction": reduction}
    result, expected = run_both("sct_loss", inputs, **options)
    assert_results_close(result, expected, 1e-14)
    of_positives = result.ref_grad[: len(BOUNDARIES)].any(1).tolist()
    assert of_positives == [row[2 + PRESETS.index(preset)] == "easy" for row in BOUNDARIES]


@pytest.mark.parametrize("part", ["easy", "hard"])
@each_preset
def test_sct_loss_only_easy_or_hard_triplets_is_finite(preset, part, device):
    """The other mean is empty, and must be 0 rather than NaN."""
    s_ap, s_an = ([0.9, 0.75], [0.25, 0.5]) if part == "easy" else ([0.25, 0.5], [0.9, 0.75])
    inputs = anchors_with(s_ap, s_an).to(device)
    expected = (nca(0.9, 0.25) + nca(0.75, 0.5)) / 2 if part == "easy" else (0.9 + 0.75) / 2
    result = run(ops.sct_loss, inputs, preset=preset, similarity="dot")
    assert result.loss.item() == pytest.approx(expected, abs=1e-6)
    assert result.grad.isfinite().all()
    assert result.grad.any()


def test_sct_loss_hard_triplet_gives_positive_no_gradient(device):
    """The hinge gives the positive a gradient, so the pair exists."""
    inputs = random_inputs(40, 8, 5, refs=60, spread=1.5).to(device)
    result = run(ops.sct_loss, inputs)
    positive_index, negative_index, s_ap, s_an = result.selection
    hard = s_an > s_ap
    assert 5 < hard.sum() < 35
    reached = torch.cat([negative_index, positive_index[~hard]]).unique()
    untouched = positive_index[hard][~torch.isin(positive_index[hard], reached)]
    assert len(untouched) > 0
    assert not result.ref_grad[untouched].any()
    assert result.ref_grad[reached].any(1).all()
    hinge = run(ops.triplet_loss, inputs, negative="hardest", term="hinge", margin=4.0)
    assert hinge.ref_grad[untouched].any(1).all()


@IMPLEMENTATIONS
def test_sct_loss_code_presets_drop_near_duplicates(loss, device):
    """The easiest positive has s_ap = 1, above 0.9999; the next has 0.25. The negative has 0.75."""
    labels, ref_labels = torch.tensor([0]), torch.tensor([0, 0, 1])
    inputs = torch.ones(1, 1), labels, torch.tensor([[1.0], [0.25], [0.75]]), ref_labels
    inputs = [t.to(device) for t in inputs]

    def value(**options):
        return loss(*inputs, similarity="dot", **options).item()

    easy, hard = nca(1.0, 0.75), 0.75
    assert value(preset="paper") == pytest.approx(easy)
    assert value(preset="paper", duplicate_threshold=0.9999) == pytest.approx(hard)
    for preset in ("code2020", "code2021"):
        assert value(preset=preset) == pytest.approx(hard)
        assert value(preset=preset, duplicate_threshold=math.inf) == pytest.approx(easy)
        assert value(preset=preset, duplicate_threshold=0.2) == 0.0  # no positive is left


@IMPLEMENTATIONS
def test_sct_loss_hard_cutoff_option_replaces_default(loss, device):
    inputs = anchors_with([0.25, 0.75], [0.375, 0.5]).to(device)

    def values(**options):
        return loss(*inputs, similarity="dot", reduction="none", **options).tolist()

    easy, hard = [nca(0.25, 0.375), nca(0.75, 0.5)], [0.375, 0.5]
    assert values(preset="code2020") == pytest.approx(easy)
    assert values(preset="code2020", hard_cutoff=0.25) == pytest.approx([hard[0], easy[1]])
    assert values(preset="code2020", hard_cutoff=0.0) == pytest.approx([hard[0], easy[1]])
    assert values(preset="code2021") == pytest.approx([hard[0], easy[1]])
    assert values(preset="code2021", hard_cutoff=0.45) == pytest.approx(hard)
    assert values(preset="code2021", hard_cutoff=0.5) == pytest.approx([hard[0], 0.0])


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_sct_loss_paper_preset_equals_triplet_loss_term(similarity, reduction, device):
    inputs = random_inputs(refs=30).to(device)
    options = {"similarity": similarity, "reduction": reduction, "lam": 0.4, "temperature": 0.3, "negative": "hardest"}
    assert_results_bitwise_equal(
        run(ops.sct_loss, inputs, **options), run(ops.triplet_loss, inputs, term="sct", **options)
    )


def test_sct_loss_return_selection_equals_select_triplets(device):
    inputs = random_inputs(refs=30).to(device)
    loss, selection = ops.sct_loss(*inputs, preset="code2020", duplicate_threshold=0.7, return_selection=True)
    assert isinstance(selection, ops.Selection)
    assert_bitwise_equal(loss, ops.sct_loss(*inputs, preset="code2020", duplicate_threshold=0.7))
    for actual, expected in zip(selection, ops.select_triplets(*inputs, duplicate_threshold=0.7), strict=True):
        assert_bitwise_equal(actual, expected)


@pytest.mark.thinned(7)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("refs", [None, 150], ids=["self", "refs"])
@each_preset
def test_sct_loss_error_is_at_most_twice_plain_torch(dtype, similarity, refs, preset, device):
    inputs = random_inputs(200, 40, refs=refs, dtype=dtype, spread=2.5).to(device)
    options = {"similarity": similarity, "preset": preset, "duplicate_threshold": math.inf, "reduction": "none"}
    exact = assert_as_accurate_as_plain_torch("sct_loss", inputs, **options)
    hard = exact.selection[3] > exact.selection[2]
    assert 20 < hard.sum() < 180
    assert exact.grad.any(1).sum() > 60


@st.composite
def sct_problems(draw):
    inputs = random_inputs(
        rows=draw(st.integers(0, 30)),
        depth=draw(st.integers(1, 20)),
        classes=draw(st.integers(1, 6)),
        refs=draw(st.none() | st.integers(0, 30)),
        spread=draw(st.sampled_from([0.3, 1.0])),
        dtype=torch.float64,
        seed=draw(st.integers(0, 10_000)),
    )
    preset = draw(st.sampled_from(PRESETS))
    options = {
        "preset": preset,
        "hard_cutoff": None if preset == "paper" else draw(st.none() | st.sampled_from([-0.2, 0.37])),
        "similarity": draw(st.sampled_from(SIMILARITIES)),
        "positive": draw(st.sampled_from(["easiest", "hardest"])),
        "negative": draw(st.sampled_from(["hardest", "easiest", "semihard"])),
        "temperature": draw(st.sampled_from([0.05, 1.0])),
        "lam": draw(st.sampled_from([0.1, 1.0])),
        "reduction": draw(st.sampled_from([*REDUCTIONS, "mean_active"])),
        "semihard_fallback": draw(st.sampled_from([None, "hardest", "easiest"])),
        "tie": draw(st.sampled_from(["exclude", "include"])),
        "semihard_margin": draw(st.none() | st.just(0.4)),
        "duplicate_threshold": draw(st.none() | st.sampled_from([-1.3, 0.8, math.inf])),
        "min_similarity": draw(st.none() | st.sampled_from([-1.7, 0.15])),
    }
    return inputs, effective_options(options)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(sct_problems())
def test_sct_loss_random_inputs_and_options_match_reference(problem):
    inputs, options = problem
    assert_results_close(*run_both("sct_loss", inputs, **options), 1e-10)


def test_sct_loss_code_presets_include_semihard_ties():
    """s_ap = s_an = 0.6 for anchor 0: semi-hard in the presets of the code, not in the preset of the paper."""
    embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])
    labels = torch.tensor([0, 0, 1])
    for implementation in (ops.sct_loss, reference.sct_loss):
        chosen = {
            preset: implementation(embeddings, labels, preset=preset, negative="semihard", return_selection=True)[1]
            for preset in PRESETS
        }
        assert chosen["paper"].negative_index[0] == -1
        assert chosen["code2020"].negative_index[0] == 2
        assert chosen["code2021"].negative_index[0] == 2
