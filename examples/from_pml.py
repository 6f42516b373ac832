"""A training with pytorch-metric-learning: only the import lines say whose classes compute it.

python examples/from_pml.py            # hardmine's classes
python examples/from_pml.py --pml      # pytorch-metric-learning's own, for comparison
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from pytorch_metric_learning import distances, samplers
from torch.utils.data import DataLoader, TensorDataset

from common import ConvNet, digits, rotated

EPOCHS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pml", action="store_true", help="import the classes of pytorch-metric-learning")
    if parser.parse_args().pml:
        from pytorch_metric_learning import losses, miners
        from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
        from pytorch_metric_learning.utils.inference import CustomKNN

        # FaissKNN, the default, needs faiss.
        knn = {"knn_func": CustomKNN(distances.LpDistance(normalize_embeddings=False, power=2))}
    else:
        from hardmine.integrations.pytorch_metric_learning import AccuracyCalculator, losses, miners

        knn = {}

    torch.manual_seed(0)
    np.random.seed(0)  # what MPerClassSampler draws from
    torch.set_default_dtype(torch.float64)  # in float32 rounding parts the two runs after an epoch
    torch.set_num_threads(1)  # more threads gain nothing on images of 8 x 8
    data = digits()
    train_images, test_images = data.train_images.double(), data.test_images.double()
    network = ConvNet(train_images)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    sampler = samplers.MPerClassSampler(data.train_labels, m=51, batch_size=255, length_before_new_iter=2550)
    loader = DataLoader(TensorDataset(train_images, data.train_labels), sampler=sampler, batch_size=255)

    distance = distances.CosineSimilarity()
    loss_func = losses.TripletMarginLoss(margin=0.2, distance=distance)
    mining_func = miners.BatchEasyHardMiner(pos_strategy="easy", neg_strategy="semihard", distance=distance)
    calculator = AccuracyCalculator(include=("precision_at_1", "mean_average_precision_at_r"), k="max_bin_count", **knn)

    generator = torch.Generator().manual_seed(0)
    test_images = rotated(test_images, generator)
    seconds = 0.0
    for epoch in range(1, EPOCHS + 1):
        total = 0.0
        for images, labels in loader:
            embeddings = network(rotated(images, generator))
            start = time.perf_counter()
            indices_tuple = mining_func(embeddings, labels)
            loss = loss_func(embeddings, labels, indices_tuple)
            seconds += time.perf_counter() - start
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        with torch.no_grad():
            embeddings = torch.nn.functional.normalize(network(test_images))
        accuracy = calculator.get_accuracy(embeddings, data.test_labels)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in accuracy.items())
        print(f"epoch {epoch}: mean loss {total / len(loader):.4f}, {shown}", flush=True)
    print(f"mining and loss, forward: {1e3 * seconds / (EPOCHS * len(loader)):.2f} ms per step")


if __name__ == "__main__":
    main()
