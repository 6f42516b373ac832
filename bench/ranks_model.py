"""The cost of the gather and of the ring on 8 to 1,024 GPUs, on paper: from bytes and floating-point operations.

`python bench/ranks_model.py` prints the tables of docs/distributed.md. Nothing is measured.
"""

from __future__ import annotations

from typing import NamedTuple

RANKS = (8, 16, 64, 256, 1024)


class Machine(NamedTuple):
    """GPUs of the H100 and H200 class: nodes of 8, one network card per GPU."""

    node: int = 8  # GPUs
    flops: float = 0.4 * 989e12  # bfloat16 per second: 40 % of the peak
    nvlink: float = 0.8 * 450e9  # bytes per second, GPU and direction: 80 % of the peak
    network: float = 0.8 * 50e9  # bytes per second, network card and direction: 80 % of 400 Gbit/s
    step: float = 50e-6  # seconds per step of the ring: launches, and the start of a transfer


class Work(NamedTuple):
    """A forward pass on one rank: anchors [rows, depth] against rows of all ranks."""

    anchors: int
    refs: int  # per rank
    depth: int = 512
    bytes_per_element: int = 2  # bfloat16

    @property
    def block(self) -> int:
        """Bytes of one rank's refs."""
        return self.refs * self.depth * self.bytes_per_element


def gather_bandwidth(ranks: int, machine: Machine) -> float:
    """Bytes per second that reach each GPU. Between nodes, a node's cards share the work: its GPUs need the same."""
    return machine.nvlink if ranks <= machine.node else min(machine.nvlink, machine.node * machine.network)


def ring_bandwidth(ranks: int, machine: Machine) -> float:
    """Bytes per second of the slowest link: between nodes, one card carries the whole block."""
    return machine.nvlink if ranks <= machine.node else machine.network


def product_time(work: Work, ranks: int, machine: Machine) -> float:
    """Seconds of the products of the anchors with the refs of all ranks."""
    return 2.0 * work.anchors * ranks * work.refs * work.depth / machine.flops


def gather_time(work: Work, ranks: int, machine: Machine) -> float:
    return (ranks - 1) * work.block / gather_bandwidth(ranks, machine)


def ring_time(work: Work, ranks: int, machine: Machine) -> float:
    """Seconds of all steps. In each but the last, a transfer and a product overlap."""
    product = product_time(work, ranks, machine) / ranks
    transfer = work.block / ring_bandwidth(ranks, machine)
    return (ranks - 1) * max(product, transfer) + product + ranks * machine.step


def anchors_to_hide(bandwidth: float, machine: Machine, bytes_per_element: int = 2) -> float:
    """The anchors per rank for which a row takes as long to arrive as to be compared: s F / (2 W), whatever D and R."""
    return bytes_per_element * machine.flops / (2 * bandwidth)


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---:"] * len(header), *rows))


def times(work: Work, machine: Machine) -> str:
    """Milliseconds of the parts, and gigabytes of rows that a rank holds."""
    rows = []
    for ranks in RANKS:
        product, gather, ring = (f(work, ranks, machine) * 1e3 for f in (product_time, gather_time, ring_time))
        gathered, held = ranks * work.block / 1e9, 3 * work.block / 1e9
        numbers = (product, gather, product + gather, ring)
        rows.append([f"{ranks:,}", *(f"{x:,.2f}" for x in numbers), f"{gathered:,.2f}", f"{held:,.3f}"])
    return table(
        ["GPUs", "product, ms", "gather, ms", "gather, then product, ms", "ring, ms", "gathered, GB", "ring, GB"], rows
    )


def hiding(machine: Machine) -> str:
    rows = []
    for name, ranks in (("one node", machine.node), ("several nodes", 2 * machine.node)):
        gather, ring = (
            anchors_to_hide(bandwidth(ranks, machine), machine) for bandwidth in (gather_bandwidth, ring_bandwidth)
        )
        rows.append([name, f"{gather:,.0f}", f"{ring:,.0f}"])
    return table(["GPUs in", "anchors that hide the gather", "anchors that hide the ring"], rows)


def tables() -> list[str]:
    machine = Machine()
    return [
        hiding(machine),
        times(Work(anchors=1024, refs=1024), machine),
        times(Work(anchors=1024, refs=1_000_000), machine),
        times(Work(anchors=16384, refs=1_000_000), machine),
    ]


if __name__ == "__main__":
    print("\n\n".join(tables()))
