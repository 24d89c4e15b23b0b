"""The engine that a bundle is served with where the settings name none: what ``oddsight-deploy optimize`` chose on a machine.

engines/default.json    engine, precision and tune, what they were chosen for, and what was measured
"""

from pathlib import Path
from typing import Final

from pydantic import AwareDatetime, BaseModel, ConfigDict

from deploy.bundle import Bundle, replace_file
from deploy.camera_load import Figures
from deploy.engine import Precision, Tune
from deploy.errors import BundleError
from deploy.variants import ENGINES_FOLDER, Fingerprint, read_record

_NAME: Final = "default.json"


class DefaultEngine(BaseModel):
    """``default.json``: the winner, for a model, a machine and a load."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    engine: str
    precision: Precision
    tune: Tune
    model_sha256: str
    """Of the serving graph that it was chosen for."""
    fingerprint: Fingerprint
    cameras: int
    frame_rate: float
    """Frames a second of each camera."""
    keeps_up: bool
    """Whether it did with that load; if not, no engine did."""
    measured: Figures
    chosen_at: AwareDatetime
    """In UTC."""


def write_default(bundle: Bundle, default: DefaultEngine) -> Path:
    """Keep the choice; an earlier one is replaced.

    Raises:
        BundleError: the bundle cannot be written to.
    """
    path = _path(bundle)
    try:
        path.parent.mkdir(exist_ok=True)
        replace_file(path, (default.model_dump_json(indent=2) + "\n").encode())
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; choose on a copy of the bundle that you may write to") from error
    return path


def read_default(bundle: Bundle) -> DefaultEngine | None:
    """What was chosen, here or elsewhere, for this model or an earlier one; None: nothing was.

    Raises:
        BundleCorrupt: the record cannot be read.
    """
    path = _path(bundle)
    return read_record(DefaultEngine, path, "oddsight-deploy optimize") if path.exists() else None


def _path(bundle: Bundle) -> Path:
    return bundle.path / ENGINES_FOLDER / _NAME
