"""The comparison of the ops that select positives and negatives."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hardmine.reference.sct_loss import CUTOFFS
from hardmine.types import PairSelection, Selection
from hardmine.verification.base import AtValue, OpComparison, at, describe_mismatch, in_range, is_suboptimal
from hardmine.verification.bounds import direction_error, pair_sizes


class SelectionComparison(OpComparison):
    """One comparison of select_triplets, or of a loss on what it selects, with its reference."""

    returned = "selection"
    counts = True
    choice = "selections"

    def disagreement(self, loss: Tensor, returned: Any, gradients: Any) -> str | None:
        """A description of the disagreement, or None."""
        self.record.choices += len(returned.anchor_index) if self.lists_pairs else 2 * len(self.x)
        return (
            self._check_selection(returned)
            or self._check_count(returned)
            or self._check_loss(loss, gradients, returned)
        )

    @property
    def x(self) -> Tensor:
        """The anchors."""
        return self.arguments["embeddings"]

    @property
    def lists_pairs(self) -> bool:
        """Whether the selection has an entry per anchor and positive, instead of one per anchor."""
        return self.options["positive"] == "all" or self.lists_ranks

    @property
    def lists_ranks(self) -> bool:
        """Whether the selection has an entry per anchor and rank of a negative."""
        return self.options.get("negative_ranks") is not None and self.options["negative"] != "random"

    @property
    def refs(self) -> Tensor | None:
        """The rows to select from; None selects among the anchors."""
        return self.arguments["ref_embeddings"]

    def fused(self, arguments: dict[str, Any]) -> tuple[Tensor, Any]:
        """The op's loss, or a weighted sum of the selected similarities, and the selection."""
        if self.name == "select_triplets":
            selection = self.call(arguments)
            return self._similarity_sum(selection), selection
        return super().fused(arguments)

    def call(self, arguments: dict[str, Any]) -> Any:
        """What the op returns with the numbers that the checked call drew."""
        return super().call({**arguments, **self._generator_copy()})

    @staticmethod
    def _similarity_sum(selection: Any) -> Tensor:
        """A weighted sum of the selected similarities, with a gradient through each; missing ones count as 0."""
        pairs = (
            (selection.positive_index, selection.positive_similarity),
            (selection.negative_index, selection.negative_similarity),
        )
        positive, negative = (torch.where(index >= 0, s, 0.0) for index, s in pairs)
        return positive - 2 * negative

    def _check_selection(self, selection: Any) -> str | None:
        options, labels, ref_labels = self.options, self.arguments["labels"], self.arguments["ref_labels"]
        x, refs = self.x.double(), self.x.double() if self.refs is None else self.refs.double()
        similarity = options["similarity"]
        if any(r.isfinite().all() and not in_range(r) for r in (self.x, self.refs) if r is not None):
            return None  # squares overflow in the accumulator's dtype, but not in float64
        if self.lists_ranks and (not len(x) or not len(refs)):
            return "an index was returned where there are no candidates" if selection.valid.any() else None
        if self.lists_pairs and (not len(x) or not len(refs)):
            return "pairs were listed where there are no candidates" if len(selection.anchor_index) else None
        expected: Any = (
            None
            if self.lists_pairs and not self.lists_ranks
            else self.select.select_triplets(
                x, labels, None if self.refs is None else refs, ref_labels, **self._selection_options()
            )
        )
        if not len(x) or not len(refs):
            return (
                None
                if all((index == -1).all() for index in selection[:2])
                else "an index was returned where there are no candidates"
            )
        s = self.select.similarity_matrix(x, refs, similarity)
        scale = self.similarity_scale()
        slack = self.tolerance * scale

        same = labels[:, None] == (labels if ref_labels is None else ref_labels)[None, :]
        allowed = ~s.isnan() & self.select.may_pair(s, *self._ids())
        positives, negatives = same & allowed, ~same & allowed
        if self.refs is None:
            positives.fill_diagonal_(False)
        threshold = self.max_positive_similarity(self._selection_options()["duplicate_threshold"])
        tight, loose = positives & (s <= threshold - slack), positives & (s <= threshold + slack)
        ranked = self.options.get("negative_ranks") is not None
        if self.lists_ranks:
            problem, selection = self._check_listed_ranks(s, negatives, selection, slack)
            if problem:
                return problem
            entries = len(expected.anchor_index) // len(x)
            expected = expected._replace(positive_index=expected.positive_index[::entries])
        elif self.lists_pairs:
            anchor, index = selection.anchor_index, selection.positive_index
            s = s.masked_fill(s.isinf(), torch.nan)
            problem = check_listing(anchor, index, tight & s.isfinite(), loose)
            if problem:
                return problem
            s, negatives = s[anchor], negatives[anchor]
            mismatch = self._bad_negatives(s, negatives, selection, slack)
            if mismatch.any():
                pair = int(mismatch.nonzero()[0])
                return (
                    f"negative_index is not the best candidate for {int(mismatch.sum())} pairs, first at anchor "
                    f"{int(anchor[pair])} and positive {int(index[pair])}: got {int(selection.negative_index[pair])}"
                )
            return self._check_similarities(s, selection, scale)
        if options["positive"] == "random":
            mismatch = differs_from_draw(selection.positive_index, expected.positive_index, tight, loose)
        else:
            key = -s if options["positive"] == "hardest" else s
            mismatch = is_suboptimal(selection.positive_index, key, tight, loose, slack)
        different = selection.positive_index != expected.positive_index
        if (mismatch & different).any():
            return self._describe("positive", mismatch & different, selection.positive_index, expected.positive_index)
        self.record.ties += int(different.sum())

        index = selection.negative_index
        if self.lists_ranks:
            return self._check_similarities(s, selection, scale)
        if ranked:
            mismatch = differs_in_rank(index, expected.negative_index, s, negatives, slack)
        elif options["negative"] == "random":
            mismatch = differs_from_draw(index, expected.negative_index, negatives, negatives)
        else:
            mismatch = self._bad_negatives(s, negatives, selection, slack)
        different = index != expected.negative_index
        if (mismatch & different).any():
            return self._describe("negative", mismatch & different, index, expected.negative_index)
        self.record.ties += int(different.sum())
        return self._check_similarities(s, selection, scale)

    def _check_listed_ranks(self, s: Tensor, negatives: Tensor, listed: Any, slack: float) -> tuple[str | None, Any]:
        """Checks the negatives of all ranks; also returns the selection of the first of them."""
        first, last = self.options["negative_ranks"]
        count = last - first + 1
        anchor = torch.arange(len(s), device=s.device)
        if not torch.equal(listed.anchor_index, anchor.repeat_interleave(count)):
            return "anchor_index must have every anchor once per rank", listed
        parts = [part.reshape(-1, count) for part in listed[1:]]
        if any(part.isnan().logical_not().any() and (part != part[:, :1])[~part.isnan()].any() for part in parts[::2]):
            return "the entries of an anchor must have the same positive", listed
        index = parts[1]
        kth = self.select.ranked_negatives(s.detach(), negatives, (first, last))[1]
        chosen = torch.where(index >= 0, s.gather(1, index.clamp(min=0)), torch.nan)
        is_negative = negatives.gather(1, index.clamp(min=0)) | (index < 0)
        ascending = index.sort(dim=1).values
        twice = ((ascending[:, 1:] == ascending[:, :-1]) & (ascending[:, 1:] >= 0)).any(1)
        wrong = (chosen.isnan() != kth.isnan()) | ((chosen - kth).abs() > slack) | ~is_negative
        if (wrong.any(1) | twice).any():
            return f"negative_index is not of its rank at anchor {int((wrong.any(1) | twice).nonzero()[0])}", listed
        deviation = ((chosen - parts[3].detach().double()).abs().nan_to_num(0.0).max().item()) if index.numel() else 0.0
        if deviation > slack:
            return f"negative_similarity deviates by {deviation:.2e}, more than {slack:.2e}", listed
        return None, Selection(*(part[:, 0] for part in parts))

    def _bad_negatives(self, s: Tensor, negatives: Tensor, selection: Any, slack: float) -> Tensor:
        """Whether each entry's negative is not the one of the rule; ``s`` and ``negatives`` have a row per entry."""
        rule, index = self.options["negative"], selection.negative_index
        if rule != "semihard":
            return is_suboptimal(index, -s if rule == "easiest" else s, negatives, negatives, slack)
        bound = at(s, selection.positive_index)[:, None]
        margin = self.options["semihard_margin"]
        lower = -torch.inf if margin is None else bound - margin
        tight = negatives & (s < bound - slack) & (s > lower + slack)
        loose = negatives & (s <= bound + slack) & (s > lower - slack)
        mismatch = is_suboptimal(index, s, tight, loose, slack)
        fallback = self.options["semihard_fallback"]
        if fallback is not None:
            key = -s if fallback == "easiest" else s
            not_fallback = is_suboptimal(index, key, negatives, negatives, slack)
            mismatch &= tight.any(1) | not_fallback
            mismatch |= (index < 0) & negatives.any(1)
        return mismatch

    def _check_similarities(self, s: Tensor, selection: Any, scale: float) -> str | None:
        """The selected similarities are those of ``s``, which has a row per entry."""
        for name, index, value in (
            ("positive", selection.positive_index, selection.positive_similarity),
            ("negative", selection.negative_index, selection.negative_similarity),
        ):
            similarity_at = at(s, index)
            if not torch.equal(similarity_at.isnan(), value.isnan()):
                return f"{name}_similarity must be NaN exactly where there is no candidate"
            deviation = (similarity_at - value.detach().double()).abs().nan_to_num(0.0).max().item() / scale
            self.record.record("similarity", deviation)
            if deviation > self.tolerance:
                return f"{name}_similarity deviates by {deviation:.2e}, more than {self.tolerance:.2e}"
            problem = self.check_range(f"{name}_similarity", value.detach())
            if problem:
                return problem
        return None

    def _check_count(self, selection: Any) -> str | None:
        """Uses the op's own similarities in their dtype, so that rounding cannot change which anchors count."""
        if self.name == "select_triplets":
            return None
        if self.name == "triplet_loss":
            count = self.reference.entries_that_count
            return self.check_count(count(selection, **self._accepted_options(count)).sum())
        count = self.reference.count_of_selection
        return self.check_count(count(selection, **self._accepted_options(count)))

    def _accepted_options(self, function: Callable[..., Any]) -> dict[str, Any]:
        """The options that a reference accepts. Limits of similarities are rounded as in the op."""
        accepted = inspect.signature(function).parameters
        options = {key: value for key, value in self.options.items() if key in accepted}
        if "hard_cutoff" in options and options["hard_cutoff"] is None:
            options["hard_cutoff"] = CUTOFFS.get(self.options["preset"])
        if self.rows[0].dtype != torch.float64:
            for limit in ("min_similarity", "hard_cutoff"):
                if options.get(limit) is not None:
                    options[limit] = torch.tensor(options[limit], dtype=torch.float32, device="cpu").item()
        return options

    def _selection_options(self) -> dict[str, Any]:
        """The options of the op's selection, for the reference of select_triplets."""
        options = self._accepted_options(self.select.select_triplets)
        if "preset" in self.options:
            options.update(importlib.import_module("hardmine.reference.sct_loss").preset_selection(**self.options))
        options.update(self._generator_copy())
        options["ids"], options["ref_ids"] = self._ids()
        return {key: value for key, value in options.items() if key not in ("ref_embeddings", "ref_labels")}

    def _ids(self) -> tuple[Tensor | None, Tensor | None]:
        """The ids of anchors and refs."""
        return self.arguments["ids"], self.arguments["ref_ids"]

    def _generator_copy(self) -> dict[str, torch.Generator]:
        """A fresh copy of the generator, if any, which draws the same numbers as the checked call."""
        generator = self.arguments.get("generator")
        return {} if generator is None else {"generator": generator.clone_state()}

    def _describe(self, which: str, mismatch: Tensor, index: Tensor, expected: Tensor) -> str:
        what = "drawn candidate" if self.options[which] == "random" else "best candidate"
        return describe_mismatch(which, mismatch, index, expected, what)

    def _check_loss(self, loss: Tensor, gradients: Any, selection: Any) -> str | None:
        if not self.in_range():
            return None if self.name == "select_triplets" else self.check_divergence(loss, gradients)
        leaves = self.double_leaves()
        pairs = self._pairs(leaves, selection)
        if self.name == "select_triplets":
            expected = self._similarity_sum(pairs)
        else:
            options = self._accepted_options(self.reference.loss_of_selection)
            if self.arguments.get("weights") is not None:
                options["weights"] = self.arguments["weights"].double()
            if options["reduction"] == "mean_active" and options.get("term") == "hinge":
                # Rounding decides whether a term at the kink is active: the op's similarities do, in their dtype.
                count = self.reference.entries_that_count
                options["counts"] = count(selection, **self._accepted_options(count))
            expected = self.reference.loss_of_selection(pairs, **options)
        problem = self.check_loss(loss, expected)
        if problem:
            return problem
        references: Sequence[Tensor | None] = [None] * len(leaves)
        typical = allowance = 0.0
        if expected.requires_grad:
            scalar = self.scalar(expected)
            typical, allowance = self._gradient_sizes(scalar, pairs)
            references = torch.autograd.grad(scalar, leaves, allow_unused=True)
        return self.check_gradients(gradients, leaves, references, typical, allowance)

    def _gradient_sizes(self, scalar: Tensor, pairs: Any) -> tuple[float, float]:
        """The size of a gradient element from one pair, and the error that underflow may cause.

        The size is that without cancellation. Parallel rows have a cosine gradient of 0, for which op and reference
        compute only rounding errors.
        """
        x, refs = (rows.double() for rows in (self.x, self.x if self.refs is None else self.refs))
        if not len(x) or not len(refs):
            return 0.0, 0.0
        similarities = pairs.positive_similarity, pairs.negative_similarity
        slopes = torch.autograd.grad(scalar, similarities, retain_graph=True, allow_unused=True)
        anchor = pairs.anchor_index if self.lists_pairs else torch.arange(len(x), device=x.device)
        similarity = self.options["similarity"]
        norms, ref_norms = x.norm(dim=1), refs.norm(dim=1)
        pair_slopes = x.new_zeros(len(x), len(refs))
        largest = 0.0
        for index, slope in zip((pairs.positive_index, pairs.negative_index), slopes, strict=True):
            if slope is None:
                continue
            index, slope = index.clamp(min=0), torch.where(index >= 0, slope.abs(), 0.0)
            if not len(index):
                continue
            sizes = pair_sizes(norms[anchor], ref_norms[index], similarity, normalize=False)
            largest = max(largest, (slope * sizes).max().item())
            pair_slopes.index_put_((anchor, index), slope, accumulate=True)
        allowance = 0.0
        if similarity == "euclidean":
            s = self.select.similarity_matrix(x, refs, similarity)
            allowance = direction_error(pair_slopes, s, similarity, self.underflow(similarity))
        return largest / x.shape[1] ** 0.5, allowance

    def _pairs(self, leaves: list[Tensor], selection: Any) -> Any:
        """The op's own selection, with similarities that are differentiable through float64 copies of the embeddings.

        The similarities keep the op's values, so that op and reference are on the same side of every kink and jump.
        """
        similarity = self.options["similarity"]
        a, b = leaves[0], leaves[-1]
        if similarity == "cosine":
            a, b = self.select.normalize(a), self.select.normalize(b)
        if self.lists_pairs:
            a = a[selection.anchor_index]

        def pair(index: Tensor, value: Tensor) -> Tensor:
            if not len(b):
                return value.detach().double()
            partner = b[index.clamp(min=0)]
            s = (a * partner).sum(1) if similarity in ("cosine", "dot") else -(a - partner).norm(dim=1)
            if similarity == "hyperbolic":
                gaps = [1 - rows.square().sum(1) for rows in (a, partner)]
                s = -2 * torch.asinh(-s / (gaps[0] * gaps[1]).sqrt())
            return AtValue.apply(s, value.detach().double())

        positive, negative = selection.positive_index, selection.negative_index
        s_ap, s_an = pair(positive, selection.positive_similarity), pair(negative, selection.negative_similarity)
        if self.lists_pairs:
            return PairSelection(selection.anchor_index, positive, negative, s_ap, s_an)
        return Selection(positive, negative, s_ap, s_an)


