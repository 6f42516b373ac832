"""DTensors are refused by name; torch.vmap and torch.func.grad with a group."""

import pytest
import torch
import torch.distributed as dist
from torch.func import grad

from hardmine import losses, metrics, ops
from support.comparisons import assert_bitwise_equal
from support.inputs import random_inputs
from support.ranks import run_ranks

ROWS, LABELS = random_inputs(8, 4, 3)[:2]
PROBLEMS = torch.stack([ROWS, ROWS.flip(1)])
CALLS = {
    "embeddings": [
        (ROWS, lambda t: ops.triplet_loss(t, LABELS)),
        (ROWS, lambda t: ops.triplet_loss(t, LABELS, group=dist.group.WORLD)),
        (ROWS * 0.1, lambda t: ops.triplet_loss(t, LABELS, similarity="hyperbolic")),
        (ROWS, lambda t: ops.tuplet_loss(t, LABELS, ignore_index=2)),
        (ROWS, lambda t: losses.SupConLoss()(t, LABELS)),
        (ROWS, lambda t: torch.vmap(lambda y: ops.triplet_loss(t, y))(LABELS.expand(2, -1))),
        (ROWS, lambda t: metrics.recall_at_k(t, LABELS, k=1)),
    ],
    "labels": [(LABELS, lambda t: ops.sct_loss(ROWS, t))],
    "ref_embeddings": [(ROWS, lambda t: ops.sct_loss(ROWS, LABELS, t, LABELS))],
    "weights": [(torch.ones(8), lambda t: ops.sct_loss(ROWS, LABELS, weights=t))],
    "temperature": [(torch.tensor(0.1), lambda t: ops.supcon_loss(ROWS, LABELS, temperature=t))],
    "query": [(ROWS, lambda t: ops.info_nce_loss(t, ROWS))],
    "negative_keys": [(ROWS, lambda t: ops.info_nce_loss(ROWS, ROWS, t))],
    "triplets": [(torch.tensor([[0, 1, 2]]), lambda t: ops.indexed_triplet_loss(ROWS, t))],
}


def test_dtensor_raises_by_name():
    def raise_each(rank):
        from torch.distributed.tensor import DTensor, Replicate, Shard, init_device_mesh

        mesh = init_device_mesh("cpu", (2,))
        for name, calls in CALLS.items():
            for tensor, call in calls:
                placement = Shard(0) if tensor.dim() else Replicate()
                with pytest.raises(
                    TypeError, match=rf"{name} must be a plain tensor, got a DTensor: pass {name}.to_loc"
                ):
                    call(DTensor.from_local(tensor, mesh, [placement]))
                call(DTensor.from_local(tensor, mesh, [placement]).to_local())

    run_ranks(2, raise_each)


@pytest.mark.parametrize("op", [ops.triplet_loss, ops.tuplet_loss, ops.supcon_loss])
def test_vmap_with_group_equals_loop(op):
    def compare(rank):
        def call(rows):
            own = slice(rank * 4, rank * 4 + 4)
            return op(rows[own], LABELS[own], group=dist.group.WORLD)

        for each in (call, grad(call)):
            expected = torch.stack([each(rows) for rows in PROBLEMS])
            assert expected.any()
            assert_bitwise_equal(torch.vmap(each)(PROBLEMS), expected)

    run_ranks(2, compare)
