"""Numbers that change when they are converted to the dtype of the computation; tensors that autograd cannot keep."""

import math
from fractions import Fraction

import pytest
import torch

from hardmine import ops
from support.inputs import seeded

ROWS = torch.randn(8, 4, generator=seeded(0))
LABELS = torch.arange(8) // 2
TRIPLETS = torch.tensor([[0, 1, 2], [2, 3, 4]])

# Every numeric option that must be finite in the dtype of the computation, and a call that takes it.
NUMBERS = {
    "triplet_loss.margin": lambda x, v: ops.triplet_loss(x, LABELS, term="hinge", margin=v),
    "triplet_loss.lam": lambda x, v: ops.triplet_loss(x, LABELS, term="sct", lam=v),
    "triplet_loss.min_similarity": lambda x, v: ops.triplet_loss(x, LABELS, min_similarity=v),
    "triplet_loss.duplicate_threshold": lambda x, v: ops.triplet_loss(x, LABELS, duplicate_threshold=v),
    "triplet_loss.semihard_margin": lambda x, v: ops.triplet_loss(x, LABELS, semihard_margin=v),
    "sct_loss.lam": lambda x, v: ops.sct_loss(x, LABELS, lam=v),
    "sct_loss.hard_cutoff": lambda x, v: ops.sct_loss(x, LABELS, preset="code2021", hard_cutoff=v),
    "tuplet_loss.duplicate_threshold": lambda x, v: ops.tuplet_loss(x, LABELS, duplicate_threshold=v),
    "batch_all_triplet_loss.margin": lambda x, v: ops.batch_all_triplet_loss(x, LABELS, margin=v),
    "indexed_triplet_loss.margin": lambda x, v: ops.indexed_triplet_loss(x, TRIPLETS, margin=v),
    "indexed_triplet_loss.lam": lambda x, v: ops.indexed_triplet_loss(x, TRIPLETS, term="sct", lam=v),
    "global_loss.lam": lambda x, v: ops.global_loss(x, TRIPLETS, lam=v),
    "global_loss.threshold": lambda x, v: ops.global_loss(x, TRIPLETS, threshold=v),
}
TEMPERATURES = {
    "triplet_loss": lambda x, v: ops.triplet_loss(x, LABELS, temperature=v),
    "sct_loss": lambda x, v: ops.sct_loss(x, LABELS, temperature=v),
    "tuplet_loss": lambda x, v: ops.tuplet_loss(x, LABELS, temperature=v),
    "indexed_triplet_loss": lambda x, v: ops.indexed_triplet_loss(x, TRIPLETS, term="nca", temperature=v),
}
each_number = pytest.mark.parametrize("name", NUMBERS)
each_temperature = pytest.mark.parametrize("name", TEMPERATURES)


@each_number
@pytest.mark.parametrize("value", [1e39, 3.5e38, 10**39, Fraction(10**39)], ids=str)
def test_option_overflowing_float32_raises_by_name(name, value):
    option = name.partition(".")[2]
    with pytest.raises(ValueError, match=rf"^{option} must be a number( > 0)?, got 1?.*, which is inf in float32$"):
        NUMBERS[name](ROWS, value)
    NUMBERS[name](ROWS.double(), value)  # finite in float64


@each_number
@pytest.mark.parametrize("value", [10**400, 10**5000, Fraction(10**400)], ids=["int", "long int", "fraction"])
def test_option_beyond_float_raises_by_name(name, value):
    option = name.partition(".")[2]
    with pytest.raises(ValueError, match=rf"^{option} must be a number that a float can hold, got .{{1,60}}$"):
        NUMBERS[name](ROWS.double(), value)


@pytest.mark.parametrize("name", ["triplet_loss.semihard_margin", "indexed_triplet_loss.margin"])
@pytest.mark.parametrize("value", [1e-50, 2.0**-150, Fraction(1, 10**50)], ids=str)
def test_option_underflowing_float32_raises_by_name(name, value):
    option = name.partition(".")[2]
    with pytest.raises(ValueError, match=rf"^{option} must be a number > 0, got .*, which is 0 in float32$"):
        NUMBERS[name](ROWS, value)
    NUMBERS[name](ROWS.double(), value)


