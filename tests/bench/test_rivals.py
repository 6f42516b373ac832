"""Every rival computes what our op does, in value and gradient, and a wrong one is found."""

import dataclasses

import pytest
import torch

import rivals
from rivals import checks, neighbors
from rivals.inputs import pair_samples, unlabeled

N, D = 64, 16  # N exceeds knn's k = 50
PAIRS = [
    (case, name)
    for case in rivals.CASES
    for name in rivals.rival_names(case)
    if name not in (rivals.BY_HAND, rivals.MATMUL, rivals.COMPILED)
]


@pytest.fixture(autouse=True)
def made_words(monkeypatch):
    """Unit vectors in place of the word vectors, whose package only `make bench` installs."""

    def make_inputs(n, d):
        return unlabeled(torch.randn(n, d, generator=torch.Generator().manual_seed(0)), "made vectors")

    monkeypatch.setitem(rivals.CASES, "knn", dataclasses.replace(rivals.CASES["knn"], make_inputs=make_inputs))


def built(case, *names, n=N, d=D):
    found, skipped = rivals.build_all(case, n, 50 if case == "knn" else d, names)
    if skipped:
        pytest.skip(str(skipped))
    return found


@pytest.mark.parametrize(("case", "name"), PAIRS)
def test_rivals_value_and_gradient_equal_code_by_hand(case, name):
    checks.check(built(case, rivals.BY_HAND, name))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["sct", "batch_all", "clip"])
def test_compiled_code_equals_code_by_hand(case):
    try:
        checks.check(built(case, rivals.BY_HAND, rivals.COMPILED))
    except checks.CompileError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("case", rivals.LOSSES)
def test_check_wrong_value_or_gradient_raises(case):
    found = built(case, rivals.BY_HAND, rivals.OURS)
    ours = found[rivals.OURS]
    wrong_value = rivals.Rival(ours.name, lambda: 1.01 * ours.forward(), ours.backward, ours.inputs)
    with pytest.raises(AssertionError, match="hardmine is not equal to the code by hand: Scalars are not close"):
        checks.check({**found, rivals.OURS: wrong_value})

    def halved(loss):
        gradients = ours.backward(loss)
        return tuple(g / 2 for g in gradients) if isinstance(gradients, tuple) else gradients / 2

    wrong_gradient = rivals.Rival(ours.name, ours.forward, halved, ours.inputs)
    with pytest.raises(AssertionError, match=r"the gradients of \d+ rows differ"):
        checks.check({**found, rivals.OURS: wrong_gradient})


def test_check_wrong_neighbors_raises():
    found = built("knn", rivals.BY_HAND, rivals.OURS)
    similarity, index = found[rivals.OURS].forward()
    wrong = {
        "not close": (similarity + 1e-4, index),
        "contains its own vector": (similarity, index.index_fill(1, torch.tensor(0), 0)),
        "only 98.000%": (similarity, torch.cat([index[:, :1], index[:, :1], index[:, 2:]], 1)),
    }
    for message, lists in wrong.items():
        rival = rivals.Rival("other", lambda lists=lists: lists, None, found[rivals.OURS].inputs)
        with pytest.raises(AssertionError, match=message):
            checks.check({rivals.BY_HAND: found[rivals.BY_HAND], "other": rival})


def test_pairs_have_gradients_of_queries_and_keys():
    batch = pair_samples(8, 4)
    rival = rivals.build("clip", rivals.OURS, batch)
    assert [tuple(g.shape) for g in rival.backward(rival.forward())] == [(8, 4), (8, 4)]


def test_drop_self_removes_each_query():
    # The last query is not in its list, since a duplicate comes first. In this case the list's last entry is dropped.
    index = torch.tensor([[0, 1, 2], [0, 1, 2], [0, 1, 3]]).numpy()
    similarity = torch.tensor([[0.9, 0.8, 0.7]] * 3).numpy()
    found, kept = neighbors.drop_self(similarity, index)
    assert kept.tolist() == [[1, 2], [0, 2], [0, 1]]
    torch.testing.assert_close(found, torch.tensor([[0.8, 0.7], [0.9, 0.7], [0.9, 0.8]]))


def test_recall_of_compares_rows_as_sets():
    expected = torch.tensor([[1, 2], [0, 2], [0, 1]])
    assert neighbors.recall_of(torch.tensor([[2, 1], [2, 0], [1, 0]]), expected) == 1.0
    assert neighbors.recall_of(torch.tensor([[2, 3], [1, 3], [1, 0]]), expected) == 0.5


def test_build_library_not_installed_skipped(monkeypatch):
    def missing():
        raise rivals.SkippedRivalError("pytorch-metric-learning is not installed")

    monkeypatch.setitem(rivals.CASES["supcon"].others, "PML", missing)
    found, skipped = rivals.build_all("supcon", N, D, (rivals.OURS, "PML"))
    assert set(found) == {rivals.OURS}
    assert skipped == {"PML": "pytorch-metric-learning is not installed"}
