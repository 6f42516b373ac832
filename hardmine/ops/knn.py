"""Exact nearest neighbors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine._hooks import observed
from hardmine.ops._arguments import ALL_SIMILARITIES, allow_tf32, check_choice, check_ids, check_rows
from hardmine.ops._autograd import forbid_double_backward, register_autograd
from hardmine.ops._fakes import accumulate_dtype, fake_gradients
from hardmine.ops._gather import check_gathered
from hardmine.ops._groups import agree_on_checks, check_group
from hardmine.ops._hyperbolic import takes_hyperbolic
from hardmine.ops._numbers import check_flag, check_integer
from hardmine.ops._ranks import own_part
from hardmine.types import AnySimilarity, Neighbors

MAX_NEIGHBORS = 1024
BLOCK_STEP = 96  # kBlockStep of csrc/cpu/simd/operands.h: blocks of a set have a multiple of this many rows


@observed("knn")
@takes_hyperbolic
def knn(
    queries: Tensor,
    refs: Tensor | None = None,
    k: int = 10,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    exclude_self: bool | None = None,
    similarity: AnySimilarity = "cosine",
    group: ProcessGroup | None = None,
) -> Neighbors:
    """The exact ``k`` nearest neighbors of every query, without the matrix of similarities.

    Replaces ``(F.normalize(queries) @ F.normalize(refs).T).topk(k)``; without refs, the queries are compared with each
    other. The CPU computes each unordered pair once, which halves the arithmetic; CUDA computes both directions.

    Args:
        queries: [Q, D], float32, float64, float16 or bfloat16.
        refs: The gallery, [M, D], dtype and device of ``queries``. None: the queries themselves. A query's own copy in
            the gallery is a neighbor, unless ``ids`` and ``ref_ids`` exclude it.
        k: Neighbors per query, 1 to 1024.
        ids: The queries' ids, [Q], any integer dtype; a negative id stands for none. Rows of equal ids are not each
            other's neighbors, nor is a query with an id its own, whatever ``exclude_self``.
        ref_ids: The refs' ids, [M], any integer dtype. Given together with ``ids`` if there are refs.
        exclude_self: Exclude each query from its own neighbors, by index; duplicates of the query stay. None: True
            without refs, False with refs. True with refs is an error.
        similarity: ``"cosine"`` (normalizes inside), ``"dot"``, or ``"euclidean"``: the negative distance,
            ``-|a - b|``, or ``"hyperbolic"``; as in :func:`hardmine.ops.select_triplets`.
        group: A ``torch.distributed`` process group, such as ``torch.distributed.group.WORLD``: the neighbors of this
            rank's queries among the queries of all its ranks, or with refs, among the refs of all ranks. Indices are
            row numbers of all ranks, rank 0's rows first. None: this process alone.

    Returns:
        :class:`hardmine.types.Neighbors`, both tensors ``[Q, k]``. The similarity is float64 for float64 inputs, else
        float32. The index is int64, of rows of ``refs``, or of ``queries`` without refs. Neighbors are sorted, most
        similar first. If there are fewer than ``k`` candidates, the remaining entries have similarity NaN and index -1.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value.
        NotImplementedError: A second derivative is requested.

    Note:
        Ties go to the lowest index; Euclidean ties are decided on squared distances. Similarities of NaN or -inf are
        never selected. Memory is O((Q + M) D + Q k). Results are bitwise equal on every repeat, for any number of
        threads and at every SIMD level. The Euclidean similarity of equal embeddings takes the subgradient 0.

    Example:
        >>> import torch
        >>> from hardmine import ops
        >>> queries = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> refs = torch.tensor([[0.6, 0.8], [0.8, 0.6], [-1.0, 0.0]])
        >>> similarity, index = ops.knn(queries, refs, k=2)
        >>> index
        tensor([[1, 0],
                [0, 1]])
        >>> similarity
        tensor([[0.8000, 0.6000],
                [0.8000, 0.6000]])
    """
    options = {"k": k, "exclude_self": exclude_self, "similarity": similarity}
    inputs = queries, refs, ids, ref_ids
    if group is None:
        return _search(*inputs, options)
    group = check_group(group)

    def check() -> None:
        _check(*inputs, options)
        check_gathered(queries, None, ids, group, ("queries", "", "ids"))
        if refs is not None:
            check_gathered(refs, None, ref_ids, group, ("refs", "", "ref_ids"))

    agree_on_checks(group, check)
    part, _ = own_part(
        group,
        "knn",
        options,
        (queries, None, refs, None, ids, ref_ids),
        skip_self=exclude_self is None or bool(exclude_self),
    )
    queries, _, refs, _, ids, ref_ids = part
    return _search(queries, refs, ids, ref_ids, {**options, "exclude_self": False})


def _check(
    queries: Any, refs: Any, ids: Any, ref_ids: Any, options: dict[str, Any]
) -> tuple[Tensor | None, Tensor | None, list[int | bool]]:
    """Checks the arguments; returns the ids as int64, and the options in the order of the compiled op's schema."""
    check_rows("queries", queries, None)
    if refs is not None:
        check_rows("refs", refs, queries, like_name="queries")
    ids, ref_ids = check_ids(ids, queries, ref_ids, refs, refs_name="refs", size="Q")
    k = check_integer("k", options["k"], 1, MAX_NEIGHBORS)
    exclude_self = refs is None if options["exclude_self"] is None else options["exclude_self"]
    exclude_self = check_flag("exclude_self", exclude_self, "True, False or None")
    if exclude_self and refs is not None:
        raise ValueError("exclude_self must be False or None if refs are given, got True")
    kind = check_choice("similarity", options["similarity"], ALL_SIMILARITIES)
    return ids, ref_ids, [k, exclude_self, kind, allow_tf32(queries)]


def _search(
    queries: Tensor, refs: Tensor | None, ids: Tensor | None, ref_ids: Tensor | None, options: dict[str, Any]
) -> Neighbors:
    ids, ref_ids, compiled_options = _check(queries, refs, ids, ref_ids, options)
    return Neighbors(*torch.ops.hardmine.knn(queries, refs, ids, ref_ids, *compiled_options))


@torch.library.register_fake("hardmine::knn")
def _(queries, refs, ids, ref_ids, k, exclude_self, similarity, allow_tf32):
    values = queries.new_empty(queries.shape[0], k, dtype=accumulate_dtype(queries.dtype))
    return values, torch.empty_like(values, dtype=torch.int64)


@torch.library.register_fake("hardmine::knn_backward")
def _(grad_similarity, index, queries, refs, similarity, need_queries, need_refs):
    return fake_gradients(queries, refs, need_queries, need_refs)


def _setup_context(ctx, arguments, outputs):
    queries, refs, _, _, _, _, ctx.similarity, _ = arguments
    ctx.save_for_backward(outputs[1], queries, refs)


def _backward(ctx, saved, grad_similarity, _):
    need, need_refs, *_ = ctx.needs_input_grad
    grad, grad_refs = torch.ops.hardmine.knn_backward(grad_similarity, *saved, ctx.similarity, need, need_refs)
    return grad if need else None, grad_refs if need_refs else None


register_autograd("knn", (0, 1), _setup_context, _backward)
forbid_double_backward("knn", (0, 2, 3))
