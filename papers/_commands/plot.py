"""`python -m papers plot`: figures from the files that trainings write."""

from __future__ import annotations

import argparse
import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from papers import figures
from papers._commands.common import check_writable, integer_from, positive
from papers._extras import require
from papers.dynamics import TERMS
from papers.figures.formats import SPLITS

EPILOG = """\
RUN is the folder of a run, or the file itself. Runs with the same NAME are repeats of one training with other seeds:
the figure shows their mean and standard deviation. By default, NAME is {default}. papers.figures.formats describes the
files."""


class Input(NamedTuple):
    """A run named on the command line."""

    name: str | None
    path: Path

    @property
    def title(self) -> str:
        """The run's title in the figure."""
        return self.name or self.path.resolve().parent.name


class Kind(NamedTuple):
    """A kind of figure."""

    text: str
    plot: Callable[..., Path]
    options: Mapping[str, Mapping[str, Any]]  # add_argument's keywords, by the argument of `plot` that they set
    file: str | None = None  # in the folder of a run; the source of the figure
    read: Callable[[list[Input]], Any] | None = None  # reads those files into the input of `plot`
    modules: tuple[str, ...] = ()  # required beside matplotlib
    data: str = ".csv"  # suffix of the data file


def add_parser(commands: Any) -> None:
    """Add the command, with one subcommand per kind of figure."""
    command = commands.add_parser(
        "plot",
        help="draw figures from the files that trainings write",
        description="Draw a figure as a PNG, with a CSV or JSON file of the same stem that contains the plotted data.",
    )
    kinds = command.add_subparsers(dest="kind", required=True, metavar="KIND")
    for name, kind in KINDS.items():
        defaults = {"training": "in its column run", "group-size": "in its column method"}
        epilog = kind.file and EPILOG.format(default=defaults.get(name, "the name of its folder"))
        parser = kinds.add_parser(name, help=kind.text, description=f"Draw {kind.text}.", epilog=epilog)
        if kind.file:
            parser.add_argument(
                "inputs",
                type=_input,
                nargs="+",
                metavar="[NAME=]RUN",
                help=f"folder of a run that contains {kind.file}",
            )
        parser.add_argument(
            "--output",
            type=_png,
            metavar="FILE",
            default=Path(f"runs/figures/{name}.png"),
            help="PNG to write; its folder is created if missing (default: %(default)s)",
        )
        parser.add_argument("--title", metavar="TEXT", help="line above the figure")
        for argument, settings in kind.options.items():
            default = inspect.signature(kind.plot).parameters[argument].default
            shown = ",".join(f"{each:g}" for each in default) if isinstance(default, tuple) else default
            text = settings["help"] + ("" if default in (None, False) else f" (default: {shown})")
            flag = "--" + argument.replace("_", "-")
            parser.add_argument(flag, **{**settings, "help": text, "default": argparse.SUPPRESS})
        parser.set_defaults(parser=parser)


def run(options: argparse.Namespace) -> int:
    """Read and check everything, then draw."""
    kind, command, output = KINDS[options.kind], options.parser, options.output
    for module in ("matplotlib.figure", *kind.modules):
        require(module)
    runs = () if kind.read is None else (_read(command, kind, options.inputs),)
    check_writable(command, output.parent)
    data = output.with_suffix(kind.data)
    for path in (output, data):
        if path.is_dir():
            command.error(f"argument --output: cannot write {str(path)!r}: it is a folder")
    given = {argument: getattr(options, argument) for argument in kind.options if hasattr(options, argument)}
    try:
        kind.plot(*runs, output, title=options.title, **given)
    except ValueError as error:
        command.error(str(error))
    except OSError as error:
        print(f"papers plot: cannot write {str(output)!r}: {error.strerror or error}", file=sys.stderr)
        return 1
    print(f"saved {output} and {data.name}")
    return 0


def _read(command: argparse.ArgumentParser, kind: Kind, inputs: list[Input]) -> Any:
    """Read the data of the runs. Report the rows that are left out of truncated files."""
    files = [each._replace(path=each.path / kind.file) if each.path.is_dir() else each for each in inputs]
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            runs = kind.read(files)
    except OSError as error:
        command.error(f"argument RUN: cannot read {error.filename}: {error.strerror}")
    except ValueError as error:
        command.error(f"argument RUN: {error}")
    for warning in caught:
        print(f"papers plot: {warning.message}", file=sys.stderr)
    return runs


def _by_name(read: Callable[[Path], Any]) -> Callable[[list[Input]], dict[str, list[Any]]]:
    """Reader for files that hold one run each."""

    def read_all(files: list[Input]) -> dict[str, list[Any]]:
        runs: dict[str, list[Any]] = {}
        for file in files:
            runs.setdefault(file.title, []).append(read(file.path))
        return runs

    return read_all


def _histories(files: list[Input]) -> dict[str, list[figures.History]]:
    runs: dict[str, list[figures.History]] = {}
    for name, path in files:
        found = figures.read_histories(path)
        if name is not None and len(found) > 1:
            raise ValueError(f"{name}= is a name for one run, but {path} contains {', '.join(found)}")
        for run_name, history in found.items():
            runs.setdefault(name or run_name, []).append(history)
    return runs


