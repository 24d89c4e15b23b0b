"""Select and load the engine that serves: from the settings, the bundle's default, or the shipped default.

``on_unavailable`` says what to do if that engine is not available: ``fail``; ``rebuild`` its TensorRT plan for this machine and
validate it; or ``fallback`` to the first of ``FALLBACKS`` that is available.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

from deploy.bundle import ONNX_NAME, Bundle
from deploy.engine import EngineRequest, PerformanceHint, Precision
from deploy.engines.tensorrt import MODULES
from deploy.errors import EngineRefused, EngineUnavailable
from deploy.export.tensorrt import make_plan
from deploy.records import BuildOptions, DefaultEngine, differences, find_record, read_default, write_record
from deploy.registry import PRECISIONS
from deploy.validation.admission import LoadedEngine, Source, fingerprint, load_validated, validate_engine

OnUnavailable = Literal["fail", "rebuild", "fallback"]
# Fastest first; the last runs wherever Oddsight is installed.
FALLBACKS: tuple[tuple[str, Precision], ...] = (("torch-cuda", "f16"), ("torch-cuda", "f32"), ("openvino", "f32"))


def load_serving_engine(
    bundle: Bundle,
    request: EngineRequest,
    *,
    engine: str | None = None,
    precision: Precision | None = None,
    performance_hint: PerformanceHint | None = None,
    on_unavailable: OnUnavailable = "fail",
) -> LoadedEngine:
    """Load a validated engine.

    ``engine``, ``precision`` and ``performance_hint`` are the settings; None leaves a part open. Open parts are taken from the
    bundle's default engine if it was chosen on this machine for this model and the settings name no other engine, else from
    ``request``.

    Raises:
        BundleCorrupt: the bundle's default is needed and cannot be read.
        EngineRefused, EngineUnavailable: the engine is not available, and ``on_unavailable`` does not help.
        ConfigError, EngineFailed, BundleError: see :func:`deploy.validation.admission.load_validated`.
    """
    settings = {"engine": engine, "precision": precision, "performance_hint": performance_hint}
    default = read_default(bundle) if None in settings.values() else None
    rejected = None
    if default is not None and engine in (None, default.engine):
        try:
            loaded = _load_default(bundle, default, _fill(request, settings, default))
            return replace(loaded, sources=_sources(settings, "bundle default"))
        except (EngineRefused, EngineUnavailable) as error:
            rejected = str(error)
    filled = _fill(request, settings, request)
    loaded = _load_or_recover(bundle, filled, on_unavailable)
    return replace(loaded, request=filled, sources=_sources(settings, "shipped default"), default_rejected=rejected)


def _fill(request: EngineRequest, settings: Mapping[str, Any], defaults: EngineRequest | DefaultEngine) -> EngineRequest:
    return replace(request, **{part: value or getattr(defaults, part) for part, value in settings.items()})


def _sources(settings: Mapping[str, str | None], default: Source) -> dict[str, Source]:
    return {part: default if value is None else "settings" for part, value in settings.items()}


def _load_default(bundle: Bundle, default: DefaultEngine, request: EngineRequest) -> LoadedEngine:
    """Raises EngineRefused if it was not chosen on this machine for this model, or lacks the precision of the settings."""
    if request.precision not in PRECISIONS.get(request.engine, ()):
        raise EngineRefused(f"it is {default.engine}, which does not compute in {request.precision} here")
    model_sha256 = {"model_sha256": bundle.manifest.files[ONNX_NAME]}
    _require_equal(bundle, default, {"model_sha256": default.model_sha256}, model_sha256)
    loaded = load_validated(bundle, request)
    try:
        current = fingerprint(loaded.engine)
        # A precision from the settings differs on purpose.
        precision = {} if request.precision == default.precision else {"precision": current["precision"]}
        _require_equal(bundle, default, {**default.fingerprint, **precision}, current)
    except BaseException:
        loaded.engine.close()
        raise
    return loaded


def _require_equal(bundle: Bundle, default: DefaultEngine, chosen: dict[str, str], current: dict[str, str]) -> None:
    if changed := differences(chosen, current):
        command = f"oddsight-deploy optimize {bundle.path} --cameras {default.cameras} --frame-rate {default.frame_rate:g}"
        raise EngineRefused(
            f"{default.engine} in {default.precision} for {default.performance_hint} was chosen elsewhere: "
            f"{'; '.join(changed)}; choose again: {command}"
        )


def _load_or_recover(bundle: Bundle, request: EngineRequest, on_unavailable: OnUnavailable) -> LoadedEngine:
    try:
        return load_validated(bundle, request)
    except (EngineRefused, EngineUnavailable) as error:
        if on_unavailable == "rebuild" and request.engine in MODULES:
            _rebuild_plan(bundle, request.engine, request.precision)
            return replace(load_validated(bundle, request), recovery="rebuild", recovery_reason=str(error))
        for engine, precision in FALLBACKS if on_unavailable == "fallback" else ():
            with suppress(EngineRefused, EngineUnavailable):
                loaded = load_validated(bundle, replace(request, engine=engine, precision=precision))
                return replace(loaded, recovery="fallback", recovery_reason=str(error))
        raise


def _rebuild_plan(bundle: Bundle, engine: str, precision: Precision) -> None:
    record = find_record(bundle, engine, precision)
    options = BuildOptions() if record is None or record.plan is None else record.plan.options
    make_plan(bundle, engine, precision, options, lambda _phase, _done, _total: None)
    write_record(bundle, validate_engine(bundle, engine, precision))
