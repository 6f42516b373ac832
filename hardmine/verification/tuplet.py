"""The comparison of tuplet_loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine.reference.triplet_loss import reduce_terms
from hardmine.verification.base import (
    AtValue,
    OpComparison,
    at,
    describe_mismatch,
    is_suboptimal,
)
from hardmine.verification.bounds import direction_error, typical_element


class TupletComparison(OpComparison):
    """One comparison of tuplet_loss with its reference, on the op's own positives."""

    returned = "terms"
    counts = True
    choice = "positives"

    def disagreement(self, loss: Tensor, returned: Any, gradients: Any) -> str | None:
        """A description of the disagreement, or None."""
        if not self.in_range():
            return self.check_divergence(loss, gradients)
        options, arguments = self.options, self.arguments
        leaves = self.double_leaves()
        similarity, temperature = options["similarity"], options["temperature"]
        scale = self.similarity_scale()
        s, positives, negatives = self.select.candidate_pairs(
            leaves[0],
            arguments["labels"],
            None if len(leaves) == 1 else leaves[1],
            arguments["ref_labels"],
            arguments["ids"],
            arguments["ref_ids"],
            similarity,
        )
        logsumexp = (s / temperature).masked_fill(~negatives, -torch.inf).logsumexp(1)
        problem = self._check_terms(returned, logsumexp.detach(), scale)
        if not problem and options["positive"] != "all":
            problem = self._check_positives(returned, s.detach(), positives, scale)
        if problem:
            return problem

        # The reference uses the op's positives and continues from the op's values.
        logsumexp = torch.where(negatives.any(1), AtValue.apply(logsumexp, returned.negative_logsumexp.double()), 0.0)
        if options["positive"] == "all":
            threshold = self.max_positive_similarity(options["duplicate_threshold"])
            if threshold < torch.inf:
                at_threshold = positives & ((s - threshold).abs() <= self.tolerance * scale)
                if at_threshold.any():  # op and reference may average over different positives
                    self.record.choices += int(positives.sum())
                    self.record.ties += int(at_threshold.sum())
                    return None
                positives = positives & (s <= threshold)
            terms = torch.where(positives, -F.logsigmoid(s / temperature - logsumexp[:, None]), 0.0)
            value = terms.sum(1) / positives.sum(1).clamp(min=1)
            valid = positives.any(1) & negatives.any(1)
        else:
            chosen = returned.positive_index >= 0
            valid = chosen & negatives.any(1)
            s_ap = torch.zeros_like(logsumexp)
            if s.numel():
                s_ap = AtValue.apply(at(s, returned.positive_index), returned.positive_similarity.double())
            value = -F.logsigmoid(torch.where(chosen, s_ap, 0.0) / temperature - logsumexp)
        weights, reduction = arguments.get("weights"), options["reduction"]
        weights, sizes = None if weights is None else weights.double(), valid.long()
        if reduction == "mean_pairs":
            sizes, reduction = valid * positives.sum(1), "mean"
            weights = sizes.double() if weights is None else weights * sizes
        problem = self.check_count(sizes.sum())
        if problem:
            return problem
        expected = reduce_terms(value, valid, torch.zeros_like(valid), reduction, weights=weights)
        steepness = scale / temperature
        # s_ap / temperature and the log-sum-exp cancel. With "all", the similarities are not the op's own either.
        problem = self.check_loss(
            loss, expected, max(1.0, steepness if options["positive"] == "all" else steepness / 10)
        )
        if problem:
            return problem
        scalar = self.scalar(expected)
        slopes, *references = torch.autograd.grad(scalar, [s, *leaves], allow_unused=True)
        typical = allowance = 0.0
        if slopes is not None:
            typical = typical_element(slopes, leaves[0].detach(), leaves[-1].detach(), similarity)
            allowance = direction_error(slopes, s.detach(), similarity, self.underflow("euclidean"))
        return self.check_gradients(gradients, leaves, references, typical, allowance, steepness / 100)

    def _check_terms(self, terms: Any, logsumexp: Tensor, scale: float) -> str | None:
        """Checks the log-sum-exp of the negatives and, with "all", that no positive is named."""
        actual = terms.negative_logsumexp.double()
        no_negative = logsumexp == -torch.inf
        if not torch.equal(no_negative, actual == -torch.inf):
            return "negative_logsumexp must be -inf exactly where there is no negative"
        limit = logsumexp.abs().clamp(min=max(1.0, scale / self.options["temperature"]))
        deviation = ((actual - logsumexp).abs() / limit)[~no_negative]
        largest = deviation.max().item() if len(deviation) else 0.0
        self.record.record("logsumexp", largest)
        if not largest <= self.tolerance:
            return f"negative_logsumexp deviates by {largest:.2e}, more than {self.tolerance:.2e}"
        indices, similarities = terms.positive_index, terms.positive_similarity
        if self.options["positive"] == "all" and not ((indices == -1) & similarities.isnan()).all():
            return "positive_index must be -1 and positive_similarity NaN with positive='all'"
        return None

    def _check_positives(self, terms: Any, s: Tensor, positives: Tensor, scale: float) -> str | None:
        """Checks the positives that the op chose, and their similarities."""
        index = terms.positive_index
        self.record.choices += len(index)
        if not s.numel():
            return "an index was returned where there are no candidates" if (index >= 0).any() else None
        slack = self.tolerance * scale
        threshold = self.max_positive_similarity(self.options["duplicate_threshold"])
        hardest = self.options["positive"] == "hardest"
        best = self.select.extreme_candidate(s, positives & (s <= threshold), smallest=hardest)[0]
        mismatch = is_suboptimal(
            index,
            -s if hardest else s,
            positives & (s <= threshold - slack),
            positives & (s <= threshold + slack),
            slack,
        )
        different = index != best
        mismatch &= different
        if mismatch.any():
            return describe_mismatch("positive", mismatch, index, best)
        self.record.ties += int(different.sum())
        expected = at(s, index)
        if not torch.equal(expected.isnan(), terms.positive_similarity.isnan()):
            return "positive_similarity must be NaN exactly where there is no candidate"
        deviation = (expected - terms.positive_similarity.double()).abs().nan_to_num(0.0).max().item() / scale
        self.record.record("similarity", deviation)
        if deviation > self.tolerance:
            return f"positive_similarity deviates by {deviation:.2e}, more than {self.tolerance:.2e}"
        return self.check_range("positive_similarity", terms.positive_similarity)
