"""Triplet losses on triplets that the user gives, such as mined ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine._hooks import observed
from hardmine._options import check_distance_similarity, resolve_options
from hardmine.ops._arguments import (
    INDEXED_TERMS,
    REDUCTIONS,
    SIMILARITIES,
    check_choice,
    check_term_numbers,
    temperature_tensor,
)
from hardmine.ops._autograd import register_triplet_loss
from hardmine.ops._fakes import fake_triplet_loss
from hardmine.ops._gather import check_gathered
from hardmine.ops._groups import agree_on_checks
from hardmine.ops._ranks import PartialLoss, gather, group_loss
from hardmine.ops._sums import ordered_sum, softplus_at
from hardmine.ops._triplet_arguments import check_classes_where_readable, check_triplets, loss_of_triplets
from hardmine.types import GradientReduction, IndexedTerm, Reduction, Similarity


@observed("indexed_triplet_loss")
def indexed_triplet_loss(
    embeddings: Tensor,
    triplets: Tensor,
    *,
    term: IndexedTerm = "ratio",
    temperature: float | Tensor | None = None,
    margin: float | None = None,
    lam: float | None = None,
    similarity: Similarity = "cosine",
    reduction: Reduction = "mean",
    labels: Tensor | None = None,
    group: ProcessGroup | None = None,
    gradient_reduction: GradientReduction | None = None,
) -> Tensor:
    """A triplet loss on given triplets, forward and backward.

    Replaces, for the ratio loss, with ``x = F.normalize(embeddings)``::

        a, p, n = x[triplets].unbind(1)
        F.relu(1 - (a - n).norm(dim=1) / ((a - p).norm(dim=1) + margin)).mean()

    Args:
        embeddings: [B, D], float32, float64, float16 or bfloat16.
        triplets: [T, 3], any integer dtype: the rows of anchor, positive and negative in ``embeddings``, all three
            different. A row may be in many triplets, and duplicate triplets are allowed.
        term: The loss of one triplet:
            ``"ratio"``: ``max(0, 1 - d_an / (d_ap + margin))``, where d are the distances of the normalized rows with
            ``similarity="cosine"``, or of the rows as given with ``"euclidean"``;
            ``"nca"``, ``"hinge"``, ``"soft_margin"``, ``"sct"``: f(s_ap, s_an) as in
            :func:`hardmine.ops.triplet_loss`.
        temperature: Only for nca and sct; from 1e-30 to 1e30, 0.1 by default. Or a tensor [], as in
            :func:`hardmine.ops.triplet_loss`.
        margin: Only for ratio (in units of the distance, > 0) and hinge (in units of the similarity); 0.2 by default.
        lam: Only for sct: the weight of the hard part; 1 by default.
        similarity: ``"cosine"``, ``"dot"`` (not with ratio) or ``"euclidean"``, as in
            :func:`hardmine.ops.select_triplets`.
        reduction: ``"mean"`` over the T triplets, ``"sum"``, or ``"none"``: [T].
        labels: [B], any integer dtype. If given, every triplet must have a positive of the anchor's class and a
            negative of another class. Labels do not change the loss.
        group: A ``torch.distributed`` process group, such as ``torch.distributed.group.WORLD``: each rank passes its
            rows and triplets, and the triplets hold row numbers of all ranks, rank 0's first. The loss is that of one
            process with all triplets, on every rank. ``reduction="none"`` returns the losses of this rank's triplets,
            with gradients that are never scaled. None: this process alone.
        gradient_reduction: Only with ``group``: how the trainer reduces the parameters' gradients over the ranks,
            ``"mean"`` as DDP and FSDP do (and the default), or ``"sum"``. Both give the gradient of one process.

    Returns:
        The loss, float64 for float64 inputs, else float32.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value, or an option does nothing, such as ``margin`` with nca. On
            the CPU the message names the first invalid triplet and its position. Whether triplets fit ``labels`` is
            checked on the CPU only, and not under ``torch.compile`` or ``torch.vmap``.
        NotImplementedError: A second derivative is requested.

    Note:
        Without triplets the loss and its gradient are 0. A non-finite element, or a row whose norm overflows, makes the
        loss and all gradients NaN, even if the row is in no triplet. On a GPU, which no check synchronizes, a triplet
        that is not of three different rows of ``embeddings`` does so too. Hinge and ratio take the subgradient 0 at
        their kinks, as does the distance of equal rows. Memory is O(B D + T). Results are bitwise equal on every
        repeat, for any number of threads and at every SIMD level.

    Reference:
        ratio: Harwood et al., "Smart Mining for Deep Metric Learning", ICCV 2017, eq. 2, where margin is 0.2; the
        others: see :func:`hardmine.ops.triplet_loss`.

    Example:
        >>> import torch
        >>> from hardmine import ops
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]], requires_grad=True)
        >>> triplets = torch.tensor([[0, 1, 2], [1, 0, 3]])
        >>> loss = ops.indexed_triplet_loss(embeddings, triplets, margin=0.5)
        >>> loss
        tensor(0.2102, grad_fn=<IndexedTripletLossBackward>)
        >>> loss.backward()
        >>> ops.indexed_triplet_loss(embeddings.detach(), triplets, term="hinge", margin=0.3, reduction="none")
        tensor([0.1000, 0.1000])
    """
    options = {
        "term": term,
        "temperature": temperature,
        "margin": margin,
        "lam": lam,
        "similarity": similarity,
        "reduction": reduction,
    }
    call = group_loss("indexed_triplet_loss", group, gradient_reduction, reduction)
    if call is None:
        return _compute(embeddings, triplets, labels, options)
    agree_on_checks(
        call.group,
        call.check,
        lambda: check_gathered(embeddings, labels, None, call.group),
        lambda: _check(embeddings, triplets, labels, options),
    )
    same = {**resolve_options("indexed_triplet_loss", options), "gradient_reduction": gradient_reduction}
    found = gather(call.group, call.name, same, embeddings, labels)
    rows, all_labels = found.rows, None if labels is None else found.labels
    part_options = {**options, "reduction": "none" if reduction == "none" else "sum"}

    def compute() -> PartialLoss:
        count = torch.full((), triplets.shape[0], device=embeddings.device)
        return PartialLoss(_compute(rows, triplets, all_labels, part_options), None, count)

    return call.add_up(compute, embeddings.device, mean=reduction == "mean").totals


def _check(
    embeddings: Any, triplets: Any, labels: Any, options: dict[str, Any]
) -> tuple[Tensor, Tensor | None, list[int | float]]:
    """Checks the arguments; returns integers as int64, and the options in the order of the compiled op's schema."""
    triplets, labels = check_triplets(embeddings, triplets, labels)
    options = resolve_options("indexed_triplet_loss", options)
    compiled_options = [
        check_choice("similarity", options["similarity"], SIMILARITIES),
        check_choice("term", options["term"], INDEXED_TERMS),
        *check_term_numbers(embeddings, options),
        check_choice("reduction", options["reduction"], REDUCTIONS),
    ]
    if options["term"] == "ratio":
        check_distance_similarity(options["similarity"], "term 'ratio'")
    return triplets, labels, compiled_options


