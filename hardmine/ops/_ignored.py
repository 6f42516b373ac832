"""Rows with the label to ignore: ops run on the other rows, and their results keep the shape of the whole batch."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hardmine.ops._arguments import check_ids, check_labeled_rows, check_weights
from hardmine.ops._groups import agree_on_checks, check_group
from hardmine.ops._numbers import check_integer
from hardmine.types import PairSelection, Selection, TupletTerms

P = ParamSpec("P")
R = TypeVar("R")

# The ops whose results have an entry per pair with positive="all", or per rank with negative_ranks.
_LISTING_OPS = ("select_triplets", "triplet_loss", "sct_loss")


class KeptRows(NamedTuple):
    """The rows that an op runs on.

    Attributes:
        arguments: ``embeddings``, ``labels``, ``ref_embeddings``, ``ref_labels``, ``ids`` and ``ref_ids`` without the
            ignored rows.
        anchors: Row numbers of the anchors that are kept, int64 [K].
        candidates: Row numbers of the candidates that are kept: ``anchors`` if there are no refs. With a group, those
            of all ranks.
        num_anchors: The number of anchors, ignored ones included.
        keep: Which candidates of this rank are kept, bool [M].
    """

    arguments: dict[str, Tensor | None]
    anchors: Tensor
    candidates: Tensor
    num_anchors: int
    keep: Tensor

    def spread(self, values: Tensor, fill: float) -> Tensor:
        """Values of the kept anchors as values of all, ``fill`` for ignored ones. Differentiable."""
        return values.new_full((self.num_anchors,), fill).index_copy(0, self.anchors, values)

    def rows_of(self, index: Tensor) -> Tensor:
        """Indices of kept candidates as row numbers of all candidates; -1 stays, and is that of ignored anchors."""
        return self.spread(self.candidate_rows(index), -1)

    def candidate_rows(self, index: Tensor) -> Tensor:
        """Indices of kept candidates as row numbers of all candidates; -1 stays."""
        return torch.cat([self.candidates, self.candidates.new_full((1,), -1)])[index]

    def restore_pairs(self, result: Any) -> Any:
        """The result of an op with an entry per pair, in the row numbers of all rows."""
        if isinstance(result, PairSelection):
            anchor, positive, negative, *similarities = result
            candidates = self.candidate_rows(positive), self.candidate_rows(negative)
            return PairSelection(self.anchors[anchor], *candidates, *similarities)
        return tuple(map(self.restore_pairs, result)) if type(result) is tuple else result

    def restore(self, result: Any, fill: float = 0.0) -> Any:
        """The result of an op in the shape that it has for all rows. Sums, means and counts stay as they are.

        Losses of ignored anchors are ``fill``.
        """
        if isinstance(result, Selection):
            positive, negative, s_ap, s_an = result
            similarities = self.spread(s_ap, math.nan), self.spread(s_an, math.nan)
            return Selection(self.rows_of(positive), self.rows_of(negative), *similarities)
        if isinstance(result, TupletTerms):
            index, s_ap, logsumexp = result
            return TupletTerms(self.rows_of(index), self.spread(s_ap, math.nan), self.spread(logsumexp, -math.inf))
        if isinstance(result, Tensor):
            return self.spread(result, fill) if result.dim() else result
        return tuple(self.restore(part, fill) for part in result) if type(result) is tuple else result


def kept_rows(keep: Tensor) -> Tensor:
    """The rows where ``keep`` [B] is True, ascending int64 [K]. On a GPU the host reads K.

    Equals ``keep.nonzero().squeeze(1)``, which ``torch.compile(fullgraph=True)`` does not capture by default.
    """
    return torch.ops.hardmine.kept_rows(keep)


def check_ignore_index(ignore_index: Any) -> int:
    """``ignore_index`` is a label; returned as an int."""
    return check_integer("ignore_index", ignore_index, -(2**63), 2**63 - 1)


def drop_ignored(
    ignore_index: Any,
    embeddings: Any,
    labels: Any,
    ref_embeddings: Any = None,
    ref_labels: Any = None,
    ids: Any = None,
    ref_ids: Any = None,
) -> KeptRows:
    """Checks the tensors of an op, and drops the rows whose label is ``ignore_index``."""
    as_int64, ref_as_int64 = check_labeled_rows(embeddings, labels, ref_embeddings, ref_labels)
    check_ids(ids, embeddings, ref_ids, ref_embeddings)
    ignore_index = check_ignore_index(ignore_index)
    for name, given in (("labels", labels), ("ref_labels", ref_labels)):
        if ignore_index < 0 and given is not None and given.dtype == torch.uint64:
            raise ValueError(f"ignore_index must be at least 0 if {name} are uint64, got {ignore_index}")
    keep = as_int64 != ignore_index
    keep_candidates = keep if ref_as_int64 is None else ref_as_int64 != ignore_index
    anchors = kept_rows(keep)
    candidates = anchors if ref_as_int64 is None else kept_rows(keep_candidates)

    def take(tensor: Tensor | None, rows: Tensor) -> Tensor | None:
        if tensor is None:
            return None
        if tensor.is_floating_point():
            return tensor.index_select(0, rows)
        return tensor.long().index_select(0, rows).to(tensor.dtype)  # torch cannot index all unsigned dtypes

    arguments = {
        "embeddings": take(embeddings, anchors),
        "labels": take(labels, anchors),
        "ref_embeddings": take(ref_embeddings, candidates),
        "ref_labels": take(ref_labels, candidates),
        "ids": take(ids, anchors),
        "ref_ids": take(ref_ids, candidates),
    }
    return KeptRows(arguments, anchors, candidates, embeddings.shape[0], keep_candidates)


def _with_all_candidates(kept: KeptRows, op: str, ignore_index: int, group: dist.ProcessGroup) -> KeptRows:
    """The kept rows, with the candidates of all ranks. The op then gathers the rows themselves."""
    facts = f"the op must be the same on every rank\t{op} with ignore_index"
    facts += f"\nignore_index must be the same on every rank\t{ignore_index}"
    names = "embeddings,labels,ids" if kept.arguments["ref_embeddings"] is None else "ref_embeddings,ref_labels,ref_ids"
    nothing = kept.keep.new_zeros(kept.keep.shape[0], 1, dtype=torch.float16)
    gathered = torch.ops.hardmine.all_gather_rows(
        nothing, kept.keep.long(), None, None, None, False, names, facts, [], group.group_name
    )
    return kept._replace(candidates=kept_rows(gathered[1] == 1))


def drops_ignored(op: Callable[P, R], fill: float = 0.0) -> Callable[P, R]:
    """Gives an op its option ``ignore_index``: the op then runs without the rows of this label.

    The op declares ``ignore_index`` and gets None. Losses of ignored anchors are ``fill``.
    """

    @functools.wraps(op)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        ignore_index = kwargs.pop("ignore_index", None)
        names = ("embeddings", "labels", "ref_embeddings", "ref_labels")
        if ignore_index is None or len(args) > len(names):  # the op refuses more
            return op(*args, **kwargs)
        given: dict[str, Any] = dict(zip(names, args, strict=False)) | kwargs
        tensors = {name: given.pop(name) for name in (*names, "ids", "ref_ids") if name in given}
        if not {"embeddings", "labels"} <= tensors.keys():
            return op(*args, **kwargs)  # raises
        group, weights = given.get("group"), given.get("weights")
        found: list[KeptRows] = []

        def check() -> None:
            found.append(drop_ignored(ignore_index, **tensors))
            if weights is not None:
                check_weights(weights, tensors["embeddings"])

        if group is not None:
            group = check_group(group)
            agree_on_checks(group, check)
        if not found:
            check()
        kept = found[0]
        if group is not None:
            kept = _with_all_candidates(kept, op.__name__, check_ignore_index(ignore_index), group)
        if weights is not None:
            given["weights"] = weights.index_select(0, kept.anchors)
        call: Any = op
        result = call(**{name: kept.arguments[name] for name in tensors}, **given)
        ranked = given.get("negative_ranks") is not None and given.get("negative") != "random"
        lists_pairs = op.__name__ in _LISTING_OPS and (given.get("positive") == "all" or ranked)
        return kept.restore_pairs(result) if lists_pairs else kept.restore(result, fill)

    return run


torch.library.define("hardmine::kept_rows", "(Tensor keep) -> Tensor")
torch.library.impl("hardmine::kept_rows", ("cpu", "cuda"), lambda keep: keep.nonzero().squeeze(1))


@torch.library.register_fake("hardmine::kept_rows")
def _(keep):
    is_empty = isinstance(keep.shape[0], int) and keep.shape[0] == 0  # inductor refuses to index no rows by some
    return keep.new_empty(0 if is_empty else torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)
