"""Checks of the arguments that ops share. Each error names the argument, what it must be, and what came."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, get_args

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

from hardmine import _library, types
from hardmine._options import check_choice as check_choice  # for the modules that check other arguments

FLOAT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGER_DTYPES = (
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)

SIMILARITIES = get_args(types.Similarity)
POSITIVES = get_args(types.PositiveRule)
NEGATIVES = get_args(types.NegativeRule)
FALLBACKS = (None, *get_args(types.SemihardFallback))
TIES = get_args(types.TieRule)
REDUCTIONS = get_args(types.Reduction)
TERMS = get_args(types.Term)
INDEXED_TERMS = get_args(types.IndexedTerm)
HARD_RULES = get_args(types.HardRule)


def check_number(name: str, value: Any, *, above: float = -math.inf, at_least: float = -math.inf) -> float:
    """``value`` is a number (not NaN) greater than ``above`` and no less than ``at_least``; returned as a float."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not (value > above or above == -math.inf) or not value >= at_least:
        limit = f" > {above:g}" if above > -math.inf else f" >= {at_least:g}" if at_least > -math.inf else ""
        raise ValueError(f"{name} must be a number{limit}, got {value}")
    return float(value)


def check_finite(name: str, value: Any, **limits: float) -> float:
    """As :func:`check_number`, and not infinite."""
    number = check_number(name, value, **limits)
    if math.isinf(number):
        raise ValueError(f"{name} must be a finite number, got {value}")
    return number


def check_integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """``value`` is an integer from ``least`` to ``most``; returned as an int."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if most is None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if most is not None and not least <= value <= most:
        raise ValueError(f"{name} must be from {least} to {most}, got {value}")
    return int(value)


def optional_number(name: str, value: Any, default: float, **limits: float) -> float:
    """As :func:`check_number`, where None stands for ``default``."""
    return default if value is None else check_number(name, value, **limits)


def has_values(tensor: Tensor) -> bool:
    """Whether a check may look at the values of ``tensor``: where it has any, and none to wait for."""
    return tensor.is_cpu and not (torch.compiler.is_compiling() or isinstance(tensor, FakeTensor))


def forbid_forward_mode(name: str, tensor: Tensor) -> None:
    """A forward-mode derivative through an op is an error that says so, instead of a silent zero."""
    if forward_ad._current_level < 0 or torch.compiler.is_compiling():
        return
    if forward_ad.unpack_dual(tensor).tangent is not None:
        raise NotImplementedError(f"{name} must have no tangent: hardmine's ops have no forward-mode derivative")


def shape_of(tensor: Tensor) -> str:
    """A shape as errors print it."""
    return "[" + ", ".join(str(int(n)) for n in tensor.shape) + "]"


def _check_device(name: str, device: torch.device) -> None:
    """``device`` is one that the ops have kernels for."""
    if device.type == "cuda":
        problem = _library.cuda_problem(device.index)
        if problem is not None:
            raise RuntimeError(f"{name} must be on the CPU, got {device}: {problem}")
    elif device.type not in ("cpu", "meta"):
        raise NotImplementedError(f"{name} must be on the CPU or on a CUDA device, got {device}")


def check_rows(name: str, tensor: Any, like: Tensor | None, like_name: str = "embeddings") -> None:
    """``tensor`` is a floating-point matrix, with the depth, dtype and device of ``like``."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    forbid_forward_mode(name, tensor)
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {tensor.layout}")
    if tensor.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16, got {tensor.dtype}")
    if tensor.dim() != 2:
        raise ValueError(f"{name} must be [rows, D], got {shape_of(tensor)}")
    if tensor.shape[1] == 0:
        raise ValueError(f"{name} must be [rows, D] with D >= 1, got {shape_of(tensor)}")
    if like is None:
        _check_device(name, tensor.device)
        return
    if tensor.shape[1] != like.shape[1]:
        raise ValueError(
            f"{name} must be [M, D] with the D = {int(like.shape[1])} of {like_name}, got {shape_of(tensor)}"
        )
    if tensor.dtype != like.dtype:
        raise TypeError(f"{name} must have the dtype of {like_name}, {like.dtype}, got {tensor.dtype}")
    if tensor.device != like.device:
        raise ValueError(f"{name} must be on the device of {like_name}, {like.device}, got {tensor.device}")


