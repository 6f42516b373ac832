"""What the tests of the ops share: devices, dtypes, tolerances, sample inputs, fresh interpreters."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import hardmine
from hardmine import ops, reference

FLOAT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIMILARITIES = ("cosine", "dot", "euclidean")
PRESETS = ("paper", "code2020", "code2021")
TERMS = ("nca", "hinge", "soft_margin", "sct")
REDUCTIONS = ("mean", "sum", "none")
POSITIVES = ("easiest", "hardest", "all")  # which ones of an anchor the tuplet losses take
# The CUDA ops on an emulated GPU take tensors on the CPU, but do what they do on a GPU.
EMULATED = "HARDMINE_EMULATED_CUDA" in os.environ
SELECTED_LOSSES = ("triplet_loss", "sct_loss")  # on one selected positive and negative an anchor
SELECTING_OPS = ("select_triplets", *SELECTED_LOSSES)
LOSSES = (*SELECTED_LOSSES, "tuplet_loss", "batch_all_triplet_loss")
OPS = ("select_triplets", *LOSSES, "knn")
OPS_WITH_LABELS = ("select_triplets", *LOSSES)
OPS_WITHOUT_REFS = ("batch_all_triplet_loss",)

# The option that makes a loss return more, which then comes second.
RETURNS_MORE = {
    "triplet_loss": "return_selection",
    "sct_loss": "return_selection",
    "tuplet_loss": "return_terms",
    "batch_all_triplet_loss": "return_counts",
}


def similarities_of_op(name: str) -> tuple[str, ...]:
    """The similarities that an op takes."""
    return tuple(s for s in SIMILARITIES if name != "batch_all_triplet_loss" or s != "dot")


def reductions_of(name: str) -> tuple[str, ...]:
    """The reductions that a loss takes."""
    return ("mean", "sum", "mean_active") if name == "batch_all_triplet_loss" else REDUCTIONS


def each_of(names: tuple[str, ...]) -> pytest.MarkDecorator:
    """Parametrizes a test by the op's name."""
    return pytest.mark.parametrize("name", names)


def each_with_similarity(names: tuple[str, ...], cpu: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """Parametrizes a test by the op's name and the similarities that it takes; ops in ``cpu`` get that mark."""
    pairs = [
        pytest.param(name, similarity, marks=[pytest.mark.cpu] if name in cpu else [])
        for name in names
        for similarity in similarities_of_op(name)
    ]
    return pytest.mark.parametrize(("name", "similarity"), pairs)


def each_with_refs(names: tuple[str, ...], refs: int = 30) -> pytest.MarkDecorator:
    """Parametrizes a test by the op's name and the number of refs: None, and, if it takes any, ``refs``."""
    cases = [(name, count) for name in names for count in (None, refs) if not count or name not in OPS_WITHOUT_REFS]
    return pytest.mark.parametrize(("name", "refs"), cases, ids=[f"{n}-{'refs' if r else 'self'}" for n, r in cases])


DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else [])]


def has_cuda_kernel(name: str) -> bool:
    """Whether the op, called ``name`` in ``hardmine.ops``, can run on CUDA devices in this build."""
    compiled = "triplet_loss" if name == "sct_loss" else name
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"hardmine::{compiled}", "CUDA")


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


class Result(NamedTuple):
    """What forward and backward of an op gave.

    ``loss`` of select_triplets and knn is a weighted sum of their similarities; ``selection`` is what they return, and
    what a loss returns beside itself: a selection, terms or counts.
    """

    loss: Tensor
    selection: tuple[Tensor, ...]
    grad: Tensor
    ref_grad: Tensor | None

    def tensors(self) -> list[Tensor]:
        """Every tensor of the result."""
        return [t for t in (self.loss, *self.selection, self.grad, self.ref_grad) if t is not None]


def anchor_weights(like: Tensor) -> Tensor:
    """A different weight for every anchor, [B], so that gradients of no two anchors can be mistaken for each other."""
    return torch.linspace(0.5, 1.5, len(like), dtype=like.dtype, device=like.device)


def selected_sum(selection: Any) -> Tensor:
    """A number with a gradient through every selected similarity; missing ones count for nothing."""
    s_ap = torch.where(selection.positive_index >= 0, selection.positive_similarity, 0.0)
    s_an = torch.where(selection.negative_index >= 0, selection.negative_similarity, 0.0)
    return ((s_ap - 2 * s_an) * anchor_weights(s_ap)).sum()


