"""Running recipes: data, network, batches, checkpoints and results. `python -m hardmine train RECIPE` is its face."""

from hardmine.training.data import TrainingData, load_data
from hardmine.training.result import read_result
from hardmine.training.trainer import RunOptions, Trainer

__all__ = ["RunOptions", "Trainer", "TrainingData", "load_data", "read_result"]
