"""SmartMiner: what its batches hold, what it leaves unchanged, its records, and resuming."""

import dataclasses
import json
import math

import pytest
import torch

from hardmine import ops
from hardmine.losses import RatioTripletLoss
from hardmine.mining import AdaptiveKappa, SmartMiner, smart_triplets
from miners import (
    DEPTH,
    FULL_EFFORT,
    LABELS,
    assert_same_batches,
    make_images,
    make_miner,
    original_triplets,
    run_epoch,
)
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded
from support.processes import threads


def train(miner: SmartMiner, network: torch.nn.Module, epochs: int) -> None:
    """Train epochs of gradient steps that depend only on the network and the miner's batches."""
    loss_of = RatioTripletLoss(reduction="none")
    for _ in range(epochs):
        with miner.epoch() as epoch:
            for batch in epoch:
                losses = loss_of(network(miner.images[batch.rows]), batch.triplets)
                network.zero_grad()
                losses.mean().backward()
                with torch.no_grad():
                    for parameter in network.parameters():
                        parameter -= 0.1 * parameter.grad
                epoch.observe(batch, losses)


def network_of(seed: int = 0) -> torch.nn.Module:
    network = torch.nn.Linear(DEPTH, DEPTH)
    with torch.no_grad():
        network.weight.copy_(torch.randn(DEPTH, DEPTH, generator=seeded(seed)))
        network.bias.zero_()
    return network


# What a batch holds


def test_epoch_batches_list_images_once_and_hold_valid_triplets():
    batches = run_epoch(make_miner(mined_share=0.5))
    assert len(batches) == len(LABELS) // 16
    for batch in batches:
        assert batch.triplets.shape == (16, 3)
        assert torch.equal(batch.rows, batch.rows.unique())
        assert torch.equal(batch.triplets.unique(), torch.arange(len(batch.rows)))
        anchor, positive, negative = LABELS[batch.rows[batch.triplets]].T
        assert torch.equal(anchor, positive)
        assert (anchor != negative).all()
        assert (batch.triplets[:, 0] != batch.triplets[:, 1]).all()


def test_epoch_mined_triplets_equal_smart_triplets():
    batches = run_epoch(make_miner(mined_share=1.0, batches_per_epoch=20))
    found = ops.knn(make_images(), k=30)
    all_mined = smart_triplets(found.index, 2 - 2 * found.similarity, LABELS, 1.0, generator=seeded(1_000_003))
    mined = original_triplets(batches)[torch.cat([batch.mined for batch in batches])]
    assert 0 < len(mined) < 20 * 16
    assert sorted(mined.tolist()) == sorted(all_mined.triplets[all_mined.mined].tolist())


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 4), (0.5, 8), (0.6, 10), (1.0, 16)])
def test_epoch_mined_share_is_exact_if_enough_are_mined(share, count):
    miner = make_miner(mined_share=share, per_anchor=4, batches_per_epoch=20)
    batches = run_epoch(miner)
    assert [int(batch.mined.sum()) for batch in batches] == [count] * 20
    assert miner.history[0].mined_share == count / 16
    mined = original_triplets(batches)[torch.cat([batch.mined for batch in batches])]
    assert len(mined.unique(dim=0)) == 20 * count, "a mined triplet is used twice"


def test_epoch_too_few_mined_are_spread_evenly():
    miner = make_miner(mined_share=1.0, batches_per_epoch=20)
    batches = run_epoch(miner)
    counts = [int(batch.mined.sum()) for batch in batches]
    assert 0 < sum(counts) < 20 * 16
    assert max(counts) - min(counts) <= 1
    assert miner.history[0].mined_share == sum(counts) / (20 * 16)


def test_epoch_used_mined_triplets_are_drawn():
    miner = make_miner(mined_share=0.25, batches_per_epoch=6)
    epochs = [original_triplets(run_epoch(miner)).view(6, 16, 3)[:, :4, 0].flatten() for _ in range(2)]
    assert not torch.equal(*epochs)
    for anchors in epochs:
        assert anchors.min() < 40
        assert anchors.max() >= 80, "only the first anchors are used"
        assert not torch.equal(anchors, anchors.sort().values), "batches hold neighboring anchors"


def test_epoch_random_triplets_use_every_anchor_before_repeating():
    batches = run_epoch(make_miner(mined_share=0.0, batches_per_epoch=20))
    anchors = original_triplets(batches)[:, 0]
    assert sorted(anchors.bincount().tolist()) == [2] * 40 + [3] * 80  # of 320 triplets
    assert torch.equal(anchors[:120].sort().values, torch.arange(120))
    assert not torch.equal(anchors[:120], torch.arange(120)), "not shuffled"


