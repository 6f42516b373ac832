"""Runs of an op or of its reference, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hardmine import ops, reference
from support.inputs import Inputs
from support.ops import RETURNS_MORE


class Result(NamedTuple):
    """The results of an op's forward and backward.

    For select_triplets and knn, ``loss`` is a weighted sum of the similarities, and ``selection`` is the op's return
    value. For a loss, ``selection`` is the second return value: a selection, terms or counts.
    """

    loss: Tensor
    selection: tuple[Tensor, ...]
    grad: Tensor
    ref_grad: Tensor | None

    def tensors(self) -> list[Tensor]:
        """Every tensor of the result."""
        return [t for t in (self.loss, *self.selection, self.grad, self.ref_grad) if t is not None]


def anchor_weights(like: Tensor) -> Tensor:
    """A different weight per anchor, [B], so that swapped gradients of two anchors are noticed."""
    return torch.linspace(0.5, 1.5, len(like), dtype=like.dtype, device=like.device)


def selected_sum(selection: Any) -> Tensor:
    """A scalar with a gradient through every selected similarity; missing ones contribute 0."""
    s_ap = torch.where(selection.positive_index >= 0, selection.positive_similarity, 0.0)
    s_an = torch.where(selection.negative_index >= 0, selection.negative_similarity, 0.0)
    return ((s_ap - 2 * s_an) * anchor_weights(s_ap)).sum()


def with_generator(options: dict[str, Any], device: torch.device | str = "cpu", seed: int = 0) -> dict[str, Any]:
    """The options; for a random selection, plus a generator that draws the same numbers in every call."""
    if "random" not in (options.get("positive"), options.get("negative")):
        return options
    return {"generator": torch.Generator(device).manual_seed(seed), **options}


def effective_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options without those that the others make meaningless: the ops reject such options."""
    idle = set()
    if options.get("negative") != "semihard":
        idle |= {"semihard_fallback", "semihard_margin", "tie"}
    has = {"nca": {"temperature"}, "hinge": {"margin"}, "sct": {"temperature", "lam"}, "ratio": {"margin"}}
    if "term" in options:
        idle |= {"temperature", "margin", "lam"} - has.get(options["term"], set())
    return {name: value for name, value in options.items() if name not in idle}


def neighbor_sum(neighbors: Any) -> Tensor:
    """A scalar with a different gradient through every neighbor's similarity; missing ones contribute 0."""
    similarity, index = neighbors
    ranks = torch.linspace(1, 2, similarity.shape[1], dtype=similarity.dtype, device=similarity.device)
    # Sum per row first: the rounding of one large sum depends on how many threads torch uses for it.
    return ((torch.where(index >= 0, similarity, 0.0) * ranks).sum(1) * anchor_weights(similarity)).sum()


def arguments_of(name: str, inputs: Inputs) -> tuple[Tensor | None, ...]:
    """The inputs that the op takes, in order."""
    if name == "knn":
        return inputs.embeddings, inputs.ref_embeddings
    return inputs


def evaluate(op: Callable, inputs: Inputs, **options: Any) -> tuple[Tensor, Any]:
    """The loss of an op, or the weighted sum of its similarities; and the second return value, or the selection."""
    name = op.__name__
    arguments = arguments_of(name, inputs)
    if name in RETURNS_MORE:
        return op(*arguments, **{RETURNS_MORE[name]: True}, **options)
    returned = op(*arguments, **options)
    return (neighbor_sum if name == "knn" else selected_sum)(returned), returned


def run(op: Callable, inputs: Inputs, **options: Any) -> Result:
    """Runs forward and backward of an op, or of its reference, on new leaves. Random selections are reproducible."""
    options = with_generator(options, inputs.embeddings.device)
    x = inputs.embeddings.detach().clone().requires_grad_()
    refs = None if inputs.ref_embeddings is None else inputs.ref_embeddings.detach().clone().requires_grad_()
    loss, selection = evaluate(op, Inputs(x, inputs.labels, refs, inputs.ref_labels), **options)
    scalar = loss if loss.dim() == 0 else (loss * anchor_weights(loss)).sum()
    if scalar.requires_grad:  # the reference's loss of an empty batch is a constant
        scalar.backward()
    grad, ref_grad = (None if t is None else torch.zeros_like(t) if t.grad is None else t.grad for t in (x, refs))
    return Result(loss.detach(), tuple(t.detach() for t in selection), grad, ref_grad)


def run_both(name: str, inputs: Inputs, **options: Any) -> tuple[Result, Result]:
    """Runs forward and backward of the op called ``name`` and of its reference."""
    return run(getattr(ops, name), inputs, **options), run(getattr(reference, name), inputs, **options)


def leaves_of(inputs: Inputs) -> list[Tensor]:
    """The embeddings and, if given, the refs, after setting ``requires_grad`` on them."""
    return [t.requires_grad_() for t in (inputs.embeddings, inputs.ref_embeddings) if t is not None]


def loss_of(name: str, inputs: Inputs) -> Tensor:
    """The loss of an op, or the sum of its similarities with the weights of ``run``."""
    return evaluate(getattr(ops, name), inputs)[0]


def differentiable_outputs(name: str, inputs: Inputs, **options: Any) -> list[Tensor]:
    """The outputs of an op that have gradients."""
    outputs = getattr(ops, name)(*arguments_of(name, inputs), **options)
    if name == "select_triplets":
        return [outputs.positive_similarity, outputs.negative_similarity]
    return [outputs.similarity] if name == "knn" else [outputs]
