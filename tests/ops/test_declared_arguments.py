"""Every argument of every op, by its declaration: what it takes, and the words with which it refuses the rest."""

import inspect
import re

import pytest
import torch

from argument_kinds import Choice
from declarations import ARGUMENTS, CALLS, SILENT
from hardmine import ops

each_argument = pytest.mark.parametrize(
    ("op", "argument"), [(op, argument) for op, arguments in ARGUMENTS.items() for argument in arguments]
)


def call(op: str, argument: str, value, **options):
    return getattr(ops, op)(**{**CALLS[op], **options, argument: value})


def test_declaration_of_every_op_has_its_arguments():
    assert ARGUMENTS.keys() == CALLS.keys() == {name for name in ops.__all__ if name.islower()}
    for op, arguments in ARGUMENTS.items():
        assert inspect.signature(getattr(ops, op)).parameters.keys() == arguments.keys(), op


@each_argument
def test_argument_of_a_right_value_is_taken(op, argument):
    kind = ARGUMENTS[op][argument]
    values = kind.valid()
    assert values
    for value in values:
        call(op, argument, value, **kind.setting())


@each_argument
def test_argument_of_a_wrong_value_is_an_error_that_names_it(op, argument):
    kind = ARGUMENTS[op][argument]
    for wrong in kind.invalid():
        with pytest.raises(wrong.error, match=f"^{re.escape(f'{argument} {wrong.words}')}$"):
            call(op, argument, wrong.value, **{**kind.setting(), **wrong.with_options})


@pytest.mark.parametrize(
    ("op", "argument"),
    [
        (op, argument)
        for op, arguments in ARGUMENTS.items()
        for argument, kind in arguments.items()
        if kind.only_with and argument not in SILENT
    ],
)
def test_option_that_does_nothing_is_an_error_that_names_it(op, argument):
    kind = ARGUMENTS[op][argument]
    settings = [{}]
    for decider, values in kind.only_with.items():
        declared = ARGUMENTS[op][decider]
        others = [name for name in declared.names if name not in values] if isinstance(declared, Choice) else [0.2]
        settings = [{**setting, decider: other} for setting in settings for other in others]
    assert settings
    for setting in settings:
        for value in kind.valid():
            if value is None:
                call(op, argument, None, **setting)
                continue
            with pytest.raises(ValueError, match=rf"^{argument} must be None .*, got ") as error:
                call(op, argument, value, **setting)
            shown = type(value).__name__ if isinstance(value, torch.Tensor | torch.Generator) else str(value)
            assert str(error.value).endswith((f"got {shown}", f"got {value!r}"))


@pytest.mark.parametrize("op", ARGUMENTS)
def test_argument_that_there_is_not_is_named(op):
    with pytest.raises(TypeError, match="'marginn'"):
        call(op, "marginn", 0.1)
    given = list(CALLS[op].values())
    with pytest.raises(TypeError, match="positional"):
        getattr(ops, op)(*given, *[None] * (4 - len(given)), "hardest")
