"""recall_at_k with ``group=``: the recall of one process on the queries and galleries of all ranks."""

import math

import pytest
import torch
import torch.distributed as dist

from group_calls import SIZES, batch_of
from hardmine.metrics import recall_at_k
from support.ranks import COUNTS_FROM_ONE, run_ranks


def inputs_of(batch, gallery, with_ids, rank=None):
    found = {}
    for prefix, rows in (("", batch), ("ref_", gallery)):
        if rows is not None:
            part = rows.part(rank)
            found |= {f"{prefix}embeddings": rows.rows[part], f"{prefix}labels": rows.labels[part]}
            found |= {f"{prefix}ids": rows.ids[part]} if with_ids else {}
    return found


@COUNTS_FROM_ONE
@pytest.mark.parametrize("with_ids", [False, True])
def test_recall_with_group_is_that_of_one_process(with_ids, count):
    cases = [
        (batch_of(split, count), batch_of(gallery, count, seed=3) if gallery else None)
        for split in ("uneven", "a rank without rows", *(["all rows on one rank"] if count > 1 else []))
        for gallery in (None, "equal", "a rank without rows")
    ]

    sizes = ((1, 2, 5, 1024), (1, 2, 5))  # by neighbors; by counting

    def recalls(rank):
        return [
            recall_at_k(**inputs_of(*case, with_ids, rank), k=k, group=dist.group.WORLD)
            for case in cases
            for k in sizes
        ]

    expected = [recall_at_k(**inputs_of(*case, with_ids), k=k) for case in cases for k in sizes]
    assert any(0 < recall[1] < 1 for recall in expected)
    for found in run_ranks(count, recalls):
        assert found == expected


def test_recall_with_group_non_finite_or_without_positives():
    batch = batch_of("uneven", 2)
    total = sum(SIZES["uneven"][:2])

    def recalls(rank):
        part = batch.part(rank)
        rows = batch.rows[part].clone()
        if rank == 1:
            rows[0, 0] = math.nan
        assert all(math.isnan(r) for r in recall_at_k(rows, batch.labels[part], group=dist.group.WORLD).values())
        message = f"^labels must give at least one query a positive in the gallery, got none for {total} queries$"
        with pytest.raises(ValueError, match=message):
            recall_at_k(batch.rows[part], torch.arange(total)[part], group=dist.group.WORLD)
        with pytest.raises(ValueError, match=r"^on rank 1: k must be one or more integers from 1 to 1024, got \[0\]$"):
            recall_at_k(batch.rows[part], batch.labels[part], k=1 - rank, group=dist.group.WORLD)
        with pytest.raises(
            ValueError, match=r"^k must be the same on every rank, got \[1\] on rank 0 and \[2\] on rank 1"
        ):
            recall_at_k(batch.rows[part], batch.labels[part], k=1 + rank, group=dist.group.WORLD)
        ignored = None if rank else -1
        with pytest.raises(ValueError, match=r"^ignore_index must be the same on every rank, got -1 on rank 0"):
            recall_at_k(batch.rows[part], batch.labels[part], ignore_index=ignored, group=dist.group.WORLD)

    run_ranks(2, recalls)


def test_recall_with_group_and_ignored_label_is_that_of_one_process():
    batch, gallery = batch_of("uneven", 2), batch_of("equal", 2, seed=3)
    label = int(batch.labels[0])

    def recalls(rank):
        options = {"ignore_index": label, "group": dist.group.WORLD}
        with pytest.raises(ValueError, match=r"^on rank 1: labels must be \[B\] = "):
            recall_at_k(batch.rows[batch.part(rank)], batch.labels[batch.part(rank)][rank:], **options)
        return recall_at_k(**inputs_of(batch, gallery, True, rank), **options)

    expected = recall_at_k(**inputs_of(batch, gallery, True), ignore_index=label)
    assert expected != recall_at_k(**inputs_of(batch, gallery, True))
    assert run_ranks(2, recalls) == [expected] * 2
