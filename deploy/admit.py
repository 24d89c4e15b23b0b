"""Engines that may be put to work: none serves that has not shown on this machine that it computes the same scores."""

from dataclasses import asdict, dataclass

from deploy.bundle import ONNX_NAME, Bundle, read_golden
from deploy.engine import Engine, Options, Precision, Tune, load_engine, resident
from deploy.gate import try_engine
from deploy.parity import check, check_resident
from deploy.sequences import read_sequences
from deploy.variants import Fingerprint, Variant, find_variant, passed_variant

_MAX_CLIPS = 1024
"""So that an engine with buckets loads them all."""
_SETTINGS = ("threads", "streams", "spinning", "tune")
"""Of a description: how fast, not what."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """An engine that may be put to work."""

    engine: Engine
    score_scale: float = 1.0
    """Its scores by the reference's, which the thresholds are made for; see :attr:`deploy.gate.Gate.score_scale`."""


def load_admitted(bundle: Bundle, name: str, options: Options) -> Admitted:
    """Load an engine to serve with.

    A float32 engine scores the golden clips first, which takes less than a second. Any other must have passed the gate here. One
    that keeps frames and states on its device must give the same scores from there.

    Raises:
        EngineRefused: it has not passed the gate with this bundle on this machine.
        EngineFailed: it computes something else than the reference, or the backend failed.
        ConfigError, EngineUnavailable: see :func:`deploy.engine.load_engine`.
    """
    engine = load_engine(bundle, name, **asdict(options))
    try:
        score_scale = _passed(bundle, name, options.precision, engine)
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
    gate = passed_variant(bundle, name, precision, fingerprint(engine)).gate
    return 1.0 if gate is None else gate.score_scale


def put_to_the_gate(bundle: Bundle, name: str, precision: Precision, tune: Tune = "throughput") -> Variant:
    """Try an engine on the bundle's golden sequences; to be kept with :func:`deploy.variants.write_variant`.

    Raises:
        BundleIncompatible: the bundle has no golden sequences.
        EngineFailed, ConfigError, EngineUnavailable: see :func:`deploy.engine.load_engine`.
    """
    sequences = read_sequences(bundle)
    engine = load_engine(bundle, name, precision=precision, max_clips=_MAX_CLIPS, tune=tune)
    try:
        gate = try_engine(engine, precision, sequences)
        known = fingerprint(engine)
    finally:
        engine.close()
    built = find_variant(bundle, name, precision)
    return Variant(
        engine=name,
        precision=precision,
        model_sha256=bundle.manifest.files[ONNX_NAME],
        fingerprint=known,
        gate=gate,
        plan=None if built is None else built.plan,
    )


def fingerprint(engine: Engine) -> Fingerprint:
    """What of an engine's description its scores depend on."""
    return {name: value for name, value in engine.describe().items() if name not in _SETTINGS}


def settings_in_force(engine: Engine) -> dict[str, str]:
    """The rest of its description: what its speed depends on."""
    return {name: value for name, value in engine.describe().items() if name in _SETTINGS}
