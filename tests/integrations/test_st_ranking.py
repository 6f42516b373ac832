"""Ranking losses have the values and gradients of those of sentence-transformers."""

import functools
import inspect
import itertools
import re
import warnings

import pytest
import torch
from sentence_transformers import util
from sentence_transformers.sentence_transformer import losses as theirs

from hardmine.integrations.sentence_transformers import losses
from integrations.st_cases import fused
from support.inputs import seeded
from support.ranks import run_ranks

pytestmark = pytest.mark.filterwarnings("ignore:The .*SymmetricRankingLoss is deprecated:DeprecationWarning")
DIRECTIONS = {
    "queries to docs": {},
    "both ways": {"directions": ("query_to_doc", "doc_to_query")},
    "both ways apart": {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
    "queries to queries": {"directions": ("query_to_doc", "query_to_query")},
    "docs to docs": {"directions": ("query_to_doc", "doc_to_doc")},
    "all": {"directions": ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")},
}
SIMILARITIES = {"cosine": util.cos_sim, "dot": util.dot_score, "euclidean": util.euclidean_sim}
MODEL = torch.nn.Sequential(torch.nn.Identity())  # not called: these tests start from embeddings
HARDNESS = [None, "in_batch_negatives", "hard_negatives", "all_negatives"]
NAMES = ["MultipleNegativesRankingLoss", "MultipleNegativesSymmetricRankingLoss"]
CACHED = [f"Cached{name}" for name in NAMES]


def columns_of(count, hard_negatives, dtype=torch.float64, dim=6, seed=0):
    """Embeddings of anchors, positives and hard negatives."""
    generator = seeded(seed)
    rows = [torch.randn(count, dim, generator=generator, dtype=torch.float64) for _ in range(2 + hard_negatives)]
    return [(row + rows[0] / 2).to(dtype).requires_grad_() for row in rows]


def value_and_gradients(side, name, columns, **options):
    loss = getattr(side, name)(MODEL, **options)
    if name in CACHED:
        columns = [[part.detach().requires_grad_() for part in column.split(3)] for column in columns]
        value = loss.calculate_loss(columns, None, with_backward=True)
        return value, *(torch.cat([part.grad for part in column]) for column in columns)
    value = loss.compute_loss_from_embeddings(list(columns), None)
    return value.detach(), *torch.autograd.grad(value, columns)


def assert_same_loss(name, columns, tolerances=None, **options):
    """Value and gradients agree; returns the value."""
    with fused():
        found = value_and_gradients(losses, name, columns, **options)
    expected = value_and_gradients(theirs, name, columns, **options)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **(tolerances or {}))
    return found[0]


@pytest.mark.thinned(5)
@pytest.mark.parametrize("hardness_mode", HARDNESS)
@pytest.mark.parametrize("directions", DIRECTIONS)
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_ranking_loss_is_that_of_sentence_transformers(similarity, directions, hardness_mode):
    options = {
        "scale": 7.0,
        "similarity_fct": SIMILARITIES[similarity],
        **DIRECTIONS[directions],
        "hardness_mode": hardness_mode,
        "hardness_strength": 3.0 if hardness_mode else 0.0,
    }
    for count, hard_negatives in itertools.product((1, 2, 13), (0, 1, 3)):
        columns = columns_of(count, hard_negatives)
        loss = assert_same_loss("MultipleNegativesRankingLoss", columns, **options)
        assert loss > 1e-3 or count == 1
        assert_same_loss("CachedMultipleNegativesRankingLoss", columns, mini_batch_size=3, **options)


@pytest.mark.parametrize("hard_negatives", [0, 2])
@pytest.mark.parametrize("name", NAMES + CACHED)
def test_ranking_losses_with_default_options_are_those_of_sentence_transformers(name, hard_negatives):
    assert assert_same_loss(name, columns_of(20, hard_negatives)) > 0
    tolerances = {"rtol": 1e-4, "atol": 2e-6}
    assert assert_same_loss(name, columns_of(20, hard_negatives, torch.float32), tolerances) > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_ranking_loss_of_half_precision_is_that_of_sentence_transformers(dtype):
    columns = columns_of(20, 1, dtype)
    tolerances = {"rtol": 2e-2, "atol": 2e-2}
    loss = assert_same_loss("MultipleNegativesRankingLoss", columns, tolerances, scale=4.0)
    assert loss.dtype == torch.float32


def test_ranking_loss_under_autocast_is_that_of_float32():
    columns = columns_of(20, 1, torch.float32)
    with torch.autocast("cpu", torch.bfloat16), fused():
        found = losses.MultipleNegativesRankingLoss(None).compute_loss_from_embeddings(columns, None)
    assert found.dtype == torch.float32
    expected, *_ = value_and_gradients(theirs, "MultipleNegativesRankingLoss", columns)
    torch.testing.assert_close(found, expected)


@pytest.mark.thinned(5)
@pytest.mark.parametrize("hardness_mode", HARDNESS)
@pytest.mark.parametrize("directions", DIRECTIONS)
def test_gathered_ranking_loss_is_that_of_sentence_transformers(directions, hardness_mode):
    options = {
        "gather_across_devices": True,
        **DIRECTIONS[directions],
        "hardness_mode": hardness_mode,
        "hardness_strength": 3.0 if hardness_mode else 0.0,
    }

    def of_rank(rank):
        columns = columns_of(7, 1, seed=rank)
        return [
            value_and_gradients(side, name, columns, **options)
            for name in ("MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss")
            for side in (losses, theirs)
        ]

    alone = value_and_gradients(
        losses, "MultipleNegativesRankingLoss", columns_of(7, 1), **options | {"gather_across_devices": False}
    )
    for rank, (own, expected, own_cached, _) in enumerate(run_ranks(2, of_rank)):
        torch.testing.assert_close(own, expected)
        torch.testing.assert_close(own_cached[0], expected[0])
        assert rank or own[0] > alone[0]


def test_gathered_ranking_loss_takes_batches_of_any_size():
    columns, counts = columns_of(7, 1), (2, 5)

    def of_rank(rank):
        own = [column.split(counts)[rank].detach().requires_grad_() for column in columns]
        return value_and_gradients(losses, NAMES[0], own, gather_across_devices=True)

    whole = value_and_gradients(theirs, NAMES[0], columns)
    parts = run_ranks(2, of_rank)
    mean = sum(count * part[0] for count, part in zip(counts, parts, strict=True)) / sum(counts)
    torch.testing.assert_close(mean, whole[0])


def test_gathering_without_a_group_is_that_of_the_process(caplog):
    columns = columns_of(5, 0)
    assert_same_loss(NAMES[0], columns, gather_across_devices=True)


def manhattan(a, b):
    return -torch.cdist(a, b, p=1)


@pytest.mark.parametrize("name", NAMES + CACHED)
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"similarity_fct": util.manhattan_sim}, "its similarity_fct is manhattan_sim"),
        ({"similarity_fct": manhattan}, "its similarity_fct is manhattan"),
        ({"similarity_fct": functools.partial(util.cos_sim)}, "its similarity_fct is cos_sim"),
        ({"scale": torch.tensor(3.0, dtype=torch.float64)}, "its scale is tensor"),
    ],
)
def test_ranking_losses_without_op_are_theirs_with_one_warning(name, options, reason):
    columns = columns_of(8, 1)
    with pytest.warns(UserWarning, match=f"^{name} runs the code of sentence-transformers itself: {reason}") as caught:
        found = value_and_gradients(losses, name, columns, **options)
    assert caught[0].filename == __file__
    for one, other in zip(found, value_and_gradients(theirs, name, columns, **options), strict=True):
        assert torch.equal(one, other)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        value_and_gradients(losses, name, columns, **options)


