"""The kinds of arguments that ops have: valid values of each kind, and invalid ones with the error message."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor

from support.inputs import seeded

FLOAT_NAMES = "float32, float64, float16 or bfloat16"
INTEGER_DTYPES = ("uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64")


class Wrong(NamedTuple):
    """An invalid value, its error, and the part of the message that follows the argument's name."""

    value: Any
    error: type[Exception]
    words: str
    with_options: dict[str, Any] = {}  # noqa: RUF012 (a default of a named tuple is not changed)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The kind of an argument: its valid and invalid values."""

    # Other options, with the values beside which the argument has an effect; one of them is enough.
    only_with: dict[str, tuple] = field(default_factory=dict)
    # Other options that every call of a test of the argument gets.
    beside: dict[str, Any] = field(default_factory=dict)
    optional: bool = False  # None is valid
    more_wrong: tuple[Wrong, ...] = ()

    def setting(self) -> dict[str, Any]:
        """Options beside which the argument has an effect."""
        first = {option: values[0] for option, values in list(self.only_with.items())[:1]}
        return {**self.beside, **first}

    def valid(self) -> list[Any]:
        """Valid values, including those at the bounds."""
        return [*self._valid(), *([None] if self.optional or self.only_with else [])]

    def invalid(self) -> Iterator[Wrong]:
        """Invalid values: wrong types, and numbers just outside the bounds."""
        yield from self._invalid()
        if not (self.optional or self.only_with or any(wrong.value is None for wrong in self.more_wrong)):
            yield self._wrong_none()
        yield from self.more_wrong

    def _valid(self) -> list[Any]:
        raise NotImplementedError

    def _invalid(self) -> Iterator[Wrong]:
        raise NotImplementedError

    def _wrong_none(self) -> Wrong:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Choice(Kind):
    """One of several names."""

    names: tuple
    listed: tuple = ()  # the names in the message, if it lists more than those

    def _valid(self) -> list[Any]:
        return list(self.names)

    def _refused(self, value: Any) -> Wrong:
        names = (None, *self.names) if self.optional else self.listed or self.names
        return Wrong(value, ValueError, f"must be one of {', '.join(map(repr, names))}, got {value!r}")

    def _invalid(self) -> Iterator[Wrong]:
        for value in ("", self.names[0].upper(), f"{self.names[0]} ", True, 0, 0.5, list(self.names), math.nan):
            yield self._refused(value)
        for value in (numpy.array(self.names), numpy.array(self.names[:1]), torch.zeros(2)):
            yield self._refused(value)

    def _wrong_none(self) -> Wrong:
        return self._refused(None)


@dataclass(frozen=True, kw_only=True)
class Number(Kind):
    """A real number, not NaN, greater than ``above``."""

    above: float = -math.inf
    finite: bool = True
    values: tuple = (1, 0.5, numpy.float32(0.5), numpy.int64(1), Fraction(1, 2))

    def _valid(self) -> list[Any]:
        return [*self.values, *((-1.5, 0) if self.above == -math.inf else ())]

    def _invalid(self) -> Iterator[Wrong]:
        for value in ("1", True, torch.tensor(0.5), [0.5], 1j, numpy.array([0.5, 1.0])):
            yield Wrong(value, TypeError, f"must be a number, got {type(value).__name__}")
        limit = "" if self.above == -math.inf else f" > {self.above:g}"
        outside = () if self.above == -math.inf else (self.above, self.above - 0.1, int(self.above) - 1, -math.inf)
        for value in (math.nan, numpy.float32(math.nan), *outside):
            yield Wrong(value, ValueError, f"must be a number{limit}, got {value}")
        infinite = (math.inf, -math.inf) if self.above == -math.inf else (math.inf,)
        for value in infinite if self.finite else ():
            yield Wrong(value, ValueError, f"must be a finite number, got {value}")

    def _wrong_none(self) -> Wrong:
        return Wrong(None, TypeError, "must be a number, got NoneType")


@dataclass(frozen=True, kw_only=True)
class BoundedNumber(Number):
    """A number from ``low`` to ``high``."""

    low: float
    high: float
    finite: bool = False  # infinity gets the same error as other numbers beyond the limits

    def _valid(self) -> list[Any]:
        return [*self.values, self.low, self.high, 0]

    def _invalid(self) -> Iterator[Wrong]:
        yield from super()._invalid()
        for value in (self.low - 0.01, self.high + 0.01, math.inf, -math.inf):
            yield Wrong(value, ValueError, f"must be a number from {self.low:g} to {self.high:g}, got {value}")


