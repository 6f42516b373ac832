"""InfoNCE: pairs of a query and its key, against the keys of other pairs or given negatives."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hardmine._hooks import observed
from hardmine.ops._arguments import (
    FLOAT_DTYPES,
    REDUCTIONS,
    check_choice,
    check_ids,
    check_rows,
    check_tensor,
    shape_of,
    with_row_numbers,
)
from hardmine.ops._numbers import check_flag
from hardmine.ops._soft import SoftSums, check_soft_options, promotes_rows, soft_sums, temperature_tensor
from hardmine.ops._sums import ordered_sum
from hardmine.types import Reduction, Similarity


@promotes_rows
@observed("info_nce_loss")
def info_nce_loss(
    query: Tensor,
    positive_key: Tensor,
    negative_keys: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.1,
    symmetric: bool = False,
    in_batch: bool = True,
    ids: Tensor | None = None,
    similarity: Similarity = "cosine",
    reduction: Reduction = "mean",
) -> Tensor:
    """InfoNCE on pairs (CLIP, SimCLR, sentence embeddings) without the matrix of similarities.

    Replaces, with ``q = F.normalize(query)`` and ``k = F.normalize(positive_key)``::

        logits = q @ k.T / temperature
        loss = F.cross_entropy(logits, torch.arange(B))
        symmetric = (loss + F.cross_entropy(logits.T, torch.arange(B))) / 2

    Args:
        query: [B, D], float32, float64, float16 or bfloat16.
        positive_key: The key of each query, [B, D], dtype and device of ``query``.
        negative_keys: Further negatives: [K, D] for all queries, or [B, K, D], K for each query. Gets a gradient if it
            requires one.
        temperature: A number from 1e-30 to 1e30, or a tensor [] of a floating-point dtype on the device of ``query``,
            which gets a gradient if it requires one; see :func:`hardmine.ops.logsumexp`. With CLIP's ``logit_scale``,
            pass ``(-logit_scale).exp()``.
        symmetric: Also classify the queries of each key, as CLIP does, and return the mean of both directions. On a CPU
            each similarity is computed once.
        in_batch: Whether the keys of other queries are negatives. False leaves only ``negative_keys``.
        ids: [B], any integer dtype: pairs of equal ids >= 0, such as duplicate texts, are no negatives of each other.
        similarity: ``"cosine"``, ``"dot"`` or ``"euclidean"``, as in :func:`hardmine.ops.select_triplets`.
        reduction: ``"mean"`` over the queries, ``"sum"``, or ``"none"``: [B].

    Returns:
        The loss, float64 for float64 inputs, else float32.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value; ``symmetric`` with ``negative_keys`` or without
            ``in_batch``; neither ``in_batch`` nor ``negative_keys``; ``ids`` without ``in_batch``.
        NotImplementedError: A second derivative is requested.

    Note:
        A query without a negative has loss 0, and counts in the mean. Without queries the loss is 0. A non-finite
        element, or a row whose norm overflows, makes the loss and all gradients NaN. Memory is O((B + M) D) for M keys,
        for ``negative_keys`` [B, K, D] also a second copy of them. Results are bitwise equal on every repeat, for any
        number of threads and at every SIMD level.

    Reference:
        van den Oord et al., "Representation Learning with Contrastive Predictive Coding", arXiv:1807.03748, equation 4;
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, figure 3.

    Example:
        >>> import torch
        >>> from hardmine import ops
        >>> image = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8]], requires_grad=True)
        >>> text = torch.tensor([[0.8, 0.6], [0.6, 0.8], [-1.0, 0.0]], requires_grad=True)
        >>> loss = ops.info_nce_loss(image, text, temperature=0.5, symmetric=True)
        >>> round(loss.item(), 4)
        0.5643
        >>> loss.backward()
    """
    check_flag("symmetric", symmetric)
    check_flag("in_batch", in_batch)
    check_choice("reduction", reduction, REDUCTIONS)
    check_rows("query", query, None)
    check_rows("positive_key", positive_key, query, "query")
    if positive_key.shape[0] != query.shape[0]:
        raise ValueError(f"positive_key must be [B, D] = {shape_of(query)}, got {shape_of(positive_key)}")
    own, shared = _check_negatives(query, negative_keys)
    if own is not None and own.shape[1] == 0 and in_batch:
        own = None  # logaddexp(-inf, -inf) has no gradient
    _check_combination(negative_keys, symmetric, in_batch, ids)
    check_soft_options(query, similarity)
    t = temperature_tensor(temperature, query, "query")
    ids, _ = check_ids(ids, query, None, None)

    call = _Call(t, similarity)
    number = torch.arange(query.shape[0], device=query.device)
    classes = number if ids is None else with_row_numbers(ids, number)
    value: Tensor | None = None
    of_queries: SoftSums | None = None
    of_keys: SoftSums | None = None
    if in_batch and ids is None and shared is None and own is None:
        of_queries, of_keys = call.sums(
            (query, number), (positive_key, number), "negative", of_columns=symmetric, positives=True
        )
        s_pos = of_queries.positive_similarity
    else:
        positive, _ = call.sums((query, number), (positive_key, number), "positive", positives=True)
        s_pos = positive.positive_similarity
        rows, labels = [], []
        if in_batch:
            rows, labels = [positive_key], [classes]
        if shared is not None:
            rows, labels = [*rows, shared], [*labels, classes.new_full(shared.shape[:1], -1)]
        if rows:
            of_queries, of_keys = call.sums(
                (query, classes), (torch.cat(rows), torch.cat(labels)), "negative", of_columns=symmetric
            )
        if own is not None:
            flat = own.reshape(-1, query.shape[1]), number.repeat_interleave(own.shape[1])
            value = call.sums((query, number), flat, "positive")[0].logsumexp_minus(s_pos)
    if of_queries is not None:
        among_all = of_queries.logsumexp_minus(s_pos)
        value = among_all if value is None else torch.logaddexp(among_all, value)
    assert value is not None  # there are negatives
    loss = _softplus(value)
    if symmetric:
        assert of_keys is not None  # negatives in the batch
        loss = (loss + _softplus(of_keys.logsumexp_minus(s_pos))) / 2
    if reduction == "none":
        return loss
    total = ordered_sum(loss)
    return total if reduction == "sum" else total / max(query.shape[0], 1)


class _Call(NamedTuple):
    temperature: Tensor
    similarity: Similarity

    def sums(
        self, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor], pairs: str, **wanted: bool
    ) -> tuple[SoftSums, SoftSums]:
        """The sums of rows, and if wanted of columns, each given with labels."""
        return soft_sums((*rows, *columns, None, None), self.temperature, self.similarity, pairs, **wanted)


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), to the last digits in float64, too; 0 with gradient 0 for -infinity."""
    return -F.logsigmoid(-x)


