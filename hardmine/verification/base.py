"""Base class of the comparisons: it runs the op, and compares losses and gradients."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, Protocol

import torch
from torch import Tensor

from hardmine._options import resolve_options
from hardmine.verification.ignored import IgnoredRows


class Record(Protocol):
    """Where a comparison records its results."""

    choices: int
    ties: int
    choice: str

    def record(self, quantity: str, deviation: float) -> None:
        """Records a deviation."""


class AtValue(torch.autograd.Function):
    """Replaces the value of a differentiable tensor: forward returns ``value``, backward is the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        ctx.dtype = x.dtype
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.to(ctx.dtype), None


def _as_plain(option: Any) -> Any:
    """NumPy's scalars and fractions as Python's own types: tensors take those, and so does ``torch.load``."""
    if getattr(option, "ndim", None) == 0:
        option = option.item()
    return float(option) if isinstance(option, Real) and not isinstance(option, int) else option


class OpComparison:
    """One comparison of a fused op with its reference. Each kind of op has a subclass.

    Attributes:
        row_names: Names of the arguments that are embeddings and get gradients.
        returned: The op's second output, which ``return_<returned>=True`` requests.
        counts: Whether the op has ``return_count``, for the number of anchors that count in the mean.
        choice: A plural noun for what the op chooses, for the report.
    """

    row_names: tuple[str, ...] = ("embeddings", "ref_embeddings")
    returned: str = ""
    counts: bool = False
    choice: str = ""

    def __init__(
        self, name: str, op: Callable[..., Any], arguments: dict[str, Any], tolerance: float | None, record: Record
    ) -> None:
        self.name, self.op, self.record = name, op, record
        self.record.choice = self.choice
        self.reference = importlib.import_module(f"hardmine.reference.{name}")
        self.select = importlib.import_module("hardmine.reference.select_triplets")
        self.given: dict[str, Any] = {
            key: a.detach().clone() if isinstance(a, Tensor) else _as_plain(a)
            for key, a in arguments.items()
            if key not in ("group", "gradient_reduction")
        }
        for integers in ("labels", "ref_labels", "ids", "ref_ids"):
            if self.given.get(integers) is not None:
                self.given[integers] = self.given[integers].long()
        # The comparison sees the rows that are not ignored, and the op all of them.
        self.ignored = None if self.given.get("ignore_index") is None else IgnoredRows(self.given)
        self.arguments = self.given if self.ignored is None else self.ignored.rest(self.given)
        scalars = {key: a.item() if isinstance(a, Tensor) and not a.dim() else a for key, a in self.arguments.items()}
        options = {key: a for key, a in scalars.items() if not isinstance(a, Tensor)}
        self.options = resolve_options(name, options)
        self.names = [key for key in self.row_names if self.arguments.get(key) is not None]
        self.rows = [self.arguments[key] for key in self.names]
        self.outputs: dict[str, Any] = {}
        self.tolerance = tolerance or (1e-12 if self.rows[0].dtype == torch.float64 else 1e-5)
        self.gradient_tolerance = 10 * self.tolerance + 2 * torch.finfo(self.rows[0].dtype).eps

    def run(self) -> str | None:
        """A description of the disagreement, or None."""
        leaves = self._leaves()
        loss, returned = self.fused({**self.given, **leaves})
        self.outputs["loss"] = loss.detach()
        if self.returned:
            self.outputs[self.returned] = tuple(t.detach() for t in returned)
        try:
            result = self._kept(loss, returned)
            gradients: Sequence[Tensor] = torch.autograd.grad(self.scalar(result[0]), tuple(leaves.values()))
            self.outputs["gradients"] = gradients
            problem = self._disagreement_alone(result[0].detach(), returned, gradients)
            if self.ignored is not None:
                gradients = self.ignored.restrict_gradients(self.names, gradients)
        except ValueError as error:
            return str(error)
        return self.disagreement(result[0].detach(), result[1], gradients) or problem

    def _leaves(self) -> dict[str, Tensor]:
        """New copies of the embeddings, which get gradients."""
        return {name: self.given[name].clone().requires_grad_() for name in self.names}

    def _kept(self, loss: Tensor, returned: Any) -> tuple[Tensor, Any]:
        """The results for the rows that are not ignored."""
        return (loss, returned) if self.ignored is None else self.ignored.restrict(loss, returned)

    def _disagreement_alone(self, loss: Tensor, returned: Any, gradients: Sequence[Tensor]) -> str | None:
        """How the call as it was made differs from the one that also returned what the comparison needs, or None.

        Where a loss alone is wanted, another compiled op may compute it, such as the CPU's ops with gradients.
        """
        if self.given.get(f"return_{self.returned}", True):
            return None  # requested by the call itself, or not optional
        leaves = self._leaves()
        result = self.call({**self.given, **leaves})
        alone, _ = self._kept(result[0] if type(result) is tuple else result, returned)
        found = alone.detach(), *torch.autograd.grad(self.scalar(alone), tuple(leaves.values()))
        for actual, expected in zip(found, (loss, *gradients), strict=True):
            what, tolerance, unit = "gradient", self.gradient_tolerance, 1e-20
            if expected is loss:
                what, tolerance, unit = "loss", self.tolerance, 1.0
            limit = tolerance * max(expected.abs().nan_to_num(0.0, 0.0).max().item() if expected.numel() else 0.0, unit)
            error = (actual.double() - expected.double()).abs()
            differs = (actual != expected) & ~(actual.isnan() & expected.isnan()) & ~(error <= limit)
            if differs.any():
                deviation = f"the {what} deviates by {error[differs].max().item():.2e}, more than {limit:.2e}"
                return f"{deviation}, from that of the same call with return_{self.returned}=True"
        return None

    def call(self, arguments: dict[str, Any]) -> Any:
        """What the op returns."""
        return self.op(**arguments)

    def prepare_for_ranks(self) -> None:
        """Changes arguments that all ranks cannot concatenate, where ranks compute the call together."""

    def fused(self, arguments: dict[str, Any]) -> tuple[Tensor, Any]:
        """The op's loss, or a differentiable function of its outputs, and what the op chose."""
        if not self.returned:
            return self.call(arguments), None
        arguments = {**arguments, f"return_{self.returned}": True}
        if not self.counts:
            return self.call(arguments)
        loss, returned, count = self.call({**arguments, "return_count": True})
        self.outputs["count"] = count
        return loss, returned

    def disagreement(self, loss: Tensor, returned: Any, gradients: Sequence[Tensor]) -> str | None:
        """A description of the disagreement, or None."""
        raise NotImplementedError

    @staticmethod
    def scalar(loss: Tensor) -> Tensor:
        """A scalar from a loss of any reduction; unreduced losses get a different weight per anchor."""
        return (
            loss
            if loss.dim() == 0
            else (loss * torch.linspace(0.5, 1.5, len(loss), dtype=loss.dtype, device=loss.device)).sum()
        )

    def double_leaves(self) -> list[Tensor]:
        """The embeddings in float64, for the reference."""
        return [rows.double().requires_grad_() for rows in self.rows]

    def in_range(self) -> bool:
        """Whether all rows and their norms are finite in the dtype that the ops compute in."""
        return all(in_range(rows) for rows in self.rows)

    def underflow(self, measure: str) -> float:
        """The error of a measure of two rows that underflow of products or squares of elements may cause."""
        dtype = torch.float64 if self.rows[0].dtype == torch.float64 else torch.float32
        sum_error = self.rows[0].shape[1] * torch.finfo(dtype).smallest_normal
        distance_error = sum_error**0.5
        errors = {"cosine": 0.0, "dot": sum_error, "sq_dist": sum_error, "euclidean": distance_error}
        return errors.get(measure, distance_error)

    def similarity_scale(self) -> float:
        """The largest similarity that the norms allow; for tiny rows, more, to allow for underflow."""
        a, b = largest_norm(self.rows[0]), largest_norm(self.rows[-1])
        similarity = self.options.get("similarity", "cosine")  # circle_loss has no choice
        of_ball = 2 * (math.atanh(min(a, 1 - 1e-12)) + math.atanh(min(b, 1 - 1e-12)))
        largest = {"cosine": 1.0, "dot": a * b, "euclidean": a + b, "hyperbolic": of_ball}[similarity]
        return max(largest, self.underflow(similarity) / self.tolerance, 1e-30)

    def max_positive_similarity(self, duplicate_threshold: float | None) -> float:
        """The similarity above which a positive is excluded; infinity if there is none, as no cosine exceeds 1."""
        if duplicate_threshold is None or (self.options["similarity"] == "cosine" and duplicate_threshold >= 1):
            return torch.inf
        return duplicate_threshold

    def check_range(self, name: str, similarity: Tensor) -> str | None:
        """Cosine similarities must lie in [-1, 1]; missing ones are NaN."""
        if self.options["similarity"] == "cosine" and (similarity.abs() > 1).any():
            return f"{name} must lie in [-1, 1], got {similarity[similarity.abs() > 1][0].item()}"
        return None

    def check_count(self, expected: Tensor) -> str | None:
        """The number of anchors that count in the mean must be as expected."""
        count = self.outputs["count"]
        if count.item() != expected.item():
            return f"the count must be {expected.item()}, got {count.item()}"
        return None

    def check_divergence(self, loss: Tensor, gradients: Sequence[Tensor]) -> str | None:
        """Non-finite embeddings must make the loss and all gradients NaN."""
        if not loss.isnan().all() or not all(g.isnan().all() for g in gradients):
            return "the loss and its gradients must be NaN where an embedding is not finite"
        return None

    def check_loss(self, loss: Tensor, expected: Tensor, scale: Tensor | float = 1.0) -> str | None:
        """The loss must be as expected, relative to its size or ``scale``, whichever is larger."""
        scale = torch.as_tensor(scale, dtype=torch.float64, device=loss.device)
        deviation = ((loss - expected).abs() / torch.maximum(expected.abs(), scale)).double().detach()
        self.record.record("loss", deviation.max().item() if len(deviation.reshape(-1)) else 0.0)
        if (deviation > self.tolerance).any() or deviation.isnan().any():
            return f"the loss deviates by {deviation.max().item():.2e}, more than {self.tolerance:.2e}"
        return None

    def check_gradients(
        self,
        gradients: Sequence[Tensor],
        leaves: Sequence[Tensor],
        references: Sequence[Tensor | None],
        typical: float,
        allowance: Tensor | float | tuple[Tensor, ...] = 0.0,
        conditioning: float = 1.0,
    ) -> str | None:
        """The gradients must be those of the reference, relative to their largest element or to ``typical``.

        ``typical`` is the size of a gradient element without cancellation. ``allowance`` is an extra error bound per
        element; a tuple has one for each leaf. ``conditioning`` is a factor by which these gradients amplify rounded
        similarities.
        """
        limits = torch.finfo(self.rows[0].dtype)
        smallest = limits.smallest_normal * limits.eps  # the smallest subnormal number, which matters for float16
        allowances = allowance if isinstance(allowance, tuple) else (allowance,) * len(leaves)
        for gradient, leaf, reference, allowed in zip(gradients, leaves, references, allowances, strict=True):
            if not leaf.numel():
                continue
            reference = torch.zeros_like(leaf) if reference is None else reference
            error = (gradient.double() - reference).abs() - allowed - smallest
            overflows = gradient.isinf() & (gradient == reference.to(gradient.dtype))
            largest = error.masked_fill(overflows, 0.0).clamp(min=0.0).max().item()
            deviation = largest / max(reference.abs().max().item(), typical, 1e-20) / max(conditioning, 1.0)
            self.record.record("gradient", deviation)
            if not deviation <= self.gradient_tolerance:
                return f"the gradient deviates by {deviation:.2e}, more than {self.gradient_tolerance:.2e}"
        return None