def with_numbers(options: dict[str, Any], device: torch.device | str = "cpu", seed: int = 0) -> dict[str, Any]:
    """The options; where their selection is random, with a generator that draws the same numbers for every call."""
    if "random" not in (options.get("positive"), options.get("negative")):
        return options
    return {"generator": torch.Generator(device).manual_seed(seed), **options}


def neighbor_sum(neighbors: Any) -> Tensor:
    """A number with another gradient through every neighbor's similarity; missing ones count for nothing."""
    similarity, index = neighbors
    ranks = torch.linspace(1, 2, similarity.shape[1], dtype=similarity.dtype, device=similarity.device)
    # Row by row, since a sum of many numbers rounds by the number of threads that torch takes for it.
    return ((torch.where(index >= 0, similarity, 0.0) * ranks).sum(1) * anchor_weights(similarity)).sum()


def arguments_of(name: str, inputs: Inputs) -> tuple[Tensor | None, ...]:
    """What the op takes of the inputs, in its order."""
    if name == "knn":
        return inputs.embeddings, inputs.ref_embeddings
    return inputs[:2] if name in OPS_WITHOUT_REFS else inputs


def evaluate(op: Callable, inputs: Inputs, **options: Any) -> tuple[Tensor, Any]:
    """The loss of an op, or the weighted sum of its similarities, and what it returns beside."""
    name = op.__name__
    arguments = arguments_of(name, inputs)
    if name in RETURNS_MORE:
        return op(*arguments, **{RETURNS_MORE[name]: True}, **options)
    returned = op(*arguments, **options)
    return (neighbor_sum if name == "knn" else selected_sum)(returned), returned


def run(op: Callable, inputs: Inputs, **options: Any) -> Result:
    """Forward and backward of an op, or of its reference, on fresh leaves. Random selections are always the same."""
    options = with_numbers(options, inputs.embeddings.device)
    x = inputs.embeddings.detach().clone().requires_grad_()
    refs = None if inputs.ref_embeddings is None else inputs.ref_embeddings.detach().clone().requires_grad_()
    refs = None if op.__name__ in OPS_WITHOUT_REFS else refs
    loss, selection = evaluate(op, Inputs(x, inputs.labels, refs, inputs.ref_labels), **options)
    scalar = loss if loss.dim() == 0 else (loss * anchor_weights(loss)).sum()
    if scalar.requires_grad:  # the reference's loss of an empty batch is a constant
        scalar.backward()
    grad, ref_grad = (None if t is None else torch.zeros_like(t) if t.grad is None else t.grad for t in (x, refs))
    return Result(loss.detach(), tuple(t.detach() for t in selection), grad, ref_grad)


def run_both(name: str, inputs: Inputs, **options: Any) -> tuple[Result, Result]:
    """Forward and backward of the op called ``name`` and of its reference."""
    return run(getattr(ops, name), inputs, **options), run(getattr(reference, name), inputs, **options)


def leaves_of(inputs: Inputs) -> list[Tensor]:
    """The embeddings and, where given, the refs; from here on they require gradients."""
    return [t.requires_grad_() for t in (inputs.embeddings, inputs.ref_embeddings) if t is not None]


def loss_of(name: str, inputs: Inputs) -> Tensor:
    """The loss of an op, or the sum of its similarities as ``run`` weighs them."""
    return evaluate(getattr(ops, name), inputs)[0]


def differentiable_outputs(name: str, inputs: Inputs, **options: Any) -> list[Tensor]:
    """The outputs of an op that have gradients."""
    outputs = getattr(ops, name)(*arguments_of(name, inputs), **options)
    if name == "select_triplets":
        return [outputs.positive_similarity, outputs.negative_similarity]
    return [outputs.similarity] if name == "knn" else [outputs]


# Sample inputs


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


def selection_options() -> list[dict[str, Any]]:
    """Every kind of selection, and options that matter to some: what all ops share."""
    kinds = [
        {"positive": positive, "negative": negative}
        for positive in ("easiest", "hardest", "random")
        for negative in ("hardest", "easiest", "semihard", "random")
    ]
    return [
        *kinds,
        *({"similarity": similarity, "negative": "hardest"} for similarity in SIMILARITIES),
        *({"negative": "semihard", "semihard_fallback": fallback} for fallback in ("hardest", "easiest")),
        {"negative": "semihard", "semihard_margin": 0.1, "tie": "include"},
        {"negative": "hardest", "duplicate_threshold": 0.5},
        {"positive": "random", "negative": "hardest", "duplicate_threshold": 0.5},
    ]


# Comparisons


