"""The modules' constructors: keyword-only, typed, with the defaults of their ops; counts; reprs of modules."""

import inspect
import typing

import pytest
import torch

from hardmine import losses, ops
from support.comparisons import assert_bitwise_equal
from support.inputs import HAND_POINTS, seeded

OPS = {
    "BatchAllLoss": ops.tuplet_loss,
    "BatchAllTripletLoss": ops.batch_all_triplet_loss,
    "CircleLoss": ops.circle_loss,
    "EPHNLoss": ops.triplet_loss,
    "EPLoss": ops.tuplet_loss,
    "EPSHNLoss": ops.triplet_loss,
    "GlobalLoss": ops.global_loss,
    "HNLoss": ops.triplet_loss,
    "HPHNLoss": ops.triplet_loss,
    "HPLoss": ops.tuplet_loss,
    "HierarchicalTripletLoss": ops.batch_all_triplet_loss,
    "InfoNCELoss": ops.info_nce_loss,
    "MultiSimilarityLoss": ops.multi_similarity_loss,
    "NPairLoss": ops.tuplet_loss,
    "RatioTripletLoss": ops.indexed_triplet_loss,
    "SCTLoss": ops.sct_loss,
    "SHNLoss": ops.triplet_loss,
    "SigmoidLoss": ops.sigmoid_loss,
    "SupConLoss": ops.supcon_loss,
    "TripletLoss": ops.triplet_loss,
    "TupletLoss": ops.tuplet_loss,
}
each = pytest.mark.parametrize("name", OPS)
# The modules that have all options of their op
WHOLE = (
    "BatchAllTripletLoss",
    "CircleLoss",
    "GlobalLoss",
    "InfoNCELoss",
    "MultiSimilarityLoss",
    "SCTLoss",
    "SupConLoss",
    "TripletLoss",
    "TupletLoss",
)
OF_THE_CALL = {"embeddings", "labels", "ref_embeddings", "ref_labels", "ids", "ref_ids", "triplets"}
OF_THE_CALL |= {"query", "positive_key", "key", "negative_keys", "weights"}
# The default of the module's term, if the op's default is None
RESOLVED = {"temperature": 0.1, "margin": 0.2}


def test_modules_all_are_covered():
    assert losses.__all__ == sorted([*OPS, "CrossBatchMemory"])  # which has no op


@each
def test_init_options_are_typed_keywords_with_op_defaults(name):
    parameters = inspect.signature(getattr(losses, name)).parameters
    own = inspect.signature(inspect.unwrap(OPS[name])).parameters
    kinds = typing.get_type_hints(getattr(losses, name).__init__)
    assert parameters
    for option, parameter in parameters.items():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert kinds[option] is not typing.Any
        if option in own:
            defaults = (own[option].default, RESOLVED.get(option)) if name not in WHOLE else (own[option].default,)
            assert parameter.default in defaults, option
        else:
            assert option in ("classes", "beta")
    if name in WHOLE:
        given = {option for option in own if option not in OF_THE_CALL and not option.startswith("return_")}
        assert parameters.keys() == given
    with pytest.raises(TypeError, match="takes 1 positional argument"):
        getattr(losses, name)("easiest")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("TripletLoss", {"margin": 0.3}, "margin must be None with term='nca': only 'hinge' uses it, got 0.3"),
        (
            "TripletLoss",
            {"term": "hinge", "temperature": 0.1},
            "temperature must be None with term='hinge': only",
        ),
        ("TripletLoss", {"lam": 0.1}, "lam must be None with term='nca': only 'sct' uses it, got 0.1"),
        (
            "TripletLoss",
            {"negative": "hardest", "tie": "include"},
            "tie must be None with negative='hardest': only",
        ),
        ("TripletLoss", {"generator": seeded(0)}, "generator must be None with positive='easiest' and negative='semih"),
        ("SCTLoss", {"semihard_margin": 0.1}, "semihard_margin must be None with negative='hardest': only 'semihard'"),
        (
            "SCTLoss",
            {"hard_cutoff": 0.7},
            "hard_cutoff must be None with preset='paper': only 'code2020'",
        ),
    ],
)
def test_init_option_without_effect_raises(name, options, message):
    with pytest.raises(ValueError) as caught:
        getattr(losses, name)(**options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", [name for name in OPS if OPS[name] in (ops.triplet_loss, ops.sct_loss)])
def test_return_count_of_selection_modules_matches_hand_count(name):
    """All five points have pairs; with the semi-hard negative, point 2 has none."""
    module = getattr(losses, name)()
    expected = 4 if name in ("TripletLoss", "SHNLoss", "EPSHNLoss") else 5
    loss, count = module(*HAND_POINTS, return_count=True)
    assert_bitwise_equal(loss, module(*HAND_POINTS))
    assert_bitwise_equal(count, torch.tensor(expected))
    loss, selection, count = module(*HAND_POINTS, return_selection=True, return_count=True)
    assert isinstance(selection, ops.Selection)
    assert count == selection.count() == expected


@pytest.mark.parametrize("name", [name for name in OPS if OPS[name] is ops.tuplet_loss])
def test_return_count_of_tuplet_modules_matches_hand_count(name):
    batch = HAND_POINTS.embeddings, torch.tensor([0, 0, 1, 0, 2])
    loss, terms, count = getattr(losses, name)()(*batch, return_terms=True, return_count=True)
    assert isinstance(terms, ops.TupletTerms)
    assert_bitwise_equal(count, torch.tensor(3))
    assert_bitwise_equal(loss, getattr(losses, name)()(*batch, return_count=True)[0])


WRITTEN = [
    "BatchAllLoss(temperature=1.0)",
    "BatchAllTripletLoss(margin=0.5, reduction='sum')",
    "EPHNLoss()",
    "EPLoss(duplicate_threshold=0.9)",
    "EPSHNLoss(tie='include', min_similarity=0.0)",
    "GlobalLoss(lam=0.5)",
    "HPHNLoss(similarity='euclidean')",
    "HierarchicalTripletLoss(classes=[1, 5], margin=0.1, squared=False)",
    "RatioTripletLoss(reduction='none')",
    "SCTLoss(lam=0.1, preset='code2021', negative='semihard')",
    "SHNLoss(semihard_fallback='hardest')",
    "TripletLoss(positive='hardest', negative='hardest', term='hinge', margin=0.5)",
    "TupletLoss(positive='all')",
]


@pytest.mark.parametrize("text", WRITTEN)
def test_repr_round_trips(text):
    assert repr(eval(text, vars(losses))) == text


@pytest.mark.parametrize("name", ["TripletLoss", "SupConLoss", "InfoNCELoss", "SCTLoss", "TupletLoss"])
def test_repr_of_tensor_option_shows_its_number_and_whether_it_is_learned(name):
    module = getattr(losses, name)
    default = inspect.signature(module).parameters["temperature"].default or 0.1  # shown, though it is the default
    learned = torch.nn.Parameter(torch.tensor(default, dtype=torch.float64))
    assert repr(module(temperature=learned)) == f"{name}(temperature={default:.4g} (learned))"
    assert repr(module(temperature=learned.detach().float())) == f"{name}(temperature={default:.4g})"
    assert repr(module(temperature=learned).to("meta")) == f"{name}(temperature=[] (learned))"
