"""Which engines compute what the reference computes, here and now; what was found is kept in the bundle.

Engines that may be put to work: none serves that has not shown on this machine that it computes the same scores.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from deploy.bundle import ONNX_NAME, SEQUENCES_NAME, Bundle, read_golden
from deploy.engine import Engine, EngineRequest, PerformanceHint, Precision, resident
from deploy.engines.registry import load_engine
from deploy.errors import BundleIncompatible, EngineError, EngineRefused, EngineUnavailable
from deploy.golden import read_sequences
from deploy.records import AccuracyResult, EngineRecord, Fingerprint, find_record, require_validated, write_record
from deploy.validation.accuracy import measure_accuracy
from deploy.validation.parity import Parity, check, check_resident

_MAX_CLIPS = 1024
"""So that an engine with buckets loads them all."""
_SETTINGS = ("threads", "streams", "spinning", "performance_hint")
"""Of a description: how fast, not what."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """An engine that may be put to work."""

    engine: Engine
    score_scale: float = 1.0
    """Its scores by the reference's, which the thresholds are made for; see :attr:`deploy.validation.accuracy.AccuracyResult.score_scale`."""


def load_admitted(bundle: Bundle, request: EngineRequest) -> Admitted:
    """Load an engine to serve with.

    A float32 engine scores the golden clips first, which takes less than a second. Any other must have passed the gate here. One
    that keeps frames and states on its device must give the same scores from there.

    Raises:
        EngineRefused: it has not passed the gate with this bundle on this machine.
        EngineFailed: it computes something else than the reference, or the backend failed.
        ConfigError, EngineUnavailable: see :func:`deploy.engines.registry.load_engine`.
    """
    engine = load_engine(bundle, request)
    try:
        score_scale = _passed(bundle, request.engine, request.precision, engine)
        if (keeper := resident(engine)) is not None:
            check_resident(keeper, read_golden(bundle))
    except BaseException:
        engine.close()
        raise
    return Admitted(engine, score_scale)


def _passed(bundle: Bundle, name: str, precision: Precision, engine: Engine) -> float:
    """Refuse an engine, or give its scores by the reference's."""
    if precision == "f32":
        check(engine, read_golden(bundle))
        return 1.0
    return require_validated(bundle, name, precision, fingerprint(engine)).score_scale


def validate_engine(
    bundle: Bundle, name: str, precision: Precision, performance_hint: PerformanceHint = "throughput"
) -> EngineRecord:
    """Try an engine on the bundle's golden sequences; to be kept with :func:`deploy.records.write_record`.

    Raises:
        BundleIncompatible: the bundle has no golden sequences.
        EngineFailed, ConfigError, EngineUnavailable: see :func:`deploy.engines.registry.load_engine`.
    """
    sequences = read_sequences(bundle)
    engine = load_engine(
        bundle, EngineRequest(name, precision=precision, max_clips=_MAX_CLIPS, performance_hint=performance_hint)
    )
    try:
        gate = measure_accuracy(engine, precision, sequences)
        known = fingerprint(engine)
    finally:
        engine.close()
    built = find_record(bundle, name, precision)
    return EngineRecord(
        engine=name,
        precision=precision,
        model_sha256=bundle.manifest.files[ONNX_NAME],
        fingerprint=known,
        accuracy=gate,
        plan=None if built is None else built.plan,
    )


def fingerprint(engine: Engine) -> Fingerprint:
    """What of an engine's description its scores depend on."""
    return {name: value for name, value in engine.describe().items() if name not in _SETTINGS}


def settings_in_force(engine: Engine) -> dict[str, str]:
    """The rest of its description: what its speed depends on."""
    return {name: value for name, value in engine.describe().items() if name in _SETTINGS}


Status = Literal["ok", "refused", "failed", "unavailable"]


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What came of trying one engine in one precision."""

    engine: str
    precision: str
    status: Status
    """``refused``: it works, but its scores are not good enough; ``unavailable``: library or processor do not offer it."""
    detail: str
    parity: Parity | None = None
    """On the golden clips; float32 only."""
    accuracy: AccuracyResult | None = None
    """On the golden sequences; None for float32 if the bundle has none."""


def verify_engine(
    bundle: Bundle, name: str, precision: Precision, performance_hint: PerformanceHint = "throughput"
) -> VerifyResult:
    """Try one engine, and keep the verdict of its gate in the bundle, where that can be written to."""
    try:
        return (
            _verify_f32(bundle, name, performance_hint)
            if precision == "f32"
            else _verify_by_gate(bundle, name, precision, performance_hint)
        )
    except EngineUnavailable as error:
        return VerifyResult(name, precision, "unavailable", str(error))
    except EngineRefused as error:  # its plan is missing or stale
        return VerifyResult(name, precision, "refused", str(error))
    except BundleIncompatible as error:
        return VerifyResult(name, precision, "failed" if precision == "f32" else "refused", str(error))
    except EngineError as error:
        return VerifyResult(name, precision, "failed", str(error))


def passed(verdicts: list[VerifyResult], *, asked_for: bool) -> bool:
    """Whether all is well: something works and nothing is broken; of engines that were asked for by name, all work."""
    statuses = {verdict.status for verdict in verdicts}
    return "ok" in statuses and not statuses & ({"failed", "refused", "unavailable"} if asked_for else {"failed"})


def _verify_f32(bundle: Bundle, name: str, performance_hint: PerformanceHint) -> VerifyResult:
    engine = load_engine(bundle, EngineRequest(name, performance_hint=performance_hint))
    try:
        parity = check(engine, read_golden(bundle))
        gate = measure_accuracy(engine, "f32", read_sequences(bundle)) if SEQUENCES_NAME in bundle.manifest.files else None
        detail = _told(engine.describe())
    finally:
        engine.close()
    if gate is not None and gate.failures:
        return VerifyResult(name, "f32", "failed", "; ".join(gate.failures), parity, gate)
    return VerifyResult(name, "f32", "ok", detail, parity, gate)


def _verify_by_gate(bundle: Bundle, name: str, precision: Precision, performance_hint: PerformanceHint) -> VerifyResult:
    variant = validate_engine(bundle, name, precision, performance_hint)
    with suppress(PermissionError):  # a bundle that belongs to somebody else may be tried all the same
        write_record(bundle, variant)
    if variant.accuracy is not None and variant.accuracy.failures:
        return VerifyResult(name, precision, "refused", "; ".join(variant.accuracy.failures), accuracy=variant.accuracy)
    return VerifyResult(name, precision, "ok", _told(variant.fingerprint), accuracy=variant.accuracy)


def _told(description: dict[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in description.items() if key not in {"backend", "precision"})
