"""Whether the bundle of the settings is the one that running services serve; ``run --bundle`` names another one."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from deploy.bundle import DEFAULT_BUNDLE, MANIFEST_NAME, read_bundle
from deploy.errors import BundleError, ConfigError
from streamer.config import Settings


def other_bundle(settings: Settings, statuses: Iterable[Mapping[str, str]]) -> str | None:
    """What to tell if a service serves another network than the bundle of the settings has.

    None if none does, if none runs, or if there is no such bundle: then nothing is said by it either.
    """
    served = sorted({said["model_id"] for said in statuses if said.get("model_id")})
    own = _model_id(settings) if served else None
    others = [model_id for model_id in served if model_id != own]
    if own is None or not others:
        return None
    return (
        f"a running service serves the network {', '.join(others)}, but these settings name the bundle of {own}: thresholds of "
        "cameras without a profile of their own, and maps, are not those in force; name the bundle that is served by "
        "engine.bundle or --bundle"
    )


def _model_id(settings: Settings) -> str | None:
    path = settings.engine.bundle or DEFAULT_BUNDLE
    try:
        return _model_id_of(path, settings.engine.trusted_keys, (path / MANIFEST_NAME).stat().st_mtime_ns)
    except (BundleError, ConfigError, OSError):
        return None


@lru_cache(maxsize=4)
def _model_id_of(path: Path, trusted_keys: Path | None, _written_ns: int) -> str:
    """Read once for each manifest: all files of a bundle are hashed for it."""
    return read_bundle(path, trusted_keys).model_id
