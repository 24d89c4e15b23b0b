"""Camera profiles: what is normal at one camera, as an input of the serving graph, with the calibration of its scores.

A profile is one safetensors file of at most 200 KB: the tensor ``profile``, and :class:`ProfileInfo` as JSON in the header. The
meaning of the values belongs to the model; the rest of the system passes them on. A bundle's ``profile.safetensors`` holds the
values of its default profile alone: the calibration that belongs to it is the bundle's ``calibration.json``.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy.bundle import Bundle, replace_file, unwritable_folder
from deploy.calibration import Calibration
from deploy.errors import ProfileCorrupt, ProfileError, ProfileIncompatible, first_line, validation_line
from deploy.files import open_regular_file

MAX_FILE_BYTES: Final = 256 * 1024  # 200 KB of values and the header
_TENSOR: Final = "profile"
_INFO: Final = "info"

ProfileValues = NDArray[np.float32]
"""float32 (P,) of one camera, or (N, P) of the cameras of a micro-batch."""


class ProfileInfo(BaseModel):
    """What a profile was learned from, and the calibration that goes with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2] = 2
    camera_id: str = Field(min_length=1)
    model_id: str
    """The network that the values belong to; with any other they mean nothing."""
    created_at: datetime
    footage: tuple[str, ...]
    """Names of the clips it was learned from."""
    frames: int = Field(ge=1)
    """Number of frames it was learned from."""
    fps: float = Field(gt=0)
    """Frames per second of that footage."""
    height_px: int = Field(ge=1)
    width_px: int = Field(ge=1)
    """Size of the camera's images before scaling."""
    calibration: Calibration


@dataclass(frozen=True, eq=False)  # compared by identity: arrays have no truth value
class Profile:
    """A camera's profile."""

    info: ProfileInfo
    values: ProfileValues  # (P,)

    @cached_property
    def profile_id(self) -> str:
        """Camera and hash of the content."""
        return f"{self.info.camera_id}-{hashlib.sha256(profile_bytes(self)).hexdigest()[:12]}"


def profile_bytes(profile: Profile) -> bytes:
    """Content of a profile's file."""
    from safetensors.numpy import save

    return save({_TENSOR: profile.values}, {_INFO: profile.info.model_dump_json()})


def write_profile(path: Path, profile: Profile) -> None:
    """Write a profile's file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, profile_bytes(profile))


def require_replaceable(path: Path, camera_id: str) -> None:
    """Raise ProfileError, before long work, if a camera's profile cannot be written to ``path``.

    That is: the folder cannot be written to, or the path holds something else than a profile of this camera.
    """
    if path.is_dir():
        raise ProfileError(f"{path}: is a folder; give the name of a file, such as {path / camera_id}.safetensors")
    if (parent := unwritable_folder(path)) is not None:
        raise ProfileError(f"{path}: cannot be written, {parent} is not a folder that one may write to")
    if path.exists() and (other := read_profile(path).info.camera_id) != camera_id:
        raise ProfileError(f"{path}: holds the profile of camera {other!r}, not of {camera_id!r}; give another --out")


def read_profile(path: Path) -> Profile:
    """Read a profile's file. Raises ProfileCorrupt if it is none."""
    try:
        if not path.exists():
            raise ProfileCorrupt(f"{path}: no such file; make one: oddsight-train enrol --camera-id ID --data DIR --out {path}")
        with open_regular_file(path, follow_links=True) as file:
            return parse_profile(file.read(MAX_FILE_BYTES + 1), str(path))
    except OSError as error:
        raise ProfileCorrupt(f"{path}: {error.strerror}") from error


def parse_profile(content: bytes, name: str) -> Profile:
    """The profile with this content; ``name`` is for messages. Raises ProfileCorrupt if it is none."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if len(content) > MAX_FILE_BYTES:
        raise ProfileCorrupt(f"{name}: a profile has at most {MAX_FILE_BYTES} bytes, this file is larger")
    try:
        values = load(content)[_TENSOR]
        info = ProfileInfo.model_validate_json(header_entry(content, _INFO))
    except ValidationError as error:
        raise ProfileCorrupt(f"{name}: {validation_line(error)}") from error
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise ProfileCorrupt(f"{name}: not a profile ({first_line(error)})") from error
    if values.dtype != np.float32 or values.ndim != 1 or not np.isfinite(values).all():
        raise ProfileCorrupt(f"{name}: the values must be a vector of finite float32, got {values.dtype} {values.shape}")
    return Profile(info, values)


def require_profile_of(bundle: Bundle, profile: Profile) -> None:
    """Raise ProfileIncompatible unless ``profile`` was learned with the bundle's network."""
    if not bundle.spec.profile_size:
        raise ProfileIncompatible(f"{bundle.path}: a model of kind {bundle.manifest.model.kind} takes no profiles")
    again = f"learn it again: oddsight-train enrol --bundle {bundle.path} --camera-id {profile.info.camera_id}"
    if profile.info.model_id != bundle.model_id:
        raise ProfileIncompatible(
            f"the profile {profile.profile_id} belongs to the model {profile.info.model_id}, the bundle {bundle.path} has "
            f"{bundle.model_id}; {again}"
        )
    if profile.values.shape != (bundle.spec.profile_size,):
        raise ProfileIncompatible(
            f"the profile {profile.profile_id} was learned with another version of {bundle.path}: it has {profile.values.size} "
            f"values instead of {bundle.spec.profile_size}; {again}"
        )


def with_profile(bundle: Bundle, profile: Profile) -> Bundle:
    """The bundle with a camera's profile and calibration in place of the default ones, in memory only.

    Raises ProfileIncompatible if the profile was learned with another network.
    """
    require_profile_of(bundle, profile)
    return replace(bundle, default_profile=profile.values, calibration=profile.info.calibration)


def header_entry(content: bytes, name: str) -> str:
    """A text in the header of a safetensors file, which the library's reader of bytes does not give."""
    size = int.from_bytes(content[:8], "little")
    entry: str = json.loads(content[8 : 8 + size])["__metadata__"][name]
    return entry
