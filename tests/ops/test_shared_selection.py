"""Selections and triplet losses whose work is shared in parts have the bits of the op without parts."""

import re

import pytest
import torch

from hardmine import ops
from hardmine._options import resolve_options
from hardmine.ops._arguments import NEGATIVES, check_loss, check_selection
from hardmine.ops._shared_selection import Rows, select_in_parts
from support.comparisons import assert_bitwise_equal
from support.fake_ranks import run_shares
from support.inputs import exact_inputs, labels_of_sizes, random_ids, random_inputs, seeded
from support.ops import SIMILARITIES, selection_options

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

PARTS = (1, 2, 3, 5, 64)
RULES = [
    *(options for options in selection_options() if "random" not in options.values()),
    {"positive": "hardest", "negative": "semihard", "semihard_fallback": "hardest", "duplicate_threshold": 0.5},
]
SELECTION = (
    "positive",
    "negative",
    "similarity",
    "duplicate_threshold",
    "semihard_fallback",
    "tie",
    "semihard_margin",
    "generator",
)


def codes(inputs, **options):
    """The options of a selection in the order of the compiled ops' schemas."""
    defaults = dict.fromkeys(SELECTION) | {"positive": "easiest", "negative": "hardest", "similarity": "cosine"}
    return check_selection(inputs.embeddings, resolve_options("select_triplets", defaults | options))


def shared_words(inputs, parts, ids=None, **options):
    """The merged words of each rank."""
    selection = codes(inputs, **options)
    return run_shares(parts, lambda shares: select_in_parts(Rows(*inputs[:2], ids), selection, shares))


def check_shared(inputs, parts, ids=None, **options):
    """Every rank has the bits of select_triplets, which are returned."""
    expected = ops.select_triplets(inputs.embeddings, inputs.labels, ids=ids, **options)
    similarity, positive, negative, fallback, *_ = codes(inputs, **options)
    words = shared_words(inputs, parts, ids, **options)
    for rank_words in words:
        assert torch.equal(rank_words, words[0])
    merged = torch.ops.hardmine.selection_of_parts(words[0], similarity, positive, negative, fallback)
    s_ap, s_an, p_index, n_index = merged
    for actual, wanted in zip((p_index, n_index, s_ap, s_an), expected, strict=True):
        assert_bitwise_equal(actual, wanted)
    return expected


@pytest.mark.thinned(13)
@pytest.mark.parametrize("options", RULES, ids=str)
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("parts", PARTS)
def test_select_in_parts_any_rule_matches_select_triplets(parts, dtype, similarity, options):
    inputs = random_inputs(700, 9, 12, spread=1.5, dtype=dtype)
    selection = check_shared(inputs, parts, **(options | {"similarity": similarity}))
    assert selection.valid.any()


@pytest.mark.thinned(7)
@pytest.mark.parametrize("options", RULES, ids=str)
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("parts", PARTS)
def test_select_in_parts_ties_go_to_lowest_index(parts, similarity, options):
    check_shared(exact_inputs(similarity, 400, 16), parts, **(options | {"similarity": similarity}))


@pytest.mark.thinned(5)
@pytest.mark.parametrize("kind", ["few", "many", "all"])
@pytest.mark.parametrize("options", [RULES[0], *RULES[-4:]], ids=str)
@pytest.mark.parametrize("parts", PARTS)
def test_select_in_parts_with_ids_matches_select_triplets(parts, options, kind):
    inputs = random_inputs(400, 9, 12, spread=1.5)
    check_shared(inputs, parts, random_ids(inputs, kind)["ids"], **options)


@pytest.mark.parametrize("negative", ["hardest", "semihard"])
@pytest.mark.parametrize("rows", [0, 1, 2, 95, 96, 97, 288, 289, 577])
def test_select_in_parts_edge_sizes_match_select_triplets(rows, negative):
    for parts in (2, 5):
        check_shared(random_inputs(rows, 5, 4), parts, negative=negative)


