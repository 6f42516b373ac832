"""The comparison of batch_all_triplet_loss."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hardmine.verification.base import OpComparison, largest_norm
from hardmine.verification.bounds import gradient_bounds, typical_element


class _TripletCounts(NamedTuple):
    """Per pair (anchor, other), [B, M], the numbers of active triplets and of triplets at the hinge's kink.

    ``active`` includes triplets at the kink.
    """

    active: Tensor
    at_kink: Tensor
    triplets_active: int
    triplets_at_kink: int


class BatchAllComparison(OpComparison):
    """One comparison of batch_all_triplet_loss with its reference.

    A triplet within rounding of the hinge's kink may be active in the op and not in the reference, or the reverse. The
    counts may differ by the number of such triplets, and the gradients by their contributions.
    """

    returned = "counts"
    choice = "active triplets"

    def disagreement(self, loss: Tensor, returned: Any, gradients: Any) -> str | None:
        """A description of the disagreement, or None."""
        if not self.in_range():
            return self.check_divergence(loss, gradients)
        leaves = self.double_leaves()
        x, y = leaves[0].detach(), leaves[-1].detach()
        arguments = {**self.arguments, **dict(zip(self.names, leaves, strict=True))}
        arguments.update(reduction="sum", return_counts=True)
        total_loss, counts = self.reference.batch_all_triplet_loss(**arguments)

        squared, normalize = self.options["squared"], self.options["similarity"] == "cosine"
        norm = 1.0 if normalize else max(largest_norm(x), largest_norm(y), 1e-30)
        measure = "sq_dist" if squared else "euclidean"
        scale = (2 * norm) ** 2 if squared else 2 * norm
        scale = max(scale, self.underflow(measure) / self.tolerance)
        margin = torch.as_tensor(self.arguments["margin"], dtype=torch.float64, device=x.device).abs().max().item()
        counted = self._count_triplets(x, y, self.tolerance * (scale + margin))
        if int(returned.total) != int(counts.total):
            return f"total must be {int(counts.total)}, got {int(returned.total)}"
        difference = abs(int(returned.active) - int(counts.active))
        if difference > counted.triplets_at_kink:
            return (
                f"active is {int(returned.active)}, the reference has {int(counts.active)}, and only "
                f"{counted.triplets_at_kink} triplets are within rounding of the hinge's kink"
            )
        self.record.choices += int(counts.total)
        self.record.ties += difference

        averaged = {"sum": 1, "mean": counts.total, "mean_active": returned.active}[self.options["reduction"]]
        factor = 1 / max(int(averaged), 1)
        expected = factor * total_loss
        loss_scale = 0.5 * factor * counted.triplets_active * (scale + margin)
        problem = self.check_loss(loss, expected, max(1.0, loss_scale))
        if problem:
            return problem
        references = torch.autograd.grad(expected, leaves, allow_unused=True)
        typical = typical_element(0.5 * factor * counted.active, x, y, measure, normalize)
        bounds = [gradient_bounds(x, y, counted.at_kink, measure, normalize)]
        if not squared:
            error = 0.1 * self.tolerance * norm + self.underflow("euclidean")
            bounds.append(gradient_bounds(x, y, counted.active, measure, normalize, distance_error=error))
        of_rows, of_columns = (0.5 * factor * sum(sides) for sides in zip(*bounds, strict=True))
        allowance = (of_rows + of_columns,) if len(leaves) == 1 else (of_rows, of_columns)
        return self.check_gradients(gradients, leaves, references, typical, allowance)

    def _count_triplets(self, x: Tensor, y: Tensor, slack: float) -> _TripletCounts:
        """Counts triplets anchor by anchor, to bound the memory."""
        options, labels = self.arguments, self.arguments["labels"]
        has_refs = options["ref_labels"] is not None
        other_labels = options["ref_labels"] if has_refs else labels
        d = self.reference.distance_matrix(x, y, options["squared"], options["similarity"])
        alpha = self.reference.margin_matrix(labels, other_labels, options["margin"], options["margin_labels"], d)
        allowed = self.select.may_pair(d, options["ids"], options["ref_ids"])
        active, at_kink = torch.zeros_like(d), torch.zeros_like(d)
        for a in range(len(x)):
            same = other_labels == labels[a]
            negative = ~same & allowed[a]
            same &= allowed[a]
            if not has_refs:
                same[a] = False
            argument = d[a, same][:, None] - d[a, negative] + alpha[a, negative]
            for count, mask in ((active, argument > -slack), (at_kink, argument.abs() <= slack)):
                count[a, same] = mask.sum(1).to(d.dtype)
                count[a, negative] = mask.sum(0).to(d.dtype)
        # Each triplet is counted in two pairs.
        return _TripletCounts(active, at_kink, int(active.sum()) // 2, int(at_kink.sum()) // 2)
