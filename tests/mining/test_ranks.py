"""Samplers and miners with several ranks: their batches together are those of one process."""

import collections
import datetime
import io
import itertools
import re

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from hardmine.mining import AnchorNeighborSampler, ClassBalancedSampler, ClassDistances
from miners import assert_same_batches, make_miner

# Classes 0 to 11 of 5 images, interleaved, and class 12 of 7.
LABELS = torch.cat([torch.arange(12).repeat(5), torch.full((7,), 12)])
PLACES = torch.rand(13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
DISTANCES = ClassDistances(torch.arange(13), (PLACES[:, None] - PLACES[None, :]).abs())


def near_classes(**ranks):
    sampler = AnchorNeighborSampler(LABELS, 2, 3, 2, batches_per_epoch=6, **ranks)
    sampler.update(DISTANCES)
    return sampler


SAMPLERS = {
    "whole classes": lambda **ranks: ClassBalancedSampler(LABELS, 10, 2, batches_per_epoch=6, **ranks),
    "a batch size": lambda **ranks: ClassBalancedSampler(
        LABELS, batch_size=17, images_per_class=7, small_classes="use_all", **ranks
    ),
    "varying sizes": lambda **ranks: ClassBalancedSampler(
        LABELS, 3, 7, small_classes="use_all", batches_per_epoch=9, **ranks
    ),
    "near classes": near_classes,
}
RANKS = pytest.mark.parametrize("count", [1, 2, 3, 5])


def ranks_of(name, count):
    return [SAMPLERS[name](num_replicas=count, rank=rank) for rank in range(count)]


@RANKS
@pytest.mark.parametrize("name", SAMPLERS)
def test_ranks_together_draw_batches_of_one_process(name, count):
    plan, ranks = SAMPLERS[name](), ranks_of(name, count)
    assert {len(sampler) for sampler in ranks} == {len(plan)}
    for epoch in range(2):
        batches, shares = list(plan), [list(sampler) for sampler in ranks]
        assert [sampler.epoch for sampler in ranks] == [epoch + 1] * count
        for batch, *parts in zip(batches, *shares, strict=True):
            assert list(itertools.chain(*parts)) == batch, "in the order of the ranks"
            assert len(set(batch)) == len(batch), "an image goes to one rank only"
            sizes = [len(part) for part in parts]
            assert sizes == [len(part) for part in torch.arange(len(batch)).tensor_split(count)]
            assert min(sizes) >= 1


@RANKS
@pytest.mark.parametrize("name", SAMPLERS)
def test_ranks_of_an_epoch_see_each_image_as_often_as_one_process(name, count):
    expected = collections.Counter(itertools.chain(*SAMPLERS[name]()))
    seen = collections.Counter()
    for sampler in ranks_of(name, count):
        seen.update(itertools.chain(*sampler))
    assert seen == expected


@RANKS
@pytest.mark.parametrize("name", SAMPLERS)
def test_ranks_share_a_class_only_at_boundaries(name, count):
    divided = 0
    for parts in zip(*ranks_of(name, count), strict=True):
        held = [set(LABELS[part].tolist()) for part in parts]
        for left, right in itertools.combinations(range(count), 2):
            shared = held[left] & held[right]
            assert len(shared) <= 1
            assert not shared or all(held[between] == shared for between in range(left + 1, right))
            divided += len(shared)
    if name == "whole classes" and count != 3:  # 10 classes
        assert divided == 0
    elif count > 1 and name == "a batch size":
        assert divided > 0


@pytest.mark.parametrize(("before", "after"), [(2, 2), (3, 3), (5, 5), (2, 3), (1, 5), (5, 1)])
@pytest.mark.parametrize("name", SAMPLERS)
def test_epoch_resumes_with_any_number_of_ranks(name, before, after):
    plan = SAMPLERS[name]()
    list(plan)
    expected = list(plan)
    for rank, sampler in enumerate(ranks_of(name, before)):
        list(sampler)
        resumed = SAMPLERS[name](num_replicas=after, rank=min(rank, after - 1))
        if isinstance(sampler, AnchorNeighborSampler):
            file = io.BytesIO()
            torch.save(sampler.state_dict(), file)
            file.seek(0)
            resumed = AnchorNeighborSampler(LABELS, 2, 3, 2, batches_per_epoch=6, num_replicas=after, rank=resumed.rank)
            resumed.load_state_dict(torch.load(file))
        else:
            resumed.epoch = sampler.epoch
        assert list(resumed) == [torch.tensor(batch).tensor_split(after)[resumed.rank].tolist() for batch in expected]


@RANKS
def test_miner_ranks_together_have_images_of_every_batch(count):
    expected = make_miner().epoch()
    epochs = [make_miner(num_replicas=count, rank=rank).epoch() for rank in range(count)]
    for epoch in epochs:
        assert_same_batches(list(epoch), list(expected))
    for batch, *parts in zip(expected, *(epoch.image_rows for epoch in epochs), strict=True):
        assert list(itertools.chain(*parts)) == batch.rows.tolist()
        assert [len(part) for part in parts] == [len(part) for part in batch.rows.tensor_split(count)]


@pytest.mark.parametrize(("before", "after"), [(2, 2), (3, 2), (1, 5)])
def test_miner_resumed_epoch_has_batches_for_any_number_of_ranks(before, after):
    state = make_miner(num_replicas=before, rank=before - 1).epoch().state_dict()
    resumed = [make_miner(num_replicas=after, rank=rank).resumed_epoch(state) for rank in range(after)]
    expected = make_miner().epoch()
    assert_same_batches(list(resumed[0]), list(expected))
    for rank, epoch in enumerate(resumed):
        assert epoch.image_rows == [batch.rows.tensor_split(after)[rank].tolist() for batch in expected]


def test_miner_batch_smaller_than_ranks_raises():
    epoch = make_miner(batch_size=1, batches_per_epoch=3, num_replicas=4, rank=0).epoch()
    with pytest.raises(ValueError, match=r"^num_replicas must be at most 3, the images of the smallest batch, got 4$"):
        _ = epoch.image_rows


CONSTRUCTORS = {**SAMPLERS, "miner": make_miner}


@pytest.mark.parametrize("name", CONSTRUCTORS)
@pytest.mark.parametrize(
    ("ranks", "error", "message"),
    [
        ({"num_replicas": 0, "rank": 0}, ValueError, "num_replicas must be from 1 to 2147483647, got 0"),
        ({"num_replicas": 2.0, "rank": 0}, TypeError, "num_replicas must be an integer, got float"),
        ({"num_replicas": 2, "rank": 2}, ValueError, "rank must be from 0 to 1, got 2"),
        ({"num_replicas": 2, "rank": -1}, ValueError, "rank must be from 0 to 1, got -1"),
        ({"num_replicas": 2, "rank": True}, TypeError, "rank must be an integer, got bool"),
        ({"num_replicas": 2}, ValueError, "rank must be given together with num_replicas=2, got None"),
        ({"rank": 1}, ValueError, "num_replicas must be given together with rank=1, got None"),
    ],
)
def test_ranks_invalid_raise(name, ranks, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        CONSTRUCTORS[name](**ranks)


@pytest.mark.parametrize(
    ("name", "smallest"), [("whole classes", 20), ("a batch size", 17), ("varying sizes", 15), ("near classes", 12)]
)
def test_ranks_more_than_images_of_smallest_batch_raise(name, smallest):
    assert min(len(batch) for batch in SAMPLERS[name](num_replicas=smallest, rank=0)) == 1
    message = f"num_replicas must be at most {smallest}, the images of the smallest batch, got {smallest + 1}"
    with pytest.raises(ValueError, match=f"^{message}$"):
        SAMPLERS[name](num_replicas=smallest + 1, rank=0)


def draw_in_process(rank, count, store, results):
    """Run by each process: its batches, with the ranks of the process group."""
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=datetime.timedelta(seconds=60)
    )
    drawn = {name: list(sampler()) for name, sampler in SAMPLERS.items()} | {"miner": make_miner().epoch().image_rows}
    torch.save(drawn, results / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.subprocess
def test_ranks_default_to_process_group(tmp_path):
    arguments = (2, tmp_path / "store", tmp_path)
    torch.multiprocessing.start_processes(draw_in_process, arguments, nprocs=2, start_method="spawn")
    for rank in range(2):
        drawn = torch.load(tmp_path / f"{rank}.pt")
        for name, batches in drawn.items():
            if name == "miner":
                expected = make_miner(num_replicas=2, rank=rank).epoch().image_rows
            else:
                expected = list(SAMPLERS[name](num_replicas=2, rank=rank))
            assert batches == expected
