"""Smart Mining: triplets from neighbor lists of the whole training set, against random triplets.

Once per epoch the miner embeds every image, lists its nearest neighbors and makes triplets that the loss still acts on.
`AdaptiveKappa` sets how hard they are: it aims at a share of triplets whose loss is above 0. Its first two epochs are
random, so both runs begin alike.
"""

from __future__ import annotations

import torch

from common import ConvNet, digits, rotated
from hardmine.losses import GlobalLoss, RatioTripletLoss
from hardmine.metrics import recall_at_1
from hardmine.mining import AdaptiveKappa, SmartMiner

EPOCHS = 8


def train(mined_share: float) -> list[str]:
    """Train with this share of mined triplets per batch, 0 for random ones only; return a cell per epoch."""
    torch.manual_seed(0)
    data = digits()
    network = ConvNet(data.train_images)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    miner = SmartMiner(
        network,
        data.train_images,
        data.train_labels,
        batch_size=32,
        mined_share=mined_share,
        neighbors=200,
        kappa=AdaptiveKappa(target_error=0.5, random_epochs=2),
        seed=0,
    )
    ratio, spread = RatioTripletLoss(reduction="none"), GlobalLoss()
    test_images = rotated(data.test_images, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    cells = []
    for _ in range(EPOCHS):
        miner.images = rotated(data.train_images, generator)  # mine the images as this epoch will show them
        with miner.epoch() as epoch:
            for batch in epoch:
                embeddings = network(miner.images[batch.rows])  # every image of the batch once
                losses = ratio(embeddings, batch.triplets)
                loss = losses.mean() + spread(embeddings, batch.triplets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                epoch.observe(batch, losses)  # the controller learns which share has a loss
        with torch.no_grad():
            recall = recall_at_1(network(test_images), data.test_labels)
        record = miner.history[-1]
        kappa = "  -" if record.kappa is None else f"{record.kappa:3.1f}"
        cells.append(f"{record.mined_share:6.0%}{kappa:>7}{record.error:7.0%}{recall:10.3f}")
    return cells


def main() -> None:
    torch.set_num_threads(1)  # more threads gain nothing on images of 8 x 8
    mined, random = train(mined_share=1.0), train(mined_share=0.0)
    header = f"{'mined':>6}{'kappa':>7}{'error':>7}{'Recall@1':>10}"
    print(f"{'':5}{'mined triplets':^30}  |{'random triplets':^30}")
    print(f"epoch{header}  |{header}")
    for number, (left, right) in enumerate(zip(mined, random, strict=True), 1):
        print(f"{number:5}{left}  |{right}")


if __name__ == "__main__":
    main()
