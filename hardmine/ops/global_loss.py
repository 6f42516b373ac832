"""The global loss on given triplets: means and variances of their distances."""

from __future__ import annotations

import torch
from torch import Tensor

from hardmine._hooks import observed
from hardmine.ops._arguments import (
    SIMILARITIES,
    check_choice,
    check_distance_similarity,
    check_triplets,
    loss_of_triplets,
)
from hardmine.ops._autograd import register_triplet_loss
from hardmine.ops._fakes import fake_triplet_loss
from hardmine.ops._numbers import check_number
from hardmine.types import DistanceSimilarity


@observed("global_loss")
def global_loss(
    embeddings: Tensor,
    triplets: Tensor,
    *,
    lam: float = 0.8,
    threshold: float = 0.01,
    similarity: DistanceSimilarity = "cosine",
    labels: Tensor | None = None,
) -> Tensor:
    """The global loss of Smart Mining on given triplets, forward and backward.

    Replaces, with ``x = F.normalize(embeddings)``::

        a, p, n = x[triplets].unbind(1)
        d_ap, d_an = (a - p).square().sum(1) / 4, (a - n).square().sum(1) / 4
        variances = d_ap.var(correction=0) + d_an.var(correction=0)
        variances + lam * F.relu(d_ap.mean() - d_an.mean() + threshold)

    Args:
        embeddings: [B, D], float32, float64, float16 or bfloat16.
        triplets: [T, 3], any integer dtype: the rows of anchor, positive and negative in ``embeddings``, all three
            different.
        lam: Weight of the hinge on the means. The paper names no value; 0.8 is this library's default.
        threshold: The margin t between the means, in units of d, which is between 0 and 1 with cosine. The paper uses
            0.01.
        similarity: ``"cosine"`` (distances of the normalized rows, as in the paper), or ``"euclidean"`` (of the rows as
            given).
        labels: [B], any integer dtype. If given, every triplet must have a positive of the anchor's class and a
            negative of another class. Labels do not change the loss.

    Returns:
        The loss, float64 for float64 inputs, else float32.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value. On the CPU the message names the first invalid triplet and
            its position. Whether triplets fit ``labels`` is checked on the CPU only, and not under ``torch.compile`` or
            ``torch.vmap``.
        NotImplementedError: A second derivative is requested.

    Note:
        The paper prints the distance of the positive pair without the square that the paper's bound ``0 <= d <= 1``
        requires. Variances divide by T, not T - 1, so that one triplet has variance 0. Without triplets the loss and
        its gradient are 0. A non-finite element, or a row whose norm overflows, makes the loss and all gradients NaN,
        even if the row is in no triplet. On a GPU, which no check synchronizes, a triplet that is not of three
        different rows of ``embeddings`` does so too. At its kink the hinge takes the subgradient 0. Means and variances
        are summed in float64. Memory is O(B D + T). Results are bitwise equal on every repeat, for any number of
        threads and at every SIMD level.

    Reference:
        Harwood et al., "Smart Mining for Deep Metric Learning", ICCV 2017, eq. 3, after Kumar et al., "Learning Local
        Image Descriptors with Deep Siamese and Triplet Convolutional Networks by Minimising Global Loss Functions",
        CVPR 2016.

    Example:
        >>> import torch
        >>> from hardmine import ops
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]], requires_grad=True)
        >>> loss = ops.global_loss(embeddings, torch.tensor([[0, 1, 2], [1, 0, 3]]), threshold=0.2)
        >>> loss
        tensor(0.0800, grad_fn=<GlobalLossBackward>)
        >>> loss.backward()
    """
    triplets, labels = check_triplets(embeddings, triplets, labels)
    options = [
        check_choice("similarity", similarity, SIMILARITIES),
        check_number("lam", lam, like=embeddings),
        check_number("threshold", threshold, like=embeddings),
    ]
    check_distance_similarity(similarity, "global_loss")
    return loss_of_triplets(torch.ops.hardmine.global_loss, embeddings, triplets, labels, options)


@torch.library.register_fake("hardmine::global_loss")
def _(embeddings, triplets, *options):
    return fake_triplet_loss(embeddings, triplets, reduced=True)


register_triplet_loss("global_loss")
