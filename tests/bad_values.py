"""Declarations of options, and the values that each must refuse, for the tests of arguments."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest


class Option(NamedTuple):
    """An option of a function: its kind, its limits, and whether None is valid."""

    kind: str  # "integer", "number" or "flag"
    minimum: float | None = None
    maximum: float | None = None
    optional: bool = False


def integer(minimum: int, maximum: int | None = None, *, optional: bool = False) -> Option:
    return Option("integer", minimum, maximum, optional)


def number(minimum: float, maximum: float | None = None, *, optional: bool = False) -> Option:
    return Option("number", minimum, maximum, optional)


FLAG, OPTIONAL_FLAG = Option("flag"), Option("flag", optional=True)
THREADS = integer(1, 1024, optional=True)


def refused_by(option: Option) -> Iterator[tuple[Any, type[Exception]]]:
    """Invalid values of the option, each with its error."""
    wrong_types: list[Any] = ["3", [3], {}, object()]
    if option.kind == "flag":
        wrong_types += [0, 1, "yes", 1.0]
    else:
        wrong_types += [True, False, 1 + 0j]
    if option.kind == "integer":
        wrong_types += [2.0, math.nan]
    if not option.optional:
        wrong_types.append(None)
    yield from ((value, TypeError) for value in wrong_types)
    step = 1 if option.kind == "integer" else 1e-6
    if option.minimum is not None:
        yield option.minimum - step, ValueError
    if option.maximum is not None:
        yield option.maximum + step, ValueError
    if option.kind == "number":
        yield math.nan, ValueError


def each_refused(options: dict[str, dict[str, Option]]) -> pytest.MarkDecorator:
    """Parametrize a test by function, argument, invalid value and error, from the options of every function."""
    cases = [
        pytest.param(function, name, value, error, id=f"{function}-{name}-{type(value).__name__}-{value!r:.12}")
        for function, named in options.items()
        for name, option in named.items()
        for value, error in refused_by(option)
    ]
    return pytest.mark.parametrize(("function", "argument", "value", "error"), cases)
