"""The comparisons of the losses on pairs of a query and a key, with their references in float64."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hardmine.verification.base import OpComparison, in_range, largest_norm


class PairsComparison(OpComparison):
    """One comparison of a loss on pairs."""

    def slope(self, count: int) -> tuple[float, float]:
        """Bounds for ``count`` pairs: of a pair's derivative by its similarity, and of the sum of those of a query."""
        raise NotImplementedError

    def matrices(self) -> list[Tensor]:
        """The rows of queries and of keys."""
        return [rows.reshape(-1, rows.shape[-1]) for rows in self.rows]

    def in_range(self) -> bool:
        """Whether all rows and their norms are finite in the dtype that the ops compute in."""
        return all(map(in_range, self.matrices()))

    def disagreement(self, loss: Tensor, returned: Any, gradients: Any) -> str | None:
        """A description of the disagreement, or None."""
        if not self.in_range():
            return self.check_divergence(loss, gradients)
        leaves = self.double_leaves()
        arguments = {**self.arguments, **self.options, **dict(zip(self.names, leaves, strict=True))}
        expected = getattr(self.reference, self.name)(**arguments)
        queries, *keys = self.matrices()
        similarity, norm = self.options["similarity"], max(map(largest_norm, [queries, *keys]))
        ball_norm = min(norm, 1 - 1e-12)
        scale = {
            "cosine": 1.0, "dot": norm**2, "euclidean": 2 * norm, "hyperbolic": 4 * math.atanh(ball_norm)
        }[similarity]  # fmt: skip
        steepest, total = self.slope(len(queries))
        largest_weight, divisor = 1.0, float(max(len(queries), 1))
        if arguments.get("weights") is not None and len(queries):
            weights = arguments["weights"].double()
            largest_weight, divisor = weights.max().item(), weights.sum().item()
        problem = self.check_loss(loss, expected, max(1.0, scale * steepest) * max(1.0, largest_weight))
        if problem:
            return problem
        references = torch.autograd.grad(self.scalar(expected), leaves, allow_unused=True)
        weight = total * largest_weight / (divisor or 1.0 if self.options["reduction"] == "mean" else 1.0)
        norms = torch.cat([rows.double().norm(dim=1) for rows in (queries, *keys)]).clamp(min=1e-12)
        sizes = {
            "cosine": 1 / norms,
            "dot": norms,
            "euclidean": torch.ones_like(norms),
            "hyperbolic": torch.full_like(norms, 2 / (1 - ball_norm**2)),
        }[similarity]
        typical = weight * sizes.max().item() / queries.shape[1] ** 0.5 if len(norms) else 0.0
        return self.check_gradients(gradients, leaves, references, typical, 0.0, scale * steepest / 100)


class InfoNCEComparison(PairsComparison):
    """One comparison of info_nce_loss."""

    row_names = ("query", "positive_key", "negative_keys")

    def prepare_for_ranks(self) -> None:
        """Negatives of all queries of a rank become those of each query, since other ranks have others."""
        negatives = self.arguments.get("negative_keys")
        if negatives is not None and negatives.dim() == 2:
            self.arguments["negative_keys"] = negatives.repeat(len(self.arguments["query"]), 1, 1)
            self.rows = [self.arguments[name] for name in self.names]

    def slope(self, count: int) -> tuple[float, float]:
        """The derivatives by the similarities of a query add up to at most 2 / temperature in size."""
        return 1 / self.options["temperature"], 2 / self.options["temperature"]


class SigmoidComparison(PairsComparison):
    """One comparison of sigmoid_loss."""

    row_names = ("query", "key")

    def slope(self, count: int) -> tuple[float, float]:
        """Each derivative is at most the scale."""
        scale = abs(self.options["logit_scale"])
        return scale, scale * max(count, 1) ** 0.5
