"""Recipes: the papers' trainings, and experiments, as TOML files that are read strictly."""

from hardmine.recipes.experiment import Experiment, load_experiment
from hardmine.recipes.fields import RecipeError
from hardmine.recipes.losses import LOSSES, Loss, SmartTripletLoss, make_loss
from hardmine.recipes.recipe import Recipe, load_recipe, recipe_names

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
