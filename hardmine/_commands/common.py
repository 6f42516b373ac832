"""What the commands share: kinds of arguments, the images."""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hardmine import datasets


def whole(least: int) -> Callable[[str], int]:
    """The kind of arguments that are whole numbers from `least`."""

    def convert(text: str) -> int:
        if not (text.isdecimal() and least <= int(text) < 2**31):
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {2**31 - 1}, got {text!r}")
        return int(text)

    return convert


def positive(text: str) -> float:
    """The kind of arguments that are positive numbers."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


def share(text: str) -> float:
    """The kind of arguments that are shares of a whole."""
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and up to 1, got {text!r}")
    return value


def between_0_and_1(text: str) -> float:
    """The kind of arguments that are numbers between 0 and 1, neither of them."""
    value = _number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, got {text!r}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def defaults_of(presets: Mapping[str, Any], name: str) -> str:
    """The defaults of a setting, as help texts show them."""
    values = {data: getattr(preset, name) for data, preset in presets.items()}
    if len(set(values.values())) == 1:
        return str(next(iter(values.values())))
    return ", ".join(f"{value} for {data}" for data, value in values.items())


def check_writable(command: argparse.ArgumentParser, output: Path) -> None:
    """Make the output folder, or say at once that nothing can be saved in it."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        command.error(f"argument --output: cannot write into {str(output)!r}: {error.strerror}")


def load_split(command: argparse.ArgumentParser, options: argparse.Namespace) -> datasets.RetrievalSplit:
    """The images that --data and --root name."""
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


def classes_line(split: datasets.RetrievalSplit) -> str:
    """How many classes are trained on and retrieved."""
    train_classes, test_classes = len(split.train_labels.unique()), len(split.test_labels.unique())
    return f"{split.name}: {train_classes} classes train, {test_classes} others are retrieved"
