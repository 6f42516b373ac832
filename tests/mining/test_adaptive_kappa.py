"""AdaptiveKappa: the schedule, the fit and its degenerate cases, bounds, resuming, control of simulated training."""

import json
import math
import random

import pytest
import torch

from hardmine.mining import AdaptiveKappa


def after_random_epochs(random_error: float = 0.5, **options) -> AdaptiveKappa:
    """A controller at the start of epoch 3, after two random epochs with this error."""
    controller = AdaptiveKappa(**options)
    for _ in range(2):
        controller.update(random_error)
    return controller


def after_epochs(points: list[tuple[float, float]], **options) -> AdaptiveKappa:
    """A controller after epochs of these (error, kappa). Its slope before was -4, and it can follow any line."""
    free = {"min_kappa": 0.0, "max_kappa": 1e9, "max_step": 1e6, "gain": (0.0, 1e9), "window": 10}
    controller = after_random_epochs(target_error=0.5, soft_kappa=3.0, **free | options)
    assert controller.alpha == -4
    for error, kappa in points:
        controller.update(error, kappa)
    return controller


# The schedule


def test_kappa_first_two_epochs_is_none():
    controller = AdaptiveKappa()
    assert (controller.epoch, controller.kappa, controller.alpha, controller.beta) == (1, None, None, None)
    assert controller.update(0.9) is None
    assert (controller.epoch, controller.kappa) == (2, None)
    kappa = controller.update(0.8)
    assert (controller.epoch, controller.kappa) == (3, kappa)
    assert kappa is not None


@pytest.mark.parametrize("random_epochs", [0, 1, 5])
def test_kappa_random_epochs_option_sets_their_number(random_epochs):
    controller = AdaptiveKappa(random_epochs=random_epochs)
    for _ in range(random_epochs):
        assert controller.kappa is None
        controller.update(0.7)
    assert controller.kappa == 2.0


def test_kappa_initial_line_passes_through_hardest_and_random():
    controller = after_random_epochs(0.25, target_error=0.5, soft_kappa=4.0)
    assert (controller.alpha, controller.beta) == (-4, 5)  # through (1, 1) and (0.25, 4)
    assert controller.kappa == 3
    assert controller.alpha * 1 + controller.beta == 1
    assert controller.alpha * 0.25 + controller.beta == 4


@pytest.mark.parametrize("random_error", [0.6, 0.9, 1.0])
def test_kappa_hard_random_triplets_start_at_soft_kappa(random_error):
    assert after_random_epochs(random_error, target_error=0.6, soft_kappa=4.0).kappa == pytest.approx(4)


def test_kappa_initial_line_uses_last_random_epoch():
    controller = AdaptiveKappa(soft_kappa=4.0)
    controller.update(0.9)
    controller.update(0.25)
    assert controller.kappa == 3


# The fit


def test_update_collinear_points_recovers_line():
    controller = after_epochs([(0.9, 2.0), (0.7, 4.0), (0.4, 7.0)])
    assert (controller.alpha, controller.beta) == (pytest.approx(-10), pytest.approx(11))
    assert controller.kappa == pytest.approx(6)


def test_update_noisy_points_fits_least_squares_line():
    points = [(0.9, 2.0), (0.72, 3.5), (0.4, 7.2), (0.55, 6.6)]
    controller = after_epochs(points)
    errors, kappas = torch.tensor(points, dtype=torch.float64).T
    rows = torch.stack([errors, torch.ones(4, dtype=torch.float64)], 1)
    alpha, beta = torch.linalg.lstsq(rows, kappas).solution.tolist()
    assert (controller.alpha, controller.beta) == (pytest.approx(alpha), pytest.approx(beta))
    assert controller.kappa == pytest.approx(alpha * 0.5 + beta)


def test_update_points_beyond_window_are_ignored():
    line = [(0.9, 2.0), (0.7, 4.0), (0.4, 7.0)]
    assert after_epochs([(0.1, 1.0), (0.6, 1e3), *line], window=3).kappa == pytest.approx(6)
    assert after_epochs([(0.6, 1e3), *line], window=4).kappa != pytest.approx(6, rel=0.1)


