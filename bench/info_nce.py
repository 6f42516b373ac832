"""InfoNCE against F.cross_entropy of the matrix of logits: ratios of one paired run, forward + backward.

    python bench/info_nce.py --sizes 512 2048 --dims 128 512

Prints one row per size: how many times faster the op is than F.cross_entropy, for one direction and for both, and the
time of both directions and of temperature 0.01 relative to one direction at temperature 0.1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import paired
from hardmine import ops
from rivals.common import Inputs, Rival


def cross_entropy(query: Tensor, key: Tensor, temperature: float, symmetric: bool) -> Tensor:
    """What a user writes by hand."""
    logits, target = F.normalize(query) @ F.normalize(key).T / temperature, torch.arange(len(query))
    loss = F.cross_entropy(logits, target)
    return (loss + F.cross_entropy(logits.T, target)) / 2 if symmetric else loss


def rivals_of(query: Tensor, key: Tensor) -> dict[str, Rival]:
    """The rivals by name; all compute the same losses."""

    def rival(name: str, loss: Callable[[], Tensor]) -> Rival:
        return Rival(name, loss, lambda value: torch.autograd.grad(value, (query, key)), Inputs(query, query))

    def both_at(name: str, temperature: float, symmetric: bool) -> tuple[Rival, Rival]:
        ours = rival(name, lambda: ops.info_nce_loss(query, key, temperature=temperature, symmetric=symmetric))
        plain = rival(f"plain {name}", lambda: cross_entropy(query, key, temperature, symmetric))
        torch.testing.assert_close(ours.forward(), plain.forward())
        for got, wanted in zip(ours.backward(ours.forward()), plain.backward(plain.forward()), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)
        return ours, plain

    one, plain_one = both_at("one", 0.1, False)
    both, plain_both = both_at("both", 0.1, True)
    cold, _ = both_at("cold", 0.01, False)
    return {found.name: found for found in (one, both, cold, plain_one, plain_both)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[512, 2048], help="pairs N")
    parser.add_argument("--dims", nargs="+", type=int, default=[128, 512], help="embedding sizes D")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds per rival and size")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("N      D    one direction  both directions  both / one  0.01 / 0.1")
    for n in args.sizes:
        for d in args.dims:
            generator = torch.Generator().manual_seed(0)
            centers = torch.randn(n, d, generator=generator)
            query, key = ((centers + torch.randn(n, d, generator=generator)).requires_grad_() for _ in range(2))
            seconds = {k: s.both for k, s in paired.measure(rivals_of(query, key), args.seconds).items()}
            ratios = [
                paired.ratio(seconds[a], seconds[b]).of_medians
                for a, b in (("plain one", "one"), ("plain both", "both"), ("both", "one"), ("cold", "one"))
            ]
            print(f"{n:<6} {d:<4} {ratios[0]:<14.2f} {ratios[1]:<16.2f} {ratios[2]:<11.2f} {ratios[3]:.2f}")


if __name__ == "__main__":
    main()
