"""Smart Mining's controller: it finds the kappa that gives triplets of the target difficulty."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from hardmine.mining._states import check_count, check_entries, check_list, check_real
from hardmine.ops._numbers import check_integer

_MIN_ERROR_RANGE = 1e-6  # a smaller range of errors gives a slope that is only rounding error


class AdaptiveKappa:
    """The kappa of each epoch, from the training errors and kappas of the previous epochs.

    Training error is the share of triplets with a loss above 0. A larger kappa excludes more of the near negatives. The
    triplets of :func:`hardmine.mining.smart_triplets` are then easier and the error is lower. Before each epoch, the
    least-squares line ``kappa = alpha * error + beta`` through the last epochs (eq. 7) is read at the target error (eq.
    8)::

        controller = AdaptiveKappa(target_error=0.6)
        for epoch in range(20):
            if controller.kappa is None:
                triplets = random_triplets(labels)
            else:
                triplets = smart_triplets(neighbor_lists, sq_distances, labels, controller.kappa).triplets
            error = train_an_epoch(triplets)
            controller.update(error)

    Args:
        target_error: The training error to aim at, between 0 and 1. The paper found 0.5 to 0.75 best.
        window: Number of most recent epochs that the line is fitted to, at least 1.
        random_epochs: Number of initial epochs with random triplets only, at least 0. `kappa` is None in them.
        soft_kappa: A kappa above 1 at which mined triplets are about as easy as random ones. It sets the initial
            estimate, see the note.
        min_kappa: The smallest kappa, at least 0. Values below 1 act like 1, because no negative nearer than the
            nearest positive is ever taken.
        max_kappa: The largest kappa.
        max_step: Kappa changes by no more than this factor from one epoch to the next; above 1.
        gain: The smallest and the largest response of kappa to an error off the target, relative to kappa: ``alpha`` is
            clamped to ``[-gain[1] * kappa, -gain[0] * kappa]``. Both are at least 0.

    Attributes:
        epoch: Number of the next or current epoch, from 1.
        kappa: The kappa to mine the epoch with; None for random triplets.
        target_error: As given. It may be set before any update, for example to the validation error.
        alpha: Slope of the line; None in the random epochs.
        beta: Intercept of the line; None in the random epochs.

    Raises:
        TypeError: An argument is not a number.
        ValueError: A number is out of its range.

    Note:
        The paper leaves three points open. They are decided as follows.

        *The initial estimate*, after the random epochs, is a line through two points. The first is kappa 1 at error 1:
        negatives are about as near as the nearest positive, so every triplet has a loss. The second is `soft_kappa` at
        the error of the last random epoch. If the target is lower, or without random epochs, the second point is at the
        target. `soft_kappa` is 2 by default. With 64-d embeddings of 4,052 car images and lists of 50, a few percent of
        the anchors had a negative beyond 2.

        *An unusable slope* has one of three causes: there is one epoch to fit, errors are equal, or the line rises. The
        previous slope is then kept, and the line goes through the epochs' mean. The true line falls; noise and the
        embedding's own progress can make the fitted one rise. A falling slope can be poor too. For noisy errors, least
        squares make the slope too flat; if all kappas are equal, kappa would never move again. For almost equal errors,
        the slope is too steep. `gain` bounds the slope on both sides.

        *Bounds*: `max_step`, and then `min_kappa` and `max_kappa`, clamp the kappa that the line gives.

        In simulated training (tests/mining/test_adaptive_kappa.py), longer windows tracked changing embeddings less
        well and were hardly better under noise. A larger ``gain[0]`` tracks changing embeddings better, but oscillates
        about the target if the error depends steeply on kappa, as on the car images.

    Reference:
        Harwood et al., "Smart Mining for Deep Metric Learning", ICCV 2017, section 3.2.4, eq. 7 and 8.

    Example:
        >>> from hardmine.mining import AdaptiveKappa
        >>> controller = AdaptiveKappa(target_error=0.5, random_epochs=1)
        >>> print(controller.kappa)  # the first epoch is random
        None
        >>> controller.update(error=0.4)
        1.8333333333333335
        >>> controller.update(error=0.8)  # too hard: a larger kappa
        2.3833333333333337
    """

    def __init__(
        self,
        target_error: float = 0.5,
        *,
        window: int = 3,
        random_epochs: int = 2,
        soft_kappa: float = 2.0,
        min_kappa: float = 1.0,
        max_kappa: float = 64.0,
        max_step: float = 2.0,
        gain: tuple[float, float] = (1.0, 4.0),
    ) -> None:
        self.target_error = target_error
        self.window = check_integer("window", window, 1)
        self.random_epochs = check_integer("random_epochs", random_epochs, 0)
        self.soft_kappa = _check_finite("soft_kappa", soft_kappa, above=1.0)
        self.min_kappa = _check_finite("min_kappa", min_kappa, at_least=0.0)
        self.max_kappa = _check_finite("max_kappa", max_kappa, above=0.0, at_least=self.min_kappa)
        self.max_step = _check_finite("max_step", max_step, above=1.0)
        if not isinstance(gain, tuple) or len(gain) != 2:
            raise TypeError(f"gain must be a tuple of two numbers, got {gain!r}")
        min_gain = _check_finite("gain[0]", gain[0], at_least=0.0)
        self.gain = min_gain, _check_finite("gain[1]", gain[1], above=0.0, at_least=min_gain)
        self.epoch = 1
        self.kappa: float | None = None
        self.alpha: float | None = None
        self.beta: float | None = None
        self._history: list[tuple[float, float]] = []  # (error, kappa), the latest last
        if self.random_epochs == 0:
            self._start(self.target_error)

    @property
    def target_error(self) -> float:
        """The training error to aim at."""
        return self._target_error

    @target_error.setter
    def target_error(self, value: float) -> None:
        self._target_error = _check_finite("target_error", value, above=0.0, below=1.0)

    def update(self, error: float, kappa: float | None = None) -> float | None:
        """End an epoch.

        Args:
            error: The epoch's training error: the share of its triplets that had a loss above 0, 0 to 1.
            kappa: The kappa that the epoch was mined with, above 0; by default :attr:`kappa`.

        Returns:
            :attr:`kappa` of the next epoch.

        Raises:
            TypeError: An argument is not a number.
            ValueError: ``error`` is NaN or not from 0 to 1; ``kappa`` is not finite and above 0, or is given for a
                random epoch.
        """
        error = _check_finite("error", error, at_least=0.0, at_most=1.0)
        if self.kappa is None:
            if kappa is not None:
                raise ValueError(
                    f"kappa must be None in the first {self.random_epochs} epochs, which are random, got {kappa}"
                )
            if self.epoch >= self.random_epochs:  # a loaded state may already be past the last random epoch
                self._start(error)
        else:
            kappa = self.kappa if kappa is None else _check_finite("kappa", kappa, above=0.0)
            self._history = [*self._history, (error, kappa)][-self.window :]
            self._fit()
            target = self._kappa_at_target()
            self.kappa = self._clamp(min(max(target, kappa / self.max_step), kappa * self.max_step))
        self.epoch += 1
        return self.kappa

    def state_dict(self) -> dict[str, Any]:
        """The state needed to resume training: plain numbers and lists, without the constructor's arguments."""
        return {
            "epoch": self.epoch,
            "kappa": self.kappa,
            "alpha": self.alpha,
            "beta": self.beta,
            "history": [list(point) for point in self._history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from another controller's :meth:`state_dict`.

        Raises:
            TypeError: An entry has the wrong type.
            ValueError: `state` has a missing or an extra entry, or an entry is out of its range. The controller is
                unchanged.
        """
        self._load("state", state)

    def _load(self, name: str, state: Any) -> None:
        """As :meth:`load_state_dict`; ``name`` is the state's name in errors."""
        check_entries(name, state, self.state_dict())
        epoch = check_count(f"{name}['epoch']", state["epoch"], 1)
        kappa = alpha = beta = None
        history = []
        for number, point in enumerate(check_list(f"{name}['history']", state["history"])):
            place = f"{name}['history'][{number}]"
            if len(check_list(place, point)) != 2:
                raise ValueError(f"{place} must be [error, kappa], got {point!r}")
            history.append((check_real(f"{place}[0]", point[0], 0, 1), check_real(f"{place}[1]", point[1], 0)))
        if state["kappa"] is not None:
            kappa = check_real(f"{name}['kappa']", state["kappa"], 0)
            alpha = check_real(f"{name}['alpha']", state["alpha"], maximum=0)
            beta = check_real(f"{name}['beta']", state["beta"])
        elif not (state["alpha"] is None and state["beta"] is None and not history):
            raise ValueError(
                f"{name}['kappa'] must be a number with alpha = {state['alpha']}, beta = {state['beta']} and a history "
                f"of {len(history)} epochs, got None"
            )
        self.epoch, self.kappa, self.alpha, self.beta, self._history = epoch, kappa, alpha, beta, history

    def __repr__(self) -> str:
        """The target, and where the controller stands."""
        kappa = "None" if self.kappa is None else f"{self.kappa:.3g}"
        return f"AdaptiveKappa(target_error={self.target_error:g}, epoch={self.epoch}, kappa={kappa})"

    def _start(self, random_error: float) -> None:
        """Set the initial line and the kappa that it gives."""
        self.alpha = (self.soft_kappa - 1) / (min(random_error, self.target_error) - 1)
        self.beta = 1 - self.alpha
        self.kappa = self._clamp(self._kappa_at_target())

    def _fit(self) -> None:
        """Equation 7."""
        errors, kappas = zip(*self._history, strict=True)
        mean_error, mean_kappa = statistics.fmean(errors), statistics.fmean(kappas)
        if max(errors) - min(errors) > _MIN_ERROR_RANGE:
            slope = statistics.linear_regression(errors, kappas).slope
            self.alpha = slope if slope < 0 else self.alpha
        min_slope, max_slope = (gain * mean_kappa for gain in self.gain)
        if self.alpha is None:
            raise RuntimeError("the controller has no line yet")
        self.alpha = -min(max(-self.alpha, min_slope), max_slope)
        self.beta = mean_kappa - self.alpha * mean_error

    def _kappa_at_target(self) -> float:
        """Equation 8."""
        if self.alpha is None or self.beta is None:
            raise RuntimeError("the controller has no line yet")
        return self.alpha * self.target_error + self.beta

    def _clamp(self, kappa: float) -> float:
        return min(max(kappa, self.min_kappa), self.max_kappa)


def _check_finite(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
) -> float:
    """A finite number within all limits, as a float. Accepts what float() accepts, such as a one-element tensor."""
    try:
        if isinstance(value, (str, bool)):
            raise TypeError("a str or a bool is not a number")
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{name} must be a number, got {value!r}") from error
    if not (math.isfinite(number) and above < number < below and at_least <= number <= at_most):
        limits = [
            f"{sign} {limit:g}"
            for sign, limit in ((">", above), (">=", at_least), ("<=", at_most), ("<", below))
            if math.isfinite(limit)
        ]
        raise ValueError(f"{name} must be a number {' and '.join(limits)}, got {number:g}")
    return number
