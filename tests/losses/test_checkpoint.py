"""Losses in `torch.utils.checkpoint`, which recomputes them in the backward pass: the same losses, or an error."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from hardmine import losses, mining, ops
from support.comparisons import assert_bitwise_equal
from support.inputs import random_inputs, seeded

BATCH = random_inputs(60, classes=3)[:2]
RANDOM = {"positive": "random", "negative": "random"}
MESSAGE = (
    r"^generator must be None inside a backward pass, where torch\.utils\.checkpoint recomputes a forward pass: "
    r".*, got a torch\.Generator$"
)
each_mode = pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "not reentrant"])


def gradient(loss: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The gradient of the rows; a reentrant checkpoint does not support `torch.autograd.grad`."""
    rows.grad = None
    loss.backward()
    return rows.grad


@each_mode
@pytest.mark.parametrize("name", ["TripletLoss", "SCTLoss"])
def test_module_default_draws_under_checkpoint_repeat(name, use_reentrant):
    """Two losses of one network draw different numbers. The backward pass repeats the draws in the reverse order."""
    loss_of, rows = getattr(losses, name)(**RANDOM), BATCH[0].clone().requires_grad_()
    network = torch.nn.Linear(8, 4)

    def step(x: torch.Tensor) -> torch.Tensor:
        return loss_of(network(x), BATCH[1])

    torch.manual_seed(5)
    first, second = (checkpoint(step, rows, use_reentrant=use_reentrant) for _ in range(2))
    assert first != second, "the draws are the same ones"
    found = gradient(first + 2 * second, rows)
    torch.manual_seed(5)
    expected_first, expected_second = step(rows), step(rows)
    assert_bitwise_equal(first, expected_first)
    assert_bitwise_equal(second, expected_second)
    torch.testing.assert_close(found, gradient(expected_first + 2 * expected_second, rows))


@each_mode
@pytest.mark.parametrize("name", ["TripletLoss", "SCTLoss"])
def test_module_generator_under_checkpoint_raises(name, use_reentrant):
    rows, generator = BATCH[0].clone().requires_grad_(), seeded(0)
    loss_of = getattr(losses, name)(**RANDOM, generator=generator)
    loss = checkpoint(lambda x: loss_of(x, BATCH[1]), rows, use_reentrant=use_reentrant)
    state = generator.get_state()
    with pytest.raises(RuntimeError, match=MESSAGE):
        loss.backward()
    assert torch.equal(generator.get_state(), state)
    # Outside a checkpoint no draw is repeated.
    gradient(loss_of(rows, BATCH[1]), rows)
    assert rows.grad.abs().sum() > 0


@each_mode
@pytest.mark.parametrize("op", ["select_triplets", "random_triplets"])
def test_op_generator_under_checkpoint_raises(op, use_reentrant):
    rows, generator = BATCH[0].clone().requires_grad_(), seeded(0)

    def loss_of(x: torch.Tensor) -> torch.Tensor:
        if op == "random_triplets":
            triplets = mining.random_triplets(BATCH[1], generator=generator)
            return ops.indexed_triplet_loss(x, triplets)
        return ops.select_triplets(x, BATCH[1], **RANDOM, generator=generator).positive_similarity.sum()

    loss = checkpoint(loss_of, rows, use_reentrant=use_reentrant)
    with pytest.raises(RuntimeError, match=MESSAGE):
        loss.backward()


@each_mode
@pytest.mark.parametrize(
    "module", [losses.SCTLoss(), losses.EPLoss(), losses.HierarchicalTripletLoss(classes=BATCH[1])]
)
def test_module_without_draws_under_checkpoint_is_equal(module, use_reentrant):
    rows = BATCH[0].clone().requires_grad_()
    found = gradient(checkpoint(lambda x: module(x, BATCH[1]), rows, use_reentrant=use_reentrant), rows)
    assert_bitwise_equal(found, gradient(module(rows, BATCH[1]), rows))
