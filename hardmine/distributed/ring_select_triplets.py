"""Selection among refs that are spread over the ranks, and that no rank holds all of."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hardmine._hooks import mixes_dtypes
from hardmine._options import resolve_options
from hardmine.distributed._ring import (
    agree_on_candidates,
    check_candidates,
    needs_gradient,
    send_home,
    sum_dtype,
    travel,
)
from hardmine.ops._arguments import FALLBACKS, NEGATIVES, POSITIVES, SIMILARITIES, TIES, check_choice, check_selection
from hardmine.ops._autograd import forbid_double_backward, register_autograd
from hardmine.ops._fakes import fake_gradients, fake_selection
from hardmine.ops._groups import check_group, fail_everywhere, group_of
from hardmine.ops.select_triplets import as_selection
from hardmine.types import NegativeRule, PositiveRule, Selection, SemihardFallback, Similarity, TieRule

_SEMIHARD = NEGATIVES.index("semihard")


@mixes_dtypes
def ring_select_triplets(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    ref_ids: Tensor | None = None,
    positive: PositiveRule = "easiest",
    negative: NegativeRule = "hardest",
    similarity: Similarity = "cosine",
    duplicate_threshold: float | None = None,
    semihard_fallback: SemihardFallback | None = None,
    tie: TieRule | None = None,
    semihard_margin: float | None = None,
    group: dist.ProcessGroup | None = None,
) -> Selection:
    """Selects a positive and a negative of every anchor among the refs of all ranks, of which no rank holds all.

    The blocks of refs travel around a ring. A rank compares its anchors with one block while the next one arrives, and
    holds no more than these two besides its own. Equals :func:`hardmine.ops.select_triplets` with this rank's anchors
    and the refs of all ranks, rank 0's first, bit for bit.

    The similarities are differentiable, so a loss of the selected pairs is a line of PyTorch, and
    :func:`all_reduce_loss` makes it that of all ranks. The gradient of a rank's refs is the plain sum of what all ranks
    have computed for them, as in :func:`all_gather_rows`.

    Every rank must call this, and every rank must run the backward pass if one does.

    Args:
        embeddings: The anchors of this rank: float32, float64, float16 or bfloat16 [B, D], with a D and dtype of all
            ranks. B may differ between ranks, and may be 0.
        labels: Integers [B]; uint64 below 2^63.
        ref_embeddings: This rank's block of the refs, [M, D]. M may differ between ranks, and may be 0. None on every
            rank: the candidates are the anchors of all ranks, where a sample is never its own positive.
        ref_labels: Integers [M]; uint64 below 2^63.
        ids: Integers [B]; a pair of equal ids >= 0 is no candidate, as in :func:`hardmine.ops.select_triplets`. Given
            on every rank or on none. With refs, only this excludes an anchor's own copy.
        ref_ids: Integers [M]; given together with ``ids`` if there are refs.
        positive: As in :func:`hardmine.ops.select_triplets`, like the options below, but not ``"random"``.
        negative: Not ``"random"``. With ``"semihard"`` the blocks travel twice: the positives come first.
        similarity: ``"cosine"``, ``"dot"`` or ``"euclidean"``.
        duplicate_threshold: Positives more similar than this are excluded.
        semihard_fallback: The negative of an anchor that has no semi-hard one.
        tie: Whether a negative exactly as similar as the positive counts as semi-hard.
        semihard_margin: Semi-hard negatives must also have ``s_an > s_ap - semihard_margin``.
        group: The process group, by default that of all processes.

    Returns:
        A :class:`hardmine.types.Selection` of this rank's anchors, four tensors [B]. The indices are global row
        numbers: rank 0's rows come first.

    Raises:
        TypeError: An argument has the wrong type or dtype, on any rank.
        ValueError: An argument has the wrong shape, value or device, on any rank; ranks differ in an option, in dtype,
            D or type of device, or in which arguments are given or need gradients; a rule is ``"random"``; or this
            process is not in ``group``.
        NotImplementedError: A second derivative is requested.
        RuntimeError: ``group`` is not initialized.

    Note:
        Random rules are refused, because a random pick needs the number of candidates of all blocks in advance. Select
        from the rows of :func:`all_gather_rows` instead.

        The notes on :func:`all_gather_rows` about errors, waiting and backends apply. With R ranks, each rank sends
        R - 1 blocks, or twice as many for semi-hard negatives. If gradients are needed, every rank keeps the selected
        rows, 2 B D elements. The backward pass sends the gradients of the selected rows to their owners, and nothing
        else. The ranks meet in pairs, so that a rank holds the rows of one other rank at a time. The sums are in
        float32, or in float64 for float64, in a fixed order: results repeat bit for bit. A GPU synchronizes once
        forward, to read the numbers of rows, and in every backward pass.

    Example:
        >>> import tempfile, torch
        >>> from hardmine.distributed import all_reduce_loss, ring_select_triplets
        >>> store = torch.distributed.FileStore(tempfile.mkstemp()[1], 1)
        >>> torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)  # torchrun: no arguments
        >>> anchors = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
        >>> refs = torch.tensor([[0.6, 0.8], [0.8, 0.6], [-1.0, 0.0]])
        >>> selection = ring_select_triplets(anchors, torch.tensor([0, 1]), refs, torch.tensor([0, 1, 1]))
        >>> selection.positive_index, selection.negative_index
        (tensor([0, 1]), tensor([1, 0]))
        >>> violation = (selection.negative_similarity - selection.positive_similarity + 0.2)[selection.valid].relu()
        >>> all_reduce_loss(violation.sum(), selection.count())
        tensor(0.4000, grad_fn=<AllReduceLossBackward>)
        >>> torch.distributed.destroy_process_group()
    """
    group = check_group(group)
    options = {
        "positive": positive,
        "negative": negative,
        "similarity": similarity,
        "duplicate_threshold": duplicate_threshold,
        "semihard_fallback": semihard_fallback,
        "tie": tie,
        "semihard_margin": semihard_margin,
        "generator": None,
    }
    inputs = embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids
    try:
        if not torch.compiler.is_compiling():  # the op checks as well
            check_candidates(inputs, group)
        for rule in ("positive", "negative"):
            if options[rule] == "random":
                raise ValueError(
                    f"{rule} must not be 'random' with a ring, where the number of candidates is not known in advance"
                )
        check_choice("similarity", similarity, SIMILARITIES)
        numbers = check_selection(embeddings, resolve_options("select_triplets", options))
    except Exception as error:
        if torch.compiler.is_compiling():
            raise
        fail_everywhere(group, error)
    needs = needs_gradient(embeddings), needs_gradient(ref_embeddings)
    outputs = torch.ops.hardmine.ring_select_triplets(*inputs, *numbers, *needs, group.group_name)
    return as_selection(*outputs[:4])


class Best:
    """The best candidates of all blocks so far, and their rows if gradients need them."""

    def __init__(self, embeddings: Tensor, least_similar: bool, keeps_rows: bool) -> None:
        dtype = torch.promote_types(embeddings.dtype, torch.float32)
        self.least_similar, self.keeps_rows = least_similar, keeps_rows
        self.key = torch.full((len(embeddings),), torch.nan, dtype=dtype, device=embeddings.device)
        self.similarity = self.key
        self.index = torch.full_like(self.key, -1, dtype=torch.int64)
        self.rows = torch.zeros_like(embeddings) if keeps_rows else embeddings.new_empty(0, embeddings.shape[1])

    def offer(self, similarity: Tensor, key: Tensor, index: Tensor, rows: Tensor, start: int) -> None:
        """Merges the best candidates of a block, whose first row has the global number ``start``.

        The order of csrc/core/candidate.h: the larger key wins, and the lower index wins a tie.
        """
        number = index + start
        beats = key < self.key if self.least_similar else key > self.key
        beats |= (self.index < 0) | ((key == self.key) & (number < self.index))
        self._replace((index >= 0) & beats, similarity, key, number, rows, index)

    def fall_back(self, other: Best) -> None:
        """Takes over the candidates of ``other`` where there are none."""
        own = torch.arange(len(self.index), device=self.index.device)
        without = (self.index < 0) & (other.index >= 0)
        self._replace(without, other.similarity, other.key, other.index, other.rows, own)

    def _replace(
        self, replaced: Tensor, similarity: Tensor, key: Tensor, number: Tensor, rows: Tensor, row: Tensor
    ) -> None:
        self.similarity = torch.where(replaced, similarity, self.similarity)
        self.key = torch.where(replaced, key, self.key)
        self.index = torch.where(replaced, number, self.index)
        if self.keeps_rows and len(rows):
            self.rows = torch.where(replaced[:, None], rows[row.clamp(min=0)], self.rows)


def _select(*arguments: Any) -> tuple[Tensor, ...]:
    similarity, positive, negative, fallback, tie, threshold, margin, allow_tf32 = arguments[6:14]
    needs_grad, ref_needs_grad, group_name = arguments[14:]
    group = group_of(group_name)
    options = {
        "op": "ring_select_triplets",
        "similarity": SIMILARITIES[similarity],
        "positive": POSITIVES[positive],
        "negative": NEGATIVES[negative],
        "semihard_fallback": FALLBACKS[fallback],
        "tie": TIES[tie],
        "duplicate_threshold": threshold,
        "semihard_margin": margin,
    }
    candidates, counts, starts = agree_on_candidates(arguments[:6], needs_grad, ref_needs_grad, options, group)

    def best(least_similar: bool) -> Best:
        return Best(candidates.embeddings, least_similar, needs_grad or ref_needs_grad)

    def select(negative: int, positive_key: Tensor | None, positives: Best | None, negatives: Best | None) -> None:
        """One round: the best of every block."""
        rule = (similarity, positive, negative, tie, threshold, margin, allow_tf32)
        for owner, block in travel(candidates.block, counts, group):
            compared = candidates.against(block, is_own=owner == group.rank())
            found = torch.ops.hardmine.select_triplets_block(*compared, positive_key, *rule)
            for target, similarities, index, key in ((positives, *found[::2]), (negatives, *found[1::2])):
                if target is not None:
                    target.offer(similarities, key, index, block[0], starts[owner])

    positives = best(POSITIVES[positive] == "hardest")
    if negative != _SEMIHARD:
        negatives = best(NEGATIVES[negative] == "easiest")
        select(negative, None, positives, negatives)
    else:
        negatives, fallbacks = best(False), None
        if FALLBACKS[fallback] is None:
            select(_SEMIHARD, None, positives, None)
        else:
            fallbacks = best(FALLBACKS[fallback] == "easiest")
            select(NEGATIVES.index(FALLBACKS[fallback]), None, positives, fallbacks)
        select(_SEMIHARD, positives.key, None, negatives)
        if fallbacks is not None:
            negatives.fall_back(fallbacks)
    selected = positives.similarity, negatives.similarity, positives.index, negatives.index
    return *selected, positives.rows, negatives.rows, torch.tensor(counts, dtype=torch.int64, device="cpu")


def _select_backward(
    grad_positive: Tensor,
    grad_negative: Tensor,
    embeddings: Tensor,
    positive_index: Tensor,
    negative_index: Tensor,
    positive_rows: Tensor,
    negative_rows: Tensor,
    counts: Tensor,
    similarity: int,
    ref_rows: int | None,
    need: bool,
    need_refs: bool,
    group_name: str,
) -> tuple[Tensor, Tensor]:
    has_refs = ref_rows is not None
    group, anchors = group_of(group_name), len(embeddings)
    sends = need_refs if has_refs else need
    # The distinct selected rows, ascending, are the refs that the gradient is computed for.
    number, place = torch.cat([positive_index, negative_index]).unique(return_inverse=True)
    missing = int((number < 0).sum())
    number, place = number[missing:], place - missing
    some = place.new_zeros(len(number) + 1).scatter(0, place + 1, torch.arange(2 * anchors, device=place.device))
    rows = torch.cat([positive_rows, negative_rows])[some[1:]]
    grad, grad_rows = torch.ops.hardmine.select_triplets_backward(
        grad_positive, grad_negative, embeddings, rows, place[:anchors], place[anchors:], similarity, need, sends
    )
    if not sends:
        return grad, embeddings.new_empty(0)
    own = anchors if ref_rows is None else ref_rows
    total = embeddings.new_zeros(own, embeddings.shape[1], dtype=sum_dtype(embeddings))
    if not has_refs:
        total += grad
    send_home(grad_rows, number, total, counts.tolist(), group)
    total = total.to(embeddings.dtype)
    return (grad, total) if has_refs else (total, embeddings.new_empty(0))


def _select_fake(*arguments: Any) -> tuple[Tensor, ...]:
    embeddings, needs, group_name = arguments[0], arguments[14] or arguments[15], arguments[16]
    rows = embeddings.new_empty(embeddings.shape[0] if needs else 0, embeddings.shape[1])
    counts = torch.empty(group_of(group_name).size(), dtype=torch.int64, device="cpu")
    return *fake_selection(embeddings), rows, torch.empty_like(rows), counts


def _setup_context(ctx: Any, arguments: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(arguments[0], *outputs[2:])
    ctx.mark_non_differentiable(*outputs[2:])
    ctx.ref_rows = None if arguments[2] is None else arguments[2].shape[0]
    ctx.similarity, ctx.group_name = arguments[6], arguments[16]


def _backward(
    ctx: Any, saved: tuple[Tensor, ...], grad_positive: Tensor, grad_negative: Tensor, *_: Any
) -> tuple[Tensor | None, Tensor | None]:
    need, need_refs, *_ = ctx.needs_input_grad
    grad, grad_refs = torch.ops.hardmine.ring_select_triplets_backward(
        grad_positive, grad_negative, *saved, ctx.similarity, ctx.ref_rows, need, need_refs, ctx.group_name
    )
    return grad if need else None, grad_refs if need_refs else None


torch.library.define(
    "hardmine::ring_select_triplets",
    "(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, Tensor? ids, Tensor? ref_ids, "
    "int similarity, int positive, int negative, int semihard_fallback, int tie, float duplicate_threshold, "
    "float semihard_margin, bool allow_tf32, bool needs_grad, bool ref_needs_grad, str group_name) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.impl("hardmine::ring_select_triplets", ("cpu", "cuda"), _select)
torch.library.register_fake("hardmine::ring_select_triplets", _select_fake)
torch.library.define(
    "hardmine::ring_select_triplets_backward",
    "(Tensor grad_positive, Tensor grad_negative, Tensor embeddings, Tensor positive_index, Tensor negative_index, "
    "Tensor positive_rows, Tensor negative_rows, Tensor counts, int similarity, SymInt? ref_rows, bool need, "
    "bool need_refs, str group_name) -> (Tensor, Tensor)",
)
torch.library.impl("hardmine::ring_select_triplets_backward", ("cpu", "cuda"), _select_backward)


@torch.library.register_fake("hardmine::ring_select_triplets_backward")
def _(*arguments: Any) -> tuple[Tensor, Tensor]:
    embeddings, (ref_rows, need, need_refs, _) = arguments[2], arguments[-4:]
    refs = None if ref_rows is None else embeddings.new_empty(ref_rows, embeddings.shape[1])
    return fake_gradients(embeddings, refs, need, need_refs)


register_autograd("ring_select_triplets", (0, 2), _setup_context, _backward)
forbid_double_backward("ring_select_triplets", (0, 1, 2))