@pytest.mark.thinned(7)
@each_temperature
@pytest.mark.parametrize(
    "value", [0, -1, 1e-31, 1e-46, 1e31, 1e39, math.inf, math.nan, Fraction(1, 10**400), Fraction(10**35)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_temperature_without_float32_inverse_raises(name, value, dtype):
    with pytest.raises(ValueError, match=r"^temperature must be a number from 1e-30 to 1e\+30, got "):
        TEMPERATURES[name](ROWS.to(dtype), value)


@each_temperature
@pytest.mark.parametrize("value", [1e-30, 1e-3, 0.1, 1e3, 1e30])
def test_temperature_in_range_gives_finite_loss(name, value):
    leaf = ROWS.clone().requires_grad_()
    loss = TEMPERATURES[name](leaf, value)
    loss.backward()
    assert loss.isfinite()
    assert not leaf.grad.isnan().any()


@pytest.mark.thinned(5)
@pytest.mark.parametrize("name", [*NUMBERS, *TEMPERATURES])
def test_option_changed_between_compiled_calls_has_no_graph_break(name):
    loss_of = (NUMBERS | TEMPERATURES)[name]
    torch.compiler.reset()
    compiled = torch.compile(loss_of, fullgraph=True, backend="eager")
    for value in (0.1, 0.3, 0.6):  # from the second value on, the graph holds the number as a symbol
        assert torch.equal(compiled(ROWS, value), loss_of(ROWS, value))


MADE_IN_INFERENCE_MODE = {
    "select_triplets": lambda x, y, t: ops.select_triplets(x, y, x.detach(), y).positive_similarity.sum(),
    "triplet_loss": lambda x, y, t: ops.triplet_loss(x, y),
    "sct_loss": lambda x, y, t: ops.sct_loss(x, y),
    "tuplet_loss": lambda x, y, t: ops.tuplet_loss(x, y),
    "batch_all_triplet_loss": lambda x, y, t: ops.batch_all_triplet_loss(x, y),
    "indexed_triplet_loss": lambda x, y, t: ops.indexed_triplet_loss(x, t, labels=y),
    "global_loss": lambda x, y, t: ops.global_loss(x, t, labels=y),
}
WITH_REFS = {
    "select_triplets": lambda x, r, y: ops.select_triplets(x, LABELS, r, y).positive_similarity.sum(),
    "sct_loss": lambda x, r, y: ops.sct_loss(x, LABELS, r, y),
    "tuplet_loss": lambda x, r, y: ops.tuplet_loss(x, LABELS, r, y),
    "knn": lambda x, r, y: ops.knn(x, r, k=3).similarity.sum(),
}


def loss_and_gradient(loss_of, *others):
    leaf = ROWS.clone().requires_grad_()
    loss = loss_of(leaf, *others)
    loss.backward()
    return loss.detach(), leaf.grad


@pytest.mark.parametrize("name", MADE_IN_INFERENCE_MODE)
def test_labels_made_in_inference_mode_are_equal(name):
    with torch.inference_mode():
        labels, triplets = LABELS.clone(), TRIPLETS.clone()
    actual = loss_and_gradient(MADE_IN_INFERENCE_MODE[name], labels, triplets)
    assert all(map(torch.equal, actual, loss_and_gradient(MADE_IN_INFERENCE_MODE[name], LABELS, TRIPLETS)))


@pytest.mark.parametrize("name", WITH_REFS)
def test_refs_made_in_inference_mode_are_equal(name):
    refs = torch.randn(9, 4, generator=seeded(1))
    labels = torch.arange(9) // 2
    with torch.inference_mode():
        made = refs.clone(), labels.clone()
    assert all(
        map(torch.equal, loss_and_gradient(WITH_REFS[name], *made), loss_and_gradient(WITH_REFS[name], refs, labels))
    )
