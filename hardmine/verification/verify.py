"""Checks of the fused ops against their references inside any training loop."""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from hardmine._hooks import checked, observers, replaying
from hardmine.verification.comparisons import COMPARISONS, OpComparison
from hardmine.verification.ranks import compare_ranks


class VerificationError(AssertionError):
    """A fused op and its reference disagree beyond tolerance.

    Attributes:
        path: The file with the op's inputs, options and outputs; ``torch.load(path)`` returns them as a dict. For a
            random selection, its entry ``"random_state"`` is the generator's state before the call. After
            ``torch.set_rng_state`` with this state, the op draws the same numbers again.
    """

    def __init__(self, message: str, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path


@dataclass
class OpReport:
    """The record of one op: its numbers of calls and checks, and the largest deviation of each quantity.

    An op that chooses (a pair, a neighbor, which triplets are active) and its reference may differ within rounding. Of
    the ``choices``, ``ties`` did. ``choice`` names what is chosen.
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
    """The results of :class:`verify` so far.

    Deviations are relative. A similarity is compared relative to the largest one that the norms allow (1 for cosine). A
    loss is compared relative to its size or 1, whichever is larger. A gradient is compared relative to its largest
    element or, if gradients cancel, to what single pairs would give. If a loss is steep in its similarities, as at low
    temperatures, the scale is the change of the loss per relative error of a similarity.

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
        """One line per op: the numbers of checks and the largest deviations; or a note that nothing was checked."""
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

    Every ``every``-th call of each op, starting with the first, is repeated on detached copies of its inputs. The
    results are compared with the plain PyTorch of :mod:`hardmine.reference`, in float64. Each selected pair or neighbor
    must be a candidate. No other candidate may be better by more than the tolerance, so ties may fall either way.
    Similarities, counts, the loss and the gradients must agree; the reference uses the op's own selection for them.
    Triplets within the tolerance of a hinge's kink may count as active or not. ``smart_triplets`` must return exactly
    the triplets of its reference.

    Verification does not change the training: the op's result is returned as without ``verify``, and no random number
    is drawn. To check a random selection, a copy of the op's generator draws the op's numbers again. A check costs the
    reference's time and B x M memory; for ``batch_all_triplet_loss``, M times the number of positive pairs.

    Ops inside ``torch.compile`` or a transform of ``torch.func``, such as ``torch.vmap``, are not checked, as the
    report's number of checks shows.

    Args:
        every: Check one in ``every`` calls of each op; at least 1.
        save_dir: Folder for the inputs of a disagreement; created if missing.
        tolerance: Largest relative deviation of similarities and losses; gradients get ten times as much. None: 1e-5,
            or 1e-12 for float64 inputs. Gradients of half-precision inputs may also deviate by their rounding.

    Raises:
        VerificationError: An op inside the context failed its check; the op's call raises.
        ValueError: ``every``, ``save_dir`` or ``tolerance`` is invalid.

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
        if not isinstance(every, (int, Integral)) or isinstance(every, bool) or every < 1:
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
        checked.set(False)

    def _before(
        self, name: str, op: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], None]:
        """The observer of the ops' calls: copies the generator and returns the check."""
        calls = self.report.ops[name].calls if name in self.report.ops else 0
        due = calls % self.every == 0 and all(map(_has_values, (*args, *kwargs.values())))
        checked.set(due)
        draws = name in _ALWAYS_DRAW or "random" in (kwargs.get("positive"), kwargs.get("negative"))
        generator = _generator_before(op, args, kwargs) if draws else None
        return lambda: self._check(due, name, op, args, kwargs, generator)

    def _check(
        self,
        due: bool,
        name: str,
        op: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        generator: torch.Generator | None,
    ) -> None:
        record = self.report.ops.setdefault(name, OpReport())
        record.calls += 1
        if not due:
            return
        bound = inspect.signature(op).bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        if "generator" in arguments:
            arguments["generator"] = generator  # a copy: a check must not advance the user's generator
        group = arguments.get("group")

        def report(disagreement: str) -> tuple[str, str]:
            path = str(self._save(name, record.calls, comparison, disagreement))
            message = f"{name} (call {record.calls}) disagrees with its reference: {disagreement}. "
            return f"{message}Inputs, options and outputs were saved to {path}", path

        token = replaying.set(True)
        try:
            with torch.inference_mode(False), torch.enable_grad():
                comparison = COMPARISONS[name](name, op, arguments, self.tolerance, record)
                if group is None:
                    disagreement = comparison.run()
                    problem = report(disagreement) if disagreement else None
                else:
                    problem = compare_ranks(comparison, group, arguments.get("gradient_reduction"), report)
        finally:
            replaying.reset(token)
        record.checks += 1
        if problem:
            message, path = problem
            raise VerificationError(message, Path(path))

    def _save(self, name: str, call: int, comparison: OpComparison, disagreement: str) -> Path:
        self.save_dir.mkdir(parents=True, exist_ok=True)
        path = self.save_dir / f"{name}-call{call}.pt"
        for number in itertools.count(2):
            if not path.exists():
                break
            path = self.save_dir / f"{name}-call{call}-{number}.pt"
        arguments = dict(comparison.given)
        saved = {"op": name, "disagreement": disagreement, "arguments": arguments, "outputs": comparison.outputs}
        if arguments.get("generator") is not None:  # torch.load accepts only the state of a generator
            saved["random_state"] = arguments["generator"].get_state()
            arguments["generator"] = None
        torch.save(saved, path)
        return path


def _has_values(argument: Any) -> bool:
    """Whether an argument can be compared; tensors inside of transforms, such as ``torch.vmap``, cannot."""
    if not isinstance(argument, torch.Tensor):
        return True
    is_inside = torch._C._are_functorch_transforms_active()
    return not (argument.is_meta or isinstance(argument, FakeTensor) or is_inside)


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