def check_listing(anchor: Tensor, positive: Tensor, tight: Tensor, loose: Tensor) -> str | None:
    """The pairs are ascending, none is wrong, and none is missing.

    ``tight`` marks certain positives, ``loose`` also those that are positives within rounding.
    """
    place = anchor * loose.shape[1] + positive
    if (place.diff() <= 0).any():
        return "pairs must be listed in ascending order of anchor and positive"
    if not loose[anchor, positive].all():
        wrong = int((~loose[anchor, positive]).nonzero()[0])
        return f"positive_index {int(positive[wrong])} is no positive of anchor {int(anchor[wrong])}"
    listed = torch.zeros_like(loose)
    listed[anchor, positive] = True
    if (tight & ~listed).any():
        i, j = (tight & ~listed).nonzero()[0].tolist()
        return f"positive_index must list every positive, but {j} of anchor {i} is missing"
    return None


def differs_in_rank(index: Tensor, expected: Tensor, s: Tensor, negatives: Tensor, slack: float) -> Tensor:
    """Whether each anchor got a negative of another rank than ``expected``, by more than rounding."""
    allowed = negatives.gather(1, index.clamp(min=0)[:, None]).squeeze(1)
    differs = (index < 0) != (expected < 0)
    return differs | ((index >= 0) & (~allowed | ((at(s, index) - at(s, expected)).abs() > slack)))


def differs_from_draw(index: Tensor, expected: Tensor, tight: Tensor, loose: Tensor) -> Tensor:
    """Whether each anchor got another candidate than the reference drew with the same numbers.

    If rounding decides whether some pair is a candidate, any candidate is accepted. ``tight`` marks certain candidates,
    ``loose`` also those that are candidates within rounding.
    """
    allowed = loose.gather(1, index.clamp(min=0)[:, None]).squeeze(1)
    possible = torch.where(index >= 0, allowed, ~tight.any(1))
    return (index != expected) & ((tight == loose).all(1) | ~possible)
