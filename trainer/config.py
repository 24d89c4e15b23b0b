"""What can be set for a training run, and the models there are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy.errors import ConfigError

DEFAULT_MODEL = "video-ganomaly"


class FitConfig(BaseModel):
    """A training run. The command line sets the first three; the rest is for scripts and tests."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = DEFAULT_MODEL
    seed: int = Field(default=0, ge=0)
    max_minutes: float = Field(default=8.0, gt=0)
    """Time for training steps alone, summed over resumed runs; decoding, export and checks come on top."""
    max_steps: int | None = Field(default=None, ge=1)
    batch_clips: int = Field(default=16, ge=2)
    learning_rate: float = Field(default=2e-4, gt=0)
    checkpoint_every_s: float = Field(default=30.0, ge=0)
    network: dict[str, Any] = Field(default_factory=dict)
    """Settings of the network that differ from its defaults; size follows from the footage unless given here."""


@dataclass(frozen=True, slots=True)
class ModelKind:
    """A trainable model: how to read its settings and which frame area it wants."""

    name: str
    frame_area_px: int
    configure: Callable[[dict[str, Any]], Any]


def model_kind(name: str) -> ModelKind:
    """The model of that name.

    Raises:
        ConfigError: there is none.
    """
    if name != DEFAULT_MODEL:
        raise ConfigError(f"--model must be one of {DEFAULT_MODEL}, got {name!r}")
    from trainer.models.video_ganomaly import FRAME_AREA_PX, KIND, GanomalyConfig

    return ModelKind(KIND, FRAME_AREA_PX, GanomalyConfig.model_validate)


def fit_config(settings: dict[str, Any]) -> FitConfig:
    """Checked settings of a training run.

    Raises:
        ConfigError: a value breaks its rule.
    """
    try:
        return FitConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + ".".join(str(part) for part in first["loc"]).replace("_", "-")
        raise ConfigError(f"{option}: {first['msg']}, got {first['input']!r}") from error
