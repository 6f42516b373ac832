"""The triplet losses on one selected positive and one selected negative per anchor."""

from __future__ import annotations

import torch
from torch import Tensor

from hardmine._hooks import observed
from hardmine.ops._arguments import REDUCTIONS, check_labeled_rows, check_loss, check_selection, draw_random
from hardmine.ops._autograd import forbid_double_backward, register_autograd
from hardmine.ops._fakes import fake_gradients, fake_selection
from hardmine.ops.select_triplets import Selection, as_selection


@observed("triplet_loss")
def triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    positive: str = "easiest",
    negative: str = "semihard",
    term: str = "nca",
    temperature: float = 0.1,
    margin: float = 0.2,
    lam: float = 1.0,
    similarity: str = "cosine",
    reduction: str = "mean",
    semihard_fallback: str | None = None,
    tie: str = "exclude",
    semihard_margin: float | None = None,
    duplicate_threshold: float | None = None,
    min_similarity: float | None = None,
    return_selection: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor | tuple[Tensor, Selection]:
    """A triplet loss on the selected pairs, forward and backward, without the matrix of similarities.

    Replaces ``term(*similarities of select_triplets(...)).mean()`` over the anchors that have both a positive and a
    negative. The gradient flows through both selected similarities into anchors, positives and negatives.

    Args:
        embeddings: [B, D], float32, float64, float16 or bfloat16.
        labels: [B], any integer dtype.
        ref_embeddings: [M, D] to select from; None selects among the anchors. Gets a gradient if it requires one.
        ref_labels: [M], any integer dtype.
        positive: As in :func:`hardmine.ops.select_triplets`, like ``negative``, ``similarity``,
            ``semihard_fallback``, ``tie``, ``semihard_margin`` and ``duplicate_threshold``.
        term: The loss f(s_ap, s_an) of one anchor:
            ``"nca"``: ``softplus((s_an - s_ap) / temperature)``;
            ``"hinge"``: ``max(0, s_an - s_ap + margin)``; with ``similarity="euclidean"``, the papers'
            ``max(0, d_ap - d_an + margin)``;
            ``"soft_margin"``: ``softplus(s_an - s_ap)``;
            ``"sct"``: ``lam * s_an`` if ``s_an > s_ap``, else nca (see :func:`hardmine.ops.sct_loss` for its presets).
        temperature: Of nca and sct, > 0.
        margin: Of hinge, in units of the similarity.
        lam: Weight of the hard part of sct.
        reduction: ``"mean"`` over the valid anchors, ``"sum"``, or ``"none"``: [B], 0 for anchors that do not count.
        min_similarity: Anchors count only if both their similarities exceed it (0 in the EP authors' code). None: all
            count.
        return_selection: Also return the :class:`Selection`, at no further cost.
        generator: What a random ``positive`` or ``negative`` is drawn from, as in
            :func:`hardmine.ops.select_triplets`.

    Returns:
        The loss, float64 for float64 inputs, else float32; with ``return_selection``, and the selection.

    Raises:
        TypeError: An argument of the wrong type or dtype.
        ValueError: An argument of the wrong shape or value, or on the wrong device.
        NotImplementedError: On a second derivative.

    Note:
        An anchor without a positive or a negative is left out of the loss and of its mean; without any valid anchor
        the loss and its gradient are 0. A non-finite element, or a row whose norm overflows, makes the loss and all
        gradients NaN. At exactly equal similarities the hinge and the Euclidean distance take the subgradient 0.
        Memory is O((B + M) D), forward and backward. Bitwise equal on every repeat, for any number of threads and at
        every SIMD level.

    Reference:
        nca: Xuan et al., WACV 2020, section 4, and ECCV 2020, eq. 1; hinge: WACV 2020, section 2.1; soft margin:
        Hermans et al., arXiv:1703.07737; sct: ECCV 2020, eq. 13.
    """
    labels, ref_labels = check_labeled_rows(embeddings, labels, ref_embeddings, ref_labels)
    selection_options = check_selection(
        embeddings, positive, negative, similarity, duplicate_threshold, semihard_fallback, tie, semihard_margin
    )
    loss_options = check_loss(
        term=term,
        temperature=temperature,
        margin=margin,
        lam=lam,
        reduction=reduction,
        min_similarity=min_similarity,
    )
    random = draw_random(embeddings, positive, negative, generator)
    loss, *selected = torch.ops.hardmine.triplet_loss(
        embeddings,
        labels,
        ref_embeddings,
        ref_labels,
        random,
        *selection_options,
        *loss_options,
    )
    return (loss, as_selection(*selected)) if return_selection else loss


@torch.library.register_fake("hardmine::triplet_loss")
def _(embeddings, *options):
    selection = fake_selection(embeddings)
    values = selection[0]
    return torch.empty_like(values) if REDUCTIONS[options[-1]] == "none" else values.new_empty(()), *selection


@torch.library.register_fake("hardmine::triplet_loss_backward")
def _(grad_loss, grad_positive, grad_negative, embeddings, ref_embeddings, *options):
    return fake_gradients(embeddings, ref_embeddings, *options[-2:])


def _setup_context(ctx, arguments, outputs):
    embeddings, _, ref_embeddings, _, _, similarity, _, _, _, _, _, _, _, *loss_options = arguments
    ctx.options = (similarity, *loss_options)
    ctx.loss_shape = outputs[0].shape
    ctx.save_for_backward(embeddings, ref_embeddings, *outputs[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_loss, grad_positive, grad_negative, _grad_positive_index, _grad_negative_index):
    embeddings, ref_embeddings, *selected = ctx.saved_tensors
    if grad_loss is None:  # only the returned similarities were used
        grad_loss = selected[0].new_zeros(ctx.loss_shape)
    need, need_ref, *_ = ctx.needs_input_grad
    grad, grad_ref = torch.ops.hardmine.triplet_loss_backward(
        grad_loss, grad_positive, grad_negative, embeddings, ref_embeddings, *selected, *ctx.options, need, need_ref
    )
    return grad if need else None, grad_ref if need_ref else None


register_autograd("triplet_loss", (0, 2), _setup_context, _backward)
forbid_double_backward("triplet_loss", range(7))
