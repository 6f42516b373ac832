"""A memory of the embeddings of earlier batches, which a loss compares each batch with."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hardmine._problems import is_batched
from hardmine.ops._arguments import (
    FLOAT_DTYPES,
    check_ids,
    check_int64,
    check_labels,
    check_rows,
    check_tensor,
    has_values,
    is_without_values,
    shape_of,
)
from hardmine.ops._groups import agree_on_checks
from hardmine.ops._ignored import kept_rows
from hardmine.ops._numbers import check_integer
from hardmine.ops._row_queue import MAX_ID, enqueue_rows, filled_rows, rows_with_batch

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_REFS = ("ref_embeddings", "ref_labels", "ids", "ref_ids")


class CrossBatchMemory(nn.Module):
    """A queue of the last ``size`` embeddings, with which a loss compares each batch (XBM, CVPR 2020).

    Each call puts the batch into the queue, in place of the oldest rows, and then computes the loss of the batch's rows
    against the queue. An anchor's own copy is no candidate. The other rows of the batch are candidates, as copies
    without gradient: the gradient flows through the anchors only, never into the queue. To train with the batch itself
    too, as the paper does, add the loss of the batch::

        loss = loss_of(embeddings, labels) + memory(embeddings, labels)

    Value and gradient are those of ``CrossBatchMemory`` of pytorch-metric-learning 2.9.0, if its loss and miner compute
    the same as ``loss``. Own copies are excluded before pairs are selected; there, they are removed afterwards, so that
    an anchor whose easiest positive is its own copy has none.

    Args:
        loss: A loss that takes ``ref_embeddings``, ``ref_labels``, ``ids`` and ``ref_ids``, such as
            :class:`EPSHNLoss` or :class:`TupletLoss`.
        size: Number of rows of the queue, at least 1. No batch may put in more rows than this.
        dim: D of the embeddings, at least 1.
        dtype: Floating-point dtype of the stored embeddings; by default torch's default dtype. If a batch has another
            one, both are compared in the dtype that holds both: bfloat16 batches and a float32 memory in float32, and
            float32 batches and a bfloat16 memory too.
        device: Where the memory is made; by default torch's default device. ``memory.to(device)`` moves it.
        warmup: Number of calls, from the first, that forget all rows of earlier batches, so that each batch is compared
            with itself only.
        group: A ``torch.distributed`` process group whose ranks share one memory. In each call every rank puts the rows
            of all ranks into its copy of the queue, rank 0's rows first, and compares its own rows with it. None: each
            process has a separate memory.

    Attributes:
        loss: The loss.
        group: The process group, or None.
        embeddings: Buffer [size, dim].
        labels: Buffer [size], int64.
        ids: Buffer [size], int64: the ids that were given, or numbers from 2^63 - 1 downwards where none were.
        counters: Buffer [2], int64, always on the CPU: the number of rows put in so far, and of calls.

    Raises:
        TypeError: ``loss`` takes no refs, or another argument has the wrong type.
        ValueError: Another argument has the wrong value.
        RuntimeError: ``group`` is not initialized.

    Note:
        The state has a fixed shape, whatever the queue holds, and resumes bit for bit. Rows that were never filled are
        no candidates. :meth:`reset` empties the memory.

        In evaluation mode (``memory.eval()``) the memory does not change: the batch is compared with the stored rows
        and not put in. Then only ids exclude copies of the anchors.

        A call copies the filled part of the queue, because the backward pass needs it unchanged: several calls may
        come before one backward pass. The memory is a side effect of the forward pass, so ``torch.utils.checkpoint``,
        which repeats it, is an error. A GPU does not synchronize, except for an ``enqueue_mask`` on it. A call works
        under ``torch.compile(fullgraph=True)``.

        A call that raises leaves the memory as it was: the batch is put in once its loss is computed. With ``group``,
        a loss that raises on some ranks only leaves the ranks' memories different: :meth:`reset` empties them.

        DDP overwrites all buffers of what it wraps with those of rank 0. Wrap the network alone, without the memory.
        With ``group``, a call returns the loss of this rank's anchors. :func:`hardmine.distributed.all_reduce_loss`
        makes it that of all ranks, from a loss with ``reduction="sum"`` and ``return_count=True``. A non-finite
        embedding makes the loss NaN for as long as it is in the queue.

    Reference:
        Wang et al., "Cross-Batch Memory for Embedding Learning", CVPR 2020. He et al., "Momentum Contrast", CVPR 2020,
        has the queue of a momentum encoder's embeddings: see ``enqueue_mask``.

    Example:
        >>> import torch
        >>> from hardmine.losses import CrossBatchMemory, EPHNLoss
        >>> memory = CrossBatchMemory(EPHNLoss(), size=4, dim=2)
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8]], requires_grad=True)
        >>> memory(embeddings, torch.tensor([0, 1]))  # no anchor has a positive yet
        tensor(0., grad_fn=<TripletLossBackward>)
        >>> loss, selection = memory(embeddings, torch.tensor([0, 1]), return_selection=True)
        >>> selection.positive_index  # rows of the queue
        tensor([0, 1])
        >>> memory.filled
        4
    """

    embeddings: Tensor
    labels: Tensor
    ids: Tensor
    counters: Tensor

    def __init__(
        self,
        loss: nn.Module,
        size: int,
        dim: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | int | None = None,
        warmup: int = 0,
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(loss, nn.Module):
            raise TypeError(f"loss must be a torch.nn.Module, got {type(loss).__name__}")
        if not set(_REFS) <= inspect.signature(loss.forward).parameters.keys():
            raise TypeError(f"loss must take {', '.join(_REFS)}, got {type(loss).__name__}, which compares no refs")
        options = getattr(loss, "options", None)
        if isinstance(options, dict) and options.get("group") is not None:
            raise ValueError(
                "loss must have group=None, or every rank would add its copy of the memory: give group here"
            )
        self.size = check_integer("size", size, 1)
        self.dim = check_integer("dim", dim, 1)
        self.warmup = check_integer("warmup", warmup, 0)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if dtype not in FLOAT_DTYPES:
            raise TypeError(f"dtype must be float32, float64, float16 or bfloat16, got {dtype!r}")
        if group is not None:
            from hardmine.ops._groups import check_group

            group = check_group(group)
        self.group = group
        self.loss = loss
        self.register_buffer("embeddings", torch.zeros(self.size, self.dim, dtype=dtype, device=device))
        self.register_buffer("labels", torch.zeros(self.size, dtype=torch.int64, device=device))
        self.register_buffer("ids", torch.zeros(self.size, dtype=torch.int64, device=device))
        self.register_buffer("counters", torch.zeros(2, dtype=torch.int64, device="cpu"))

    @property
    def filled(self) -> int:
        """The number of rows that the queue holds now."""
        return min(int(self.counters[0]), self.size)

    def reset(self) -> None:
        """Empty the memory and begin the warm-up anew."""
        self.counters.zero_()

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        *,
        ids: Tensor | None = None,
        enqueue_mask: Tensor | None = None,
        **returns: Any,
    ) -> Any:
        """Put a batch into the memory, and compute the loss of its rows against the memory.

        Args:
            embeddings: [B, dim], float32, float64, float16 or bfloat16.
            labels: [B], any integer dtype.
            ids: [B], any integer dtype, below 2^63 - ``size``; a negative id stands for none. A pair of equal ids is no
                candidate: give the images' numbers, and no anchor finds an earlier copy of its image. Without ids, only
                the copy from this call is excluded.
            enqueue_mask: bool [B]. Rows with True are put in and are no anchors, such as those of a momentum encoder.
                The others are anchors and not put in. Results are those of the anchors, in order. None: all rows are
                both. On a GPU the host reads the mask; give it on the CPU to avoid that.
            returns: What else the loss shall return, such as ``return_selection=True``. Indices are rows of the queue.

        Returns:
            What ``loss`` returns.

        Raises:
            TypeError: An argument has the wrong type or dtype.
            ValueError: An argument has the wrong shape, value or device, or more than ``size`` rows are to be put in.
            RuntimeError: The call is made in a backward pass, as by ``torch.utils.checkpoint``.
        """
        if self.group is not None and self.training:
            agree_on_checks(
                self.group,
                lambda: self._check(embeddings, labels, ids),
                lambda: enqueue_mask is None or self._check_mask(enqueue_mask, embeddings),
            )
        labels, ids = self._check(embeddings, labels, ids)
        anchors = entering = (embeddings, labels, ids)
        if enqueue_mask is not None:
            enqueue_mask = self._check_mask(enqueue_mask, embeddings)
            entering, anchors = (_take(mask, *anchors) for mask in (enqueue_mask, ~enqueue_mask))
        dtype = torch.promote_types(embeddings.dtype, self.embeddings.dtype)
        queue = self.embeddings, self.labels, self.ids, self.counters
        if not self.training:
            return self._loss_of(anchors, dtype, *filled_rows(queue, dtype), **returns)

        rows, row_labels, row_ids, offset = entering[0].detach(), *entering[1:], None
        if self.group is not None:
            from hardmine.distributed import all_gather_rows

            rows, row_labels, row_ids, offset, _ = all_gather_rows(rows, row_labels, row_ids, group=self.group)
        own_rows = len(embeddings) if enqueue_mask is None else 0
        *refs, row_ids, own_ids = rows_with_batch(
            queue, rows, row_labels, row_ids, offset, own_rows, self.warmup, dtype
        )
        if enqueue_mask is None:
            anchors = *anchors[:2], own_ids
        result = self._loss_of(anchors, dtype, *refs, **returns)
        enqueue_rows(queue, rows, row_labels, row_ids, self.warmup)
        return result

    def _loss_of(
        self,
        anchors: tuple[Tensor, Tensor, Tensor | None],
        dtype: torch.dtype,
        refs: Tensor,
        ref_labels: Tensor,
        ref_ids: Tensor,
        **returns: Any,
    ) -> Any:
        """The loss of anchors: their embeddings, labels and ids."""
        embeddings, labels, ids = anchors
        ids = torch.full_like(labels, -1) if ids is None else ids
        return self.loss(embeddings.to(dtype), labels, refs, ref_labels, ids=ids, ref_ids=ref_ids, **returns)

    def _check(self, embeddings: Any, labels: Any, ids: Any) -> tuple[Tensor, Tensor | None]:
        """Checks a batch before the memory changes; returns the labels and ids as int64."""
        check_rows("embeddings", embeddings, None)
        if is_batched(embeddings):
            raise ValueError("embeddings must not be batched by torch.vmap: the problems would share one memory")
        if embeddings.shape[1] != self.dim:
            raise ValueError(f"embeddings must be [B, dim] with dim = {self.dim}, got {shape_of(embeddings)}")
        if embeddings.device != self.embeddings.device:
            raise ValueError(
                f"embeddings must be on the device of the memory, {self.embeddings.device}, got {embeddings.device}: "
                "move the memory with .to(device)"
            )
        labels_as_int64 = check_labels("labels", labels, embeddings, "B")
        check_int64("labels", labels)
        ids, _ = check_ids(ids, embeddings, None, None)
        if ids is not None and has_values(ids) and ids.numel() and (largest := int(ids.max())) > MAX_ID - self.size:
            raise ValueError(f"ids must be below 2^63 - size = {MAX_ID + 1 - self.size}, got {largest}")
        return labels_as_int64, ids

    def _check_mask(self, mask: Any, embeddings: Tensor) -> Tensor:
        """``enqueue_mask`` is one bool per row."""
        check_tensor("enqueue_mask", mask, embeddings)
        if mask.dtype != torch.bool:
            raise TypeError(f"enqueue_mask must be a torch.bool tensor, got {mask.dtype}")
        if mask.shape != embeddings.shape[:1]:
            raise ValueError(f"enqueue_mask must be [B] = [{int(embeddings.shape[0])}], got {shape_of(mask)}")
        if mask.device not in (embeddings.device, torch.device("cpu")):
            raise ValueError(f"enqueue_mask must be on the CPU or on {embeddings.device}, got {mask.device}")
        return mask

    def extra_repr(self) -> str:
        """The arguments of the constructor."""
        warmup = f", warmup={self.warmup}" if self.warmup else ""
        group = "" if self.group is None else f", group={self.group.group_name!r}"
        return f"size={self.size}, dim={self.dim}, dtype={self.embeddings.dtype}{warmup}{group}"

    def __getstate__(self) -> dict[str, Any]:
        """A copy or a pickle has the group's name: a group can be neither copied nor pickled."""
        return {**self.__dict__, "group": None if self.group is None else self.group.group_name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if state["group"] is not None:
            from hardmine.ops._groups import group_of

            self.group = group_of(state["group"])

    def _apply(self, fn: Any, recurse: bool = True) -> CrossBatchMemory:
        counters = self.counters
        super()._apply(fn, recurse)
        self.counters = counters  # stay on the CPU, where the host reads them
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Refuses a state of another memory before any buffer changes."""
        problems = []
        for name, buffer in self.named_buffers(recurse=False):
            value = state_dict.get(f"{prefix}{name}")
            if not isinstance(value, Tensor):
                continue  # torch reports it
            if value.shape != buffer.shape or value.is_floating_point() != buffer.is_floating_point():
                kind = "floating-point" if buffer.is_floating_point() else "integer"
                expected = {"embeddings": "[size, dim]", "counters": "[2]"}.get(name, "[size]")
                problems.append(
                    f"{prefix}{name} must be {kind} {expected} = {shape_of(buffer)}, "
                    f"got {value.dtype} {shape_of(value)} in state_dict"
                )
            elif name == "counters" and not is_without_values(value) and value.min() < 0:
                problems.append(f"{prefix}counters must be at least 0, got {value.tolist()} in state_dict")
        error_msgs += problems
        if not problems:
            arguments = (local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
            super()._load_from_state_dict(state_dict, prefix, *arguments)


def _take(mask: Tensor, embeddings: Tensor, labels: Tensor, ids: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The rows, labels and ids where ``mask`` is True."""
    index = kept_rows(mask).to(labels.device)
    return embeddings[index], labels[index], None if ids is None else ids[index]
