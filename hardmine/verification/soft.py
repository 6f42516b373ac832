"""The comparisons of the ops on log-sum-exps: with the reference's results in float64, from its own similarities."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from hardmine.verification.base import OpComparison
from hardmine.verification.bounds import direction_error, typical_element


class SoftComparison(OpComparison):
    """One comparison of an op on labeled rows whose reference has ``of_matrix``."""

    def fused(self, arguments: dict[str, Any]) -> tuple[Tensor, Any]:
        """The op's loss, with 0 for -infinity, which marks anchors without a pair."""
        result = self.call(arguments)
        loss = result[0] if type(result) is tuple else result
        missing = loss.detach() == -torch.inf
        self.missing = missing if self.ignored is None or not loss.dim() else missing[self.ignored.keep]
        return torch.where(missing, 0.0, loss), None

    def _check_between(self, loss: Tensor, low: Tensor, high: Tensor) -> str | None:
        """Pairs within rounding of their bound count or not: the loss then lies between two values."""
        self.record.ties += 1
        steepness = self.similarity_scale() * self.steepest(dict(self.options))
        nearest = torch.minimum(torch.maximum(loss.double(), low), high)
        return self.check_loss(loss, nearest.detach(), max(1.0, steepness))

    @staticmethod
    def steepest(options: dict[str, Any]) -> float:
        """The largest derivative of an exponent by a similarity."""
        if "gamma" in options:
            return float(options["gamma"] * (2 + abs(options["m"])))
        return max([options[name] for name in ("alpha", "beta") if name in options] or [1 / options["temperature"]])

    def disagreement(self, loss: Tensor, returned: Any, gradients: Any) -> str | None:
        """A description of the disagreement, or None."""
        if not self.in_range():
            return self.check_divergence(loss, gradients)
        arguments, options = self.arguments, dict(self.options)
        leaves, similarity = self.double_leaves(), options.get("similarity", "cosine")
        s, positives, negatives = self.select.candidate_pairs(
            leaves[0],
            arguments["labels"],
            None if len(leaves) == 1 else leaves[1],
            arguments["ref_labels"],
            arguments["ids"],
            arguments["ref_ids"],
            similarity,
        )
        of_matrix = self.reference.of_matrix
        used = {name: options[name] for name in inspect.signature(of_matrix).parameters if name in options}
        if arguments.get("weights") is not None:
            used["weights"] = arguments["weights"].double()
        if used.get("epsilon") is not None:
            slack = self.tolerance * self.similarity_scale()
            few, most = (
                self.reference.mined(s.detach(), positives, negatives, used["epsilon"] + side)
                for side in (-slack, slack)
            )
            if not all(map(torch.equal, few, most)):
                used["epsilon"] = None
                return self._check_between(loss, *(of_matrix(s, *masks, **used) for masks in (few, most)))
        expected = of_matrix(s, positives, negatives, **used)
        missing = expected.detach() == -torch.inf
        if not torch.equal(missing, self.missing):
            return "the log-sum-exp must be -inf exactly where there is no pair"
        expected = torch.where(missing, 0.0, expected)
        steepness = self.similarity_scale() * self.steepest(options)
        problem = self.check_loss(loss, expected, max(1.0, steepness))
        if problem:
            return problem
        slopes, *references = torch.autograd.grad(self.scalar(expected), [s, *leaves], allow_unused=True)
        typical = allowance = 0.0
        if slopes is not None and s.numel():
            typical = typical_element(slopes, leaves[0].detach(), leaves[-1].detach(), similarity)
            allowance = direction_error(slopes, s.detach(), similarity, self.underflow("euclidean"))
        return self.check_gradients(gradients, leaves, references, typical, allowance, steepness / 100)
