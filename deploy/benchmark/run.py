"""Benchmark the engines of a bundle: throughput, CPU time, latency and memory, relative to what this machine allows.

The speed of a shared machine varies from minute to minute, so engines and batch sizes are measured in interleaved rounds. As in
the service, an engine on a GPU gets each camera's newest frame only, and its heat maps stay on the device.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from math import inf
from mmap import PAGESIZE
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from deploy.benchmark.load_test import NewestFrameCameras, latency_percentiles_ms
from deploy.benchmark.roofline import Roofline, gflop_per_clip, measure_cpu, measure_gpu
from deploy.bundle import ONNX_NAME, Bundle
from deploy.engine import Clips, Engine, EngineRequest, PerformanceHint, Precision, State, caching_engine
from deploy.errors import EngineRefused, EngineUnavailable
from deploy.registry import GPU_ENGINES, load_engine

if TYPE_CHECKING:
    from deploy.gpu.engine import GpuEngine

REFERENCE = ("torch", "f32")  # the engine that others are compared with: the uncompiled network, as trained

_ROUND_S = 0.6
_STATM = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True)
class BenchmarkPlan:
    """The engines and batch sizes to measure."""

    engines: tuple[tuple[str, Precision], ...]
    batches: tuple[int, ...] = (1, 8, 32)
    rounds: int = 5
    threads: int = 0
    performance_hint: PerformanceHint = "throughput"


@dataclass(slots=True)
class CallTimes:
    """Wall-clock time of every call, and the CPU time of all of them on all threads of the process."""

    calls_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0

    def measure(self, call: Callable[[], object], round_s: float) -> None:
        """Call repeatedly for ``round_s`` seconds, at least once."""
        begin_cpu_s, end_s, now_s = time.process_time(), time.perf_counter() + round_s, -inf
        while now_s < end_s:
            begin_s = time.perf_counter()
            call()
            now_s = time.perf_counter()
            self.calls_s.append(now_s - begin_s)
        self.cpu_s += time.process_time() - begin_cpu_s

    @property
    def median_s(self) -> float:
        return float(np.median(self.calls_s))

    @property
    def cpu_s_per_call(self) -> float:
        return self.cpu_s / len(self.calls_s)


@dataclass(slots=True)
class EngineRunner:
    """A loaded engine with the clips that it scores in each call, and the calls measured so far."""

    engine: Engine
    precision: Precision
    clips: Clips
    state: State | None = None
    memory_bytes: int | None = None
    """Growth of this process's resident memory from before the engine was loaded until it is warm at this batch size.

    One engine serves all batch sizes, smallest first, so each figure includes what the smaller ones needed. The first engine of a
    library includes the library; memory released by an earlier engine and reused is not counted. None except on Linux.
    """
    newest_frames: NewestFrameCameras | None = None  # for engines that keep the cameras' frames on their device
    times: CallTimes = field(default_factory=CallTimes)
    times_on_device: CallTimes = field(default_factory=CallTimes)

    def warm_up(self) -> None:
        if (device_engine := caching_engine(self.engine)) is not None:
            self.newest_frames = NewestFrameCameras(device_engine, self.clips)
        for _ in range(2):
            self.state = self._score()

    def measure(self, round_s: float) -> None:
        """Score the clips repeatedly; on a GPU, also measure the computation alone."""
        self.times.measure(self._score, round_s)
        if self.device == "gpu":
            engine = cast("GpuEngine", self.engine)
            self.times_on_device.measure(lambda: engine.compute(len(self.clips)), round_s)

    @property
    def device(self) -> str:
        return "gpu" if self.engine.name in GPU_ENGINES else "cpu"

    @property
    def clips_per_s(self) -> float:
        return len(self.clips) / self.times.median_s

    @property
    def cpu_s_per_clip(self) -> float:
        return self.times.cpu_s_per_call / len(self.clips)

    def _score(self) -> State | None:
        if self.newest_frames is None:
            return self.engine.score(self.clips, self.state).state
        self.newest_frames.score(np.arange(len(self.clips)))
        return None


def benchmark(bundle: Bundle, plan: BenchmarkPlan, on_progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Measure the engines of ``plan`` that run on this machine.

    ``on_progress`` gets the number of finished measurements and of all. Raises EngineFailed if a backend failed.

    Returns:
        ``performance_hint``; ``results``: figures of each engine and batch size over the calls of all rounds; ``floor`` and
        ``gpu_floor``: measured peaks of processor and GPU, the latter None if no engine ran on a GPU; ``left_out``: why an engine
        could not be loaded.
    """
    with ExitStack() as stack:
        runners, left_out = load_runners(bundle, plan, stack)
        run_rounds([runner.measure for runner in runners], plan.rounds, on_progress)
    peaks = _peaks(runners)
    return {
        "performance_hint": plan.performance_hint,
        "results": _results(bundle, runners, peaks),
        "floor": asdict(peaks["cpu"]),
        "gpu_floor": asdict(peaks["gpu"]) if "gpu" in peaks else None,
        "left_out": left_out,
    }


