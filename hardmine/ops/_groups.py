"""Process groups, and the small collective in which their ranks agree before they exchange rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

# The errors of arguments. An error travels as its position here plus 1, with 0 for none.
_ERRORS = (TypeError, ValueError, NotImplementedError, RuntimeError)
_MAX_TEXT = 4096  # bytes of a text that is sent
NUM_SIZES = 3
"""Sizes that ranks tell each other: the numbers of anchors, of rows and of triplets."""


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


def check_device(name: str, tensor: Tensor, group: dist.ProcessGroup) -> None:
    """``tensor`` is where the group exchanges tensors."""
    if tensor.device.type not in (devices := devices_of(group)) or tensor.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{name} must be on a device of the group, {', '.join(devices)}, got {tensor.device}")


def agree_on_checks(group: dist.ProcessGroup, *checks: Callable[[], Any]) -> None:
    """Runs this rank's checks. If one fails, every rank raises its error: the others wait in :func:`agree`."""
    if torch.compiler.is_compiling():  # the ops check what they exchange; the rest is checked while tracing
        return
    try:
        for check in checks:
            check()
    except Exception as error:
        fail_everywhere(group, error)


def fail_everywhere(group: dist.ProcessGroup, failure: Exception) -> NoReturn:
    """Raises an error of this rank on every rank, in the place of :func:`agree`."""
    agree(group, {}, [0] * NUM_SIZES, failure)
    raise failure  # agree() raises first


def agree(
    group: dist.ProcessGroup, facts: dict[str, str], sizes: Sequence[int], failure: Exception | None = None
) -> list[list[int]]:
    """The sizes of every rank, in one small collective; every rank passes :data:`NUM_SIZES` of them.

    ``facts`` maps requirements to the values that must be equal on every rank. Only their digest is sent. If digests
    differ, or if a rank passes a failure, more collectives send the texts, and every rank raises the same error. So all
    ranks must take part even if their arguments are invalid: the others wait for them.
    """
    text = "\n".join(f"{requirement}\t{value}" for requirement, value in facts.items())
    digest = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
    header = [code_of(failure), digest, *sizes]
    # On the CPU where the group allows it: a GPU would have to synchronize to read the headers.
    device = torch.device("cpu" if "cpu" in devices_of(group) else "cuda")
    gathered = torch.empty(group.size() * len(header), dtype=torch.int64, device=device)
    all_gather(gathered, torch.tensor(header, dtype=torch.int64, device=device), group)
    headers = gathered.view(group.size(), -1).tolist()
    raise_everywhere(group, [code for code, *_ in headers], failure, device)
    for rank, (_, other, *_) in enumerate(headers):
        if other != headers[0][1]:
            _raise_difference(group, rank, text, device)
    return [sizes for _, _, *sizes in headers]


def code_of(failure: Exception | None) -> int:
    """An error's kind as a number, by which it travels; 0 if there is none."""
    return 0 if failure is None else 1 + next((i for i, kind in enumerate(_ERRORS) if isinstance(failure, kind)), 3)


def raise_everywhere(
    group: dist.ProcessGroup, codes: Sequence[int], failure: Exception | None, device: torch.device
) -> None:
    """If the ranks' codes have an error, every rank raises that of the lowest such rank."""
    for rank, code in enumerate(codes):
        if code:
            raise _ERRORS[code - 1](f"on rank {rank}: {broadcast_text(group, rank, str(failure), device)}") from failure


def _raise_difference(group: dist.ProcessGroup, rank: int, text: str, device: torch.device) -> NoReturn:
    """Raise the first difference between the facts of ranks 0 and ``rank`` on every rank."""
    first, other = (broadcast_text(group, source, text, device).split("\n") for source in (0, rank))
    line, other_line = next(pair for pair in zip(first, other, strict=False) if pair[0] != pair[1])
    requirement, _, value = line.partition("\t")
    raise ValueError(f"{requirement}, got {value} on rank 0 and {other_line.partition(chr(9))[2]} on rank {rank}")


def broadcast_text(group: dist.ProcessGroup, source: int, text: str, device: torch.device) -> str:
    """The text of rank ``source``, cut to the first bytes."""
    message = torch.zeros(_MAX_TEXT, dtype=torch.uint8, device=device)
    if source == group.rank():
        encoded = text.encode()[:_MAX_TEXT]
        message[: len(encoded)] = torch.tensor(list(encoded), dtype=torch.uint8, device=device)
    dist.broadcast(message, group=group, group_src=source)
    return bytes(message.tolist()).rstrip(b"\0").decode(errors="replace")


def all_counts(group: dist.ProcessGroup, counts: Sequence[int], device: torch.device) -> Tensor:
    """Some integers of every rank, int64 [ranks, counts]."""
    local = torch.tensor(counts, dtype=torch.int64, device=device)
    gathered = local.new_empty(len(local) * group.size())
    all_gather(gathered, local, group)
    return gathered.view(group.size(), -1)


def all_gather(output: Tensor, local: Tensor, group: dist.ProcessGroup) -> None:
    """``torch.distributed.all_gather_single``, which torch before 2.13 calls ``all_gather_into_tensor``."""
    function = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    function(output, local, group=group)
