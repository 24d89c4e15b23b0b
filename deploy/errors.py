"""The root of every error Oddsight raises on purpose, and the errors of bundles, frames, decoders and engines.

OddsightError                 the command line prints it in one line and exits with its ``exit_code``
├── ConfigError               a setting is wrong: names dotted path, rule and value (exit 2)
├── BundleError               a bundle cannot be used
│   ├── BundleCorrupt         a file is missing or differs from its sha256
│   └── BundleIncompatible    made for another format, spec or model kind
├── BadFrame                  bytes that are no usable picture; ``reason`` is a word for metrics and headers
├── VideoUnreadable           a video cannot be opened or read, or none of its frames can be decoded
├── DecoderError
│   ├── DecoderUnavailable    the decoder's library or GPU is missing; names the extra
│   ├── DecoderRefused        its pictures give other scores than those decoded on the CPU
│   └── DecoderFailed         it no longer decodes
└── EngineError
    ├── EngineUnavailable     the backend's library is not installed or does not run here; names the extra
    ├── EngineRefused         it has not passed validation on this machine; names what to run
    │   └── PlanStale         its plan was made for something else; names each difference
    ├── BadClips              the caller broke the clip contract (dtype, shape, size); names value and rule
    ├── EngineClosed          used after close()
    └── EngineFailed          the backend failed or gave back something that is no score
"""

from collections.abc import Iterator
from contextlib import contextmanager


class OddsightError(Exception):
    """Root of all errors raised on purpose. ``retriable`` says whether the same call may succeed later."""

    exit_code = 1
    retriable = False


class ConfigError(OddsightError):
    """A setting is wrong; the message names its dotted path, the rule and the value."""

    exit_code = 2


class BundleError(OddsightError):
    """A bundle cannot be used."""


class BundleCorrupt(BundleError):
    """A file of the bundle is missing, unreadable or differs from the sha256 in ``bundle.json``."""


class BundleIncompatible(BundleError):
    """The bundle was made for another bundle format or for a model that is not installed."""


class BadFrame(OddsightError):
    """Bytes that are no usable picture.

    ``reason`` is one of a fixed set of words, fit for a metric label or a message header; the message says more.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class VideoUnreadable(OddsightError):
    """A video cannot be opened or read, or none of its frames can be decoded."""


class DecoderError(OddsightError):
    """A decoder could not be started or could not decode."""


class DecoderUnavailable(DecoderError):
    """The decoder's library is not installed or does not run on this machine."""


class DecoderRefused(DecoderError):
    """The decoder's pictures give other scores than those decoded on the CPU."""


class DecoderFailed(DecoderError):
    """The decoder no longer decodes what it decoded when it was started."""


class EngineError(OddsightError):
    """An engine could not be loaded or could not score."""


class EngineUnavailable(EngineError):
    """The backend's library is not installed or does not run on this machine."""


class EngineRefused(EngineError):
    """The engine has not passed validation with this bundle on this machine."""


class PlanStale(EngineRefused):
    """The engine's plan was made for another model, library or GPU."""


class BadClips(EngineError):
    """The clips handed to an engine break the clip contract."""


class EngineClosed(EngineError):
    """The engine was used after ``close()``."""


class EngineFailed(EngineError):
    """The backend failed, or gave back something that is no score."""


@contextmanager
def backend_errors(failed: str) -> Iterator[None]:
    """Turn whatever a backend raises into an EngineFailed that begins with ``failed``."""
    try:
        yield
    except Exception as error:
        # A backend's message goes on for lines of its own source code; the cause keeps them all.
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise EngineFailed(f"{failed}: {reason}") from error


def missing_library(engine: str, extra: str, error: ImportError) -> EngineUnavailable:
    """The error to raise when an engine's library cannot be imported."""
    return EngineUnavailable(f"the {engine} engine cannot be used: {error}; install it: pip install 'oddsight[{extra}]'")