@dataclass(frozen=True, kw_only=True)
class Ranks(Kind):
    """A pair of ranks from 1 to 1024."""

    def _valid(self) -> list[Any]:
        return [(1, 1), (2, 3), [1, 1024], (numpy.int64(1), 5)]

    def _invalid(self) -> Iterator[Wrong]:
        for value in (5, "12", {1, 2}):
            yield Wrong(value, TypeError, f"must be a tuple (first, last), got {type(value).__name__}")
        for value in ((), (1,), (1, 2, 3), (0, 1), (3, 2), (1, 1025), (-2, 2)):
            yield Wrong(value, ValueError, f"must be (first, last) with 1 <= first <= last <= 1024, got {value!r}")
        yield Wrong((1.0, 2), TypeError, "must hold integers, got float")
        yield Wrong((1, True), TypeError, "must hold integers, got bool")


@dataclass(frozen=True, kw_only=True)
class Temperature(Number):
    """A number by which similarities can be divided in float32."""

    values: tuple = (1, 0.5, numpy.float32(0.5), Fraction(1, 2), 1e-30, 1e30)

    def _valid(self) -> list[Any]:
        return list(self.values)

    def _invalid(self) -> Iterator[Wrong]:
        yield from (wrong for wrong in super()._invalid() if wrong.error is TypeError)
        for value in (0, 0.0, -1, 1e-31, 1e31, math.inf, -math.inf, math.nan):
            yield Wrong(value, ValueError, f"must be a number from 1e-30 to 1e+30, got {value}")


@dataclass(frozen=True, kw_only=True)
class SoftTemperature(Temperature):
    """The same, or a tensor [] of it, which may get a gradient."""

    like: str = "embeddings"

    def _valid(self) -> list[Any]:
        tensors = [torch.tensor(0.5, dtype=dtype) for dtype in (torch.float16, torch.float32, torch.float64)]
        return [*super()._valid(), *tensors, torch.tensor(0.5, requires_grad=True)]

    def _invalid(self) -> Iterator[Wrong]:
        yield from (wrong for wrong in super()._invalid() if not isinstance(wrong.value, Tensor))
        limits = "must be a number from 1e-30 to 1e+30, got "
        for value in (0.0, -1.0, math.inf, math.nan):
            yield Wrong(torch.tensor(value), ValueError, limits + str(value))
        for value in (torch.ones(2), torch.ones(1), torch.ones(1, 1)):
            yield Wrong(value, ValueError, f"must be a number or a tensor [], got {list(value.shape)}")
        for dtype in (torch.int64, torch.bool, torch.complex64):
            words = f"must be a number, or a tensor [] of a floating-point dtype, got {dtype}"
            yield Wrong(torch.tensor(1, dtype=dtype), TypeError, words)
        yield Wrong(torch.ones((), device="meta"), ValueError, f"must be on the device of {self.like}, cpu, got meta")


@dataclass(frozen=True, kw_only=True)
class FiniteOrTensor(Number):
    """A finite number, or a tensor [] of it, which may get a gradient."""

    like: str

    def _valid(self) -> list[Any]:
        return [*super()._valid(), torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.5, requires_grad=True)]

    def _invalid(self) -> Iterator[Wrong]:
        yield from (wrong for wrong in super()._invalid() if not isinstance(wrong.value, Tensor))
        yield Wrong(torch.tensor(math.nan), ValueError, "must be a number, got nan")
        yield Wrong(torch.tensor(math.inf), ValueError, "must be a finite number, got inf")
        yield Wrong(torch.ones(2), ValueError, "must be a number or a tensor [], got [2]")
        words = "must be a number, or a tensor [] of a floating-point dtype, got torch.int64"
        yield Wrong(torch.tensor(1), TypeError, words)
        yield Wrong(torch.ones((), device="meta"), ValueError, f"must be on the device of {self.like}, cpu, got meta")


@dataclass(frozen=True, kw_only=True)
class NumberOrTable(Number):
    """A finite number, or a tensor; tables have their own tests."""

    def _invalid(self) -> Iterator[Wrong]:
        yield from (wrong for wrong in super()._invalid() if not isinstance(wrong.value, Tensor))


