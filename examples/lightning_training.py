"""A training with Lightning: the loss in ``training_step``, class-balanced batches, Recall@K after every epoch."""

from __future__ import annotations

import argparse

import lightning
import torch
from torch import Tensor
from torch.distributed import group
from torch.utils.data import DataLoader, TensorDataset

from common import ConvNet, Digits, digits, rotated
from hardmine.losses import SCTLoss
from hardmine.metrics import recall_at_k
from hardmine.mining import ClassBalancedSampler

EPOCHS = 5


class Retrieval(lightning.LightningModule):
    """A network that embeds images, its loss, its optimizer and its batches."""

    def __init__(self, data: Digits) -> None:
        super().__init__()
        self.data = data
        self.network = ConvNet(data.train_images)
        self.generator = torch.Generator().manual_seed(0)
        self.embedded: list[Tensor] = []
        self.labels: list[Tensor] = []

    def setup(self, stage: str) -> None:
        # With several devices the candidates are the rows of all, and the gradient is that of one process.
        self.loss = SCTLoss(lam=1.0, group=group.WORLD if self.trainer.world_size > 1 else None)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        # The sampler divides each batch among the devices itself: see use_distributed_sampler below.
        labels = self.data.train_labels
        sampler = ClassBalancedSampler(labels, classes_per_batch=5, images_per_class=4, seed=0)
        return DataLoader(TensorDataset(self.data.train_images, labels), batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        images = rotated(self.data.test_images, torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(images, self.data.test_labels), batch_size=256)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, labels = batch
        loss: Tensor = self.loss(self.network(rotated(images, self.generator)), labels)
        self.log("loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        images, labels = batch
        self.embedded.append(self.network(images))
        self.labels.append(labels)

    def on_validation_epoch_end(self) -> None:
        found = recall_at_k(torch.cat(self.embedded), torch.cat(self.labels), k=(1, 4))
        self.log_dict({f"recall@{k}": share for k, share in found.items()})
        shown = ", ".join(f"Recall@{k} {share:.3f}" for k, share in found.items())
        self.print(f"after {self.global_step} steps: {shown}", flush=True)
        self.embedded, self.labels = [], []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=1, help="processes")
    devices = parser.parse_args().devices
    lightning.seed_everything(0, verbose=False)
    torch.set_num_threads(1)  # more threads gain nothing on images of 8 x 8
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=devices,
        strategy="ddp_fork" if devices > 1 else "auto",  # "ddp" on GPUs
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Retrieval(digits())
    trainer.validate(model, verbose=False)
    trainer.fit(model)


if __name__ == "__main__":
    main()
