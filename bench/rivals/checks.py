"""Correctness checks that run before any timing."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from hardmine import reference
from rivals import inputs, neighbors
from rivals.cases import EPHN, Case
from rivals.common import Inputs, Rival, gradient_of

UNCHECKED = ("pytorch", "matmul", "matmul_out", "matmul-chunks")  # the reference, and floors, which compute no op
Size = tuple[int, int, int]  # N, D, images per class


@lru_cache(maxsize=4)  # the case's result, and the results that its counterparts must equal
def expected_result(op: str, options: tuple[tuple[str, Any], ...], size: Size) -> Any:
    """The reference's result: a selection, or (loss, gradient)."""
    batch = inputs.cached(inputs.class_samples, *size)
    if op == "sct_loss":
        assert_both_branches(batch)
    output = getattr(reference, op)(batch.embeddings, batch.labels, **dict(options))
    return output if op == "select_triplets" else (output.detach(), gradient_of(batch)(output))


def assert_both_branches(batch: Inputs) -> None:
    """Asserts that both hard and other triplets occur: SCT treats them differently, and both should be timed."""
    selection = reference.select_triplets(batch.embeddings.detach(), batch.labels, **EPHN)
    hard_share = (selection.negative_similarity > selection.positive_similarity).float().mean().item()
    assert 0.05 < hard_share < 0.95, f"{hard_share:.0%} of the triplets are hard"


def assert_same_selection(actual: Any, expected: Any) -> None:
    """Asserts equal indices except near-ties: another summation order may swap similarities that agree to 7 digits."""
    allowed = max(2, len(expected.positive_index) // 200)
    for kind in ("positive", "negative"):
        index, expected_index = getattr(actual, f"{kind}_index"), getattr(expected, f"{kind}_index")
        differing = int((index != expected_index).sum())
        assert differing <= allowed, f"{differing} {kind} indices differ from the reference"
        same = (index == expected_index) & (index >= 0)
        similarity, expected_similarity = getattr(actual, f"{kind}_similarity"), getattr(expected, f"{kind}_similarity")
        torch.testing.assert_close(similarity[same], expected_similarity[same], rtol=1e-4, atol=1e-5)


def assert_same_miner_output(mined: tuple[torch.Tensor, ...], expected: Any) -> None:
    """Compares PML's (anchors, positives, negatives) or (anchors, positives, anchors, negatives) with a selection."""
    anchors, positives, negatives = mined[0], mined[1], mined[-1]
    valid = ((expected.positive_index >= 0) & (expected.negative_index >= 0)).nonzero().squeeze(1)
    allowed = max(2, len(valid) // 200)
    assert torch.equal(anchors, valid), f"PML keeps {len(anchors)} anchors, the reference {len(valid)}"
    differing = (positives != expected.positive_index[valid]) | (negatives != expected.negative_index[valid])
    assert int(differing.sum()) <= allowed, f"{int(differing.sum())} triplets of PML differ from the reference"


def assert_same_loss(
    loss: torch.Tensor,
    gradient: torch.Tensor,
    expected: tuple[torch.Tensor, torch.Tensor],
    row_tolerance: float = 1e-3,  # relative to the largest element
) -> None:
    expected_loss, expected_gradient = expected
    assert expected_gradient.abs().max() > 0, "the reference's gradient is zero"
    torch.testing.assert_close(loss.detach(), expected_loss, rtol=1e-4, atol=1e-6)
    # A near-tie that resolves differently changes the gradient of a few rows. Every other row must agree.
    row_error = (gradient - expected_gradient).abs().amax(1) / expected_gradient.abs().max()
    differing = int((row_error > row_tolerance).sum())
    assert differing <= max(8, len(row_error) // 50), f"the gradients of {differing} rows differ from the reference"


def check(case: Case, rival: Rival, size: Size) -> None:
    """Asserts that the rival's result equals the reference's; for another library, see `Counterpart.equals`.

    `size` names the cached batch on which the rival was built.
    """
    if rival.name in UNCHECKED:
        return
    op, options, scale = case.op, case.options, 1.0
    counterpart = case.counterparts.get(rival.name)
    if counterpart is not None:
        op, options = counterpart.equals or (op, options)
        scale = counterpart.scale
    expected = expected_result(op, tuple(options.items()), size)
    output = rival.forward()
    if rival.backward is not None:
        assert_same_loss(output / scale, rival.backward(output) / scale, expected)
    elif counterpart is not None:
        assert_same_miner_output(output, expected)
    else:
        assert_same_selection(output, expected)


def check_neighbors(rival: Rival, k: int) -> None:
    """Asserts that exact rivals give the lists of faiss, and that the approximate rival reaches its recall."""
    if rival.name.startswith("matmul"):
        return
    expected = neighbors.exact(rival.inputs, k)
    similarity, index = rival.forward()
    assert not (index == torch.arange(len(index))[:, None]).any(), "a list contains its own vector"
    recall = neighbors.recall_of(index, expected.index)
    if rival.name == "hnswlib":
        # The graph depends on which thread comes first, so its recall may be slightly below the target.
        assert recall > neighbors.TARGET_RECALL - 0.002, f"recall is {recall:.4f}"
        return
    # If the k-th and the next neighbor are about equally far, either may be in the list. So all similarities must
    # agree, but only nearly all indices.
    torch.testing.assert_close(similarity, expected.similarity, rtol=0, atol=2e-6)
    assert recall > 0.999, f"only {recall:.3%} of the neighbors equal those of exact search"