def test_update_default_kappa_equals_own_kappa():
    told, default = (after_epochs([(0.9, 2.0), (0.7, 4.0)]) for _ in range(2))
    assert told.update(0.4, told.kappa) == default.update(0.4)


def test_update_after_target_change_uses_new_target():
    controller = after_epochs([(0.9, 2.0), (0.7, 4.0)])
    controller.target_error = 0.3
    assert controller.update(0.4, 7.0) == pytest.approx(8)


def test_update_one_element_tensor_equals_number():
    assert after_epochs([(0.9, 2.0)]).update(torch.tensor(0.75), 4.0) == after_epochs([(0.9, 2.0)]).update(0.75, 4.0)


# Degenerate fits


def test_update_one_point_keeps_slope():
    controller = after_epochs([(0.75, 2.0)])
    assert controller.alpha == -4
    assert controller.kappa == 2 + 4 * 0.25


@pytest.mark.parametrize("spread", [0.0, 1e-9])
def test_update_equal_errors_keep_slope(spread):
    controller = after_epochs([(0.75, 2.0), (0.75 + spread, 4.0), (0.75 - spread, 6.0)])
    assert controller.alpha == -4
    assert controller.kappa == pytest.approx(4 + 4 * 0.25)


def test_update_rising_line_keeps_slope():
    controller = after_epochs([(0.6, 2.0), (0.7, 4.0)])
    assert controller.alpha == -4
    assert controller.kappa == pytest.approx(3 + 4 * 0.15)


def test_update_unusable_slope_keeps_last_usable_one():
    controller = after_epochs([(0.8, 2.0), (0.7, 4.0)], window=2)
    assert controller.alpha == pytest.approx(-20)
    controller.update(0.7, 5.0)
    assert controller.alpha == pytest.approx(-20)


def test_update_equal_kappas_still_move():
    controller = after_epochs([(0.8, 4.0), (0.7, 4.0), (0.6, 4.0)], gain=(1.5, 9.0))
    assert controller.alpha == -6
    assert controller.kappa == pytest.approx(4 + 6 * 0.2)


def test_update_gain_bounds_slope_on_both_sides():
    flat = after_epochs([(0.9, 4.0), (0.5, 4.1), (0.6, 4.2)], gain=(2.0, 5.0))
    assert flat.alpha == pytest.approx(-2 * 4.1)
    assert flat.alpha * 2 / 3 + flat.beta == pytest.approx(4.1)  # the line passes through the mean
    steep = after_epochs([(0.5, 6.0), (0.51, 4.0)], gain=(2.0, 5.0))
    assert steep.alpha == pytest.approx(-5 * 5)
    assert after_epochs([(0.6, 4.0), (0.5, 6.0)], gain=(2.0, 5.0)).alpha == pytest.approx(-20)


# Bounds


def test_update_max_step_limits_change():
    assert after_epochs([(1.0, 4.0)], max_step=1.25).kappa == 5
    assert after_epochs([(0.0, 4.0)], max_step=1.25).kappa == 3.2
    assert after_epochs([(0.7, 4.0), (0.71, 3.0)], max_step=1.25).kappa == 3.75  # the fitted line gives 24


def test_update_kappa_stays_within_bounds():
    assert after_epochs([(1.0, 4.0)], max_kappa=4.5).kappa == 4.5
    assert after_epochs([(0.0, 4.0)], min_kappa=3.5).kappa == 3.5
    assert after_random_epochs(0.25, soft_kappa=4.0, min_kappa=3.5).kappa == 3.5
    assert after_random_epochs(0.25, soft_kappa=4.0, max_kappa=2.5).kappa == 2.5


def test_update_zero_errors_keep_kappa_positive():
    controller = after_epochs([(0.0, 1.0)], gain=(2.0, 9.0), max_step=2.0)
    for _ in range(50):
        controller.update(0.0)
    assert 0 < controller.kappa < 1e-6


def test_update_bounds_leave_line_unchanged():
    controller = after_epochs([(1.0, 4.0)], max_kappa=4.5)
    assert controller.alpha * 1 + controller.beta == 4


