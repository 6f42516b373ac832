"""Three losses from the same weights on the same batches: what hard triplets do to HN, SHN and SCT.

    python examples/digits.py [--output FILE.png]

Even digits train, odd digits are only retrieved. Every image is rotated by a random angle, so most triplets start hard
and some stay hard: the state that SCT was made for. Every 25th loss call is compared with its reference in float64.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import hardmine
from common import ConvNet, digits, rotated
from hardmine import losses, metrics, ops
from hardmine.mining import ClassBalancedSampler

LOSSES = {"HN": losses.HNLoss, "SHN": losses.SHNLoss, "SCT": losses.SCTLoss}
STEPS = 1500
CLASSES_PER_BATCH, IMAGES_PER_CLASS = 5, 2  # with 2 images per class, an anchor has one positive
LEARNING_RATE = 0.1  # at the start; it falls linearly to 0
VERIFY_EVERY = 25
SEED, PROBE_SEED = 0, 1_000_003  # of the training and of the measurements
EASY_COLOR, HARD_COLOR = "#0072B2", "#D55E00"  # distinguishable with any color vision, and in gray

DATA = digits()
Similarities = tuple[Tensor, Tensor]  # s_ap and s_an of every triplet


def batches(count: int, seed: int, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Class-balanced batches of rotated training images, with their labels."""
    sampler = ClassBalancedSampler(
        DATA.train_labels, CLASSES_PER_BATCH, IMAGES_PER_CLASS, batches_per_epoch=count, seed=seed
    )
    return [(rotated(DATA.train_images[rows], generator), DATA.train_labels[rows]) for rows in sampler]


def train(network: nn.Module, loss_of: nn.Module) -> hardmine.Report:
    """Train the network in place; return what `hardmine.verify` measured."""
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS)
    with hardmine.verify(every=VERIFY_EVERY) as report:
        for images, labels in batches(STEPS, SEED, torch.Generator().manual_seed(SEED)):
            loss = loss_of(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return report


@torch.no_grad()
def triplets(network: nn.Module, probe: list[tuple[Tensor, Tensor]]) -> Similarities:
    """s_ap and s_an of every anchor's easiest positive and hardest negative in its batch."""
    chosen = [ops.select_triplets(network(images), labels) for images, labels in probe]
    return torch.cat([c.positive_similarity for c in chosen]), torch.cat([c.negative_similarity for c in chosen])


def draw(panels: dict[str, Similarities], path: Path) -> None:
    """Draw a dot per triplet; above the diagonal the negative is more similar to the anchor than the positive."""
    figure = Figure(figsize=(3 * len(panels), 3.6), layout="constrained")
    for axes, (name, (s_ap, s_an)) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
        hard = s_an > s_ap
        for kind, rows, color in (("easy", ~hard, EASY_COLOR), ("hard", hard, HARD_COLOR)):
            axes.scatter(s_ap[rows], s_an[rows], s=6, color=color, alpha=0.45, linewidths=0, label=kind)
        axes.plot([-1, 1], [-1, 1], color="gray", linewidth=0.8)
        axes.plot(s_ap.mean(), s_an.mean(), "o", fillstyle="none", color="black", markersize=7, label="mean")
        axes.set(title=f"{name}: {hard.float().mean():.0%} hard", xlabel="$s_{ap}$", xlim=(-1, 1.05), ylim=(-1, 1.05))
        axes.set_aspect("equal")
    figure.axes[0].set_ylabel("$s_{an}$")
    figure.axes[0].legend(loc="lower left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare HN, SHN and SCT on rotated handwritten digits.")
    parser.add_argument("--output", type=Path, default=Path("runs/digits/triplet_diagram.png"), help="triplet diagram")
    output = parser.parse_args().output
    torch.set_num_threads(1)  # more threads gain nothing on images of 8 x 8

    generator = torch.Generator().manual_seed(PROBE_SEED)
    test_images = rotated(DATA.test_images, generator)
    probe = batches(200, PROBE_SEED, generator)
    torch.manual_seed(SEED)
    start = ConvNet(DATA.train_images)

    def recall(network: nn.Module) -> float:
        with torch.no_grad():
            return metrics.recall_at_1(network(test_images), DATA.test_labels)

    panels = {"before": triplets(start, probe)}
    print(
        f"{len(DATA.train_labels)} even digits train, {len(DATA.test_labels)} odd digits are retrieved; {STEPS} steps"
    )
    print("          Recall@1  Recall@1                   hard  deviation from")
    print("method      before     after    s_ap    s_an  triplets    reference")
    for name, loss_class in LOSSES.items():
        network = copy.deepcopy(start)
        report = train(network, loss_class())
        s_ap, s_an = panels[name] = triplets(network, probe)
        print(
            f"{name:<6}  {recall(start):10.3f}{recall(network):10.3f}{s_ap.mean():8.2f}{s_an.mean():8.2f}"
            f"{metrics.hard_share(s_ap, s_an):10.1%}{report.largest_deviation:13.1e}",
            flush=True,
        )
    draw(panels, output)
    print(f"In each training, {report.checks} of {STEPS} loss calls were verified against the reference.")
    print(f"Triplet diagram: {output}")


if __name__ == "__main__":
    main()
