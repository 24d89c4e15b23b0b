"""Choose the engine that serves some cameras best on this machine: validate all engines, then measure them under that load."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import product
from typing import Final, Literal

from deploy.benchmark.load_test import CameraLoad, LoadTest, start_load_test
from deploy.bundle import ONNX_NAME, Bundle, read_golden, require_writable
from deploy.engine import DEFAULT_MAX_CLIPS, Clips, EngineRequest
from deploy.errors import ConfigError, EngineError
from deploy.records import DefaultEngine, Fingerprint, LoadTestResult, write_default
from deploy.registry import PRECISIONS, TUNABLE_ENGINES
from deploy.validation.admission import (
    VerifyResult,
    VerifyStatus,
    error_status,
    fingerprint,
    load_validated,
    performance_settings,
    verify_engine,
)

KEEPS_UP_SHARE: Final = 0.99  # an engine keeps up if it has scored this share of the clips when the load test ends
TIE_SHARE: Final = 0.05  # CPU times within 5 % count as equal: a machine varies as much by itself

Judgement = Literal["good", "too late", "too slow"]

_ROUNDS = 3
_ROUND_S = 4.0


@dataclass(frozen=True, slots=True)
class Goal:
    """The load and latency to choose an engine for. ConfigError if the latency is out of range."""

    load: CameraLoad
    latency_ms: float | None = None  # limit of the 95th percentile from a clip's arrival to its score; None: no limit

    def __post_init__(self) -> None:
        if self.latency_ms is not None and not 0 < self.latency_ms < float("inf"):
            raise ConfigError(f"latency must be above 0 ms, got {self.latency_ms:g}")

    def judge(self, figures: LoadTestResult) -> Judgement:
        """Whether an engine keeps up, and if so, whether within the latency."""
        if figures.scored_share < KEEPS_UP_SHARE:
            return "too slow"
        return "good" if self.latency_ms is None or figures.latency_ms["p95"] <= self.latency_ms else "too late"


@dataclass(frozen=True, slots=True)
class Trial:
    """Result of one engine, precision and performance hint."""

    request: EngineRequest
    status: VerifyStatus  # ok: validated and measured
    detail: str  # settings in use, or the reason of another status
    fingerprint: Fingerprint | None = None
    figures: LoadTestResult | None = None


@dataclass(frozen=True, slots=True)
class OptimizeResult:
    """All trials, and the best one, which is now the bundle's default engine."""

    trials: tuple[Trial, ...]
    best: Trial | None  # None if no engine passed validation; the bundle's default is then unchanged
    shortfall: str | None  # what even the best engine does not reach; None if the goal is reached


def optimize(bundle: Bundle, goal: Goal, on_progress: Callable[[int, int], None]) -> OptimizeResult:
    """Validate and measure every engine, and make the best one the bundle's default.

    ``on_progress`` gets the number of finished steps and of all. Takes about 12 s for each engine that passes validation.
    Raises BundleError if the bundle cannot be written to, or a file of it cannot be read.
    """
    require_writable(bundle, "no choice could be kept; choose")
    trials = _measure_all(bundle, _validate_all(bundle, goal, on_progress), goal, on_progress)
    best = best_trial(trials, goal)
    if best is None or best.figures is None:
        return OptimizeResult(trials, None, None)
    default = DefaultEngine(
        engine=best.request.engine,
        precision=best.request.precision,
        performance_hint=best.request.performance_hint,
        model_sha256=bundle.manifest.files[ONNX_NAME],
        fingerprint=best.fingerprint or {},
        cameras=goal.load.cameras,
        frame_rate=goal.load.frame_rate,
        keeps_up=goal.judge(best.figures) != "too slow",
        measured=best.figures,
        chosen_at=datetime.now(UTC),
    )
    write_default(bundle, default)
    return OptimizeResult(trials, best, shortfall(best.figures, goal))


def best_trial(trials: Sequence[Trial], goal: Goal) -> Trial | None:
    """The best of the trials that were measured, if any.

    1. Of those that keep up and whose 95th percentile is within the latency, if one is set: the least CPU time a clip; among
       those at most 5 % above it, the lowest 95th percentile.
    2. If there are none, of those that keep up: the lowest 95th percentile.
    3. If none keeps up: the most clips a second.
    """
    passed = [(trial, trial.figures) for trial in trials if trial.status == "ok" and trial.figures is not None]
    contenders = [(trial, figures) for trial, figures in passed if goal.judge(figures) != "too slow"]
    if good := [(trial, figures) for trial, figures in contenders if goal.judge(figures) == "good"]:
        limit_s = min(figures.cpu_s_per_clip for _, figures in good) * (1 + TIE_SHARE)
        contenders = [(trial, figures) for trial, figures in good if figures.cpu_s_per_clip <= limit_s]
    if contenders:
        return min(contenders, key=lambda pair: pair[1].latency_ms["p95"])[0]
    return max(passed, key=lambda pair: pair[1].clips_per_s)[0] if passed else None


