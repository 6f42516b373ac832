"""`python -m papers train RECIPE`: one training that follows a recipe and can be interrupted and resumed."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hardmine import VerificationError
from papers import training
from papers._commands.common import check_writable, integer_from, positive
from papers._extras import require
from papers.recipes import load_recipe, recipe_names

PROG = "python -m papers train"
# Errors that can occur after a valid start: a full disk, a missing or damaged image, an overflow.
FAILURES = (OSError, ValueError, FloatingPointError, VerificationError)
_PREFIX_CELLS = ("epoch", "step", "seconds")


def run(arguments: Sequence[str]) -> int:
    """Check everything that can be checked, then train.

    Args:
        arguments: The words after `train`; the first is the recipe.

    Returns:
        The exit status.
    """
    command = _parser()
    options = command.parse_intermixed_args(arguments)
    try:
        recipe = load_recipe(options.recipe, options.overrides)
    except (OSError, ValueError) as error:
        command.error(str(error))
    output = options.output or Path("runs") / recipe.name
    check_writable(command, output)
    run_options = prepare(options)
    try:
        training.check_folder(recipe, output, options.resume)
        data = training.load_data(recipe, options.data, options.cache, progress=True, device=run_options.device)
        print("\n".join([f"\n{recipe.name}: {recipe.title} on {data.name}", *data.notes]), flush=True)
        trainer = training.Trainer(
            recipe, data, output, run_options, resume=options.resume, report=lambda row: print(line(row), flush=True)
        )
    except FAILURES as error:
        print(f"papers train: {error}", file=sys.stderr)
        return 1
    try:
        result = trainer.run()
    except KeyboardInterrupt as interrupt:
        print(f"interrupted: {interrupt or 'the last checkpoint is kept'}", file=sys.stderr)
        words = [*arguments, *([] if options.resume else ["--resume"])]
        print(f"resume with: {PROG} {shlex.join(words)}", file=sys.stderr)
        return 130
    except FAILURES as error:
        print(f"papers train: {error}", file=sys.stderr)
        return 1
    print(summary(result, trainer.report))
    print(f"saved result.json and epochs.csv in {output}")
    return 0


def add_data_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments that load the data of a recipe."""
    command.add_argument(
        "--data",
        metavar="ROOT",
        default=os.environ.get("HARDMINE_DATA"),
        help="folder of the data sets in their official layouts (default: the environment variable HARDMINE_DATA)",
    )
    command.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        default=Path("runs/features"),
        help="folder of the cached features of frozen backbones (default: %(default)s)",
    )
    command.add_argument(
        "--device", type=_device, default="cpu", metavar="NAME", help="cpu, cuda or cuda:N (default: %(default)s)"
    )


def add_run_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments on how to run one or more recipes."""
    add_data_arguments(command)
    command.add_argument(
        "--verify-every",
        type=integer_from(0),
        default=100,
        metavar="K",
        help="verify every K-th call of each op against its reference; 0 for none (default: %(default)s)",
    )
    command.add_argument("--threads", type=integer_from(1), metavar="N", help="number of threads (default: torch's)")
    command.add_argument(
        "--workers",
        type=integer_from(0),
        default=0,
        metavar="N",
        help="number of processes that read images (default: %(default)s)",
    )
    command.add_argument(
        "--checkpoint-minutes",
        type=positive,
        default=5.0,
        metavar="X",
        help="minutes between checkpoints within an epoch (default: %(default)g)",
    )
    command.add_argument(
        "--checkpoint-steps",
        type=integer_from(0),
        default=0,
        metavar="N",
        help="also write a checkpoint every N steps (default: never)",
    )
    command.add_argument("--tensorboard", action="store_true", help="also write events for TensorBoard")


def prepare(options: argparse.Namespace) -> training.RunOptions:
    """Set the number of threads and return the other options as a training takes them."""
    require("tqdm")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return training.RunOptions(
        verify_every=options.verify_every,
        checkpoint_minutes=options.checkpoint_minutes,
        checkpoint_steps=options.checkpoint_steps,
        tensorboard=options.tensorboard,
        workers=options.workers,
        device=options.device,
    )


def _device(name: str) -> str:
    """The argument type of an available device."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(f"{name} does not exist: torch finds {torch.cuda.device_count()} GPUs")
    return name


def line(row: Mapping[str, Any]) -> str:
    """The scores of an epoch in one line."""
    scores = {name: value for name, value in row.items() if name not in _PREFIX_CELLS and value is not None}
    cells = [f"{name.replace('recall_at_', 'R@')} {value:.3f}" for name, value in scores.items()]
    return f"epoch {row['epoch']:>3}  step {row['step']:>6}  {row['seconds']:>7.1f} s  {'  '.join(cells)}"


def summary(result: Mapping[str, Any], report: Any) -> str:
    """The result of a run, and the ops' largest deviations from their references."""
    best, last = result["best"], result["last"]
    lines = [
        f"{result['title']} on {result['data']['name']}: final Recall@1 {last['recall_at_1']:.3f}, "
        f"best {best['recall_at_1']:.3f} (epoch {best['epoch']})"
    ]
    return "\n".join([*lines, "not verified" if report is None else report.summary()])


def _parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog=PROG,
        description="Train a network from a recipe, with checkpoints. After Ctrl-C, a kill or a power cut, --resume "
        "continues the training bit for bit.",
        epilog=f"Included recipes: {', '.join(recipe_names())}.",
    )
    command.add_argument("recipe", metavar="RECIPE", help="an included recipe (see below) or a TOML file")
    command.add_argument(
        "overrides", metavar="section.key=value", nargs="*", help="values that replace the recipe's, as TOML"
    )
    command.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for the results, created if missing (default: runs/RECIPE)"
    )
    command.add_argument("--resume", action="store_true", help="resume from the checkpoint in the output folder")
    add_run_arguments(command)
    return command
