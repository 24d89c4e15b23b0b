"""The models that learn from footage, by name; and what the entry points of ``oddsight.networks`` build.

The models that learn from samples, by name.
"""

import importlib
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import nn

from deploy.errors import ConfigError
from trainer.models import video_ganomaly
from trainer.models.base import ClipModel
from trainer.models.tiles import tiled
from trainer.models.video_ede import model as video_ede
from trainer.training.interfaces import Recipe

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


DEFAULT_MODEL = video_ede.KIND
_VIDEO: Mapping[str, ClipModel] = MappingProxyType(
    {model.kind: model for model in (video_ede.CLIP_MODEL, video_ganomaly.CLIP_MODEL)}
)

TILED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "ganomaly": {"width": 32},
        "ama": {"generator_width": 16, "critic_width": 8, "critic_steps": 1, "learning_rate": 3e-3, "latent_weight": 0.1},
        "esad": {},
    }
)
"""Models of pictures -> their settings on clips, where these differ from the model's own: sizes that a CPU scores in time, and
AMA's rates as its benchmark has them."""


def clip_model(name: str) -> ClipModel:
    """The model of that name.

    Raises:
        ConfigError: there is none.
    """
    if name in _VIDEO:
        return _VIDEO[name]
    if name in TILED:
        return tiled(recipe(name), TILED[name])
    raise ConfigError(f"--model must be one of {', '.join([*_VIDEO, *TILED])}, got {name!r}")


def _build(name: str, config: dict[str, Any]) -> nn.Module:
    """The serving graph for a bundle's model card, with weights still to be loaded."""
    model = clip_model(name)
    return model.serving(model.configure(config))


build_video_ede = partial(_build, video_ede.KIND)
build_video_ganomaly = partial(_build, video_ganomaly.KIND)
build_ganomaly = partial(_build, "ganomaly")
build_ama = partial(_build, "ama")
build_esad = partial(_build, "esad")
