"""Which engine this machine serves some cameras with best: all are tried, put to the gate, and measured under that load."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Final, Literal

from deploy.benchmark.load_test import CameraLoad, LoadRun, start_run
from deploy.bundle import ONNX_NAME, Bundle, read_golden, require_writable
from deploy.engine import DEFAULT_MAX_CLIPS, Clips, EngineRequest, PerformanceHint, Precision
from deploy.engines.registry import PRECISIONS, TUNABLE
from deploy.errors import ConfigError, EngineError, EngineRefused, EngineUnavailable
from deploy.records import DefaultEngine, Fingerprint, LoadTestResult, write_default
from deploy.validation.admission import Status, VerifyResult, fingerprint, load_admitted, settings_in_force, verify_engine

KEEPS_UP_SHARE: Final = 0.99
"""Of the clips that came, so many must have been scored when the run is over."""
TIE_SHARE: Final = 0.05
"""CPU times that differ by no more count as equal: a machine swings as much by itself."""

Judgement = Literal["good", "too late", "too slow"]

_ROUNDS = 3
_ROUND_S = 4.0


@dataclass(frozen=True, slots=True)
class Goal:
    """What to choose for.

    Raises:
        ConfigError: the latency is out of range.
    """

    load: CameraLoad
    latency_ms: float | None = None
    """What the 95th percentile from a clip's coming to its score may be; None: anything."""

    def __post_init__(self) -> None:
        if self.latency_ms is not None and not 0 < self.latency_ms < float("inf"):
            raise ConfigError(f"latency must be above 0 ms, got {self.latency_ms:g}")

    def judge(self, figures: LoadTestResult) -> Judgement:
        """Whether an engine keeps up, and if so, whether in time."""
        if figures.scored_share < KEEPS_UP_SHARE:
            return "too slow"
        return "good" if self.latency_ms is None or figures.latency_ms["p95"] <= self.latency_ms else "too late"


@dataclass(frozen=True, slots=True)
class Candidate:
    """What could serve."""

    engine: str
    precision: Precision
    performance_hint: PerformanceHint


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a candidate."""

    candidate: Candidate
    status: Status
    """``ok``: it passed the gate and was measured."""
    detail: str
    """What is in use, or why it is out."""
    fingerprint: Fingerprint | None = None
    figures: LoadTestResult | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """All trials, and the one that the bundle's default now is."""

    trials: tuple[Trial, ...]
    winner: Trial | None
    """None if none passed; the bundle's default is then as it was."""
    shortfall: str | None
    """What the winner, and so every engine, falls short of; None: the goal is reached."""


def optimize(bundle: Bundle, goal: Goal, tell: Callable[[int, int], None]) -> Outcome:
    """Try everything there is, and make the winner the bundle's default, at the very end.

    ``tell`` is told of finished parts, and of how many there are. Takes some 12 s for each candidate that passes the gate.

    Raises:
        BundleError: the bundle cannot be written to, or a file of it cannot be read.
    """
    require_writable(bundle, "no choice could be kept; choose")
    trials = _measured(bundle, _gated(bundle, tell), goal, tell)
    winner = best(trials, goal)
    if winner is None or winner.figures is None:
        return Outcome(trials, None, None)
    write_default(bundle, _record(bundle, winner, winner.figures, goal))
    return Outcome(trials, winner, shortfall(winner.figures, goal))


def best(trials: Sequence[Trial], goal: Goal) -> Trial | None:
    """The winner among those that passed the gate; None: none did.

    1. Of those that keep up (99 % of the clips scored within the run) and, where a latency is asked for, have their 95th
       percentile within it: the fewest CPU seconds a clip; of those at most 5 % above, the lowest 95th percentile.
    2. If there are none, of those that keep up, but too late: the lowest 95th percentile.
    3. If none keeps up: the most clips a second.
    """
    passed = [(trial, trial.figures) for trial in trials if trial.status == "ok" and trial.figures is not None]
    contenders = [(trial, figures) for trial, figures in passed if goal.judge(figures) != "too slow"]
    if good := [(trial, figures) for trial, figures in contenders if goal.judge(figures) == "good"]:
        enough_s = min(figures.cpu_s_per_clip for _, figures in good) * (1 + TIE_SHARE)
        contenders = [(trial, figures) for trial, figures in good if figures.cpu_s_per_clip <= enough_s]
    if contenders:
        return min(contenders, key=lambda tried: tried[1].latency_ms["p95"])[0]
    return max(passed, key=lambda tried: tried[1].clips_per_s)[0] if passed else None