def largest_norm(rows: Tensor) -> float:
    """The largest norm, in float64; 0 without rows. Non-finite norms are ignored."""
    return rows.double().norm(dim=1).nan_to_num(0.0, 0.0).max().item() if len(rows) else 0.0


def at(s: Tensor, index: Tensor) -> Tensor:
    """s[i, index[i]], NaN where the index is -1."""
    return torch.where(index >= 0, s.gather(1, index.clamp(min=0)[:, None]).squeeze(1), torch.nan)


def in_range(rows: Tensor) -> bool:
    """Whether rows and their norms are finite in the dtype that the ops compute in."""
    rows = rows if rows.dtype == torch.float64 else rows.float()
    return bool(rows.square().sum(1).isfinite().all())


def is_suboptimal(index: Tensor, key: Tensor, tight: Tensor, loose: Tensor, slack: float) -> Tensor:
    """Whether each anchor chose a pair that is not a candidate, or that another candidate beats by more than a tie.

    ``tight`` marks certain candidates, ``loose`` also those that are candidates within rounding.
    """
    best = key.masked_fill(~tight, -torch.inf).amax(1)
    allowed = loose.gather(1, index.clamp(min=0)[:, None]).squeeze(1)
    return torch.where(index >= 0, ~allowed | (best > at(key, index) + slack), best > -torch.inf)


def describe_mismatch(
    which: str, mismatch: Tensor, index: Tensor, expected: Tensor, what: str = "best candidate"
) -> str:
    """An error text: the anchors that ``mismatch`` marks got worse pairs than in the reference."""
    anchor = int(mismatch.nonzero()[0])
    return (
        f"{which}_index is not the {what} for {int(mismatch.sum())} anchors, "
        f"first at anchor {anchor}: got {int(index[anchor])}, the reference has {int(expected[anchor])}"
    )
