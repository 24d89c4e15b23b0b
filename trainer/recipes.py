"""The models that learn from samples, by name."""

import importlib

from deploy.errors import ConfigError
from trainer.learner import Recipe

RECIPES = ("ganomaly", "ama", "esad")


def recipe(name: str) -> Recipe:
    """How to make the model of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in RECIPES:
        raise ConfigError(f"--model must be one of {', '.join(RECIPES)}, got {name!r}")
    # Only the model asked for is loaded.
    found: Recipe = importlib.import_module(f"trainer.models.{name}").RECIPE
    return found
