"""The registers of every CUDA kernel, and which kernels spill, from the output of `nvcc -Xptxas=-v`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '(?P<architecture>\w+)'.*?"
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)


def kernels(log: str) -> list[dict[str, str]]:
    """Name, architecture, bytes of spill stores and loads, and registers of every kernel in the output."""
    return [match.groupdict() for match in _KERNEL.finditer(log)]


def main() -> None:
    """Prints a line for every kernel that spills, and a summary."""
    found = kernels(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if not found:
        raise SystemExit(f"{sys.argv[1]} lists no kernel: nothing was compiled, or nvcc ran without -Xptxas=-v")
    spilling = [kernel for kernel in found if kernel["stores"] != "0" or kernel["loads"] != "0"]
    names = "\n".join(kernel["name"] for kernel in spilling)
    readable = subprocess.run(["c++filt", "-p"], input=names, capture_output=True, text=True, check=True).stdout
    for kernel, name in zip(spilling, readable.splitlines(), strict=False):
        print(
            f"{kernel['architecture']}: {kernel['stores']} bytes stored, {kernel['loads']} loaded, "
            f"{kernel['registers']} registers: {name}"
        )
    print(f"{len(found)} kernels compiled, {len(spilling)} of them spill registers")


if __name__ == "__main__":
    main()
