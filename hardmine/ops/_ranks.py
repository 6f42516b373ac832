"""``group=`` of the ops: the candidates of all ranks.

An op checks its arguments, gathers, and computes a part of the work. Either the ranks share the pairs of all rows, so
that each unordered pair is visited once (``_shared_losses.py``). Or each rank compares its own anchors with all
candidates, as one process does with refs, and the parts of the loss are added up: on GPUs, with refs, with random
picks, with reduction "none", with all positives, each with its own negative, and in all ops but ``triplet_loss``,
``sct_loss`` and ``tuplet_loss``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import torch
from torch import Tensor

from hardmine._hooks import checked
from hardmine._problems import needs_gradient
from hardmine.ops._arguments import check_choice, check_ids, check_labeled_rows, with_row_numbers
from hardmine.ops._gather import check_gathered, send_failure
from hardmine.ops._groups import check_group
from hardmine.types import GradientReduction

if TYPE_CHECKING:
    import torch.distributed as dist

GRADIENT_REDUCTIONS = get_args(GradientReduction)


class Anchors(NamedTuple):
    """The anchors of all ranks, for random draws."""

    number: Tensor  # int64 [N]: 0, 1, ...
    own: Tensor  # int64 [B]: the numbers of this rank's anchors


class PartialLoss(NamedTuple):
    """The loss of a part of the anchors: what it adds, what the op returns beside it, and how many losses count.

    ``totals`` and ``counts`` are [], or [P] for a loss that adds up P means. If losses are not reduced, ``totals`` are
    the losses [B].
    """

    totals: Tensor
    details: Any
    counts: Tensor


class Gathered(NamedTuple):
    """The rows of all ranks. What was not given is empty."""

    rows: Tensor
    labels: Tensor
    ids: Tensor
    triplets: Tensor
    anchors: Anchors
    counts: Tensor


def gather(
    group: dist.ProcessGroup,
    op: str,
    options: dict[str, Any],
    rows: Tensor,
    labels: Tensor | None,
    ids: Tensor | None = None,
    *,
    triplets: Tensor | None = None,
    anchors: Tensor | None = None,
    names: tuple[str, str, str] = ("embeddings", "labels", "ids"),
) -> Gathered:
    """The rows of all ranks. ``anchors`` are given if the rows are refs. The ranks' options must be equal."""
    if "gradient_reduction" in options:  # None is the default
        options = {**options, "gradient_reduction": options["gradient_reduction"] or "mean"}
    refs = "refs" if names[0] == "refs" else "ref_embeddings"
    compiling = torch.compiler.is_compiling()
    facts = {
        "the op must be the same on every rank": op,
        "hardmine.verify must check the same calls on every rank": "None" if compiling else str(checked.get()),
        f"{refs} must be given on every rank or on none": "None" if anchors is None else refs,
        **{f"{name} must be the same on every rank": value for name, value in options.items()},
    }
    lines, numbers = [], []
    for requirement, value in facts.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            numbers.append(float(value))  # not as text: torch.compile may hold a number as a symbol
            value = ""
        elif isinstance(value, (Tensor, torch.Generator)):
            value = type(value).__name__
        lines.append(f"{requirement}\t{value}")
    all_rows, all_labels, all_ids, all_triplets, number, own, counts = torch.ops.hardmine.all_gather_rows(
        rows,
        labels,
        ids,
        triplets,
        None if anchors is None else anchors.shape[0],
        needs_gradient(rows),
        ",".join(names),
        "\n".join(lines),
        numbers,
        group.group_name,
    )
    return Gathered(all_rows, all_labels, all_ids, all_triplets, Anchors(number, own), counts)


def own_part(
    group: dist.ProcessGroup, op: str, options: dict[str, Any], inputs: tuple[Any, ...], *, skip_self: bool = True
) -> tuple[tuple[Any, ...], Anchors]:
    """The inputs of an op that compares rows, for this rank's anchors and the candidates of all ranks.

    Without refs, ids exclude each anchor's own copy among the candidates. The user's id and the row number become one
    id per row: the position of the user's id among all sorted ids, or else N plus the row number.
    """
    rows, labels, refs, ref_labels, ids, ref_ids = inputs
    names = ("queries", "refs") if op == "knn" else ("embeddings", "ref_embeddings")
    if refs is not None:
        found = gather(
            group, op, options, refs, ref_labels, ref_ids, anchors=rows, names=(names[1], "ref_labels", "ref_ids")
        )
        ref_labels, ref_ids = None if labels is None else found.labels, None if ids is None else found.ids
        return (rows, labels, found.rows, ref_labels, ids, ref_ids), found.anchors
    found = gather(group, op, options, rows, labels, ids, names=(names[0], "labels", "ids"))
    number, own = found.anchors
    if ids is None:
        ids, ref_ids = (own, number) if skip_self else (None, None)
    else:
        ref_ids = found.ids
        if skip_self:
            ref_ids = with_row_numbers(ref_ids, number)
        ids = ref_ids[own]
    if labels is not None:  # from the gather, which checks them under torch.compile
        labels, ref_labels = found.labels[own], found.labels
    return (rows, labels, found.rows, ref_labels, ids, ref_ids), found.anchors


