"""Trainings of a tiny model and mined data sets are those of sentence-transformers."""

import inspect
import random
import warnings

import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    util,
)
from sentence_transformers.sentence_transformer import losses as theirs

from hardmine.integrations.sentence_transformers import losses, mine_hard_negatives
from integrations.st_cases import fused, model_of, save_transformer, sentences

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_transformer(tmp_path_factory.mktemp("transformer"))


def columns_data(count=24):
    anchors = sentences(count, seed=1)
    swapped = [" ".join(reversed(sentence.split())) for sentence in anchors]
    return Dataset.from_dict({"anchor": anchors, "positive": swapped, "negative": sentences(count, seed=2)})


def labeled_data(count=24):
    return Dataset.from_dict({"sentence": sentences(count, seed=1), "label": [k // 3 for k in range(count)]})


def trained(folder, tmp_path, loss_of, data):
    """The model after a few steps, and the loss and gradient norm of every step."""
    model = model_of(folder)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "training"),
        max_steps=STEPS,
        per_device_train_batch_size=12,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, loss=loss_of(model))
    trainer.train()
    logs = [(entry["loss"], entry["grad_norm"]) for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == STEPS
    return model, torch.tensor(logs, dtype=torch.float64)


CASES = {
    "ranking": ("MultipleNegativesRankingLoss", {}, columns_data),
    "cached": ("CachedMultipleNegativesRankingLoss", {"mini_batch_size": 5}, columns_data),
    "symmetric": ("MultipleNegativesSymmetricRankingLoss", {}, columns_data),
    "batch hard": ("BatchHardTripletLoss", {}, labeled_data),
    "batch hard, soft margin": ("BatchHardSoftMarginTripletLoss", {}, labeled_data),
    "batch semi-hard": ("BatchSemiHardTripletLoss", {}, labeled_data),
    "batch all": ("BatchAllTripletLoss", {}, labeled_data),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_training_has_the_losses_of_sentence_transformers(folder, tmp_path, case):
    name, options, data = CASES[case]
    with fused():
        model, own = trained(folder, tmp_path, lambda model: getattr(losses, name)(model, **options), data())
    expected_model, expected = trained(folder, tmp_path, lambda model: getattr(theirs, name)(model, **options), data())
    torch.testing.assert_close(own, expected)
    assert own[0, 0] != own[-1, 0]
    for one, other in zip(model.parameters(), expected_model.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss"])
def test_training_with_matryoshka_loss_is_that_of_sentence_transformers(folder, tmp_path, name):
    def wrapped(side):
        return lambda model: theirs.MatryoshkaLoss(model, getattr(side, name)(model), matryoshka_dims=[16, 8, 4])

    with fused():
        _, own = trained(folder, tmp_path, wrapped(losses), columns_data())
    torch.testing.assert_close(own, trained(folder, tmp_path, wrapped(theirs), columns_data())[1])


@pytest.mark.slow
def test_trained_model_is_saved_and_loaded(folder, tmp_path):
    model, _ = trained(folder, tmp_path, losses.MultipleNegativesRankingLoss, columns_data())
    path = str(tmp_path / "saved")
    model.save_pretrained(path)
    loaded = SentenceTransformer(path, device="cpu").double()
    text = sentences(3)
    torch.testing.assert_close(
        loaded.encode(text, convert_to_tensor=True), model.encode(text, convert_to_tensor=True), rtol=1e-6, atol=1e-6
    )
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "loss:MultipleNegativesRankingLoss" in card
    assert "hardmine.integrations.sentence_transformers._ranking.MultipleNegativesRankingLoss" in card
    assert "van den Oord" in card or "oord2019" in card


# Mining


def pairs_data():
    """Queries of one to three answers each, some of which are answers of two queries."""
    queries, answers = sentences(12, seed=3, length=2), sentences(40, seed=4, length=3)
    rows = [(queries[k % 12 if k < 24 else 0], answers[k % 21]) for k in range(25)]
    return Dataset.from_dict({"query": [query for query, _ in rows], "answer": [answer for _, answer in rows]})


MINING = {
    "defaults": {},
    "ranks": {"range_min": 2, "range_max": 9, "num_negatives": 2},
    "scores": {"max_score": 0.97, "min_score": 0.9, "num_negatives": 1, "output_scores": True},
    "absolute margin": {"absolute_margin": 0.02, "num_negatives": 2, "output_format": "labeled-pair"},
    "relative margin": {"relative_margin": 0.03, "num_negatives": 2, "output_format": "n-tuple", "output_scores": True},
    "all filters": {
        "range_min": 1,
        "range_max": 15,
        "max_score": 0.98,
        "min_score": 0.5,
        "absolute_margin": 0.0,
        "relative_margin": 0.001,
        "num_negatives": 2,
        "output_format": "labeled-list",
    },
    "random": {"sampling_strategy": "random", "range_max": 12, "num_negatives": 3},
    "corpus": {"corpus": sentences(50, seed=5), "output_format": "n-tuple"},
    "more than the corpus": {"range_max": 100, "num_negatives": 30, "output_format": "labeled-list"},
    "positives included": {"include_positives": True, "num_negatives": 3},
    "small batches of queries": {"faiss_batch_size": 5},
}


def mined(function, model, options):
    random.seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return function(pairs_data(), model, verbose=False, **options)


def assert_same_rows(own, expected):
    assert own.column_names == expected.column_names
    assert len(own) == len(expected) > 0
    for name in own.column_names:
        if name in ("score", "scores"):
            torch.testing.assert_close(torch.tensor(own[name][:]), torch.tensor(expected[name][:]))
        else:
            assert own[name][:] == expected[name][:]


@pytest.mark.thinned(5)
@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("case", MINING)
def test_mined_negatives_are_those_of_sentence_transformers(folder, case, similarity):
    options = dict(MINING[case])
    if similarity == "euclidean":  # unit rows of similarity s have the distance sqrt(2 - 2 s)
        options |= {name: -((2 - 2 * options[name]) ** 0.5) for name in ("max_score", "min_score") if name in options}
    model = model_of(folder, similarity_fn_name=similarity)
    own, expected = (mined(function, model, options) for function in (mine_hard_negatives, util.mine_hard_negatives))
    assert_same_rows(own, expected)
    if case not in ("defaults", "corpus", "more than the corpus", "small batches of queries"):
        unfiltered = mined(util.mine_hard_negatives, model, {"output_format": options.get("output_format", "triplet")})
        assert own[:] != unfiltered[:]


def test_mined_negatives_of_other_similarities_are_theirs_with_one_warning(folder):
    model = model_of(folder, similarity_fn_name="manhattan")
    with pytest.warns(UserWarning, match="mine_hard_negatives runs the code .* manhattan similarity") as caught:
        own = mine_hard_negatives(pairs_data(), model, verbose=False)
    assert caught[0].filename == __file__
    assert_same_rows(own, mined(util.mine_hard_negatives, model, {}))
    assert_same_rows(mined(mine_hard_negatives, model, {}), own)


@pytest.mark.slow
def test_mined_negatives_of_long_lists_are_theirs_with_one_warning(folder):
    answers = [f"word{k % 30} word{k // 30}" for k in range(1100)]
    data = Dataset.from_dict({"query": sentences(1100, seed=6), "answer": answers})
    with pytest.warns(UserWarning, match="it lists 10.. candidates per query"):
        found = mine_hard_negatives(
            data, model_of(folder), range_max=1050, range_min=1020, output_format="labeled-list", verbose=False
        )
    assert len(found) == 1100


def test_mine_hard_negatives_prints_statistics_and_has_errors_of_sentence_transformers(folder, capsys):
    model = model_of(folder)
    found = []
    for function in (mine_hard_negatives, util.mine_hard_negatives):
        function(pairs_data(), model, range_max=12, relative_margin=0.03)
        found.append(capsys.readouterr().out)
        with pytest.raises(ValueError, match="range_min must be smaller than range_max, got range_min=5"):
            function(pairs_data(), model, range_min=5, range_max=5)
    assert "Skipped" in found[0]
    assert found[0] == found[1]
    assert inspect.signature(mine_hard_negatives) == inspect.signature(util.mine_hard_negatives)
