"""The ranking losses of sentence-transformers: a softmax of each query over its candidates, or of several kinds."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from sentence_transformers import util
from sentence_transformers.sentence_transformer import losses
from torch import Tensor
from torch.distributed import is_available, is_initialized
from typing_extensions import deprecated

from hardmine.distributed.all_gather_rows import all_gather_rows
from hardmine.integrations._fallback import NotFused, forbid_refused_rows, fused_or_theirs
from hardmine.ops._soft import SoftSums, soft_sums
from hardmine.ops._sums import ordered_sum
from hardmine.ops.info_nce_loss import info_nce_loss
from hardmine.types import LogSumExpPairs, Similarity

LIBRARY = "sentence-transformers"
SIMILARITIES: list[tuple[Any, Similarity]] = [
    (util.cos_sim, "cosine"),
    (util.pytorch_cos_sim, "cosine"),
    (util.dot_score, "dot"),
    (util.euclidean_sim, "euclidean"),
]


class MultipleNegativesRankingLoss(losses.MultipleNegativesRankingLoss):
    """The ``MultipleNegativesRankingLoss`` of sentence-transformers, without the matrix of similarities.

    Arguments, values and gradients are those of sentence-transformers: hard negatives, ``scale``, ``directions``,
    ``partition_mode``, ``hardness_mode``, and ``gather_across_devices``, where the ranks' batches may differ in size.
    Its own code runs for a ``similarity_fct`` other than ``cos_sim``, ``dot_score`` and ``euclidean_sim``.

    Example:
        >>> import torch
        >>> from hardmine.integrations.sentence_transformers import MultipleNegativesRankingLoss
        >>> anchors = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
        >>> positives = torch.tensor([[0.8, 0.6], [0.6, 0.8]])
        >>> loss = MultipleNegativesRankingLoss(model=None, scale=2.0)  # a training needs a SentenceTransformer
        >>> loss.compute_loss_from_embeddings([anchors, positives], labels=None)
        tensor(0.5130, grad_fn=<...>)
    """

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """The loss of the embeddings of anchors, positives and hard negatives, each [B, D]."""
        theirs = super().compute_loss_from_embeddings
        return _of_columns(self, MultipleNegativesRankingLoss, theirs, embeddings, labels)


class CachedMultipleNegativesRankingLoss(losses.CachedMultipleNegativesRankingLoss):
    """The ``CachedMultipleNegativesRankingLoss`` of sentence-transformers, without the matrix of similarities.

    Arguments, values and gradients are those of sentence-transformers, and so are the gradient cache and the
    mini-batches of the model. Only the loss between the model's two forward passes differs: it takes the whole batch at
    once, as :class:`MultipleNegativesRankingLoss` does, and not one mini-batch after the other.

    Example:
        >>> import torch
        >>> from hardmine.integrations.sentence_transformers import CachedMultipleNegativesRankingLoss
        >>> anchors = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])]  # two mini-batches
        >>> positives = [torch.tensor([[0.8, 0.6]]), torch.tensor([[0.6, 0.8]])]
        >>> model = torch.nn.Sequential(torch.nn.Identity())  # a training needs a SentenceTransformer
        >>> loss = CachedMultipleNegativesRankingLoss(model, scale=2.0, mini_batch_size=1)
        >>> loss.calculate_loss([anchors, positives])
        tensor(0.5130)
    """

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """The loss of the embeddings of all mini-batches, and with ``with_backward`` their gradients."""
        theirs = super().calculate_loss
        return _of_mini_batches(self, CachedMultipleNegativesRankingLoss, theirs, reps, labels, with_backward)


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # which inheriting from these classes gives

    @deprecated(losses.MultipleNegativesSymmetricRankingLoss.__deprecated__)
    class MultipleNegativesSymmetricRankingLoss(losses.MultipleNegativesSymmetricRankingLoss):
        """The ``MultipleNegativesSymmetricRankingLoss`` of sentence-transformers, which is deprecated there."""

        def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
            """The loss of the embeddings of anchors, positives and hard negatives, each [B, D]."""
            theirs = super().compute_loss_from_embeddings
            return _of_columns(self, MultipleNegativesSymmetricRankingLoss, theirs, embeddings, labels)

    @deprecated(losses.CachedMultipleNegativesSymmetricRankingLoss.__deprecated__)
    class CachedMultipleNegativesSymmetricRankingLoss(losses.CachedMultipleNegativesSymmetricRankingLoss):
        """The ``CachedMultipleNegativesSymmetricRankingLoss`` of sentence-transformers, which is deprecated there."""

        def calculate_loss(
            self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
        ) -> Tensor:
            """The loss of the embeddings of all mini-batches, and with ``with_backward`` their gradients."""
            theirs = super().calculate_loss
            return _of_mini_batches(
                self, CachedMultipleNegativesSymmetricRankingLoss, theirs, reps, labels, with_backward
            )


def _of_columns(loss: Any, own: type, theirs: Any, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
    def fused(embeddings: list[Tensor], _: Tensor | None) -> Tensor:
        return _ranking_loss(loss, embeddings)

    value: Tensor = fused_or_theirs(LIBRARY, loss, own, fused, theirs, embeddings, labels)
    return value


def _of_mini_batches(
    loss: Any, own: type, theirs: Any, reps: list[list[Tensor]], labels: Tensor | None, with_backward: bool
) -> Tensor:
    def fused(reps: list[list[Tensor]], _: Tensor | None) -> Tensor:
        value = _ranking_loss(loss, [torch.cat(column) for column in reps])
        if with_backward:
            value.backward()
        return value.detach() if with_backward else value

    def unfused(reps: list[list[Tensor]], labels: Tensor | None) -> Tensor:
        value: Tensor = theirs(reps, labels, with_backward=with_backward)
        return value

    value: Tensor = fused_or_theirs(LIBRARY, loss, own, fused, unfused, reps, labels)
    return value


class _Batch(NamedTuple):
    """What B queries are compared with.

    Attributes:
        queries: [B, D], of this rank.
        docs: The positives of these queries, and their hard negatives of each kind: [B, D] each.
        own: [B], the numbers of these queries among those of all ranks.
        all_queries: [W, D], of all ranks, or of this one.
        all_docs: [W C, D], all positives, then all hard negatives of each of the C - 1 kinds.
        number: [W C], the numbers of the queries that the docs belong to.
        is_gathered: Whether there are rows of other ranks.
    """

    queries: Tensor
    docs: list[Tensor]
    own: Tensor
    all_queries: Tensor
    all_docs: Tensor
    number: Tensor
    is_gathered: bool


def _gathered(loss: Any, queries: Tensor, docs: list[Tensor]) -> _Batch:
    count, depth = queries.shape
    own = torch.arange(count, device=queries.device)
    all_queries, all_docs = queries, docs
    is_gathered = bool(loss.gather_across_devices)
    if is_gathered and not (is_available() and is_initialized()):
        util.all_gather_with_grad(queries)  # warns that there is nothing to gather
        is_gathered = False
    if is_gathered:
        rows = all_gather_rows(torch.cat([queries, *docs], dim=1), own)
        all_queries, *all_docs = rows.embeddings.split(depth, dim=1)
        own = own + rows.offset.to(own.device)
    number = torch.arange(len(all_queries), device=queries.device).repeat(len(docs))
    return _Batch(queries, docs, own, all_queries, torch.cat(all_docs), number, is_gathered)


def _ranking_loss(loss: Any, embeddings: list[Tensor]) -> Tensor:
    """The mean over the queries of -log softmax of their positives."""
    queries, *docs = embeddings
    if not docs or not len(queries):
        raise NotFused(None)  # theirs raises, or has a mean of nothing
    for column in docs:
        forbid_refused_rows(queries, column)
    if len(docs[0]) < len(queries):  # more are negatives of all queries
        raise ValueError(
            f"embeddings[1] must have a row per row of embeddings[0], [B, D] = {list(queries.shape)}, "
            f"got {list(docs[0].shape)}"
        )
    for column in docs:
        if len(column) != len(queries):
            raise NotFused(None)
    if not isinstance(loss.scale, (int, float)) or not 1e-30 <= loss.scale <= 1e30:
        raise NotFused(f"its scale is {loss.scale!r}")
    similarity = next((name for function, name in SIMILARITIES if function is loss.similarity_fct), None)
    if similarity is None:
        raise NotFused(f"its similarity_fct is {util.similarity_fct_name(loss.similarity_fct)}")
    batch = _gathered(loss, queries, docs)
    symmetric = _symmetric_pairs(loss, batch)
    if symmetric is not None:
        return info_nce_loss(queries, docs[0], temperature=1 / loss.scale, symmetric=symmetric, similarity=similarity)
    terms = _log_sums(loss, batch, similarity)
    if loss.partition_mode == "joint":
        value = torch.stack(terms, 1).logsumexp(1) if len(terms) > 1 else terms[0]
    else:
        value = torch.stack(terms).mean(0)
    return ordered_sum(value) / len(value)


def _symmetric_pairs(loss: Any, batch: _Batch) -> bool | None:
    """Whether pairs of this process alone are classified both ways, or None for a loss that InfoNCE is not."""
    if batch.is_gathered or len(batch.docs) > 1 or _has_hardness(loss):
        return None
    if set(loss.directions) == {"query_to_doc"}:
        return False
    both_apart = set(loss.directions) == {"query_to_doc", "doc_to_query"} and loss.partition_mode == "per_direction"
    return True if both_apart else None


def _has_hardness(loss: Any) -> bool:
    return loss.hardness_mode is not None and loss.hardness_strength > 0


def _log_sums(loss: Any, batch: _Batch, similarity: Similarity) -> list[Tensor]:
    """For each of the directions, the log-sum-exp of the logits of its pairs minus that of the positive: [B]."""

    def sums(rows: Tensor, refs: Tensor | None, number: Tensor, pairs: LogSumExpPairs, **wanted: Any) -> Any:
        """The sums over the refs, or over the rows themselves: over all, or over those with another number."""
        given = rows, batch.own, refs, None if refs is None else number, None, None
        return soft_sums(given, 1 / loss.scale, similarity, pairs, **wanted)

    queries, positives, count = batch.queries, batch.docs[0], len(batch.queries)
    query_number = batch.number[: len(batch.all_queries)]
    of_keys: SoftSums | None = None
    if _has_hardness(loss):
        value, positive = _with_hardness(loss, batch, similarity)
        terms = [value]
    else:
        number = batch.number.clone()
        number[len(query_number) :] = -1  # hard negatives are among all docs, but are no positives
        of_columns = "doc_to_query" in loss.directions and not batch.is_gathered
        of_queries, of_docs = sums(queries, batch.all_docs, number, "all", of_columns=of_columns, positives=True)
        positive = of_queries.positive_similarity
        terms = [of_queries.logsumexp_minus(positive)]
        if of_columns:
            of_keys = of_docs._replace(shift=of_docs.shift[:count], log_sum=of_docs.log_sum[:count])
    if "query_to_query" in loss.directions:
        others = batch.all_queries if batch.is_gathered else None
        terms.append(sums(queries, others, query_number, "negative")[0].logsumexp_minus(positive))
    if "doc_to_query" in loss.directions:
        if of_keys is None:
            of_keys, _ = sums(positives, batch.all_queries, query_number, "all")
        terms.append(of_keys.logsumexp_minus(positive))
    if "doc_to_doc" in loss.directions:
        others = batch.all_docs if batch.is_gathered or len(batch.docs) > 1 else None
        terms.append(sums(positives, others, batch.number, "negative")[0].logsumexp_minus(positive))
    return terms


def _with_hardness(loss: Any, batch: _Batch, similarity: Similarity) -> tuple[Tensor, Tensor]:
    """The first of :func:`_log_sums`, and the similarity of the positives: [B] each.

    The logits of penalized pairs are ``(scale + strength) s``, with the derivative ``scale``.
    """
    scale, strength = loss.scale, loss.hardness_strength
    similarities = _pair_similarities(batch.queries, torch.stack(batch.docs, 1), similarity)
    own_strength = torch.zeros_like(similarities)
    if loss.hardness_mode != "in_batch_negatives":
        own_strength[:, 1:] = strength
    logits = scale * similarities + own_strength * similarities.detach()
    total = scale if loss.hardness_mode == "hard_negatives" else scale + strength
    given = batch.queries, batch.own, batch.all_docs, batch.number, None, None
    in_batch = soft_sums(given, 1 / total, similarity, "negative")[0].logsumexp()
    if total != scale:
        in_batch = in_batch * (scale / total) + in_batch.detach() * (1 - scale / total)
    positive = similarities[:, 0]
    return torch.cat([in_batch[:, None], logits], 1).logsumexp(1) - scale * positive, positive


def _pair_similarities(queries: Tensor, docs: Tensor, similarity: Similarity) -> Tensor:
    """The similarities of queries [B, D] and their docs [B, C, D], in float32 or float64: [B, C]."""
    if queries.dtype != torch.float64:
        queries, docs = queries.float(), docs.float()
    queries = queries[:, None]
    if similarity == "euclidean":
        return -(queries - docs).norm(dim=2)
    if similarity == "cosine":
        queries, docs = F.normalize(queries, dim=2), F.normalize(docs, dim=2)
    return (queries * docs).sum(2)
