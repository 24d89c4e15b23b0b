"""TensorRT, and TensorRT for RTX, on an NVIDIA GPU: run a plan that was built for it; and the part of both libraries in use.

Neither library has usable type hints, and almost nothing in them raises. The protocols say what each member returns on failure; a
test looks every member up in the real modules.
"""

import platform
from collections import deque
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final, Protocol, TypeVar, cast

from deploy.bundle import Bundle
from deploy.engine import EngineRequest, check_graph
from deploy.errors import EngineFailed, backend_errors, required_library
from deploy.gpu.driver import CudaDriver, Launch, find_gpu
from deploy.gpu.engine import INPUTS, OUTPUTS, GpuEngine, buckets_for
from deploy.records import BuildOptions, read_plan

MODULES: Final = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Module of each engine. TensorRT for RTX is a separate product: its plans run nowhere else, and need no GPU to be built."""
FOR_ALL_GPUS = frozenset({"tensorrt-rtx"})  # plans are built without a GPU and run on every GPU that the library supports

_OUT_OF_MEMORY = "Could not find any implementation for node"

T = TypeVar("T")


class TensorRtEngine(GpuEngine):
    """The engines ``tensorrt`` and ``tensorrt-rtx``.

    Raises:
        EngineUnavailable: the library, driver or GPU is missing.
        EngineRefused, PlanStale, BundleCorrupt: see :func:`deploy.records.read_plan`.
        EngineFailed: the library refuses the plan.
    """

    def __init__(self, bundle: Bundle, request: EngineRequest) -> None:
        self.name = name = request.engine
        library = import_library(name)
        find_gpu(name)  # first of all: without a driver TensorRT's runtime ends the process
        variant, plan = read_plan(bundle, name, request.precision, plan_fingerprint(name, library))
        self._description = dict(variant.fingerprint)
        built = variant.plan.options if variant.plan else BuildOptions()
        with backend_errors(f"{name}: the plan of {bundle.path} cannot be loaded"):
            driver = CudaDriver(name)
            program = PlanProgram(library, plan, built, driver)
        check_graph(bundle, *program.free_shapes())
        with backend_errors(f"{name}: the plan of {bundle.path} cannot be loaded"):
            buckets = buckets_for(request.max_clips, built.buckets)
            super().__init__(bundle.spec, request, driver, program, buckets, bundle.default_profile)


class PlanProgram:
    """:class:`deploy.gpu.engine.Program` of a plan. Every launcher has a context of its own."""

    def __init__(self, library: "TensorRt", plan: bytes, options: BuildOptions, driver: CudaDriver) -> None:
        self._library, self._options, self._driver = library, options, driver
        # Each of these needs those before it, so they are freed in reverse order.
        self._log = Log(library)
        self._runtime = library.Runtime(self._log.logger)
        self._engine = self._log.require(self._runtime.deserialize_cuda_engine(plan), "the plan is refused")

    def free_shapes(self) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        """Shapes of inputs and of outputs by name, with the dynamic number of clips first."""
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        shapes = {name: list(self._engine.get_tensor_shape(name)) for name in names}
        return (
            {name: shape for name, shape in shapes.items() if name in INPUTS},
            {name: shape for name, shape in shapes.items() if name in OUTPUTS},
        )

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        inputs, outputs = self.free_shapes()
        return {name: tuple(shape[1:]) for name, shape in {**inputs, **outputs}.items()}

    def launcher(self, bucket: int, tensors: Mapping[str, Any]) -> Launch:
        context = self._context(bucket, tensors)

        def launch() -> None:
            self._log.require(context.execute_async_v3(self._driver.stream_handle()), f"{bucket} clips cannot be enqueued")

        return launch

    def _context(self, bucket: int, tensors: Mapping[str, Any]) -> "Context":
        log, strategy = self._log, self._library.ExecutionContextAllocationStrategy.STATIC
        context = log.require(self._engine.create_execution_context(strategy), f"no context for {bucket} clips")
        bounds = enumerate(self._options.profile_bounds())
        profile = next((index for index, (least, _, largest) in bounds if least <= bucket <= largest), None)
        if profile is None:
            raise EngineFailed(f"no profile of the plan takes {bucket} clips")
        log.require(
            context.set_optimization_profile_async(profile, self._driver.stream_handle()), f"profile {profile} is refused"
        )
        for name, tensor in tensors.items():
            if name in INPUTS:
                shape = (bucket, *tuple(tensor.shape)[1:])
                log.require(context.set_input_shape(name, shape), f"{name} of {shape} is refused")
            log.require(context.set_tensor_address(name, tensor.data_ptr()), f"the memory of {name} is refused")
        unknown = list(context.infer_shapes())
        log.require(not unknown, f"shapes are missing for {', '.join(unknown)}")
        return context


def import_library(engine: str) -> "TensorRt":
    """The module of an engine of ``MODULES``. Raises EngineUnavailable if it is not installed or cannot be loaded here."""
    with required_library(engine, engine):
        return cast("TensorRt", import_module(MODULES[engine]))


def plan_fingerprint(engine: str, library: "TensorRt") -> dict[str, str]:
    """What a plan of ``engine`` built on this machine depends on. Raises EngineUnavailable if that is a GPU and there is none."""
    fingerprint = {"backend": engine, "version": library.__version__, "os": f"{platform.system()} {platform.machine()}"}
    if engine in FOR_ALL_GPUS:
        return fingerprint
    gpu = find_gpu(engine)
    return {**fingerprint, "gpu": gpu.name, "compute_capability": gpu.compute_capability}


class Log:
    """Keeps the last warnings and errors of a library, which writes them to ``logger``."""

    def __init__(self, library: "TensorRt") -> None:
        self.lines = lines = deque[str](maxlen=8)

        class Logger(library.ILogger):  # type: ignore[misc, name-defined]  # a class that is known at run time only
            def __init__(self) -> None:
                library.ILogger.__init__(self)  # not super(): pybind11 requires the explicit call

            def log(self, severity: Any, message: str) -> None:
                if severity <= library.ILogger.Severity.WARNING:
                    lines.append(" ".join(str(message).split()))

        self.logger: Any = Logger()

    def require(self, value: T | None, failure: str) -> T:
        """``value``, or an EngineFailed with ``failure`` and the log if it signals a failure: None, False or the index -1."""
        if value is None or value is False or (type(value) is int and value == -1):
            reason = "; ".join(self.lines) or "it gave no reason"
            hint = " (often: too little GPU memory)" if _OUT_OF_MEMORY in reason else ""
            raise EngineFailed(f"{failure}: {reason}{hint}")
        return value


# --- The members in use of ``tensorrt`` and ``tensorrt_rtx``

Shape = Sequence[int]


class HostMemory(Protocol):
    """``IHostMemory``: a serialized plan or timing cache, readable as a buffer."""

    nbytes: int


class Tensor(Protocol):
    """``ITensor``."""

    name: str
    dtype: Any
    shape: Shape


class Layer(Protocol):
    """``ILayer``; there is no tensor (None) at an index that is not used."""

    name: str
    type: Any
    num_inputs: int

    def get_input(self, index: int) -> Tensor | None: ...
    def get_output(self, index: int) -> Tensor | None: ...


class Network(Protocol):
    """``INetworkDefinition``."""

    name: str
    num_inputs: int
    num_layers: int

    def get_input(self, index: int) -> Tensor: ...
    def get_layer(self, index: int) -> Layer: ...


class ParserError(Protocol):
    """``IParserError``."""

    def desc(self) -> str: ...
    def node_name(self) -> str: ...


class Parser(Protocol):
    """``OnnxParser``; ``parse`` returns False on failure, see the errors."""

    num_errors: int

    def parse(self, model: bytes) -> bool: ...
    def get_error(self, index: int) -> ParserError: ...


class Profile(Protocol):
    """``IOptimizationProfile``: least, best and largest shape of an input.

    ``set_shape`` ignores an unknown name, and a least size above the largest, without a message; ``get_shape`` is empty then.
    """

    def set_shape(self, input: str, min: Shape, opt: Shape, max: Shape) -> None: ...  # noqa: A002  NVIDIA's names
    def get_shape(self, input: str) -> Sequence[Shape]: ...  # noqa: A002  NVIDIA's name


class TimingCache(Protocol):
    """``ITimingCache``."""

    def serialize(self) -> HostMemory | None: ...


class BuilderConfig(Protocol):
    """``IBuilderConfig``."""

    builder_optimization_level: int
    max_aux_streams: int
    profiling_verbosity: Any
    progress_monitor: Any

    def add_optimization_profile(self, profile: Profile) -> int: ...  # -1 if refused
    def clear_flag(self, flag: Any) -> None: ...
    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None: ...  # in bytes
    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache | None: ...  # bytes may be empty
    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool: ...  # False for another GPU or version
    def get_timing_cache(self) -> TimingCache | None: ...


class Builder(Protocol):
    """``Builder``."""

    def create_network(self, flags: int) -> Network | None: ...
    def create_builder_config(self) -> BuilderConfig | None: ...
    def create_optimization_profile(self) -> Profile | None: ...
    def build_serialized_network(self, network: Network, config: BuilderConfig) -> HostMemory | None: ...


class Context(Protocol):
    """``IExecutionContext``; its methods return False on failure."""

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool: ...
    def set_input_shape(self, name: str, shape: Shape) -> bool: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def infer_shapes(self) -> Sequence[str]: ...  # inputs whose shape is still unknown
    def execute_async_v3(self, stream_handle: int) -> bool: ...


class CudaEngine(Protocol):
    """``ICudaEngine``."""

    num_io_tensors: int

    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_shape(self, name: str) -> Shape: ...  # -1 for a dynamic size
    def create_execution_context(self, strategy: Any) -> Context | None: ...  # None if memory is short


class Runtime(Protocol):
    """``Runtime``. Create it only after a GPU was found: without a driver its first use ends the process."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> CudaEngine | None: ...


class TensorRt(Protocol):
    """The module; ``tensorrt_lean`` has the half that runs plans. ``Builder`` and ``Runtime`` raise a TypeError on failure."""

    __version__: str
    ILogger: Any
    IProgressMonitor: Any
    NetworkDefinitionCreationFlag: Any
    BuilderFlag: Any
    MemoryPoolType: Any
    ProfilingVerbosity: Any
    ExecutionContextAllocationStrategy: Any

    def Builder(self, logger: Any) -> Builder: ...  # noqa: N802  NVIDIA's name
    def OnnxParser(self, network: Network, logger: Any) -> Parser: ...  # noqa: N802  NVIDIA's name
    def Runtime(self, logger: Any) -> Runtime: ...  # noqa: N802  NVIDIA's name
