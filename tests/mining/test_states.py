"""Every load_state_dict of mining checks what it is given, and changes nothing when it refuses."""

import copy

import pytest
import torch

from hardmine import mining
from library_calls import leaves
from miners import miner_of

RANDOM = mining.AdaptiveKappa().state_dict()
FITTED = {"epoch": 4, "kappa": 1.5, "alpha": -2.0, "beta": 2.5, "history": [[0.5, 1.5]]}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"kappa": "x"}, TypeError, r"^state\['kappa'\] must be a number, got 'x'"),
        ({"alpha": float("nan")}, ValueError, r"^state\['alpha'\] must be a number"),
        ({"beta": True}, TypeError, r"^state\['beta'\] must be a number, got True"),
        ({"alpha": None}, ValueError, "^state must have numbers for all of kappa, alpha and beta or for none"),
        ({"epoch": 0}, ValueError, r"^state\['epoch'\] must be at least 1, got 0"),
        ({"epoch": 2.0}, TypeError, r"^state\['epoch'\] must be an integer, got float"),
        ({"history": "ab"}, TypeError, r"^state\['history'\] must be a list of pairs"),
        ({"history": [0.5, 0.5]}, TypeError, r"^state\['history'\] must be a list of pairs"),
        (
            {"history": [[2.0, 1.0]]},
            ValueError,
            r"^an error in state\['history'\] must be a number >= 0 and <= 1, got 2",
        ),
        ({"history": [[0.5, 0.0]]}, ValueError, r"^a kappa in state\['history'\] must be a number > 0, got 0"),
    ],
)
def test_bad_state_of_a_controller_is_refused(changes, error, message):
    controller = mining.AdaptiveKappa()
    controller.load_state_dict(FITTED)
    with pytest.raises(error, match=message):
        controller.load_state_dict(FITTED | changes)
    assert controller.state_dict() == FITTED


@pytest.mark.parametrize("state", [None, [1], "state", 3])
def test_state_that_is_no_mapping_is_refused(state):
    sampler = mining.AnchorNeighborSampler([0, 0, 1, 1], 1, 1, 1)
    for load in (mining.AdaptiveKappa().load_state_dict, sampler.load_state_dict, miner_of().load_state_dict):
        with pytest.raises(TypeError, match=r"^state must be a mapping, as state_dict\(\) returns it, got "):
            load(state)
    with pytest.raises(TypeError, match=r"^state must be a mapping, as state_dict\(\) returns it, got "):
        miner_of().resumed_epoch(state)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"epoch": "1"}, TypeError, r"^state\['epoch'\] must be an integer, got str"),
        ({"classes": "ab"}, TypeError, r"^state\['classes'\] must be integers"),
        ({"neighbors": [[1]]}, TypeError, r"^state\['neighbors'\] must be a tensor or None, got list"),
        ({"neighbors": torch.ones(3, 1)}, TypeError, r"^state\['neighbors'\] must have an integer dtype"),
        ({"neighbors": torch.full((3, 1), 3)}, ValueError, r"^state\['neighbors'\] must be from 0 to 2"),
    ],
)
def test_bad_state_of_a_sampler_is_refused(changes, error, message):
    sampler = mining.AnchorNeighborSampler([0, 0, 1, 1, 2, 2], 1, 2, 2)
    with pytest.raises(error, match=message):
        sampler.load_state_dict(sampler.state_dict() | changes)
    assert sampler.epoch == 0


def mined_once():
    miner = miner_of()
    with miner.epoch():
        pass
    return miner


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"history": "ab"}, TypeError, r"^state\['history'\] must be a list, got str"),
        ({"history": [3]}, ValueError, "^state must be a SmartMiner's state_dict, got a history of other records"),
        ({"kappa": "1"}, ValueError, "^state must be of a miner with kappa = 1.0, got 1"),
        ({"epoch": 2}, ValueError, r"^state\['history'\]\[0\] must be of epoch 1, got epoch 2"),
        ({"epoch": "1"}, TypeError, r"^epoch of state\['history'\]\[0\] must be an integer, got str"),
        ({"error": "x"}, TypeError, r"^error of state\['history'\]\[0\] must be a number, got str"),
        ({"method": "auto"}, ValueError, r"^method of state\['history'\]\[0\] must be None or one of"),
    ],
)
def test_bad_state_of_a_miner_is_refused(changes, error, message):
    miner = mined_once()
    state = copy.deepcopy(miner.state_dict())
    for name, value in changes.items():
        (state if name in state else state["history"][0])[name] = value
    other = miner_of()
    with pytest.raises(error, match=message):
        other.load_state_dict(state)
    assert other.history == []


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"measured": {}}, ValueError, r"^state\['measured'\] must have the entries epoch, kappa, "),
        ({"seconds": None}, TypeError, r"^state\['seconds'\] must be a number, got NoneType"),
        (
            {"observed": [0, 0]},
            TypeError,
            r"^state\['observed'\] must be a tensor of torch.int64 of 1 dimension, got list",
        ),
        ({"nonzero": torch.zeros(2)}, TypeError, r"^state\['nonzero'\] must be a tensor of torch.int64"),
        ({"batches": 3}, TypeError, r"^state\['batches'\] must be a list, got int"),
        ({"batches": [3]}, TypeError, r"^state\['batches'\]\[0\] must be rows, triplets and mined, got 3"),
        ({"batches": [(1, 2, 3)]}, TypeError, r"^rows of state\['batches'\]\[0\] must be a tensor"),
    ],
)
def test_bad_state_of_an_epoch_is_refused(changes, error, message):
    miner = miner_of()
    state = miner.epoch().state_dict()
    with pytest.raises(error, match=message):
        miner.resumed_epoch(state | changes)


def test_state_of_an_epoch_is_taken():
    miner = miner_of()
    epoch = miner.epoch()
    resumed = miner.resumed_epoch(epoch.state_dict())
    pairs = zip(leaves(list(resumed)), leaves(list(epoch)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
