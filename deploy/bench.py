"""How fast a bundle's engines are on this machine, in one run, beside what the machine allows.

A shared machine swings from minute to minute, so engines and batches take turns: every round measures each of them once.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import ONNX_NAME, Bundle
from deploy.engine import Clips, Engine, Precision, State, Tune, load_engine
from deploy.errors import EngineUnavailable
from deploy.floor import Floor, measure_floor
from deploy.operations import gflop_per_clip

REFERENCE = ("torch", "f32")
"""What the others are compared with: the network as it was trained, uncompiled."""

_ROUND_S = 0.6
_WARM_UP_CALLS = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    engines: tuple[tuple[str, Precision], ...]
    batches: tuple[int, ...] = (1, 8, 32)
    rounds: int = 5
    threads: int = 0
    tune: Tune = "throughput"


@dataclass(frozen=True, slots=True)
class Result:
    """One engine at one batch: of the calls of all rounds."""

    engine: str
    precision: str
    batch: int
    clips_per_s: float
    """From the median call."""
    cpu_s_per_clip: float
    latency_ms: Mapping[str, float]
    """Of a whole call: p50, p95, p99."""
    gflop_per_clip: float | None
    ratio_to_floor: float | None
    """The least possible time by the measured one; None where the operations could not be counted."""
    against_reference: float | None
    """Clips a second by those of ``REFERENCE`` at the same batch."""


@dataclass(slots=True)
class _Runner:
    """An engine with what it is to score, and the calls measured so far."""

    engine: Engine
    precision: Precision
    clips: Clips
    state: State | None
    calls_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0

    def warm_up(self) -> None:
        for _ in range(_WARM_UP_CALLS):
            self.state = self.engine.score(self.clips, self.state).state

    def measure(self) -> None:
        """One round: calls one after the other."""
        begin_cpu_s, end_s = time.process_time(), time.perf_counter() + _ROUND_S
        while True:
            begin_s = time.perf_counter()
            self.engine.score(self.clips, self.state)
            now_s = time.perf_counter()
            self.calls_s.append(now_s - begin_s)
            if now_s >= end_s:
                break
        self.cpu_s += time.process_time() - begin_cpu_s


def benchmark(bundle: Bundle, plan: Plan, tell: Callable[[int, int], None]) -> dict[str, Any]:
    """Measure engines that run here; ``tell`` is told of finished parts, and of how many there are.

    Returns:
        ``tune``; ``results``: of each engine and batch; ``floor``: what the machine allows; ``left_out``: why others are missing.

    Raises:
        EngineFailed: a backend failed.
    """
    with ExitStack() as stack:
        runners, left_out = _runners(bundle, plan, stack)
        for number, _ in enumerate(_rounds(runners, plan.rounds), 1):
            tell(number, len(runners) * plan.rounds)
    floor = measure_floor({runner.precision for runner in runners})
    results = _results(runners, floor, gflop_per_clip(bundle), _moved_bytes(bundle))
    return {"tune": plan.tune, "results": [asdict(result) for result in results], "floor": asdict(floor), "left_out": left_out}


def _runners(bundle: Bundle, plan: Plan, stack: ExitStack) -> tuple[list[_Runner], dict[str, str]]:
    runners, left_out = [], {}
    for name, precision in plan.engines:
        try:
            loaded = load_engine(
                bundle, name, precision=precision, max_clips=max(plan.batches), threads=plan.threads, tune=plan.tune
            )
        except EngineUnavailable as error:
            left_out[f"{name} {precision}"] = str(error)
            continue
        engine = stack.enter_context(closing(loaded))
        runners += [_Runner(engine, precision, _noise(bundle, batch), None) for batch in plan.batches]
    return runners, left_out


def _rounds(runners: list[_Runner], rounds: int) -> Iterator[None]:
    for runner in runners:
        runner.warm_up()
    for _ in range(rounds):
        for runner in runners:
            runner.measure()
            yield


def _noise(bundle: Bundle, batch: int) -> Clips:
    return np.random.default_rng(0).integers(0, 256, (batch, *bundle.spec.clip_shape), dtype=np.uint8)


def _moved_bytes(bundle: Bundle) -> float:
    """What at least moves for one clip: the clip, the state in and out, and the weights, which fit no first-level cache."""
    state = 0 if bundle.spec.state_shape is None else 2 * 4 * int(np.prod(bundle.spec.state_shape))
    return float(np.prod(bundle.spec.clip_shape)) + state + bundle.file(ONNX_NAME).stat().st_size


def _results(runners: list[_Runner], floor: Floor, gflop: float | None, moved_bytes: float) -> list[Result]:
    clips_per_s = {id(runner): len(runner.clips) / float(np.median(runner.calls_s)) for runner in runners}
    reference = {
        len(runner.clips): clips_per_s[id(runner)] for runner in runners if (runner.engine.name, runner.precision) == REFERENCE
    }
    return [_result(runner, clips_per_s[id(runner)], reference, floor, gflop, moved_bytes) for runner in runners]


def _result(
    runner: _Runner, clips_per_s: float, reference: Mapping[int, float], floor: Floor, gflop: float | None, moved_bytes: float
) -> Result:
    batch = len(runner.clips)
    least_s = None if gflop is None else floor.s_per_clip(runner.precision, gflop * 1e9, moved_bytes)
    return Result(
        engine=runner.engine.name,
        precision=runner.precision,
        batch=batch,
        clips_per_s=clips_per_s,
        cpu_s_per_clip=runner.cpu_s / (batch * len(runner.calls_s)),
        latency_ms=_percentiles_ms(np.array(runner.calls_s)),
        gflop_per_clip=gflop,
        ratio_to_floor=None if least_s is None else least_s * clips_per_s,
        against_reference=clips_per_s / reference[batch] if batch in reference else None,
    )


def _percentiles_ms(calls_s: NDArray[np.float64]) -> dict[str, float]:
    return {f"p{rank}": float(np.percentile(calls_s, rank)) * 1000 for rank in (50, 95, 99)}
