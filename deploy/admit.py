"""Engines that may be put to work: none serves that has not shown on this machine that it computes the same scores."""

from deploy.bundle import ONNX_NAME, Bundle, read_golden
from deploy.engine import Engine, Precision, Tune, load_engine
from deploy.gate import try_engine
from deploy.parity import check
from deploy.sequences import read_sequences
from deploy.variants import Fingerprint, Variant, find_variant, passed_variant

_MAX_CLIPS = 1024
"""So that an engine with buckets loads them all."""
_SETTINGS = ("threads", "streams", "spinning", "tune")
"""Of a description: how fast, not what."""


def load_admitted(
    bundle: Bundle, name: str, precision: Precision, *, max_clips: int, threads: int, tune: Tune = "throughput"
) -> Engine:
    """Load an engine to serve with.

    A float32 engine scores the golden clips first, which takes less than a second. Any other must have passed the gate here.

    Raises:
        EngineRefused: it has not passed the gate with this bundle on this machine.
        EngineFailed: it computes something else than the reference, or the backend failed.
        ConfigError, EngineUnavailable: see :func:`deploy.engine.load_engine`.
    """
    engine = load_engine(bundle, name, precision=precision, max_clips=max_clips, threads=threads, tune=tune)
    try:
        if precision == "f32":
            check(engine, read_golden(bundle))
        else:
            passed_variant(bundle, name, precision, fingerprint(engine))
    except BaseException:
        engine.close()
        raise
    return engine


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
