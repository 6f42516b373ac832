"""The data sets to search, and the same rows slightly later in training."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from hardmine import ops
from hardmine.mining import ClassBalancedSampler
from rivals.common import SkippedRivalError
from rivals.inputs import SIFT_FILE, word_vectors

CARS_FILE = "cars_train_efficientnet_lite0_1280.npy"
CARS_ARCHIVE = "stanford_cars_train_128.tar"
CARS_LABELS = "stanford_cars/devkit/cars_train_annos.mat"
CARS_DEPTH = 64
KEPT_LIST_LENGTH = 10  # neighbors per list; a move's size is the share of the list entries that it keeps
MOVE_SAMPLE = 1000  # rows


@dataclass(frozen=True, eq=False)
class DataSet:
    """Rows [N, D] float32, of unit length under the cosine metric."""

    name: str
    title: str
    metric: str  # "cosine" or "euclidean"
    rows: np.ndarray
    source: str
    real: bool  # False: synthetic, because the file is missing

    def first(self, n: int) -> DataSet:
        return replace(self, rows=np.ascontiguousarray(self.rows[:n]))

    def with_rows(self, rows: np.ndarray) -> DataSet:
        """The same data set under another embedding."""
        return data_set_of(self.name, self.title, self.metric, rows, self.source, self.real)


def data_set_of(name: str, title: str, metric: str, rows: np.ndarray, source: str, real: bool = True) -> DataSet:
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if metric == "cosine":
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return DataSet(name, title, metric, rows, source, real)


def data_file(name: str) -> Path | None:
    file = Path(os.environ.get("HARDMINE_DATA") or "nowhere") / name
    return file if file.exists() else None


def clusters(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Overlapping clusters in a 16-d subspace plus noise in all d dimensions: about as hard to search as real rows."""
    generator = np.random.default_rng(seed)
    centers = generator.standard_normal((max(n // 50, 1), 16))
    inner = centers[generator.integers(len(centers), size=n)] + 0.7 * generator.standard_normal((n, 16))
    return inner @ generator.standard_normal((16, d)) + 0.3 * generator.standard_normal((n, d))


def synthetic_data_set(name: str, title: str, metric: str, n: int, d: int, missing: str) -> DataSet:
    return data_set_of(name, title, metric, clusters(n, d), f"{n:,} synthetic rows in clusters: {missing}", real=False)


def load_sift() -> DataSet:
    file, title = data_file(SIFT_FILE), "SIFT, 128-d, euclidean"
    if file is None:
        return synthetic_data_set(
            "sift", title, "euclidean", 10_000, 128, f"HARDMINE_DATA names no folder with {SIFT_FILE}"
        )
    rows = np.load(file)
    return data_set_of("sift", title, "euclidean", rows, f"{len(rows):,} SIFT descriptors of BIGANN")


def car_features() -> np.ndarray | None:
    """Features [8144, 1280] float32, each of mean 0 and standard deviation 1; None without the file."""
    file = data_file(CARS_FILE)
    if file is None:
        return None
    features = np.load(file).astype(np.float32)
    return (features - features.mean(0)) / np.maximum(features.std(0), 1e-6)


def principal(rows: np.ndarray, depth: int) -> np.ndarray:
    """The rows' coordinates [N, depth] along the directions of largest variance."""
    centered = rows.astype(np.float64) - rows.mean(0)
    directions = np.linalg.eigh(centered.T @ centered)[1][:, ::-1]
    return centered @ directions[:, :depth]


def load_cars() -> DataSet:
    file, title = data_file(CARS_FILE), "cars, 64-d, cosine"
    if file is None:
        missing = f"HARDMINE_DATA names no folder with {CARS_FILE}"
        return synthetic_data_set("cars", title, "cosine", 8144, CARS_DEPTH, missing)
    features = np.load(file)
    source = f"ImageNet features of {len(features):,} cars (CAR, training half), the first {CARS_DEPTH} principal axes"
    return data_set_of("cars", title, "cosine", principal(features, CARS_DEPTH), source)


def load_words(rows: int = 100_000) -> DataSet:
    title = "GloVe words, 50-d, cosine"
    try:
        inputs = word_vectors(rows)
    except SkippedRivalError as reason:
        return synthetic_data_set("words", title, "cosine", 20_000, 50, str(reason))
    return data_set_of("words", title, "cosine", inputs.embeddings.numpy(), inputs.source)


LOADERS: dict[str, Callable[[], DataSet]] = {"sift": load_sift, "cars": load_cars, "words": load_words}


# --- the same rows later in training ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Move:
    """A data set before and after a step of training, and the share of the list entries that the step kept."""

    title: str
    before: DataSet
    after: DataSet
    kept: float  # share of the KEPT_LIST_LENGTH nearest, on a sample


def kept_share(before: DataSet, after: DataSet) -> float:
    """The share of the KEPT_LIST_LENGTH nearest neighbors that stay in the list, on a sample of rows."""
    sample = np.random.default_rng(0).permutation(len(before.rows))[:MOVE_SAMPLE]
    lists = []
    for data in (before, after):
        rows = torch.from_numpy(data.rows)
        lists.append(
            ops.knn(rows[sample], rows, KEPT_LIST_LENGTH + 1, similarity=data.metric).index
        )  # + 1 for the row itself
    row = torch.arange(len(sample))[:, None] * len(before.rows)
    shared = torch.isin(row + lists[0], row + lists[1]).sum().item() - len(sample)
    return shared / (KEPT_LIST_LENGTH * len(sample))


def with_noise(data: DataSet, amount: float) -> DataSet:
    """Adds to every row a random vector of about `amount` times the row's length."""
    noise = np.random.default_rng(1).standard_normal(data.rows.shape, dtype=np.float32)
    length = np.linalg.norm(data.rows, axis=1, keepdims=True)
    return data.with_rows(data.rows + amount / np.sqrt(data.rows.shape[1]) * length * noise)


def noisy_move(data: DataSet, kept: float) -> Move:
    """Moves the rows by as much noise as keeps the share `kept` of the list entries."""
    low, high = np.log(1e-4), np.log(2.0)
    for _ in range(12):
        middle = (low + high) / 2
        if kept_share(data, with_noise(data, np.exp(middle))) > kept:
            low = middle
        else:
            high = middle
    amount = float(np.exp(low))
    after = with_noise(data, amount)
    return Move(f"noise of {amount:.2g} of each row's length", data, after, kept_share(data, after))


def car_labels() -> np.ndarray | None:
    """Labels [8144] int64 in the order of the features; None without the archive that holds them."""
    archive = data_file(CARS_ARCHIVE)
    if archive is None:
        return None
    from scipy.io import loadmat

    with tarfile.open(archive) as files:
        annotations = loadmat(BytesIO(files.extractfile(CARS_LABELS).read()), squeeze_me=True)["annotations"]
    order = np.argsort(annotations["fname"].astype(str))
    return annotations["class"].astype(np.int64)[order]


def trained_move(data: DataSet, epochs_before: int = 3, lr: float = 0.02) -> Move | None:
    """The cars under a linear head before and after one more epoch of SGD on sct_loss; None without the labels.

    From the third epoch to the fourth, this learning rate keeps about 84 % of the 10-neighbor lists; 0.5 would keep
    38 %.
    """
    features, labels = car_features(), car_labels()
    if features is None or labels is None:
        return None
    inputs, labels = torch.from_numpy(features), torch.from_numpy(labels)
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(inputs.shape[1], CARS_DEPTH, generator=generator) / inputs.shape[1] ** 0.5
    head.requires_grad_()
    sampler = ClassBalancedSampler(labels, classes_per_batch=64, images_per_class=2)

    def epoch() -> None:
        for batch in sampler:
            loss = ops.sct_loss(inputs[batch] @ head, labels[batch])
            (gradient,) = torch.autograd.grad(loss, head)
            head.data -= lr * gradient

    for _ in range(epochs_before):
        epoch()
    before = data.with_rows((inputs @ head.detach()).numpy())
    epoch()
    after = data.with_rows((inputs @ head.detach()).numpy())
    title = f"epoch {epochs_before + 1} of training a linear head"
    return Move(title, before, after, kept_share(before, after))
