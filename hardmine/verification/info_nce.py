"""The comparison of info_nce_loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hardmine.verification.base import OpComparison, in_range, largest_norm


class InfoNCEComparison(OpComparison):
    """One comparison of info_nce_loss with its reference in float64."""

    row_names = ("query", "positive_key", "negative_keys")

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
        options, temperature = self.options, float(self.arguments["temperature"])
        leaves = self.double_leaves()
        arguments = {**self.arguments, **dict(zip(self.names, leaves, strict=True)), "temperature": temperature}
        expected = self.reference.info_nce_loss(**arguments)
        queries, *keys = self.matrices()
        similarity, norm = options["similarity"], max(map(largest_norm, [queries, *keys]))
        scale = {"cosine": 1.0, "dot": norm**2, "euclidean": 2 * norm}[similarity]
        problem = self.check_loss(loss, expected, max(1.0, scale / temperature))
        if problem:
            return problem
        references = torch.autograd.grad(self.scalar(expected), leaves, allow_unused=True)
        # The derivatives by the similarities of a query add up to at most 2 / temperature in size.
        weight = 2 / temperature / (max(len(queries), 1) if options["reduction"] == "mean" else 1)
        norms = torch.cat([rows.double().norm(dim=1) for rows in (queries, *keys)]).clamp(min=1e-12)
        sizes = {"cosine": 1 / norms, "dot": norms, "euclidean": torch.ones_like(norms)}[similarity]
        typical = weight * sizes.max().item() / queries.shape[1] ** 0.5 if len(norms) else 0.0
        return self.check_gradients(gradients, leaves, references, typical, 0.0, scale / temperature / 100)
