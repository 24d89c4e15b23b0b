"""The two libraries, what they say, and how a refusal of theirs becomes an error: almost nothing in them raises.

The members of ``tensorrt`` and ``tensorrt_rtx`` that are in use, with what they really give back on failure.

Neither library has type hints that could be used. A test looks every member up in the real modules.
"""

import platform
from collections import deque
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, Protocol, TypeVar, cast

from deploy.errors import EngineFailed, missing_library
from deploy.gpu.driver import find_gpu

Shape = Sequence[int]


class HostMemory(Protocol):
    """A plan in memory; readable as a buffer."""

    nbytes: int


class Tensor(Protocol):
    """``ITensor``."""

    name: str
    dtype: Any
    shape: Shape


class Layer(Protocol):
    """``ILayer``."""

    name: str
    type: Any

    num_inputs: int

    def get_input(self, index: int) -> Tensor | None:
        """The layer's input; None: it has none of that number."""

    def get_output(self, index: int) -> Tensor | None:
        """The layer's output."""


class Network(Protocol):
    """``INetworkDefinition``."""

    name: str
    num_inputs: int
    num_layers: int

    def get_input(self, index: int) -> Tensor:
        """An input."""

    def get_layer(self, index: int) -> Layer:
        """A layer."""


class ParserError(Protocol):
    """``IParserError``."""

    def desc(self) -> str:
        """What went wrong."""

    def node_name(self) -> str:
        """Where."""


class Parser(Protocol):
    """``OnnxParser``."""

    num_errors: int

    def parse(self, model: bytes) -> bool:
        """False: see the errors."""

    def get_error(self, index: int) -> ParserError:
        """One error."""


class Profile(Protocol):
    """``IOptimizationProfile``."""

    def set_shape(self, input: str, min: Shape, opt: Shape, max: Shape) -> None:  # noqa: A002  NVIDIA's names
        """Says nothing of an unknown name or of a least size above the largest; ``get_shape`` is then empty."""

    def get_shape(self, input: str) -> Sequence[Shape]:  # noqa: A002  NVIDIA's name
        """Least, best and largest shape; empty if none was set."""


class TimingCache(Protocol):
    """``ITimingCache``."""

    def serialize(self) -> HostMemory | None:
        """To be kept for later builds."""


class BuilderConfig(Protocol):
    """``IBuilderConfig``."""

    builder_optimization_level: int
    max_aux_streams: int
    profiling_verbosity: Any
    progress_monitor: Any

    def add_optimization_profile(self, profile: Profile) -> int:
        """-1: refused."""

    def clear_flag(self, flag: Any) -> None:
        """Switch an option off."""

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        """Most memory of a pool, in bytes."""

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache | None:
        """From bytes, which may be empty."""

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        """False: it is of another GPU or version."""

    def get_timing_cache(self) -> TimingCache | None:
        """The cache after the build."""


class Builder(Protocol):
    """``Builder``."""

    def create_network(self, flags: int) -> Network | None:
        """An empty network."""

    def create_builder_config(self) -> BuilderConfig | None:
        """An empty configuration."""

    def create_optimization_profile(self) -> Profile | None:
        """An empty profile."""

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> HostMemory | None:
        """The plan; None: see the log."""


class Context(Protocol):
    """``IExecutionContext``."""

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """False: refused."""

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        """False: outside the profile, or no such input."""

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """False: no such tensor."""

    def infer_shapes(self) -> Sequence[str]:
        """Names of inputs whose shape is still unknown."""

    def execute_async_v3(self, stream_handle: int) -> bool:
        """False: not enqueued."""


class CudaEngine(Protocol):
    """``ICudaEngine``."""

    num_io_tensors: int

    def get_tensor_name(self, index: int) -> str:
        """Name of an input or output."""

    def get_tensor_shape(self, name: str) -> Shape:
        """-1 where a size is free."""

    def create_execution_context(self, strategy: Any) -> Context | None:
        """None: no memory for it."""


class Runtime(Protocol):
    """``Runtime``. Never made before a GPU is known to be there: without a driver the process dies on its first use."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> CudaEngine | None:
        """None: see the log."""


class TensorRt(Protocol):
    """The module ``tensorrt`` or ``tensorrt_rtx``. The lean ``tensorrt_lean`` has the half that runs plans."""

    __version__: str
    ILogger: Any
    IProgressMonitor: Any
    NetworkDefinitionCreationFlag: Any
    BuilderFlag: Any
    MemoryPoolType: Any
    ProfilingVerbosity: Any
    ExecutionContextAllocationStrategy: Any

    def Builder(self, logger: Any) -> Builder:  # noqa: N802  NVIDIA's name
        """TypeError: its factory gave nothing."""

    def OnnxParser(self, network: Network, logger: Any) -> Parser:  # noqa: N802  NVIDIA's name
        """A parser that fills ``network``."""

    def Runtime(self, logger: Any) -> Runtime:  # noqa: N802  NVIDIA's name
        """TypeError: its factory gave nothing."""


MODULES: Final = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Engine -> module. TensorRT for RTX is a product of its own: its plans run nowhere else, and it needs no GPU to make them."""

FOR_ALL_GPUS = frozenset({"tensorrt-rtx"})
"""Engines whose plans are built without a GPU and run on every GPU that the library knows."""

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


def plan_fingerprint(engine: str, library: TensorRt) -> dict[str, str]:
    """What a plan of ``engine`` that is built on this machine depends on.

    Raises:
        EngineUnavailable: it is for the GPU of this machine, and there is none.
    """
    fingerprint = {"backend": engine, "version": library.__version__, "os": f"{platform.system()} {platform.machine()}"}
    if engine in FOR_ALL_GPUS:
        return fingerprint
    gpu = find_gpu(engine)
    return {**fingerprint, "gpu": gpu.name, "compute_capability": gpu.compute_capability}


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
