"""Strict conversion of TOML tables to dataclasses: the valid keys and values of a section, and the errors."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Section = TypeVar("Section")


class RecipeError(ValueError):
    """A recipe or an override is invalid. The message names recipe, key and value, and the valid values."""


def number(
    at_least: float | None = None, *, above: float | None = None, at_most: float | None = None, **default: Any
) -> Any:
    """A field for a bounded number; an integer if its annotation is an integer type."""
    bounds = {"at_least": at_least, "above": above, "at_most": at_most}
    return dataclasses.field(metadata={k: v for k, v in bounds.items() if v is not None}, **default)


def one_of(*choices: str, **default: Any) -> Any:
    """A field for one of several names."""
    return dataclasses.field(metadata={"choices": choices}, **default)


def parse_section(recipe: str, section: str, kind: type[Section], table: Any) -> Section:
    """Convert a section of a recipe to its dataclass.

    Args:
        recipe: Name of the recipe in errors.
        section: Name of the section.
        kind: A dataclass. Its fields are annotated with int, float, str, bool, tuples of these, or one of these and
            None. None means that the key is left out.
        table: The section's TOML table.

    Raises:
        RecipeError: Keys are unknown or missing, or a value has the wrong type or is out of range.
    """
    if not isinstance(table, Mapping):
        raise RecipeError(f"{recipe}: {section} must be a section, [{section}], got {table!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    check_keys(recipe, section, table, fields)
    annotations = typing.get_type_hints(kind)
    values = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _checked(recipe, f"{section}.{name}", table[name], annotations[name], field.metadata)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise RecipeError(
                f"{recipe}: {section}.{name} is missing: it must be {_expected(annotations[name], field.metadata)}"
            )
    return kind(**values)


def check_keys(recipe: str, section: str, table: Mapping[str, Any], known: typing.Iterable[str]) -> None:
    """Check that all keys of a table are known. The error names the nearest known key, and all known keys."""
    known = list(known)
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            place = f"{section}.{key}" if section else str(key)
            raise RecipeError(
                f"{recipe}: unknown key {place} = {shown(table[key])}{hint}; "
                f"the keys of {f'[{section}]' if section else 'a recipe'} are {', '.join(known)}"
            )


def shown(value: Any) -> str:
    """The text of a value in errors; a section appears as its keys."""
    return f"{{{', '.join(map(str, value))}}}" if isinstance(value, Mapping) else repr(value)


def _checked(recipe: str, key: str, value: Any, annotation: Any, metadata: Mapping[str, Any]) -> Any:
    converted = _converted(value, _without_none(annotation), metadata)
    if converted is None:
        raise RecipeError(f"{recipe}: {key} must be {_expected(annotation, metadata)}, got {shown(value)}")
    return converted


def _converted(value: Any, kind: Any, metadata: Mapping[str, Any]) -> Any:
    """The value converted to the field's type, or None if it is invalid."""
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            return None
        item_kind = typing.get_args(kind)[0]
        items = tuple(_converted(item, item_kind, metadata) for item in value)
        return None if None in items else items
    if kind is bool:
        return value if isinstance(value, bool) else None
    if kind is str:
        valid = isinstance(value, str) and value and value in metadata.get("choices", (value,))
        return value if valid else None
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        return None
    in_range = (
        metadata.get("at_least", -math.inf) <= value <= metadata.get("at_most", math.inf)
        and metadata.get("above", -math.inf) < value
        and math.isfinite(value)
    )
    return kind(value) if in_range else None


def _expected(annotation: Any, metadata: Mapping[str, Any]) -> str:
    kind = _without_none(annotation)
    if typing.get_origin(kind) is tuple:
        return f"a list, each item {_expected(typing.get_args(kind)[0], metadata)}"
    if kind is bool:
        return "true or false"
    if kind is str:
        choices = metadata.get("choices")
        return f"one of {', '.join(choices)}" if choices else "a string"
    bounds = [
        text.format(metadata[name])
        for name, text in {"above": "above {:g}", "at_least": "from {:g}", "at_most": "up to {:g}"}.items()
        if name in metadata
    ]
    return " ".join(["an integer" if kind is int else "a number", *bounds])


def _without_none(annotation: Any) -> Any:
    if isinstance(annotation, types.UnionType):
        return next(kind for kind in typing.get_args(annotation) if kind is not type(None))
    return annotation
