"""The root of every error Oddsight raises on purpose, and the errors of bundles, frames, decoders and engines.

The command lines print an error in one line and exit with its ``exit_code``.

OddsightError
├── ConfigError
├── BundleError
│   ├── BundleCorrupt
│   ├── BundleIncompatible
│   └── BundleUntrusted
├── ProfileError
│   ├── ProfileCorrupt
│   └── ProfileIncompatible
├── MemoryCorrupt
├── BadFrame
├── VideoUnreadable
├── DecoderError
│   ├── DecoderUnavailable
│   ├── DecoderRefused
│   └── DecoderFailed
└── EngineError
    ├── EngineUnavailable
    ├── EngineRefused
    │   └── PlanStale
    ├── BadClips
    ├── EngineClosed
    └── EngineFailed
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class OddsightError(Exception):
    """Root of all errors raised on purpose. ``retriable`` says whether the same call may succeed later."""

    exit_code = 1
    retriable = False


class ConfigError(OddsightError):
    """A setting is wrong: the message names its path, the rule and the value."""

    exit_code = 2


class BundleError(OddsightError):
    """A bundle cannot be used."""


class BundleCorrupt(BundleError):
    """A file of the bundle is missing, unreadable or differs from its sha256."""


class BundleIncompatible(BundleError):
    """The bundle was made for another bundle format or for a model that is not installed."""


class BundleUntrusted(BundleError):
    """The bundle is not signed by a key that is trusted."""


class ProfileError(OddsightError):
    """A camera's profile cannot be used."""


class ProfileCorrupt(ProfileError):
    """The file is missing or is not a profile."""


class ProfileIncompatible(ProfileError):
    """The profile belongs to another network."""


class MemoryCorrupt(OddsightError):
    """What is stored of a model's state is damaged."""


class BadFrame(OddsightError):
    """Bytes that are not a usable image. ``reason`` is one of a fixed set of words, fit for a metric label or a header."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class VideoUnreadable(OddsightError):
    """A video cannot be opened or read, or none of its frames can be decoded."""


class DecoderError(OddsightError):
    """A decoder could not be started or could not decode."""


class DecoderUnavailable(DecoderError):
    """The decoder's library or GPU is missing; the message names the extra to install."""


class DecoderRefused(DecoderError):
    """The decoder's images give other scores than those decoded on the CPU."""


class DecoderFailed(DecoderError):
    """The decoder worked at start and no longer does."""


class EngineError(OddsightError):
    """An engine could not be loaded or could not score."""


class EngineUnavailable(EngineError):
    """The backend's library is not installed or does not run here; the message names the extra to install."""


class EngineRefused(EngineError):
    """The engine has not been validated with this bundle on this machine; the message names the command to run."""


class PlanStale(EngineRefused):
    """The engine's plan was built for another model, library or GPU."""


class BadClips(EngineError):
    """The clips given to an engine break the clip contract: dtype, shape or number."""


class EngineClosed(EngineError):
    """The engine was used after ``close()``."""


class EngineFailed(EngineError):
    """The backend failed or returned something that is not a score."""


def first_line(error: BaseException) -> str:
    """First line of an error's message, or its type if it has none; many libraries append lines of their source code."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def validation_line(error: "ValidationError") -> str:
    """The first error of pydantic in one line: the setting, the rule and the value."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}"


@contextmanager
def backend_errors(action: str) -> Iterator[None]:
    """Turn every error into an EngineFailed whose message begins with ``action``, what failed."""
    try:
        yield
    except Exception as error:
        raise EngineFailed(f"{action}: {first_line(error)}") from error


@contextmanager
def required_library(engine: str, extra: str) -> Iterator[None]:
    """Turn the error of an import into an EngineUnavailable that names the extra to install."""
    try:
        yield
    except (ImportError, OSError) as error:  # OSError: a shared library is missing
        raise EngineUnavailable(
            f"the {engine} engine cannot be used: {error}; install it: pip install 'oddsight[{extra}]'"
        ) from error
