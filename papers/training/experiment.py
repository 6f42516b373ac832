"""Running experiments: many trainings, each of them once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from papers._files import save_json
from papers.recipes.experiment import Experiment, Run
from papers.training import checkpoint, result
from papers.training.data import TrainingData, load_data
from papers.training.trainer import RunOptions, Trainer

FAILED = "failed.json"


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Attributes:
        run: The run.
        folder: Folder of its files.
        result: Content of `result.json`; None if the training diverged.
        error: Why there is no result.
        data: Name and fingerprint of its data; None if not recorded.
    """

    run: Run
    folder: Path
    result: Mapping[str, Any] | None
    error: str | None = None
    data: Mapping[str, Any] | None = None


def run_experiment(
    experiment: Experiment,
    root: str | os.PathLike[str] | None,
    output: Path,
    cache: Path,
    options: RunOptions,
    *,
    log: Callable[[str], None],
) -> list[Finished]:
    """Run the trainings that are not finished. Interrupted trainings resume.

    Args:
        experiment: The experiment.
        root: Folder of the data.
        output: Folder of the results, with one folder per run.
        cache: Folder of cached features.
        options: How to run the trainings.
        log: Called with a line when a run begins or ends.

    Returns:
        All runs.

    Raises:
        ValueError: A folder has a run of another recipe; the message names the differences. Or runs to be averaged have
            different data; the message names their folders. All folders are checked before the first training, and data
            when they are loaded.
        KeyboardInterrupt: Ctrl-C. Finished runs and the current run's checkpoint are kept.
        hardmine.VerificationError: A fused op disagrees with its reference.
    """
    before = [finished(run, output / run.folder) for run in experiment.runs]
    same = _SameData()
    for ended in before:
        if ended is not None and ended.data is not None:
            same.check(ended.run, ended.folder, ended.data)
    loaded: dict[str, TrainingData] = {}
    done, logged = [], ""
    for number, (run, ended) in enumerate(zip(experiment.runs, before, strict=True), 1):
        folder = output / run.folder
        head = f"[{number}/{len(experiment.runs)}] {run.folder}"
        if ended is None:
            key = repr((run.recipe.data, run.recipe.network.backbone, run.recipe.network.frozen, run.seed))
            if run.recipe.network.frozen or run.recipe.network.backbone == "convnet4":  # these don't depend on the seed
                key = repr((run.recipe.data, run.recipe.network.backbone, run.recipe.network.weights))
            if key not in loaded:
                loaded.clear()
                loaded[key] = load_data(run.recipe, root, cache, progress=options.progress, device=options.device)
            data = loaded[key].with_notes_for(run.recipe)
            lines = "\n".join(data.notes) or data.name
            if lines != logged:
                log(lines)
                logged = lines
            about = {"name": data.name, "fingerprint": data.fingerprint}
            same.check(run, folder, about)
            folder.mkdir(parents=True, exist_ok=True)
            trainer = Trainer(run.recipe, data, folder, options, resume=True)
            try:
                ended = Finished(run, folder, trainer.run(), data=about)
            except FloatingPointError as error:  # divergence is a result too
                save_json(folder / FAILED, {"recipe": run.recipe.as_dict(), "data": about, "error": str(error)})
                ended = Finished(run, folder, None, str(error), about)
            log(f"{head}: {_outcome(ended)}")
        else:
            log(f"{head}: {_outcome(ended)} (already finished)")
        done.append(ended)
    return done


def finished(run: Run, folder: Path) -> Finished | None:
    """The outcome of a run; None if it is not finished, or has more epochs now.

    Raises:
        ValueError: The folder has a run of another recipe, finished or not, or a damaged checkpoint.
    """
    found = result.read_result(folder)
    failed = result.read_result(folder, FAILED) if found is None else None
    ended = failed if found is None else found
    path = folder / checkpoint.FILE
    content = checkpoint.load_checkpoint(path) if ended is None and path.exists() else ended
    if content is not None:
        same = {"recipe": content["recipe"], "data": {}}
        checkpoint.check_same_run(folder, same, run.recipe.as_dict(), {})
    if ended is None or (found is not None and checkpoint.has_more_epochs(run.recipe.as_dict(), found["recipe"])):
        return None
    return Finished(run, folder, found, None if failed is None else failed["error"], ended.get("data"))


class _SameData:
    """Check that runs with the same settings have the same data, since they are averaged."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[Path, str]] = {}

    def check(self, run: Run, folder: Path, data: Mapping[str, Any]) -> None:
        """Check that a run has the same data as earlier runs."""
        network = run.recipe.network
        features = (network.backbone, network.weights) if network.frozen else None  # features are then the data
        key = repr((run.dataset, run.recipe.data, features))
        shown = f"{data['name']} ({data['fingerprint']})"
        first, known = self._first.setdefault(key, (folder, shown))
        if shown != known:
            raise ValueError(
                f"runs of {run.dataset} must use the same data, got {known} in {first} and {shown} in {folder}: "
                "choose another folder for the new runs"
            )


def _outcome(ended: Finished) -> str:
    if ended.result is None:
        return f"diverged: {ended.error}"
    last, best = ended.result["last"], ended.result["best"]
    return f"final Recall@1 {last['recall_at_1']:.3f}, best {best['recall_at_1']:.3f}, {last['seconds']:.0f} s"
