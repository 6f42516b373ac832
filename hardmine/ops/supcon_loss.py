"""The supervised contrastive loss."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine._hooks import observed
from hardmine.ops._anchor_losses import AnchorLosses, loss_of_anchors
from hardmine.ops._arguments import SIMILARITIES, temperature_tensor
from hardmine.ops._hyperbolic import takes_hyperbolic
from hardmine.ops._ignored import drops_ignored
from hardmine.ops._known_options import labeled_tensors, remembers_options
from hardmine.ops._labeled_losses import loss_with_gradients, supcon_loss_with_gradients
from hardmine.ops._numbers import check_temperature
from hardmine.ops._ranks import with_requested
from hardmine.ops._soft import check_soft_options, soft_sums
from hardmine.types import AnySimilarity, GradientReduction, Reduction


# The overloads differ in the flag and the result: the layout shows only these side by side.
# fmt: off
@overload
def supcon_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    ids: Tensor | None = None, ref_ids: Tensor | None = None, ignore_index: int | None = None,
    temperature: float | Tensor = 0.1, similarity: AnySimilarity = "cosine", reduction: Reduction = "mean",
    weights: Tensor | None = None, return_count: Literal[False] = False,
    group: ProcessGroup | None = None, gradient_reduction: GradientReduction | None = None,
) -> Tensor: ...
@overload
def supcon_loss(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
    ids: Tensor | None = None, ref_ids: Tensor | None = None, ignore_index: int | None = None,
    temperature: float | Tensor = 0.1, similarity: AnySimilarity = "cosine", reduction: Reduction = "mean",
    weights: Tensor | None = None, return_count: bool = False,
    group: ProcessGroup | None = None, gradient_reduction: GradientReduction | None = None,
) -> Tensor | tuple[Tensor, Tensor]: ...
# fmt: on
@remembers_options(supcon_loss_with_gradients, labeled_tensors)
@observed("supcon_loss")
@drops_ignored
@takes_hyperbolic
def supcon_loss(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
    temperature: float | Tensor = 0.1,
    similarity: AnySimilarity = "cosine",
    reduction: Reduction = "mean",
    weights: Tensor | None = None,
    return_count: bool = False,
    group: ProcessGroup | None = None,
    gradient_reduction: GradientReduction | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The supervised contrastive loss (SupCon, L_out) without the matrix of similarities.

    Replaces, with ``x = F.normalize(embeddings)`` and its masks::

        s = x @ x.T / temperature
        log_prob = s - s.masked_fill(self, -inf).logsumexp(1, keepdim=True)
        loss = -((log_prob * same_class).sum(1) / same_class.sum(1)).mean()

    The values are those of ``SupConLoss`` of pytorch-metric-learning 2.9.0.

    Args:
        embeddings: The anchors, [B, D], float32, float64, float16 or bfloat16.
        labels: The anchors' classes, [B], any integer dtype.
        ref_embeddings: Rows to compare with, such as a memory bank: [M, D], dtype and device of ``embeddings``. None
            compares the anchors among themselves, where no sample is paired with itself. Gets a gradient if it requires
            one.
        ref_labels: The refs' classes, [M], any integer dtype.
        ids: [B], any integer dtype; a pair of equal ids >= 0 is left out, as in :func:`hardmine.ops.select_triplets`.
            With refs, only this excludes an anchor's own copy.
        ref_ids: [M], the refs' ids; given together with ``ids`` if there are refs.
        ignore_index: Rows with this label are neither anchors nor candidates, as in
            :func:`hardmine.ops.select_triplets`; they do not count in a mean.
        temperature: A number from 1e-30 to 1e30, or a tensor [] of a floating-point dtype on the device of
            ``embeddings``, which gets a gradient if it requires one; see :func:`hardmine.ops.logsumexp`.
        similarity: ``"cosine"``, ``"dot"``, ``"euclidean"`` or ``"hyperbolic"``, as in
            :func:`hardmine.ops.select_triplets`.
        reduction: ``"mean"`` over the anchors that have a positive, ``"sum"``, or ``"none"``: [B], 0 for the others.
        weights: [B], a floating-point dtype: finite and at least 0: a number per anchor that multiplies its loss. Means
            are divided by the sum of the weights of the anchors that count. Gets a gradient if it requires one, which
            is an error with ``group``.
        return_count: Also return the number of anchors that have a positive, int64 []. This does not synchronize a GPU.
        group: A ``torch.distributed`` process group: candidates are the rows of all its ranks, or with refs, the refs
            of all ranks. The loss is that of one process with all rows, on every rank, except that ``reduction="none"``
            returns the losses of this rank's anchors. None: this process alone.
        gradient_reduction: Only with ``group``: how the trainer reduces the parameters' gradients over the ranks,
            ``"mean"`` as DDP and FSDP do (and the default), or ``"sum"``. Both give the gradient of one process.

    Returns:
        The loss, float64 for float64 inputs, else float32; with ``return_count``, a tuple of the loss and the count.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value.
        NotImplementedError: A second derivative is requested.

    Note:
        Without any positive in the batch the loss and its gradient are 0. A non-finite element, or a row whose norm
        overflows, makes the loss and all gradients NaN. The Euclidean similarity of equal embeddings takes the
        subgradient 0. Memory is O((B + M) D): large batches compute the similarities twice. Results are bitwise equal
        on every repeat, for any number of threads and at every SIMD level.

    Reference:
        Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, equation 2.

    Example:
        >>> import torch
        >>> from hardmine import ops
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]], requires_grad=True)
        >>> loss, count = ops.supcon_loss(embeddings, torch.tensor([0, 0, 1, 1]), return_count=True)
        >>> round(loss.item(), 4), count
        (0.0638, tensor(4))
        >>> loss.backward()
    """
    options = {"temperature": temperature, "similarity": similarity, "reduction": reduction}
    if all(given is None for given in (weights, group, gradient_reduction)) and return_count is False:
        inputs = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
        if (loss := _with_gradients(inputs, options)) is not None:
            return loss
    loss, _, count = loss_of_anchors(
        "supcon_loss",
        (embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids),
        options,
        {"return_count": return_count},
        (group, gradient_reduction),
        weights,
        _check_options,
        _losses,
    )
    return with_requested(loss, (count, None), (return_count, False))


def _with_gradients(inputs: tuple[Any, ...], options: dict[str, Any]) -> Tensor | None:
    """The reduced loss if the temperature is a number: one op computes it with its gradients."""
    temperature, similarity, reduction = options.values()
    if isinstance(temperature, Tensor) or not (isinstance(similarity, str) and isinstance(reduction, str)):
        return None
    if similarity not in SIMILARITIES or reduction not in ("mean", "sum"):
        return None

    def check() -> list[Any]:
        return [SIMILARITIES.index(similarity), check_temperature(temperature), reduction == "mean"]

    return loss_with_gradients(supcon_loss_with_gradients, inputs, check)


def _check_options(embeddings: Tensor, options: dict[str, Any]) -> None:
    check_soft_options(embeddings, options["similarity"])
    temperature_tensor(options["temperature"], embeddings)


def _losses(inputs: tuple[Any, ...], options: dict[str, Any]) -> AnchorLosses:
    sums, _ = soft_sums(inputs, options["temperature"], options["similarity"], "all", positives=True)
    counts = sums.positive_count > 0
    is_kept = counts | sums.positive_similarity.isnan()  # divergence is never hidden
    return AnchorLosses(torch.where(is_kept, sums.logsumexp_minus(sums.positive_similarity), 0.0), counts)
