"""Triplet losses on triplets that the user gives, such as mined ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hardmine._hooks import observed
from hardmine.ops._arguments import (
    INDEXED_TERMS,
    REDUCTIONS,
    SIMILARITIES,
    check_choice,
    check_number,
    check_triplet_classes,
    check_triplets,
    has_values,
)
from hardmine.ops._autograd import forbid_double_backward, register_autograd
from hardmine.ops._fakes import fake_triplet_loss


@observed("indexed_triplet_loss")
def indexed_triplet_loss(
    embeddings: Tensor,
    triplets: Tensor,
    *,
    term: str = "ratio",
    temperature: float = 0.1,
    margin: float = 0.2,
    lam: float = 1.0,
    similarity: str = "cosine",
    reduction: str = "mean",
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
        temperature: Of nca and sct, > 0.
        margin: Of ratio, in units of the distance and > 0, and of hinge, in units of the similarity.
        lam: Weight of the hard part of sct.
        similarity: ``"cosine"``, ``"dot"`` (not with ratio) or ``"euclidean"``, as in
            :func:`hardmine.ops.select_triplets`.
        reduction: ``"mean"`` over the T triplets, ``"sum"``, or ``"none"``: [T].
        labels: [B], any integer dtype. Where given, every triplet must fit them: an anchor, a positive of its class,
            a negative of another. They do not enter the loss.

    Returns:
        The loss, float64 for float64 inputs, else float32.

    Raises:
        TypeError: An argument of the wrong type or dtype.
        ValueError: An argument of the wrong shape or value; of triplets on the CPU, the first bad one and its position.
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
    """
    triplets, labels = check_triplets(embeddings, triplets, labels)
    options = [
        check_choice("similarity", similarity, SIMILARITIES),
        check_choice("term", term, INDEXED_TERMS),
        check_number("temperature", temperature, above=0.0),
        check_number("margin", margin, above=0.0 if term == "ratio" else -math.inf),
        check_number("lam", lam),
        check_choice("reduction", reduction, REDUCTIONS),
    ]
    if term == "ratio":
        check_distance_similarity(similarity, "term 'ratio'")
    return loss_of_triplets(torch.ops.hardmine.indexed_triplet_loss, embeddings, triplets, labels, options)


def check_distance_similarity(similarity: str, loss: str) -> None:
    """A loss of distances has no use for an inner product."""
    if similarity == "dot":
        raise ValueError(f"similarity must be 'cosine' or 'euclidean' with {loss}, got 'dot'")


def loss_of_triplets(
    op: torch._ops.OpOverloadPacket,
    embeddings: Tensor,
    triplets: Tensor,
    labels: Tensor | None,
    options: list[int | float],
) -> Tensor:
    """The loss that ``op`` computes, after its check of the indices; then the labels can be looked up safely.

    On the CPU, that is: elsewhere indices are not checked by then, and labels are not looked up.
    """
    loss, _, _ = op(embeddings, triplets, *options)
    if labels is not None and has_values(triplets):
        check_triplet_classes(triplets, labels)
    return loss


def register_triplet_loss(name: str) -> None:
    """Registers fake backward and autograd of an op ``(embeddings, triplets, *options) -> (loss, [T], [T])``."""
    packet = getattr(torch.ops.hardmine, f"{name}_backward")

    @torch.library.register_fake(f"hardmine::{name}_backward")
    def _(grad_loss, grad_positive, grad_negative, embeddings, *rest):
        return embeddings.new_empty(embeddings.shape)

    def setup_context(ctx, arguments, outputs):
        embeddings, triplets, *ctx.options = arguments
        ctx.save_for_backward(embeddings, triplets, *outputs[1:])
        ctx.loss_shape = outputs[0].shape
        ctx.set_materialize_grads(False)

    def backward(ctx, grad_loss, grad_positive, grad_negative):
        embeddings, triplets, positive, negative = ctx.saved_tensors
        if grad_loss is None:  # only the measures were used
            grad_loss = positive.new_zeros(ctx.loss_shape)
        return (
            packet(grad_loss, grad_positive, grad_negative, embeddings, triplets, positive, negative, *ctx.options),
        )

    register_autograd(name, (0,), setup_context, backward)
    forbid_double_backward(name, (0, 1, 2, 3, 5, 6))


@torch.library.register_fake("hardmine::indexed_triplet_loss")
def _(embeddings, triplets, *options):
    return fake_triplet_loss(embeddings, triplets, REDUCTIONS[options[-1]] != "none")


register_triplet_loss("indexed_triplet_loss")
