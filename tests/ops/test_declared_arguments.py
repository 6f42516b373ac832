"""Every argument of every op, by its declaration: its valid values, and the error message for each invalid one."""

import inspect
import itertools
import re
from typing import get_args

import pytest

from declarations import ARGUMENTS, CALLS
from hardmine import ops, reference
from hardmine.types import AnySimilarity

each_argument = pytest.mark.parametrize(
    ("op", "argument"), [(op, argument) for op, arguments in ARGUMENTS.items() for argument in arguments]
)


def call(op: str, argument: str, value, library=ops, **options):
    return getattr(library, op)(**{**CALLS[op], **options, argument: value})


def test_declarations_cover_every_op_argument():
    assert ARGUMENTS.keys() == CALLS.keys() == {name for name in ops.__all__ if name.islower()}
    for op, arguments in ARGUMENTS.items():
        assert inspect.signature(getattr(ops, op)).parameters.keys() == arguments.keys(), op


@each_argument
def test_argument_valid_values_are_accepted(op, argument):
    kind = ARGUMENTS[op][argument]
    values = kind.valid()
    assert values
    for value in values:
        call(op, argument, value, **kind.setting())


@each_argument
def test_argument_invalid_values_raise_by_name(op, argument):
    kind = ARGUMENTS[op][argument]
    for wrong in kind.invalid():
        with pytest.raises(wrong.error, match=f"^{re.escape(f'{argument} {wrong.words}')}$"):
            call(op, argument, wrong.value, **{**kind.setting(), **wrong.with_options})


def similarity_error(library, op: str, value) -> str:
    try:
        call(op, "similarity", value, library)
    except ValueError as error:
        return str(error) if str(error).startswith("similarity ") else ""
    return ""


@pytest.mark.parametrize("op", [op for op, arguments in ARGUMENTS.items() if "similarity" in arguments])
def test_reference_similarity_is_refused_as_by_the_op(op):
    refused = 0
    for value in (*get_args(AnySimilarity), "cos", None, 1):
        expected = similarity_error(ops, op, value)
        assert similarity_error(reference, op, value) == expected, value
        refused += expected != ""
    assert refused >= 3


@pytest.mark.parametrize("library", [ops, reference], ids=["ops", "reference"])
@pytest.mark.parametrize(
    ("op", "argument"),
    [
        (op, argument)
        for op, arguments in ARGUMENTS.items()
        for argument, kind in arguments.items()
        if kind.only_with and argument != "margin_labels"  # margin_labels need a table: see test_margin_tables.py
    ],
)
def test_option_without_effect_raises_naming_its_owner(library, op, argument):
    kind = ARGUMENTS[op][argument]
    names = {decider: [n for n in ARGUMENTS[op][decider].names if n not in v] for decider, v in kind.only_with.items()}
    *others, last = map(repr, next(iter(kind.only_with.values())))
    users = f"{', '.join(others)} and {last} use" if others else f"{last} uses"
    settings = [dict(zip(names, values, strict=True)) for values in itertools.product(*names.values())]
    assert settings
    for setting in settings:
        beside = " and ".join(f"{decider}={name!r}" for decider, name in setting.items())
        call(op, argument, None, library, **setting)
        for value in kind.valid()[:-1]:
            shown = repr(value) if isinstance(value, str | int | float | tuple | list) else type(value).__name__
            message = f"{argument} must be None with {beside}: only {users} it, got {shown}"
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                call(op, argument, value, library, **setting)


@pytest.mark.parametrize("op", ARGUMENTS)
def test_op_unknown_or_positional_option_raises(op):
    with pytest.raises(TypeError, match="'marginn'"):
        call(op, "marginn", 0.1)
    given = list(CALLS[op].values())
    with pytest.raises(TypeError, match="positional"):
        getattr(ops, op)(*given, *[None] * (4 - len(given)), "hardest")
