"""Checking of the fused ops against their references inside any training loop."""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from hardmine._hooks import observers, replaying
from hardmine.verification.comparisons import COMPARISONS, OpComparison


class VerificationError(AssertionError):
    """A fused op and its reference disagree beyond tolerance.

    Attributes:
        path: Where the op's inputs, options and outputs lie; ``torch.load(path)`` gives them as a dict. Of a random
            selection, ``"random_state"`` in it is the state of the generator before the call: after
            ``torch.set_rng_state`` of it, the op draws the same numbers again.
    """

    def __init__(self, message: str, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path


@dataclass
class OpReport:
    """What was seen of one op: how often it was called and checked, and the largest deviation of each quantity.

    An op that chooses (a pair, a neighbor, which triplets are active) and its reference may differ within rounding:
    ``ties`` of the ``choices`` did. ``choice`` says what they are.
    """

    calls: int = 0
    checks: int = 0
    choices: int = 0
    ties: int = 0
    choice: str = ""
    deviation: dict[str, float] = field(default_factory=dict)

    def record(self, quantity: str, deviation: float) -> None:
        self.deviation[quantity] = max(self.deviation.get(quantity, 0.0), deviation)


@dataclass
class Report:
    """What :class:`verify` has seen so far.

    Deviations are relative: of a similarity to the largest that the norms allow (1 for cosine), of a loss to its size
    or to 1 if that is larger, of a gradient to its largest element, or to what the pairs alone would give where
    gradients cancel. Losses that are steep in their similarities, as those of low temperatures are, are compared
    relative to what so large an error of a similarity makes of them.

    Example:
        >>> import torch
        >>> import hardmine
        >>> from hardmine import ops
        >>> with hardmine.verify() as report:
        ...     selection = ops.select_triplets(torch.randn(8, 4), torch.arange(8) // 2)
        ...
        >>> report.ops["select_triplets"].calls
        1
        >>> print(report.summary().split(";")[0])
        select_triplets: 1 of 1 calls checked
    """

    ops: dict[str, OpReport] = field(default_factory=dict)

    @property
    def checks(self) -> int:
        """Number of op calls that were compared with their reference."""
        return sum(op.checks for op in self.ops.values())

    @property
    def largest_deviation(self) -> float:
        """The largest deviation of any similarity, loss or gradient in any check; 0 if nothing was checked."""
        return max((value for op in self.ops.values() for value in op.deviation.values()), default=0.0)

    def summary(self) -> str:
        """One line per op: how much was checked, and the largest deviations. Says so if nothing was checked."""
        if not self.checks:
            return "hardmine.verify: nothing was checked (no op was called in eager mode)"
        lines = []
        for name, op in self.ops.items():
            deviations = ", ".join(f"{quantity} {value:.1e}" for quantity, value in op.deviation.items())
            line = f"{name}: {op.checks} of {op.calls} calls checked; largest deviation: {deviations}"
            if op.choices:
                line += f"; {op.choice} that differ by a tie: {op.ties} of {op.choices}"
            lines.append(line)
        return "\n".join(lines)

    __str__ = summary


_ALWAYS_DRAW = {"smart_triplets"}  # whether or not an option says "random"


class verify:  # noqa: N801 (used as a function: `with hardmine.verify(every=100):`)
    """Context manager in which the fused ops also run their references.

    Every ``every``-th call of each op, the first included, is repeated on detached copies of its inputs and compared
    with the plain PyTorch of :mod:`hardmine.reference`, in float64: that each selected pair or neighbor is a
    candidate and no other candidate is better by more than the tolerance (so that ties may fall either way), the
    similarities, the counts, the loss, and the gradients, which the reference takes at the op's own selection.
    Triplets within the tolerance of a hinge's kink may count as active or not. ``smart_triplets`` must give the very
    triplets of its reference. The training itself is not touched:
    the op's result is returned as without ``verify``, and no random number is drawn; to check a random selection, the
    op's own numbers are drawn again, from a copy of its generator. A check costs the reference's time and B x M
    memory, that of ``batch_all_triplet_loss`` B times the number of pairs of a class.

    Ops that ``torch.compile`` has captured are not checked; the report's number of checks shows it.

    Args:
        every: Check one call in so many of each op, at least 1.
        save_dir: Where the inputs of a disagreement are saved; created if need be.
        tolerance: Largest relative deviation of similarities and losses; gradients get ten times that. None: 1e-5,
            and 1e-12 for float64 inputs. Gradients of half-precision inputs are also allowed their rounding.

    Raises:
        VerificationError: Inside, by the op whose check failed.
        ValueError: On making it, if ``every``, ``save_dir`` or ``tolerance`` is of no use.

    Example:
        >>> import torch
        >>> import hardmine
        >>> from hardmine import ops
        >>> embeddings, labels = torch.randn(16, 8, requires_grad=True), torch.arange(16) // 4
        >>> with hardmine.verify(every=2) as report:
        ...     for _ in range(4):  # a training loop
        ...         ops.sct_loss(embeddings, labels).backward()
        ...
        >>> report.checks, report.largest_deviation < 1e-5
        (2, True)
    """

    def __init__(
        self, every: int = 100, save_dir: str | os.PathLike[str] = "hardmine-verify", tolerance: float | None = None
    ) -> None:
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise ValueError(f"every must be an integer >= 1, got {every!r}")
        if tolerance is not None:
            if not isinstance(tolerance, Real) or isinstance(tolerance, bool):
                raise TypeError(f"tolerance must be a number, got {type(tolerance).__name__}")
            if not tolerance > 0:
                raise ValueError(f"tolerance must be > 0, got {tolerance!r}")
        self.every = every
        self.save_dir = Path(save_dir)
        self.tolerance = tolerance
        existing = next(path for path in (self.save_dir.absolute(), *self.save_dir.absolute().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise ValueError(f"save_dir must be a folder that can be written to, got {str(self.save_dir)!r}")
        self.report = Report()

    def __enter__(self) -> Report:
        observers.append(self._before)
        return self.report

    def __exit__(self, *exception: object) -> None:
        observers.remove(self._before)

    def _before(
        self, name: str, op: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], None]:
        """The observer of the ops' calls: keeps the state of the generator and returns the check."""
        draws = name in _ALWAYS_DRAW or "random" in (kwargs.get("positive"), kwargs.get("negative"))
        generator = _generator_before(op, args, kwargs) if draws else None
        return lambda: self._check(name, op, args, kwargs, generator)

    def _check(
        self,
        name: str,
        op: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        generator: torch.Generator | None,
    ) -> None:
        record = self.report.ops.setdefault(name, OpReport())
        due = record.calls % self.every == 0
        record.calls += 1
        rows = next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
        if not due or rows.is_meta or isinstance(rows, FakeTensor):  # which have no values to compare
            return
        bound = inspect.signature(op).bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        if "generator" in arguments:
            arguments["generator"] = generator  # the user's own draws nothing here
        token = replaying.set(True)
        try:
            with torch.inference_mode(False), torch.enable_grad():
                comparison = COMPARISONS[name](name, op, arguments, self.tolerance, record)
                disagreement = comparison.run()
        finally:
            replaying.reset(token)
        record.checks += 1
        if disagreement:
            path = self._save(name, record.calls, comparison, disagreement)
            raise VerificationError(
                f"{name} (call {record.calls}) disagrees with its reference: {disagreement}. "
                f"Inputs, options and outputs were saved to {path}",
                path,
            )

    def _save(self, name: str, call: int, comparison: OpComparison, disagreement: str) -> Path:
        self.save_dir.mkdir(parents=True, exist_ok=True)
        path = self.save_dir / f"{name}-call{call}.pt"
        for number in itertools.count(2):
            if not path.exists():
                break
            path = self.save_dir / f"{name}-call{call}-{number}.pt"
        arguments = dict(comparison.arguments)
        saved = {"op": name, "disagreement": disagreement, "arguments": arguments, "outputs": comparison.outputs}
        if arguments.get("generator") is not None:  # of which torch.load takes the state only
            saved["random_state"] = arguments["generator"].get_state()
            arguments["generator"] = None
        torch.save(saved, path)
        return path


def _generator_before(op: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Generator | None:
    """A copy of the generator that an op is about to draw from."""
    generator = inspect.signature(op).bind_partial(*args, **kwargs).arguments.get("generator")
    if generator is None:
        embeddings = args[0] if args else kwargs.get("embeddings")
        if isinstance(embeddings, torch.Tensor) and embeddings.is_cuda:
            generator = torch.cuda.default_generators[embeddings.device.index]
        else:
            generator = torch.default_generator
    return generator.clone_state() if isinstance(generator, torch.Generator) else None
