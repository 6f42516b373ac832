"""Summaries of an experiment's runs: Markdown tables and figures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from papers import figures
from papers.recipes.experiment import Experiment
from papers.training.experiment import Finished

Row = tuple[str, int | None]  # variant, and value of the axis


def markdown(experiment: Experiment, done: Sequence[Finished], command: str) -> str:
    """One table per data set: mean and standard deviation over seeds, and the largest deviation from references."""
    parts = [f"# {experiment.name}", experiment.claim, f"    {command}"]
    for dataset in _distinct(ended.run.dataset for ended in done):
        of_dataset = [ended for ended in done if ended.run.dataset == dataset]
        parts += [_heading(of_dataset), _table(experiment, of_dataset)]
    return "\n\n".join(parts) + "\n"


def _heading(done: Sequence[Finished]) -> str:
    first = next((ended.result for ended in done if ended.result is not None), None)
    if first is None:
        return "All runs diverged."
    data, versions = first["data"], first["versions"]
    train, query = data["train"], data["query"]
    seeds = _distinct(ended.run.seed for ended in done)
    results = [ended.result for ended in done if ended.result is not None]
    every = [result["verified"]["every"] for result in results]
    threads = _distinct(result["threads"] for result in results)
    commits = _distinct(str(result["versions"]["commit"]) for result in results)
    return (
        f"## {data['name']}\n\n"
        f"Training: {train['images']:,} images of {train['classes']} classes. "
        f"Retrieval: {query['images']:,} images of {query['classes']} other classes. "
        f"{_counted(first['last']['epoch'], 'epoch')}, seed{'s' if len(seeds) > 1 else ''} {_listed(seeds)}.\n"
        f"hardmine {versions['hardmine']} ({_listed(commits)}), torch {versions['torch']}, "
        f"{' or '.join(_counted(count, 'thread') for count in threads)}; {_verified(every)}."
    )


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}{'' if count == 1 else 's'}"


def _listed(items: Iterable[Any]) -> str:
    return ", ".join(map(str, items))


def _verified(every: Sequence[int]) -> str:
    """The text on how many of the runs' calls were verified."""
    intervals = sorted({interval for interval in every if interval})
    if not intervals:
        return "no call was verified"
    exception = ", except in some runs" if 0 in every else ""
    return f"every {' or '.join(map(_ordinal, intervals))} call of each op was verified{exception}"