def test_subclasses_follow_their_own_rules():
    class Own(losses.MultipleNegativesRankingLoss):
        pass

    with pytest.warns(UserWarning, match="Own runs .* it is a subclass of MultipleNegativesRankingLoss"):
        Own(None).compute_loss_from_embeddings(columns_of(4, 0), None)


def test_single_column_is_the_error_of_sentence_transformers():
    with pytest.raises(ValueError, match="Expected at least 2 embeddings, got 1"):
        losses.MultipleNegativesRankingLoss(None).compute_loss_from_embeddings(columns_of(4, 0)[:1], None)


@pytest.mark.parametrize("name", ["MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss"])
def test_fewer_positives_than_queries_is_an_error_that_names_both_shapes(name):
    loss = getattr(losses, name)(torch.nn.Sequential(torch.nn.Identity()))
    queries, positives = torch.randn(12, 4), torch.randn(5, 4)
    message = re.escape("embeddings[1] must have a row per row of embeddings[0], [B, D] = [12, 4], got [5, 4]")
    cached = name.startswith("Cached")
    call = loss.calculate_loss if cached else functools.partial(loss.compute_loss_from_embeddings, labels=None)
    with pytest.raises(ValueError, match=f"^{message}$"):
        call([[queries], [positives]] if cached else [queries, positives])


def test_more_positives_than_queries_are_negatives_of_all_as_theirs():
    columns = [torch.randn(5, 4), torch.randn(12, 4)]
    own, expected = (each.MultipleNegativesRankingLoss(None) for each in (losses, theirs))
    found = own.compute_loss_from_embeddings(columns, None)
    assert torch.equal(found, expected.compute_loss_from_embeddings(columns, None))


def test_embeddings_that_are_not_finite_make_the_loss_nan():
    columns = [column.detach() for column in columns_of(4, 0)]
    columns[1][2, 0] = torch.nan
    assert losses.MultipleNegativesRankingLoss(None).compute_loss_from_embeddings(columns, None).isnan()


@pytest.mark.parametrize("name", NAMES + CACHED)
def test_classes_have_signature_and_config_of_sentence_transformers(name):
    own, parent = getattr(losses, name), getattr(theirs, name)
    assert issubclass(own, parent)
    assert inspect.signature(own.__init__) == inspect.signature(parent.__init__)
    assert own(MODEL).get_config_dict() == parent(MODEL).get_config_dict()
    assert own(MODEL).citation == parent(MODEL).citation


def test_symmetric_losses_are_deprecated_as_in_sentence_transformers():
    for name in (NAMES[1], CACHED[1]):
        with pytest.warns(DeprecationWarning, match=f"The {name} is deprecated") as caught:
            getattr(losses, name)(MODEL)
        assert caught[0].filename == __file__


def test_modules_have_every_loss_of_sentence_transformers():
    names = [name for name in theirs.__all__ if isinstance(getattr(theirs, name), type)]
    assert len(names) > 20
    assert all(issubclass(getattr(losses, name), getattr(theirs, name)) for name in names)
