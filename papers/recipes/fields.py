"""Strict conversion of TOML tables with msgspec, and errors that name recipe, key and value."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from papers._extras import require

if TYPE_CHECKING:
    import msgspec
else:
    msgspec = require("msgspec")

Section = TypeVar("Section")

# Numbers of TOML may be infinite, which no setting can be.
_FINITE = sys.float_info.max
AtLeast0 = Annotated[int, msgspec.Meta(ge=0)]
AtLeast1 = Annotated[int, msgspec.Meta(ge=1)]
AtLeast2 = Annotated[int, msgspec.Meta(ge=2)]
Pixels = Annotated[int, msgspec.Meta(ge=8)]
UpTo1024 = Annotated[int, msgspec.Meta(ge=1, le=1024)]
Seed = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=_FINITE)]
Above1 = Annotated[float, msgspec.Meta(gt=1, le=_FINITE)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=_FINITE)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Text = Annotated[str, msgspec.Meta(min_length=1)]


class RecipeError(ValueError):
    """A recipe or an override is invalid. The message names recipe, key and value, and the valid values."""


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A TOML table. Its keys are the attributes; those without a default are required. None means that it is left out.

    Each attribute is described in the docstring, from which the tables of all keys in `papers/README.md` are made.
    """


def parse_table(recipe: str, table: Any, kind: type[Section], section: str = "") -> Section:
    """Convert a TOML table to a subclass of :class:`Table`.

    Args:
        recipe: Name of the recipe in errors.
        table: The table.
        kind: The class.
        section: Dotted name of the table in errors; empty for the table of a file.

    Raises:
        RecipeError: Keys are unknown or missing, or a value has the wrong type or is out of range.
    """
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        # "Expected `int` >= 1 - at `$.schedule.milestones[0]`"; without a path, it is about the table itself
        message, keys = re.fullmatch(r"(.*?)(?: - at `\$([\w.-]*)[^`]*`)?", str(error), re.DOTALL).groups()
        keys = [key for key in (keys or "").split(".") if key]
        raise RecipeError(f"{recipe}: {_explained(message, keys, table, kind, section)}") from error


def check_keys(recipe: str, section: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
    """Check that all keys of a table are known. The error names the nearest known key, and all known keys."""
    known = list(known)
    for key in table:
        if key not in known:
            raise RecipeError(f"{recipe}: {_unknown(section, key, table[key], known)}")


def shown(value: Any) -> str:
    """The text of a value in errors; a section appears as its keys."""
    return f"{{{', '.join(map(str, value))}}}" if isinstance(value, Mapping) else repr(value)


def _explained(message: str, keys: list[str], table: Any, kind: type, section: str) -> str:
    """The text of an error of msgspec at a path of keys: the dotted key, the valid values, and the value."""
    info, value = msgspec.inspect.type_info(kind), table
    for key in keys:
        info = _fields(info, value).get(key, info)
        value = value.get(key)
        section = f"{section}.{key}" if section else key
    name = (re.search(r"field `(.*)`$", message, re.DOTALL) or [None, ""])[1]
    if message.startswith("Object contains unknown field"):
        return _unknown(section, name, value[name], _fields(info, value))
    if message.startswith("Object missing required field"):
        field = _fields(info, value).get(name)
        place = f"{section}.{name}" if section else name
        if isinstance(_without_none(field)[0], msgspec.inspect.StructType):
            return f"the section [{place}] is missing"
        return f"{place} is missing: it must be {expected(field)}"
    return f"{section} must be {expected(info)}, got {shown(value)}"


def _fields(info: Any, table: Any) -> dict[str, Any]:
    """The types of a table's keys; if its kind depends on a tag, of the kind that the table names."""
    kinds = _without_none(info)
    tag = kinds[0].tag_field
    tags = {tag: msgspec.inspect.LiteralType(tuple(kind.tag for kind in kinds))} if tag else {}
    named = [kind for kind in kinds if tag is None or kind.tag == table.get(tag)]
    return {**tags, **{field.name: field.type for kind in named for field in kind.fields}}


def _unknown(section: str, key: str, value: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(key), known, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return (
        f"unknown key {section}{'.' if section else ''}{key} = {shown(value)}{hint}; "
        f"the keys of {f'[{section}]' if section else 'a recipe'} are {', '.join(known)}"
    )


def expected(info: Any) -> str:
    """The valid values of a type of `msgspec.inspect`."""
    inspect = msgspec.inspect
    (info, *_) = _without_none(info)
    if isinstance(info, inspect.StructType):
        return "a table"
    if isinstance(info, inspect.VarTupleType):
        return f"a list, each item {expected(info.item_type)}"
    if isinstance(info, inspect.LiteralType):
        return f"one of {', '.join(info.values)}"
    if isinstance(info, inspect.BoolType):
        return "true or false"
    if isinstance(info, inspect.StrType):
        return "a string"
    bounds = [(info.gt, "above"), (info.ge, "from"), (info.le if info.le != _FINITE else None, "up to")]
    texts = [f"{word} {bound:.10g}" for bound, word in bounds if bound is not None]
    return " ".join(["an integer" if isinstance(info, inspect.IntType) else "a number", *texts])


def _without_none(info: Any) -> list[Any]:
    """The types of a union, except None."""
    types = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    return [kind for kind in types if not isinstance(kind, msgspec.inspect.NoneType)]
