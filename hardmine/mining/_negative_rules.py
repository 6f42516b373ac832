"""The rules by which hard negatives are taken from neighbor lists."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine.ops._numbers import check_finite, check_integer, check_number
from hardmine.ops.knn import MAX_NEIGHBORS


class NegativeRules:
    """The checked rules by which negatives are taken from lists."""

    def __init__(
        self,
        k: Any,
        ranks: Any,
        min_similarity: Any,
        max_similarity: Any,
        margin: Any,
        relative_margin: Any,
        has_relations: bool,
    ) -> None:
        self.k = check_integer("k", k, 1, MAX_NEIGHBORS)
        if not isinstance(ranks, (tuple, list)) or len(ranks) != 2:
            raise TypeError(f"ranks must be two integers, the first rank and the end, got {ranks!r}")
        self.first = check_integer("ranks[0]", ranks[0], 0, MAX_NEIGHBORS - 1)
        self.end = check_integer("ranks[1]", ranks[1], self.first + 1, MAX_NEIGHBORS)
        if self.k > self.end - self.first:
            raise ValueError(f"k must be at most {self.end - self.first}, the number of ranks, got {self.k}")
        for name, value in (("margin", margin), ("relative_margin", relative_margin)):
            if value is not None and not has_relations:
                raise ValueError(f"{name} must be None without relations, which have the positives, got {value}")
        self.minimum = None if min_similarity is None else check_number("min_similarity", min_similarity)
        self.maximum = None if max_similarity is None else check_number("max_similarity", max_similarity)
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"min_similarity must be at most max_similarity = {self.maximum}, got {self.minimum}")
        self.margin = None if margin is None else check_finite("margin", margin)
        self.relative = (
            None if relative_margin is None else check_finite("relative_margin", relative_margin, at_least=0)
        )
        if self.relative is not None and not 0 <= self.relative <= 1:
            raise ValueError(f"relative_margin must be a share from 0 to 1, got {relative_margin}: 0.05 stands for 5 %")

    def take(
        self, index: Tensor, similarity: Tensor, is_candidate: Tensor, positive_similarity: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The first k negatives of lists [E, L] that obey the rules, and their similarities."""
        rank = is_candidate.cumsum(1) - 1
        taken = is_candidate & (rank >= self.first) & (rank < self.end)
        if self.minimum is not None:
            taken &= similarity >= self.minimum
        if self.maximum is not None:
            taken &= similarity <= self.maximum
        positive = positive_similarity[:, None]
        if self.margin is not None:
            taken &= similarity <= positive - self.margin
        if self.relative is not None:
            taken &= similarity <= positive - self.relative * positive.abs()
        order = (~taken).to(torch.uint8).argsort(dim=1, stable=True)[:, : self.k]
        kept = taken.gather(1, order)
        found = index.gather(1, order).masked_fill(~kept, -1)
        values = similarity.gather(1, order).masked_fill(~kept, torch.nan)
        missing = self.k - found.shape[1]
        return F.pad(found, (0, missing), value=-1), F.pad(values, (0, missing), value=torch.nan)
