"""Hard negatives of a whole set, for training on triplets or on a positive and several negatives."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

from hardmine._tensor_file import read_tensors, write_tensors
from hardmine.mining._knn_call import DEFAULT_MEMORY
from hardmine.mining._list_files import MANIFEST, check_folder, explained, sole_writer
from hardmine.mining._negative_rules import NegativeRules
from hardmine.mining._row_source import RowSource, check_row_numbers, check_same_space, digest_of
from hardmine.mining.all_knn import all_knn, meet
from hardmine.mining.neighbor_shards import NeighborShards
from hardmine.ops._arguments import INTEGER_DTYPES, SIMILARITIES, check_choice, check_tensor, shape_of
from hardmine.ops._groups import check_group
from hardmine.ops.knn import MAX_NEIGHBORS
from hardmine.types import Similarity

if TYPE_CHECKING:
    from hardmine.mining.all_knn import Rows

FORMAT = "hardmine.hard_negatives"
FILE = "negatives.safetensors"
_LISTS = re.compile("lists-[0-9a-f]{16}")
_READ_ROWS = 65536  # at a time
_LIST_ENTRIES = 2**22  # at a time


class HardNegatives(NamedTuple):
    """The hard negatives of E entries: one per relation, or without relations one per anchor.

    Attributes:
        anchor: int64 [E], rows of the anchors.
        positive: int64 [E], the entry's positive, a row of the refs, or of the anchors if there are no refs; -1 without
            relations.
        negatives: int64 [E, k], numbered like ``positive``, most similar first, -1 if there are fewer than k.
        similarity: float32 or float64 [E, k], of the anchor and its negatives, NaN after the last.
        positive_similarity: [E], NaN without relations.
        generation: How often the folder has been refreshed, from 1; 0 without a folder.
    """

    anchor: Tensor
    positive: Tensor
    negatives: Tensor
    similarity: Tensor
    positive_similarity: Tensor
    generation: int

    def triplets(self) -> Tensor:
        """All (anchor, positive, negative), int64 [T, 3], of entries with a positive.

        Without refs, :func:`hardmine.ops.indexed_triplet_loss` takes them.

        Example:
            >>> import torch
            >>> from hardmine.mining import hard_negatives
            >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.7, 0.3], [0.0, 1.0]])
            >>> hard_negatives(rows, k=1, relations=torch.tensor([[0, 1]])).triplets()
            tensor([[0, 1, 2]])
        """
        entry, column = ((self.negatives >= 0) & (self.positive >= 0)[:, None]).nonzero(as_tuple=True)
        return torch.stack([self.anchor[entry], self.positive[entry], self.negatives[entry, column]], 1)


class _Task:
    """The checked arguments of a call, but for those of ``all_knn``.

    Attributes:
        length: Length of the lists that the rules need.
        listed_ids: Ids of anchors and candidates by which the lists leave out candidates, or None.
        folder: The name of the folder of the lists, which depends on all that they are made of.
    """

    def __init__(
        self,
        anchors: Any,
        refs: Any,
        labels: tuple[Any, Any],
        ids: tuple[Any, Any],
        relations: Any,
        rules: NegativeRules,
        similarity: Any,
        method: Any,
    ) -> None:
        check_choice("similarity", similarity, SIMILARITIES)
        if method == "fanng" and labels[0] is not None:
            raise ValueError("labels must be None with method='fanng'")
        self._rules, self._similarity = rules, similarity
        self._anchors = RowSource("anchors", anchors)
        self._candidates = self._anchors if refs is None else RowSource("refs", refs)
        if refs is not None:
            check_same_space(self._anchors, self._candidates)
        counts = self._anchors.count, None if refs is None else self._candidates.count
        self._pairs = None
        if relations is not None:
            self._pairs = _check_relations(relations, counts[0], self._candidates.count)
        classes, copies = _check_integers("labels", labels, counts), _check_integers("ids", ids, counts)
        if self._pairs is None and classes is None and copies is None:
            raise ValueError("labels, relations or ids must be given: without them every neighbor is a negative")
        if classes is not None:  # unlike ids, negative labels are classes too
            _, inverse = torch.cat(classes).unique(return_inverse=True)
            classes = inverse[: counts[0]].clone(), inverse[-self._candidates.count :].clone()
        self.listed_ids = copies if classes is None else classes
        self._filtered_ids = None if classes is None else copies
        beside = _largest_count(self._pairs)
        beside += 0 if self._filtered_ids is None else _largest_group(self._filtered_ids[1])
        self.length = min(rules.end + beside, self._candidates.count - (refs is None))
        if self.length > MAX_NEIGHBORS:
            raise ValueError(
                f"ranks[1] = {rules.end}, plus the {beside} positives and copies of an anchor, must be at most "
                f"{MAX_NEIGHBORS}, got {rules.end + beside}"
            )
        if self.length < 1:
            raise ValueError(f"anchors must have candidates, got {self._candidates.count} rows")
        self.folder = f"lists-{self._digest((method, counts))}"

    def _digest(self, options: tuple[Any, ...]) -> str:
        digest = hashlib.sha256(repr((self.length, self._similarity, *options)).encode())
        for source in {id(source): source for source in (self._anchors, self._candidates)}.values():
            for first in range(0, source.count, _READ_ROWS):
                digest.update(digest_of(source.read(first, min(first + _READ_ROWS, source.count))).encode())
        for ids in self.listed_ids or ():
            digest.update(digest_of(ids).encode())
        return digest.hexdigest()[:16]

    def negatives(self, lists: NeighborShards) -> HardNegatives:
        """The negatives of all entries, in the order of the relations."""
        count = len(lists)
        if self._pairs is None:
            anchors = torch.arange(count, device="cpu")
            entries = torch.stack([anchors, torch.full_like(anchors, -1)], 1)
        else:
            entries = self._pairs
        positive_keys = None if self._pairs is None else self._keys(self._pairs[:, 0], self._pairs[:, 1]).unique()
        order = entries[:, 0].argsort(stable=True)
        dtype, k = lists[0:0].similarity.dtype, self._rules.k
        negatives = torch.full((len(entries), k), -1, dtype=torch.int64, device="cpu")
        values = torch.full((len(entries), k), torch.nan, dtype=dtype, device="cpu")
        positives = torch.full((len(entries),), torch.nan, dtype=dtype, device="cpu")
        step = max(_LIST_ENTRIES // self.length, 1)
        sorted_anchors = entries[order, 0]
        for first in range(0, count, step):
            bounds = torch.tensor([first, min(first + step, count)], device="cpu")
            begin, end = torch.searchsorted(sorted_anchors, bounds).tolist()
            for start in range(begin, end, step):
                own = order[start : min(start + step, end)]
                anchor, lowest = entries[own, :1], int(entries[own[0], 0])
                found = lists[lowest : int(entries[own[-1], 0]) + 1]
                index, similarity = (values[anchor[:, 0] - lowest] for values in (found.index, found.similarity))
                is_candidate = index >= 0
                if positive_keys is not None:
                    is_candidate &= ~_contains(positive_keys, self._keys(anchor, index))
                    positives[own] = self._pair_similarities(entries[own]).to(dtype)
                if self._filtered_ids is not None:
                    own_id = self._filtered_ids[0][anchor]
                    is_candidate &= (own_id < 0) | (own_id != self._filtered_ids[1][index.clamp(min=0)])
                negatives[own], values[own] = self._rules.take(index, similarity, is_candidate, positives[own])
        return HardNegatives(entries[:, 0].clone(), entries[:, 1].clone(), negatives, values, positives, 0)

    def _keys(self, anchor: Tensor, candidate: Tensor) -> Tensor:
        """One number per pair."""
        return anchor * self._candidates.count + candidate

    def _pair_similarities(self, pairs: Tensor) -> Tensor:
        """The similarities of pairs of an anchor and a candidate, float64 [E]."""
        a, b = _gather(self._anchors, pairs[:, 0]).double(), _gather(self._candidates, pairs[:, 1]).double()
        if self._similarity == "euclidean":
            return -(a - b).square().sum(1).sqrt()
        return (a * b).sum(1) if self._similarity == "dot" else F.cosine_similarity(a, b, dim=1, eps=1e-24)


def hard_negatives(
    anchors: Rows,
    k: int = 1,
    *,
    refs: Rows | None = None,
    labels: Tensor | Sequence[int] | None = None,
    ref_labels: Tensor | Sequence[int] | None = None,
    relations: Tensor | None = None,
    ids: Tensor | Sequence[int] | None = None,
    ref_ids: Tensor | Sequence[int] | None = None,
    ranks: tuple[int, int] = (0, 100),
    min_similarity: float | None = None,
    max_similarity: float | None = None,
    margin: float | None = None,
    relative_margin: float | None = None,
    similarity: Similarity = "cosine",
    folder: str | os.PathLike[str] | None = None,
    method: Literal["exact", "fanng"] = "exact",
    memory: int = DEFAULT_MEMORY,
    group: ProcessGroup | None = None,
    progress: bool | None = None,
) -> HardNegatives:
    """The ``k`` hardest negatives of every anchor that the given rules admit, from exact lists of a whole set.

    Replaces ``(F.normalize(anchors) @ F.normalize(refs).T).masked_fill(is_positive, -inf).topk(k)``, with the filters
    that avoid false negatives.

    Args:
        anchors: The anchors [N, D], in any form that :func:`hardmine.mining.all_knn` takes.
        k: Negatives per entry.
        refs: The candidates [M, D]. None: the anchors themselves.
        labels: The anchors' classes, [N] integers. Candidates of the same class are no negatives.
        ref_labels: The refs' classes, [M] integers, given together with ``labels`` if there are refs.
        relations: int64 [E, 2], pairs of an anchor and a positive, a row of the refs, or of the anchors without refs.
            No positive of an anchor is among its negatives. The result has an entry per pair. Needed for margins.
        ids: The anchors' ids, [N] integers: candidates with an equal id >= 0 are left out, such as duplicates.
        ref_ids: The refs' ids, [M] integers, given together with ``ids`` if there are refs.
        ranks: Only negatives from this rank on, and before the second one, are taken. Rank 0 is the most similar
            candidate that is neither a positive nor left out.
        min_similarity: The least similarity of a negative. None: no bound.
        max_similarity: The largest similarity of a negative. None: no bound.
        margin: A negative's similarity is at most the positive's minus this.
        relative_margin: A negative's similarity s is at most p - relative_margin |p|, with the positive's similarity p;
            from 0 to 1. 0.05 is the rule "95 % of the positive" of NV-Retriever.
        similarity: ``"cosine"``, ``"dot"`` or ``"euclidean"``, the negative distance.
        folder: Where lists in progress and the result are kept, so that a killed call goes on, and other processes read
            the newest complete result with :func:`hardmine.mining.newest_negatives`. None: a temporary folder.
        method: ``"exact"``, or ``"fanng"`` without refs, labels and ids.
        memory: As in :func:`hardmine.mining.all_knn`.
        group: A process group whose ranks share the work, as in :func:`hardmine.mining.all_knn`; needs ``folder``.
        progress: As in :func:`hardmine.mining.all_knn`.

    Returns:
        :class:`hardmine.mining.HardNegatives`, the same on every rank.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value, or an anchor has so many positives or copies that its list
            would exceed 1024 candidates.
        OSError: As in :func:`hardmine.mining.all_knn`.

    Note:
        Ties go to the lowest row number. The similarities of positives are computed in float64 and rounded.

    Reference:
        Moreira et al., "NV-Retriever: Improving text embedding models with effective hard-negative mining", 2024,
        section 3: TopK-PercPos is ``relative_margin=0.05``, TopK-MarginPos ``margin``, TopK-Abs ``max_similarity``.

    Example:
        >>> import torch
        >>> from hardmine.mining import hard_negatives
        >>> queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> passages = torch.tensor([[0.9, 0.1], [1.0, 0.02], [0.6, 0.8], [0.1, 0.9]])
        >>> relations = torch.tensor([[0, 0], [1, 3]])
        >>> hard_negatives(queries, k=1, refs=passages, relations=relations).negatives
        tensor([[1],
                [2]])
        >>> hard_negatives(queries, k=1, refs=passages, relations=relations, relative_margin=0.05).negatives
        tensor([[2],
                [2]])
    """
    group = None if group is None else check_group(group)
    is_first = group is None or group.rank() == 0
    with ExitStack() as stack:
        task, home, failure = None, Path(), None
        try:
            if group is not None and folder is None:
                raise ValueError("folder must be given with group, got None")
            rules = NegativeRules(
                k, ranks, min_similarity, max_similarity, margin, relative_margin, relations is not None
            )
            task = _Task(anchors, refs, (labels, ref_labels), (ids, ref_ids), relations, rules, similarity, method)
            home = Path(stack.enter_context(TemporaryDirectory())) if folder is None else check_folder(folder)
            if is_first and folder is not None:
                home.mkdir(exist_ok=True)
                stack.enter_context(sole_writer(home))
        except Exception as error:
            failure = error
        meet(group, {}, failure)
        assert task is not None
        lists = all_knn(
            anchors,
            home / task.folder,
            task.length,
            refs=refs,
            ids=None if task.listed_ids is None else task.listed_ids[0],
            ref_ids=None if task.listed_ids is None or refs is None else task.listed_ids[1],
            similarity=similarity,
            method=method,
            memory=memory,
            group=group,
            progress=progress,
        )
        found = None
        try:
            if is_first:
                found = task.negatives(lists)
                found = found if folder is None else _publish(home, found)
        except Exception as error:
            failure = error
        meet(group, {}, failure)
        return newest_negatives(home) if found is None else found


def newest_negatives(folder: str | os.PathLike[str]) -> HardNegatives:
    """The newest complete result of :func:`hardmine.mining.hard_negatives` in a folder, also during a refresh.

    Results are replaced atomically. Whatever the writer does meanwhile, or whether it is killed, this reads one whole
    result.

    Args:
        folder: The folder that ``hard_negatives`` was given.

    Returns:
        :class:`hardmine.mining.HardNegatives`. Its ``generation`` tells a new result from an old one.

    Raises:
        TypeError: ``folder`` is not a path.
        FileNotFoundError: No result is complete yet.
        ValueError: The file is damaged.

    Example:
        >>> import torch
        >>> from hardmine.mining import hard_negatives, newest_negatives
        >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> _ = hard_negatives(rows, labels=torch.tensor([0, 0, 1]), folder="negatives")
        >>> newest = newest_negatives("negatives")
        >>> newest.generation, newest.negatives.flatten().tolist()
        (1, [2, 2, 1])
    """
    path = check_folder(folder) / FILE
    if not path.exists():
        raise FileNotFoundError(
            f"folder must hold a complete result of hard_negatives, got {path.parent} without {FILE}"
        )
    metadata, arrays = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} must have the format {FORMAT!r}, got {metadata.get('format')!r}")
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    return HardNegatives(**tensors, generation=int(metadata["generation"]))


def _check_relations(relations: Any, anchors: int, candidates: int) -> Tensor:
    """``relations`` are pairs of rows; returned as int64."""
    check_tensor("relations", relations)
    if relations.dtype not in INTEGER_DTYPES:
        raise TypeError(f"relations must have an integer dtype, got {relations.dtype}")
    if relations.dim() != 2 or relations.shape[1] != 2:
        raise ValueError(f"relations must be [E, 2], got {shape_of(relations)}")
    pairs = relations.to("cpu", torch.int64)
    for column, (name, count) in enumerate((("anchors", anchors), ("candidates", candidates))):
        outside = (pairs[:, column] < 0) | (pairs[:, column] >= count)
        if outside.any():
            row = int(outside.nonzero()[0])
            raise ValueError(
                f"relations[:, {column}] must be rows of the {count} {name}, "
                f"got {int(pairs[row, column])} at [{row}, {column}]"
            )
    return pairs


def _check_integers(name: str, values: tuple[Any, Any], counts: tuple[int, int | None]) -> tuple[Tensor, Tensor] | None:
    """Labels or ids of anchors and candidates, [N] and [M] int64; None if they are not given."""
    own, other = values
    if counts[1] is None and other is not None:
        raise ValueError(f"ref_{name} must be None without refs, got {type(other).__name__}")
    if counts[1] is not None and (own is None) != (other is None):
        missing, given = (name, f"ref_{name}") if own is None else (f"ref_{name}", name)
        raise ValueError(f"{missing} must be given together with {given}, got None")
    if own is None:
        return None
    checked = check_row_numbers(name, own, counts[0], "N")
    return checked, checked if counts[1] is None else check_row_numbers(f"ref_{name}", other, counts[1], "M")


def _largest_count(pairs: Tensor | None) -> int:
    """The largest number of positives of an anchor."""
    return 0 if pairs is None or not len(pairs) else int(pairs[:, 0].unique(return_counts=True)[1].max())


def _largest_group(ids: Tensor) -> int:
    """The largest number of candidates of one id."""
    ids = ids[ids >= 0]
    return int(ids.unique(return_counts=True)[1].max()) if len(ids) else 0


def _contains(sorted_values: Tensor, values: Tensor) -> Tensor:
    """Whether each of ``values`` is among the sorted ones."""
    if not len(sorted_values):
        return torch.zeros_like(values, dtype=torch.bool)
    position = torch.searchsorted(sorted_values, values).clamp(max=len(sorted_values) - 1)
    return sorted_values[position] == values


def _gather(source: RowSource, rows: Tensor) -> Tensor:
    """Some rows of a source, [E, D], from blocks that are read in order."""
    found = torch.empty(len(rows), source.depth, dtype=source.dtype, device="cpu")
    order = rows.argsort()
    ordered = rows[order]
    begin = 0
    while begin < len(rows):
        first = int(ordered[begin])
        end = int(torch.searchsorted(ordered, first + _READ_ROWS))
        block = source.read(first, int(ordered[end - 1]) + 1)
        found[order[begin:end]] = block[ordered[begin:end] - first]
        begin = end
    return found


def _publish(home: Path, found: HardNegatives) -> HardNegatives:
    """Replaces the folder's result by a new one, and removes all lists, which the next refresh cannot use."""
    file = home / FILE
    generation = int(read_tensors(file)[0].get("generation", 0)) + 1 if file.exists() else 1
    tensors = {name: value.contiguous().numpy() for name, value in found._asdict().items() if name != "generation"}
    with explained(file):
        write_tensors(file, tensors, {"format": FORMAT, "generation": str(generation)})
    for lists in home.iterdir():
        if _LISTS.fullmatch(lists.name) and (lists / MANIFEST).is_file():
            shutil.rmtree(lists)
    return found._replace(generation=generation)
