"""A bundle's plan, made for this machine and kept in the bundle.

A serving graph to a plan. Precision is what the graph's own types say: the network is strongly typed.

TensorRT tries kernels on the GPU that is here; TensorRT for RTX compiles for all GPUs of its kind, on any machine.
"""

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.bundle import ONNX_NAME, Bundle, replace_file, require_writable, sha256
from deploy.engine import Precision
from deploy.engines.tensorrt_library import (
    Builder,
    BuilderConfig,
    HostMemory,
    Layer,
    Log,
    Network,
    Profile,
    Tensor,
    TensorRt,
    import_library,
    plan_fingerprint,
)
from deploy.errors import BundleCorrupt, ConfigError, EngineError, EngineFailed
from deploy.export.calibration_frames import CalibrationFrames
from deploy.export.graph_cache import graph_of
from deploy.records import BuildOptions, EngineRecord, Fingerprint, PlanRecord, read_plan, write_plan

PRODUCTS = {"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY"}
"""Layers that nearly all of the work is in."""
_TYPES: Mapping[Precision, str] = {"f32": "FLOAT", "f16": "HALF"}
_IN_8_BITS = "INT8"
_MAPS_AND_WEIGHTS = 2

Tell = Callable[[str, int, int], None]
"""Told of a phase of the build: its name, finished steps, all steps."""


@dataclass(frozen=True, slots=True)
class Built:
    """A plan and how it came about."""

    plan: bytes
    timing_cache: bytes
    """For later builds on this GPU; empty where the library keeps none."""
    products: Mapping[str, int]
    """Type -> how many convolutions and matrix products are in it, as the parser understood the graph."""


def build_plan(
    library: TensorRt,
    graph: bytes,
    precision: Precision,
    options: BuildOptions,
    *,
    name: str,
    timing_cache: bytes = b"",
    tell: Tell = lambda _phase, _done, _total: None,
) -> Built:
    """Build; takes seconds to minutes. ``name`` is kept in the plan.

    Raises:
        EngineFailed: the library refuses the graph, a profile or the build, the graph is not in ``precision`` as the parser
            understands it.
        ConfigError: the plan is larger than the options allow.
    """
    log = Log(library)
    builder = library.Builder(log.logger)
    network = _parsed(library, log, builder, graph)
    network.name = name
    products = count_products(network)
    _require_precision(products, precision)
    config = _configured(library, log, builder, options, timing_cache)
    for bounds in options.profile_bounds():
        profile = _profile(log, builder, network, bounds)
        log.require(config.add_optimization_profile(profile), f"the profile for {bounds[-1]} clips is refused")
    monitor = _monitor(library, tell)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if monitor.interrupted:
        raise monitor.interrupted
    made = _bytes(log.require(plan, "the plan cannot be built"))
    _require_size(made, options)
    return Built(made, _kept(config), products)


def count_products(network: Network) -> dict[str, int]:
    """How many convolutions and matrix products of a parsed network give which type; INT8: they read maps and weights in it."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    widened = {name for layer in layers if layer.type.name == "DEQUANTIZE" for name in _names([layer.get_output(0)])}
    return dict(Counter(kind for layer in layers if layer.type.name in PRODUCTS for kind in _type(layer, widened)))


def _type(layer: Layer, widened: set[str]) -> Iterator[str]:
    """A quantised convolution gives floats: by what it reads it is known that the builder may compute it in 8 bits."""
    reads = _names([layer.get_input(index) for index in range(min(layer.num_inputs, _MAPS_AND_WEIGHTS))])
    output = layer.get_output(0)
    if len(reads) == _MAPS_AND_WEIGHTS and set(reads) <= widened:
        yield _IN_8_BITS
    elif output is not None:
        yield output.dtype.name


def _names(tensors: Iterable[Tensor | None]) -> list[str]:
    return [tensor.name for tensor in tensors if tensor is not None]


def _parsed(library: TensorRt, log: Log, builder: Builder, graph: bytes) -> Network:
    flags = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = log.require(builder.create_network(flags), "the network cannot be made")
    parser = library.OnnxParser(network, log.logger)
    if not parser.parse(graph):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        told = "; ".join(f"{error.node_name()}: {error.desc()}" for error in errors)
        raise EngineFailed(f"the graph cannot be parsed: {told or '; '.join(log.lines) or 'it gave no reason'}")
    return network


def _require_precision(products: Mapping[str, int], precision: Precision) -> None:
    """A typed engine that was given float32 by accident is right, and slow without a word."""
    wrong = set(products) - {_TYPES[precision]} if precision in _TYPES else precision == "int8" and _IN_8_BITS not in products
    if wrong:
        raise EngineFailed(f"the graph is not in {precision}: its convolutions and matrix products are in {dict(products)}")


def _configured(library: TensorRt, log: Log, builder: Builder, options: BuildOptions, timing_cache: bytes) -> BuilderConfig:
    config = log.require(builder.create_builder_config(), "the builder cannot be configured")
    config.builder_optimization_level = options.optimization_level
    # One after the other: the layers of these networks depend on each other.
    config.max_aux_streams = 0
    # So that the inspector can tell the types that are really computed in.
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    # On by default: products of float32 would be of ten bits.
    config.clear_flag(library.BuilderFlag.TF32)
    config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    with _deprecated_in_rtx():
        cache = config.create_timing_cache(timing_cache)
        if cache is not None:
            # Of another version or GPU it is refused, which costs time and nothing else: the kernels are tried again.
            config.set_timing_cache(cache, ignore_mismatch=False)
    return config


def _profile(log: Log, builder: Builder, network: Network, bounds: tuple[int, int, int]) -> Profile:
    profile = log.require(builder.create_optimization_profile(), "a profile cannot be made")
    for index in range(network.num_inputs):
        given = network.get_input(index)
        shapes = [(clips, *tuple(given.shape)[1:]) for clips in bounds]
        profile.set_shape(given.name, *shapes)
        # An unknown name or a least size above the largest is passed over in silence.
        log.require(len(profile.get_shape(given.name)) == 3, f"the profile takes no shapes {shapes} for {given.name}")
    return profile


def _kept(config: BuilderConfig) -> bytes:
    with _deprecated_in_rtx():
        cache = config.get_timing_cache()
        kept = None if cache is None else cache.serialize()
    return b"" if kept is None else _bytes(kept)


@contextmanager
def _deprecated_in_rtx() -> Iterator[None]:
    """TensorRT for RTX times nothing, so its cache does nothing, and it warns of that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _bytes(memory: HostMemory) -> bytes:
    return bytes(memoryview(memory))  # type: ignore[arg-type]  # a buffer, which only its C code says