def _check_labels(name: str, labels: Any, rows: Tensor, size: str) -> Tensor:
    """``labels`` is one integer a row; returned as int64."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(labels).__name__}")
    if labels.dtype not in INTEGER_DTYPES:
        raise TypeError(f"{name} must have an integer dtype, got {labels.dtype}")
    if labels.dim() != 1 or labels.shape[0] != rows.shape[0]:
        raise ValueError(f"{name} must be [{size}] = [{int(rows.shape[0])}], got {shape_of(labels)}")
    if labels.device != rows.device:
        raise ValueError(f"{name} must be on the device of its embeddings, {rows.device}, got {labels.device}")
    return labels.to(torch.int64)


def check_labeled_rows(
    embeddings: Any, labels: Any, ref_embeddings: Any, ref_labels: Any
) -> tuple[Tensor, Tensor | None]:
    """Checks the four tensors that every op takes; returns ``labels`` and ``ref_labels`` as int64."""
    check_rows("embeddings", embeddings, None)
    labels = _check_labels("labels", labels, embeddings, "B")
    if (ref_embeddings is None) != (ref_labels is None):
        missing, given = ("ref_labels", "ref_embeddings") if ref_labels is None else ("ref_embeddings", "ref_labels")
        raise ValueError(f"{missing} must be given together with {given}, got None")
    if ref_embeddings is None:
        return labels, None
    check_rows("ref_embeddings", ref_embeddings, embeddings)
    return labels, _check_labels("ref_labels", ref_labels, ref_embeddings, "M")


def check_triplets(embeddings: Any, triplets: Any, labels: Any) -> tuple[Tensor, Tensor | None]:
    """Checks the tensors of the losses on given triplets; returns ``triplets`` and ``labels`` as int64.

    The indices themselves are checked by the compiled ops, which read them anyway: on the CPU a bad one is an error; on
    a GPU, which the host does not wait for, it makes the loss NaN.
    """
    check_rows("embeddings", embeddings, None)
    if not isinstance(triplets, Tensor):
        raise TypeError(f"triplets must be a torch.Tensor, got {type(triplets).__name__}")
    if triplets.dtype not in INTEGER_DTYPES:
        raise TypeError(f"triplets must have an integer dtype, got {triplets.dtype}")
    if triplets.dim() != 2 or triplets.shape[1] != 3:
        raise ValueError(f"triplets must be [T, 3], got {shape_of(triplets)}")
    if triplets.device != embeddings.device:
        raise ValueError(f"triplets must be on the device of embeddings, {embeddings.device}, got {triplets.device}")
    labels = None if labels is None else _check_labels("labels", labels, embeddings, "B")
    return triplets.to(torch.int64), labels


def check_triplet_classes(triplets: Tensor, labels: Tensor) -> None:
    """Every triplet is of an anchor, a positive of its class, and a negative of another."""
    anchor, positive, negative = labels[triplets].unbind(1)
    wrong = (anchor != positive) | (anchor == negative)
    if wrong.any():
        t = int(wrong.int().argmax())
        raise ValueError(
            "triplets must be of an anchor, a positive of its class and a negative of another, "
            f"got {triplets[t].tolist()} of classes {labels[triplets[t]].tolist()} at [{t}]"
        )


@torch.compiler.assume_constant_result  # a compiled graph is guarded by this setting of torch's anyway
def _tf32_is_allowed() -> bool:
    return torch.get_float32_matmul_precision() != "highest"


def allow_tf32(embeddings: Tensor) -> bool:
    """Whether products of float32 embeddings may be rounded as torch's own matrix products are on their device."""
    return embeddings.is_cuda and embeddings.dtype == torch.float32 and _tf32_is_allowed()


