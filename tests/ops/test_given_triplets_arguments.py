"""Wrong arguments of the losses on given triplets, each with all of its message; the modules that pass them on."""

import inspect
import math
import re

import pytest
import torch

from hardmine import losses, ops
from helpers import assert_bitwise_equal, seeded
from triplets import (
    EMULATED,
    GIVEN,
    NO_TRIPLETS,
    Batch,
    assert_outcomes_equal,
    compiled_arguments,
    only_where_triplets_are_checked,
    random_batch,
    run_given,
)

each_op = pytest.mark.parametrize("name", GIVEN)

X, TRIPLETS = torch.randn(5, 3, generator=seeded(0)), torch.tensor([[0, 1, 2], [3, 4, 0]])
LABELS = torch.tensor([0, 0, 1, 1, 1])
WRONG_TENSORS = [
    # what is wrong, the error and all of its message
    ({"embeddings": X.tolist()}, TypeError, "embeddings must be a torch.Tensor, got list"),
    ({"embeddings": X.int()}, TypeError, "embeddings must be float32, float64, float16 or bfloat16, got torch.int32"),
    ({"embeddings": X[0]}, ValueError, "embeddings must be [rows, D], got [3]"),
    ({"embeddings": X[:, :0]}, ValueError, "embeddings must be [rows, D] with D >= 1, got [5, 0]"),
    ({"triplets": TRIPLETS.tolist()}, TypeError, "triplets must be a torch.Tensor, got list"),
    ({"triplets": TRIPLETS.float()}, TypeError, "triplets must have an integer dtype, got torch.float32"),
    ({"triplets": TRIPLETS.bool()}, TypeError, "triplets must have an integer dtype, got torch.bool"),
    ({"triplets": TRIPLETS[0]}, ValueError, "triplets must be [T, 3], got [3]"),
    ({"triplets": TRIPLETS[:, :2]}, ValueError, "triplets must be [T, 3], got [2, 2]"),
    ({"triplets": TRIPLETS[None]}, ValueError, "triplets must be [T, 3], got [1, 2, 3]"),
    (
        {"triplets": TRIPLETS.to("meta")},
        ValueError,
        "triplets must be on the device of embeddings, cpu, got meta",
    ),
    (
        {"triplets": torch.tensor([[0, 1, 2], [3, 5, 0]])},
        ValueError,
        "triplets must lie in [0, B) = [0, 5), got 5 at [1, 1]",
    ),
    ({"triplets": torch.tensor([[0, 1, -1]])}, ValueError, "triplets must lie in [0, B) = [0, 5), got -1 at [0, 2]"),
    (
        {"triplets": torch.tensor([[2**62, 1, 2]])},
        ValueError,
        "triplets must lie in [0, B) = [0, 5), got 4611686018427387904 at [0, 0]",
    ),
    ({"embeddings": X[:0]}, ValueError, "triplets must lie in [0, B) = [0, 0), got 0 at [0, 0]"),
    *(
        (
            {"triplets": torch.tensor([[0, 1, 2], same])},
            ValueError,
            f"triplets must be of three different rows each, got {same} at [1]",
        )
        for same in ([1, 1, 2], [1, 2, 1], [2, 1, 1])
    ),
    ({"labels": LABELS.tolist()}, TypeError, "labels must be a torch.Tensor, got list"),
    ({"labels": LABELS.float()}, TypeError, "labels must have an integer dtype, got torch.float32"),
    ({"labels": LABELS[:3]}, ValueError, "labels must be [B] = [5], got [3]"),
    (
        {"labels": torch.tensor([0, 1, 1, 2, 2])},
        ValueError,
        "triplets must be of an anchor, a positive of its class and a negative of another, "
        "got [0, 1, 2] of classes [0, 1, 1] at [0]",
    ),
    (
        {"labels": torch.tensor([2, 2, 1, 2, 2])},
        ValueError,
        "triplets must be of an anchor, a positive of its class and a negative of another, "
        "got [3, 4, 0] of classes [2, 2, 2] at [1]",
    ),
    # The index is what is wrong first, and is not used to look up a class.
    (
        {"triplets": torch.tensor([[0, 1, 7]]), "labels": LABELS},
        ValueError,
        "triplets must lie in [0, B) = [0, 5), got 7 at [0, 2]",
    ),
]


