"""Recipes: training settings in a TOML file."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from papers._extras import require
from papers.networks import find_backbone
from papers.recipes.fields import RecipeError, Seed, Table, Text, msgspec, parse_table, shown
from papers.recipes.losses import LOSSES, SMART, Loss, option_names, parse_loss
from papers.recipes.sections import (
    SAMPLERS,
    TENSOR_SETS,
    AnchorNeighbor,
    ClassBalanced,
    Data,
    Evaluation,
    Network,
    Optimizer,
    Schedule,
    Tree,
    Triplets,
)

FOLDER = Path(__file__).parent
EXPERIMENT = "experiment"


class Settings(Table):
    """The table of a recipe.

    Attributes:
        data: See below.
        network: See below.
        sampler: See below.
        loss: See below.
        optimizer: See below.
        schedule: See below.
        tree: See below.
        evaluation: See below.
        title: Name of the training in legends and tables; by default the name of the loss.
        seed: Seed of weights, batches, crops and random choices.
    """

    data: Data
    network: Network
    sampler: ClassBalanced | AnchorNeighbor | Triplets
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    tree: Tree = Tree()
    evaluation: Evaluation = Evaluation()
    title: Text = ""
    seed: Seed = 0


class Recipe(Settings, kw_only=True):
    """All settings of a training: equal recipe, data and number of threads give equal weights bit for bit.

    Attributes:
        name: Name of the file, without the extension. All others are those of the table.
    """

    name: str

    def as_dict(self) -> dict[str, Any]:
        """All settings, including defaults, as plain values; equal for recipes that train alike."""
        settings = msgspec.to_builtins(self)
        del settings["name"]
        return settings | {"loss": {"name": self.loss.name, **self.loss.options}}


def recipe_names() -> list[str]:
    """The included recipes, and those of experiments."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.toml"))


