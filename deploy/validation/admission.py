"""Validate engines against the reference on this machine, and load only engines that passed :mod:`deploy.validation.accuracy`.

A float32 engine must reproduce the reference's scores. An engine of another precision must rank frames as the reference does; its
result is kept in the bundle for later starts.
"""

from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Literal

from deploy.bundle import ONNX_NAME, SEQUENCES_NAME, Bundle, read_golden
from deploy.engine import Engine, EngineRequest, PerformanceHint, Precision, caching_engine
from deploy.errors import BundleIncompatible, EngineError, EngineRefused, EngineUnavailable
from deploy.records import AccuracyResult, EngineRecord, Fingerprint, find_record, require_validated, write_record
from deploy.registry import load_engine
from deploy.sequences import read_sequences
from deploy.validation.accuracy import Parity, check_parity, check_resident, measure_accuracy

_MAX_CLIPS = 1024  # so large that an engine with buckets loads all of them
# Entries of an engine's description that its scores do not depend on.
_PERFORMANCE_SETTINGS = ("threads", "streams", "spinning", "performance_hint")

Source = Literal["settings", "bundle default", "shipped default"]
VerifyStatus = Literal["ok", "refused", "failed", "unavailable"]


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """A validated engine, and how it was selected."""

    engine: Engine
    score_scale: float = 1.0  # see deploy.records.AccuracyResult
    request: EngineRequest = field(default_factory=EngineRequest)  # after a fallback, engine is another one
    sources: Mapping[str, Source] = field(default_factory=dict)  # where engine, precision and performance_hint come from
    default_rejected: str | None = None  # why the bundle's default engine was not used, where the settings left something open
    recovery: Literal["rebuild", "fallback"] | None = None  # what was done because the requested engine was not available
    recovery_reason: str = ""

    def log_fields(self) -> dict[str, str]:
        parts = {name: getattr(self.request, name) for name in ("engine", "precision", "performance_hint")}
        return {**parts, **{f"{part}_from": source for part, source in self.sources.items()}}


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """Result of validating one engine in one precision."""

    engine: str
    precision: str
    status: VerifyStatus
    """``refused``: runs, but is not accurate enough, or has no plan; ``unavailable``: library or hardware are missing."""
    detail: str
    parity: Parity | None = None  # on the golden clips; float32 only
    accuracy: AccuracyResult | None = None  # on the golden sequences; None for float32 if the bundle has none


def load_validated(bundle: Bundle, request: EngineRequest) -> LoadedEngine:
    """Load an engine for serving.

    A float32 engine scores the golden clips first, in less than a second. Any other must have been validated on this machine. One
    that caches frames and states on its device must give the same scores from there.

    Raises:
        EngineRefused: it was not validated with this bundle on this machine.
        EngineFailed: its scores differ from the reference's, or the backend failed.
        ConfigError, EngineUnavailable: see :func:`deploy.registry.load_engine`.
    """
    engine = load_engine(bundle, request)
    try:
        score_scale = 1.0
        if request.precision == "f32":
            check_parity(engine, read_golden(bundle))
        else:
            score_scale = require_validated(bundle, request.engine, request.precision, fingerprint(engine)).score_scale
        if (caching := caching_engine(engine)) is not None:
            check_resident(caching, read_golden(bundle))
    except BaseException:
        engine.close()
        raise
    return LoadedEngine(engine, score_scale, request)


def fingerprint(engine: Engine) -> Fingerprint:
    """The entries of an engine's description that its scores depend on."""
    return {name: value for name, value in engine.describe().items() if name not in _PERFORMANCE_SETTINGS}


def performance_settings(engine: Engine) -> dict[str, str]:
    """The entries of an engine's description that only its speed depends on."""
    return {name: value for name, value in engine.describe().items() if name in _PERFORMANCE_SETTINGS}


def validate_engine(bundle: Bundle, name: str, precision: Precision, hint: PerformanceHint = "throughput") -> EngineRecord:
    """Measure an engine's accuracy on the bundle's golden sequences.

    Raises:
        BundleIncompatible: the bundle has no golden sequences.
        EngineFailed, ConfigError, EngineUnavailable: see :func:`deploy.registry.load_engine`.
    """
    sequences = read_sequences(bundle)
    request = EngineRequest(name, precision, max_clips=_MAX_CLIPS, performance_hint=hint)
    with closing(load_engine(bundle, request)) as engine:
        accuracy = measure_accuracy(engine, precision, sequences)
        measured = fingerprint(engine)
    built = find_record(bundle, name, precision)
    return EngineRecord(
        engine=name,
        precision=precision,
        model_sha256=bundle.manifest.files[ONNX_NAME],
        fingerprint=measured,
        accuracy=accuracy,
        plan=None if built is None else built.plan,
    )


def verify_engine(bundle: Bundle, name: str, precision: Precision, hint: PerformanceHint = "throughput") -> VerifyResult:
    """Validate one engine; the accuracy of precisions other than f32 is kept in the bundle, if it is writable."""
    verify = _verify_f32 if precision == "f32" else _verify_accuracy
    try:
        return verify(bundle, name, precision, hint)
    except EngineError as error:
        return VerifyResult(name, precision, error_status(error), str(error))
    except BundleIncompatible as error:
        return VerifyResult(name, precision, "failed" if precision == "f32" else "refused", str(error))


def error_status(error: EngineError) -> VerifyStatus:
    """The status of an engine that raised ``error`` when it was loaded or scored."""
    if isinstance(error, EngineRefused):
        return "refused"
    return "unavailable" if isinstance(error, EngineUnavailable) else "failed"


def all_passed(results: list[VerifyResult], *, requested: bool) -> bool:
    """Whether at least one engine passed and none failed; of engines ``requested`` by name, whether all passed."""
    statuses = {result.status for result in results}
    return "ok" in statuses and not statuses & ({"failed", "refused", "unavailable"} if requested else {"failed"})


def _verify_f32(bundle: Bundle, name: str, precision: Precision, hint: PerformanceHint) -> VerifyResult:
    with closing(load_engine(bundle, EngineRequest(name, precision, performance_hint=hint))) as engine:
        parity = check_parity(engine, read_golden(bundle))
        has_sequences = SEQUENCES_NAME in bundle.manifest.files
        accuracy = measure_accuracy(engine, precision, read_sequences(bundle)) if has_sequences else None
        detail = _detail(engine.describe())
    failures = () if accuracy is None else accuracy.failures
    return VerifyResult(name, precision, "failed" if failures else "ok", "; ".join(failures) or detail, parity, accuracy)


def _verify_accuracy(bundle: Bundle, name: str, precision: Precision, hint: PerformanceHint) -> VerifyResult:
    record = validate_engine(bundle, name, precision, hint)
    with suppress(PermissionError):  # a read-only bundle can be verified all the same
        write_record(bundle, record)
    failures = () if record.accuracy is None else record.accuracy.failures
    detail = "; ".join(failures) or _detail(record.fingerprint)
    return VerifyResult(name, precision, "refused" if failures else "ok", detail, accuracy=record.accuracy)


def _detail(description: dict[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in description.items() if key not in {"backend", "precision"})
