"""hardmine.verify on calls that run again, options at a limit or of other types, and tensors without values."""

from fractions import Fraction

import numpy
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

import hardmine
from hardmine import ops
from support.comparisons import assert_bitwise_equal
from support.inputs import random_inputs
from verification_cases import break_output


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_verify_random_selection_under_checkpoint_passes(use_reentrant, verify):
    inputs = random_inputs()
    rows = inputs.embeddings.clone().requires_grad_()
    options = {"positive": "random", "negative": "hardest"}
    with verify() as report:
        loss = checkpoint(lambda x: ops.triplet_loss(x, inputs.labels, **options), rows, use_reentrant=use_reentrant)
        loss.backward()
    assert report.checks == 1 + use_reentrant  # the non-reentrant recomputation stops inside the op
    assert rows.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "code2021", "negative_value": 0.8},
        {"preset": "code2020", "hard_cutoff": 0.3, "negative_value": 0.3},
        {"min_similarity": 0.3, "negative_value": 0.3},
    ],
    ids=["code2021", "code2020", "min_similarity"],
)
def test_verify_similarity_at_float32_limit_passes(options, verify):
    options = dict(options)
    refs = torch.tensor([[0.1 if "hard_cutoff" in options else 0.9], [options.pop("negative_value")]])
    with verify() as report:
        ops.sct_loss(torch.ones(1, 1), torch.tensor([0]), refs, torch.tensor([0, 1]), similarity="dot", **options)
    assert report.checks == 1


def test_verify_tensors_without_values_are_counted_not_compared(verify):
    rows, labels = torch.randn(4, 3), torch.arange(4) // 2
    with verify() as report:
        ops.sct_loss(rows.to("meta"), labels.to("meta"))
        with FakeTensorMode() as mode:
            ops.sct_loss(mode.from_tensor(rows), mode.from_tensor(labels))
        ops.sct_loss(rows, labels)
    assert (report.ops["sct_loss"].calls, report.checks) == (3, 1)


@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0)], ids=["both", "rows", "labels"])
def test_verify_calls_inside_vmap_are_counted_not_compared(in_dims, verify):
    rows, labels = torch.randn(2, 4, 3), torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]])
    given = [value if dim == 0 else value[0] for value, dim in zip((rows, labels), in_dims, strict=True)]
    with verify() as report:
        loss = torch.vmap(ops.tuplet_loss, in_dims)(*given)
    assert_bitwise_equal(loss, torch.vmap(ops.tuplet_loss, in_dims)(*given))
    assert (report.ops["tuplet_loss"].calls, report.checks) == (2, 0)


ROWS, LABELS = random_inputs(8)[:2]
TRIPLETS = torch.tensor([[0, 1, 2], [5, 4, 3]])
THIRD = Fraction(1, 3)
OTHER_TYPES = [
    ("triplet_loss", LABELS, {"temperature": THIRD, "min_similarity": -THIRD, "return_count": numpy.True_}),
    ("triplet_loss", LABELS, {"term": numpy.str_("hinge"), "margin": numpy.float16(0.25)}),
    ("sct_loss", LABELS, {"lam": THIRD, "preset": "code2021", "hard_cutoff": THIRD, "return_count": True}),
    ("select_triplets", LABELS, {"negative": "semihard", "semihard_margin": THIRD, "duplicate_threshold": 3 * THIRD}),
    ("tuplet_loss", LABELS, {"temperature": THIRD, "return_terms": numpy.False_}),
    ("batch_all_triplet_loss", LABELS, {"margin": THIRD, "squared": numpy.False_}),
    ("knn", None, {"k": numpy.int64(3), "exclude_self": numpy.False_}),
    ("knn", None, {"k": numpy.uint8(3), "exclude_self": numpy.True_}),
    ("indexed_triplet_loss", TRIPLETS, {"margin": THIRD}),
    ("global_loss", TRIPLETS, {"lam": THIRD, "threshold": numpy.float32(0.25)}),
]


@pytest.mark.parametrize(("name", "second", "options"), OTHER_TYPES)
def test_verify_numpy_scalars_and_fractions_pass(name, second, options, verify):
    with verify() as report:
        getattr(ops, name)(ROWS, second, **options)
    assert report.checks == 1


def test_verify_disagreement_saves_options_that_torch_loads(verify, monkeypatch):
    """``torch.load`` refuses NumPy's scalars and fractions."""
    break_output(monkeypatch, "knn", 0, lambda similarity: similarity + 1)
    with verify(), pytest.raises(hardmine.VerificationError) as caught:
        ops.knn(ROWS, k=numpy.int64(3), exclude_self=numpy.False_)
    saved = torch.load(caught.value.path)["arguments"]
    assert (saved["k"], saved["exclude_self"]) == (3, False)


@pytest.mark.parametrize(("tolerance", "error"), [("x", TypeError), (True, TypeError), (0, ValueError)])
def test_verify_tolerance_of_other_type_or_value_raises(tolerance, error):
    with pytest.raises(error, match=r"^tolerance must be"):
        hardmine.verify(tolerance=tolerance)
