"""How fast a bundle's engines are on this machine, in one run, beside what the machine allows.

A shared machine swings from minute to minute, so engines and batches take turns: every round measures each of them once. Engines
on a GPU are given newest frames, and heat maps stay there, as with ordinary frames in the service.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from math import inf
from mmap import PAGESIZE
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from deploy.benchmark.roofline import Calls, Floor, gflop_per_clip, measure_floor
from deploy.bundle import ONNX_NAME, Bundle
from deploy.engine import Clips, Engine, Precision, State, Tune, resident
from deploy.engines.registry import ON_GPU, load_engine
from deploy.errors import EngineRefused, EngineUnavailable
from deploy.selection.load_test import NewestFrames
from tests.bench.anomalib_comparison import Against, Inferencer

if TYPE_CHECKING:
    from deploy.gpu.engine import GpuEngine

REFERENCE = ("torch", "f32")
"""What the others are compared with: the network as it was trained, uncompiled."""

_ROUND_S = 0.6
_WARM_UP_CALLS = 2
_STATM = Path("/proc/self/statm")


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
    clips_per_s_on_device: float | None
    """The same with nothing copied to the device or from it; None on the CPU, where nothing is."""
    cpu_s_per_clip: float
    latency_ms: Mapping[str, float]
    """Of a whole call: p50, p95, p99."""
    gflop_per_clip: float | None
    ratio_to_floor: float | None
    """The least possible time by the measured one; None where the operations could not be counted."""
    against_reference: float | None
    """Clips a second by those of ``REFERENCE`` at the same batch."""
    memory_bytes: int | None
    """How much more of this process lies in RAM than before the engine was loaded, once it is warm at this batch.

    One engine serves all batches, smallest first, so a batch's figure holds what the smaller ones needed. The first engine of a
    library counts the library as well; memory that an earlier engine gave up and this one took over is not seen. None where the
    system does not say: only Linux does.
    """
    against_anomalib: Mapping[str, float]
    """CPU seconds that anomalib takes for an image by those of a clip here, for each of its inferencers and sizes."""


@dataclass(slots=True)
class _Runner:
    """An engine with what it is to score, and the calls measured so far."""

    engine: Engine
    precision: Precision
    clips: Clips
    state: State | None = None
    memory_bytes: int | None = None
    kept: NewestFrames | None = None
    """What an engine on a GPU keeps of the clips' cameras."""
    calls: Calls = field(default_factory=Calls)
    on_device: Calls = field(default_factory=Calls)

    def warm_up(self) -> None:
        if (keeper := resident(self.engine)) is not None:
            self.kept = NewestFrames(keeper, self.clips)
        for _ in range(_WARM_UP_CALLS):
            self.state = self._call()

    def measure(self, round_s: float) -> None:
        """One round: calls one after the other."""
        _measure(self.calls, round_s, self._call)
        if self.engine.name in ON_GPU:
            engine = cast("GpuEngine", self.engine)
            _measure(self.on_device, round_s, lambda: engine.compute(len(self.clips)))

    @property
    def clips_per_s(self) -> float:
        return len(self.clips) / self.calls.median_s

    def _call(self) -> State | None:
        if self.kept is None:
            return self.engine.score(self.clips, self.state).state
        self.kept.score(np.arange(len(self.clips)))
        return None


def _measure(calls: Calls, round_s: float, call: Callable[[], object]) -> None:
    calls_s, begin_cpu_s, end_s = [], time.process_time(), time.perf_counter() + round_s
    while True:
        begin_s = time.perf_counter()
        call()
        now_s = time.perf_counter()
        calls_s.append(now_s - begin_s)
        if now_s >= end_s:
            break
    calls.add(calls_s, time.process_time() - begin_cpu_s)


def benchmark(
    bundle: Bundle, plan: Plan, tell: Callable[[int, int], None], inferencers: Sequence[Inferencer] = ()
) -> dict[str, Any]:
    """Measure engines that run here, and ``inferencers`` in turns with them.

    ``tell`` is told of finished parts, and of how many there are.

    Returns:
        ``tune``; ``results``: of each engine and batch; ``against``: of each inferencer; ``floor`` and ``gpu_floor``: what the
        processor and the GPU allow, the latter None where nothing was measured on one;
        ``left_out``: why other engines are missing.

    Raises:
        EngineFailed: a backend failed, or an inferencer did.
    """
    with ExitStack() as stack:
        runners, left_out = _runners(bundle, plan, stack)
        for number, _ in enumerate(_rounds([*runners, *inferencers], plan.rounds), 1):
            tell(number, (len(runners) + len(inferencers)) * plan.rounds)
    against = {inferencer.key: inferencer.result() for inferencer in inferencers}
    floors = _floors(runners)
    results = _results(runners, against, floors, gflop_per_clip(bundle), _moved_bytes(bundle))
    return {
        "tune": plan.tune,
        "results": [asdict(result) for result in results],
        "against": [asdict(result) for result in against.values()],
        "floor": asdict(floors["cpu"]),
        "gpu_floor": asdict(floors["gpu"]) if "gpu" in floors else None,
        "left_out": left_out,
    }


