"""The command line of the papers' trainings: `train`, `experiment` for many trainings, `evaluate`, and `plot`."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from papers._commands import evaluate, experiment, plot, train_recipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after `python -m papers`; by default those of this process.

    Returns:
        The exit status: 0 on success, 1 after a failure, 130 after Ctrl-C. Invalid arguments exit with 2.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["train"]:
        return _guarded("train", lambda: train_recipe.run(words[1:]))
    if words[:1] == ["experiment"]:
        return _guarded("experiment", lambda: experiment.run(words[1:]))
    if words[:1] == ["evaluate"]:
        return _guarded("evaluate", lambda: evaluate.run(words[1:]))
    parser = argparse.ArgumentParser(
        prog="python -m papers", description="Trainings, experiments and figures of the papers, with hardmine."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train", help="train one network from a recipe")
    commands.add_parser("experiment", help="run all trainings of an experiment, then write its table and figures")
    commands.add_parser("evaluate", help="score a trained network on the classes that are only retrieved")
    plot.add_parser(commands)
    options = parser.parse_args(words)
    return _guarded(options.command, lambda: plot.run(options))


def _guarded(name: str, run: Callable[[], int]) -> int:
    """Run a command. After Ctrl-C, SIGTERM or if a package is missing, print one line and return the exit status."""
    in_main_thread = threading.current_thread() is threading.main_thread()  # which alone receives signals
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if in_main_thread else None
    try:
        return run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        print(f"papers {name}: {error}", file=sys.stderr)
        return 1
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
