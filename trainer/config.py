"""What can be set for a training run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy.errors import ConfigError
from trainer.models.base import ClipConfig, ClipModel
from trainer.models.registry import DEFAULT_MODEL
from trainer.training.distributed import Precision

T = TypeVar("T")


class FitConfig(BaseModel):
    """A training run. The command line sets the first few; the rest is for scripts and tests."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = DEFAULT_MODEL
    feedback: Path | None = None
    """What operators marked: a CSV or a folder, see :mod:`trainer.data.annotations`."""
    seed: int = Field(default=0, ge=0)
    max_minutes: float = Field(default=14.0, gt=0)
    """Time for training steps alone, summed over resumed runs; decoding, export and checks come on top."""
    precision: Precision = "f32"
    patience: int = Field(default=20, ge=1)
    """Validations in a row without a smaller loss of held-out normal footage after which training ends early."""
    max_steps: int | None = Field(default=None, ge=1)
    batch_clips: int | None = Field(default=None, ge=2)
    """None: the model's own."""
    validate_every_steps: int = Field(default=100, ge=1)
    checkpoint_every_s: float = Field(default=30.0, ge=0)
    network: dict[str, Any] = Field(default_factory=dict)
    """Settings of the network that differ from its defaults; size follows from the footage unless given here."""


def fit_config(settings: dict[str, Any]) -> FitConfig:
    """Checked settings of a training run.

    Raises:
        ConfigError: a value breaks its rule.
    """
    return _checked(FitConfig.model_validate, settings)


def network_config(model: ClipModel, settings: Mapping[str, Any]) -> ClipConfig:
    """Checked settings of a network.

    Raises:
        ConfigError: a value breaks its rule.
    """
    return _checked(model.configure, settings)


def _checked(validate: Callable[[Any], T], settings: Mapping[str, Any]) -> T:
    try:
        return validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + ".".join(str(part) for part in first["loc"]).replace("_", "-")
        raise ConfigError(f"{option}: {first['msg']}, got {first['input']!r}") from error
