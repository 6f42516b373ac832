"""Invalid states of `load_state_dict`: every entry of the wrong type or value is named, and nothing changes."""

import copy
import math
import re

import pytest
import torch

from hardmine.mining import AdaptiveKappa, AnchorNeighborSampler, ClassDistances
from miners import LABELS, make_miner
from support.inputs import seeded

NAN = math.nan


def controller() -> AdaptiveKappa:
    made = AdaptiveKappa(random_epochs=1)
    for error in (0.9, 0.7, 0.8):
        made.update(error)
    return made


def sampler() -> AnchorNeighborSampler:
    made = AnchorNeighborSampler(LABELS, 2, 2, 3, batches_per_epoch=2)
    sq_dist = torch.rand(12, 12, generator=seeded(0), dtype=torch.float64)
    made.update(ClassDistances(torch.arange(12), sq_dist + sq_dist.T))
    list(made)
    return made


def miner(kappa=None):
    made = make_miner(kappa=kappa or AdaptiveKappa(random_epochs=1), batches_per_epoch=2)
    for _ in range(3):
        with made.epoch() as epoch:
            epoch.observe(epoch[0], torch.arange(16) % 3)
    return made


def epoch_state():
    with miner().epoch() as epoch:
        epoch.observe(epoch[0], torch.arange(16) % 3)
        return epoch.state_dict()


def changed(state, path: tuple, value):
    """The state with one value replaced; DELETED removes the entry."""
    state = copy.deepcopy(state)
    place = state
    for key in path[:-1]:
        if isinstance(place[key], tuple):
            place[key] = list(place[key])
        place = place[key]
    if value is DELETED:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return state


DELETED = object()


def assert_same(actual, expected) -> None:
    """Assert that states are equal, where NaN equals NaN."""
    assert str(actual) == str(expected)


