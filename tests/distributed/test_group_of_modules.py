"""Loss modules with ``group=``: constructors check it, and calls pass it to the op."""

import copy

import pytest
import torch
import torch.distributed as dist

from group_calls import batch_of
from hardmine import losses
from support.ranks import COUNTS_FROM_ONE, run_ranks

MODULES = ("EPHNLoss", "EPLoss", "EPSHNLoss", "HPHNLoss", "NPairLoss", "SCTLoss", "TripletLoss", "TupletLoss")


@COUNTS_FROM_ONE
def test_modules_with_group_have_loss_of_one_process(count):
    batch = batch_of("uneven", count)

    def compute(rank):
        part = batch.part(rank)
        found = []
        for name in MODULES:
            module = getattr(losses, name)(group=dist.group.WORLD)
            loss, number = module(batch.rows[part], batch.labels[part], return_count=True)
            assert copy.deepcopy(module)(batch.rows[part], batch.labels[part]) == loss
            summed = getattr(losses, name)(group=dist.group.WORLD, gradient_reduction="sum")
            assert "gradient_reduction='sum'" in repr(summed)
            assert summed(batch.rows[part], batch.labels[part]) == loss
            found.append((loss, number))
        triplets = torch.tensor([[0, 3, len(batch.rows) - 1]]).repeat(rank + 1, 1)
        found += [
            (module(batch.rows[part], triplets), torch.tensor(0))
            for module in (losses.RatioTripletLoss(group=dist.group.WORLD), losses.GlobalLoss(group=dist.group.WORLD))
        ]
        for module in (
            losses.BatchAllTripletLoss(margin=0.4, group=dist.group.WORLD),
            losses.HierarchicalTripletLoss(classes=[-1, 0, 1], group=dist.group.WORLD),
        ):
            loss, numbers = module(batch.rows[part], batch.labels[part], return_counts=True)
            found.append((loss, numbers.active))
        return found

    expected = [getattr(losses, name)()(batch.rows, batch.labels, return_count=True) for name in MODULES]
    triplets = torch.tensor([[0, 3, len(batch.rows) - 1]]).repeat(count * (count + 1) // 2, 1)
    expected += [(module(batch.rows, triplets), 0) for module in (losses.RatioTripletLoss(), losses.GlobalLoss())]
    for module in (losses.BatchAllTripletLoss(margin=0.4), losses.HierarchicalTripletLoss(classes=[-1, 0, 1])):
        loss, numbers = module(batch.rows, batch.labels, return_counts=True)
        expected.append((loss, numbers.active))
    for found in run_ranks(count, compute):
        for (loss, number), (wanted, wanted_number) in zip(found, expected, strict=True):
            torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=1e-15)
            assert number == wanted_number


@pytest.mark.parametrize("name", [*MODULES, "RatioTripletLoss", "GlobalLoss", "BatchAllTripletLoss"])
def test_module_with_invalid_group_raises_when_constructed(name):
    module = getattr(losses, name)
    with pytest.raises(TypeError, match=r"^group must be a torch.distributed.ProcessGroup or None, got str$"):
        module(group="gloo")
    with pytest.raises(ValueError, match=r"^gradient_reduction must be None without group, got 'sum'$"):
        module(gradient_reduction="sum")


def test_module_with_group_and_invalid_gradient_reduction_raises_when_constructed():
    def construct(rank):
        if rank == 0:  # without a collective, for which the other rank would have to take part
            with pytest.raises(ValueError, match=r"^gradient_reduction must be one of 'mean', 'sum', got 'max'$"):
                losses.SCTLoss(group=dist.group.WORLD, gradient_reduction="max")
            with pytest.raises(ValueError, match=r"^lam must be a number, got 1e\+50, "):
                losses.SCTLoss(group=dist.group.WORLD, lam=1e50)

    run_ranks(2, construct)
