"""The comparisons of the losses on given triplets: indexed_triplet_loss and global_loss."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine.verification.base import OpComparison, largest_norm
from hardmine.verification.bounds import gradient_bound, typical_element


class _Measures(NamedTuple):
    """The measures that a loss depends on, for the pairs (a, p) and (a, n) of each triplet, each [T]."""

    ap: Tensor
    an: Tensor
    kind: str  # as in bounds.py
    scale: float  # the largest that the norms allow


class _Slopes(NamedTuple):
    """How each triplet's loss depends on the two measures, each [T].

    ``slope_ap`` and ``slope_an`` are the sizes of the derivatives. For triplets within rounding of a kink or a jump,
    ``kink`` is the change of the derivatives there, and ``jump`` that of the loss.
    """

    slope_ap: Tensor
    slope_an: Tensor
    kink: Tensor
    jump: Tensor


class _TripletListComparison(OpComparison):
    """A comparison of a loss on given triplets.

    Op and reference may round a triplet to different sides of a kink or a jump. The loss may then differ by the jump,
    and the gradients by the triplet's contribution.
    """

    row_names = ("embeddings",)

    def measures(self, pairs: tuple[Tensor, Tensor, Tensor]) -> _Measures:
        """The measures of the triplets' rows, each [T, D]."""
        raise NotImplementedError

    def slopes(self, measures: _Measures, slack: float) -> _Slopes:
        """The slopes of each triplet's loss, without the weights of the reduction."""
        raise NotImplementedError

    def weights(self, count: int) -> Tensor:
        """The weight of each triplet's loss in the scalar that is differentiated."""
        raise NotImplementedError

    def disagreement(self, loss: Tensor, returned: Any, gradients: Any) -> str | None:
        """A description of the disagreement, or None."""
        if not self.in_range():
            return self.check_divergence(loss, gradients)
        leaves = self.double_leaves()
        arguments = {key: value for key, value in self.arguments.items() if key != "embeddings"}
        expected = getattr(self.reference, self.name)(leaves[0], **arguments)
        x = leaves[0].detach()
        a, p, n = self.arguments["triplets"].long().T
        normalize = self.options["similarity"] == "cosine"
        f = F.normalize(x) if normalize else x
        measures = self.measures((f[a], f[p], f[n]))
        slopes = self.slopes(measures, self.tolerance * measures.scale)
        weights = self.weights(len(a)).to(x)
        steepness = slopes.slope_ap + slopes.slope_an
        slack = measures.scale * steepness + slopes.jump / self.tolerance
        problem = self.check_loss(loss, expected, (slack if loss.dim() else (weights * slack).sum()).clamp(min=1.0))
        if problem:
            return problem

        references = torch.autograd.grad(self.scalar(expected), leaves, allow_unused=True)
        pair_slopes, kinks = torch.zeros(2, len(x), len(x), dtype=x.dtype, device=x.device)
        for partner, slope in ((p, slopes.slope_ap), (n, slopes.slope_an)):
            pair_slopes.index_put_((a, partner), weights * slope, accumulate=True)
            kinks.index_put_((a, partner), weights * slopes.kink, accumulate=True)
        typical = typical_element(pair_slopes, x, x, measures.kind, normalize)
        allowance = gradient_bound(x, kinks, measures.kind, normalize)
        if measures.kind == "euclidean":
            error = 0.1 * self.tolerance * measures.scale + self.underflow("euclidean")
            allowance += gradient_bound(x, pair_slopes, measures.kind, normalize, distance_error=error)
        conditioning = measures.scale * steepness.max().item() / 100 if len(a) else 1.0
        return self.check_gradients(gradients, leaves, references, typical, allowance, conditioning)