def _ordinal(number: int) -> str:
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def _table(experiment: Experiment, done: Sequence[Finished]) -> str:
    axis = [] if experiment.axis is None else [experiment.axis.partition(".")[2].replace("_", " ")]
    reach = _reach(experiment, done)
    columns: dict[str, Callable[[Any], float | None]] = {
        "Recall@1, end": lambda result: result["last"]["recall_at_1"],
        "Recall@1, best": lambda result: result["best"]["recall_at_1"],
        "s_ap": lambda result: result["last"]["s_ap"],
        "s_an": lambda result: result["last"]["s_an"],
        "hard share": lambda result: result["last"]["hard_share"],
    }
    if any("nmi" in ended.result["last"] for ended in done if ended.result):
        columns["NMI"] = lambda result: result["last"].get("nmi")
    if any("training_error" in ended.result["last"] for ended in done if ended.result):
        columns["training error"] = lambda result: result["last"].get("training_error")
    if reach is not None:
        columns[f"epochs to {reach:.3f}"] = lambda result: _epochs_to(result, reach)
    head = ["", *axis, *columns, "largest deviation"]
    lines = [head, ["---"] * len(head)]
    for variant, value in _distinct((ended.run.variant, ended.run.value) for ended in done):
        group = [ended for ended in done if (ended.run.variant, ended.run.value) == (variant, value)]
        results = [ended.result for ended in group if ended.result is not None]
        cells = [_mean_and_spread([column(result) for result in results], name) for name, column in columns.items()]
        deviations = [result["verified"]["largest_deviation"] for result in results]
        verified = [deviation for deviation in deviations if deviation is not None]
        diverged = len(group) - len(results)
        name = variant + (f" ({diverged} of {len(group)} diverged)" if diverged else "")
        lines.append([name, *([] if not axis else [str(value)]), *cells, f"{max(verified):.1e}" if verified else "-"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _reach(experiment: Experiment, done: Sequence[Finished]) -> float | None:
    """The mean final Recall@1 of the variant `reach`, which the others are compared with."""
    ends = [
        ended.result["last"]["recall_at_1"]
        for ended in done
        if ended.result is not None and ended.run.variant == experiment.reach
    ]
    return statistics.mean(ends) if ends else None


def _epochs_to(result: Any, recall: float) -> float | None:
    """The number of epochs after which a run first reached a Recall@1; None if never."""
    reached = [row["epoch"] for row in result["epochs"] if row.get("recall_at_1", -1.0) >= recall]
    return min(reached, default=None)


def _mean_and_spread(values: Sequence[float | None], name: str) -> str:
    """Mean and standard deviation over the runs with a value, and the number of runs without."""
    known = [value for value in values if value is not None]
    never = f" ({len(values) - len(known)} of {len(values)} never)" if len(known) < len(values) else ""
    if not known:
        return "never" if values and "epochs" in name else "-"
    digits = 1 if name.startswith("epochs") else 3
    spread = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{digits}f}{spread}{never}"


def draw(experiment: Experiment, done: Sequence[Finished], output: Path) -> list[Path]:
    """Draw the figures of an experiment, in one folder per data set.

    Returns:
        The figures' paths.
    """
    paths = []
    for dataset in _distinct(ended.run.dataset for ended in done):
        finished = [ended for ended in done if ended.run.dataset == dataset and ended.result is not None]
        if not finished:
            continue
        folder = output / dataset / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        for kind in experiment.figures:
            path = folder / f"{kind}.png"
            _DRAW[kind](finished, path, finished[0].result["data"]["name"])
            paths.append(path)
    return paths


def _by_title(done: Sequence[Finished], read: Callable[[Path], Any], file: str) -> dict[str, list[Any]]:
    runs: dict[str, list[Any]] = {}
    for ended in done:
        runs.setdefault(ended.run.recipe.title, []).append(read(ended.folder / file))
    return runs


def _training(done: Sequence[Finished], path: Path, title: str) -> None:
    runs: dict[str, list[Any]] = {}
    for ended in done:
        for name, history in figures.read_histories(ended.folder / figures.EPOCHS.file).items():
            runs.setdefault(name, []).append(history)
    figures.plot_training(runs, path, x="epoch", title=title)


def _group_size(done: Sequence[Finished], path: Path, title: str) -> None:
    rows = [
        {
            "method": ended.run.variant,
            "images_per_class": ended.run.value,
            "seed": ended.run.seed,
            "recall_at_1": ended.result["last"]["recall_at_1"],
        }
        for ended in done
    ]
    table = path.with_name(figures.GROUPS.file)
    with figures.Records(table, figures.GROUPS, keep=lambda row: False) as records:
        records.write(rows)
    figures.plot_group_size(figures.read_groups(table), path, title=title)


def _diagram_figure(plot: Callable[..., Path]) -> Callable[..., None]:
    def draw_figure(done: Sequence[Finished], path: Path, title: str) -> None:
        plot(_by_title(done, figures.read_diagrams, figures.DIAGRAMS.file), path, title=title)

    return draw_figure


def _embedding_figure(plot: Callable[..., Path], **options: str) -> Callable[..., None]:
    def draw_figure(done: Sequence[Finished], path: Path, title: str) -> None:
        plot(_by_title(done, figures.read_embeddings, figures.EMBEDDINGS_FILE), path, title=title, **options)

    return draw_figure


_DRAW: dict[str, Callable[..., None]] = {
    "training": _training,
    "group-size": _group_size,
    "triplet-steps": _diagram_figure(figures.plot_triplet_steps),
    "train-test": _diagram_figure(figures.plot_train_test),
    "within-class": _embedding_figure(figures.plot_within_class),
    "nearest-train": _embedding_figure(figures.plot_nearest_train),
}


def _distinct(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))
