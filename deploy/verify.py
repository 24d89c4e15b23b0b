"""Which engines compute what the reference computes, here and now; what was found is kept in the bundle."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from deploy.admit import put_to_the_gate
from deploy.bundle import SEQUENCES_NAME, Bundle, read_golden
from deploy.engine import Precision, Tune, load_engine
from deploy.errors import BundleIncompatible, EngineError, EngineRefused, EngineUnavailable
from deploy.gate import Gate, try_engine
from deploy.parity import Parity, check
from deploy.sequences import read_sequences
from deploy.variants import write_variant

Status = Literal["ok", "refused", "failed", "unavailable"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of trying one engine in one precision."""

    engine: str
    precision: str
    status: Status
    """``refused``: it works, but its scores are not good enough; ``unavailable``: library or processor do not offer it."""
    detail: str
    parity: Parity | None = None
    """On the golden clips; float32 only."""
    gate: Gate | None = None
    """On the golden sequences; None for float32 if the bundle has none."""


def verify_engine(bundle: Bundle, name: str, precision: Precision, tune: Tune = "throughput") -> Verdict:
    """Try one engine, and keep the verdict of its gate in the bundle, where that can be written to."""
    try:
        return _verify_f32(bundle, name, tune) if precision == "f32" else _verify_by_gate(bundle, name, precision, tune)
    except EngineUnavailable as error:
        return Verdict(name, precision, "unavailable", str(error))
    except EngineRefused as error:  # its plan is missing or stale
        return Verdict(name, precision, "refused", str(error))
    except BundleIncompatible as error:
        return Verdict(name, precision, "failed" if precision == "f32" else "refused", str(error))
    except EngineError as error:
        return Verdict(name, precision, "failed", str(error))


def passed(verdicts: list[Verdict], *, asked_for: bool) -> bool:
    """Whether all is well: something works and nothing is broken; of engines that were asked for by name, all work."""
    statuses = {verdict.status for verdict in verdicts}
    return "ok" in statuses and not statuses & ({"failed", "refused", "unavailable"} if asked_for else {"failed"})


def _verify_f32(bundle: Bundle, name: str, tune: Tune) -> Verdict:
    engine = load_engine(bundle, name, tune=tune)
    try:
        parity = check(engine, read_golden(bundle))
        gate = try_engine(engine, "f32", read_sequences(bundle)) if SEQUENCES_NAME in bundle.manifest.files else None
        detail = _told(engine.describe())
    finally:
        engine.close()
    if gate is not None and gate.failures:
        return Verdict(name, "f32", "failed", "; ".join(gate.failures), parity, gate)
    return Verdict(name, "f32", "ok", detail, parity, gate)


def _verify_by_gate(bundle: Bundle, name: str, precision: Precision, tune: Tune) -> Verdict:
    variant = put_to_the_gate(bundle, name, precision, tune)
    with suppress(PermissionError):  # a bundle that belongs to somebody else may be tried all the same
        write_variant(bundle, variant)
    if variant.gate is not None and variant.gate.failures:
        return Verdict(name, precision, "refused", "; ".join(variant.gate.failures), gate=variant.gate)
    return Verdict(name, precision, "ok", _told(variant.fingerprint), gate=variant.gate)


def _told(description: dict[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in description.items() if key not in {"backend", "precision"})
