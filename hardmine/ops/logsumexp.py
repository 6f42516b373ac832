"""Log-sum-exps of the similarities of each anchor's pairs."""

from __future__ import annotations

import functools
import math
from typing import Any

from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine._hooks import observed
from hardmine.ops._arguments import temperature_tensor
from hardmine.ops._groups import agree_on_checks, check_group
from hardmine.ops._hyperbolic import takes_hyperbolic
from hardmine.ops._ignored import drops_ignored
from hardmine.ops._ranks import check_tensors, own_part
from hardmine.ops._soft import check_soft_options, soft_sums
from hardmine.types import AnySimilarity, LogSumExpPairs


@observed("logsumexp")
@functools.partial(drops_ignored, fill=-math.inf)
@takes_hyperbolic
def logsumexp(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    ignore_index: int | None = None,
    pairs: LogSumExpPairs = "all",
    temperature: float | Tensor = 0.1,
    similarity: AnySimilarity = "cosine",
    group: ProcessGroup | None = None,
) -> Tensor:
    """The log-sum-exp of each anchor's similarities, without the matrix of similarities.

    Replaces, with ``x = F.normalize(embeddings)`` and its masks::

        (x @ x.T / temperature).masked_fill(~is_pair, -inf).logsumexp(1)

    Losses such as InfoNCE and SupCon are sums of these.

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
            :func:`hardmine.ops.select_triplets`; their result is -infinity.
        pairs: The pairs of an anchor: ``"positive"``, of equal labels; ``"negative"``, of unequal ones; or ``"all"``.
        temperature: A number from 1e-30 to 1e30, or a tensor [] of a floating-point dtype on the device of
            ``embeddings``, which gets a gradient if it requires one. The value of a tensor on a GPU is not checked: 0,
            negative and NaN make the result meaningless there.
        similarity: ``"cosine"``, ``"dot"``, ``"euclidean"`` or ``"hyperbolic"``, as in
            :func:`hardmine.ops.select_triplets`.
        group: A ``torch.distributed`` process group, such as ``torch.distributed.group.WORLD``: candidates are the rows
            of all its ranks, or with refs, the refs of all ranks. The result is that of this rank's anchors, and
            gradients are never scaled. None: this process alone.

    Returns:
        [B], float64 for float64 inputs, else float32; -infinity, with gradient 0, for an anchor without such pairs.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value.
        NotImplementedError: A second derivative is requested.

    Note:
        A non-finite element, or a row whose norm overflows, makes the result and all gradients NaN. The Euclidean
        similarity of equal embeddings takes the subgradient 0. One pass with running maxima computes the result at
        every temperature, and a second pass the gradient. Memory is O((B + M) D). Results are bitwise equal on every
        repeat, for any number of threads and at every SIMD level.

    Example:
        >>> import torch
        >>> from hardmine import ops
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])
        >>> ops.logsumexp(embeddings, torch.tensor([0, 0, 1, 2]), pairs="positive", temperature=0.5)
        tensor([1.6000, 1.6000,   -inf,   -inf])
    """
    inputs = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
    if group is not None:
        group = check_group(group)

        def check() -> None:
            check_tensors(inputs, group)
            check_soft_options(embeddings, similarity, pairs)
            temperature_tensor(temperature, embeddings)

        agree_on_checks(group, check)
        options: dict[str, Any] = {"pairs": pairs, "temperature": temperature, "similarity": similarity}
        inputs, _ = own_part(group, "logsumexp", options, inputs)
    return soft_sums(inputs, temperature, similarity, pairs)[0].logsumexp()
