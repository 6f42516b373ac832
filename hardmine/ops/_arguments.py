"""Checks of the arguments that ops share. Each error names the argument, what it must be, and what came."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

from hardmine import _library, types
from hardmine._options import check_choice as check_choice  # for the modules that check other arguments
from hardmine._problems import is_batched
from hardmine.ops._numbers import check_finite, check_temperature, optional_number

if TYPE_CHECKING:
    pass

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
ALL_SIMILARITIES = get_args(types.AnySimilarity)
POSITIVES = get_args(types.PositiveRule)
NEGATIVES = get_args(types.NegativeRule)
FALLBACKS = (None, *get_args(types.SemihardFallback))
TIES = get_args(types.TieRule)
REDUCTIONS = get_args(types.Reduction)
TUPLET_REDUCTIONS = get_args(types.TupletReduction)
TERM_REDUCTIONS = get_args(types.TermReduction)
TERMS = get_args(types.Term)
INDEXED_TERMS = get_args(types.IndexedTerm)
HARD_RULES = get_args(types.HardRule)


def is_without_values(tensor: Tensor) -> bool:
    """Whether ``tensor`` is on the meta device or a FakeTensor."""
    return tensor.is_meta or isinstance(tensor, FakeTensor)


def check_has_values(name: str, tensor: Tensor) -> Tensor:
    """``tensor`` is neither on the meta device nor a FakeTensor; returned as it is."""
    if is_without_values(tensor):
        kind = "a FakeTensor" if isinstance(tensor, FakeTensor) else "a tensor on the meta device"
        raise ValueError(f"{name} must be a tensor with values, got {kind}")
    return tensor


def has_values(tensor: Tensor) -> bool:
    """Whether a check may read the values of ``tensor``: they exist, and reading them synchronizes no device."""
    if not tensor.is_cpu or torch.compiler.is_compiling() or isinstance(tensor, FakeTensor):
        return False
    return not is_batched(tensor)


def forbid_tangents(name: str, tensor: Tensor) -> None:
    """Raises for forward-mode derivatives, which would otherwise be a silent zero."""
    if torch.compiler.is_compiling():
        return
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None:
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


def check_tensor(name: str, value: Any, like: Tensor | None = None) -> None:
    """``value`` is a plain dense tensor; it and ``like`` are both real or both fake."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {_kind_of(value)}")
    if type(value).__name__ == "DTensor":  # its module takes long to import
        raise TypeError(
            f"{name} must be a plain tensor, got a DTensor: pass {name}.to_local(), and group= if ranks hold "
            "different rows"
        )
    if torch.compiler.is_compiling():
        return
    if value.is_nested or value.layout != torch.strided:
        layout = f"nested tensor of layout {value.layout}" if value.is_nested else f"layout {value.layout}"
        raise TypeError(f"{name} must be a dense tensor, got {layout}")
    if type(value).__name__ == "MaskedTensor":
        raise TypeError(f"{name} must be a plain tensor, got a MaskedTensor")
    if like is not None and isinstance(value, FakeTensor) != isinstance(like, FakeTensor):
        kinds = ("a real tensor", "a FakeTensor")[:: -1 if isinstance(like, FakeTensor) else 1]
        raise TypeError(f"{name} must be {kinds[0]}, as the embeddings are, got {kinds[1]}")


def _kind_of(value: Any) -> str:
    """The type of a value that is not a tensor; for a list or tuple of strings, with that fact."""
    kind = type(value).__name__
    is_text = isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], str)
    return f"{kind} of str" if is_text else kind


def check_rows(name: str, tensor: Any, like: Tensor | None, like_name: str = "embeddings") -> None:
    """``tensor`` is a floating-point matrix, with the depth, dtype and device of ``like``."""
    check_tensor(name, tensor, like)
    forbid_tangents(name, tensor)
    if tensor.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16, got {tensor.dtype}")
    if tensor.dim() != 2:
        hint = "; torch.vmap takes a batch of problems" if tensor.dim() == 3 else ""
        raise ValueError(f"{name} must be [rows, D], got {shape_of(tensor)}{hint}")
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