def test_epochs_differ_and_seed_repeats():
    first, again, other = make_miner(seed=3), make_miner(seed=3), make_miner(seed=4)
    torch.manual_seed(0)
    epochs = [run_epoch(first), run_epoch(first)]
    assert not torch.equal(original_triplets(epochs[0]), original_triplets(epochs[1]))
    torch.manual_seed(1)
    with threads(1):
        assert_same_batches(run_epoch(again), epochs[0])
    assert_same_batches(run_epoch(again), epochs[1])
    assert not torch.equal(original_triplets(run_epoch(other)), original_triplets(epochs[0]))


def test_epoch_before_controller_starts_embeds_nothing():
    calls = []

    def model(images):
        calls.append(len(images))
        return images

    miner = make_miner(model, kappa=AdaptiveKappa(random_epochs=2))
    plain = make_miner(mined_share=0.0)
    for number in (1, 2):
        with miner.epoch() as epoch:
            assert (epoch.number, epoch.kappa, epoch.mined_share) == (number, None, 0.0)
            assert_same_batches(epoch, run_epoch(plain))
            epoch.observe(epoch[0], torch.zeros(16))
        assert miner.history[-1].method is None
    assert not calls
    assert miner.epoch().kappa == miner.kappa.kappa > 0
    assert sum(calls) == len(LABELS)


# The two ways to the lists


@pytest.mark.parametrize("per_anchor", [1, 3])
def test_epoch_fanng_with_full_effort_equals_exact(per_anchor):
    exact = make_miner(method="exact", per_anchor=per_anchor)
    graph = make_miner(method="fanng", per_anchor=per_anchor, fanng={"init": "last", **FULL_EFFORT})
    for _ in range(2):  # the second from a warm start
        assert_same_batches(run_epoch(graph), run_epoch(exact))
    assert [miner.history[1].method for miner in (exact, graph)] == ["exact", "fanng"]
    assert graph.history[0].mined_share > 0


def test_epoch_distances_are_squared_euclidean_of_unit_rows(monkeypatch):
    seen = {}

    def watched(lists, distances, *rest, **options):
        seen[len(seen)] = lists, distances
        return smart_triplets(lists, distances, *rest, **options)

    monkeypatch.setattr("hardmine.mining.miner.smart_triplets", watched)
    run_epoch(make_miner(method="exact"))
    run_epoch(make_miner(method="fanng", fanng=FULL_EFFORT))
    unit = torch.nn.functional.normalize(make_images().double())
    for lists, distances in seen.values():
        expected = (unit[:, None] - unit[lists]).square().sum(2)
        torch.testing.assert_close(distances.double(), expected, rtol=1e-5, atol=1e-6)


def test_epoch_fanng_starts_from_lists_or_last_graph(monkeypatch):
    from hardmine.fanng import Index

    started, build = [], Index.build.__func__

    def watched(cls, vectors, **options):
        started.append(options["init"])
        return build(cls, vectors, **options)

    monkeypatch.setattr(Index, "build", classmethod(watched))
    miner = make_miner(method="fanng", fanng={"init": "last"})
    for _ in range(3):
        run_epoch(miner)
    assert started[0] == "auto"
    assert all(isinstance(index, Index) for index in started[1:])
    assert started[1] is not started[2]
    for fanng, expected in ((None, "auto"), ({"init": "auto"}, "auto"), ({"init": None}, None)):
        cold = make_miner(method="fanng", fanng=fanng)
        started.clear()
        for _ in range(2):
            run_epoch(cold)
        assert started == [expected, expected]


def test_epoch_default_method_is_exact():
    miner = make_miner()
    run_epoch(miner)
    assert miner.history[0].method == "exact"


# What stays unchanged


class Modes(torch.nn.Module):
    """Records the modes that it runs in, and fails or is interrupted on request."""

    def __init__(self, error=None):
        super().__init__()
        self.frozen, self.trained, self.error = torch.nn.BatchNorm1d(DEPTH), torch.nn.Dropout(0.5), error
        self.seen = []

    def forward(self, images):
        self.seen.append((self.training, self.frozen.training, self.trained.training, torch.is_grad_enabled()))
        if self.error and len(self.seen) == 2:
            raise self.error
        return self.trained(self.frozen(images))


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), RuntimeError("broken")])
def test_epoch_restores_model_modes(error):
    model = Modes(error)
    model.frozen.eval()
    miner = make_miner(model, embed_chunk=50)
    if error is None:
        run_epoch(miner)
        assert len(model.seen) == 3, "120 images in chunks of 50"
    else:
        with pytest.raises(type(error)):
            miner.epoch()
    assert set(model.seen) == {(False, False, False, False)}
    assert (model.training, model.frozen.training, model.trained.training) == (True, False, True)
    assert torch.is_grad_enabled()


