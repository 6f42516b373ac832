"""One comparison of a fused op with its reference: what :class:`hardmine.verify` runs."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Record(Protocol):
    """Where a comparison notes what it saw."""

    anchors: int
    ties: int

    def record(self, quantity: str, deviation: float) -> None:
        """Notes a deviation."""


class _AtValue(torch.autograd.Function):
    """A differentiable number moved to another value: forward gives ``value``, backward is the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        ctx.dtype = x.dtype
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.to(ctx.dtype), None


class Comparison:
    """One comparison of a fused op with its reference."""

    def __init__(
        self, name: str, op: Callable, arguments: dict[str, Any], tolerance: float | None, record: Record
    ) -> None:
        self.name, self.op, self.record = name, op, record
        self.reference = importlib.import_module(f"hardmine.reference.{name}")
        self.select = importlib.import_module("hardmine.reference.select_triplets")
        self.arguments = {key: a.detach().clone() if isinstance(a, Tensor) else a for key, a in arguments.items()}
        for labels in ("labels", "ref_labels"):
            if self.arguments[labels] is not None:
                self.arguments[labels] = self.arguments[labels].long()
        self.options = {key: a for key, a in self.arguments.items() if not isinstance(a, Tensor)}
        self.x, self.refs = self.arguments["embeddings"], self.arguments["ref_embeddings"]
        self.outputs: dict[str, Any] = {}
        self.tolerance = tolerance or (1e-12 if self.x.dtype == torch.float64 else 1e-5)
        self.gradient_tolerance = 10 * self.tolerance + 2 * torch.finfo(self.x.dtype).eps

    def run(self) -> str | None:
        """What disagrees, or None."""
        leaves = [rows.clone().requires_grad_() for rows in (self.x, self.refs) if rows is not None]
        tensors = dict(zip(("embeddings", "ref_embeddings"), leaves, strict=False))
        loss, selection = self._fused({**self.arguments, **tensors, **self._same_numbers()})
        gradients = torch.autograd.grad(self._scalar(loss), leaves)
        self.outputs = {
            "loss": loss.detach(),
            "selection": tuple(s.detach() for s in selection),
            "gradients": gradients,
        }
        self.record.anchors += len(self.x)
        return self._check_selection(selection) or self._check_loss(loss.detach(), gradients, selection)

    def _same_numbers(self) -> dict[str, torch.Generator]:
        """A generator that draws the numbers of the call that is checked, for the op and its reference each; if any."""
        generator = self.arguments.get("generator")
        return {} if generator is None else {"generator": generator.clone_state()}

    def _fused(self, arguments: dict[str, Any]) -> tuple[Tensor, Any]:
        if self.name == "select_triplets":
            selection = self.op(**arguments)
            return self._similarity_sum(selection), selection
        return self.op(**{**arguments, "return_selection": True})

    @staticmethod
    def _similarity_sum(selection: Any) -> Tensor:
        """A function of the selected similarities that has a gradient through each; 0 for those that are missing."""
        pairs = (
            (selection.positive_index, selection.positive_similarity),
            (selection.negative_index, selection.negative_similarity),
        )
        positive, negative = (torch.where(index >= 0, s, 0.0) for index, s in pairs)
        return positive - 2 * negative

    @staticmethod
    def _scalar(loss: Tensor) -> Tensor:
        """One number from a loss of any reduction, with a different weight for every anchor."""
        return (
            loss
            if loss.dim() == 0
            else (loss * torch.linspace(0.5, 1.5, len(loss), dtype=loss.dtype, device=loss.device)).sum()
        )

    def _check_selection(self, selection: Any) -> str | None:
        options, labels, ref_labels = self.options, self.arguments["labels"], self.arguments["ref_labels"]
        x, refs = self.x.double(), self.x.double() if self.refs is None else self.refs.double()
        similarity = options["similarity"]
        if any(r.isfinite().all() and not _in_range(r) for r in (self.x, self.refs) if r is not None):
            return None  # squares overflow where they are added up, though not in float64
        own = self.select.select_triplets(
            x, labels, None if self.refs is None else refs, ref_labels, **self._selection_options()
        )
        if not len(x) or not len(refs):
            return (
                None
                if all((index == -1).all() for index in selection[:2])
                else "an index where there are no candidates"
            )
        s = self.select.similarity_matrix(x, refs, similarity)
        largest_norms = [rows.norm(dim=1).nan_to_num(0.0, 0.0).max().item() for rows in (x, refs)]
        scale = {"cosine": 1.0, "dot": largest_norms[0] * largest_norms[1], "euclidean": sum(largest_norms)}[similarity]
        slack = self.tolerance * max(scale, 1e-30)

        same = labels[:, None] == (labels if ref_labels is None else ref_labels)[None, :]
        known = ~s.isnan()
        positives, negatives = same & known, ~same & known
        if self.refs is None:
            positives.fill_diagonal_(False)
        threshold = self._selection_options()["duplicate_threshold"]
        threshold = torch.inf if threshold is None else threshold
        tight, loose = positives & (s <= threshold - slack), positives & (s <= threshold + slack)
        if options["positive"] == "random":
            wrong = _not_drawn(selection.positive_index, own.positive_index, tight, loose)
        else:
            key = -s if options["positive"] == "hardest" else s
            wrong = _not_best(selection.positive_index, key, tight, loose, slack)
        different = selection.positive_index != own.positive_index
        if (wrong & different).any():
            return self._describe("positive", wrong & different, selection.positive_index, own.positive_index)
        self.record.ties += int(different.sum())

        kind, index = options["negative"], selection.negative_index
        if kind == "semihard":
            bound = _at(s, selection.positive_index)[:, None]
            margin = options["semihard_margin"]
            lower = -torch.inf if margin is None else bound - margin
            tight = negatives & (s < bound - slack) & (s > lower + slack)
            loose = negatives & (s <= bound + slack) & (s > lower - slack)
            wrong = _not_best(index, s, tight, loose, slack)
            fallback = options["semihard_fallback"]
            if fallback is not None:
                key = -s if fallback == "easiest" else s
                not_fallback = _not_best(index, key, negatives, negatives, slack)
                wrong &= tight.any(1) | not_fallback
                wrong |= (index < 0) & negatives.any(1)
        elif kind == "random":
            wrong = _not_drawn(index, own.negative_index, negatives, negatives)
        else:
            wrong = _not_best(index, -s if kind == "easiest" else s, negatives, negatives, slack)
        different = index != own.negative_index
        if (wrong & different).any():
            return self._describe("negative", wrong & different, index, own.negative_index)
        self.record.ties += int(different.sum())

        for name, index, value in (
            ("positive", selection.positive_index, selection.positive_similarity),
            ("negative", selection.negative_index, selection.negative_similarity),
        ):
            expected = _at(s, index)
            if not torch.equal(expected.isnan(), value.isnan()):
                return f"{name}_similarity must be NaN exactly where there is no candidate"
            deviation = (expected - value.detach().double()).abs().nan_to_num(0.0).max().item() / max(scale, 1e-30)
            self.record.record("similarity", deviation)
            if deviation > self.tolerance:
                return f"{name}_similarity deviates by {deviation:.2e}, more than {self.tolerance:.2e}"
        return None

    def _selection_options(self) -> dict[str, Any]:
        """The options of the op's selection, as the reference of select_triplets takes them."""
        accepted = inspect.signature(self.select.select_triplets).parameters
        options = {key: value for key, value in self.options.items() if key in accepted}
        if "preset" in self.options:
            options.update(importlib.import_module("hardmine.reference.sct_loss").preset_selection(**self.options))
        options.update(self._same_numbers())
        return {key: value for key, value in options.items() if key not in ("ref_embeddings", "ref_labels")}

    def _describe(self, which: str, wrong: Tensor, index: Tensor, own: Tensor) -> str:
        anchor = int(wrong.nonzero()[0])
        wanted = "candidate drawn" if self.options[which] == "random" else "best candidate"
        return (
            f"{which}_index is not the {wanted} of {int(wrong.sum())} anchors, "
            f"first at anchor {anchor}, which got {int(index[anchor])} where the reference has {int(own[anchor])}"
        )

    def _check_loss(self, loss: Tensor, gradients: Any, selection: Any) -> str | None:
        rows = [rows for rows in (self.x, self.refs) if rows is not None]
        if not all(_in_range(r) for r in rows):
            if self.name == "select_triplets":
                return None
            if not loss.isnan().all() or not all(g.isnan().all() for g in gradients):
                return "the loss and its gradients must be NaN where an embedding is not finite"
            return None
        leaves = [r.double().requires_grad_() for r in rows]
        pairs = self._pairs(leaves, selection)
        if self.name == "select_triplets":
            expected = self._similarity_sum(pairs)
        else:
            accepted = inspect.signature(self.reference.loss_of_selection).parameters
            options = {key: value for key, value in self.options.items() if key in accepted}
            expected = self.reference.loss_of_selection(pairs, **options)
        deviation = ((loss - expected).abs() / expected.abs().clamp(min=1.0)).double().detach()
        self.record.record("loss", deviation.max().item() if len(deviation.reshape(-1)) else 0.0)
        if (deviation > self.tolerance).any() or deviation.isnan().any():
            return f"the loss deviates by {deviation.max().item():.2e}, more than {self.tolerance:.2e}"
        references = [None] * len(leaves)
        usual = 0.0
        if expected.requires_grad:
            scalar = self._scalar(expected)
            usual = self._usual_gradient(scalar, pairs)
            references = torch.autograd.grad(scalar, leaves, allow_unused=True)
        limits = torch.finfo(self.x.dtype)
        smallest = limits.smallest_normal * limits.eps  # what rounds to zero, which float16 does early
        for gradient, leaf, reference in zip(gradients, leaves, references, strict=True):
            if not leaf.numel():
                continue
            reference = torch.zeros_like(leaf) if reference is None else reference
            error = ((gradient.double() - reference).abs() - smallest).clamp(min=0.0).max().item()
            deviation = error / max(reference.abs().max().item(), usual, 1e-20)
            self.record.record("gradient", deviation)
            if not deviation <= self.gradient_tolerance:
                return f"the gradient deviates by {deviation:.2e}, more than {self.gradient_tolerance:.2e}"
        return None

    def _usual_gradient(self, scalar: Tensor, pairs: Any) -> float:
        """The size of an element of the gradient that one pair gives its rows, were nothing to cancel.

        Rows that point the same way have a cosine gradient of 0, of which both sides compute only rounding errors.
        """
        refs = self.x if self.refs is None else self.refs
        norms, ref_norms = (rows.double().norm(dim=1).clamp(min=1e-12) for rows in (self.x, refs))
        slopes = torch.autograd.grad(scalar, pairs[2:], retain_graph=True, allow_unused=True)
        largest = 0.0
        for index, slope in zip(pairs[:2], slopes, strict=True):
            if slope is None or not len(norms) or not len(ref_norms):
                continue
            both = torch.stack([norms, ref_norms[index.clamp(min=0)]])
            similarity = self.options["similarity"]
            sizes = {"cosine": 1 / both.amin(0), "dot": both.amax(0), "euclidean": torch.ones_like(norms)}
            largest = max(largest, torch.where(index >= 0, slope.abs() * sizes[similarity], 0.0).max().item())
        return largest / self.x.shape[1] ** 0.5

    def _pairs(self, leaves: list[Tensor], selection: Any) -> Any:
        """The op's own selection, its similarities differentiable through float64 copies of the embeddings.

        The similarities keep the op's values, so that the reference takes the same side of every kink and jump of the
        loss.
        """
        similarity = self.options["similarity"]
        a, b = leaves[0], leaves[-1]
        if similarity == "cosine":
            a, b = F.normalize(a), F.normalize(b)

        def pair(index: Tensor, value: Tensor) -> Tensor:
            if not len(b):
                return value.detach().double()
            other = b[index.clamp(min=0)]
            s = -(a - other).norm(dim=1) if similarity == "euclidean" else (a * other).sum(1)
            return _AtValue.apply(s, value.detach().double())

        return self.select.Selection(
            selection.positive_index,
            selection.negative_index,
            pair(selection.positive_index, selection.positive_similarity),
            pair(selection.negative_index, selection.negative_similarity),
        )