# Resuming


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 8])
def test_load_state_dict_resumes_equal_run(stop):
    errors = [0.9, 0.8, 0.7, 0.75, 0.6, 0.5, 0.55, 0.4, 0.45, 0.5, 0.7, 0.6]
    first = AdaptiveKappa(0.55)
    for error in errors[:stop]:
        first.update(error)
    saved = json.loads(json.dumps(first.state_dict()))
    assert saved == first.state_dict(), "not plain numbers and lists"
    resumed = AdaptiveKappa(0.55)
    resumed.load_state_dict(saved)
    assert repr(resumed) == repr(first)
    rest = [[controller.update(error) for error in errors[stop:]] for controller in (first, resumed)]
    assert rest[0] == rest[1]
    assert resumed.state_dict() == first.state_dict()


def test_state_dict_is_a_copy():
    controller = after_random_epochs()
    state = controller.state_dict()
    controller.update(0.7)
    assert state["history"] == []
    assert torch.equal(torch.tensor(controller.state_dict()["history"]), torch.tensor([[0.7, 2.0]]))


@pytest.mark.parametrize("change", [{"epoch": None}, {"other": 1}], ids=["lacks", "more"])
def test_load_state_dict_wrong_entries_raise(change):
    state = AdaptiveKappa().state_dict() | change
    state = {key: value for key, value in state.items() if value is not None or key != "epoch"}
    with pytest.raises(ValueError, match="state must have the entries epoch, kappa, alpha, beta, history, got "):
        AdaptiveKappa().load_state_dict(state)


# Control: a plant returns the training error for a kappa and an epoch.


def falling(kappa: float, epoch: int) -> float:
    """As measured on car images: from 0.98 at kappa 1 to the error of random triplets, which falls during training."""
    random_error = 0.43 + 0.3 * math.exp(-epoch / 3)
    return random_error + (0.98 - random_error) * math.exp(-(kappa - 1) / 0.4)


def steep(kappa: float, epoch: int) -> float:
    """The same, but where the error changes, it changes three times as fast."""
    random_error = 0.43 + 0.3 * math.exp(-epoch / 3)
    return random_error + (0.98 - random_error) * math.exp(-(((max(kappa, 1) - 1) / 0.35) ** 2))


def tightening(kappa: float, epoch: int) -> float:
    """Classes contract: the nearest positive gets so near that every epoch needs a larger kappa for the same error."""
    random_error = 0.02 + 0.6 * math.exp(-epoch / 3)
    return random_error + (0.98 - random_error) * math.exp(-(kappa - 1) / (0.4 * math.exp(epoch / 8)))


def steady(kappa: float, epoch: int) -> float:
    """The error reacts far more softly than the initial estimate assumes."""
    return 1 / (1 + (kappa / 6) ** 1.5)


def loosening(kappa: float, epoch: int) -> float:
    """The needed kappa falls every epoch."""
    return 1 / (1 + (kappa / (8 - 0.2 * epoch)) ** 3)


def deviations(plant, target: float, noise: float, seed: int = 0, epochs: int = 25, **options) -> list[float]:
    """Each epoch's error minus the target, without measurement noise."""
    noises = random.Random(seed)
    controller = AdaptiveKappa(target, **options)
    found = []
    while controller.epoch <= epochs:
        error = plant(1e9 if controller.kappa is None else controller.kappa, controller.epoch)
        found.append(error - target)
        controller.update(min(max(error + noises.gauss(0, noise), 0.0), 1.0))
    return found


@pytest.mark.parametrize("target", [0.5, 0.6, 0.75])
def test_update_constant_plant_converges(target):
    assert max(map(abs, deviations(steady, target, 0.0)[12:])) < 0.003


@pytest.mark.parametrize("target", [0.6, 0.75])
@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize(
    ("plant", "mean", "worst"),
    # The needed kappa rises by 13 % per epoch, or falls by up to 6 %, and the controller always lags by one epoch.
    # Noise that makes the fitted line of `steep` too flat costs single epochs.
    [
        (steady, 0.02, 0.06),
        (falling, 0.03, 0.07),
        (steep, 0.05, 0.4),
        (tightening, 0.13, 0.19),
        (loosening, 0.09, 0.22),
    ],
)
def test_update_noisy_drifting_plant_is_tracked(plant, mean, worst, noise, target):
    for seed in range(20 if noise else 1):
        last = [abs(deviation) for deviation in deviations(plant, target, noise, seed)[10:]]
        assert sum(last) / len(last) < mean
        assert max(last) < worst


