"""Selection: which pair wins, worked by hand and against the reference, bit for bit where nothing is rounded."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardmine import ops, reference
from support.comparisons import assert_as_accurate_as_plain_torch, assert_same_selection
from support.inputs import HAND_POINTS, Inputs, exact_inputs, random_inputs, seeded
from support.ops import FLOAT_DTYPES, SIMILARITIES
from support.processes import threads
from support.runs import effective_options, with_generator

pytestmark = pytest.mark.emulated

IMPLEMENTATIONS = pytest.mark.parametrize("select", [ops.select_triplets, reference.select_triplets], ids=["op", "ref"])
NONE = (-1, math.nan)

# Options, then (index, similarity) of each anchor's positive, then of its negative, read from the table at HAND_POINTS.
HAND_WORKED = {
    "easiest positive, hardest negative": (
        {},
        [(1, 0.6), (3, 0.8), (4, -0.8), (1, 0.8), (2, -0.8)],
        [(2, 0.8), (2, 0.96), (1, 0.96), (2, 0.6), (3, 0.0)],
    ),
    "hardest positive, easiest negative": (
        {"positive": "hardest", "negative": "easiest"},
        [(3, 0.0), (0, 0.6), (4, -0.8), (0, 0.0), (2, -0.8)],
        [(4, -1.0), (4, -0.6), (3, 0.6), (4, 0.0), (0, -1.0)],
    ),
    # Below 0.6, 0.8, -0.8, 0.8, -0.8: anchor 2 has negatives 0.8, 0.96 and 0.6, none of which is below -0.8.
    "semi-hard": (
        {"negative": "semihard"},
        [(1, 0.6), (3, 0.8), (4, -0.8), (1, 0.8), (2, -0.8)],
        [(4, -1.0), (4, -0.6), NONE, (2, 0.6), (0, -1.0)],
    ),
    # Below 0, 0.6, -0.8, 0, -0.8: anchor 3 has negatives 0.6 and 0, and 0 is not below its positive's 0.
    "semi-hard below the hardest positive": (
        {"positive": "hardest", "negative": "semihard"},
        [(3, 0.0), (0, 0.6), (4, -0.8), (0, 0.0), (2, -0.8)],
        [(4, -1.0), (4, -0.6), NONE, NONE, (0, -1.0)],
    ),
    "semi-hard with ties": (
        {"positive": "hardest", "negative": "semihard", "tie": "include"},
        [(3, 0.0), (0, 0.6), (4, -0.8), (0, 0.0), (2, -0.8)],
        [(4, -1.0), (4, -0.6), NONE, (4, 0.0), (0, -1.0)],
    ),
    "semi-hard, else hardest": (
        {"negative": "semihard", "semihard_fallback": "hardest"},
        [(1, 0.6), (3, 0.8), (4, -0.8), (1, 0.8), (2, -0.8)],
        [(4, -1.0), (4, -0.6), (1, 0.96), (2, 0.6), (0, -1.0)],
    ),
    "semi-hard, else easiest": (
        {"negative": "semihard", "semihard_fallback": "easiest"},
        [(1, 0.6), (3, 0.8), (4, -0.8), (1, 0.8), (2, -0.8)],
        [(4, -1.0), (4, -0.6), (3, 0.6), (2, 0.6), (0, -1.0)],
    ),
    # Also above 0.6 - 1.1, 0.8 - 1.1, ., 0.8 - 1.1, -0.8 - 1.1: the negatives of anchors 0 and 1 are too easy.
    "semi-hard within a margin": (
        {"negative": "semihard", "semihard_margin": 1.1},
        [(1, 0.6), (3, 0.8), (4, -0.8), (1, 0.8), (2, -0.8)],
        [NONE, NONE, NONE, (2, 0.6), (0, -1.0)],
    ),
    # Positives above 0.7 are dropped: 1 and 3 are too similar.
    "easiest positive that is no duplicate": (
        {"duplicate_threshold": 0.7},
        [(1, 0.6), (0, 0.6), (4, -0.8), (0, 0.0), (2, -0.8)],
        [(2, 0.8), (2, 0.96), (1, 0.96), (2, 0.6), (3, 0.0)],
    ),
    # Above 0.3: all positives of anchor 1 are dropped. Its hardest negative stays.
    "hardest positive that is no duplicate": (
        {"positive": "hardest", "duplicate_threshold": 0.3},
        [(3, 0.0), NONE, (4, -0.8), (0, 0.0), (2, -0.8)],
        [(2, 0.8), (2, 0.96), (1, 0.96), (2, 0.6), (3, 0.0)],
    ),
    "dot": (
        {"similarity": "dot"},
        [(1, 3.0), (3, 4.0), (4, -4.0), (1, 4.0), (2, -4.0)],
        [(2, 4.0), (2, 24.0), (1, 24.0), (2, 3.0), (3, 0.0)],
    ),
    "euclidean": (
        {"similarity": "euclidean"},
        [(3, -math.sqrt(2)), (3, -math.sqrt(18)), (4, -math.sqrt(34)), (0, -math.sqrt(2)), (2, -math.sqrt(34))],
        [(4, -2.0), (2, -math.sqrt(2)), (1, -math.sqrt(2)), (4, -math.sqrt(2)), (3, -math.sqrt(2))],
    ),
}


@IMPLEMENTATIONS
@pytest.mark.parametrize(("options", "positives", "negatives"), HAND_WORKED.values(), ids=HAND_WORKED)
def test_select_triplets_hand_worked_pairs_match(select, device, options, positives, negatives):
    selection = select(*HAND_POINTS.to(device), **options)
    assert selection.positive_index.tolist() == [index for index, _ in positives]
    assert selection.negative_index.tolist() == [index for index, _ in negatives]
    assert selection.positive_similarity.tolist() == pytest.approx([s for _, s in positives], abs=1e-6, nan_ok=True)
    assert selection.negative_similarity.tolist() == pytest.approx([s for _, s in negatives], abs=1e-6, nan_ok=True)


@IMPLEMENTATIONS
def test_select_triplets_hand_worked_pairs_with_refs_match(select, device):
    """Anchor (1, 0) of class 0 against the five points: point 0, a copy of the anchor, is now a positive."""
    anchors = Inputs(torch.tensor([[2.0, 0.0], [0.0, -1.0]]), torch.tensor([0, 7]), *HAND_POINTS[:2]).to(device)
    selection = select(*anchors)
    assert selection.positive_index.tolist() == [0, -1]  # no ref has class 7
    assert selection.negative_index.tolist() == [2, 0]  # (0, -1) has cosines 0, -0.8, -0.6, -1, 0
    assert selection.positive_similarity.tolist() == pytest.approx([1.0, math.nan], nan_ok=True)
    assert selection.negative_similarity.tolist() == pytest.approx([0.8, 0.0])


# Every rule, with limits that lie within the range of the similarities of exact_inputs
RULES = [
    {"positive": positive, "negative": negative}
    for positive in ("easiest", "hardest", "random")
    for negative in ("hardest", "easiest", "random")
] + [
    {"positive": positive, "negative": "semihard", "semihard_fallback": fallback, "tie": tie, "semihard_margin": margin}
    for positive in ("easiest", "hardest", "random")
    for fallback in (None, "hardest", "easiest")
    for tie in ("exclude", "include")
    for margin in (None, "limited")
]
SEMIHARD_MARGIN = {"cosine": 0.25, "dot": 2.0, "euclidean": 0.2}
# One threshold among the easiest positives, one among the hardest
DUPLICATE_THRESHOLDS = {"cosine": (0.25, -0.5), "dot": (6.0, -12.0), "euclidean": (-5.0, -9.0)}


def assert_matches_reference(inputs: Inputs, **options) -> None:
    """The op and its reference select exactly the same; random selections use the same numbers."""
    selections = (
        select(*inputs, **with_generator(options, inputs.embeddings.device))
        for select in (ops.select_triplets, reference.select_triplets)
    )
    assert_same_selection(*selections)


def rule_id(rule: dict) -> str:
    return "-".join(str(value) for value in rule.values())


@pytest.mark.thinned(7)
@pytest.mark.parametrize("refs", [None, 45], ids=["self", "refs"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("rule", RULES, ids=rule_id)
def test_select_triplets_small_integers_are_exact(rule, similarity, refs, device):
    inputs = exact_inputs(similarity, refs=refs).to(device)
    if rule.get("semihard_margin"):
        rule = {**rule, "semihard_margin": SEMIHARD_MARGIN[similarity]}
    for threshold in (None, *DUPLICATE_THRESHOLDS[similarity]):
        options = {**rule, "similarity": similarity, "duplicate_threshold": threshold}
        assert_matches_reference(inputs, **options)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_exact_inputs_every_option_changes_selection(similarity):
    """The test above would prove little if its options changed nothing."""
    inputs = exact_inputs(similarity)

    def choices(of, **options):
        return reference.select_triplets(*inputs, similarity=similarity, **options)[of].tolist()

    for positive, threshold in zip(("easiest", "hardest"), DUPLICATE_THRESHOLDS[similarity], strict=True):
        rule = {"positive": positive}
        assert choices(0, **rule) != choices(0, **rule, duplicate_threshold=threshold)
        rule["negative"] = "semihard"
        assert choices(1, **rule) != choices(1, **rule, tie="include")
        assert choices(1, **rule) != choices(1, **rule, semihard_margin=SEMIHARD_MARGIN[similarity])
        rule["semihard_margin"] = SEMIHARD_MARGIN[similarity]
        by_fallback = [choices(1, **rule, semihard_fallback=fallback) for fallback in (None, "hardest", "easiest")]
        assert -1 in by_fallback[0]
        assert by_fallback[0] != by_fallback[1] != by_fallback[2] != by_fallback[0]


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("refs", [None, 45], ids=["self", "refs"])
def test_select_triplets_any_dtype_is_exact(dtype, similarity, refs, device):
    inputs = exact_inputs(similarity, refs=refs, dtype=dtype).to(device)
    for negative in ("hardest", "semihard"):
        selection = ops.select_triplets(*inputs, negative=negative, similarity=similarity)
        assert_same_selection(selection, reference.select_triplets(*inputs, negative=negative, similarity=similarity))
        assert selection.positive_similarity.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


# Ties


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("refs", [None, 700], ids=["self", "refs"])
@pytest.mark.parametrize("thread_count", [1, 3])
def test_select_triplets_ties_go_to_lowest_index(similarity, refs, thread_count, device):
    """All rows are equal, so every candidate ties, regardless of its tile, block and class."""
    generator = seeded(1)
    x, labels = torch.full((613, 16), 0.5), torch.randint(5, (613,), generator=generator)
    inputs, columns = Inputs(x, labels), labels
    if refs:
        columns = torch.randint(5, (refs,), generator=generator)
        inputs = Inputs(x, labels, x[:1].expand(refs, -1), columns)
    candidates = labels[:, None] == columns
    negatives = (~candidates).int().argmax(1).tolist()  # the first True of every row
    positives = (candidates if refs else candidates.fill_diagonal_(False)).int().argmax(1).tolist()
    inputs = inputs.to(device)
    for positive, negative in itertools.product(("easiest", "hardest"), ("hardest", "easiest")):
        with threads(thread_count):
            selection = ops.select_triplets(*inputs, positive=positive, negative=negative, similarity=similarity)
        assert selection.positive_index.tolist() == positives
        assert selection.negative_index.tolist() == negatives


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("refs", [None, 500], ids=["self", "refs"])
@pytest.mark.parametrize("depth", [4, 16])
def test_select_triplets_duplicates_across_tiles_are_exact(similarity, refs, depth, device):
    """A depth of 4 leaves few distinct rows, so rows all over the matrix tie for most of the best."""
    inputs = exact_inputs(similarity, rows=613, depth=depth, classes=7, refs=refs, seed=5).to(device)
    for rule in (
        {},
        {"positive": "hardest", "negative": "easiest"},
        {"positive": "hardest", "negative": "semihard"},
        {"negative": "semihard", "tie": "include", "semihard_fallback": "easiest"},
        {"negative": "semihard", "duplicate_threshold": DUPLICATE_THRESHOLDS[similarity][0]},
        {"positive": "random", "negative": "random"},
        {"positive": "random", "negative": "random", "duplicate_threshold": DUPLICATE_THRESHOLDS[similarity][0]},
    ):
        options = {**rule, "similarity": similarity}
        assert_matches_reference(inputs, **options)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("positive", ["easiest", "random"])
def test_select_triplets_equal_rows_have_equal_similarity_anywhere(positive, similarity, dtype, device):
    """Each anchor lies between a row and its copy, so a symmetric pass meets one above the anchor and one below it."""
    generator = seeded(6)
    rows, anchors = torch.randn(2, 128, 24, generator=generator).to(dtype)
    numbers = torch.arange(128)
    # Each anchor shares its class with one row, its only positive; each copy is alone in its class.
    labels = torch.cat([numbers, numbers, numbers + 128])
    inputs = Inputs(torch.cat([rows, anchors, rows]), labels).to(device)
    of_anchors = slice(128, 256)
    selection = ops.select_triplets(*inputs, positive=positive, similarity=similarity)
    assert selection.positive_index[of_anchors].tolist() == numbers.tolist()
    negatives = selection.negative_index[of_anchors].cpu()
    copies = negatives >= 256
    assert torch.equal(negatives[copies], numbers[copies] + 256), "of equal rows the first is selected"
    selection = ops.select_triplets(*inputs, positive=positive, negative="semihard", similarity=similarity)
    assert not (selection.negative_index[of_anchors].cpu() == numbers + 256).any(), (
        "a copy of the positive ties with it"
    )


# Limits, tested at the last bit


def one_anchor(positives: list[float], negatives: list[float], dtype: torch.dtype) -> Inputs:
    """The anchor (1) among refs whose dot products with it are the given numbers."""
    refs = torch.tensor([*positives, *negatives], dtype=dtype)[:, None]
    labels = torch.tensor([0] * len(positives) + [1] * len(negatives))
    return Inputs(torch.ones(1, 1, dtype=dtype), torch.tensor([0]), refs, labels)


def beside(value: float, towards: float, dtype: torch.dtype) -> float:
    """The next number of ``dtype`` after ``value``.

    After 0 it is the next normal number, since subnormal numbers count as 0.
    """
    if value == 0:
        return math.copysign(torch.finfo(dtype).smallest_normal, towards)
    return torch.nextafter(torch.tensor(value, dtype=dtype), torch.tensor(towards, dtype=dtype)).item()


@IMPLEMENTATIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bound", [0.5, -0.5, 0.0])
def test_semihard_negative_just_below_positive_is_selected(select, dtype, bound, device):
    above, below = beside(bound, 1, dtype), beside(bound, -1, dtype)
    inputs = one_anchor([bound], [above, bound, below, -1.0], dtype).to(device)
    choose = {"similarity": "dot", "negative": "semihard"}
    assert select(*inputs, **choose).negative_index.item() == 3  # above, the same; below comes next
    assert select(*inputs, **choose, tie="include").negative_index.item() == 2


@IMPLEMENTATIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("tie", ["exclude", "include"])
def test_semihard_negative_just_above_margin_is_selected(select, dtype, tie, device):
    options = {"similarity": "dot", "negative": "semihard", "semihard_margin": 0.25, "tie": tie}
    at_margin, inside = 0.5, beside(0.5, 1, dtype)  # s_ap - margin = 0.75 - 0.25
    assert select(*one_anchor([0.75], [at_margin], dtype).to(device), **options).negative_index.item() == -1
    assert select(*one_anchor([0.75], [at_margin, inside], dtype).to(device), **options).negative_index.item() == 2


@IMPLEMENTATIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("positive", ["easiest", "hardest"])
def test_duplicate_threshold_keeps_positive_at_threshold(select, dtype, positive, device):
    threshold = torch.tensor(0.9999, dtype=dtype).item()
    above = beside(threshold, 2, dtype)
    options = {"similarity": "dot", "positive": positive, "duplicate_threshold": 0.9999}
    assert select(*one_anchor([above, threshold], [0.0], dtype).to(device), **options).positive_index.item() == 1
    assert select(*one_anchor([above], [0.0], dtype).to(device), **options).positive_index.item() == -1


@IMPLEMENTATIONS
def test_euclidean_limits_are_negative_distances(select, device):
    """Refs are at distances 1, 2, 3 (class 0) and 4, 5, 6 (class 1) from the anchor."""
    inputs = one_anchor([2.0, 3.0, 4.0], [5.0, 6.0, 7.0], torch.float32).to(device)
    options = {"similarity": "euclidean", "negative": "semihard"}
    assert select(*inputs, **options, duplicate_threshold=-2.0).positive_index.item() == 1
    assert select(*inputs, **options, duplicate_threshold=-3.5).positive_index.item() == -1
    assert select(*inputs, **options, positive="hardest", duplicate_threshold=-2.5).positive_index.item() == 2
    assert select(*inputs, **options).negative_index.item() == 3
    assert select(*inputs, **options, semihard_margin=3.5).negative_index.item() == 3  # -4 > -1 - 3.5
    assert select(*inputs, **options, semihard_margin=3.0).negative_index.item() == -1


@pytest.mark.parametrize("negative", [{"tie": "exclude"}, {"semihard_margin": 1.0}], ids=["tie", "margin"])
def test_semihard_ties_at_zero_ignore_flushed_denormals(negative):
    """Orthogonal rows tie at 0. The next number below 0 is subnormal; with those flushed, 0 is still not below 0."""
    inputs = Inputs(torch.eye(4), torch.tensor([0, 0, 1, 1]))
    torch.set_flush_denormal(True)
    try:
        selection = ops.select_triplets(*inputs, negative="semihard", **negative)
    finally:
        torch.set_flush_denormal(False)
    assert selection.positive_index.tolist() == [1, 0, 3, 2]
    assert selection.negative_index.tolist() == [-1] * 4


# Accuracy, and random inputs


@pytest.mark.thinned(5)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES[:1] + FLOAT_DTYPES[2:], ids=str)
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("refs", [None, 150], ids=["self", "refs"])
@pytest.mark.parametrize("depth", [24, 700])
def test_select_triplets_error_is_at_most_twice_plain_torch(dtype, similarity, refs, depth, device):
    inputs = random_inputs(200, depth, refs=refs, dtype=dtype, seed=depth).to(device)
    exact = assert_as_accurate_as_plain_torch("select_triplets", inputs, similarity=similarity)
    assert exact.grad.any(1).all(), "every anchor has a gradient"


@st.composite
def selection_problems(draw):
    similarity = draw(st.sampled_from(SIMILARITIES))
    inputs = exact_inputs(
        similarity,
        rows=draw(st.integers(0, 40)),
        depth=draw(st.sampled_from([4, 16]) if similarity == "cosine" else st.integers(1, 20)),
        classes=draw(st.integers(1, 6)),
        refs=draw(st.none() | st.integers(0, 40)),
        dtype=draw(st.sampled_from(FLOAT_DTYPES)),
        seed=draw(st.integers(0, 10_000)),
    )
    options = {
        "similarity": similarity,
        "positive": draw(st.sampled_from(["easiest", "hardest", "random"])),
        "negative": draw(st.sampled_from(["hardest", "easiest", "semihard", "random"])),
        "semihard_fallback": draw(st.sampled_from([None, "hardest", "easiest"])),
        "tie": draw(st.sampled_from(["exclude", "include"])),
        "semihard_margin": draw(st.none() | st.sampled_from([0.25, 1.0, 3.0])),
        "duplicate_threshold": draw(st.none() | st.sampled_from([-2.0, -0.5, 0.0, 0.5, 3.0])),
    }
    return inputs, effective_options(options)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(selection_problems())
def test_select_triplets_random_inputs_and_options_are_exact(problem):
    inputs, options = problem
    assert_matches_reference(inputs, **options)