def _device(runner: _Runner) -> str:
    return "gpu" if runner.engine.name in ON_GPU else "cpu"


def _floors(runners: list[_Runner]) -> dict[str, Floor]:
    """Of the processor and, if anything was measured on it, of the GPU."""
    on_gpu = {runner.precision for runner in runners if _device(runner) == "gpu"}
    floors = {"cpu": measure_floor({runner.precision for runner in runners if _device(runner) == "cpu"})}
    if not on_gpu:
        return floors
    from deploy.benchmark.roofline import measure_gpu_floor

    return {**floors, "gpu": measure_gpu_floor(on_gpu)}


def _runners(bundle: Bundle, plan: Plan, stack: ExitStack) -> tuple[list[_Runner], dict[str, str]]:
    runners, left_out = [], {}
    noise = [_noise(bundle, batch) for batch in plan.batches]
    for name, precision in plan.engines:
        before_bytes = _resident_bytes()
        try:
            loaded = load_engine(
                bundle,
                name,
                precision=precision,
                max_clips=max(plan.batches),
                threads=plan.threads,
                tune=plan.tune,
                cameras=sum(plan.batches),
            )
        except (EngineUnavailable, EngineRefused) as error:  # refused: it has no plan here
            left_out[f"{name} {precision}"] = str(error)
            continue
        engine = stack.enter_context(closing(loaded))
        engine.heatmaps_from = inf
        loaded_runners = [_Runner(engine, precision, clips) for clips in noise]
        _warm_up(loaded_runners, before_bytes)
        runners += loaded_runners
    return runners, left_out


def _warm_up(runners: list[_Runner], before_bytes: int | None) -> None:
    for runner in sorted(runners, key=lambda runner: len(runner.clips)):
        runner.warm_up()
        now_bytes = _resident_bytes()
        runner.memory_bytes = None if before_bytes is None or now_bytes is None else now_bytes - before_bytes


def _resident_bytes() -> int | None:
    """Memory of this process that lies in RAM now; None where the system does not say."""
    try:
        return int(_STATM.read_text().split()[1]) * PAGESIZE
    except OSError:
        return None


def _rounds(parts: Sequence[_Runner | Inferencer], rounds: int) -> Iterator[None]:
    for _ in range(rounds):
        for part in parts:
            part.measure(_ROUND_S)
            yield


def _noise(bundle: Bundle, batch: int) -> Clips:
    return np.random.default_rng(0).integers(0, 256, (batch, *bundle.spec.clip_shape), dtype=np.uint8)


def _moved_bytes(bundle: Bundle) -> float:
    """What at least moves for one clip: the clip, the state in and out, and the weights, which fit no first-level cache."""
    state = 0 if bundle.spec.state_shape is None else 2 * 4 * int(np.prod(bundle.spec.state_shape))
    return float(np.prod(bundle.spec.clip_shape)) + state + bundle.file(ONNX_NAME).stat().st_size


def _results(
    runners: list[_Runner], against: Mapping[str, Against], floors: Mapping[str, Floor], gflop: float | None, moved_bytes: float
) -> list[Result]:
    reference = {
        len(runner.clips): runner.clips_per_s for runner in runners if (runner.engine.name, runner.precision) == REFERENCE
    }

    def least_s(runner: _Runner) -> float | None:
        floor = floors[_device(runner)]
        return None if gflop is None else floor.s_per_clip(runner.precision, gflop * 1e9, moved_bytes)

    return [_result(runner, reference, against, gflop, least_s(runner)) for runner in runners]


def _result(
    runner: _Runner, reference: Mapping[int, float], against: Mapping[str, Against], gflop: float | None, least_s: float | None
) -> Result:
    batch, clips_per_s = len(runner.clips), runner.clips_per_s
    cpu_s_per_clip = runner.calls.cpu_s_per_call / batch
    return Result(
        engine=runner.engine.name,
        precision=runner.precision,
        batch=batch,
        clips_per_s=clips_per_s,
        clips_per_s_on_device=batch / runner.on_device.median_s if runner.on_device.calls_s else None,
        cpu_s_per_clip=cpu_s_per_clip,
        latency_ms=runner.calls.latency_ms,
        gflop_per_clip=gflop,
        ratio_to_floor=None if least_s is None else least_s * clips_per_s,
        against_reference=clips_per_s / reference[batch] if batch in reference else None,
        memory_bytes=runner.memory_bytes,
        against_anomalib={key: other.cpu_s_per_image / cpu_s_per_clip for key, other in against.items()},
    )