def test_update_unreachable_target_ends_at_bound():
    errors = [1.0] * 12
    controller = AdaptiveKappa(0.5, max_kappa=16.0)
    assert [controller.update(error) for error in errors][-1] == 16
    assert [controller.update(0.0) for _ in range(8)][-1] == 1


def test_update_zero_gain_stays_stuck_at_flat_line():
    # Three equal kappas, for example at a bound, make a flat line. This is the case for min_gain.
    flat = [(0.8, 4.0), (0.7, 4.0), (0.6, 4.0)]
    assert after_epochs(flat, gain=(0.0, 9.0)).kappa == pytest.approx(4 + 4 * 0.2)  # the last slope
    assert after_epochs([*flat, (0.9, 3.9999)], gain=(0.0, 9.0), window=4).kappa == pytest.approx(4, abs=1e-3)
    assert after_epochs([*flat, (0.9, 3.9999)], gain=(1.5, 9.0), window=4).kappa > 5


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_error": 0.0}, "target_error must be a number > 0 and < 1, got 0"),
        ({"target_error": 1.0}, "target_error must be a number > 0 and < 1, got 1"),
        ({"target_error": math.nan}, "target_error must be a number > 0 and < 1, got nan"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"random_epochs": -1}, "random_epochs must be at least 0, got -1"),
        ({"soft_kappa": 1.0}, "soft_kappa must be a number > 1, got 1"),
        ({"min_kappa": -0.5}, "min_kappa must be a number >= 0, got -0.5"),
        ({"min_kappa": 3.0, "max_kappa": 2.0}, "max_kappa must be a number > 0 and >= 3, got 2"),
        ({"min_kappa": 0.0, "max_kappa": 0.0}, "max_kappa must be a number > 0 and >= 0, got 0"),
        ({"max_kappa": math.inf}, "max_kappa must be a number .*, got inf"),
        ({"max_step": 1.0}, "max_step must be a number > 1, got 1"),
        ({"gain": (-1, 2)}, r"gain\[0\] must be a number >= 0, got -1"),
        ({"gain": (3, 2)}, r"gain\[1\] must be a number > 0 and >= 3, got 2"),
    ],
)
def test_init_option_out_of_range_raises(options, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveKappa(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_error": "half"}, "target_error must be a number, got 'half'"),
        ({"soft_kappa": None}, "soft_kappa must be a number, got None"),
        ({"gain": 2.0}, "gain must be a tuple of two numbers, got 2.0"),
        ({"window": 2.0}, "window must be an integer, got float"),
        ({"random_epochs": True}, "random_epochs must be an integer, got bool"),
    ],
)
def test_init_option_of_other_type_raises(options, message):
    with pytest.raises(TypeError, match=message):
        AdaptiveKappa(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((math.nan,), "error must be a number >= 0 and <= 1, got nan"),
        ((-0.1,), "error must be a number >= 0 and <= 1, got -0.1"),
        ((1.5,), "error must be a number >= 0 and <= 1, got 1.5"),
        ((0.5, 0.0), "kappa must be a number > 0, got 0"),
        ((0.5, math.nan), "kappa must be a number > 0, got nan"),
    ],
)
def test_update_invalid_epoch_raises_and_changes_nothing(arguments, message):
    controller = after_random_epochs()
    controller.update(0.6)
    before = controller.state_dict()
    with pytest.raises(ValueError, match=message):
        controller.update(*arguments)
    assert controller.state_dict() == before


def test_update_kappa_in_random_epoch_raises():
    with pytest.raises(ValueError, match="kappa must be None in the first 2 epochs, which are random, got 3"):
        AdaptiveKappa().update(0.5, 3.0)


def test_target_error_set_invalid_raises():
    controller = AdaptiveKappa()
    with pytest.raises(ValueError, match="target_error must be"):
        controller.target_error = math.nan
    assert controller.target_error == 0.5


def test_load_state_dict_from_more_random_epochs_starts_at_once():
    late = AdaptiveKappa(random_epochs=5)
    for _ in range(4):
        late.update(0.9)
    early = AdaptiveKappa(random_epochs=2)
    early.load_state_dict(late.state_dict())
    early.update(0.9)
    assert early.kappa is not None
