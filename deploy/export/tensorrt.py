"""Build a bundle's TensorRT plan and keep it in the bundle.

TensorRT times kernels on the GPU of this machine; TensorRT for RTX compiles for all GPUs of its kind, on any machine.
"""

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.bundle import ONNX_NAME, Bundle, replace_file, require_writable, sha256
from deploy.engine import Precision
from deploy.engines import tensorrt as trt
from deploy.engines.tensorrt import import_library, plan_fingerprint
from deploy.errors import BundleCorrupt, ConfigError, EngineError, EngineFailed
from deploy.export.onnx import serving_graph
from deploy.records import BuildOptions, EngineRecord, Fingerprint, PlanRecord, read_plan, write_plan
from deploy.sequences import CalibrationFrames

PRODUCTS = {"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY"}  # layers that do nearly all of the work
QUANTIZING = "choosing convolutions"  # the build phase before TensorRT's own
_TYPES: Mapping[Precision, str] = {"f32": "FLOAT", "f16": "HALF"}
_INT8 = "INT8"
_MAPS_AND_WEIGHTS = 2

OnBuildProgress = Callable[[str, int, int], None]  # gets the name of a build phase, its finished steps and all its steps


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """Result of a build."""

    plan: bytes
    timing_cache: bytes  # for later builds on this GPU; empty if the library keeps none
    products: Mapping[str, int]  # type -> number of convolutions and matrix products computed in it, according to the parser


def make_plan(
    bundle: Bundle,
    engine: str,
    precision: Precision,
    options: BuildOptions,
    on_progress: OnBuildProgress,
    calibration: CalibrationFrames | None = None,
) -> EngineRecord:
    """Build a plan and write it into the bundle, still to be validated; one that is up to date is not built again.

    ``calibration``: for a new ``int8`` graph; without it, the cached graph is used.

    Raises:
        EngineUnavailable: library or GPU are missing.
        BundleError: the bundle cannot be written to.
        EngineFailed: TensorRT refuses the graph.
        EngineRefused: there is no ``int8`` graph, and no calibration frames or no suitable convolution to make one.
        ConfigError: the plan is larger than the options allow.
    """
    library = import_library(engine)
    current = plan_fingerprint(engine, library)
    with suppress(EngineError, BundleCorrupt):
        existing, _ = read_plan(bundle, engine, precision, current)
        plan = existing.plan
        if plan is not None and plan.options == options and (calibration is None or plan.calibration == calibration.info):
            return existing
    require_writable(bundle, "no plan could be kept; build")
    graph = serving_graph(bundle, precision, calibration, lambda done, total: on_progress(QUANTIZING, done, total))
    graph_sha256, cache, timings = sha256(graph.content), _timing_cache_path(current), b""
    with suppress(OSError):
        timings = cache.read_bytes()
    name = f"{bundle.model_id} {graph_sha256[:12]}"
    built = build_plan(library, graph.content, precision, options, name=name, timing_cache=timings, on_progress=on_progress)
    if built.timing_cache:
        cache.parent.mkdir(parents=True, exist_ok=True)
        replace_file(cache, built.timing_cache)
    record = EngineRecord(
        engine=engine,
        precision=precision,
        model_sha256=bundle.manifest.files[ONNX_NAME],
        fingerprint={**current, "precision": precision, "plan_sha256": sha256(built.plan)},
        plan=PlanRecord(
            sha256=sha256(built.plan),
            graph_sha256=graph_sha256,
            options=options,
            products=dict(built.products),
            calibration=graph.calibration,
        ),
    )
    write_plan(bundle, record, built.plan)
    return record


def build_plan(
    library: trt.TensorRt,
    graph: bytes,
    precision: Precision,
    options: BuildOptions,
    *,
    name: str,
    timing_cache: bytes = b"",
    on_progress: OnBuildProgress = lambda _phase, _done, _total: None,
) -> BuiltPlan:
    """Build a plan from an ONNX graph, in seconds to minutes; ``name`` is stored in the plan.

    Raises:
        EngineFailed: the library refuses the graph, a profile or the build, or the graph is not in ``precision``.
        ConfigError: the plan is larger than the options allow.
    """
    log = trt.Log(library)
    builder = library.Builder(log.logger)
    network = _parse(library, log, builder, graph)
    network.name = name
    products = count_products(network)
    _require_precision(products, precision)
    config = _configure(library, log, builder, options, timing_cache)
    for bounds in options.profile_bounds():
        profile = _profile(log, builder, network, bounds)
        log.require(config.add_optimization_profile(profile), f"the profile for {bounds[-1]} clips is refused")
    monitor = _monitor(library, on_progress)
    config.progress_monitor = monitor
    memory = builder.build_serialized_network(network, config)
    if monitor.interrupted:
        raise monitor.interrupted
    plan = _bytes(log.require(memory, "the plan cannot be built"))
    if len(plan) > options.max_plan_bytes:
        raise ConfigError(f"the plan has {len(plan)} bytes, max_plan_bytes allows {options.max_plan_bytes}")
    with _deprecated_in_rtx():
        cache = config.get_timing_cache()
        memory = None if cache is None else cache.serialize()
    return BuiltPlan(plan, b"" if memory is None else _bytes(memory), products)