def _compute(embeddings: Tensor, triplets: Tensor, labels: Tensor | None, options: dict[str, Any]) -> Tensor:
    if isinstance(options["temperature"], Tensor):
        return _compute_at_tensor(embeddings, triplets, labels, options)
    triplets, labels, compiled_options = _check(embeddings, triplets, labels, options)
    return loss_of_triplets(torch.ops.hardmine.indexed_triplet_loss, embeddings, triplets, labels, compiled_options)


def _compute_at_tensor(embeddings: Tensor, triplets: Tensor, labels: Tensor | None, options: dict[str, Any]) -> Tensor:
    """The loss nca or sct at a temperature tensor, from the similarities of the triplets."""
    triplets, labels, _ = _check(embeddings, triplets, labels, options)
    plain = {**options, "term": "soft_margin", "temperature": None, "lam": None, "reduction": "none"}
    _, _, compiled_options = _check(embeddings, triplets, labels, plain)
    soft_margins, s_ap, s_an = torch.ops.hardmine.indexed_triplet_loss(embeddings, triplets, *compiled_options)
    check_classes_where_readable(triplets, labels)
    terms = softplus_at(temperature_tensor(options["temperature"], embeddings), s_an - s_ap)
    if options["term"] == "sct":
        lam = 1.0 if options["lam"] is None else float(options["lam"])
        terms = torch.where(s_an > s_ap, lam * s_an, terms)
    terms = torch.where(soft_margins.isnan(), soft_margins, terms)
    if options["reduction"] == "none":
        return terms
    total = ordered_sum(terms)
    return total if options["reduction"] == "sum" else total / max(triplets.shape[0], 1)


@torch.library.register_fake("hardmine::indexed_triplet_loss")
def _(embeddings, triplets, *options):
    return fake_triplet_loss(embeddings, triplets, REDUCTIONS[options[-1]] != "none")


register_triplet_loss("indexed_triplet_loss")
