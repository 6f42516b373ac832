"""The comparison of knn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hardmine.verification.base import OpComparison, in_range
from hardmine.verification.bounds import direction_error, typical_element


class NeighborComparison(OpComparison):
    """One comparison of knn with its reference. Other neighbors are accepted if they are equally similar."""

    row_names = ("queries", "refs")
    returned = "neighbors"
    choice = "neighbors"

    def fused(self, arguments: dict[str, Any]) -> tuple[Tensor, Any]:
        """A weighted sum of the similarities of each query, and the neighbors."""
        neighbors = self.op(**arguments)
        return self._similarity_sum(*neighbors), neighbors

    @staticmethod
    def _similarity_sum(similarity: Tensor, index: Tensor) -> Tensor:
        """A weighted sum of the similarities, with a different weight per rank; missing ones count as 0."""
        ranks = torch.linspace(1, 2, similarity.shape[1], dtype=similarity.dtype, device=similarity.device)
        return (torch.where(index >= 0, similarity, 0.0) * ranks).sum(1)

    def disagreement(self, loss: Tensor, returned: Any, gradients: Any) -> str | None:
        """A description of the disagreement, or None."""
        if any(rows.isfinite().all() and not in_range(rows) for rows in self.rows):
            return None  # squares overflow in the accumulator's dtype, but not in float64
        leaves = self.double_leaves()
        s = self.select.similarity_matrix(leaves[0], leaves[-1], self.options["similarity"])
        problem = self._check_neighbors(returned, s.detach())
        if problem or not self.in_range() or not s.numel():
            return problem
        chosen = s.gather(1, returned.index.clamp(min=0))
        expected = self._similarity_sum(chosen, returned.index)
        problem = self.check_loss(loss, expected, max(1.0, 2 * self.similarity_scale() * self.arguments["k"]))
        if problem:
            return problem
        slopes, *references = torch.autograd.grad(self.scalar(expected), [s, *leaves])
        typical = typical_element(slopes, leaves[0].detach(), leaves[-1].detach(), self.options["similarity"])
        allowance = direction_error(slopes, s.detach(), self.options["similarity"], self.underflow("euclidean"))
        return self.check_gradients(gradients, leaves, references, typical, allowance)

    def _check_neighbors(self, neighbors: Any, s: Tensor) -> str | None:
        similarity, index = neighbors.similarity.detach().double(), neighbors.index
        k = self.arguments["k"]
        candidates = (s > -torch.inf) & self.select.may_pair(s, self.arguments["ids"], self.arguments["ref_ids"])
        if len(self.rows) == 1 and self.options["exclude_self"] is not False:
            candidates.fill_diagonal_(False)
        found = index >= 0
        num_expected = candidates.sum(1).clamp(max=k)
        if not torch.equal(found.sum(1), num_expected) or (found[:, 1:] & ~found[:, :-1]).any():
            query = int(((found.sum(1) != num_expected) | (found[:, 1:] & ~found[:, :-1]).any(1)).nonzero()[0])
            return f"query {query} must have {int(num_expected[query])} neighbors and -1 after them"
        if not torch.equal(similarity.isnan(), ~found):
            return "similarity must be NaN exactly where the index is -1"
        if not s.numel():
            return None
        if (index >= s.shape[1]).any():
            return f"index must be less than {s.shape[1]}, the number of rows to choose from"
        at_index = s.gather(1, index.clamp(min=0))
        scale = self.similarity_scale()
        slack = self.tolerance * scale

        key = s.masked_fill(~candidates, -torch.inf)
        best, expected = key.sort(dim=1, descending=True, stable=True)
        columns = min(k, s.shape[1])
        best, expected, chosen = best[:, :columns], expected[:, :columns], index[:, :columns]
        worse = ~candidates.gather(1, chosen.clamp(min=0)) | (at_index[:, :columns] < best - slack)
        worse &= found[:, :columns]
        if worse.any():
            query, rank = (int(i) for i in worse.nonzero()[0])
            return (
                f"index is not a nearest neighbor for {int(worse.any(1).sum())} queries, first at query {query}, "
                f"rank {rank}: got {int(chosen[query, rank])}, the reference has {int(expected[query, rank])}"
            )
        ordered = torch.where(found, index, -1 - torch.arange(k, device=index.device)).sort(dim=1).values
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            return "index repeats a neighbor"
        if (similarity[:, 1:] > similarity[:, :-1]).any():
            return "the neighbors must be sorted, the most similar first"
        self.record.choices += int(found.sum())
        self.record.ties += int(((chosen != expected) & found[:, :columns]).sum())
        deviation = torch.where(found, (similarity - at_index).abs(), 0.0).nan_to_num(0.0).max().item() / scale
        self.record.record("similarity", deviation)
        if deviation > self.tolerance:
            return f"similarity deviates by {deviation:.2e}, more than {self.tolerance:.2e}"
        return self.check_range("similarity", similarity)