class TripletComparison(_TripletListComparison):
    """One comparison of indexed_triplet_loss with its reference."""

    def weights(self, count: int) -> Tensor:
        """The weights of the reduction; for "none", those of :meth:`scalar`."""
        if self.options["reduction"] == "none":
            return torch.linspace(0.5, 1.5, count, dtype=torch.float32, device=self.rows[0].device)
        weight = 1 / count if count and self.options["reduction"] == "mean" else 1.0
        return torch.full((count,), weight, dtype=torch.float32, device=self.rows[0].device)

    def measures(self, pairs: tuple[Tensor, Tensor, Tensor]) -> _Measures:
        """Distances for the ratio, similarities for the other terms."""
        a, p, n = pairs
        kind = "euclidean" if self.options["term"] == "ratio" else self.options["similarity"]
        scale = self.similarity_scale()
        if kind != "euclidean":
            return _Measures((a * p).sum(1), (a * n).sum(1), kind, scale)
        if self.options["similarity"] == "cosine":
            scale = 2.0
        sign = 1 if self.options["term"] == "ratio" else -1
        return _Measures(sign * (a - p).norm(dim=1), sign * (a - n).norm(dim=1), kind, scale)

    def slopes(self, measures: _Measures, slack: float) -> _Slopes:
        """The slopes of the term; hardmine.ops.indexed_triplet_loss defines the terms."""
        ap, an, _, _ = measures
        options, zero = self.options, torch.zeros_like(ap)
        if options["term"] == "ratio":
            base = (ap + options["margin"]).clamp(min=1e-30)
            active, at_kink = base - an > -2 * slack, (base - an).abs() <= 2 * slack
            slope_ap, slope_an = active * an / base**2, active / base
            return _Slopes(slope_ap, slope_an, at_kink * torch.maximum(slope_ap, slope_an), zero)
        if options["term"] == "hinge":
            argument = an - ap + options["margin"]
            slope = (argument > -2 * slack).to(ap)
            return _Slopes(slope, slope, slope * (argument <= 2 * slack), zero)
        temperature = 1.0 if options["term"] == "soft_margin" else options["temperature"]
        slope = ((an - ap) / temperature).sigmoid() / temperature
        if options["term"] != "sct":
            return _Slopes(slope, slope, zero, zero)
        lam = torch.full_like(ap, options["lam"])
        hard, at_jump = an > ap, (an - ap).abs() <= 2 * slack
        jump = (lam * an + F.logsigmoid((ap - an) / temperature)).abs()
        return _Slopes(
            torch.where(hard, 0.0, slope),
            torch.where(hard, lam.abs(), slope),
            at_jump * (lam.abs() + slope),
            at_jump * jump,
        )


class GlobalComparison(_TripletListComparison):
    """One comparison of global_loss with its reference."""

    def weights(self, count: int) -> Tensor:
        """All ones, because the slopes include the weights."""
        return torch.ones(count, dtype=torch.float32, device=self.rows[0].device)

    def measures(self, pairs: tuple[Tensor, Tensor, Tensor]) -> _Measures:
        """Squared distances; the loss takes a quarter of them."""
        a, p, n = pairs
        cosine = self.options["similarity"] == "cosine"
        scale = 4.0 if cosine else 4 * largest_norm(self.rows[0]) ** 2
        scale = max(scale, self.underflow("sq_dist") / self.tolerance)
        return _Measures((a - p).square().sum(1), (a - n).square().sum(1), "sq_dist", scale)

    def slopes(self, measures: _Measures, slack: float) -> _Slopes:
        """d/dd_i of the variance is 2 (d_i - mean) / T, and of the hinge lam / T."""
        ap, an = measures.ap / 4, measures.an / 4
        argument = ap.mean() - an.mean() + self.options["threshold"]
        hinge = self.options["lam"] * (argument > -slack).to(ap)
        slope_ap, slope_an = (2 * (d - d.mean()).abs() + hinge for d in (ap, an))
        share = 1 / (4 * max(len(ap), 1))
        kink = hinge * (argument <= slack) * share
        return _Slopes(slope_ap * share, slope_an * share, kink.expand_as(ap), torch.zeros_like(ap))
