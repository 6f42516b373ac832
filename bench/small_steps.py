"""Steps of small batches: a loss against what a competent user writes by hand, and against torch.compile of that.

    python bench/small_steps.py --shapes 128x128 128x512 512x128 --threads 1 2
    python bench/small_steps.py --losses epshn tuplet info_nce supcon batch_all --shapes 128x128 512x128
    python bench/small_steps.py --shapes 128x128 512x128 --busy 2

Prints one row per loss, shape and number of threads: the op's time of forward + backward relative to both rivals, in
one paired run, and its time. With ``--busy``, that many processes compute all the while, as the workers of a
DataLoader do.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
from collections.abc import Iterator

import torch

import paired
from by_hand import LOSSES
from rivals.common import Inputs, Rival, gradient_of


def rivals_of(loss: str, n: int, d: int, with_compile: bool) -> dict[str, Rival]:
    """The rivals by name; all compute the same loss and gradient."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n // 2).repeat_interleave(2)
    centers = torch.randn(n // 2, d, generator=generator)[labels]
    embeddings = (centers + 2 * torch.randn(n, d, generator=generator)).requires_grad_()
    inputs = Inputs(embeddings, labels)
    op, plain = LOSSES[loss]
    losses = {"op": op, "by hand": plain}
    if with_compile:
        torch._dynamo.reset()
        losses["compiled"] = torch.compile(plain, fullgraph=True)

    def rival(name: str) -> Rival:
        return Rival(name, lambda: losses[name](embeddings, labels), gradient_of(inputs), inputs)

    rivals = {name: rival(name) for name in losses}
    expected = rivals["by hand"].forward()
    for other in rivals.values():
        value = other.forward()
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(other.backward(value), rivals["by hand"].backward(rivals["by hand"].forward()))
    return rivals


def _compute_forever() -> None:
    torch.set_num_threads(1)
    x = torch.randn(300, 300)
    while True:
        x = torch.mm(x, x).clamp(-1, 1)


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Other processes on the cores, while the block runs."""
    processes = [
        multiprocessing.get_context("spawn").Process(target=_compute_forever, daemon=True) for _ in range(count)
    ]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=["sct"])
    parser.add_argument("--shapes", nargs="+", default=["128x128", "128x512", "512x128"], help="N x D of each row")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--busy", type=int, default=0, help="other processes that compute at the same time")
    parser.add_argument("--without-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds per rival and row")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {args.busy} busy processes")
    print("loss      N x D     threads  of by hand  of compiled  ms per step")
    with busy_processes(args.busy):
        for loss, shape, threads in itertools.product(args.losses, args.shapes, args.threads):
            n, d = map(int, shape.split("x"))
            torch.set_num_threads(threads)
            rivals = rivals_of(loss, n, d, not args.without_compile)
            seconds = {k: s.both for k, s in paired.measure(rivals, args.seconds).items()}
            ratios = [
                f"{paired.ratio(seconds['op'], seconds[name]).of_medians:.2f}" if name in seconds else "-"
                for name in ("by hand", "compiled")
            ]
            own_ms = 1e3 * float(torch.tensor(seconds["op"]).nanmedian())
            print(f"{loss:<9} {shape:<9} {threads:<8} {ratios[0]:<11} {ratios[1]:<12} {own_ms:.3f}", flush=True)


if __name__ == "__main__":
    main()
