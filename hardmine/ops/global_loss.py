"""The global loss on given triplets: means and variances of their distances."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine._hooks import observed
from hardmine._options import check_distance_similarity
from hardmine.ops._arguments import SIMILARITIES, check_choice, has_values
from hardmine.ops._autograd import register_triplet_loss
from hardmine.ops._fakes import fake_triplet_loss
from hardmine.ops._gather import check_gathered
from hardmine.ops._groups import agree_on_checks
from hardmine.ops._numbers import check_finite
from hardmine.ops._ranks import PartialLoss, gather, group_loss
from hardmine.ops._triplet_arguments import check_triplets, loss_of_triplets
from hardmine.types import DistanceSimilarity, GradientReduction


@observed("global_loss")
def global_loss(
    embeddings: Tensor,
    triplets: Tensor,
    *,
    lam: float = 0.8,
    threshold: float = 0.01,
    similarity: DistanceSimilarity = "cosine",
    labels: Tensor | None = None,
    group: ProcessGroup | None = None,
    gradient_reduction: GradientReduction | None = None,
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
        group: A ``torch.distributed`` process group, such as ``torch.distributed.group.WORLD``: each rank passes its
            rows and triplets, and the triplets hold row numbers of all ranks, rank 0's first. The loss is that of one
            process with all triplets. Every rank computes it whole. None: this process alone.
        gradient_reduction: Only with ``group``: how the trainer reduces the parameters' gradients over the ranks,
            ``"mean"`` as DDP and FSDP do (and the default), or ``"sum"``. Both give the gradient of one process.

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
    options = {"lam": lam, "threshold": threshold, "similarity": similarity}
    call = group_loss("global_loss", group, gradient_reduction, "mean")
    if call is None:
        return _compute(embeddings, triplets, labels, options)
    agree_on_checks(
        call.group,
        call.check,
        lambda: check_gathered(embeddings, labels, None, call.group),
        lambda: _check(embeddings, triplets, labels, options),
    )
    same = {**options, "gradient_reduction": gradient_reduction}
    found = gather(
        call.group,
        call.name,
        same,
        embeddings,
        labels,
        triplets=triplets,
    )

    def compute() -> PartialLoss:
        """The whole loss, on every rank: the loss of all ranks is the mean.

        On the CPU, each rank first checks its triplets: the error then names the rank and position of an invalid one.
        """
        all_labels = None if labels is None else found.labels
        one = torch.ones((), device=embeddings.device)
        if has_values(triplets):
            _compute(found.rows.detach(), triplets, all_labels, options)
            try:
                return PartialLoss(_compute(found.rows, found.triplets, all_labels, options), None, one)
            except ValueError:  # another rank's triplets, which that rank reports
                return PartialLoss(one * math.nan, None, one)
        return PartialLoss(_compute(found.rows, found.triplets, all_labels, options), None, one)

    return call.add_up(compute, embeddings.device, mean=True).totals


def _check(
    embeddings: Any, triplets: Any, labels: Any, options: dict[str, Any]
) -> tuple[Tensor, Tensor | None, list[int | float]]:
    """Checks the arguments; returns integers as int64, and the options in the order of the compiled op's schema."""
    triplets, labels = check_triplets(embeddings, triplets, labels)
    compiled_options: list[int | float] = [
        check_choice("similarity", options["similarity"], SIMILARITIES),
        check_finite("lam", options["lam"], like=embeddings),
        check_finite("threshold", options["threshold"], like=embeddings),
    ]
    check_distance_similarity(options["similarity"], "global_loss")
    return triplets, labels, compiled_options


def _compute(embeddings: Tensor, triplets: Tensor, labels: Tensor | None, options: dict[str, Any]) -> Tensor:
    triplets, labels, compiled_options = _check(embeddings, triplets, labels, options)
    return loss_of_triplets(torch.ops.hardmine.global_loss, embeddings, triplets, labels, compiled_options)


@torch.library.register_fake("hardmine::global_loss")
def _(embeddings, triplets, *options):
    return fake_triplet_loss(embeddings, triplets, reduced=True)


register_triplet_loss("global_loss")
