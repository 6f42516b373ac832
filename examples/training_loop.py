"""The shortest complete training: class-balanced batches, SCT, Recall@K on classes that never trained."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, TensorDataset

from common import ConvNet, digits, rotated
from hardmine.losses import SCTLoss
from hardmine.metrics import recall_at_k
from hardmine.mining import ClassBalancedSampler

EPOCHS = 5


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # more threads gain nothing on images of 8 x 8
    data = digits()
    network = ConvNet(data.train_images)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    loss_of = SCTLoss(lam=1.0)
    # 5 classes with 4 images each: every anchor has 3 positives and 16 negatives in its batch.
    sampler = ClassBalancedSampler(data.train_labels, classes_per_batch=5, images_per_class=4, seed=0)
    loader = DataLoader(TensorDataset(data.train_images, data.train_labels), batch_sampler=sampler)

    generator = torch.Generator().manual_seed(0)
    test_images = rotated(data.test_images, generator)

    def recall() -> str:
        """Every retrieved-only image searches all others of its kind, by cosine similarity."""
        with torch.no_grad():
            found = recall_at_k(network(test_images), data.test_labels, k=(1, 2, 4))
        return ", ".join(f"Recall@{k} {share:.3f}" for k, share in found.items())

    print(f"untrained: {recall()}")
    for epoch in range(1, EPOCHS + 1):
        total = 0.0
        for images, labels in loader:
            loss = loss_of(network(rotated(images, generator)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch}: mean loss {total / len(loader):.3f}, {recall()}", flush=True)


if __name__ == "__main__":
    main()