def shortfall(figures: LoadTestResult, goal: Goal) -> str | None:
    """A sentence on what the best engine does not reach; None if it reaches the goal."""
    judgement = goal.judge(figures)
    if judgement == "good":
        return None
    if judgement == "too late":
        best_ms = figures.latency_ms["p95"]
        return f"no engine has its 95th percentile within {goal.latency_ms:g} ms here; the best one's is {best_ms:.0f} ms"
    rate = goal.load.frame_rate
    return (
        f"no engine keeps up with {goal.load.cameras} cameras of {rate:g} frames/s here; the fastest scores "
        f"{figures.clips_per_s:.1f} clips/s: this machine can carry at most {int(figures.clips_per_s / rate)} such cameras"
    )


def candidates(cameras: int) -> list[EngineRequest]:
    """Every engine in every precision and, where it makes a difference, with every performance hint."""
    return [
        EngineRequest(engine, precision, performance_hint=hint, gpu_cached_cameras=min(cameras, DEFAULT_MAX_CLIPS))
        for engine, precisions in PRECISIONS.items()
        for precision in precisions
        for hint in (("throughput", "latency") if engine in TUNABLE_ENGINES else ("throughput",))
    ]


def _validate_all(bundle: Bundle, goal: Goal, on_progress: Callable[[int, int], None]) -> list[Trial]:
    """Scores do not depend on the performance hint, so what failed with one hint is not validated with the other."""
    failed: dict[tuple[str, str], VerifyResult] = {}
    trials, requests = [], candidates(goal.load.cameras)
    for number, request in enumerate(requests, 1):
        key = request.engine, request.precision
        result = failed.get(key) or verify_engine(bundle, *key, request.performance_hint)
        if result.status != "ok":
            failed[key] = result
        trials.append(Trial(request, result.status, result.detail))
        on_progress(number, len(requests) * (_ROUNDS + 1))
    return trials


@dataclass(slots=True)
class _Contender:
    """A trial being measured; one that fails drops out, and the others continue."""

    trial: Trial
    test: LoadTest | None = None

    def attempt(self, work: Callable[[], None]) -> None:
        if self.trial.status == "ok":
            try:
                work()
            except EngineError as error:
                self.trial = replace(self.trial, status=error_status(error), detail=str(error))

    def start(self, bundle: Bundle, clips: Clips, load: CameraLoad, stack: ExitStack) -> None:
        engine = load_validated(bundle, self.trial.request).engine
        stack.enter_context(closing(engine))
        settings = ", ".join(f"{name} {value}" for name, value in performance_settings(engine).items())
        self.trial = replace(self.trial, detail=settings, fingerprint=fingerprint(engine))
        self.test = start_load_test(engine, load, _ROUNDS * _ROUND_S, clips)

    def run(self, until_s: float | None) -> None:
        """Until then, or to the end if it is None."""
        if self.test is not None and until_s is not None:
            self.test.run(until_s)
        elif self.test is not None:
            self.test.finish()
            self.trial = replace(self.trial, figures=self.test.result())


def _measure_all(bundle: Bundle, trials: list[Trial], goal: Goal, on_progress: Callable[[int, int], None]) -> tuple[Trial, ...]:
    """Run the load tests of all validated trials in turns, so that each gets its share of a shared machine's slow minutes."""
    contenders, clips = [_Contender(trial) for trial in trials], read_golden(bundle).clips
    validated = [contender for contender in contenders if contender.trial.status == "ok"]
    ends_s = [*(number * _ROUND_S for number in range(1, _ROUNDS + 1)), None]
    with ExitStack() as stack:
        for contender in validated:
            contender.attempt(partial(contender.start, bundle, clips, goal.load, stack))
        for number, (until_s, contender) in enumerate(product(ends_s, validated), len(trials) + 1):
            contender.attempt(partial(contender.run, until_s))
            on_progress(number, len(trials) + len(validated) * len(ends_s))
    return tuple(contender.trial for contender in contenders)