def shares_pairs(inputs: tuple[Any, ...], options: dict[str, Any]) -> bool:
    """Whether the ranks share the pairs of a loss of resolved options. The kernels for GPUs compute no parts yet."""
    return (
        inputs[0].is_cpu and inputs[2] is None and options["reduction"] != "none" and "random" not in options.values()
    )


def all_rows(
    group: dist.ProcessGroup, op: str, options: dict[str, Any], inputs: tuple[Any, ...]
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor], Anchors]:
    """The first arguments of a loss whose pairs the ranks share: this rank's rows, and what all ranks have."""
    rows, labels, _, _, ids, _ = inputs
    found = gather(group, op, options, rows, labels, ids)
    # Only this rank's rows get a gradient from the loss, and only its own: the gather's backward pass is not needed.
    return (rows, found.rows.detach(), found.labels, None if ids is None else found.ids, found.counts), found.anchors


def check_tensors(inputs: tuple[Any, ...], group: dist.ProcessGroup) -> None:
    """Checks the tensors of an op that compares labeled rows."""
    embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids = inputs
    check_labeled_rows(embeddings, labels, ref_embeddings, ref_labels)
    check_ids(ids, embeddings, ref_ids, ref_embeddings)
    check_gathered(embeddings, labels, ids, group)
    if ref_embeddings is not None:
        check_gathered(ref_embeddings, ref_labels, ref_ids, group, ("ref_embeddings", "ref_labels", "ref_ids"))


class GroupLoss(NamedTuple):
    """A loss that every rank of a group computes a part of.

    Attributes:
        name: The op.
        group: The group.
        gradient_reduction: How the trainer reduces gradients over the ranks; None stands for the mean.
        reduction: The reduction of the loss.
    """

    name: str
    group: dist.ProcessGroup
    gradient_reduction: Any
    reduction: Any

    def check(self) -> None:
        """``gradient_reduction`` takes effect, and is valid."""
        if self.gradient_reduction is None:
            return
        if self.reduction == "none":
            got = repr(self.gradient_reduction)
            raise ValueError(f"gradient_reduction must be None with reduction='none', which scales nothing, got {got}")
        check_choice("gradient_reduction", self.gradient_reduction, GRADIENT_REDUCTIONS)

    @property
    def scale(self) -> float:
        """What gradients are multiplied with, so that the trainer's reduction gives those of one process."""
        return 1.0 if self.gradient_reduction == "sum" else float(self.group.size())

    def add_up(
        self, compute: Callable[[], PartialLoss], device: torch.device, *, mean: bool, size: int = 1
    ) -> PartialLoss:
        """The loss of all ranks from the parts that they compute, which have ``size`` totals and counts each."""
        if torch.compiler.is_compiling():
            part = compute()
        else:
            try:
                part = compute()
            except Exception as error:
                send_failure(error, size, device, self.group)
        totals = part.totals.detach().sum() if self.reduction == "none" else part.totals
        loss, _, counts = torch.ops.hardmine.all_reduce_loss(
            totals.reshape(-1), part.counts.reshape(-1), mean, self.scale, self.group.group_name
        )
        return PartialLoss(part.totals if self.reduction == "none" else loss, part.details, counts.to(torch.int64))


def group_loss(name: str, group: Any, gradient_reduction: Any, reduction: Any) -> GroupLoss | None:
    """The call of an op with a group; None without one."""
    if group is not None:
        return GroupLoss(name, check_group(group), gradient_reduction, reduction)
    if gradient_reduction is not None:
        raise ValueError(f"gradient_reduction must be None without group, got {gradient_reduction!r}")
    return None


def with_requested(loss: Tensor, values: tuple[Any, Any], flags: tuple[Any, Any]) -> Any:
    """The loss alone, or a tuple of it and of the values whose flags are set."""
    returned = tuple(value for value, wanted in zip(values, flags, strict=True) if wanted)
    return (loss, *returned) if returned else loss
