"""The four papers that hardmine implements: data sets, networks, recipes, trainings and figures."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from papers.training.loading import Trained


def load(run: str | os.PathLike[str]) -> Trained:
    """Load the network that a run trained, with the transform of its images.

    Args:
        run: Folder of a run, the `--output` of `python -m papers train`. It may still be training: the network is then
            the one of its last checkpoint.

    Returns:
        A named tuple: `network`, a module in evaluation mode on the CPU that embeds float32 images [B, C, H, W] as
        [B, D]; `transform`, which makes a float32 image [C, H, W] from a PIL image, or None if the data set has
        tensors (digits, omniglot); `recipe`, all settings; and `epoch`, the number of finished epochs.

    Raises:
        OSError: The folder has no checkpoint, or it cannot be read.
        ValueError: The checkpoint is damaged, or the backbone's weights are, or they are not those of the training.
        ModuleNotFoundError: A package that the network or the transform needs is not installed.

    Note:
        For a frozen backbone, a checkpoint holds only the head and the SHA-256 of the backbone's weights, which are
        read again. A run on given features (`data.features`) has no such SHA-256.

    Example::

        network, transform, *_ = papers.load("runs/sct-cars")
        images = torch.stack([transform(PIL.Image.open(path).convert("RGB")) for path in paths])
        with torch.no_grad():
            embeddings = network(images)
    """
    from papers.training.loading import load_run

    return load_run(run)
