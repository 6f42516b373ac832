"""Calls of ops with ``group=`` in several processes, and the same calls in one."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from hardmine import ops
from support.inputs import seeded

DEPTH = 6
SIZES = {
    "equal": (6, 6, 6, 6, 6),
    "uneven": (7, 12, 3, 5, 9),
    "a rank without rows": (9, 0, 8, 0, 4),
    "all rows on one rank": (0, 17, 0, 0, 0),
    "one row per rank": (1, 1, 1, 1, 1),
    "no rows": (0, 0, 0, 0, 0),
}


class Batch(NamedTuple):
    """The rows of all ranks, and the bounds of the ranks' parts."""

    rows: Tensor  # [N, DEPTH]
    labels: Tensor  # [N]
    ids: Tensor  # [N]
    bounds: list[int]

    def part(self, rank: int | None) -> slice:
        """The rows of one rank, or of all."""
        return slice(None) if rank is None else slice(self.bounds[rank], self.bounds[rank + 1])


def batch_of(split: str, ranks: int, *, dtype: torch.dtype = torch.float64, seed: int = 0, classes: int = 3) -> Batch:
    """Random rows in a few classes. Some ids are equal, and a third of the rows has none."""
    bounds = torch.tensor([0, *SIZES[split][:ranks]]).cumsum(0).tolist()
    total = bounds[-1]
    rows = torch.randn(total, DEPTH, generator=seeded(seed), dtype=torch.float64).to(dtype)
    labels = torch.randint(-1, classes - 1, (total,), generator=seeded(seed + 1))
    ids = torch.randint(-(total // 2) - 1, total + 1, (total,), generator=seeded(seed + 2)) * 10**15
    return Batch(rows, labels, ids, bounds)


class Case(NamedTuple):
    """One call of an op."""

    split: str
    ref_split: str | None
    with_ids: bool
    options: dict[str, Any]

    def inputs(self, ranks: int, rank: int | None, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
        """The tensors of one rank, or of all ranks; embeddings are new leaves."""
        found: dict[str, Any] = {}
        for prefix, split in (("", self.split), ("ref_", self.ref_split)):
            if split is not None:
                batch = batch_of(split, ranks, dtype=dtype, seed=len(prefix))
                part = batch.part(rank)
                found[f"{prefix}embeddings"] = batch.rows[part].clone().requires_grad_()
                found[f"{prefix}labels"] = batch.labels[part]
                if self.with_ids:
                    found[f"{prefix}ids"] = batch.ids[part]
        return found


def cases_of(options: list[dict[str, Any]], splits: tuple[str, ...] = tuple(SIZES)) -> list[Case]:
    """Every split with every option; refs and ids alternate, so that all pairs of them occur."""
    kinds = [(None, False), (None, True), ("uneven", False), ("a rank without rows", True), ("no rows", False)]
    return [
        Case(split, *kinds[(i + j) % len(kinds)], chosen)
        for i, split in enumerate(splits)
        for j, chosen in enumerate([*options, *options][: max(len(options), 5)])
    ]


class Outcome(NamedTuple):
    """What a call returns, and the gradients of a scalar."""

    loss: Tensor | None  # of select_triplets and knn: None
    details: tuple[Tensor, ...]
    count: Tensor | None
    grads: list[Tensor]


RETURNS = {"tuplet_loss": "return_terms"}


def call(name: str, case: Case, ranks: int, rank: int | None = None, **more: Any) -> Outcome:
    """The op on one rank's part, with a group; or on all rows, in one process."""
    inputs = case.inputs(ranks, rank)
    leaves = [inputs[key] for key in ("embeddings", "ref_embeddings") if key in inputs]
    options = {**case.options, **more}
    if rank is not None:
        options["group"] = dist.group.WORLD
    if "random" in options.values():
        options["generator"] = seeded(5)
    first = sum(SIZES[case.split][:rank]) if rank else 0
    weights = torch.linspace(0.5, 1.5, sum(SIZES[case.split][:ranks]), dtype=torch.float64)
    weights = weights if rank is None else weights[first : first + len(leaves[0])]
    if name == "knn":
        names = {"embeddings": "queries", "ref_embeddings": "refs"}
        inputs = {names.get(key, key): value for key, value in inputs.items() if not key.endswith("labels")}
        found = ops.knn(**inputs, **options)
        (torch.where(found.index >= 0, found.similarity, 0.0).sum(1) * weights).sum().backward()
        return Outcome(None, tuple(t.detach() for t in found), None, [leaf.grad for leaf in leaves])
    if name == "select_triplets":
        found = ops.select_triplets(**inputs, **options)
        pairs = torch.where(found.valid, 2 * found.positive_similarity - found.negative_similarity, 0.0)
        (pairs * weights).sum().backward()
        return Outcome(None, tuple(t.detach() for t in found), None, [leaf.grad for leaf in leaves])
    if name == "logsumexp":
        found = ops.logsumexp(**inputs, **options)
        (torch.where(found > -torch.inf, found, 0.0) * weights).sum().backward()
        return Outcome(found.detach(), (), None, [leaf.grad for leaf in leaves])
    if name in ("supcon_loss", "multi_similarity_loss", "circle_loss"):
        loss, count = getattr(ops, name)(**inputs, **options), torch.tensor(0)
        if name != "multi_similarity_loss":
            loss, count = getattr(ops, name)(**inputs, **options, return_count=True)
        (loss if loss.dim() == 0 else (loss * weights).sum()).backward()
        return Outcome(loss.detach(), (), count, [leaf.grad for leaf in leaves])
    flags = {RETURNS.get(name, "return_selection"): True, "return_count": True}
    loss, details, count = getattr(ops, name)(**inputs, **options, **flags)
    (loss if loss.dim() == 0 else (loss * weights).sum()).backward()
    return Outcome(loss.detach(), tuple(t.detach() for t in details), count, [leaf.grad for leaf in leaves])
