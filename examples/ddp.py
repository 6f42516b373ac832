"""Several processes train as one: each embeds its part of every batch, and the loss compares all of it.

    torchrun --standalone --nproc-per-node 2 examples/ddp.py [--weights FILE.pt]

Any number of processes draws the same batches and gives the same weights, to rounding. In float32 hard triplets make
rounding grow over an epoch; with --double it stays below 1e-8.
"""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from common import ConvNet, digits, rotated
from hardmine.losses import SCTLoss
from hardmine.metrics import recall_at_k
from hardmine.mining import ClassBalancedSampler

EPOCHS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--double", action="store_true", help="train in float64")
    parser.add_argument("--weights", help="where to write the trained weights")
    arguments = parser.parse_args()

    dist.init_process_group("gloo")  # "cpu:gloo,cuda:nccl" on GPUs
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = digits()
    # Every image is rotated once, so that it does not matter which process reads it.
    dtype = torch.float64 if arguments.double else torch.float32
    train_images, test_images = (
        rotated(images, torch.Generator().manual_seed(0)).to(dtype) for images in (data.train_images, data.test_images)
    )
    network = DistributedDataParallel(ConvNet(train_images).to(dtype))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    loss_of = SCTLoss(lam=1.0, group=dist.group.WORLD)
    # 5 classes with 4 images each, over all processes. A process reads its part.
    sampler = ClassBalancedSampler(data.train_labels, classes_per_batch=5, images_per_class=4, seed=0)
    loader = DataLoader(TensorDataset(train_images, data.train_labels), batch_sampler=sampler)

    for epoch in range(1, arguments.epochs + 1):
        total = 0.0
        for images, labels in loader:
            loss = loss_of(network(images), labels)  # that of the whole batch, on every process
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        with torch.no_grad():
            # Each process searches for its part of the test images, among those of all.
            mine = slice(dist.get_rank(), None, dist.get_world_size())
            recall = recall_at_k(network(test_images[mine]), data.test_labels[mine], k=1, group=dist.group.WORLD)
        if dist.get_rank() == 0:
            print(f"epoch {epoch}: mean loss {total / len(loader):.3f}, Recall@1 {recall[1]:.3f}", flush=True)

    if arguments.weights and dist.get_rank() == 0:
        torch.save(network.module.state_dict(), arguments.weights)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