@each_op
@pytest.mark.parametrize(("changes", "error", "message"), WRONG_TENSORS, ids=[wrong[2] for wrong in WRONG_TENSORS])
def test_wrong_tensors(name, changes, error, message):
    if EMULATED and message.startswith(("triplets must lie", "triplets must be of three")):
        pytest.skip("a GPU's ops raise no errors about values")
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        getattr(ops, name)(**{"embeddings": X, "triplets": TRIPLETS, **changes})


INDEXED, GLOBAL = GIVEN
WRONG_OPTIONS = [
    # of which op, what is wrong, the error and all of its message
    (
        INDEXED,
        {"term": "ration"},
        ValueError,
        "term must be one of 'nca', 'hinge', 'soft_margin', 'sct', 'ratio', got 'ration'",
    ),
    (INDEXED, {"similarity": "cos"}, ValueError, "similarity must be one of 'cosine', 'dot', 'euclidean', got 'cos'"),
    (
        INDEXED,
        {"similarity": "dot"},
        ValueError,
        "similarity must be 'cosine' or 'euclidean' with term 'ratio', got 'dot'",
    ),
    (INDEXED, {"reduction": "max"}, ValueError, "reduction must be one of 'mean', 'sum', 'none', got 'max'"),
    (INDEXED, {"margin": 0.0}, ValueError, "margin must be a number > 0, got 0.0"),
    (INDEXED, {"margin": math.nan}, ValueError, "margin must be a number > 0, got nan"),
    (INDEXED, {"term": "hinge", "margin": math.nan}, ValueError, "margin must be a number, got nan"),
    (INDEXED, {"margin": "0.2"}, TypeError, "margin must be a number, got str"),
    (INDEXED, {"temperature": 0}, ValueError, "temperature must be a number > 0, got 0"),
    (INDEXED, {"lam": math.nan}, ValueError, "lam must be a number, got nan"),
    (GLOBAL, {"lam": None}, TypeError, "lam must be a number, got NoneType"),
    (GLOBAL, {"threshold": math.nan}, ValueError, "threshold must be a number, got nan"),
    (GLOBAL, {"similarity": "l2"}, ValueError, "similarity must be one of 'cosine', 'dot', 'euclidean', got 'l2'"),
    (
        GLOBAL,
        {"similarity": "dot"},
        ValueError,
        "similarity must be 'cosine' or 'euclidean' with global_loss, got 'dot'",
    ),
]


