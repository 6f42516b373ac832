"""hardmine.verify around ops with ``group=``: the reference sees the rows of all ranks, and all raise alike."""

import re

import pytest
import torch
import torch.distributed as dist

import hardmine
from group_calls import batch_of
from hardmine import VerificationError, losses, ops
from support.inputs import seeded
from support.ranks import COUNTS_FROM_ONE, run_ranks

CALLS = [
    ("select_triplets", {}),
    ("select_triplets", {"positive": "random", "negative": "random"}),
    ("triplet_loss", {"reduction": "none"}),
    ("triplet_loss", {"term": "hinge", "gradient_reduction": "sum"}),
    ("sct_loss", {"preset": "code2020"}),
    ("tuplet_loss", {"positive": "all"}),
    ("tuplet_loss", {"reduction": "sum"}),
    ("select_triplets", {"ignore_index": 0}),
    ("sct_loss", {"ignore_index": -1}),
    ("knn", {"k": 3}),
    ("indexed_triplet_loss", {"reduction": "none"}),
    ("indexed_triplet_loss", {}),
    ("global_loss", {}),
    ("batch_all_triplet_loss", {"reduction": "mean_active"}),
]


def call(name, options, batch, refs, rank, dtype=torch.float64):
    part = batch.part(rank)
    rows, options = batch.rows[part].to(dtype), {"group": dist.group.WORLD, **options}
    if name in ("indexed_triplet_loss", "global_loss"):
        triplets = torch.stack([torch.randperm(len(batch.rows), generator=seeded(t))[:3] for t in range(3 + 5 * rank)])
        return getattr(ops, name)(rows, triplets, **options)
    gallery = () if refs is None else (refs.rows[refs.part(rank)].to(dtype), refs.labels[refs.part(rank)])
    ids = {"ids": batch.ids[part]} | ({} if refs is None else {"ref_ids": refs.ids[refs.part(rank)]})
    if name == "knn":
        return ops.knn(rows, *gallery[:1], **ids, **options)
    if "random" in options.values():
        options["generator"] = seeded(9)
    return getattr(ops, name)(rows, batch.labels[part], *gallery, **ids, **options)


@COUNTS_FROM_ONE
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_verify_with_group_agrees_with_reference_of_all_rows(dtype, count):
    cases = [
        (batch_of(split, count), batch_of("uneven", count, seed=4) if with_refs else None)
        for split, with_refs in (("uneven", False), ("a rank without rows", True))
    ]

    def verify(rank):
        with hardmine.verify(every=1) as report:
            for name, options in CALLS:
                for batch, refs in cases:
                    call(name, options, batch, refs, rank, dtype)
        return {name: op.checks for name, op in report.ops.items()}, report.largest_deviation

    expected = {}
    for name, _ in CALLS:
        expected[name] = expected.get(name, 0) + len(cases)
    found = run_ranks(count, verify)
    assert [checks for checks, _ in found] == [expected] * count
    assert found[0][1] > 0
    assert all(deviation == 0 for _, deviation in found[1:])


@pytest.mark.parametrize("wrong_rank", [0, 1])
def test_verify_with_group_wrong_result_on_one_rank_raises_on_every_rank(wrong_rank, tmp_path):
    """One rank gets the gradient of other labels."""
    batch = batch_of("equal", 2)

    def verify(rank):
        scatter = torch.ops.hardmine.all_gather_rows_backward
        part = batch.part(rank)
        labels = batch.labels[part]

        def wrong(gradient, *arguments):
            return scatter(gradient, *arguments) * (1.5 if rank == wrong_rank else 1)

        torch.ops.hardmine.all_gather_rows_backward = wrong
        with hardmine.verify(every=1, save_dir=tmp_path), pytest.raises(VerificationError) as raised:
            ops.tuplet_loss(batch.rows[part], labels, group=dist.group.WORLD)
        torch.ops.hardmine.all_gather_rows_backward = scatter
        with hardmine.verify(every=1, save_dir=tmp_path):
            ops.tuplet_loss(batch.rows[part], labels, group=dist.group.WORLD)
        return str(raised.value), raised.value.path

    first, second = run_ranks(2, verify)
    assert first == second
    assert re.match(r"tuplet_loss \(call 1\) disagrees with its reference: the gradient deviates by ", first[0])
    saved = torch.load(first[1])
    assert torch.equal(saved["arguments"]["embeddings"], batch.rows)
    assert torch.equal(saved["arguments"]["labels"], batch.labels)


def test_verify_on_one_rank_only_raises_on_every_rank():
    batch = batch_of("equal", 2)
    message = "^hardmine.verify must check the same calls on every rank, got True on rank 0 and False on rank 1$"

    def verify(rank):
        part = batch.part(rank)
        loss_of = losses.SCTLoss(group=dist.group.WORLD)
        with hardmine.verify(every=1 + rank):
            loss = loss_of(batch.rows[part], batch.labels[part])
            with pytest.raises(ValueError, match=message):
                loss_of(batch.rows[part], batch.labels[part])
        assert loss_of(batch.rows[part], batch.labels[part]) == loss

    run_ranks(2, verify)
