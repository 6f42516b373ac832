"""`python -m hardmine train`: HN, SHN and SCT on real images, compared."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from hardmine import VerificationError, datasets, diagram, train
from hardmine._commands.common import classes_line, load_split
from hardmine._extras import require
from hardmine._files import save_csv, save_json

RESULT_FIELDS = [
    field.name for field in dataclasses.fields(train.MethodResult) if not field.name.startswith("triplets_")
]


def methods(text: str) -> list[str]:
    """The kind of argument that is a list of methods."""
    names = text.split(",")
    if len(set(names)) < len(names) or not set(names) <= set(train.METHODS):
        raise argparse.ArgumentTypeError(f"must be some of {','.join(train.METHODS)}, each once, got {text!r}")
    return names


def run(command: argparse.ArgumentParser, options: argparse.Namespace, settings: train.TrainSettings) -> int:
    """Check everything that can be checked, then train; keep each method's result as soon as it is there."""
    for module in ("matplotlib.figure", "tqdm"):  # needed at the end, or late
        require(module)
    chosen = getattr(options, "methods", list(train.METHODS))
    split = load_split(command, options)
    try:
        comparison = train.Comparison(split, settings, save_dir=options.output)
    except ValueError as error:
        command.error(
            f"argument --batch-size: {settings.batch_size} images with --images-per-class "
            f"{settings.images_per_class} do not suit {split.name}: {error}"
        )

    results: list[train.MethodResult] = []
    status = 0
    try:
        for method in chosen:
            try:
                results.append(comparison.run(method))
            except FloatingPointError as error:  # the other methods may do better
                print(f"hardmine train: {error}", file=sys.stderr)
                status = 1
                continue
            _save_tables(options.output, split, settings, results)
    except KeyboardInterrupt:
        print(f"interrupted: {len(results)} of {len(chosen)} methods are finished and kept", file=sys.stderr)
        status = 130
    except VerificationError as error:
        print(f"hardmine train: {error}", file=sys.stderr)
        status = 1
    if results:
        print(_table(split, settings, results), flush=True)
        _save_tables(options.output, split, settings, results)  # again, in case the interrupt came while saving
        _save_diagram(options.output, split, results)
        print(f"saved results.csv, results.json and triplet_diagram.png in {options.output}")
    return status


def _save_tables(
    output: Path,
    split: datasets.RetrievalSplit,
    settings: train.TrainSettings,
    results: list[train.MethodResult],
) -> None:
    rows = [{name: getattr(result, name) for name in RESULT_FIELDS} for result in results]
    save_csv(output / "results.csv", RESULT_FIELDS, rows)
    save_json(output / "results.json", {"data": split.name, "settings": dataclasses.asdict(settings), "results": rows})


def _save_diagram(output: Path, split: datasets.RetrievalSplit, results: list[train.MethodResult]) -> None:
    panels = {"before training": results[0].triplets_before}  # the same for every method: same weights, same probe
    panels |= {result.method: result.triplets_after for result in results}
    title = f"Triplets of the training classes, {split.name}"
    diagram.plot_triplet_diagram(panels, output / "triplet_diagram.png", title=title)


def _table(split: datasets.RetrievalSplit, settings: train.TrainSettings, results: list[train.MethodResult]) -> str:
    work = f"{settings.steps} steps of {settings.batch_size} images, {settings.embedding_dim} dimensions"
    lines = [
        f"\n{classes_line(split)}; {work}\n",
        f"{'':<8}{'Recall@1':>10}{'Recall@1':>10}{'s_ap':>8}{'s_an':>8}{'hard':>10}{'deviation from':>16}",
        f"{'method':<8}{'before':>10}{'after':>10}{'':>16}{'triplets':>10}{'reference':>16}",
    ]
    for result in results:
        deviation = "not verified" if result.largest_deviation is None else f"{result.largest_deviation:.1e}"
        lines.append(
            f"{result.method:<8}{result.recall_before:>10.3f}{result.recall_after:>10.3f}{result.s_ap:>8.2f}"
            f"{result.s_an:>8.2f}{result.hard_share:>10.1%}{deviation:>16}"
        )
    return "\n".join([*lines, ""])
