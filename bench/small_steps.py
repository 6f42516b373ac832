"""Steps of small batches: sct_loss against what a competent user writes by hand, and against torch.compile of that.

    python bench/small_steps.py --shapes 128x128 128x512 512x128 --threads 1 2
    python bench/small_steps.py --shapes 128x128 512x128 --busy 2

Prints one row per shape and number of threads: the op's time of forward + backward relative to both rivals, in one
paired run, and its time. With ``--busy``, that many processes compute all the while, as the workers of a DataLoader do.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

import paired
from hardmine import ops
from rivals.common import Inputs, Rival, gradient_of


def by_hand(embeddings: Tensor, labels: Tensor) -> Tensor:
    """sct_loss in plain PyTorch: easiest positive, hardest negative, temperature 0.1, lam 1."""
    f = F.normalize(embeddings)
    s = f @ f.T
    same = labels[:, None] == labels
    s_ap = s.masked_fill(~same, -2.0).fill_diagonal_(-2.0).amax(1)
    s_an = s.masked_fill(same, -2.0).amax(1)
    return torch.where(s_an > s_ap, s_an, F.softplus((s_an - s_ap) / 0.1)).mean()


def rivals_of(n: int, d: int, with_compile: bool) -> dict[str, Rival]:
    """The rivals by name; all compute the same loss and gradient."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n // 2).repeat_interleave(2)
    centers = torch.randn(n // 2, d, generator=generator)[labels]
    embeddings = (centers + 2 * torch.randn(n, d, generator=generator)).requires_grad_()
    inputs = Inputs(embeddings, labels)
    losses = {"op": ops.sct_loss, "by hand": by_hand}
    if with_compile:
        torch._dynamo.reset()
        losses["compiled"] = torch.compile(by_hand, fullgraph=True)

    def rival(name: str) -> Rival:
        return Rival(name, lambda: losses[name](embeddings, labels), gradient_of(inputs), inputs)

    rivals = {name: rival(name) for name in losses}
    expected = rivals["by hand"].forward()
    for other in rivals.values():
        loss = other.forward()
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(other.backward(loss), rivals["by hand"].backward(rivals["by hand"].forward()))
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
    parser.add_argument("--shapes", nargs="+", default=["128x128", "128x512", "512x128"], help="N x D of each row")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--busy", type=int, default=0, help="other processes that compute at the same time")
    parser.add_argument("--without-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds per rival and row")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {args.busy} busy processes")
    print("N x D     threads  of by hand  of compiled  ms per step")
    with busy_processes(args.busy):
        for shape in args.shapes:
            n, d = map(int, shape.split("x"))
            for threads in args.threads:
                torch.set_num_threads(threads)
                rivals = rivals_of(n, d, not args.without_compile)
                seconds = {k: s.both for k, s in paired.measure(rivals, args.seconds).items()}
                ratios = [
                    f"{paired.ratio(seconds['op'], seconds[name]).of_medians:.2f}" if name in seconds else "-"
                    for name in ("by hand", "compiled")
                ]
                own_ms = 1e3 * float(torch.tensor(seconds["op"]).nanmedian())
                print(f"{shape:<9} {threads:<8} {ratios[0]:<11} {ratios[1]:<12} {own_ms:.3f}", flush=True)


if __name__ == "__main__":
    main()
