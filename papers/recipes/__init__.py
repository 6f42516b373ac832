"""Recipes: the papers' trainings and experiments, as strictly read TOML files."""

from papers.recipes.experiment import Experiment, load_experiment
from papers.recipes.fields import RecipeError
from papers.recipes.losses import LOSSES, Loss, SmartTripletLoss, make_loss
from papers.recipes.recipe import Recipe, load_recipe, recipe_names

__all__ = [
    "LOSSES",
    "Experiment",
    "Loss",
    "Recipe",
    "RecipeError",
    "SmartTripletLoss",
    "load_experiment",
    "load_recipe",
    "make_loss",
    "recipe_names",
]
