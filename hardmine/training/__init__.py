"""Running recipes: data, network, batches, checkpoints and results. `python -m hardmine train RECIPE` is its face."""

from hardmine.training.data import TrainingData, load_data
from hardmine.training.experiment import Finished, run_experiment
from hardmine.training.folder import check_folder
from hardmine.training.result import read_result
from hardmine.training.tables import draw, markdown
from hardmine.training.trainer import RunOptions, Trainer

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
