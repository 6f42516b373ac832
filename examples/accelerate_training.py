"""A training with accelerate, on one process or several: ``group=`` takes the candidates of all of them.

python examples/accelerate_training.py
accelerate launch --cpu --num_processes 2 --mixed_precision no examples/accelerate_training.py
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

from common import ConvNet, digits, rotated
from hardmine.losses import SCTLoss
from hardmine.metrics import recall_at_k
from hardmine.mining import ClassBalancedSampler

EPOCHS = 5


def main() -> None:
    accelerator = Accelerator(cpu=True)
    several = accelerator.num_processes > 1
    torch.manual_seed(0)
    torch.set_num_threads(1)  # more threads gain nothing on images of 8 x 8
    data = digits()
    network = ConvNet(data.train_images)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    # The candidates of every anchor are the rows of all processes, and the gradient is that of one process.
    loss_of = SCTLoss(lam=1.0, group=torch.distributed.group.WORLD if several else None)
    # 20 images per step. The sampler divides them among the processes, so accelerate must not divide the loader again.
    sampler = ClassBalancedSampler(data.train_labels, classes_per_batch=5, images_per_class=4, seed=0)
    loader = DataLoader(TensorDataset(data.train_images, data.train_labels), batch_sampler=sampler)
    network, optimizer = accelerator.prepare(network, optimizer)

    generator = torch.Generator().manual_seed(accelerator.process_index)
    test_images = rotated(data.test_images, torch.Generator().manual_seed(0))
    for epoch in range(1, EPOCHS + 1):
        for images, labels in loader:
            loss = loss_of(network(rotated(images, generator)), labels)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        with torch.no_grad():
            found = recall_at_k(network(test_images), data.test_labels, k=(1, 4))
        shown = ", ".join(f"Recall@{k} {share:.3f}" for k, share in found.items())
        accelerator.print(f"epoch {epoch}: {shown}", flush=True)
    accelerator.end_training()


if __name__ == "__main__":
    main()