def check_labels(name: str, labels: Any, rows: Tensor, size: str) -> Tensor:
    """``labels`` is one integer per row; returned as int64."""
    check_tensor(name, labels, rows)
    if labels.dtype not in INTEGER_DTYPES:
        raise TypeError(f"{name} must have an integer dtype, got {labels.dtype}")
    if labels.dim() != 1 or labels.shape[0] != rows.shape[0]:
        raise ValueError(f"{name} must be [{size}] = [{int(rows.shape[0])}], got {shape_of(labels)}")
    if labels.device != rows.device:
        raise ValueError(f"{name} must be on the device of the embeddings, {rows.device}, got {labels.device}")
    return labels.to(torch.int64)


def check_int64(name: str, labels: Tensor) -> Tensor:
    """``labels`` fit into int64: a uint64 of 2^64 - 1 would become -1."""
    if labels.dtype == torch.uint64 and has_values(labels) and labels.numel():
        smallest = int(labels.to(torch.int64).min())
        if smallest < 0:
            raise ValueError(f"{name} must be below 2^63, got {smallest + 2**64}")
    return labels


def check_same_kind(name: str, labels: Tensor, ref_name: str, ref_labels: Tensor) -> None:
    """Labels that are compared must stay distinct as int64, where a uint64 of 2^64 - 1 would equal -1.

    If values cannot be read, uint64 labels are refused if the other labels have another dtype.
    """
    if (labels.dtype == torch.uint64) == (ref_labels.dtype == torch.uint64):
        return
    if not (has_values(labels) and has_values(ref_labels)):
        raise TypeError(f"{ref_name} must be uint64 only if {name} is, got {ref_labels.dtype} and {labels.dtype}")
    large, values = (name, labels) if labels.dtype == torch.uint64 else (ref_name, ref_labels)
    if (as_signed := values.to(torch.int64)).numel() and as_signed.min() < 0:
        value = int(as_signed.min()) + 2**64
        raise ValueError(f"{large} must be below 2^63 unless both are uint64, got {value}")


def check_label_pair(name: str, labels: Any, rows: Tensor, ref_labels: Any, refs: Tensor) -> tuple[Tensor, Tensor]:
    """Checks the labels of rows and refs, which are compared with each other; returns both as int64."""
    as_int64 = check_labels(name, labels, rows, "B"), check_labels(f"ref_{name}", ref_labels, refs, "M")
    check_same_kind(name, labels, f"ref_{name}", ref_labels)
    return as_int64


def _is_plain_batch(embeddings: Any, labels: Any) -> bool:
    """Whether the tensors pass all checks, for those of most calls. The checks take twice the time of this."""
    return (
        not torch.compiler.is_compiling()
        and type(embeddings) in (Tensor, torch.nn.Parameter)
        and type(labels) is Tensor
        and embeddings.is_cpu
        and labels.is_cpu
        and embeddings.layout == labels.layout == torch.strided
        and embeddings.dtype in FLOAT_DTYPES
        and labels.dtype == torch.int64
        and not embeddings.is_nested
        and not labels.is_nested
        and embeddings.dim() == 2
        and embeddings.shape[1] > 0
        and labels.shape == embeddings.shape[:1]
        and forward_ad._current_level < 0
        and not torch._C._are_functorch_transforms_active()
    )


def are_plain_pairs(query: Any, key: Any) -> bool:
    """Whether queries and their keys pass all checks, as those of most calls do."""
    return (
        type(query) in (Tensor, torch.nn.Parameter)
        and type(key) in (Tensor, torch.nn.Parameter)
        and query.is_cpu
        and key.is_cpu
        and query.layout == key.layout == torch.strided
        and query.dtype == key.dtype
        and query.dtype in FLOAT_DTYPES
        and not query.is_nested
        and not key.is_nested
        and query.dim() == 2
        and query.shape[1] > 0
        and query.shape == key.shape
        and forward_ad._current_level < 0
    )


