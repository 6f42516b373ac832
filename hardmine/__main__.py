"""The command line: `train` compares losses or mining, or runs a recipe, `experiment` many; `plot` draws figures."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hardmine import train, train_smart
from hardmine._commands import experiment, plot, train_losses, train_recipe
from hardmine._commands import train_smart as smart_command
from hardmine._commands.common import between_0_and_1, check_writable, defaults_of, positive, share, whole
from hardmine.mining.lists import METHODS as LISTS

# What the two kinds of training may be set to, beside --data, --root and --output.
SETTINGS = {
    None: {field.name for field in dataclasses.fields(train.TrainSettings)} | {"methods"},
    "smart": {field.name for field in dataclasses.fields(train_smart.SmartSettings)},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after `python -m hardmine`; by default those of this process.

    Returns:
        The exit status: 0 when all is done, 1 after a failure, 130 after Ctrl-C. Wrong arguments exit with 2.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["train"] and len(words) > 1 and not words[1].startswith("-"):
        return _guarded("train", lambda: train_recipe.run(words[1:]))
    if words[:1] == ["experiment"]:
        return _guarded("experiment", lambda: experiment.run(words[1:]))
    parser = argparse.ArgumentParser(prog="python -m hardmine", description="Deep metric learning on fused loss ops.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "train",
        help="train embedding networks and compare them: with each loss, or on mined and on random triplets; or, as "
        "`train RECIPE`, train one as a recipe says",
        description="Train an embedding network on real images, once with each loss from the same start and on the "
        "same batches, with the fused losses checked against their references. Prints a table; saves it as results.csv "
        "and results.json, and the triplet diagrams as triplet_diagram.png. With --method smart, train one on triplets "
        "that are mined from the whole training set each epoch, beside one on random triplets. Prints a line an epoch; "
        "saves smart_epochs.csv, smart_results.json and smart_mining.png. `train RECIPE --help` is on recipes.",
    )
    _add_train_arguments(command)
    commands.add_parser("experiment", help="run the trainings of an experiment; make a table and figures of them")
    plot.add_parser(commands)
    options = parser.parse_args(words)
    runs = {"plot": lambda: plot.run(options), "train": lambda: _train(command, options)}
    return _guarded(options.command, runs[options.command])


def _guarded(name: str, run: Callable[[], int]) -> int:
    """Run a command; Ctrl-C and packages that are not installed end it with a line that says so."""
    try:
        return run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        print(f"hardmine {name}: {error}", file=sys.stderr)
        return 1


def _add_train_arguments(command: argparse.ArgumentParser) -> None:
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
        "--method", choices=["smart"], help="smart: train on mined and on random triplets, instead of with --methods"
    )

    def add_setting(to: Any, flag: str, kind: Callable[[str], object], text: str, metavar: str | None = "N") -> None:
        """A field of the settings, whose default is that of the preset of the chosen data."""
        name = flag.removeprefix("--").replace("-", "_")
        presets = [kind for kind in (train.PRESETS, train_smart.PRESETS) if hasattr(kind["digits"], name)]
        default = "; with --method smart: ".join(dict.fromkeys(defaults_of(kind, name) for kind in presets))
        to.add_argument(
            flag, type=kind, default=argparse.SUPPRESS, metavar=metavar, help=f"{text} (default: {default})"
        )

    add_setting(command, "--batch-size", whole(1), "images in a batch; with --method smart, triplets")
    add_setting(command, "--embedding-dim", whole(1), "dimensions of the embedding")
    add_setting(command, "--lr", positive, "learning rate of SGD; momentum is 0, with --method smart 0.9", metavar="X")
    add_setting(command, "--verify-every", whole(0), "check every N-th loss call against its reference, 0 for none")
    add_setting(command, "--seed", whole(0), "seed of weights, batches and angles, or of weights and triplets")

    losses = command.add_argument_group("without --method")
    losses.add_argument(
        "--methods",
        type=train_losses.methods,
        metavar="NAMES",
        default=argparse.SUPPRESS,
        help=f"which methods, in which order (default: {','.join(train.METHODS)})",
    )
    add_setting(losses, "--steps", whole(1), "gradient steps of each method")
    add_setting(losses, "--images-per-class", whole(2), "images of each class in a batch")

    smart = command.add_argument_group("with --method smart")
    add_setting(smart, "--epochs", whole(1), "epochs")
    add_setting(smart, "--batches-per-epoch", whole(1), "batches of an epoch")
    add_setting(smart, "--mined-share", share, "share of mined triplets in a batch", metavar="X")
    add_setting(smart, "--target-error", between_0_and_1, "share of triplets that should have a loss", metavar="X")
    add_setting(smart, "--neighbors", whole(1), "neighbors of an image among which triplets are mined")
    add_setting(smart, "--lists", _lists, f"how neighbors are found: {', '.join(LISTS)}", metavar="HOW")


def _lists(text: str) -> str:
    if text not in LISTS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(LISTS)}, got {text!r}")
    return text


def _train(command: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    given = vars(options)
    for name in sorted((SETTINGS[None] | SETTINGS["smart"]) - SETTINGS[options.method]):
        if name in given:
            flag = "--" + name.replace("_", "-")
            command.error(f"argument {flag}: {'not' if options.method else 'only'} with --method smart")
    presets = train_smart.PRESETS if options.method else train.PRESETS
    chosen = {name: given[name] for name in SETTINGS[options.method] - {"methods"} if name in given}
    settings = dataclasses.replace(presets[options.data], **chosen)
    check_writable(command, options.output)
    return (smart_command if options.method else train_losses).run(command, options, settings)


if __name__ == "__main__":
    sys.exit(main())
