"""Models by name: models of samples (images, table rows), models of video clips, and the builders of ``oddsight.networks``."""

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
"""Settings of the image models on tiles of clips, where they differ from the defaults: networks small enough to score on a CPU
in time, and AMA's learning rates as in its benchmark."""


def recipe(name: str) -> Recipe:
    """The recipe of the image model with this name; ConfigError if there is none."""
    if name not in RECIPES:
        raise ConfigError(f"--model must be one of {', '.join(RECIPES)}, got {name!r}")
    loaded: Recipe = importlib.import_module(f"trainer.models.{name}").RECIPE  # the others are not imported
    return loaded


def clip_model(name: str) -> ClipModel:
    """The clip model with this name; ConfigError if there is none."""
    if name in _VIDEO:
        return _VIDEO[name]
    if name in TILED:
        return tiled(recipe(name), TILED[name])
    raise ConfigError(f"--model must be one of {', '.join([*_VIDEO, *TILED])}, got {name!r}")


def _build(name: str, config: dict[str, Any]) -> nn.Module:
    model = clip_model(name)
    return model.build(model.configure(config))


def build_video_ede(config: dict[str, Any]) -> nn.Module:
    """The video model with a bundle's config; ConfigError for one of an earlier version, whose profiles hold something else."""
    if "lights" not in config:
        raise ConfigError("an earlier version made this bundle (its model.config has no lights): train it again")
    return _build(video_ede.KIND, config)


build_video_ganomaly = partial(_build, video_ganomaly.KIND)
build_ganomaly = partial(_build, "ganomaly")
build_ama = partial(_build, "ama")
build_esad = partial(_build, "esad")
