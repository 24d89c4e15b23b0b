"""How a plan is made. Part of its fingerprint."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from deploy.errors import ConfigError


class BuildOptions(BaseModel):
    """How a plan is made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    buckets: tuple[int, ...] = Field(default=(1, 8, 32, 128), min_length=1)
    """Clips a call, in rising order; a call with fewer is filled up to the next."""
    profiles: Literal["static", "wide"] = "static"
    """``static``: one profile a bucket, each tuned for it; ``wide``: one for all, tuned for the largest."""
    level: int = Field(default=3, ge=0, le=5)
    """How long the builder looks for faster kernels: 0 hardly, 5 longest."""
    workspace_bytes: int = Field(default=4 << 30, ge=1 << 20)
    """Most GPU memory that a kernel may take for itself; only what is needed is taken."""
    max_plan_bytes: int = Field(default=1 << 30, ge=1)
    """A larger plan is an error."""

    @field_validator("buckets")
    @classmethod
    def _rising(cls, buckets: tuple[int, ...]) -> tuple[int, ...]:
        if list(buckets) != sorted(set(buckets)) or buckets[0] < 1 or buckets[-1] > 1024:
            raise ValueError(f"buckets must rise, from 1 to 1024, got {buckets}")
        return buckets


def read_options(
    *, buckets: Sequence[int] | None, profiles: Literal["static", "wide"], level: int, workspace_mib: int, max_plan_mib: int
) -> BuildOptions:
    """Options as a user gives them: buckets in any order, None for the usual ones; sizes in MiB.

    Raises:
        ConfigError: one is out of its range.
    """
    given = {
        "profiles": profiles,
        "level": level,
        "workspace_bytes": workspace_mib << 20,
        "max_plan_bytes": max_plan_mib << 20,
        **({} if buckets is None else {"buckets": tuple(sorted(set(buckets)))}),
    }
    try:
        return BuildOptions.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}") from error
