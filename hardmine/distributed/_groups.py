"""Process groups, and the small collective in which their ranks agree before they exchange rows."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from hardmine.ops._arguments import FLOAT_DTYPES

# The errors of arguments. An error travels as its position here plus 1, with 0 for none.
_ERRORS = (TypeError, ValueError, NotImplementedError, RuntimeError)
_MAX_TEXT = 4096  # bytes of an error's message


class Header(NamedTuple):
    """What each rank tells the others before rows are exchanged. All entries travel as int64."""

    error: int = 0
    rows: int = 0
    depth: int = 0
    dtype: int = 0  # position in FLOAT_DTYPES
    is_cuda: int = 0
    has_ids: int = 0
    needs_grad: int = 0


def check_group(group: Any) -> dist.ProcessGroup:
    """``group`` is an initialized process group that this process belongs to; None is the default group."""
    if not dist.is_available():
        raise RuntimeError("group must be a process group, but this torch was built without torch.distributed")
    if group is None:
        if not dist.is_initialized():
            raise RuntimeError(
                "group must be an initialized process group, got None before torch.distributed.init_process_group"
            )
        return dist.group.WORLD  # type: ignore[return-value]  # not None once initialized
    if group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(
            f"group must include this process, rank {dist.get_rank()} of the default group, "
            "got the result of new_group for processes outside the group"
        )
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(f"group must be a torch.distributed.ProcessGroup or None, got {type(group).__name__}")
    try:
        dist.get_rank(group)
    except (ValueError, RuntimeError) as error:
        raise RuntimeError("group must be an initialized process group, got one that was destroyed") from error
    return group


def group_of(name: str) -> dist.ProcessGroup:
    """The group of a name, by which graphs of ``torch.compile`` hold groups."""
    return dist.distributed_c10d._resolve_process_group(name)  # type: ignore[arg-type, attr-defined]


def devices_of(group: dist.ProcessGroup) -> dict[str, str]:
    """The backend per type of device, as ``{"cpu": "gloo", "cuda": "nccl"}``. Gloo has no all-to-all on GPUs."""
    backends = dict(pair.split(":") for pair in dist.get_backend_config(group).split(","))
    return {device: backend for device, backend in backends.items() if device == "cpu" or backend != "gloo"}


def exchange_headers(group: dist.ProcessGroup, header: Header, failure: Exception | None = None) -> list[Header]:
    """The headers of all ranks; one small collective.

    If a rank passes a failure, a second collective sends the message of the lowest such rank, and every rank raises it.
    All ranks must take part even if their arguments are invalid: the others wait for them.
    """
    if failure is not None:
        header = Header(error=1 + next((i for i, kind in enumerate(_ERRORS) if isinstance(failure, kind)), 3))
    # On the CPU where the group allows it: a GPU would have to synchronize to read the headers.
    device = torch.device("cpu" if "cpu" in devices_of(group) else "cuda")
    gathered = torch.empty(group.size() * len(header), dtype=torch.int64, device=device)
    all_gather(gathered, torch.tensor(header, dtype=torch.int64, device=device), group)
    headers = [Header(*entries) for entries in gathered.view(group.size(), -1).tolist()]
    for rank, other in enumerate(headers):
        if other.error:
            _raise_everywhere(group, rank, _ERRORS[other.error - 1], failure, device)
    return headers


def _raise_everywhere(
    group: dist.ProcessGroup, rank: int, kind: type[Exception], failure: Exception | None, device: torch.device
) -> NoReturn:
    """Raise the error of ``rank`` on every rank."""
    message = torch.zeros(_MAX_TEXT, dtype=torch.uint8, device=device)
    if rank == group.rank():
        encoded = str(failure).encode()[:_MAX_TEXT]
        message[: len(encoded)] = torch.tensor(list(encoded), dtype=torch.uint8, device=device)
    dist.broadcast(message, group=group, group_src=rank)
    text = bytes(message.tolist()).rstrip(b"\0").decode(errors="replace")
    raise kind(f"on rank {rank}: {text}") from failure


def check_headers(headers: list[Header]) -> None:
    """The ranks' arguments fit together. Every rank sees the same headers, and so raises the same error."""
    _check_equal("embeddings must have the same dtype on every rank", [FLOAT_DTYPES[h.dtype] for h in headers])
    _check_equal("embeddings must be [rows, D] with the same D on every rank", [h.depth for h in headers])
    _check_equal(
        "embeddings must be on the same type of device on every rank", [("cpu", "cuda")[h.is_cuda] for h in headers]
    )
    _check_equal("ids must be given on every rank or on none", [("None", "ids")[h.has_ids] for h in headers])
    _check_equal(
        "embeddings must require gradients, outside torch.no_grad, on every rank or on none: all ranks take part in "
        "the backward pass",
        [("no gradients", "gradients")[h.needs_grad] for h in headers],
    )


def _check_equal(requirement: str, values: list[Any]) -> None:
    for rank, value in enumerate(values):
        if value != values[0]:
            raise ValueError(f"{requirement}, got {values[0]} on rank 0 and {value} on rank {rank}")


def all_gather(output: Tensor, local: Tensor, group: dist.ProcessGroup, *, async_op: bool = False) -> Any:
    """``torch.distributed.all_gather_single``, which torch before 2.13 calls ``all_gather_into_tensor``."""
    function = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    return function(output, local, group=group, async_op=async_op)
