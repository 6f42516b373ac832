"""The command line: `python -m hardmine train` trains on real images with HN, SHN and SCT and compares them."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from hardmine import VerificationError, datasets, diagram, train
from hardmine._extras import require

RESULT_FIELDS = [
    field.name for field in dataclasses.fields(train.MethodResult) if not field.name.startswith("triplets_")
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after `python -m hardmine`; by default those of this process.

    Returns:
        The exit status: 0 when all is done, 1 after a failure, 130 after Ctrl-C. Wrong arguments exit with 2.
    """
    parser = argparse.ArgumentParser(prog="python -m hardmine", description="Deep metric learning on fused loss ops.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "train",
        help="train an embedding network with each method and compare them",
        description="Train an embedding network on real images, once with each method from the same start and on the "
        "same batches, with the fused losses checked against their references. Prints a table; saves it as results.csv "
        "and results.json, and the triplet diagrams as triplet_diagram.png.",
    )
    _add_train_arguments(command)
    options = parser.parse_args(arguments)
    try:
        return _train(command, options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        print(f"hardmine train: {error}", file=sys.stderr)
        return 1


def _add_train_arguments(command: argparse.ArgumentParser) -> None:
    def add_setting(flag: str, kind: Callable[[str], object], text: str, metavar: str = "N") -> None:
        """A field of TrainSettings, whose default is that of the preset of the chosen data."""
        name = flag.removeprefix("--").replace("-", "_")
        values = {data: getattr(preset, name) for data, preset in train.PRESETS.items()}
        default = ", ".join(f"{value} for {data}" for data, value in values.items())
        if len(set(values.values())) == 1:
            default = str(next(iter(values.values())))
        command.add_argument(
            flag, type=kind, default=argparse.SUPPRESS, metavar=metavar, help=f"{text} (default: {default})"
        )

    command.add_argument(
        "--data", choices=sorted(train.PRESETS), default="digits", help="images to train on (default: digits)"
    )
    command.add_argument(
        "--root",
        metavar="DIR",
        help="folder of Omniglot in its official layout (default: the environment variable HARDMINE_DATA)",
    )
    command.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        default=Path("runs/train"),
        help="folder for the results, made if missing (default: runs/train)",
    )
    command.add_argument(
        "--methods",
        type=_methods,
        metavar="NAMES",
        default=list(train.METHODS),
        help=f"which methods, in which order (default: {','.join(train.METHODS)})",
    )
    add_setting("--steps", _whole(1), "gradient steps of each method")
    add_setting("--batch-size", _whole(4), "images in a batch")
    add_setting("--images-per-class", _whole(2), "images of each class in a batch")
    add_setting("--embedding-dim", _whole(1), "dimensions of the embedding")
    add_setting("--lr", _positive, "learning rate of SGD with momentum 0", metavar="X")
    add_setting("--verify-every", _whole(0), "check every N-th loss call against its reference, 0 for none")
    add_setting("--seed", _whole(0), "seed of weights, batches and angles")


def _whole(least: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not (text.isdecimal() and least <= int(text) < 2**31):
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {2**31 - 1}, got {text!r}")
        return int(text)

    return convert


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


def _methods(text: str) -> list[str]:
    names = text.split(",")
    if len(set(names)) < len(names) or not set(names) <= set(train.METHODS):
        raise argparse.ArgumentTypeError(f"must be some of {','.join(train.METHODS)}, each once, got {text!r}")
    return names


def _train(command: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Check everything that can be checked, then train; keep each method's result as soon as it is there."""
    given = vars(options)
    shared = {field.name for field in dataclasses.fields(train.TrainSettings)} & given.keys()
    settings = dataclasses.replace(train.PRESETS[options.data], **{name: given[name] for name in shared})
    _check_writable(command, options.output)
    for module in ("matplotlib.figure", "tqdm"):  # needed at the end, or late
        require(module)
    split = _load(command, options)
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
        for method in options.methods:
            try:
                results.append(comparison.run(method))
            except FloatingPointError as error:  # the other methods may do better
                print(f"hardmine train: {error}", file=sys.stderr)
                status = 1
                continue
            _save_tables(options.output, split, settings, results)
    except KeyboardInterrupt:
        print(f"interrupted: {len(results)} of {len(options.methods)} methods are finished and kept", file=sys.stderr)
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


def _check_writable(command: argparse.ArgumentParser, output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        command.error(f"argument --output: cannot write into {str(output)!r}: {error.strerror}")


def _load(command: argparse.ArgumentParser, options: argparse.Namespace) -> datasets.RetrievalSplit:
    if options.data == "digits":
        if options.root is not None:
            command.error(f"argument --root: digits come with scikit-learn and need no folder, got {options.root!r}")
        return datasets.load_digits()
    root = options.root or os.environ.get("HARDMINE_DATA")
    if not root:
        command.error("argument --root: needed for --data omniglot, unless HARDMINE_DATA names the folder")
    try:
        return datasets.load_omniglot(root)
    except (OSError, ValueError) as error:
        command.error(f"argument --root: {error}")


def _save_tables(
    output: Path,
    split: datasets.RetrievalSplit,
    settings: train.TrainSettings,
    results: list[train.MethodResult],
) -> None:
    """Write results.csv and results.json, each whole or not at all, whenever the process ends."""
    rows = [{name: getattr(result, name) for name in RESULT_FIELDS} for result in results]

    def write_csv(file) -> None:
        writer = csv.DictWriter(file, RESULT_FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)

    def write_json(file) -> None:
        json.dump({"data": split.name, "settings": dataclasses.asdict(settings), "results": rows}, file, indent=2)

    for name, write in {"results.csv": write_csv, "results.json": write_json}.items():
        part = output / f"{name}.part"
        with part.open("w", newline="", encoding="utf-8") as file:
            write(file)
        part.replace(output / name)


def _save_diagram(output: Path, split: datasets.RetrievalSplit, results: list[train.MethodResult]) -> None:
    panels = {"before training": results[0].triplets_before}  # the same for every method: same weights, same probe
    panels |= {result.method: result.triplets_after for result in results}
    title = f"Triplets of the training classes, {split.name}"
    diagram.plot_triplet_diagram(panels, output / "triplet_diagram.png", title=title)


def _table(split: datasets.RetrievalSplit, settings: train.TrainSettings, results: list[train.MethodResult]) -> str:
    train_classes, test_classes = len(split.train_labels.unique()), len(split.test_labels.unique())
    classes = f"{train_classes} classes train, {test_classes} others are retrieved"
    work = f"{settings.steps} steps of {settings.batch_size} images, {settings.embedding_dim} dimensions"
    lines = [
        f"\n{split.name}: {classes}; {work}\n",
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


if __name__ == "__main__":
    sys.exit(main())
