"""Small and awkward shapes through the ops that have CUDA kernels, for compute-sanitizer to watch.

    PYTHONPATH=.:bench compute-sanitizer --tool racecheck python -m gpu.small_shapes

Each case runs twice and must give the same bits: this may reveal a race that the sanitizer misses.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor

from hardmine import ops
from rivals.inputs import class_samples

OPS = (
    "triplet_loss",
    "sct_loss",
    "tuplet_loss",
    "batch_all_triplet_loss",
    "indexed_triplet_loss",
    "global_loss",
    "knn",
)
COMPILED = {"sct_loss": "triplet_loss"}  # an op that is another op with different options
# N, D: less than a tile; slightly more than a tile of 64 rows, and of 128. Few, because the sanitizer makes steps slow.
SHAPES = ((5, 3), (65, 33), (129, 128))
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def has_kernel(op: str, device: str) -> bool:
    name = f"hardmine::{COMPILED.get(op, op)}"
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, device.upper())


def cases(shapes: tuple, device: str) -> Iterator[tuple[str, int, int, torch.dtype, dict]]:
    """Yields op, N, D, dtype and options of every case."""
    for name in OPS:
        if not has_kernel(name, device):
            continue
        for n, d in shapes:
            for dtype in DTYPES:
                yield name, n, d, dtype, {"similarity": "cosine"}
                if (n, d) == shapes[len(shapes) // 2]:
                    yield name, n, d, dtype, {"similarity": "euclidean"}


def step(name: str, n: int, d: int, dtype: torch.dtype, options: dict, device: str) -> tuple[Tensor, Tensor]:
    """Runs one step; returns loss and gradient, or the similarities and indices of the neighbors."""
    batch = class_samples(n, d)
    x = batch.embeddings.detach().to(device, dtype).requires_grad_()
    op = getattr(ops, name)
    if name == "knn":
        found = op(x.detach(), k=min(n - 1, 20), **options)
        return found.similarity, found.index
    if name in ("indexed_triplet_loss", "global_loss"):
        rows = torch.arange(n, device=device)
        loss = op(x, torch.stack([rows, (rows + 1) % n, (rows + 2) % n], 1), **options)
    else:
        loss = op(x, batch.labels.to(device), **options)
    return loss.detach(), torch.autograd.grad(loss, x)[0]


def run(shapes: tuple, device: str) -> int:
    """Runs every case twice; returns the number of cases.

    Raises:
        AssertionError: A case's results are not finite or not repeatable, or no op has kernels for the device.
    """
    count = 0
    for case in cases(shapes, device):
        first, second = step(*case, device), step(*case, device)
        for a, b in zip(first, second, strict=True):
            assert a.isfinite().all(), f"not finite: {case}"
            assert torch.equal(a, b), f"not repeatable: {case}"
        count += 1
    assert count > 0, f"no op has kernels for {device}"
    return count


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    args = parser.parse_args(arguments)
    print(f"{run(SHAPES, args.device)} cases, finite and repeatable on {args.device}")


if __name__ == "__main__":
    main()
