"""InfoNCE: pairs of a query and its key, against the keys of other pairs or given negatives."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine._hooks import observed
from hardmine.ops._anchor_losses import AnchorLosses, add_up_losses, check_group_weights, read_weights, reduce_losses
from hardmine.ops._arguments import (
    FLOAT_DTYPES,
    REDUCTIONS,
    check_choice,
    check_ids,
    check_rows,
    check_tensor,
    shape_of,
    temperature_tensor,
    with_row_numbers,
)
from hardmine.ops._gather import check_gathered
from hardmine.ops._groups import agree_on_checks
from hardmine.ops._hyperbolic import takes_hyperbolic
from hardmine.ops._info_nce_of_pairs import has_info_nce_op, loss_of_pairs, options_of_pairs
from hardmine.ops._known_options import paired_tensors, remember, remembers_options
from hardmine.ops._numbers import check_flag
from hardmine.ops._ranks import GroupLoss, gather, group_loss
from hardmine.ops._soft import SoftSums, check_soft_options, promotes_rows, soft_sums
from hardmine.ops._sums import softplus
from hardmine.types import AnySimilarity, GradientReduction, Reduction


@remembers_options(loss_of_pairs, paired_tensors)
@promotes_rows
@observed("info_nce_loss")
@takes_hyperbolic
def info_nce_loss(
    query: Tensor,
    positive_key: Tensor,
    negative_keys: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.1,
    symmetric: bool = False,
    in_batch: bool = True,
    ids: Tensor | None = None,
    similarity: AnySimilarity = "cosine",
    reduction: Reduction = "mean",
    weights: Tensor | None = None,
    group: ProcessGroup | None = None,
    gradient_reduction: GradientReduction | None = None,
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
        similarity: ``"cosine"``, ``"dot"``, ``"euclidean"`` or ``"hyperbolic"``, as in
            :func:`hardmine.ops.select_triplets`.
        reduction: ``"mean"`` over the queries, ``"sum"``, or ``"none"``: [B].
        weights: [B], a floating-point dtype: finite and at least 0: a number per query that multiplies its loss. Means
            are divided by the sum of the weights. Gets a gradient if it requires one, which is an error with ``group``.
        group: A ``torch.distributed`` process group: negatives in the batch are the keys of all its ranks, and with
            ``symmetric``, the queries of all ranks for each key. ``negative_keys`` stay those of this rank's queries.
            The loss is that of one process with all pairs, on every rank, except that ``reduction="none"`` returns the
            losses of this rank's queries. Each rank compares its own rows with those of all, and gradients flow to the
            rows of all: ``ClipLoss(local_loss=True, gather_with_grad=True)`` of open_clip. None: this process alone.
        gradient_reduction: Only with ``group``: how the trainer reduces the parameters' gradients over the ranks,
            ``"mean"`` as DDP and FSDP do (and the default), or ``"sum"``. Both give the gradient of one process.

    Returns:
        The loss, float64 for float64 inputs, else float32.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value; ``symmetric`` with ``negative_keys`` or without
            ``in_batch``; neither ``in_batch`` nor ``negative_keys``; ``ids`` or ``group`` without ``in_batch``.
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
    options = {
        "temperature": temperature,
        "symmetric": symmetric,
        "in_batch": in_batch,
        "similarity": similarity,
        "reduction": reduction,
    }
    inputs = query, positive_key, negative_keys, ids
    call = group_loss("info_nce_loss", group, gradient_reduction, reduction)
    if call is None:
        t = _check(inputs, options)
        if weights is None and ids is None and reduction != "none" and _is_one_op(inputs, options):
            compiled_options = options_of_pairs(t, similarity, symmetric, reduction)
            if negative_keys is not None:
                return loss_of_pairs((query, torch.cat([positive_key, negative_keys]), *compiled_options))
            if type(temperature) is float and type(t) is Tensor:  # not that of torch.vmap or a FakeTensor
                remember(compiled_options)
            return loss_of_pairs((query, positive_key, *compiled_options))
        losses = _losses(_pairs(query, positive_key, ids), negative_keys, t, options)
        of_queries = None if weights is None else read_weights(weights, query, losses.values.dtype, "query")
        return reduce_losses(losses, of_queries, reduction)

    def check() -> None:
        _check(inputs, options, call.group)
        check_group_weights(weights, query, "query")

    agree_on_checks(call.group, call.check, check)
    count = None if negative_keys is None else negative_keys.shape[-2]
    same = {"the depth D": query.shape[1], "the number K of negative_keys": count, **options, "weights": weights}
    pairs = _pairs_of_ranks(call, {**same, "gradient_reduction": gradient_reduction}, inputs, symmetric)
    t = temperature_tensor(temperature, query, "query")
    return add_up_losses(call, lambda: _losses(pairs, negative_keys, t, options), weights, query)[0]


def _is_one_op(inputs: tuple[Any, ...], options: dict[str, Any]) -> bool:
    query, _, negative_keys, _ = inputs
    negatives_are_shared = negative_keys is None or negative_keys.dim() == 2
    is_flat = options["similarity"] != "hyperbolic"
    return options["in_batch"] and negatives_are_shared and is_flat and has_info_nce_op(query)


class _Pairs(NamedTuple):
    """The pairs of this process, and those that they are compared with: of this process too, or of all ranks.

    Attributes:
        query: [B, D].
        key: The key of each query, [B, D].
        number: The numbers of these pairs among all pairs, [B].
        classes: [B]; pairs of equal classes are no negatives of each other.
        all_keys: [N, D].
        all_queries: [N, D]; None if they are those of this process.
        all_classes: [N].
        has_ids: Whether classes are not the numbers.
    """

    query: Tensor
    key: Tensor
    number: Tensor
    classes: Tensor
    all_keys: Tensor
    all_queries: Tensor | None
    all_classes: Tensor
    has_ids: bool


def _pairs(query: Tensor, key: Tensor, ids: Tensor | None) -> _Pairs:
    number = torch.arange(query.shape[0], device=query.device)
    ids, _ = check_ids(ids, query, None, None)
    classes = number if ids is None else with_row_numbers(ids, number)
    return _Pairs(query, key, number, classes, key, None, classes, ids is not None)


def _pairs_of_ranks(call: GroupLoss, same: dict[str, Any], inputs: tuple[Any, ...], symmetric: bool) -> _Pairs:
    query, key, _, ids = inputs
    rows = torch.cat([key, query], 1) if symmetric else key
    found = gather(call.group, call.name, same, rows, None, ids, names=("positive_key", "labels", "ids"))
    number, own = found.anchors
    classes = number if ids is None else with_row_numbers(found.ids, number)
    all_keys, *all_queries = found.rows.split(query.shape[1], 1)
    return _Pairs(
        query, key, own, classes[own], all_keys, all_queries[0] if symmetric else None, classes, ids is not None
    )


def _losses(pairs: _Pairs, negative_keys: Tensor | None, t: Tensor, options: dict[str, Any]) -> AnchorLosses:
    """The losses of this process's queries; with ``symmetric``, each is the mean of both directions."""
    query, key, number, classes, all_keys, all_queries, all_classes, has_ids = pairs
    in_batch, symmetric = options["in_batch"], options["symmetric"]
    own, shared = _check_negatives(query, negative_keys)
    if own is not None and own.shape[1] == 0 and in_batch:
        own = None  # logaddexp(-inf, -inf) has no gradient

    def sums(rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor], pairs: str, **wanted: Any) -> Any:
        """The sums of rows, and if wanted of columns, each given with labels."""
        return soft_sums((*rows, *columns, None, None), t, options["similarity"], pairs, **wanted)

    value: Tensor | None = None
    of_queries: SoftSums | None = None
    of_keys: SoftSums | None = None
    of_columns = symmetric and all_queries is None
    if in_batch and not has_ids and shared is None and own is None:
        of_queries, of_keys = sums(
            (query, classes), (all_keys, all_classes), "negative", of_columns=of_columns, positives=True
        )
        s_pos = of_queries.positive_similarity
    else:
        s_pos = sums((query, number), (key, number), "positive", positives=True)[0].positive_similarity
        rows, labels = [], []
        if in_batch:
            rows, labels = [all_keys], [all_classes]
        if shared is not None:
            rows, labels = [*rows, shared], [*labels, classes.new_full(shared.shape[:1], -1)]
        if rows:
            of_queries, of_keys = sums(
                (query, classes), (torch.cat(rows), torch.cat(labels)), "negative", of_columns=of_columns
            )
        if own is not None:
            flat = own.reshape(-1, query.shape[1]), number.repeat_interleave(own.shape[1])
            value = sums((query, number), flat, "positive")[0].logsumexp_minus(s_pos)
    if of_queries is not None:
        among_all = of_queries.logsumexp_minus(s_pos)
        value = among_all if value is None else torch.logaddexp(among_all, value)
    assert value is not None  # there are negatives
    loss = softplus(value)
    if symmetric:
        if all_queries is not None:
            of_keys, _ = sums((key, classes), (all_queries, all_classes), "negative")
        assert of_keys is not None  # negatives in the batch
        loss = (loss + softplus(of_keys.logsumexp_minus(s_pos))) / 2
    return AnchorLosses(loss, torch.ones_like(loss, dtype=torch.bool))


def _check(inputs: tuple[Any, ...], options: dict[str, Any], group: ProcessGroup | None = None) -> Tensor:
    """Checks all arguments but the weights; returns the temperature as a tensor."""
    query, positive_key, negative_keys, ids = inputs
    check_flag("symmetric", options["symmetric"])
    check_flag("in_batch", options["in_batch"])
    check_choice("reduction", options["reduction"], REDUCTIONS)
    check_rows("query", query, None)
    check_rows("positive_key", positive_key, query, "query")
    if positive_key.shape[0] != query.shape[0]:
        raise ValueError(f"positive_key must be [B, D] = {shape_of(query)}, got {shape_of(positive_key)}")
    _check_negatives(query, negative_keys)
    _check_combination(negative_keys, options["symmetric"], options["in_batch"], ids)
    if group is not None:
        if not options["in_batch"]:
            raise ValueError("group must be None with in_batch=False, which needs no keys of other ranks")
        check_gathered(positive_key, None, ids, group, ("positive_key", "labels", "ids"))
    check_soft_options(query, options["similarity"])
    check_ids(ids, query, None, None)
    return temperature_tensor(options["temperature"], query, "query")


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