def shortfall(figures: LoadTestResult, goal: Goal) -> str | None:
    """What a winner with these figures falls short of, in words; None: of nothing."""
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


def candidates() -> list[Candidate]:
    """All there are; an engine that cannot be set for latency counts once in each precision."""
    return [
        Candidate(engine, precision, hint)
        for engine, precisions in PRECISIONS.items()
        for precision in precisions
        for hint in _performance_hints(engine)
    ]


def _performance_hints(engine: str) -> tuple[PerformanceHint, ...]:
    return ("throughput", "latency") if engine in TUNABLE else ("throughput",)


def _gated(bundle: Bundle, tell: Callable[[int, int], None]) -> list[Trial]:
    """Every candidate after the gate. What fails for throughput is not tried for latency: its scores would be the same."""
    out: dict[tuple[str, str], VerifyResult] = {}
    trials, tried = [], candidates()
    for number, candidate in enumerate(tried, 1):
        engine, precision = candidate.engine, candidate.precision
        verdict = out.get((engine, precision)) or verify_engine(bundle, engine, precision, candidate.performance_hint)
        if verdict.status != "ok":
            out[engine, precision] = verdict
        trials.append(Trial(candidate, verdict.status, verdict.detail))
        tell(number, len(tried) * (_ROUNDS + 1))
    return trials


@dataclass(slots=True)
class _Contender:
    """A trial under way; an engine that fails is out, and the others go on."""

    trial: Trial
    run: LoadRun | None = None

    def attempt(self, work: Callable[[], None]) -> None:
        if self.trial.status == "ok":
            try:
                work()
            except EngineError as error:
                self.trial = replace(self.trial, status=_status(error), detail=str(error))

    def start(self, bundle: Bundle, clips: Clips, load: CameraLoad, stack: ExitStack) -> None:
        wanted = self.trial.candidate
        request = EngineRequest(
            wanted.engine,
            wanted.precision,
            performance_hint=wanted.performance_hint,
            gpu_cached_cameras=min(load.cameras, DEFAULT_MAX_CLIPS),
        )
        engine = load_admitted(bundle, request).engine
        stack.enter_context(closing(engine))
        told = ", ".join(f"{name} {value}" for name, value in settings_in_force(engine).items())
        self.trial = replace(self.trial, detail=told, fingerprint=fingerprint(engine))
        self.run = start_run(engine, load, _ROUNDS * _ROUND_S, clips)

    def turn(self, until_s: float | None) -> None:
        """Until then, or, without a time, to the end."""
        if self.run is not None and until_s is not None:
            self.run.turn(until_s)
        elif self.run is not None:
            self.run.finish()
            self.trial = replace(self.trial, figures=self.run.figures())


def _measured(bundle: Bundle, trials: list[Trial], goal: Goal, tell: Callable[[int, int], None]) -> tuple[Trial, ...]:
    """The same trials, with figures of those that are still in."""
    contenders, clips = [_Contender(trial) for trial in trials], read_golden(bundle).clips
    inside = [contender for contender in contenders if contender.trial.status == "ok"]
    with ExitStack() as stack:
        for contender in inside:
            contender.attempt(partial(contender.start, bundle, clips, goal.load, stack))
        for number, _ in enumerate(_turns(inside), 1):
            tell(len(trials) + number, len(trials) + len(inside) * (_ROUNDS + 1))
    return tuple(contender.trial for contender in contenders)


def _turns(contenders: list[_Contender]) -> Iterator[None]:
    for until_s in [*((number + 1) * _ROUND_S for number in range(_ROUNDS)), None]:
        for contender in contenders:
            contender.attempt(partial(contender.turn, until_s))
            yield


def _status(error: EngineError) -> Status:
    if isinstance(error, EngineRefused):
        return "refused"
    return "unavailable" if isinstance(error, EngineUnavailable) else "failed"


def _record(bundle: Bundle, winner: Trial, figures: LoadTestResult, goal: Goal) -> DefaultEngine:
    return DefaultEngine(
        engine=winner.candidate.engine,
        precision=winner.candidate.precision,
        performance_hint=winner.candidate.performance_hint,
        model_sha256=bundle.manifest.files[ONNX_NAME],
        fingerprint=winner.fingerprint or {},
        cameras=goal.load.cameras,
        frame_rate=goal.load.frame_rate,
        keeps_up=goal.judge(figures) != "too slow",
        measured=figures,
        chosen_at=datetime.now(UTC),
    )
