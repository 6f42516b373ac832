"""The terms of triplet losses from the similarities of a selection, and which of them count."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hardmine.ops._arguments import temperature_tensor
from hardmine.ops._sums import softplus, softplus_at
from hardmine.types import AnySelection

# Options with which the compiled op returns a term per entry, and NaN if some row is not finite.
SOFT_MARGINS = {"term": "soft_margin", "temperature": None, "margin": None, "lam": None, "reduction": "none"}


def terms_of(selection: AnySelection, options: dict[str, Any], soft_margins: Tensor) -> Tensor:
    """The terms of all entries; NaN wherever those of the compiled op are, so that divergence shows."""
    s_ap, s_an = (torch.where(selection.valid, s, 0.0) for s in selection[-2:])
    term, temperature = options["term"], options["temperature"]
    if term == "hinge":
        terms = (s_an - s_ap + float(options["margin"])).clamp(min=0)
    elif term == "soft_margin":
        terms = softplus(s_an - s_ap)
    elif isinstance(temperature, Tensor):
        terms = softplus_at(temperature_tensor(temperature, s_ap), s_an - s_ap)
    else:
        terms = softplus((s_an - s_ap) / float(temperature))
    if term == "sct":
        terms = torch.where(is_hard(selection, options), float(options["lam"]) * s_an, terms)
    return torch.where(soft_margins.isnan(), soft_margins, terms)


def is_hard(selection: AnySelection, options: dict[str, Any]) -> Tensor:
    """Whether each anchor's sct term is the hard one, as sct_difficulty in triplet_terms.h has it."""
    hard = selection.negative_similarity > selection.positive_similarity
    rule = options.get("hard_rule", "above")
    if rule == "above":
        return hard
    above_cutoff = selection.negative_similarity > float(options["hard_cutoff"])
    return hard & above_cutoff if rule == "above_and_cutoff" else hard | above_cutoff


def counts_of(selection: AnySelection, options: dict[str, Any]) -> Tensor:
    """Whether each anchor counts in the mean, bool [B], as triplet_term in csrc/core/losses/triplet_terms.h has it.

    With ``positive="all"``, whether each pair does, bool [P].
    """
    counts = selection.valid
    s_ap, s_an = selection.positive_similarity, selection.negative_similarity
    floor = -math.inf if options["min_similarity"] is None else float(options["min_similarity"])
    if floor > -math.inf:
        counts = counts & (s_ap > floor) & (s_an > floor)
    if options.get("hard_rule") == "above_or_cutoff":  # ties are neither hard nor easy
        cutoff = float(options["hard_cutoff"])
        counts = counts & ((s_an > s_ap) | (s_an > cutoff) | ((s_an < s_ap) & (s_an < cutoff)))
    return counts & _is_active(selection, options) if options["reduction"] == "mean_active" else counts


def _is_active(selection: AnySelection, options: dict[str, Any]) -> Tensor:
    """Whether the term of each anchor is above 0, in the arithmetic of triplet_terms.h."""
    s_ap, s_an = selection.positive_similarity, selection.negative_similarity
    if options["term"] == "hinge":
        return s_an - s_ap + float(options["margin"]) > 0
    if options["term"] == "sct":
        return (float(options["lam"]) * s_an > 0) | ~is_hard(selection, options)
    return torch.ones_like(s_an, dtype=torch.bool)