def count_products(network: trt.Network) -> dict[str, int]:
    """Number of convolutions and matrix products of a parsed network by output type; INT8 if maps and weights are quantized."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    dequantized = {name for layer in layers if layer.type.name == "DEQUANTIZE" for name in _names([layer.get_output(0)])}
    return dict(Counter(kind for layer in layers if layer.type.name in PRODUCTS for kind in _type(layer, dequantized)))


def _type(layer: trt.Layer, dequantized: set[str]) -> Iterator[str]:
    """The output of a quantized convolution is float: only its inputs show that the builder may compute it in 8 bits."""
    inputs = _names([layer.get_input(index) for index in range(min(layer.num_inputs, _MAPS_AND_WEIGHTS))])
    output = layer.get_output(0)
    if len(inputs) == _MAPS_AND_WEIGHTS and set(inputs) <= dequantized:
        yield _INT8
    elif output is not None:
        yield output.dtype.name


def _names(tensors: Iterable[trt.Tensor | None]) -> list[str]:
    return [tensor.name for tensor in tensors if tensor is not None]


def _parse(library: trt.TensorRt, log: trt.Log, builder: trt.Builder, graph: bytes) -> trt.Network:
    # Strongly typed: the graph's own types are the precision of each layer.
    flags = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = log.require(builder.create_network(flags), "the network cannot be made")
    parser = library.OnnxParser(network, log.logger)
    if not parser.parse(graph):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = "; ".join(f"{error.node_name()}: {error.desc()}" for error in errors)
        raise EngineFailed(f"the graph cannot be parsed: {reasons or '; '.join(log.lines) or 'it gave no reason'}")
    return network


def _require_precision(products: Mapping[str, int], precision: Precision) -> None:
    """A graph that is in float32 by mistake would work, only slowly."""
    wrong = set(products) - {_TYPES[precision]} if precision in _TYPES else precision == "int8" and _INT8 not in products
    if wrong:
        raise EngineFailed(f"the graph is not in {precision}: its convolutions and matrix products are in {dict(products)}")


def _configure(
    library: trt.TensorRt, log: trt.Log, builder: trt.Builder, options: BuildOptions, timing_cache: bytes
) -> trt.BuilderConfig:
    config = log.require(builder.create_builder_config(), "the builder cannot be configured")
    config.builder_optimization_level = options.optimization_level
    # Layers of these networks depend on each other, so none could run on another stream.
    config.max_aux_streams = 0
    # Lets TensorRT's inspector show the types in use.
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    # TF32 is on by default, and would multiply float32 with 10 bits of mantissa.
    config.clear_flag(library.BuilderFlag.TF32)
    config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    with _deprecated_in_rtx():
        cache = config.create_timing_cache(timing_cache)
        if cache is not None:
            # A cache of another version or GPU is refused, which only costs time: kernels are timed again.
            config.set_timing_cache(cache, ignore_mismatch=False)
    return config


def _profile(log: trt.Log, builder: trt.Builder, network: trt.Network, bounds: tuple[int, int, int]) -> trt.Profile:
    profile = log.require(builder.create_optimization_profile(), "a profile cannot be made")
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shapes = [(clips, *tuple(tensor.shape)[1:]) for clips in bounds]
        profile.set_shape(tensor.name, *shapes)
        # An unknown name or a minimum above the maximum is silently ignored.
        log.require(len(profile.get_shape(tensor.name)) == 3, f"the profile takes no shapes {shapes} for {tensor.name}")
    return profile


@contextmanager
def _deprecated_in_rtx() -> Iterator[None]:
    """TensorRT for RTX times no kernels; it warns that its timing cache does nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _bytes(memory: trt.HostMemory) -> bytes:
    return bytes(memoryview(memory))  # type: ignore[arg-type]  # a buffer, which only its C code says


def _monitor(library: trt.TensorRt, on_progress: OnBuildProgress) -> Any:
    """TensorRT's progress monitor. An exception must not pass through it: it is stored, and the build is stopped."""

    class Monitor(library.IProgressMonitor):  # type: ignore[misc, name-defined]  # a class that is known at run time only
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self.interrupted: BaseException | None = None
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            self._report(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._report(phase_name, step + 1)
            return self.interrupted is None

        def phase_finish(self, phase_name: str) -> None:
            self._report(phase_name, self._steps.pop(phase_name, 0))

        def _report(self, phase: str, done: int) -> None:
            try:
                on_progress(phase, done, self._steps.get(phase, done))
            except BaseException as error:  # noqa: BLE001  Ctrl-C as well; raised again after the build
                self.interrupted = error

    return Monitor()


def _timing_cache_path(current: Fingerprint) -> Path:
    """Timings hold for all models on one GPU with one version of TensorRT."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = "-".join(current[part] for part in ("backend", "version", "gpu") if part in current)
    return home / "oddsight" / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}.timings"