def test_epoch_leaves_global_generator_unchanged():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    run_epoch(make_miner(mined_share=0.5))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("method", ["exact", "fanng"])
def test_epoch_interrupted_leaves_miner_unchanged(method):
    settings = {"method": method, "kappa": AdaptiveKappa(random_epochs=1)}
    straight, miner = make_miner(**settings | {"kappa": AdaptiveKappa(random_epochs=1)}), make_miner(**settings)
    expected = [batches for _ in range(3) for batches in [train_and_collect(straight)]]
    seen = [train_and_collect(miner)]
    state = miner.state_dict()
    with pytest.raises(KeyboardInterrupt):
        interrupted_epoch(miner, state)
    assert miner.state_dict() == state
    seen += [train_and_collect(miner), train_and_collect(miner)]
    for actual, wanted in zip(seen, expected, strict=True):
        assert_same_batches(actual, wanted)


def interrupted_epoch(miner: SmartMiner, state: dict) -> None:
    with miner.epoch() as epoch:
        epoch.observe(epoch[0], torch.ones(16))
        assert miner.state_dict() == state, "an epoch that is under way is in the state"
        raise KeyboardInterrupt


def train_and_collect(miner: SmartMiner) -> list:
    """The batches of an epoch in which every second triplet has a positive loss."""
    with miner.epoch() as epoch:
        for batch in epoch:
            epoch.observe(batch, torch.arange(len(batch.mined)) % 2)
        return list(epoch)


# Records and resuming


def test_epoch_record_has_errors_and_times():
    miner = make_miner(mined_share=0.5)
    with miner.epoch() as epoch:
        assert math.isnan(epoch.error)
        assert math.isnan(epoch.mined_error)
        losses = torch.zeros(16)
        losses[:3], losses[8:9] = 0.25, 0.5  # mined triplets come first: 3 of 8 mined, and 1 of 8 random
        assert epoch.observe(epoch[0], losses) == 4 / 16
        assert epoch.observe(epoch[1], losses > 0) == 8 / 32
        assert epoch.observe(epoch[2], torch.zeros(16)) == 8 / 48, "rounded to float32"
        epoch.observe(epoch[3], losses)
        assert epoch.observe(epoch[4], losses) == 16 / 80
        assert epoch.observe(epoch[5], torch.ones(16)) == 32 / 96
    record = miner.history[0]
    assert (record.epoch, record.kappa, record.method) == (1, 1.0, "exact")
    assert (record.error, record.mined_error, record.mined_share) == (32 / 96, 20 / 48, 0.5)
    parts = (record.embedding_seconds, record.list_seconds, record.triplet_seconds)
    assert min(parts) > 0
    assert sum(parts) <= record.epoch_seconds
    assert record.mining_share == (parts[1] + parts[2]) / record.epoch_seconds
    assert record.embedding_share == parts[0] / record.epoch_seconds


def test_epoch_end_updates_controller_with_error_of_all_triplets():
    controller = AdaptiveKappa(random_epochs=0)
    twin = AdaptiveKappa(random_epochs=0)
    miner = make_miner(kappa=controller, mined_share=0.5)
    with miner.epoch() as epoch:
        epoch.observe(epoch[0], torch.arange(16) < 4)
        assert miner.kappa.kappa == twin.kappa, "the controller has moved within the epoch"
    assert controller.kappa == twin.update(0.25)


@pytest.mark.parametrize("kappa", ["adaptive", 1.0])
@pytest.mark.parametrize("through_json", [False, True])
def test_load_state_dict_resumes_bitwise_equal_run(kappa, through_json):
    def fresh():
        network = network_of()
        controller = AdaptiveKappa(random_epochs=1) if kappa == "adaptive" else kappa
        return make_miner(network, kappa=controller, mined_share=0.75, seed=5), network

    straight, straight_network = fresh()
    train(straight, straight_network, 5)
    first, network = fresh()
    train(first, network, 2)
    state = first.state_dict()
    state = json.loads(json.dumps(state)) if through_json else state
    resumed, resumed_network = fresh()
    resumed_network.load_state_dict(network.state_dict())
    resumed.load_state_dict(state)
    train(resumed, resumed_network, 3)
    assert_bitwise_equal(resumed_network.weight, straight_network.weight)
    assert not torch.equal(network.weight, straight_network.weight)

    def untimed(miner):
        records = [dataclasses.asdict(record) for record in miner.history]
        return [{name: value for name, value in record.items() if "seconds" not in name} for record in records]

    assert str(untimed(resumed)) == str(untimed(straight))  # as text, where NaN equals NaN


