"""The hierarchical triplet loss (HTL): a tree of classes sets the margins and fills batches with neighboring classes.

After every epoch the mean distances between the classes give a new tree. Classes that join low in it are similar: they
meet in the same batches, and their triplets get the smaller margins.
"""

from __future__ import annotations

import torch

from common import ConvNet, digits, rotated
from hardmine.losses import HierarchicalTripletLoss
from hardmine.metrics import recall_at_1
from hardmine.mining import AnchorNeighborSampler, ClassTree

EPOCHS = 6


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # more threads gain nothing on images of 8 x 8
    data = digits()
    network = ConvNet(data.train_images)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    loss_of = HierarchicalTripletLoss(
        classes=data.train_labels, margin=0.2, beta=0.1
    )  # the margin holds until the first tree
    # 2 random classes, each with the class nearest to it; 6 images per class.
    sampler = AnchorNeighborSampler(data.train_labels, 2, 2, 6, seed=0)

    generator = torch.Generator().manual_seed(0)
    test_images = rotated(data.test_images, generator)

    def recall() -> float:
        with torch.no_grad():
            return recall_at_1(network(test_images), data.test_labels)

    print(f"untrained: Recall@1 {recall():.3f}")
    for epoch in range(1, EPOCHS + 1):
        for rows in sampler:
            loss = loss_of(network(rotated(data.train_images[rows], generator)), data.train_labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            tree = ClassTree.from_embeddings(network(rotated(data.train_images, generator)), data.train_labels)
        loss_of.update(tree)
        sampler.update(tree)
        margins = tree.margin_table(beta=0.1)[~torch.eye(len(tree.classes), dtype=torch.bool)]
        print(f"epoch {epoch}: Recall@1 {recall():.3f}, margins {margins.min():.2f} to {margins.max():.2f}", flush=True)

    classes = tree.classes.tolist()
    print("\nlevel at which two digits join, 0 to 16, in the last tree:")
    print("   " + "".join(f"{digit:4}" for digit in classes))
    for digit in classes:
        print(f"{digit:3}" + "".join(f"{tree.join_level(digit, other):4}" for other in classes))


if __name__ == "__main__":
    main()
