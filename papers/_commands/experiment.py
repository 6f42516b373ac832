"""`python -m papers experiment`: run the trainings of an experiment, then write its table and figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hardmine import VerificationError
from papers import training
from papers._commands.common import check_writable
from papers._commands.train_recipe import add_run_arguments, prepare
from papers._extras import require
from papers._files import save_atomically
from papers.recipes import load_experiment, recipe_names

TABLE = "README.md"


def run(arguments: Sequence[str]) -> int:
    """Check everything that can be checked, then train, then draw.

    Args:
        arguments: The words after `experiment`.

    Returns:
        The exit status.
    """
    command = _parser()
    options = command.parse_intermixed_args(arguments)
    require("matplotlib.figure")
    try:
        experiment = load_experiment(
            options.experiment, options.overrides, datasets=options.on, variants=options.variants, seeds=options.seeds
        )
    except (OSError, ValueError) as error:
        command.error(str(error))
    output = options.output or Path("runs/experiments") / experiment.name
    check_writable(command, output)
    try:
        done = training.run_experiment(
            experiment,
            options.data,
            output,
            options.cache,
            prepare(options),
            log=lambda text: print(text, flush=True),
        )
    except KeyboardInterrupt as interrupt:
        print(f"interrupted: {interrupt or 'finished runs are kept'}; the same command resumes", file=sys.stderr)
        return 130
    except (OSError, ValueError, FloatingPointError, VerificationError) as error:
        print(f"papers experiment: {error}", file=sys.stderr)
        return 1
    try:
        content = training.markdown(experiment, done, _command(options))
        save_atomically(output / TABLE, lambda temp_path: temp_path.write_text(content, encoding="utf-8"))
        print(f"\n{content}")
        figures = training.draw(experiment, done, output)
    except (OSError, ValueError) as error:
        print(f"papers experiment: {error}", file=sys.stderr)
        return 1
    print(f"saved {TABLE} and {len(figures)} figures in {output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    names = [name.removeprefix("experiments/") for name in recipe_names() if name.startswith("experiments/")]
    command = argparse.ArgumentParser(
        prog="python -m papers experiment",
        description="Train every variant of an experiment with every seed, then write its table to "
        f"{TABLE}, and its figures. Finished trainings are not repeated, and an interrupted one resumes, so the same "
        "command can always be repeated.",
        epilog=f"Included experiments: {', '.join(names)}.",
    )
    command.add_argument("experiment", metavar="EXPERIMENT", help="an included experiment (see below) or a TOML file")
    command.add_argument(
        "overrides",
        metavar="[DATA:]section.key=value",
        nargs="*",
        help="values to replace, for all trainings or for one data set",
    )
    command.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for the results (default: runs/experiments/EXPERIMENT)"
    )
    command.add_argument(
        "--on", metavar="NAMES", type=_names, help="data sets, separated by commas (default: the first)"
    )
    command.add_argument(
        "--variants", metavar="NAMES", type=_names, help="variants, separated by commas (default: all)"
    )
    command.add_argument(
        "--seeds", metavar="N,N,...", type=_seeds, help="seeds, separated by commas (default: the experiment's)"
    )
    add_run_arguments(command)
    return command


def _command(options: argparse.Namespace) -> str:
    """The command that made the results, without machine-specific paths."""
    words = ["python -m papers experiment", options.experiment, *options.overrides]
    for name in ("on", "variants", "seeds"):
        if getattr(options, name):
            words.append(f"--{name} {','.join(map(str, getattr(options, name)))}")
    return " ".join([*words, f"--verify-every {options.verify_every}", "--data ROOT"])


def _names(text: str) -> list[str]:
    return text.split(",")


def _seeds(text: str) -> list[int]:
    if not all(each.isdecimal() for each in text.split(",")):
        raise argparse.ArgumentTypeError(f"must be integers separated by commas, got {text!r}")
    return [int(each) for each in text.split(",")]