KAPPA = [
    # where, the value, the error, its message
    (
        ("epoch",),
        DELETED,
        ValueError,
        "{} must have the entries epoch, kappa, alpha, beta, history, got kappa, alpha, ",
    ),
    (
        ("other",),
        1,
        ValueError,
        "{} must have the entries epoch, kappa, alpha, beta, history, got epoch, kappa, alpha, ",
    ),
    (("epoch",), -1, ValueError, "{}['epoch'] must be at least 1, got -1"),
    (("epoch",), 0, ValueError, "{}['epoch'] must be at least 1, got 0"),
    (("epoch",), 1.5, TypeError, "{}['epoch'] must be an integer, got 1.5"),
    (("epoch",), True, TypeError, "{}['epoch'] must be an integer, got True"),
    (("kappa",), "x", TypeError, "{}['kappa'] must be a number, got 'x'"),
    (("kappa",), NAN, ValueError, "{}['kappa'] must be a finite number >= 0, got nan"),
    (("kappa",), -1.0, ValueError, "{}['kappa'] must be a finite number >= 0, got -1.0"),
    (("kappa",), None, ValueError, "{}['kappa'] must be a number with alpha = "),
    (("alpha",), None, TypeError, "{}['alpha'] must be a number, got None"),
    (("alpha",), 0.5, ValueError, "{}['alpha'] must be a finite number <= 0, got 0.5"),
    (("alpha",), -math.inf, ValueError, "{}['alpha'] must be a finite number <= 0, got -inf"),
    (("beta",), NAN, ValueError, "{}['beta'] must be a finite number, got nan"),
    (("beta",), [1.0], TypeError, "{}['beta'] must be a number, got [1.0]"),
    (("history",), None, TypeError, "{}['history'] must be a list, got None"),
    (("history",), {}, TypeError, "{}['history'] must be a list, got {{}}"),
    (("history", 1), 0.5, TypeError, "{}['history'][1] must be a list, got 0.5"),
    (("history", 1), [0.5], ValueError, "{}['history'][1] must be [error, kappa], got [0.5]"),
    (("history", 1), ["0.5", 2.0], TypeError, "{}['history'][1][0] must be a number, got '0.5'"),
    (("history", 1), [1.5, 2.0], ValueError, "{}['history'][1][0] must be a finite number >= 0 and <= 1, got 1.5"),
    (("history", 1), [0.5, NAN], ValueError, "{}['history'][1][1] must be a finite number >= 0, got nan"),
]
SAMPLER = [
    (("neighbors",), DELETED, ValueError, "state must have the entries epoch, classes, neighbors, got epoch, classes"),
    (("epoch",), -1, ValueError, "state['epoch'] must be at least 0, got -1"),
    (("epoch",), NAN, TypeError, "state['epoch'] must be an integer, got nan"),
    (("classes",), list(range(12)), TypeError, "state['classes'] must be a torch.Tensor, got [0, 1, 2, "),
    (
        ("classes",),
        torch.arange(12.0),
        TypeError,
        "state['classes'] must have the dtype torch.int64, got torch.f",
    ),
    (("classes",), torch.tensor(1), ValueError, "state['classes'] must be [*], got []"),
    (("neighbors",), "x", TypeError, "state['neighbors'] must be a torch.Tensor, got 'x'"),
    (
        ("neighbors",),
        torch.ones(12, 3),
        TypeError,
        "state['neighbors'] must have the dtype torch.int32, got torch.f",
    ),
    (("neighbors",), torch.ones(12).int(), ValueError, "state['neighbors'] must be [12, 3], got [12]"),
    (("neighbors", (3, 1)), 12, ValueError, "state['neighbors'] must be from 0 to 11, got 12"),
    (("neighbors", (3, 1)), -1, ValueError, "state['neighbors'] must be from 0 to 11, got -1"),
    (("neighbors", 3), torch.tensor([1, 2, 1]), ValueError, "must be distinct other classes, got [1, 2, 1] at [3]"),
    (("neighbors", 3), torch.tensor([1, 2, 3]), ValueError, "must be distinct other classes, got [1, 2, 3] at [3]"),
]
RECORD = [
    (("color",), 1, ValueError, "{} must have the entries epoch, kappa, "),
    (("epoch",), 7, ValueError, "{}['epoch'] must be "),
    (("epoch",), "1", TypeError, "{}['epoch'] must be an integer, got '1'"),
    (("epoch",), -1, ValueError, "{}['epoch'] must be at least 1, got -1"),
    (("kappa",), "x", TypeError, "{}['kappa'] must be a number, got 'x'"),
    (("kappa",), NAN, ValueError, "{}['kappa'] must be a finite number >= 0, got nan"),
    (("mined_share",), 1.5, ValueError, "{}['mined_share'] must be a finite number >= 0 and <= 1, got 1.5"),
    (("method",), "auto", ValueError, "{}['method'] must be None or one of exact, fanng, got 'auto'"),
    (("list_seconds",), -1, ValueError, "{}['list_seconds'] must be a finite number >= 0, got -1"),
    (("embedding_seconds",), None, TypeError, "{}['embedding_seconds'] must be a number, got None"),
    (("triplet_seconds",), NAN, ValueError, "{}['triplet_seconds'] must be a finite number >= 0, got nan"),
]


def cases_of(name: str, cases: list, *path) -> list:
    """The cases of a part of a state, which errors call `name`."""
    return [((*path, *where), value, error, message.format(name)) for where, value, error, message in cases]


