"""Experiments: recipes with a section [experiment] that names what varies."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from papers.recipes.fields import AtLeast0, RecipeError, Seed, Table, Text, parse_table, shown
from papers.recipes.recipe import (
    EXPERIMENT,
    Recipe,
    apply_overrides,
    parse_recipe,
    read_table,
    refused_if_deep,
    set_values,
)

FIGURES = ("training", "triplet-steps", "train-test", "within-class", "nearest-train", "group-size")
_DIAGRAM_FIGURES = ("triplet-steps", "train-test")
_EMBEDDING_FIGURES = ("within-class", "nearest-train")
_GROUPS = "sampler.images_per_class"


class Section(Table):
    """[experiment] without its tables.

    Attributes:
        claim: The claim that the experiment tests, one sentence.
        seeds: The seeds of every variant.
        axis: A key that varies in addition to the variants, `section.key`.
        values: The axis's values.
        reach: Name of a variant. The table then gives, per variant, the number of epochs to this variant's final
            Recall@1.
        figures: The figures to draw.
    """

    claim: Text
    seeds: tuple[Seed, ...] = (0, 1, 2)
    axis: Text | None = None
    values: tuple[AtLeast0, ...] = ()
    reach: Text | None = None
    figures: tuple[Literal[FIGURES], ...] = ("training",)


class Run(NamedTuple):
    """One training of an experiment.

    Attributes:
        dataset: Name of the experiment's data set.
        variant: Name of the variant.
        value: The axis's value; None without an axis.
        seed: The seed.
        recipe: The complete recipe.
    """

    dataset: str
    variant: str
    value: int | None
    seed: int
    recipe: Recipe

    @property
    def folder(self) -> str:
        """The relative folder of the results: dataset, variant and value, seed."""
        variant = self.variant.replace(" ", "-").replace("/", "-")
        return f"{self.dataset}/{variant}{'' if self.value is None else f'-{self.value}'}/seed-{self.seed}"


@dataclass(frozen=True)
class Experiment:
    """The trainings of an experiment, and its outputs.

    Attributes:
        name: Name of the file, without the extension.
        claim: The claim that the experiment tests.
        axis: The key that varies in addition to the variants, or None.
        reach: See `Section`.
        figures: See `Section`.
        runs: All trainings, ordered by dataset, then by seed, so that all variants have the first seeds early.
    """

    name: str
    claim: str
    axis: str | None
    reach: str | None
    figures: tuple[str, ...]
    runs: tuple[Run, ...]


def load_experiment(
    source: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    datasets: Sequence[str] | None = None,
    variants: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> Experiment:
    """Read an experiment and all its recipes strictly.

    Args:
        source: Name of an included experiment, without `experiments/`, or a TOML file.
        overrides: Values that replace those of every recipe, `"schedule.epochs=20"`. With the name of a data set first,
            only its recipes change, `"cars:data.features=cars.npy"`.
        datasets: Names of data sets to use; by default the first one.
        variants: Names of variants to use; by default all.
        seeds: Seeds to use; by default the experiment's.

    Raises:
        FileNotFoundError: The experiment does not exist.
        RecipeError: The experiment is invalid; see :func:`papers.recipes.load_recipe`.
    """
    with refused_if_deep(source):
        return _experiment(source, overrides, datasets, variants, seeds)


def _experiment(
    source: str | os.PathLike[str],
    overrides: Sequence[str],
    datasets: Sequence[str] | None,
    variants: Sequence[str] | None,
    seeds: Sequence[int] | None,
) -> Experiment:
    """See :func:`load_experiment`."""
    try:
        name, table = read_table(f"experiments/{os.fspath(source)}")
    except FileNotFoundError:
        name, table = read_table(source)
    section = table.pop(EXPERIMENT, None)
    if not isinstance(section, Mapping):
        raise RecipeError(f"{name}: the section [{EXPERIMENT}] is missing: it is a recipe for `train`")
    section = dict(section)
    dataset_tables = _tables(name, "datasets", section.pop("datasets", {}))
    variant_tables = _tables(name, "variants", section.pop("variants", {}))
    about = parse_table(name, section, Section, EXPERIMENT)
    if about.reach is not None and about.reach not in variant_tables:
        raise RecipeError(f"{name}: experiment.reach must be one of {', '.join(variant_tables)}, got {about.reach!r}")
    if (about.axis is None) != (not about.values):
        raise RecipeError(f"{name}: experiment.axis and experiment.values must be given together, got only one")
    _check_distinct(name, "experiment.values", about.values)
    for override in overrides:
        of_dataset = [override.partition(":")[0]] if _has_dataset(override) else []
        _chosen(name, "data sets of overrides", dataset_tables, of_dataset)
    chosen_datasets = _chosen(name, "datasets", dataset_tables, datasets or list(dataset_tables)[:1])
    chosen_variants = _chosen(name, "variants", variant_tables, variants or list(variant_tables))
    chosen_seeds = seeds or about.seeds
    _check_distinct(name, "seeds" if seeds else "experiment.seeds", chosen_seeds)
    runs = [
        run
        for dataset in chosen_datasets
        for seed in chosen_seeds
        for variant in chosen_variants
        for run in _runs_of(
            name, table, about, dataset, dataset_tables[dataset], variant, variant_tables[variant], seed, overrides
        )
    ]
    _check_figures(name, about, runs)
    return Experiment(name, about.claim, about.axis, about.reach, about.figures, tuple(runs))


def _check_figures(name: str, about: Section, runs: Sequence[Run]) -> None:
    """Check that the trainings write the files that the figures need."""
    for figure in about.figures:
        if figure == "group-size" and about.axis != _GROUPS:
            raise RecipeError(f"{name}: experiment.axis must be {_GROUPS} for the figure {figure}, got {about.axis!r}")
        for run in runs:
            if figure in _DIAGRAM_FIGURES and not run.recipe.evaluation.diagrams:
                raise RecipeError(
                    f"{run.recipe.name}: evaluation.diagrams must contain a step for the figure {figure}, got []"
                )
            if figure in _EMBEDDING_FIGURES and not run.recipe.evaluation.embeddings:
                raise RecipeError(
                    f"{run.recipe.name}: evaluation.embeddings must be true for the figure {figure}, got False"
                )


def overrides_on(dataset: str, overrides: Sequence[str]) -> list[str]:
    """The overrides for all data sets and those for this one, without its name."""
    found = []
    for each in overrides:
        if not _has_dataset(each):
            found.append(each)
        elif each.startswith(f"{dataset}:"):
            found.append(each.partition(":")[2])
    return found


def _has_dataset(override: str) -> bool:
    return ":" in override.partition("=")[0]


def _runs_of(
    name: str,
    table: Mapping[str, Any],
    about: Section,
    dataset: str,
    dataset_values: Mapping[str, Any],
    variant: str,
    variant_values: Mapping[str, Any],
    seed: int,
    overrides: Sequence[str],
) -> Iterator[Run]:
    """The runs of a variant with one data set and seed, one per value of the axis."""
    values: Sequence[Any] = variant_values.get("only", about.values) if about.values else [None]
    _check_distinct(name, f"experiment.variants.{variant}.only", values)
    for value in values:
        if value is not None and value not in about.values:
            raise RecipeError(f"{name}: experiment.variants.{variant}.only must be among {list(about.values)}")
        changed = set_values(name, table, dataset_values)
        changed = set_values(name, changed, {key: option for key, option in variant_values.items() if key != "only"})
        if value is not None:
            changed = set_values(name, changed, {about.axis: value})
        changed = apply_overrides(name, changed, overrides_on(dataset, overrides))
        title = variant if value is None else f"{variant}, {value}"
        changed |= {"seed": seed, "title": title}
        yield Run(dataset, variant, value, seed, parse_recipe(f"{name} ({dataset}, {title})", changed))


def _tables(name: str, key: str, tables: Any) -> dict[str, dict[str, Any]]:
    """Tables of values by name, with dotted keys."""
    if not isinstance(tables, Mapping) or not tables:
        raise RecipeError(f"{name}: experiment.{key} must be tables, [experiment.{key}.NAME], got {shown(tables)}")
    found = {}
    for table_name, table in tables.items():
        if not isinstance(table, Mapping):
            raise RecipeError(f"{name}: experiment.{key}.{table_name} must be a table, got {shown(table)}")
        found[table_name] = {}
        for section, values in table.items():
            if section == "only" and key == "variants" and isinstance(values, list):
                found[table_name]["only"] = values
            elif not isinstance(values, Mapping):
                raise RecipeError(
                    f"{name}: experiment.{key}.{table_name} must have values as section.key, "
                    f"got {section} = {shown(values)}"
                )
            else:
                found[table_name] |= {f"{section}.{option}": value for option, value in values.items()}
    return found


def _chosen(name: str, key: str, known: Mapping[str, Any], chosen: Sequence[str]) -> list[str]:
    """The chosen names, checked to be known."""
    for each in chosen:
        if each not in known:
            raise RecipeError(f"{name}: {key} must be among {', '.join(known)}, got {each!r}")
    _check_distinct(name, key, chosen)
    return list(chosen)


def _check_distinct(name: str, key: str, values: Sequence[Any]) -> None:
    """Refuse duplicates: a duplicate run would count twice in means and make their deviations too small."""
    for place, value in enumerate(values):
        if value in values[:place]:
            raise RecipeError(f"{name}: {key} must be distinct, got {value!r} more than once")
