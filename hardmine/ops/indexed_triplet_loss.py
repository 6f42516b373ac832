"""Triplet losses on triplets that the user gives, such as mined ones."""

from __future__ import annotations

import torch
from torch import Tensor

from hardmine._hooks import observed
from hardmine._options import resolve_options
from hardmine.ops._arguments import (
    INDEXED_TERMS,
    REDUCTIONS,
    SIMILARITIES,
    check_choice,
    check_distance_similarity,
    check_term_numbers,
    check_triplets,
    loss_of_triplets,
)
from hardmine.ops._autograd import register_triplet_loss
from hardmine.ops._fakes import fake_triplet_loss
from hardmine.types import IndexedTerm, Reduction, Similarity


@observed("indexed_triplet_loss")
def indexed_triplet_loss(
    embeddings: Tensor,
    triplets: Tensor,
    *,
    term: IndexedTerm = "ratio",
    temperature: float | None = None,
    margin: float | None = None,
    lam: float | None = None,
    similarity: Similarity = "cosine",
    reduction: Reduction = "mean",
    labels: Tensor | None = None,
) -> Tensor:
    """A triplet loss on given triplets, forward and backward.

    Replaces, for the ratio loss, with ``x = F.normalize(embeddings)``::

        a, p, n = x[triplets].unbind(1)
        F.relu(1 - (a - n).norm(dim=1) / ((a - p).norm(dim=1) + margin)).mean()

    Args:
        embeddings: [B, D], float32, float64, float16 or bfloat16.
        triplets: [T, 3], any integer dtype: the rows of anchor, positive and negative, three different ones of
            ``embeddings``. A row may be in many triplets, and a triplet may be listed again.
        term: The loss of one triplet:
            ``"ratio"``: ``max(0, 1 - d_an / (d_ap + margin))`` of the distances d, those of the normalized rows with
            ``similarity="cosine"``, and of the rows as they are with ``"euclidean"``;
            ``"nca"``, ``"hinge"``, ``"soft_margin"``, ``"sct"``: f(s_ap, s_an) as in
            :func:`hardmine.ops.triplet_loss`.
        temperature: Of nca and sct only, > 0; 0.1 by default.
        margin: Of ratio, in units of the distance and > 0, and of hinge, in units of the similarity; of these only, 0.2
            by default.
        lam: Weight of the hard part of sct, and of sct only; 1 by default.
        similarity: ``"cosine"``, ``"dot"`` (not with ratio) or ``"euclidean"``, as in
            :func:`hardmine.ops.select_triplets`.
        reduction: ``"mean"`` over the T triplets, ``"sum"``, or ``"none"``: [T].
        labels: [B], any integer dtype. Where given, every triplet must fit them: an anchor, a positive of its class,
            a negative of another. They do not enter the loss.

    Returns:
        The loss, float64 for float64 inputs, else float32.

    Raises:
        TypeError: An argument of the wrong type or dtype.
        ValueError: An argument of the wrong shape or value; an option that does nothing, such as a ``margin`` with nca;
            of triplets on the CPU, the first bad one and its position.
            That they fit the labels is checked on the CPU only, and not under ``torch.compile``.
        NotImplementedError: On a second derivative.

    Note:
        Without triplets the loss and its gradient are 0. A non-finite element, or a row whose norm overflows, makes the
        loss and all gradients NaN, even if the row is in no triplet; on a GPU, where nothing waits for a check of the
        triplets, so does a triplet that is not of three different rows of ``embeddings``. At their kinks hinge and
        ratio, and the distance of equal rows, take the subgradient 0. Memory is O(B D + T). Bitwise equal on every
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
    triplets, labels = check_triplets(embeddings, triplets, labels)
    options = {"term": term, "temperature": temperature, "margin": margin, "lam": lam}
    options = resolve_options("indexed_triplet_loss", options)
    compiled_options = [
        check_choice("similarity", similarity, SIMILARITIES),
        check_choice("term", term, INDEXED_TERMS),
        *check_term_numbers(options),
        check_choice("reduction", reduction, REDUCTIONS),
    ]
    if term == "ratio":
        check_distance_similarity(similarity, "term 'ratio'")
    return loss_of_triplets(torch.ops.hardmine.indexed_triplet_loss, embeddings, triplets, labels, compiled_options)


@torch.library.register_fake("hardmine::indexed_triplet_loss")
def _(embeddings, triplets, *options):
    return fake_triplet_loss(embeddings, triplets, REDUCTIONS[options[-1]] != "none")


register_triplet_loss("indexed_triplet_loss")
