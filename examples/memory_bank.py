"""Small batches with a memory of earlier embeddings: each anchor finds its triplet among hundreds of references.

A batch of 8 images drawn without regard to class rarely holds a good positive and a hard negative for each of them. A
memory does (cross-batch memory, Wang et al., CVPR 2020): embeddings change slowly, so those of the last steps can serve
as references. `CrossBatchMemory` keeps them and compares each batch with them, through any loss that takes references.

An anchor must not find an earlier copy of its own image in the memory, which would be its easiest positive. Image
numbers as `ids` exclude such pairs.
"""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, TensorDataset

from common import ConvNet, digits, rotated
from hardmine.losses import CrossBatchMemory, EPSHNLoss
from hardmine.metrics import recall_at_1

EPOCHS, BATCH_SIZE, CAPACITY, EMBEDDING_DIM = 6, 8, 512, 8


def train(capacity: int) -> float:
    """Train with a memory of `capacity` embeddings, or with the batch alone for 0; return Recall@1 afterwards."""
    torch.manual_seed(0)
    data = digits()
    network = ConvNet(data.train_images, EMBEDDING_DIM)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    images_with_ids = TensorDataset(data.train_images, data.train_labels, torch.arange(len(data.train_labels)))
    loader = DataLoader(images_with_ids, batch_size=BATCH_SIZE, shuffle=True)
    generator = torch.Generator().manual_seed(0)
    test_images = rotated(data.test_images, generator)
    loss_of = EPSHNLoss()
    memory = CrossBatchMemory(loss_of, capacity, EMBEDDING_DIM) if capacity else None
    for _ in range(EPOCHS):
        for images, labels, ids in loader:
            embeddings = network(rotated(images, generator))
            loss = loss_of(embeddings, labels)
            if memory is not None:
                loss = loss + memory(embeddings, labels, ids=ids)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return recall_at_1(network(test_images), data.test_labels)


def main() -> None:
    torch.set_num_threads(1)  # more threads gain nothing on images of 8 x 8
    print(f"{EPOCHS} epochs, {BATCH_SIZE} random images per batch")
    for capacity in (0, CAPACITY):
        print(f"memory of {capacity:>3} embeddings: Recall@1 {train(capacity):.3f}", flush=True)


if __name__ == "__main__":
    main()
