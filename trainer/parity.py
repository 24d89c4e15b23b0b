"""Does every installed engine for the CPU compute what the trained network computes? Those for GPUs have a gate of their own."""

from collections.abc import Iterator

from deploy.bundle import Bundle, read_golden
from deploy.engine import ENGINES, ON_GPU, load_engine
from deploy.errors import EngineUnavailable
from deploy.parity import check


def check_engines(bundle: Bundle) -> Iterator[str]:
    """Try the bundle's golden clips on every engine for the CPU; one line on each.

    Raises:
        EngineFailed: an engine computes something else than the network that was trained.
    """
    golden = read_golden(bundle)
    for name in (name for name in ENGINES if name not in ON_GPU):
        try:
            engine = load_engine(bundle, name)
        except EngineUnavailable as error:
            yield f"engine {name}: not tried, {error}"
            continue
        try:
            parity = check(engine, golden)
        finally:
            engine.close()
        yield f"engine {name}: agrees on {parity.clips} clips, largest score error {parity.max_score_error:.1e}"
