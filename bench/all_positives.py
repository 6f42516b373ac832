"""Times triplet_loss(positive="all", negative="semihard") beside the same algorithm in plain PyTorch.

    python bench/all_positives.py

The rival sorts each row's negatives once and searches every positive's distance among them, as the
BatchSemiHardTripletLoss of sentence-transformers has done since September 2026. Loss and gradient are compared first.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import hardmine
import paired
from environment import commit
from hardmine import ops
from rivals import Rival

SHAPES = ((256, 32, 2), (256, 32, 4), (256, 32, 16), (256, 128, 4), (1024, 128, 4), (2048, 128, 8))
MARGIN = 0.2


def sorted_negatives_loss(x: Tensor, labels: Tensor) -> Tensor:
    """The semi-hard loss with one sort per row; a pair without a semi-hard negative takes the farthest one."""
    distances = torch.cdist(x, x)
    same = labels[:, None] == labels
    negatives, order = distances.detach().masked_fill(same, torch.inf).sort(dim=1, stable=True)
    count = (~same).sum(1, keepdim=True)
    place = torch.searchsorted(negatives, distances.detach(), right=True)
    farthest = distances.detach().masked_fill(same, -1).argmax(1, keepdim=True)
    index = torch.where(place < count, order.gather(1, place.clamp(max=len(x) - 1)), farthest)
    terms = F.relu(distances - distances.gather(1, index) + MARGIN)
    return terms[same & ~torch.eye(len(x), dtype=torch.bool)].mean()


def fused_loss(x: Tensor, labels: Tensor) -> Tensor:
    return ops.triplet_loss(
        x, labels, positive="all", negative="semihard", semihard_fallback="easiest", term="hinge", margin=MARGIN,
        similarity="euclidean",
    )  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    print(f"commit {commit()}, torch {torch.__version__}, {hardmine.simd_level()}, 1 thread")
    print("Medians of forward + backward:\n")
    print("| N | D | per class | ours, ms | plain PyTorch, ms | ratio |\n|---|---|---|---|---|---|")
    for n, d, per_class in SHAPES:
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(n) // per_class
        x = torch.randn(n, d, generator=generator) + torch.randn(n // per_class, d, generator=generator)[labels]
        leaf = x.requires_grad_()
        gradient = partial(torch.autograd.grad, inputs=leaf)
        losses = fused_loss(leaf, labels), sorted_negatives_loss(leaf, labels)
        results = [(value, *gradient(value, retain_graph=True)) for value in losses]
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        rivals = {
            name: Rival(name, partial(loss, leaf, labels), gradient, None)
            for name, loss in (("ours", fused_loss), ("plain", sorted_negatives_loss))
        }
        samples = paired.measure(rivals, 3.0)
        ours, plain = (samples[name].both for name in rivals)
        times = [1e3 * float(np.nanmedian(t)) for t in (ours, plain)]
        ratio = paired.ratio(plain, ours).of_medians
        print(f"| {n:,} | {d} | {per_class} | {times[0]:.2f} | {times[1]:.2f} | {ratio:.0f}x |")


if __name__ == "__main__":
    main()