def load_runners(bundle: Bundle, plan: BenchmarkPlan, stack: ExitStack) -> tuple[list[EngineRunner], dict[str, str]]:
    """Load and warm up every engine of ``plan``, one runner for each batch size; ``stack`` closes the engines.

    The second value gives, for each engine that cannot run here, the reason.
    """
    runners, left_out = [], {}
    shape, rng = bundle.spec.clip_shape, np.random.default_rng
    random_clips = [rng(0).integers(0, 256, (batch, *shape), dtype=np.uint8) for batch in plan.batches]
    for name, precision in plan.engines:
        before_bytes = _resident_bytes()
        try:
            request = EngineRequest(name, precision, max(plan.batches), plan.threads, plan.performance_hint, sum(plan.batches))
            loaded = load_engine(bundle, request)
        except (EngineUnavailable, EngineRefused) as error:  # refused: no plan was built for this machine
            left_out[f"{name} {precision}"] = str(error)
            continue
        engine = stack.enter_context(closing(loaded))
        engine.heatmap_threshold = inf
        batches = [EngineRunner(engine, precision, clips) for clips in random_clips]
        for runner in sorted(batches, key=lambda runner: len(runner.clips)):
            runner.warm_up()
            if before_bytes is not None and (now_bytes := _resident_bytes()) is not None:
                runner.memory_bytes = now_bytes - before_bytes
        runners += batches
    return runners, left_out


def run_rounds(measurements: Sequence[Callable[[float], None]], rounds: int, on_progress: Callable[[int, int], None]) -> None:
    """Run every measurement once a round, in turns, for the given number of seconds."""
    steps = rounds * len(measurements)
    for step in range(steps):
        measurements[step % len(measurements)](_ROUND_S)
        on_progress(step + 1, steps)


def _resident_bytes() -> int | None:
    """Resident memory of this process; None where the system does not report it."""
    try:
        return int(_STATM.read_text().split()[1]) * PAGESIZE
    except OSError:
        return None


def _peaks(runners: list[EngineRunner]) -> dict[str, Roofline]:
    precisions = {device: {runner.precision for runner in runners if runner.device == device} for device in ("cpu", "gpu")}
    peaks = {"cpu": measure_cpu(precisions["cpu"])}
    return {**peaks, "gpu": measure_gpu(precisions["gpu"])} if precisions["gpu"] else peaks


def _results(bundle: Bundle, runners: list[EngineRunner], peaks: Mapping[str, Roofline]) -> list[dict[str, Any]]:
    gflop = gflop_per_clip(bundle)
    # At least the clip, the state in and out, and the weights, which fit no first-level cache, are moved.
    state_bytes = 0 if bundle.spec.state_shape is None else 2 * 4 * int(np.prod(bundle.spec.state_shape))
    moved_bytes = float(np.prod(bundle.spec.clip_shape)) + state_bytes + bundle.file(ONNX_NAME).stat().st_size
    reference = {
        len(runner.clips): runner.clips_per_s for runner in runners if (runner.engine.name, runner.precision) == REFERENCE
    }

    def figures(runner: EngineRunner) -> dict[str, Any]:
        batch, clips_per_s = len(runner.clips), runner.clips_per_s
        peak = peaks[runner.device]
        least_s = None if gflop is None else peak.s_per_clip(runner.precision, gflop * 1e9, moved_bytes)
        return {
            "engine": runner.engine.name,
            "precision": runner.precision,
            "batch": batch,
            "clips_per_s": clips_per_s,  # from the median call
            # Without any copy to or from the GPU; None for engines on the CPU.
            "clips_per_s_on_device": batch / runner.times_on_device.median_s if runner.times_on_device.calls_s else None,
            "cpu_s_per_clip": runner.cpu_s_per_clip,
            "latency_ms": latency_percentiles_ms(runner.times.calls_s),  # of a call
            "gflop_per_clip": gflop,
            # The least possible time, by the roofline, divided by the measured one.
            "ratio_to_floor": None if least_s is None else least_s * clips_per_s,
            # Throughput divided by that of REFERENCE at the same batch size.
            "against_reference": clips_per_s / reference[batch] if batch in reference else None,
            "memory_bytes": runner.memory_bytes,
        }

    return [figures(runner) for runner in runners]
