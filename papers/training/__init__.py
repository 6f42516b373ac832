"""Running recipes: data, network, batches, checkpoints and results, for `python -m papers train RECIPE`."""

from papers.training.data import TrainingData, load_data
from papers.training.experiment import Finished, run_experiment
from papers.training.folder import check_folder
from papers.training.result import read_result
from papers.training.tables import draw, markdown
from papers.training.trainer import RunOptions, Trainer

__all__ = [
    "Finished",
    "RunOptions",
    "Trainer",
    "TrainingData",
    "check_folder",
    "draw",
    "load_data",
    "markdown",
    "read_result",
    "run_experiment",
]
