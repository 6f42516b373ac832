"""Sample inputs: random clusters, exact numbers, points for hand-computed tests."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Inputs(NamedTuple):
    """The four tensor arguments of an op, in order."""

    embeddings: Tensor
    labels: Tensor
    ref_embeddings: Tensor | None = None
    ref_labels: Tensor | None = None

    def to(self, target: torch.device | torch.dtype | str) -> Inputs:
        """The inputs on another device, or with embeddings of another dtype."""
        if isinstance(target, torch.dtype):
            return self._replace(
                embeddings=self.embeddings.to(target),
                ref_embeddings=None if self.ref_embeddings is None else self.ref_embeddings.to(target),
            )
        return Inputs(*(None if t is None else t.to(target) for t in self))


def seeded(seed: int) -> torch.Generator:
    """A seeded random generator; the global generator is not touched."""
    return torch.Generator().manual_seed(seed)


def random_labels(rows: int, classes: int, generator: torch.Generator) -> Tensor:
    """Unordered labels that do not start at 0; some are negative."""
    return torch.randint(classes, (rows,), generator=generator) * 3 - 4


def random_inputs(
    rows: int = 48,
    depth: int = 8,
    classes: int = 6,
    refs: int | None = None,
    *,
    spread: float = 0.7,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Inputs:
    """Clusters, one per class, that overlap enough for both hard and easy triplets."""
    generator = seeded(seed)
    centers = torch.randn(classes, depth, generator=generator, dtype=torch.float64)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = random_labels(count, classes, generator)
        noise = torch.randn(count, depth, generator=generator, dtype=torch.float64)
        return (centers[(labels + 4) // 3] + spread * noise).to(dtype), labels

    return Inputs(*draw(rows), *(draw(refs) if refs is not None else ()))


def exact_inputs(
    similarity: str,
    rows: int = 61,
    depth: int = 16,
    classes: int = 5,
    refs: int | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Inputs:
    """Rows whose similarities have no rounding error: they tie often, and results must match bitwise.

    Entries are small integers for dot and euclidean. For cosine they are +1 and -1: depths 4, 16 and 64 then have the
    exact norms 2, 4 and 8.
    """
    generator = seeded(seed)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        if similarity == "cosine":
            assert depth in (4, 16, 64), "the norm must be a power of 2"
            x = torch.randint(2, (count, depth), generator=generator) * 2 - 1
        else:
            x = torch.randint(-2, 3, (count, depth), generator=generator)
        return x.to(dtype), random_labels(count, classes, generator)

    return Inputs(*draw(rows), *(draw(refs) if refs is not None else ()))


def labels_of_sizes(sizes: list[int], *, shuffled: bool = True) -> Tensor:
    """One label per sample, for classes 0, 1, ... of these sizes; shuffled unless ``shuffled`` is false."""
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.int64))
    return labels[torch.randperm(len(labels), generator=seeded(0))] if shuffled else labels


def inputs_of_sizes(sizes: list[int], depth: int = 5, dtype: torch.dtype = torch.float64, seed: int = 1) -> Inputs:
    """Overlapping clusters, one per class, of these sizes."""
    labels = labels_of_sizes(sizes)
    x = torch.randn(len(labels), depth, generator=seeded(seed), dtype=torch.float64)
    x += torch.randn(len(sizes), depth, generator=seeded(seed + 1), dtype=torch.float64)[labels]
    return Inputs(x.to(dtype), labels)


def random_table(classes: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """A [C, C] table of margins of both signs, not symmetric."""
    return (torch.rand(classes, classes, generator=seeded(seed), dtype=torch.float64) - 0.3).to(dtype)


def random_ids(inputs: Inputs, kind: str, seed: int = 0) -> dict[str, Tensor]:
    """The options ``ids`` and, if there are refs, ``ref_ids``. Negative ids stand for none.

    ``"few"``: some rows have a copy. ``"many"``: each id belongs to several rows, of its class and of others; some rows
    have none. ``"all"``: all rows have the same id, so there is no candidate.
    """
    generator = seeded(seed)
    count = len(inputs.labels)

    def draw(rows: int, first: int) -> Tensor:
        if kind == "all":
            return torch.full((rows,), 2**62)
        if kind == "many":
            return torch.randint(-count // 8, max(count // 4, 1), (rows,), generator=generator) * 10**15
        ids = first + torch.randperm(rows, generator=generator)
        copies = torch.rand(rows, generator=generator) < 0.3
        return torch.where(copies, torch.randint(0, max(count, 1), (rows,), generator=generator), ids)

    ids = {"ids": draw(count, 0).to(inputs.labels.device)}
    if inputs.ref_labels is not None:
        ids["ref_ids"] = draw(len(inputs.ref_labels), 10**6).to(inputs.labels.device)
    return ids


# Five points whose similarities are easy to compute by hand; labels 0 0 1 0 1.
#
#   cosine    0     1     2     3     4         dot   0   1   2   3   4     |a - b|^2   0   1   2   3   4
#   0 (1, 0)  1    0.6   0.8    0    -1              1   3   4   0  -1                  0  20  18   2   4
#   1 (3, 4)        1    0.96  0.8  -0.6                25  24   4  -3                      0   2  18  32
#   2 (4, 3)              1    0.6  -0.8                    25   3  -4                          0  20  34
#   3 (0, 1)                    1     0                          1   0                              0   2
#   4 (-1, 0)                         1                              1                                  0
HAND_POINTS = Inputs(
    torch.tensor([[1.0, 0.0], [3.0, 4.0], [4.0, 3.0], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([0, 0, 1, 0, 1])
)


def anchors_with(s_ap: list[float], s_an: list[float], dtype: torch.dtype = torch.float32) -> Inputs:
    """Anchors that, with ``similarity="dot"``, select exactly the given similarities (s_an >= 0).

    Anchor i is the i-th unit vector. Its positive is ref i, and its negative is ref B + i, whose class has no anchor.
    """
    count = len(s_ap)
    labels = torch.arange(count)
    refs = [torch.diag(torch.tensor(s, dtype=dtype)) for s in (s_ap, s_an)]
    return Inputs(torch.eye(count, dtype=dtype), labels, torch.cat(refs), torch.cat([labels, labels + count]))