MINER = [
    ((), 1, TypeError, "state must be a dict, got int"),
    (("more",), 1, ValueError, "state must have the entries images, seed, kappa, history, got images, seed, kappa, h"),
    (("images",), "120", TypeError, "state['images'] must be an integer, got '120'"),
    (("images",), torch.tensor([1, 2]), TypeError, "state['images'] must be an integer, got tensor([1, 2])"),
    (("seed",), 1, ValueError, "state must be of a miner with seed = 0, got 1"),
    (("kappa",), "x", ValueError, "state must be of a miner with an adaptive kappa, got 'x'"),
    (("history",), 3, TypeError, "state['history'] must be a list, got 3"),
    (("history", 1), 3, TypeError, "state['history'][1] must be a dict, got int"),
    (
        ("history", 0, "error"),
        2.0,
        ValueError,
        "state['history'][0]['error'] must be a finite number >= 0 and <= 1",
    ),
    (("history", 1, "mined_error"), "x", TypeError, "state['history'][1]['mined_error'] must be a number, got 'x'"),
    (("history", 1, "epoch_seconds"), NAN, ValueError, "state['history'][1]['epoch_seconds'] must be a finite number"),
    *cases_of("state['kappa']", KAPPA, "kappa"),
    *cases_of("state['history'][1]", RECORD, "history", 1),
]
EPOCH = [
    ((), None, TypeError, "state must be a dict, got NoneType"),
    (
        ("seconds",),
        DELETED,
        ValueError,
        "state must have the entries batches, measured, observed, nonzero, seconds",
    ),
    (("seconds",), NAN, ValueError, "state['seconds'] must be a finite number >= 0, got nan"),
    (("observed",), [0, 0], TypeError, "state['observed'] must be a torch.Tensor, got [0, 0]"),
    (("observed",), torch.zeros(2), TypeError, "state['observed'] must have the dtype torch.int64, got torch.f"),
    (("observed",), torch.zeros(3).long(), ValueError, "state['observed'] must be [2], got [3]"),
    (
        ("observed",),
        torch.tensor([16, 17]),
        ValueError,
        "state['nonzero'] must be counts within state['observed'] = [16",
    ),
    (
        ("nonzero",),
        torch.tensor([17, 0]),
        ValueError,
        "state['nonzero'] must be counts within state['observed'] = [",
    ),
    (
        ("nonzero",),
        torch.tensor([3, -1]),
        ValueError,
        "state['nonzero'] must be counts within state['observed'] = [",
    ),
    (
        ("nonzero",),
        torch.tensor([3, 4]),
        ValueError,
        "state['nonzero'] must be counts within state['observed'] = [",
    ),
    (("batches",), 1, TypeError, "state['batches'] must be a list, got 1"),
    (("batches", 1), (1, 2), ValueError, "state['batches'][1] must be (rows, triplets, mined), got 2 entries"),
    (("batches", 1, 0), [1], TypeError, "state['batches'][1][0] must be a torch.Tensor, got [1]"),
    (("batches", 1, 0, 2), 120, ValueError, "state['batches'][1][0] must be from 0 to 119, got 120"),
    (("batches", 1, 1, (0, 0)), -1, ValueError, "state['batches'][1][1] must be from 0 to "),
    (("batches", 1, 1), torch.zeros(16, 2).long(), ValueError, "state['batches'][1][1] must be [*, 3], got [16, 2]"),
    (("batches", 1, 2), torch.zeros(9).bool(), ValueError, "state['batches'][1][2] must be [16], got [9]"),
    (("batches", 1, 2), torch.zeros(16), TypeError, "state['batches'][1][2] must have the dtype torch.bool, got"),
    *cases_of("state['measured']", [case for case in RECORD if case[1] != 7], "measured"),
]


def each(cases: list) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("path", "value", "error", "message"), cases, ids=[case[3] for case in cases])


def assert_refused(made, path, value, error, message) -> None:
    before = copy.deepcopy(made.state_dict())
    state = changed(before, path, value) if path else value
    with pytest.raises(error, match=re.escape(message)):
        made.load_state_dict(state)
    assert_same(made.state_dict(), before)
    made.load_state_dict(before)
    assert_same(made.state_dict(), before)


@each(cases_of("state", KAPPA))
def test_adaptive_kappa_invalid_state_raises(path, value, error, message):
    assert_refused(controller(), path, value, error, message)


@each(SAMPLER)
def test_sampler_invalid_state_raises(path, value, error, message):
    assert_refused(sampler(), path, value, error, message)


@each(MINER)
def test_miner_invalid_state_raises(path, value, error, message):
    assert_refused(miner(), path, value, error, message)


def test_miner_fixed_kappa_invalid_state_raises():
    assert_refused(miner(2.0), ("kappa",), NAN, ValueError, "state['kappa'] must be a finite number, got nan")
    assert_refused(miner(2.0), ("kappa",), "2", TypeError, "state['kappa'] must be a number, got '2'")


@each(EPOCH)
def test_epoch_invalid_state_raises(path, value, error, message):
    made, state = miner(), epoch_state()
    with pytest.raises(error, match=re.escape(message)):
        made.resumed_epoch(changed(state, path, value) if path else value)
    assert made.resumed_epoch(state).number == 4


def test_miner_invalid_controller_state_keeps_history():
    made = miner()
    state = changed(changed(made.state_dict(), ("history", 2), DELETED), ("kappa", "beta"), NAN)
    with pytest.raises(ValueError, match=r"state\['kappa'\]\['beta'\] must be a finite number, got nan"):
        made.load_state_dict(state)
    assert len(made.history) == 3