def check_labeled_rows(
    embeddings: Any, labels: Any, ref_embeddings: Any, ref_labels: Any
) -> tuple[Tensor, Tensor | None]:
    """Checks the four tensors that every op takes; returns ``labels`` and ``ref_labels`` as int64."""
    if ref_embeddings is None and ref_labels is None and _is_plain_batch(embeddings, labels):
        return labels, None
    check_rows("embeddings", embeddings, None)
    if (ref_embeddings is None) != (ref_labels is None):
        missing, given = ("ref_labels", "ref_embeddings") if ref_labels is None else ("ref_embeddings", "ref_labels")
        raise ValueError(f"{missing} must be given together with {given}, got None")
    if ref_embeddings is None:
        return check_labels("labels", labels, embeddings, "B"), None
    check_rows("ref_embeddings", ref_embeddings, embeddings)
    return check_label_pair("labels", labels, embeddings, ref_labels, ref_embeddings)


def check_ids(
    ids: Any,
    rows: Tensor,
    ref_ids: Any,
    refs: Tensor | None,
    *,
    names: tuple[str, str] = ("ids", "ref_ids"),
    refs_name: str = "ref_embeddings",
    size: str = "B",
) -> tuple[Tensor | None, Tensor | None]:
    """Checks the optional ids of rows and refs; returns them as int64."""
    name, ref_name = names
    if refs is None and ref_ids is not None:
        raise ValueError(f"{ref_name} must be None without {refs_name}, got {type(ref_ids).__name__}")
    if refs is not None and (ids is None) != (ref_ids is None):
        missing, given = (name, ref_name) if ids is None else (ref_name, name)
        raise ValueError(f"{missing} must be given together with {given}, got None")
    if ids is None:
        return None, None
    as_int64 = _check_id_vector(name, ids, rows, size)
    return as_int64, None if refs is None else _check_id_vector(ref_name, ref_ids, refs, "M")


def check_weights(weights: Any, embeddings: Tensor, name: str = "embeddings") -> Tensor:
    """``weights`` is one finite number >= 0 per row. The values are checked where they can be read."""
    check_tensor("weights", weights, embeddings)
    if weights.dtype not in FLOAT_DTYPES:
        raise TypeError(f"weights must be float32, float64, float16 or bfloat16, got {weights.dtype}")
    if weights.dim() != 1 or weights.shape[0] != embeddings.shape[0]:
        raise ValueError(f"weights must be [B] = [{int(embeddings.shape[0])}], got {shape_of(weights)}")
    if weights.device != embeddings.device:
        where = "the embeddings" if name == "embeddings" else name
        raise ValueError(f"weights must be on the device of {where}, {embeddings.device}, got {weights.device}")
    if has_values(weights):
        wrong = (~is_weight(weights)).nonzero()
        if len(wrong):
            i = int(wrong[0])
            raise ValueError(f"weights must be finite and at least 0, got {weights[i].item()} at [{i}]")
    return weights


def is_weight(weights: Tensor) -> Tensor:
    """Whether each number is finite and at least 0."""
    return (weights >= 0) & (weights < math.inf)


def _check_id_vector(name: str, ids: Any, rows: Tensor, size: str) -> Tensor:
    """``ids`` is one integer per row, and no large uint64, which would turn negative: then it would exclude nothing."""
    as_int64 = check_labels(name, ids, rows, size)
    if ids.dtype == torch.uint64 and not has_values(ids):
        raise TypeError(f"{name} must be uint64 only where values can be read, which are CPU tensors in eager mode")
    check_int64(name, ids)
    return as_int64


@_library.constant_in_graphs  # torch guards compiled graphs on this setting anyway
def _tf32_is_allowed() -> bool:
    return torch.get_float32_matmul_precision() != "highest"


def allow_tf32(embeddings: Tensor) -> bool:
    """Whether products of float32 embeddings may use TF32, as torch's own matrix products on their device may."""
    return embeddings.is_cuda and embeddings.dtype == torch.float32 and _tf32_is_allowed()


