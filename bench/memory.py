"""Peak memory of a step in this process. Call it in a process of its own, see `measuring.in_child`.

A peak is a high-water mark, and an allocator keeps the memory of earlier steps, so only one measurement per process is
right.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path

MIB = 2**20


def status_bytes(name: str) -> int:
    """A field of /proc/self/status, such as VmRSS or VmHWM (its high-water mark)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def reset_high_water_mark() -> bool:
    """Resets VmHWM to the current resident size; False if the kernel does not support the reset."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def return_free_memory() -> None:
    """Returns the allocator's free memory to the system; the step would reuse it and its peak would look smaller."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


def peak_of(step: Callable[[], object]) -> tuple[int, float]:
    """Growth of the resident memory at its peak in bytes, results included, and the seconds of the step.

    Raises:
        OSError: The kernel cannot reset the high-water mark, or is not Linux.
    """
    return_free_memory()
    if not reset_high_water_mark():
        raise OSError("this kernel cannot reset the peak of a process")
    before, start = status_bytes("VmRSS"), time.perf_counter()
    kept = step()
    seconds = time.perf_counter() - start
    peak = status_bytes("VmHWM") - before
    del kept
    return peak, seconds


def available_bytes() -> int:
    """The bytes that a process can still allocate without swapping."""
    with open("/proc/meminfo") as meminfo:
        fields = dict(line.split(":") for line in meminfo)
    return int(fields["MemAvailable"].split()[0]) * 1024
