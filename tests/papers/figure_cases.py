"""Helpers of the figure tests: runs to draw, and the saved rows."""

import csv
import json
import math

import torch

from papers.figures import Diagrams, EmbeddingSet, History, Triplets

NAN = math.nan


def rows(path):
    """The rows of a figure's CSV; numbers as floats, empty cells as None."""

    def value(text):
        try:
            return float(text) if text else None
        except ValueError:
            return text

    with path.with_suffix(".csv").open(newline="") as file:
        return [{name: value(text) for name, text in row.items()} for row in csv.DictReader(file)]


def panels(path):
    return json.loads(path.with_suffix(".json").read_text())["panels"]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def triplets(*pairs):
    s_ap, s_an = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    return Triplets(torch.arange(len(pairs)), s_ap, s_an)


def history(steps, recall=None, hard=None):
    count = len(steps)
    columns = [torch.tensor(c or [NAN] * count, dtype=torch.float64) for c in (recall, hard, None)]
    return History(torch.tensor(steps) // 10, torch.tensor(steps), *columns)


STEPPED = Diagrams(
    {
        (0, "train", "before"): triplets((0.2, 0.8), (0.5, 0.5), (0.9, 0.1), (NAN, 0.3)),
        (0, "train", "after"): triplets((0.3, 0.6), (0.5, 0.7), (0.9, 0.0), (NAN, 0.2)),
        (8, "train", "before"): triplets((0.1, 0.2), (0.6, 0.9)),
        (8, "train", "after"): triplets((0.3, 0.2), (0.6, 0.5)),
        (8, "test", "before"): triplets((0.0, 0.2)),
        (8, "test", "after"): triplets((0.0, 0.1)),
        (9, "train", "after"): triplets((1.0, 0.0)),
    }
)


def random_set(seed=0, train=60, test=40, classes=5, depth=8):
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(2 * classes, depth, generator=generator)
    labels = torch.arange(train) % classes, torch.arange(test) % classes + classes
    rows = (
        centers[split_labels] + torch.randn(len(split_labels), depth, generator=generator) for split_labels in labels
    )
    (train_rows, test_rows) = rows
    return EmbeddingSet(train_rows, labels[0], test_rows, labels[1])