@pytest.mark.parametrize(("name", "changes", "error", "message"), WRONG_OPTIONS, ids=[w[3] for w in WRONG_OPTIONS])
def test_wrong_options(name, changes, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        getattr(ops, name)(X, TRIPLETS, **changes)


each_bad_list = pytest.mark.parametrize(
    "triplets",
    [[[0, 1, 40]], [[0, 1, 2], [-1, 2, 3]], [[0, 2**62, 1]], [[-(2**63), 1, 2]], [[1, 1, 0]]],
    ids=str,
)


@each_op
@each_bad_list
@only_where_triplets_are_checked
def test_the_compiled_ops_read_no_row_that_is_not_there(name, triplets):
    """Forward and backward, called directly."""
    x, *options = (a for i, a in enumerate(compiled_arguments(name, random_batch())) if i != 1)
    bad = torch.tensor(triplets)
    with pytest.raises(ValueError, match="triplets must"):
        getattr(torch.ops.hardmine, name)(x, bad, *options)
    values = torch.ones(len(bad))
    with pytest.raises(ValueError, match="triplets must"):
        getattr(torch.ops.hardmine, f"{name}_backward")(torch.tensor(1.0), None, None, x, bad, values, values, *options)


@each_op
@each_bad_list
@pytest.mark.parametrize("good", [0, 1, 1500])
def test_on_a_gpu_bad_triplets_make_the_loss_and_all_gradients_nan(name, triplets, good, device):
    """Nothing waits for a check there; the rows that are in good triplets, or in none, are told as well."""
    if torch.device(device).type == "cpu" and not EMULATED:
        pytest.skip("on the CPU they are errors")
    batch = random_batch()
    many = batch.triplets.repeat(good // 60 + 1, 1)[:good]
    listed = torch.cat([many[: good // 2], torch.tensor(triplets), many[good // 2 :]])
    for options in ({}, {"reduction": "none", "term": "hinge"})[: 1 if name == "global_loss" else 2]:
        outcome = run_given(getattr(ops, name), Batch(batch.embeddings, listed).to(device), **options)
        assert outcome.loss.isnan().all()
        assert outcome.grad.isnan().all()


@each_op
def test_the_compiled_ops_check_shapes_and_types(name):
    x, triplets, *options = compiled_arguments(name, random_batch())
    op, backward = getattr(torch.ops.hardmine, name), getattr(torch.ops.hardmine, f"{name}_backward")
    for wrong in (triplets.int(), triplets[:, :2], triplets[0], triplets.float()):
        with pytest.raises(ValueError, match=r"triplets must be an int64 CPU tensor \[T, 3\]"):
            op(x, wrong, *options)
    good = {"grad_loss": torch.tensor(1.0), "grad_positive": None, "grad_negative": None}
    s = torch.zeros(60)
    kind = "similarity" if name == INDEXED else "distance"
    names = (f"positive_{kind}", f"negative_{kind}")
    arguments = {**good, "embeddings": x, "triplets": triplets, names[0]: s, names[1]: s}
    schema = op.default._schema.arguments
    arguments |= {option.name: value for option, value in zip(schema[2:], options, strict=True)}
    assert backward(**arguments).shape == x.shape
    for argument, wrong in (
        ("grad_loss", torch.ones(2)),
        ("grad_loss", torch.tensor(1.0).double()),
        ("grad_positive", torch.ones(59)),
        ("grad_negative", torch.ones(61)),
        (names[0], s[1:]),
        (names[1], s.double()),
    ):
        with pytest.raises(ValueError, match=argument):
            backward(**{**arguments, argument: wrong})


@each_op
def test_labels_that_fit_change_nothing(name):
    x, labels = random_batch(12).embeddings, torch.arange(12) // 4 * 7 - 7
    triplets = torch.tensor([[a, a // 4 * 4 + (a + 1) % 4, (a + 5) % 12] for a in range(12)])
    assert (labels[triplets[:, 0]] != labels[triplets[:, 2]]).all()
    expected = run_given(getattr(ops, name), Batch(x, triplets))
    assert_outcomes_equal(run_given(getattr(ops, name), Batch(x, triplets), labels=labels), expected)
    for dtype in (torch.int8, torch.int32):
        assert_outcomes_equal(run_given(getattr(ops, name), Batch(x, triplets), labels=labels.to(dtype)), expected)
    getattr(ops, name)(x, NO_TRIPLETS, labels=labels)


# Modules


@pytest.mark.parametrize(("name", "module"), [(INDEXED, losses.RatioTripletLoss), (GLOBAL, losses.GlobalLoss)])
def test_modules_delegate_to_their_op(name, module):
    batch, op = random_batch(), getattr(ops, name)
    own = {"margin": 0.3} if name == INDEXED else {"lam": 0.3}
    for options in ({}, {**own, "similarity": "euclidean"}):
        assert_bitwise_equal(module(**options)(*batch), op(*batch, **options))
    assert_bitwise_equal(module()(embeddings=batch.embeddings, triplets=batch.triplets, labels=None), op(*batch))
    with pytest.raises(ValueError, match="a positive of its class"):
        module()(*batch, torch.arange(40))
    assert repr(module(similarity="euclidean")) == f"{module.__name__}(similarity='euclidean')"


@pytest.mark.parametrize("module", [losses.RatioTripletLoss, losses.GlobalLoss])
def test_modules_check_their_options_when_they_are_made(module):
    with pytest.raises(ValueError, match="similarity must be one of"):
        module(similarity="l2")
    with pytest.raises(TypeError, match="lamb"):
        module(lamb=1.0)
    for name in ("embeddings", "triplets", "labels", "term"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            module(**{name: None})


def test_signatures_are_those_the_design_fixes():
    for op in (ops.indexed_triplet_loss, ops.global_loss):
        parameters = inspect.signature(op).parameters
        assert list(parameters)[:2] == ["embeddings", "triplets"]
        assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in list(parameters.values())[2:])
    assert inspect.signature(ops.indexed_triplet_loss).parameters["term"].default == "ratio"