def test_load_state_dict_of_other_run_raises():
    miner, state = make_miner(kappa=2.0), make_miner(kappa=2.0).state_dict()
    for changes, message in [
        ({"images": 7}, "state must be of a miner with images = 120, got 7"),
        ({"seed": 7}, "state must be of a miner with seed = 0, got 7"),
        ({"seed": "0"}, r"state\['seed'\] must be an integer, got '0'"),
        ({"kappa": 3.0}, r"state must be of a miner with kappa = 2\.0, got 3\.0"),
        ({"kappa": {}}, "state must be of a miner with a fixed kappa"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            miner.load_state_dict(state | changes)
    with pytest.raises(ValueError, match="an adaptive kappa"):
        make_miner(kappa=None).load_state_dict(state)
    del state["history"], state["seed"]
    with pytest.raises(ValueError, match="state must have the entries images, seed, kappa, history, got images, kappa"):
        miner.load_state_dict(state)


# Data sets and labels


def test_epoch_data_set_equals_tensor():
    expected = run_epoch(make_miner())
    for data in (torch.utils.data.TensorDataset(make_images(), LABELS), list(make_images())):
        assert_same_batches(run_epoch(make_miner(images=data, embed_chunk=7)), expected)


def test_epoch_image_rows_drive_data_loader_in_order():
    data = torch.utils.data.TensorDataset(make_images(), LABELS)
    with make_miner(images=data).epoch() as epoch:
        loader = torch.utils.data.DataLoader(data, batch_sampler=epoch.image_rows)
        for batch, (images, labels) in zip(epoch, loader, strict=True):
            assert torch.equal(images, make_images()[batch.rows])
            assert torch.equal(labels, LABELS[batch.rows])


@pytest.mark.parametrize("method", ["exact", "fanng"])
def test_epoch_images_without_positive_are_never_anchors(method):
    labels = LABELS.clone()
    labels[5], labels[77] = 1000, -4
    triplets = original_triplets(run_epoch(make_miner(labels=labels, method=method, batches_per_epoch=30)))
    assert not {5, 77} & set(triplets[:, :2].flatten().tolist())
    assert {5, 77} <= set(triplets[:, 2].tolist()), "they may be negatives"


def test_epoch_lists_longer_than_set_are_valid():
    labels = torch.tensor([0, 0, 1])
    batches = run_epoch(make_miner(images=make_images()[:3], labels=labels, batch_size=4, neighbors=50))
    triplets = original_triplets(batches).unique(dim=0).tolist()
    assert set(map(tuple, triplets)) <= {(0, 1, 2), (1, 0, 2)}


def test_epoch_ended_twice_raises():
    miner = make_miner()
    epoch = miner.epoch()
    with epoch:
        pass
    with pytest.raises(RuntimeError, match="epoch 1 has already ended, the next is epoch 2"), epoch:
        pass
    with pytest.raises(TypeError, match="a SmartMiner is not iterable"):
        iter(miner)


def test_miner_progress_shows_bars(capsys):
    run_epoch(make_miner(method="fanng"))
    assert not capsys.readouterr().err
    run_epoch(make_miner(method="fanng", progress=True))
    shown = capsys.readouterr().err
    assert "embedding" in shown
    assert "neighbors" in shown


def test_resumed_epoch_continues_bitwise_equal():
    network, miner = network_of(), make_miner(network_of(), kappa=AdaptiveKappa(), batches_per_epoch=6)
    train(miner, network, 2)
    losses = torch.arange(16.0) % 3
    with miner.epoch() as epoch:
        for batch in list(epoch)[:2]:
            epoch.observe(batch, losses)
        saved = {"miner": miner.state_dict(), "epoch": epoch.state_dict()}
        for batch in list(epoch)[2:]:
            epoch.observe(batch, losses * 0)
    other = make_miner(network_of(seed=1), kappa=AdaptiveKappa(), batches_per_epoch=6)
    other.load_state_dict(saved["miner"])
    with other.resumed_epoch(saved["epoch"]) as resumed:
        assert_same_batches(resumed, epoch)
        assert (resumed.number, resumed.kappa, resumed.mined_share) == (3, epoch.kappa, epoch.mined_share)
        assert resumed.error == (losses != 0).double().mean()
        for batch in list(resumed)[2:]:
            resumed.observe(batch, losses * 0)
    assert (other.history[-1].error, other.history[-1].kappa) == (miner.history[-1].error, miner.history[-1].kappa)
    assert other.kappa.kappa == miner.kappa.kappa
    with pytest.raises(ValueError, match="state must be of epoch 4, the next one, got epoch 3"):
        other.resumed_epoch(saved["epoch"])
    with pytest.raises(ValueError, match=r"state must have the entries batches, .*, got observed, nonzero, seconds"):
        other.resumed_epoch({"observed": 0, "nonzero": 0, "seconds": 0})