def assert_bitwise_equal(actual: Tensor, expected: Tensor) -> None:
    """Equal dtypes, shapes and bits: NaN equals NaN, 0.0 does not equal -0.0."""
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    bits = [t.detach().cpu().reshape(-1).view(torch.uint8) for t in (actual, expected)]
    if not torch.equal(*bits):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
        raise AssertionError("equal numbers with different bits")


def assert_results_bitwise_equal(actual: Result, expected: Result) -> None:
    """Every tensor of two results is equal to the bit."""
    for a, b in zip(actual.tensors(), expected.tensors(), strict=True):
        assert_bitwise_equal(a, b)


def assert_same_selection(actual: Any, expected: Any) -> None:
    """Equal indices and equal similarities, exactly; NaN equals NaN, 0.0 equals -0.0."""
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def assert_results_close(actual: Result, expected: Result, tolerance: float) -> None:
    """Equal indices; similarities, losses and gradients within ``tolerance``, relative to the largest of each."""
    for a, b in zip(actual.tensors(), expected.tensors(), strict=True):
        scale = b.double().abs().nan_to_num(0.0, 0.0).max().item() if b.numel() else 0.0
        exact = not b.is_floating_point()
        atol = 0.0 if exact else tolerance * max(1.0, scale)
        torch.testing.assert_close(a, b, rtol=0, atol=atol, equal_nan=True)


def largest_error(actual: Tensor, exact: Tensor) -> float:
    """The largest deviation from the float64 values ``exact``, where both are numbers; missing ones must agree."""
    assert torch.equal(actual.isnan(), exact.isnan())
    return (actual.double() - exact).abs().nan_to_num(0.0).max().item()


class _ProductsOfAGPU(TorchDispatchMode):
    """Matrix products of float32 as a GPU sums them: one long chain of multiply-adds for each number.

    The CPU's have several chains, which they add up in the end, and err the less the longer the depth. The same chain
    in the kernels keeps all registers for the tile: a second set of sums would take as many again.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is not torch.ops.aten.mm.default or args[0].dtype != torch.float32:
            return func(*args, **(kwargs or {}))
        a, b = (t.double() for t in args)
        total = torch.zeros(a.shape[0], b.shape[1])
        for k in range(a.shape[1]):
            total = torch.addcmul(total.double(), a[:, k, None], b[k]).float()
        return total


def assert_as_accurate_as_plain_torch(name: str, inputs: Inputs, **options: Any) -> Result:
    """No result errs more than twice as much as that of the reference in the same dtype; the last bits are free.

    On an emulated GPU the reference, too, sums as a GPU does.

    Returns:
        The exact result, from the reference in float64, for the test to tell whether it says anything.
    """
    fused = run(getattr(ops, name), inputs, **options)
    with _ProductsOfAGPU() if EMULATED else contextlib.nullcontext():
        plain = run(getattr(reference, name), inputs, **options)
    exact = run(getattr(reference, name), inputs.to(torch.float64), **options)
    for f, p, e in zip(fused.tensors(), plain.tensors(), exact.tensors(), strict=True):
        if f.is_floating_point():
            last_bit = torch.finfo(f.dtype).eps * e.abs().nan_to_num(0.0, 0.0).max().item()
            # Of a single number, plain PyTorch's error may be next to nothing by luck.
            assert largest_error(f, e) <= 2 * largest_error(p, e) + (4 if f.dim() == 0 else 1) * last_bit
        else:
            assert torch.equal(f, e), "an index differs: the rest cannot be compared"
            assert torch.equal(p, e)
    return exact


# Machines


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Runs torch, and so the ops, on ``count`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_python(*arguments: str, package_root: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    """Runs a fresh Python that imports the same hardmine as this one, or the one in ``package_root``."""
    root = package_root or Path(hardmine.__file__).parents[1]
    path = os.pathsep.join([str(root), str(Path(__file__).parent)])
    variables = {name: value for name, value in os.environ.items() if name != "HARDMINE_SIMD"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env={**variables, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def output_of(process: subprocess.CompletedProcess) -> str:
    """What a process printed; it must have succeeded."""
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@functools.cache
def simd_levels() -> tuple[str, ...]:
    """The SIMD levels of this machine, as the error for an unknown one lists them."""
    error = run_python("-c", "import hardmine; hardmine.simd_level()", HARDMINE_SIMD="unknown").stderr
    listed = re.search(r"HARDMINE_SIMD must be one of (.*) on this CPU", error)
    assert listed, error
    return tuple(re.findall(r"'(\w+)'", listed[1]))
