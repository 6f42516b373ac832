"""Sample inputs: random clusters, exact numbers, points worked by hand."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Inputs(NamedTuple):
    """The four tensors that every op takes, in its order."""

    embeddings: Tensor
    labels: Tensor
    ref_embeddings: Tensor | None = None
    ref_labels: Tensor | None = None

    def to(self, target: torch.device | torch.dtype | str) -> Inputs:
        """On another device, or with embeddings of another dtype."""
        if isinstance(target, torch.dtype):
            return self._replace(
                embeddings=self.embeddings.to(target),
                ref_embeddings=None if self.ref_embeddings is None else self.ref_embeddings.to(target),
            )
        return Inputs(*(None if t is None else t.to(target) for t in self))


def seeded(seed: int) -> torch.Generator:
    """A random generator of its own: the global one is left alone."""
    return torch.Generator().manual_seed(seed)


def random_labels(rows: int, classes: int, generator: torch.Generator) -> Tensor:
    """Labels in no order, not starting at 0, some of them negative."""
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
    """Clusters, one a class, that overlap enough for both hard and easy triplets."""
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
    """Rows whose similarities carry no rounding error, so that they tie often, and results must match bit for bit.

    Small integers for dot and euclidean; for cosine +1 and -1, which with a depth of 4, 16 or 64 have the norm 2, 4, 8.
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
    """A label for every sample of classes of these sizes, 0, 1, ..., in no order."""
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.int64))
    return labels[torch.randperm(len(labels), generator=seeded(0))] if shuffled else labels


def inputs_of_sizes(sizes: list[int], depth: int = 5, dtype: torch.dtype = torch.float64, seed: int = 1) -> Inputs:
    """Overlapping clusters of these sizes."""
    labels = labels_of_sizes(sizes)
    x = torch.randn(len(labels), depth, generator=seeded(seed), dtype=torch.float64)
    x += torch.randn(len(sizes), depth, generator=seeded(seed + 1), dtype=torch.float64)[labels]
    return Inputs(x.to(dtype), labels)


def random_table(classes: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Margins of both signs, not symmetric."""
    return (torch.rand(classes, classes, generator=seeded(seed), dtype=torch.float64) - 0.3).to(dtype)


# Five points whose cosines can be worked out in the head; labels 0 0 1 0 1.
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
    """Anchors that, with ``similarity="dot"``, select exactly the similarities given (s_an >= 0).

    Anchor i is the i-th unit vector; its positive is ref i, its negative ref B + i, whose class has no anchor.
    """
    count = len(s_ap)
    labels = torch.arange(count)
    refs = [torch.diag(torch.tensor(s, dtype=dtype)) for s in (s_ap, s_an)]
    return Inputs(torch.eye(count, dtype=dtype), labels, torch.cat(refs), torch.cat([labels, labels + count]))