def load_recipe(source: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe strictly.

    Args:
        source: Name of an included recipe, or a TOML file.
        overrides: Values that replace the file's, `"loss.lam=0.1"`, as TOML. Strings may lack quotes.

    Raises:
        FileNotFoundError: The recipe does not exist.
        RecipeError: The file is not TOML, a key is unknown or missing, or a value is invalid. The message names recipe,
            key and value, and the valid values.
        ModuleNotFoundError: On Python 3.10, tomli is not installed.
    """
    with refused_if_deep(source):
        name, table = read_table(source)
        table.pop(EXPERIMENT, None)
        return parse_recipe(name, apply_overrides(name, table, overrides))


@contextmanager
def refused_if_deep(source: str | os.PathLike[str]) -> Iterator[None]:
    """Report tables and lists that are nested too deeply for Python's stack as an invalid recipe."""
    try:
        yield
    except RecursionError:
        raise RecipeError(f"{os.fspath(source)}: tables and lists, also of overrides, are nested too deeply") from None


def read_table(source: str | os.PathLike[str]) -> tuple[str, dict[str, Any]]:
    """The name of a recipe, and its unchecked TOML table."""
    path = Path(source)
    if not path.is_file():
        path = FOLDER / f"{os.fspath(source).removesuffix('.toml')}.toml"
    if not path.is_file():
        raise FileNotFoundError(
            f"recipe must be a TOML file or one of {', '.join(recipe_names())}, got {os.fspath(source)!r}"
        )
    toml = _toml()
    try:
        return path.stem, toml.loads(path.read_text(encoding="utf-8"))
    except (toml.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} must be TOML: {error}") from error


def apply_overrides(name: str, table: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of the table with other values, given as `section.key=value`."""
    values = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"{name}: an override must be section.key=value, got {text!r}")
        values[key.strip()] = _toml_value(value.strip())
    return set_values(name, table, values)


def set_values(name: str, table: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the table with some values set, by dotted key.

    If a section gets another sampler or loss, it keeps those of its other keys that the new one also has.
    """
    changed = copy.deepcopy(dict(table))
    for key in values:
        *sections, last = key.split(".")
        target = changed
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise RecipeError(f"{name}: {key} = {shown(values[key])}: {section} is a value, not a section")
        target[last] = copy.deepcopy(values[key])  # a later key may change a part of it
        known = _known_keys(key, values[key])
        if known is not None:
            changed[sections[0]] = {option: value for option, value in target.items() if option in known}
    return changed


def _known_keys(key: str, value: Any) -> set[str] | None:
    """The valid keys of the section if `key` = `value` selects its kind of sampler or loss, else None."""
    if key == "sampler.kind" and isinstance(value, str) and value in SAMPLERS:
        return {"kind", *SAMPLERS[value].__struct_fields__}
    if key == "loss.name" and value in LOSSES:
        return {"name", *option_names(value)}
    return None


def parse_recipe(name: str, table: Mapping[str, Any]) -> Recipe:
    """Parse a recipe from its table, or from :meth:`Recipe.as_dict`; see :func:`load_recipe`."""
    if "loss" in table:
        table = {**table, "loss": parse_loss(name, table["loss"])}
        table.setdefault("title", table["loss"].name)
    settings = msgspec.structs.asdict(parse_table(name, table, Settings))
    settings["title"] = settings["title"].strip()
    if not settings["title"] or not settings["title"].isprintable():
        raise RecipeError(f"{name}: title must be one line of text, got {table['title']!r}")
    recipe = Recipe(name=name, **settings)
    _check_consistency(recipe)
    return recipe


def with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a saved run, from :meth:`Recipe.as_dict`, with the defaults of all keys added since then.

    The default of a new key must therefore equal the behavior before the key existed. Settings that are no valid recipe
    today stay unchanged.
    """
    try:
        return parse_recipe("", settings).as_dict()
    except RecipeError:
        return dict(settings)


def _check_consistency(recipe: Recipe) -> None:
    """Check that the sections are consistent."""
    name, loss, sampler, schedule = recipe.name, recipe.loss, recipe.sampler, recipe.schedule
    selected = {"positive", "negative"} & loss.options.keys()
    if isinstance(sampler, Triplets):
        if loss.name != SMART:
            raise RecipeError(f"{name}: loss.name must be {SMART} with sampler.kind = 'triplets', got {loss.name!r}")
        if selected:
            raise RecipeError(f"{name}: loss.{min(selected)} must be omitted with sampler.kind = 'triplets'")
        _check_kappa(name, sampler)
    elif loss.name == SMART and len(selected) < 2:
        raise RecipeError(
            f"{name}: loss.positive and loss.negative must select the triplets of a batch for {SMART}, "
            f"unless sampler.kind = 'triplets', got {', '.join(selected) or 'neither'}"
        )
    convnet, tensors = recipe.network.backbone == "convnet4", recipe.data.name in TENSOR_SETS
    if convnet != tensors:
        raise RecipeError(
            f"{name}: network.backbone must be convnet4 if and only if data.name is {' or '.join(TENSOR_SETS)}, "
            f"got {recipe.network.backbone!r} and {recipe.data.name!r}"
        )
    if not convnet:
        try:
            find_backbone(recipe.network.backbone)
        except ValueError as error:
            raise RecipeError(f"{name}: network.backbone: {error}") from error
    if convnet and recipe.network.frozen:
        raise RecipeError(f"{name}: network.frozen must be false with convnet4, because its weights are random")
    if recipe.network.frozen and recipe.network.weights == "random":
        raise RecipeError(f"{name}: network.weights must be trained weights with network.frozen, got 'random'")
    if recipe.network.frozen_statistics:
        _check_statistics(name, recipe.network)
    if recipe.data.features is not None and not recipe.network.frozen:
        raise RecipeError(f"{name}: network.frozen must be true with data.features, got false")
    if recipe.data.crop is not None and recipe.data.crop > recipe.data.size:
        raise RecipeError(f"{name}: data.crop must be at most data.size = {recipe.data.size}, got {recipe.data.crop}")
    if schedule.every is not None and schedule.milestones:
        raise RecipeError(f"{name}: schedule.milestones and schedule.every exclude each other, got both")
    if list(schedule.milestones) != sorted(set(schedule.milestones)):
        raise RecipeError(f"{name}: schedule.milestones must be ascending, got {list(schedule.milestones)}")


def _check_kappa(name: str, sampler: Triplets) -> None:
    """Check the options of kappa's controller."""
    for key in ("target_error", "window", "soft_kappa", "max_step", "min_gain", "max_gain"):
        if sampler.kappa and getattr(sampler, key) != getattr(Triplets(), key):
            raise RecipeError(
                f"{name}: sampler.{key} must be omitted with sampler.kappa, which replaces the controller, "
                f"got {shown(getattr(sampler, key))}"
            )
    if sampler.min_gain > sampler.max_gain:
        raise RecipeError(
            f"{name}: sampler.min_gain must be at most sampler.max_gain = {sampler.max_gain:g}, "
            f"got {sampler.min_gain:g}"
        )


def _check_statistics(name: str, network: Network) -> None:
    """Check that there are statistics to keep, and that training would change them."""
    for key, value, reason in (
        ("frozen", network.frozen, "a frozen backbone always keeps them"),
        ("backbone", network.backbone == "convnet4", "it has no batch normalization"),
        ("weights", network.weights == "random", "only trained weights have statistics to keep"),
    ):
        if value:
            raise RecipeError(
                f"{name}: network.frozen_statistics must be false with network.{key} = "
                f"{shown(getattr(network, key))}: {reason}"
            )


def _toml() -> Any:
    return require("tomllib" if sys.version_info >= (3, 11) else "tomli")


def _toml_value(text: str) -> Any:
    toml = _toml()
    try:
        return toml.loads(f"value = {text}")["value"]
    except toml.TOMLDecodeError:
        return text  # a string without quotes
