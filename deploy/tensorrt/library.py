"""The two libraries, what they say, and how a refusal of theirs becomes an error: almost nothing in them raises."""

from collections import deque
from importlib import import_module
from typing import Any, Final, TypeVar, cast

from deploy.engine import missing_library
from deploy.errors import EngineFailed
from deploy.tensorrt.members import TensorRt

MODULES: Final = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Engine -> module. TensorRT for RTX is a product of its own: its plans run nowhere else, and it needs no GPU to make them."""

_LINES_KEPT = 8
_OUT_OF_MEMORY = "Could not find any implementation for node"

T = TypeVar("T")


def import_library(flavour: str) -> TensorRt:
    """The module of an engine of ``MODULES``.

    Raises:
        EngineUnavailable: it is not installed, or does not load here.
    """
    try:
        return cast("TensorRt", import_module(MODULES[flavour]))
    except (ImportError, OSError) as error:
        cause = ImportError(str(error)) if isinstance(error, OSError) else error
        raise missing_library(flavour, flavour, cause) from error


class Log:
    """What a library says: the last warnings and errors. ``logger`` is what it wants to be given."""

    def __init__(self, library: TensorRt) -> None:
        self.lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self.logger = _logger(library, self.lines)

    def require(self, value: T | None, failed: str) -> T:
        """``value``, unless it is one of the three ways to say no: None, False, and -1 for an index.

        Raises:
            EngineFailed: begins with ``failed`` and ends with what the library said.
        """
        if value is None or value is False or (type(value) is int and value == -1):
            said = "; ".join(self.lines) or "it gave no reason"
            hint = " (often: too little GPU memory)" if _OUT_OF_MEMORY in said else ""
            raise EngineFailed(f"{failed}: {said}{hint}")
        return value


def _logger(library: TensorRt, lines: deque[str]) -> Any:
    """The library's own base class must be called by hand: pybind11 asks for it."""

    class Logger(library.ILogger):  # type: ignore[misc, name-defined]  # a class that is known at run time only
        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= library.ILogger.Severity.WARNING:
                lines.append(" ".join(str(message).split()))

    return Logger()