def _at(s: Tensor, index: Tensor) -> Tensor:
    """s[i, index[i]], NaN where the index is -1."""
    return torch.where(index >= 0, s.gather(1, index.clamp(min=0)[:, None]).squeeze(1), torch.nan)


def _in_range(rows: Tensor) -> bool:
    """Whether rows and their norms are finite in the type that the ops compute in."""
    rows = rows if rows.dtype == torch.float64 else rows.float()
    return bool(rows.square().sum(1).isfinite().all())


def _not_best(index: Tensor, key: Tensor, tight: Tensor, loose: Tensor, slack: float) -> Tensor:
    """Which anchors chose a pair that is no candidate, or that another candidate beats by more than a tie.

    ``tight`` are the candidates for certain, ``loose`` those that are candidates within rounding.
    """
    best = key.masked_fill(~tight, -torch.inf).amax(1)
    allowed = loose.gather(1, index.clamp(min=0)[:, None]).squeeze(1)
    return torch.where(index >= 0, ~allowed | (best > _at(key, index) + slack), best > -torch.inf)


def _not_drawn(index: Tensor, own: Tensor, tight: Tensor, loose: Tensor) -> Tensor:
    """Which anchors got another candidate than the reference drew with the same numbers.

    Where rounding decides whether some pair is a candidate, any candidate will do. ``tight`` and ``loose`` as above.
    """
    allowed = loose.gather(1, index.clamp(min=0)[:, None]).squeeze(1)
    possible = torch.where(index >= 0, allowed, ~tight.any(1))
    return (index != own) & ((tight == loose).all(1) | ~possible)
