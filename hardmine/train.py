"""Training an embedding network once with each loss, from the same start and on the same batches."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

import hardmine
from hardmine import ops
from hardmine._extras import require
from hardmine.datasets import RetrievalSplit
from hardmine.diagram import hard_share
from hardmine.losses import HNLoss, SCTLoss, SHNLoss
from hardmine.metrics import recall_at_1
from hardmine.mining import ClassBalancedSampler
from hardmine.networks import EmbeddingNet

METHODS: dict[str, type[nn.Module]] = {"HN": HNLoss, "SHN": SHNLoss, "SCT": SCTLoss}
PROBE_ANCHORS = 2000  # about as many triplets as a diagram can show as dots
EMBED_CHUNK = 2048  # images embedded at once outside training; bounds the memory of the activations


@dataclass(frozen=True)
class TrainSettings:
    """What all methods of one comparison share.

    Attributes:
        steps: Number of gradient steps.
        batch_size: Images in a batch, a multiple of `images_per_class`.
        images_per_class: Images of each class in a batch. With 2, as in SCT section 5, every anchor has one positive,
            so the methods differ in their negatives only.
        embedding_dim: Dimensions of the embedding.
        lr: Learning rate of SGD with momentum 0, the optimizer of SCT section 5.
        max_turn_deg: Every image is turned by a random angle between minus and plus this many degrees.
        verify_every: Each so many loss calls one also runs its reference; 0 verifies none.
        seed: Seed of the weights, batches and angles.
    """

    steps: int
    batch_size: int
    images_per_class: int
    embedding_dim: int
    lr: float
    max_turn_deg: float
    verify_every: int = 25
    seed: int = 0


# Few triplets of upright digits stay hard for more than 300 steps. Turned by any angle, 8 of 10 are hard at the start
# and some stay hard to the end: the state that SCT is about.
PRESETS = {
    "digits": TrainSettings(steps=1500, batch_size=10, images_per_class=2, embedding_dim=8, lr=0.1, max_turn_deg=180.0),
    "omniglot": TrainSettings(
        steps=600, batch_size=128, images_per_class=4, embedding_dim=64, lr=0.3, max_turn_deg=0.0
    ),
}


@dataclass
class MethodResult:
    """What training with one method led to.

    Attributes:
        method: Its name, a key of `METHODS`.
        recall_before: Recall@1 on the retrieved-only classes before training.
        recall_after: The same after training.
        s_ap: Mean similarity of easiest positive pairs after training, over the probe batches of training classes.
        s_an: Mean similarity of hardest negative pairs, over the same.
        hard_share: Share of those triplets with s_an > s_ap.
        largest_deviation: Largest deviation of the fused loss from its reference; None where none was verified.
        verified_calls: Number of loss calls that were verified.
        triplets_before: The probe's `(s_ap, s_an)` before training, each [B], for the triplet diagram.
        triplets_after: The same after training.
    """

    method: str
    recall_before: float
    recall_after: float
    s_ap: float
    s_an: float
    hard_share: float
    largest_deviation: float | None
    verified_calls: int
    triplets_before: tuple[torch.Tensor, torch.Tensor] = field(repr=False)
    triplets_after: tuple[torch.Tensor, torch.Tensor] = field(repr=False)


def turn(images: torch.Tensor, max_turn_deg: float, generator: torch.Generator) -> torch.Tensor:
    """Turn every image [B, 1, H, W] about its center by its own angle, uniform within +- `max_turn_deg` degrees."""
    if max_turn_deg == 0:
        return images
    angle = (torch.rand(len(images), generator=generator) * 2 - 1) * math.radians(max_turn_deg)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    matrices = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = nn.functional.affine_grid(matrices, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, align_corners=False)


class Comparison:
    """Trains a fresh network with one method after another, everything else being equal.

    Every method starts from the same weights and sees the same batches with the same angles. Before and after
    training it is measured on the same turned images of the retrieved-only classes, and on the same probe batches of
    the training classes.

    Args:
        split: The images.
        settings: What all methods share.
        progress: Show a progress bar on stderr.
        save_dir: Folder where `hardmine.verify` saves the inputs of a disagreement.

    Raises:
        ValueError: The batch does not divide into at least two classes that the data has.
    """

    def __init__(
        self,
        split: RetrievalSplit,
        settings: TrainSettings,
        progress: bool = True,
        save_dir: str | Path = "hardmine-verify",
    ) -> None:
        classes, rest = divmod(settings.batch_size, settings.images_per_class)
        if rest or classes < 2 or settings.images_per_class < 2:
            raise ValueError(
                "batch_size must be a multiple of images_per_class, which must be at least 2, and hold at least 2 "
                f"classes, got batch_size {settings.batch_size} and images_per_class {settings.images_per_class}"
            )
        self.split, self.settings, self.progress, self.save_dir = split, settings, progress, save_dir
        self._classes_per_batch = classes
        # Seeds apart from the training's, so that what is measured is not what was trained on.
        probe_seed = settings.seed + 1_000_003
        generator = torch.Generator().manual_seed(probe_seed)
        self._test_images = turn(split.test_images, settings.max_turn_deg, generator)
        probe_batches = math.ceil(PROBE_ANCHORS / settings.batch_size)
        self._probe = [self._batch(rows, generator) for rows in self._sampler(probe_batches, probe_seed)]
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
            torch.manual_seed(settings.seed)
            mean, std = split.train_images.mean().item(), split.train_images.std().item()
            self._start = EmbeddingNet(split.train_images.shape[-1], settings.embedding_dim, mean, std)
        self._recall_before, self._triplets_before = self._recall(self._start), self._triplets(self._start)

    def run(self, method: str) -> MethodResult:
        """Train with one method and measure before and after.

        Args:
            method: A key of `METHODS`.

        Returns:
            The measurements.

        Raises:
            ValueError: `method` is not a key of `METHODS`.
            FloatingPointError: The loss is not finite any more: training has diverged.
            hardmine.VerificationError: A fused loss disagrees with its reference.
        """
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        network = copy.deepcopy(self._start)
        largest_deviation, verified_calls = self._train(network, method)
        s_ap, s_an = triplets_after = self._triplets(network)
        return MethodResult(
            method=method,
            recall_before=self._recall_before,
            recall_after=self._recall(network),
            s_ap=s_ap.mean().item(),
            s_an=s_an.mean().item(),
            hard_share=hard_share(s_ap, s_an),
            largest_deviation=largest_deviation,
            verified_calls=verified_calls,
            triplets_before=self._triplets_before,
            triplets_after=triplets_after,
        )

    def _train(self, network: nn.Module, method: str) -> tuple[float | None, int]:
        """Take the gradient steps; return the largest verified deviation and how many calls were verified."""
        if self.settings.verify_every == 0:
            self._take_steps(network, method)
            return None, 0
        with hardmine.verify(every=self.settings.verify_every, save_dir=self.save_dir) as report:
            self._take_steps(network, method)
        return report.largest_deviation, report.checks

    def _take_steps(self, network: nn.Module, method: str) -> None:
        settings = self.settings
        loss_of = METHODS[method]()
        optimizer = torch.optim.SGD(network.parameters(), lr=settings.lr)
        generator = torch.Generator().manual_seed(settings.seed)
        batches = self._sampler(settings.steps, settings.seed)
        with require("tqdm").tqdm(batches, desc=f"{method:>4}", unit="step", disable=not self.progress) as bar:
            for step, rows in enumerate(bar, 1):
                images, labels = self._batch(rows, generator)
                loss = loss_of(network(images), labels)
                value = loss.item()
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"{method}: the loss is {value} at step {step}; lr {settings.lr} may be too large"
                    )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if step % 20 == 0:
                    bar.set_postfix(loss=f"{value:.3f}", refresh=False)

    def _sampler(self, batches: int, seed: int) -> ClassBalancedSampler:
        return ClassBalancedSampler(
            self.split.train_labels,
            self._classes_per_batch,
            self.settings.images_per_class,
            batches_per_epoch=batches,
            seed=seed,
        )

    def _batch(self, rows: list[int], generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        images = turn(self.split.train_images[rows], self.settings.max_turn_deg, generator)
        return images, self.split.train_labels[rows]

    @torch.no_grad()
    def _recall(self, network: nn.Module) -> float:
        embeddings = torch.cat([network(images) for images in self._test_images.split(EMBED_CHUNK)])
        return recall_at_1(embeddings, self.split.test_labels)

    @torch.no_grad()
    def _triplets(self, network: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        """s_ap and s_an of every anchor of the probe batches, with easiest positive and hardest negative."""
        chosen = [ops.select_triplets(network(images), labels) for images, labels in self._probe]
        s_ap = torch.cat([selection.positive_similarity for selection in chosen])
        s_an = torch.cat([selection.negative_similarity for selection in chosen])
        return s_ap, s_an