def check_selection(embeddings: Tensor, options: dict[str, Any]) -> list[int | float]:
    """Checks the resolved options of a selection; returns them in the order of the compiled ops' schemas."""
    return [
        check_choice("similarity", options["similarity"], ALL_SIMILARITIES),
        check_choice("positive", options["positive"], POSITIVES),
        check_choice("negative", options["negative"], NEGATIVES),
        check_choice("semihard_fallback", options["semihard_fallback"], FALLBACKS),
        0 if options["tie"] is None else check_choice("tie", options["tie"], TIES),
        *selection_numbers(embeddings, options),
        allow_tf32(embeddings),
    ]


def selection_numbers(embeddings: Tensor, options: dict[str, Any]) -> tuple[float, float]:
    """Checks the limits of a selection: duplicate_threshold and semihard_margin; infinity without a limit."""
    return (
        optional_number("duplicate_threshold", options["duplicate_threshold"], math.inf, like=embeddings),
        optional_number("semihard_margin", options["semihard_margin"], math.inf, above=0.0, like=embeddings),
    )


def check_loss(embeddings: Tensor, options: dict[str, Any]) -> list[int | float]:
    """Checks the resolved options of a triplet loss; returns them in the order of the compiled ops' schemas."""
    return [
        check_choice("term", options["term"], TERMS),
        check_choice("hard_rule", options.get("hard_rule", "above"), HARD_RULES),
        options.get("separate_means", False),
        *check_term_numbers(embeddings, options),
        optional_number("hard_cutoff", options.get("hard_cutoff"), 0.0, like=embeddings),
        optional_number("min_similarity", options["min_similarity"], -math.inf, like=embeddings),
        check_choice("reduction", options["reduction"], TERM_REDUCTIONS),
    ]


def check_term_numbers(embeddings: Tensor, options: dict[str, Any]) -> tuple[float, float, float]:
    """Temperature, margin and lam of a term; an unused one, and a temperature that is a tensor, is a fixed number."""
    term, temperature = options["term"], options["temperature"]
    if term not in ("nca", "sct"):
        temperature = 1.0
    elif isinstance(temperature, Tensor):
        temperature_tensor(temperature, embeddings)
        temperature = 1.0
    has_margin, above = term in ("hinge", "ratio"), 0.0 if term == "ratio" else -math.inf
    return (
        check_temperature(temperature),
        check_finite("margin", options["margin"], above=above, like=embeddings) if has_margin else 0.0,
        check_finite("lam", options["lam"], like=embeddings) if term == "sct" else 0.0,
    )


def scalar_tensor(name: str, value: Any, like: Tensor, like_name: str, check: Callable[[Any], float]) -> Tensor:
    """``value``, a number or a tensor [], as float64 [] on the device of ``like``. Differentiable.

    ``check`` checks a number. The value of a tensor on a GPU is not checked, because the host would wait for it.
    """
    if not isinstance(value, Tensor):
        return like.new_full((), check(value), dtype=torch.float64)
    check_tensor(name, value, like)
    forbid_tangents(name, value)
    if value.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name} must be a number, or a tensor [] of a floating-point dtype, got {value.dtype}")
    if value.dim() != 0:
        raise ValueError(f"{name} must be a number or a tensor [], got {shape_of(value)}")
    if value.device != like.device:
        raise ValueError(f"{name} must be on the device of {like_name}, {like.device}, got {value.device}")
    if has_values(value):
        check(value.item())
    return value.to(torch.float64)


def temperature_tensor(temperature: Any, embeddings: Tensor, name: str = "embeddings") -> Tensor:
    """The temperature as float64 [] on the device of ``embeddings``. Differentiable."""
    return scalar_tensor("temperature", temperature, embeddings, name, check_temperature)


def with_row_numbers(ids: Tensor, number: Tensor) -> Tensor:
    """Ids [N] that exclude the same pairs, and every row itself: of a row without an id, N plus its ``number``."""
    return torch.where(ids >= 0, torch.searchsorted(ids.sort().values, ids), len(number) + number)