@pytest.mark.parametrize(
    "sizes", [[400], [200, 200], [1] * 300, [250, 3, 1, 90]], ids=["one", "two", "single", "mixed"]
)
@pytest.mark.parametrize("negative", ["hardest", "easiest", "semihard"])
def test_select_in_parts_classes_of_any_size_match_select_triplets(negative, sizes):
    inputs = random_inputs(sum(sizes), 5)._replace(labels=labels_of_sizes(sizes))
    check_shared(inputs, 3, negative=negative)


def test_select_in_parts_zero_similarities_keep_their_signs():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]).repeat(40, 1)
    inputs = random_inputs(160, 2)._replace(embeddings=x, labels=torch.arange(160) % 5)
    for positive in ("easiest", "hardest"):
        check_shared(inputs, 3, similarity="dot", positive=positive, negative="easiest")


def test_select_in_parts_nan_rows_match_select_triplets():
    inputs = random_inputs(300, 5, 4)
    inputs.embeddings[7] = torch.nan
    inputs.embeddings[8] = torch.inf
    inputs.embeddings[9] = 0.0
    for similarity in SIMILARITIES:
        check_shared(inputs, 3, similarity=similarity)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_select_triplets_part_positives_in_parts_merge_to_those_of_one(dtype):
    inputs = random_inputs(700, 9, 3, dtype=dtype)
    selection = codes(inputs, negative="semihard")

    def select(part, parts):
        return torch.ops.hardmine.select_triplets_part(*inputs[:2], None, *selection, False, part, parts)

    key, *index = torch.stack([select(part, 3) for part in range(3)]).unbind(1)
    merged = [key.amax(0)]
    merged += [torch.where(key == merged[0], low, torch.iinfo(torch.int64).min).amax(0) for low in index]
    assert torch.equal(torch.stack(merged), select(0, 1))


@pytest.mark.cpu  # the float64 kernels for GPUs visit each pair for each of its rows
@pytest.mark.parametrize("negative", ["hardest", "easiest"])
def test_select_triplets_part_parts_find_different_pairs(negative):
    inputs = random_inputs(900, 9, 5)
    similarity, positive, code, fallback, *rest = codes(inputs, negative=negative)
    assert NEGATIVES[code] == negative
    seen = set()
    for part in range(4):
        words = torch.ops.hardmine.select_triplets_part(
            *inputs[:2], None, similarity, positive, code, fallback, *rest, True, part, 4
        )
        *_, p_index, n_index = torch.ops.hardmine.selection_of_parts(words, similarity, positive, code, fallback)
        pairs = {(min(i, j), max(i, j)) for index in (p_index, n_index) for i, j in enumerate(index.tolist()) if j >= 0}
        assert len(pairs) > 200
        assert not seen & pairs
        seen |= pairs


LOSSES = [
    {"term": "nca"},
    {"term": "hinge", "reduction": "sum"},
    {"term": "sct", "reduction": "none", "negative": "hardest"},
    {"term": "sct", "hard_rule": "above_and_cutoff", "separate_means": True, "hard_cutoff": 0.5, "lam": 0.1},
]


def loss_codes(inputs, **options):
    """The options of a loss in the order of the compiled ops' schemas."""
    defaults = {"temperature": 0.1, "margin": 0.2, "lam": 1.0, "min_similarity": None, "reduction": "mean"}
    return check_loss(inputs.embeddings, defaults | options)


@pytest.mark.thinned(5)
@pytest.mark.parametrize("options", LOSSES, ids=str)
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_triplet_loss_of_parts_matches_triplet_loss_and_its_gradient(dtype, similarity, options):
    inputs = random_inputs(200, 9, 12, spread=1.5, dtype=dtype)
    rule = {"similarity": similarity, "negative": options.get("negative", "semihard")}
    selection, loss_options = codes(inputs, **rule), loss_codes(inputs, **options)
    x = inputs.embeddings.clone().requires_grad_()
    expected = torch.ops.hardmine.triplet_loss(
        x, inputs.labels, None, None, None, None, None, *selection, *loss_options
    )
    gradient = torch.linspace(0.5, 2.0, expected[0].numel(), dtype=expected[0].dtype).reshape(expected[0].shape)
    expected[0].backward(gradient)
    assert x.grad.any()

    words = shared_words(inputs, 2, **rule)[0]
    loss, *selected = torch.ops.hardmine.triplet_loss_of_parts(inputs.embeddings, words, *selection[:4], *loss_options)
    for actual, wanted in zip((loss, *selected), expected, strict=True):
        assert_bitwise_equal(actual, wanted)
    for first, count in ((0, 200), (0, 0), (0, 70), (70, 1), (71, 129), (200, 0)):
        rows = torch.ops.hardmine.triplet_loss_backward_rows(
            gradient, inputs.embeddings, *selected, selection[0], *loss_options, first, count
        )
        assert_bitwise_equal(rows, x.grad[first : first + count])


