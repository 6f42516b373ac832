"""hardmine.verify where a call runs again, where the rounding of an option decides, and where there are no values."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

import hardmine
from hardmine import ops
from support.inputs import random_inputs


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


@pytest.mark.parametrize(("tolerance", "error"), [("x", TypeError), (True, TypeError), (0, ValueError)])
def test_verify_tolerance_of_other_type_or_value_raises(tolerance, error):
    with pytest.raises(error, match=r"^tolerance must be"):
        hardmine.verify(tolerance=tolerance)