def _single_embeddings(files: list[Input]) -> dict[str, figures.EmbeddingSet]:
    names = [file.title for file in files]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"t-SNE needs one run per name, because it has no mean, got {names.count(name)} of {name!r}"
            )
    return {file.title: figures.read_embeddings(file.path) for file in files}


def _groups(files: list[Input]) -> dict[str, dict[int, dict[int, float]]]:
    groups: dict[str, dict[int, dict[int, float]]] = {}
    for name, path in files:
        if name is not None:
            raise ValueError(f"{name}= must be omitted: {path} names the methods")
        for method, sizes in figures.read_groups(path).items():
            for size, seeds in sizes.items():
                known = groups.setdefault(method, {}).setdefault(size, {})
                for seed in known.keys() & seeds.keys():
                    raise ValueError(
                        f"{path}: seed {seed} of {method!r} with {size} images per class is in another RUN"
                    )
                known.update(seeds)
    return groups


def _input(text: str) -> Input:
    """The argument type of a run: a path, or NAME=path."""
    name, equals, rest = text.partition("=")
    if not equals or Path(text).exists():
        return Input(None, Path(text))
    if not (name.strip() and rest):
        raise argparse.ArgumentTypeError(f"must be RUN or NAME=RUN, got {text!r}")
    return Input(name.strip(), Path(rest))


def _png(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"must end in .png, got {text!r}")
    return path


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """The argument type of a comma-separated list."""
    return lambda text: [kind(each) for each in text.split(",")]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None


_DIAGRAMS = {"file": figures.DIAGRAMS.file, "read": _by_name(figures.read_diagrams), "data": ".json"}
_EMBEDDINGS = {"file": figures.EMBEDDINGS_FILE, "read": _by_name(figures.read_embeddings)}
_SPLIT = {"choices": SPLITS, "help": "train for the training classes, test for the other classes"}

KINDS = {
    "triplet-steps": Kind(
        "moves of triplets in gradient steps, one arrow per triplet, at several iterations (SCT, figure 5)",
        figures.plot_triplet_steps,
        {
            "iterations": {
                "type": _list_of(integer_from(0)),
                "metavar": "N,N,...",
                "help": "iterations to draw (default: up to 4 that all runs have)",
            },
            "split": _SPLIT,
            "hard_only": {"action": "store_true", "help": "draw only triplets that are hard before the step"},
            "max_arrows": {"type": integer_from(1), "metavar": "N", "help": "maximum number of arrows per panel"},
        },
        **_DIAGRAMS,
    ),
    "train-test": Kind(
        "triplet diagrams of the training classes and of other classes (SCT, figure 7)",
        figures.plot_train_test,
        {"max_dots": {"type": integer_from(1), "metavar": "N", "help": "maximum number of dots per panel"}},
        **_DIAGRAMS,
    ),
    "vector-field": Kind(
        "moves of triplets in one gradient step in theory, by entanglement (SCT, figure 2); needs no run",
        figures.plot_vector_field,
        {
            "entanglements": {
                "type": _list_of(_number),
                "metavar": "P,P,...",
                "help": "entanglement of each column, 0 to 1",
            },
            "term": {"choices": TERMS, "help": "the loss"},
            "lr": {"type": positive, "metavar": "X", "help": "learning rate"},
            "temperature": {"type": positive, "metavar": "X", "help": "temperature of the NCA loss, by default 1"},
            "margin": {"type": _number, "metavar": "X", "help": "margin of the hinge, by default 0.2"},
            "low": {"type": _number, "metavar": "S", "help": "lower limit of both axes, from -1"},
        },
    ),
    "training": Kind(
        "the share of hard triplets and Recall@1 over trainings (SCT, figure 6)",
        figures.plot_training,
        {"x": {"choices": ("step", "epoch"), "help": "quantity on the x axis"}},
        figures.EPOCHS.file,
        _histories,
    ),
    "within-class": Kind(
        "the distribution of similarities between samples of the same class (EP, figure 2)",
        figures.plot_within_class,
        {"split": _SPLIT},
        **_EMBEDDINGS,
    ),
    "nearest-train": Kind(
        "the distribution of test samples' similarities to their nearest training samples (EP, figure 3)",
        figures.plot_nearest_train,
        {},
        **_EMBEDDINGS,
    ),
    "tsne": Kind(
        "t-SNE of the training classes, alone and with other classes (EP, figure 6)",
        partial(figures.plot_tsne, progress=True),
        {
            "perplexity": {"type": positive, "metavar": "X", "help": "perplexity of t-SNE"},
            "max_samples": {
                "type": integer_from(2),
                "metavar": "N",
                "help": "maximum number of samples per split; a random subset is drawn from more",
            },
            "seed": {"type": integer_from(0), "metavar": "N", "help": "seed of t-SNE and of the random subset"},
        },
        figures.EMBEDDINGS_FILE,
        _single_embeddings,
        ("sklearn.manifold", "tqdm"),
    ),
    "group-size": Kind(
        "Recall@1 against the number of images per class in a batch (EP, figure 4)",
        figures.plot_group_size,
        {},
        figures.GROUPS.file,
        _groups,
    ),
}
