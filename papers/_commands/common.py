"""Argument types that the commands share."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable
from pathlib import Path


def integer_from(minimum: int) -> Callable[[str], int]:
    """The argument type of integers that are at least `minimum`."""

    def convert(text: str) -> int:
        if not (text.isdecimal() and minimum <= int(text) < 2**31):
            raise argparse.ArgumentTypeError(f"must be an integer from {minimum} to {2**31 - 1}, got {text!r}")
        return int(text)

    return convert


def positive(text: str) -> float:
    """The argument type of positive numbers."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def check_writable(command: argparse.ArgumentParser, output: Path) -> None:
    """Create the output folder. Fail at once if it is not writable."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        command.error(f"argument --output: cannot write into {str(output)!r}: {error.strerror}")
