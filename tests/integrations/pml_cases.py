"""Batches on which hardmine's classes and those of pytorch-metric-learning (PML) must agree."""

import contextlib
import warnings
from typing import NamedTuple

import torch

from hardmine.integrations import _fallback

DTYPES = [torch.float32, torch.float64]
LABELS = {
    "balanced": [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6],
    "some alone": [5, 0, 1, 5, 2, 3, 1, 4, 5, 6, 7, 2, 8, 9, 9, 10, 5, 11, 2, 12],
    "large classes": [0, 1] * 10,
    "no positives": list(range(20)),
    "one class": [3] * 20,
}
# Refs: none; other rows; the embeddings themselves with the same tensor of labels, where PML leaves out the pairs
# (i, i), or with a copy of it, where PML keeps them; other rows with the same tensor of labels, as none but PML has.
REFS = ["none", "others", "itself", "itself, other labels", "others, same labels"]


class Batch(NamedTuple):
    """The arguments of a miner, or with indices, of a loss."""

    embeddings: torch.Tensor
    labels: torch.Tensor
    ref_emb: torch.Tensor | None
    ref_labels: torch.Tensor | None


def batch_of(labels, refs="none", dtype=torch.float32, dim=6, seed=0, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)

    def rows(count):
        return torch.randn(count, dim, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(requires_grad)

    labels = torch.tensor(LABELS[labels])
    embeddings = rows(len(labels))
    if refs == "none":
        return Batch(embeddings, labels, None, None)
    if refs == "others":
        shuffled = labels[torch.randperm(len(labels), generator=generator)]
        return Batch(embeddings, labels, rows(27), torch.cat([shuffled, shuffled[:7]]))
    ref_labels = labels.clone() if refs == "itself, other labels" else labels
    return Batch(embeddings, labels, rows(len(labels)) if refs.startswith("others") else embeddings, ref_labels)


@contextlib.contextmanager
def fused():
    """PML's own code is an error."""
    _fallback._warned.clear()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".* runs the code of pytorch-metric-learning itself")
        yield


def value_and_gradients(loss, batch, indices=None):
    """The loss, and its gradients with respect to embeddings and refs."""
    rows = [x for x in (batch.embeddings, batch.ref_emb) if x is not None]
    value = loss(batch.embeddings, batch.labels, indices, batch.ref_emb, batch.ref_labels)
    gradients = torch.autograd.grad(value, rows, allow_unused=True)
    return value, *(torch.zeros_like(x) if g is None else g for x, g in zip(rows, gradients, strict=True))


def assert_same_loss(own, pml, batch, indices=None, **tolerances):
    """Value and gradients agree; returns the value."""
    with fused():
        found = value_and_gradients(own, batch, indices)
    expected = value_and_gradients(pml, batch, indices)
    if not tolerances and batch.embeddings.dtype == torch.float32:
        tolerances = {"rtol": 1e-4, "atol": 2e-6}
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **tolerances)
    return found[0]
