"""Settings of a training run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy.errors import ConfigError, validation_line
from trainer.models.registry import DEFAULT_MODEL
from trainer.training.distributed import Precision

T = TypeVar("T")


class FitConfig(BaseModel):
    """Settings of ``fit``. The command line has options for the most common ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = DEFAULT_MODEL
    feedback: Path | None = None
    """Annotations of operators: a CSV file or a folder, see :mod:`trainer.data.annotations`."""
    seed: int = Field(default=0, ge=0)
    max_minutes: float = Field(default=14.0, gt=0)
    """Time for training steps, summed over resumed runs; decoding, export and checks are not counted."""
    precision: Precision = "f32"
    patience: int = Field(default=20, ge=1)
    """Early stopping: validations in a row without a smaller loss of held-out footage."""
    max_steps: int | None = Field(default=None, ge=1)
    batch_clips: int | None = Field(default=None, ge=2)
    """None: the default of the model."""
    validate_every_steps: int = Field(default=100, ge=1)
    checkpoint_every_s: float = Field(default=30.0, ge=0)
    network: dict[str, Any] = Field(default_factory=dict)
    """Settings of the network other than its defaults. The frame size is chosen from the footage unless it is set here."""


def validated(validate: Callable[[Any], T], settings: Mapping[str, Any]) -> T:
    """``validate(settings)``, with the error of pydantic in one line.

    Raises:
        ConfigError: a setting is invalid; names its option, rule and value.
    """
    try:
        return validate(settings)
    except ValidationError as error:
        setting, _, problem = validation_line(error).partition(": ")
        raise ConfigError(f"--{setting.replace('_', '-')}: {problem}") from error