def check_selection(embeddings: Tensor, options: dict[str, Any]) -> list[int | float]:
    """Checks the resolved options of a selection; returns them as the schemas of the compiled ops list them."""
    return [
        check_choice("similarity", options["similarity"], SIMILARITIES),
        check_choice("positive", options["positive"], POSITIVES),
        check_choice("negative", options["negative"], NEGATIVES),
        check_choice("semihard_fallback", options["semihard_fallback"], FALLBACKS),
        0 if options["tie"] is None else check_choice("tie", options["tie"], TIES),
        optional_number("duplicate_threshold", options["duplicate_threshold"], math.inf),
        optional_number("semihard_margin", options["semihard_margin"], math.inf, above=0.0),
        allow_tf32(embeddings),
    ]


def check_generator(generator: Any, embeddings: Tensor) -> None:
    """``generator`` is None, or a generator that can draw on the device of ``embeddings``."""
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")
    if generator.device != embeddings.device:
        raise ValueError(
            f"generator must be on the device of embeddings, {embeddings.device}, got one on {generator.device}"
        )


def draw_random(embeddings: Tensor, options: dict[str, Any]) -> Tensor | None:
    """The numbers that random selections are picked by: uniform in [0, 1), one row each, [1 or 2, B]; None if none is.

    float64, whatever the embeddings: with fewer bits some of many candidates would be picked more often than others.
    """
    generator = options["generator"]
    check_generator(generator, embeddings)
    rows = (options["positive"] == "random") + (options["negative"] == "random")
    if not rows:
        return None
    drawn_by = {} if generator is None else {"generator": generator}  # torch.compile takes no None at sizes that vary
    return torch.rand(rows, embeddings.shape[0], dtype=torch.float64, device=embeddings.device, **drawn_by)


def check_loss(options: dict[str, Any]) -> list[int | float]:
    """Checks the resolved options of a triplet loss; returns them as the schemas of the compiled ops list them."""
    return [
        check_choice("term", options["term"], TERMS),
        check_choice("hard_rule", options.get("hard_rule", "above"), HARD_RULES),
        options.get("separate_means", False),
        *check_term_numbers(options),
        optional_number("hard_cutoff", options.get("hard_cutoff"), 0.0),
        optional_number("min_similarity", options["min_similarity"], -math.inf),
        check_choice("reduction", options["reduction"], REDUCTIONS),
    ]


def check_term_numbers(options: dict[str, Any]) -> tuple[float, float, float]:
    """Temperature, margin and lam of a term, each None where the term has none: a number all the same."""
    term, least = options["term"], 0.0 if options["term"] == "ratio" else -math.inf
    return (
        check_number("temperature", options["temperature"], above=0.0) if term in ("nca", "sct") else 1.0,
        check_number("margin", options["margin"], above=least) if term in ("hinge", "ratio") else 0.0,
        check_number("lam", options["lam"]) if term == "sct" else 0.0,
    )


def check_distance_similarity(similarity: str, loss: str) -> None:
    """A loss of distances has no use for an inner product."""
    if similarity == "dot":
        raise ValueError(f"similarity must be 'cosine' or 'euclidean' with {loss}, got 'dot'")


def loss_of_triplets(
    op: torch._ops.OpOverloadPacket,
    embeddings: Tensor,
    triplets: Tensor,
    labels: Tensor | None,
    options: list[int | float],
) -> Tensor:
    """The loss that ``op`` computes, after its check of the indices; then the labels can be looked up safely.

    On the CPU, that is: elsewhere indices are not checked by then, and labels are not looked up.
    """
    loss, _, _ = op(embeddings, triplets, *options)
    if labels is not None and has_values(triplets):
        check_triplet_classes(triplets, labels)
    return loss