def test_triplet_loss_of_parts_with_infinite_row_is_nan():
    inputs = random_inputs(100, 9, 12)
    inputs.embeddings[5, 3] = torch.inf
    words = shared_words(inputs, 2, negative="semihard")[0]
    selection, loss_options = codes(inputs, negative="semihard"), loss_codes(inputs, term="nca")
    loss, *selected = torch.ops.hardmine.triplet_loss_of_parts(inputs.embeddings, words, *selection[:4], *loss_options)
    assert loss.isnan()
    rows = torch.ops.hardmine.triplet_loss_backward_rows(
        torch.ones(()), inputs.embeddings, *selected, selection[0], *loss_options, 40, 20
    )
    assert rows.shape == (20, 9)
    assert rows.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("fallback", [None, "hardest"])
def test_compiled_ops_of_parts_opcheck_passes(fallback, dtype):
    inputs = random_inputs(60, 9, 5, dtype=dtype)
    ids = torch.arange(60) // 2 + 100 * (torch.randint(2, (60,), generator=seeded(0)))
    selection = codes(inputs, negative="semihard", semihard_fallback=fallback)
    loss_options = loss_codes(inputs, term="nca")
    hardmine = torch.ops.hardmine
    part = (*inputs[:2], ids, *selection)
    words = hardmine.select_triplets_part(*part, True, 0, 1)
    whole = (inputs.embeddings, words, *selection[:4], *loss_options)
    loss, *selected = hardmine.triplet_loss_of_parts(*whole)
    assert not any(t.isnan().any() for t in (loss, *selected)), "opcheck cannot compare NaN"
    for op, arguments in (
        (hardmine.select_triplets_part, (*part, True, 1, 3)),
        (hardmine.select_triplets_part, (*part, False, 1, 3)),
        (hardmine.selection_of_parts, (words, *selection[:4])),
        (hardmine.triplet_loss_of_parts, whole),
        (
            hardmine.triplet_loss_backward_rows,
            (torch.ones_like(loss), inputs.embeddings, *selected, selection[0], *loss_options, 10, 20),
        ),
    ):
        torch.library.opcheck(op.default, arguments)


def test_compiled_ops_of_parts_invalid_arguments_are_named():
    inputs = random_inputs(60, 9, 5)
    semihard = codes(inputs, negative="semihard")
    loss_options = loss_codes(inputs, term="nca")
    words = torch.zeros(1, 2, 60, dtype=torch.int64)
    hardmine = torch.ops.hardmine

    def part(options, part=0, parts=2):
        return lambda: hardmine.select_triplets_part(*inputs[:2], None, *options, True, part, parts)

    def loss(words):
        return lambda: hardmine.triplet_loss_of_parts(inputs.embeddings, words, *semihard[:4], *loss_options)

    for call, message in (
        (part(semihard, 2, 2), "part must be from 0 to num_parts - 1 = 1, got 2"),
        (part(semihard, -1, 2), "part must be from 0 to num_parts - 1 = 1, got -1"),
        (part(semihard, 0, 0), "part must be from 0 to num_parts - 1 = -1, got 0"),
        (part([0, 2, *semihard[2:]]), "positive and negative must not be random"),
        (loss(words[:, :, 1:]), "words must be those of embeddings, got [1, 2, 59]"),
        (loss(words.expand(2, 2, 60)), "words must be those of embeddings, got [2, 2, 60]"),
        (loss(words.int()), "words must be int64 [1 or 2, 2, B], got [1, 2, 60]"),
        (lambda: hardmine.selection_of_parts(words[:, :1], *semihard[:4]), "words must be int64 [1 or 2, 2, B]"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
