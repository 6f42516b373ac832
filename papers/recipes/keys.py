"""`python -m papers.recipes.keys`: the table of all keys of recipes in `papers/README.md`, made from the classes."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

from papers.recipes.experiment import Section
from papers.recipes.fields import expected, msgspec
from papers.recipes.recipe import Settings
from papers.recipes.sections import SAMPLERS, Data, Evaluation, Network, Optimizer, Schedule, Tree

_TABLES = {
    "": Settings,
    "[data]": Data,
    "[network]": Network,
    **{f'[sampler] kind = "{kind}"': section for kind, section in SAMPLERS.items()},
    "[tree]": Tree,
    "[optimizer]": Optimizer,
    "[schedule]": Schedule,
    "[evaluation]": Evaluation,
    "[experiment]": Section,
}


def markdown() -> str:
    """The tables in Markdown: every key with its valid values, its default and its meaning."""
    rows = ["| key | must be | default | meaning |", "|---|---|---|---|"]
    for title, kind in _TABLES.items():
        if title:
            rows.append(f"| **`{title}`** | | | |")
        meanings = _meanings(kind)
        for field in msgspec.inspect.type_info(kind).fields:
            if meanings[field.name] != "See below.":
                default = "required" if field.required else _toml(field)
                rows.append(f"| `{field.name}` | {expected(field.type)} | {default} | {meanings[field.name]} |")
    return "\n".join(rows) + "\n"


def _meanings(kind: type) -> dict[str, str]:
    """The descriptions of the attributes in a docstring."""
    text = inspect.getdoc(kind).partition("Attributes:\n")[2]
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", text, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", meaning).replace("|", "\\|") for name, meaning in entries}


def _toml(field: Any) -> str:
    """A default as TOML; nothing if the key is left out."""
    value = field.default
    return "" if value is None or value == "" else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    print(markdown(), end="")  # noqa: T201
