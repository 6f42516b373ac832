"""Hard negatives of a data set of sentence-transformers."""

from __future__ import annotations

import functools
from typing import Any

import torch
from sentence_transformers import util
from torch import Tensor

from hardmine.integrations._fallback import NotFused, forbid_refused_rows, warn_once
from hardmine.integrations.sentence_transformers._ranking import LIBRARY
from hardmine.ops.knn import MAX_NEIGHBORS, knn
from hardmine.types import Similarity

_SIMILARITIES: dict[str, Similarity] = {"cosine": "cosine", "dot": "dot", "euclidean": "euclidean"}


@functools.wraps(util.mine_hard_negatives, assigned=())  # its signature
def mine_hard_negatives(dataset: Any, model: Any, *arguments: Any, **options: Any) -> Any:
    """The ``mine_hard_negatives`` of sentence-transformers, without a matrix of all similarities.

    Arguments and results are those of sentence-transformers, ties aside: its code makes the embeddings, applies the
    filters ``range_min``, ``range_max``, ``max_score``, ``min_score``, ``absolute_margin`` and ``relative_margin``, and
    writes the data set. Only the search for the most similar texts is :func:`hardmine.ops.knn`, on the model's device.
    Its own search runs with ``use_faiss=True``, for a model with Manhattan similarity, and for more than 1,024
    candidates per query, which are ``range_max`` plus the largest number of positives.

    Example:
        >>> import numpy as np
        >>> from datasets import Dataset
        >>> from sentence_transformers import SentenceTransformer
        >>> from sentence_transformers.sentence_transformer.modules import StaticEmbedding
        >>> from tokenizers import Tokenizer, models
        >>> from hardmine.integrations.sentence_transformers import mine_hard_negatives
        >>> tokenizer = Tokenizer(models.WordLevel({"cat": 0, "kitten": 1, "dog": 2}))
        >>> weights = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], dtype=np.float32)
        >>> model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, weights)], device="cpu")
        >>> dataset = Dataset.from_dict({"query": ["cat", "dog"], "answer": ["kitten", "dog"]})
        >>> mined = mine_hard_negatives(dataset, model, num_negatives=1, relative_margin=0.05, verbose=False)
        >>> mined[:]
        {'query': ['cat', 'dog'], 'answer': ['kitten', 'dog'], 'negative': ['dog', 'kitten']}
    """
    searcher: Any = _Searcher(model)
    return util.mine_hard_negatives(dataset, searcher, *arguments, **options)


class _Searcher:
    """A model whose similarities are searched, not computed."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def similarity(self, queries: Any, corpus: Any) -> _Similarities:
        return _Similarities(self._model, torch.as_tensor(queries), torch.as_tensor(corpus))


class _Similarities:
    """The similarities of queries [Q, D] and a corpus [M, D].

    ``torch.topk`` searches for neighbors. Whatever else is done with this makes the matrix [Q, M] first.
    """

    def __init__(self, model: Any, queries: Tensor, corpus: Tensor) -> None:
        self._model, self._queries, self._corpus = model, queries, corpus

    def to(self, device: Any) -> _Similarities:
        return self

    def _matrix(self) -> Tensor:
        matrix: Tensor = self._model.similarity(self._queries, self._corpus).to(self._model.device)
        return matrix

    def __getattr__(self, name: str) -> Any:
        return getattr(self._matrix(), name)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options = options or {}
        if function is torch.topk and isinstance(arguments[0], cls) and set(options) == {"k", "dim"}:
            try:
                return arguments[0]._nearest(**options)
            except NotFused as why:
                if why.reason is not None:
                    warn_once("mine_hard_negatives", LIBRARY, why.reason)
        arguments = tuple(each._matrix() if isinstance(each, cls) else each for each in arguments)
        return function(*arguments, **options)

    def _nearest(self, k: int, dim: int) -> tuple[Tensor, Tensor]:
        similarity = _SIMILARITIES.get(self._model.similarity_fn_name)
        if similarity is None:
            raise NotFused(f"its model has {self._model.similarity_fn_name} similarity")
        if not 1 <= k <= MAX_NEIGHBORS or dim != 1:
            raise NotFused(f"it lists {k} candidates per query")
        queries, corpus = self._queries.to(self._model.device), self._corpus.to(self._model.device)
        forbid_refused_rows(queries, corpus)
        found = knn(queries, corpus, k=k, similarity=similarity)
        return found.similarity, found.index