def _check_negatives(query: Tensor, negative_keys: Any) -> tuple[Tensor | None, Tensor | None]:
    """The negatives of each query [B, K, D], or those of all [K, D]."""
    if negative_keys is None:
        return None, None
    check_tensor("negative_keys", negative_keys, query)
    if negative_keys.dtype not in FLOAT_DTYPES or negative_keys.dim() == 2:
        check_rows("negative_keys", negative_keys, query, "query")
        return None, negative_keys
    count, depth = query.shape
    if negative_keys.dim() != 3 or negative_keys.shape[0] != count or negative_keys.shape[2] != depth:
        expected = f"[K, D] or [B, K, D] with B = {int(count)} and D = {int(depth)} of query"
        raise ValueError(f"negative_keys must be {expected}, got {shape_of(negative_keys)}")
    check_rows("negative_keys", negative_keys.reshape(-1, depth), query, "query")
    return negative_keys, None


def _check_combination(negative_keys: Any, symmetric: bool, in_batch: bool, ids: Any) -> None:
    if symmetric and negative_keys is not None:
        raise ValueError(
            f"symmetric must be False with negative_keys, which are no negatives of keys, got {symmetric!r}"
        )
    if symmetric and not in_batch:
        raise ValueError(f"symmetric must be False with in_batch=False, got {symmetric!r}")
    if not in_batch and negative_keys is None:
        raise ValueError("negative_keys must be given with in_batch=False, got None")
    if not in_batch and ids is not None:
        raise ValueError(f"ids must be None with in_batch=False, got {type(ids).__name__}")