def _require_size(plan: bytes, options: BuildOptions) -> None:
    if len(plan) > options.max_plan_bytes:
        raise ConfigError(f"the plan has {len(plan)} bytes, max_plan_bytes allows {options.max_plan_bytes}")


def _monitor(library: TensorRt, tell: Tell) -> Any:
    """The library's progress for ``tell``. An exception must not pass through it: it is kept, and the build is stopped."""

    class Monitor(library.IProgressMonitor):  # type: ignore[misc, name-defined]  # a class that is known at run time only
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self.interrupted: BaseException | None = None
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return self.interrupted is None

        def phase_finish(self, phase_name: str) -> None:
            self._tell(phase_name, self._steps.pop(phase_name, 0))

        def _tell(self, phase: str, done: int) -> None:
            try:
                tell(phase, done, self._steps.get(phase, done))
            except BaseException as error:  # noqa: BLE001  Ctrl-C as well; raised again after the build
                self.interrupted = error

    return Monitor()


CHOOSING = "choosing convolutions"
"""The phase before the library's own."""


def make_plan(
    bundle: Bundle, engine: str, precision: Precision, options: BuildOptions, tell: Tell, footage: CalibrationFrames | None = None
) -> EngineRecord:
    """Build a plan and keep it, its gate still to be passed. One that is already there, as wanted, is left.

    ``footage``: what a graph in ``int8`` is made from; without it, one that is kept is taken.

    Raises:
        EngineUnavailable: library or GPU are missing.
        BundleError: the bundle cannot be written to.
        EngineFailed: the library refuses.
        EngineRefused: there is no graph in ``int8``, and no footage or no convolution for one.
        ConfigError: the plan is larger than the options allow.
    """
    library = import_library(engine)
    here = plan_fingerprint(engine, library)
    kept = _kept_make(bundle, engine, precision, here)
    if kept is not None and kept.plan is not None and _is_wanted(kept.plan, options, footage):
        return kept
    require_writable(bundle, "no plan could be kept; build")
    graph = graph_of(bundle, precision, footage, lambda done, total: tell(CHOOSING, done, total))
    graph_sha256, cache = sha256(graph.content), _cache_path(here)
    name = f"{bundle.model_id} {graph_sha256[:12]}"
    built = build_plan(library, graph.content, precision, options, name=name, timing_cache=_read(cache), tell=tell)
    if built.timing_cache:
        cache.parent.mkdir(parents=True, exist_ok=True)
        replace_file(cache, built.timing_cache)
    variant = EngineRecord(
        engine=engine,
        precision=precision,
        model_sha256=bundle.manifest.files[ONNX_NAME],
        fingerprint={**here, "precision": precision, "plan_sha256": sha256(built.plan)},
        plan=PlanRecord(
            sha256=sha256(built.plan),
            graph_sha256=graph_sha256,
            options=options,
            products=dict(built.products),
            calibration=graph.footage,
        ),
    )
    write_plan(bundle, variant, built.plan)
    return variant


def _kept_make(bundle: Bundle, engine: str, precision: Precision, here: Fingerprint) -> EngineRecord | None:
    try:
        return read_plan(bundle, engine, precision, here)[0]
    except (EngineError, BundleCorrupt):
        return None


def _is_wanted(plan: PlanRecord, options: BuildOptions, footage: CalibrationFrames | None) -> bool:
    return plan.options == options and (footage is None or plan.calibration == footage.info)


def _cache_path(here: Fingerprint) -> Path:
    """Timings are good for all models on one GPU with one version."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = "-".join(here[part] for part in ("backend", "version", "gpu") if part in here)
    return home / "oddsight" / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}.timings"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
