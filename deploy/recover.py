"""What to do when the engine that is named is not ready to serve: what the settings say, and nothing else.

``fail`` starts nothing. ``rebuild`` builds the plan again for what is here and puts it to the gate. ``fallback`` takes the first
of ``FALLBACKS`` that may serve. Whatever was done is told, so that it can be logged and counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from deploy.admit import Admitted, load_admitted, put_to_the_gate
from deploy.bundle import Bundle
from deploy.engine import Options, Precision
from deploy.errors import EngineRefused, EngineUnavailable
from deploy.tensorrt.library import MODULES
from deploy.tensorrt.make import make_plan
from deploy.tensorrt.options import BuildOptions
from deploy.variants import find_variant, write_variant

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


def load_ready(bundle: Bundle, name: str, options: Options, policy: Policy) -> Ready:
    """Load the engine called ``name``, or do what ``policy`` says where it is not ready.

    Raises:
        EngineRefused, EngineUnavailable: it is not ready, and the policy does not help; the reason is that of the engine named.
        ConfigError, EngineFailed, BundleError: see :func:`deploy.admit.load_admitted`; no policy helps there.
    """
    try:
        return Ready(load_admitted(bundle, name, options), None, "")
    except (EngineRefused, EngineUnavailable) as error:
        if policy == "rebuild" and name in MODULES:
            _rebuild(bundle, name, options.precision)
            return Ready(load_admitted(bundle, name, options), "rebuild", str(error))
        if policy == "fallback":
            for admitted in _fallbacks(bundle, options):
                return Ready(admitted, "fallback", str(error))
        raise


def _rebuild(bundle: Bundle, name: str, precision: Precision) -> None:
    """Build as it was built before, and try it."""
    kept = find_variant(bundle, name, precision)
    options = BuildOptions() if kept is None or kept.plan is None else kept.plan.options
    make_plan(bundle, name, precision, options, lambda _phase, _done, _total: None)
    write_variant(bundle, put_to_the_gate(bundle, name, precision))


def _fallbacks(bundle: Bundle, options: Options) -> Iterator[Admitted]:
    for name, precision in FALLBACKS:
        try:
            yield load_admitted(bundle, name, replace(options, precision=precision))
        except (EngineRefused, EngineUnavailable):
            continue
