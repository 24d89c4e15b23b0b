"""Which engine serves: what the settings name; what they leave open, as the bundle's default has it, or as we ship it.

What to do when the engine that is named is not ready to serve: what the settings say, and nothing else.

``fail`` starts nothing. ``rebuild`` builds the plan again for what is here and puts it to the gate. ``fallback`` takes the first
of ``FALLBACKS`` that may serve. Whatever was done is told, so that it can be logged and counted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from deploy.bundle import ONNX_NAME, Bundle
from deploy.engine import DEFAULT_ENGINE, EngineRequest, PerformanceHint, Precision
from deploy.engines.registry import PRECISIONS
from deploy.engines.tensorrt_library import MODULES
from deploy.errors import EngineRefused, EngineUnavailable
from deploy.export.tensorrt import make_plan
from deploy.records import BuildOptions, DefaultEngine, differences, find_record, read_default, write_record
from deploy.validation.admission import Admitted, fingerprint, load_admitted, validate_engine

Policy = Literal["fail", "rebuild", "fallback"]
FALLBACKS: tuple[tuple[str, Precision], ...] = (("torch-cuda", "f16"), ("torch-cuda", "f32"), ("openvino", "f32"))
"""Fastest first; the last runs wherever Oddsight is installed."""


@dataclass(frozen=True, slots=True)
class Ready:
    """An engine that may serve."""

    admitted: Admitted
    recovered: Literal["rebuild", "fallback"] | None
    """What was done to have one; None: it was ready."""
    reason: str
    """Why that was needed; empty where nothing was."""


def load_ready(bundle: Bundle, request: EngineRequest, policy: Policy) -> Ready:
    """Load the requested engine, or do what ``policy`` says where it is not ready.

    Raises:
        EngineRefused, EngineUnavailable: it is not ready, and the policy does not help; the reason is that of the engine named.
        ConfigError, EngineFailed, BundleError: see :func:`deploy.validation.admission.load_admitted`; no policy helps there.
    """
    try:
        return Ready(load_admitted(bundle, request), None, "")
    except (EngineRefused, EngineUnavailable) as error:
        if policy == "rebuild" and request.engine in MODULES:
            _rebuild(bundle, request.engine, request.precision)
            return Ready(load_admitted(bundle, request), "rebuild", str(error))
        if policy == "fallback":
            for admitted in _fallbacks(bundle, request):
                return Ready(admitted, "fallback", str(error))
        raise


def _rebuild(bundle: Bundle, name: str, precision: Precision) -> None:
    """Build as it was built before, and try it."""
    kept = find_record(bundle, name, precision)
    options = BuildOptions() if kept is None or kept.plan is None else kept.plan.options
    make_plan(bundle, name, precision, options, lambda _phase, _done, _total: None)
    write_record(bundle, validate_engine(bundle, name, precision))


def _fallbacks(bundle: Bundle, request: EngineRequest) -> Iterator[Admitted]:
    for name, precision in FALLBACKS:
        try:
            yield load_admitted(bundle, replace(request, engine=name, precision=precision))
        except (EngineRefused, EngineUnavailable):
            continue


Source = Literal["settings", "bundle default", "shipped default"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the settings name; None: they leave it open."""

    engine: str | None = None
    precision: Precision | None = None
    performance_hint: PerformanceHint | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be loaded, and where each part of it comes from."""

    engine: str
    precision: Precision
    performance_hint: PerformanceHint
    sources: Mapping[str, Source]
    """By part: ``engine``, ``precision``, ``performance_hint``."""

    def told(self) -> dict[str, str]:
        """All of it in words, for a line of the log."""
        sources = {f"{part}_from": source for part, source in self.sources.items()}
        return {"engine": self.engine, "precision": self.precision, "performance_hint": self.performance_hint, **sources}


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine that may be put to work, and why it is this one."""

    admitted: Admitted
    choice: Choice
    passed_over: str | None
    """Why the bundle's default is not used, where it says something about what the settings leave open."""
    ready: Ready | None = None
    """What had to be done to have it; None for the bundle's default, which serves as it is or not at all."""


_SHIPPED: Final = Choice(DEFAULT_ENGINE, "f32", "throughput", {})


def load_chosen(bundle: Bundle, wanted: Wanted, request: EngineRequest, if_not_ready: Policy = "fail") -> Loaded:
    """Load an engine to serve with; another one than the one that is named only if ``if_not_ready`` says so.

    The bundle's default counts where the settings name no other engine than its own, and where it was chosen on this machine for
    this model. ``request`` counts but for engine, precision and performance hint, which are what is chosen.

    Raises:
        BundleCorrupt: the bundle's default is needed and cannot be read.
        ConfigError, EngineError: see :func:`deploy.validation.admission.load_admitted`.
    """
    open_parts = None in (wanted.engine, wanted.precision, wanted.performance_hint)
    default = read_default(bundle) if open_parts else None
    passed_over = None
    if default is not None and wanted.engine in (None, default.engine):
        try:
            choice = resolve(wanted, default)
            return Loaded(_load_default(bundle, default, choice, request), choice, None)
        except (EngineRefused, EngineUnavailable) as error:
            passed_over = str(error)
    choice = resolve(wanted, None)
    ready = load_ready(bundle, _with(choice, request), if_not_ready)
    return Loaded(ready.admitted, choice, passed_over, ready)


def resolve(wanted: Wanted, default: DefaultEngine | None) -> Choice:
    """Fill what the settings leave open from the bundle's default, or without one from ours.

    A default that is given must be of the engine that is named, if one is.
    """
    source: Source = "shipped default" if default is None else "bundle default"
    filling = default or _SHIPPED
    named = {"engine": wanted.engine, "precision": wanted.precision, "performance_hint": wanted.performance_hint}
    return Choice(
        engine=wanted.engine or filling.engine,
        precision=wanted.precision or filling.precision,
        performance_hint=wanted.performance_hint or filling.performance_hint,
        sources={part: source if value is None else "settings" for part, value in named.items()},
    )


def _with(choice: Choice, request: EngineRequest) -> EngineRequest:
    return replace(request, engine=choice.engine, precision=choice.precision, performance_hint=choice.performance_hint)


def _load_default(bundle: Bundle, default: DefaultEngine, choice: Choice, request: EngineRequest) -> Admitted:
    """Load what was chosen, if it was chosen here.

    Raises:
        EngineRefused: it was chosen elsewhere, for another model, or cannot do what the settings name.
    """
    if choice.precision not in PRECISIONS.get(choice.engine, ()):
        raise EngineRefused(f"it is {default.engine}, which does not compute in {choice.precision} here")
    _refuse_differences(
        bundle, default, {"model_sha256": default.model_sha256}, {"model_sha256": bundle.manifest.files[ONNX_NAME]}
    )
    admitted = load_admitted(bundle, _with(choice, request))
    try:
        found = fingerprint(admitted.engine)
        # A precision that the settings name is another one by intent.
        other = {} if choice.precision == default.precision else {"precision": found["precision"]}
        _refuse_differences(bundle, default, {**default.fingerprint, **other}, found)
    except BaseException:
        admitted.engine.close()
        raise
    return admitted


def _refuse_differences(bundle: Bundle, default: DefaultEngine, expected: dict[str, str], found: dict[str, str]) -> None:
    if changed := differences(expected, found):
        again = f"oddsight-deploy optimize {bundle.path} --cameras {default.cameras} --frame-rate {default.frame_rate:g}"
        told = f"{default.engine} in {default.precision} for {default.performance_hint}"
        raise EngineRefused(f"{told} was chosen elsewhere: {'; '.join(changed)}; choose again: {again}")