@dataclass(frozen=True, kw_only=True)
class Group(Kind):
    """A process group; tests/distributed/ has the tests of valid ones."""

    optional: bool = True

    def _valid(self) -> list[Any]:
        return []

    def _invalid(self) -> Iterator[Wrong]:
        for value in ("gloo", 0, True, torch.zeros(2)):
            kind = type(value).__name__
            yield Wrong(value, TypeError, f"must be a torch.distributed.ProcessGroup or None, got {kind}")


@dataclass(frozen=True, kw_only=True)
class GradientReduction(Kind):
    """How gradients are reduced over the ranks of a group, without a group."""

    optional: bool = True

    def _valid(self) -> list[Any]:
        return []

    def _invalid(self) -> Iterator[Wrong]:
        for value in ("mean", "sum", "none", 0, False):
            yield Wrong(value, ValueError, f"must be None without group, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Integer(Kind):
    """An integer from ``lower`` to ``upper``."""

    lower: int
    upper: int

    def _valid(self) -> list[Any]:
        return [self.lower, self.upper, numpy.int64(self.lower)]

    def _invalid(self) -> Iterator[Wrong]:
        for value in ("1", True, 2.0, math.nan, math.inf, torch.tensor(2), [2]):
            yield Wrong(value, TypeError, f"must be an integer, got {type(value).__name__}")
        for value in (self.lower - 1, -self.upper, self.upper + 1, 2**64):
            if not self.lower <= value <= self.upper:
                yield Wrong(value, ValueError, f"must be from {self.lower} to {self.upper}, got {value}")

    def _wrong_none(self) -> Wrong:
        return Wrong(None, TypeError, "must be an integer, got NoneType")


@dataclass(frozen=True, kw_only=True)
class Flag(Kind):
    """True or False."""

    def _valid(self) -> list[Any]:
        return [True, False, numpy.True_, numpy.False_]

    def _refused(self, value: Any) -> Wrong:
        choices = "True, False or None" if self.optional else "True or False"
        return Wrong(value, TypeError, f"must be {choices}, got {value!r}")

    def _invalid(self) -> Iterator[Wrong]:
        for value in (1, 0.0, "no", torch.tensor(True), numpy.array([True])):
            yield self._refused(value)

    def _wrong_none(self) -> Wrong:
        return self._refused(None)


@dataclass(frozen=True, kw_only=True)
class Generator(Kind):
    """A torch generator on the device of the embeddings."""

    optional: bool = True

    def _valid(self) -> list[Any]:
        return [seeded(0)]

    def _invalid(self) -> Iterator[Wrong]:
        for value in (3, True, torch, torch.Generator, numpy.random.default_rng()):
            yield Wrong(value, TypeError, f"must be a torch.Generator or None, got {type(value).__name__}")


@dataclass(frozen=True, kw_only=True)
class Rows(Kind):
    """A floating-point matrix [rows, D]; its dtype and depth match the argument named ``like``, if there is one."""

    rows: int
    like: str | None = None
    dims: tuple[int, ...] = (2,)  # the tests of other dimensions are declared with the argument

    def _right(self) -> Tensor:
        return torch.randn(self.rows, 3, generator=seeded(self.rows))

    def _valid(self) -> list[Any]:
        return [self._right(), torch.randn(3, self.rows, generator=seeded(0)).T, self._right().requires_grad_()]

    def _invalid(self) -> Iterator[Wrong]:
        x = self._right()
        for value in (x.tolist(), x.numpy(), 3, "x"):
            yield Wrong(value, TypeError, f"must be a torch.Tensor, got {type(value).__name__}")
        yield Wrong(x.to_sparse(), TypeError, "must be a dense tensor, got layout torch.sparse_coo")
        for dtype in (torch.int32, torch.int64, torch.bool, torch.complex64):
            yield Wrong(x.to(dtype), TypeError, f"must be {FLOAT_NAMES}, got {dtype}")
        for value in (x[0], x[0, 0], x[None]) if self.dims == (2,) else ():
            hint = "; torch.vmap takes a batch of problems" if value.dim() == 3 else ""
            yield Wrong(value, ValueError, f"must be [rows, D], got {list(value.shape)}{hint}")
        yield Wrong(x[:, :0], ValueError, f"must be [rows, D] with D >= 1, got [{self.rows}, 0]")
        if self.like:
            words = f"must be [M, D] with the D = 3 of {self.like}, got [{self.rows}, 2]"
            yield Wrong(x[:, :2], ValueError, words)
            for dtype in (torch.float64, torch.float16, torch.bfloat16):
                words = f"must have the dtype of {self.like}, torch.float32, got {dtype}"
                yield Wrong(x.to(dtype), TypeError, words)
            yield Wrong(x.to("meta"), ValueError, f"must be on the device of {self.like}, cpu, got meta")

    def _wrong_none(self) -> Wrong:
        return Wrong(None, TypeError, "must be a torch.Tensor, got NoneType")


@dataclass(frozen=True, kw_only=True)
class Labels(Kind):
    """One integer per row of the embeddings."""

    right: Tensor
    size: str = "B"
    device_of: str = "the embeddings"

    def _valid(self) -> list[Any]:
        return [self.right.to(getattr(torch, dtype)) for dtype in INTEGER_DTYPES]

    def _invalid(self) -> Iterator[Wrong]:
        y, rows = self.right, len(self.right)
        for value in (y.tolist(), y.numpy(), 3):
            yield Wrong(value, TypeError, f"must be a torch.Tensor, got {type(value).__name__}")
        yield Wrong(["a"] * rows, TypeError, "must be a torch.Tensor, got list of str")
        for dtype in (torch.float32, torch.float64, torch.bool, torch.complex64):
            yield Wrong(y.to(dtype), TypeError, f"must have an integer dtype, got {dtype}")
        for value in (y[:-1], torch.cat([y, y]), y[:, None], y[0]):
            yield Wrong(value, ValueError, f"must be [{self.size}] = [{rows}], got {list(value.shape)}")
        yield Wrong(y.to("meta"), ValueError, f"must be on the device of {self.device_of}, cpu, got meta")

    def _wrong_none(self) -> Wrong:
        return Wrong(None, TypeError, "must be a torch.Tensor, got NoneType")


@dataclass(frozen=True, kw_only=True)
class Weights(Kind):
    """One finite number >= 0 per row of the embeddings."""

    right: Tensor
    optional: bool = True
    like: str = "the embeddings"

    def _valid(self) -> list[Any]:
        dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
        return [*(self.right.to(dtype) for dtype in dtypes), self.right * 0, self.right.clone().requires_grad_()]

    def _invalid(self) -> Iterator[Wrong]:
        w, rows = self.right, len(self.right)
        for value in (w.tolist(), w.numpy(), 3):
            yield Wrong(value, TypeError, f"must be a torch.Tensor, got {type(value).__name__}")
        for dtype in (torch.int64, torch.bool, torch.complex64):
            yield Wrong(w.to(dtype), TypeError, f"must be {FLOAT_NAMES}, got {dtype}")
        for value in (w[:-1], torch.cat([w, w]), w[:, None], w[0]):
            yield Wrong(value, ValueError, f"must be [B] = [{rows}], got {list(value.shape)}")
        yield Wrong(w.to("meta"), ValueError, f"must be on the device of {self.like}, cpu, got meta")
        for value in (-1.0, -math.inf, math.inf, math.nan):
            words = f"must be finite and at least 0, got {value} at [1]"
            yield Wrong(w.index_fill(0, torch.tensor([1]), value), ValueError, words)


@dataclass(frozen=True, kw_only=True)
class Triplets(Kind):
    """Row indices of the embeddings, [T, 3]."""

    right: Tensor

    def _valid(self) -> list[Any]:
        return [*(self.right.to(getattr(torch, dtype)) for dtype in INTEGER_DTYPES), self.right[:0]]

    def _invalid(self) -> Iterator[Wrong]:
        t = self.right
        for value in (t.tolist(), t.numpy(), 3):
            yield Wrong(value, TypeError, f"must be a torch.Tensor, got {type(value).__name__}")
        for dtype in (torch.float32, torch.bool):
            yield Wrong(t.to(dtype), TypeError, f"must have an integer dtype, got {dtype}")
        for value in (t[0], t[:, :2], t[None], torch.cat([t, t], 1)):
            yield Wrong(value, ValueError, f"must be [T, 3], got {list(value.shape)}")
        yield Wrong(t.to("meta"), ValueError, "must be on the device of embeddings, cpu, got meta")

    def _wrong_none(self) -> Wrong:
        return Wrong(None, TypeError, "must be a torch.Tensor, got NoneType")
