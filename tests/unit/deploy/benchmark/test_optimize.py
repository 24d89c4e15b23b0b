"""Choice of the bundle's default engine."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.benchmark.load_test import CameraLoad, LoadTest
from deploy.benchmark.optimize import Goal, OptimizeResult, Trial, best_trial, candidates, optimize, shortfall
from deploy.bundle import Bundle
from deploy.engine import EngineRequest
from deploy.errors import BundleError, ConfigError, EngineFailed
from deploy.records import DefaultEngine, LoadTestResult, read_default, read_plan
from deploy.registry import PRECISIONS, TUNABLE_ENGINES
from deploy.validation.admission import LoadedEngine, VerifyResult, VerifyStatus
from tests.harness.gpu_engines import make_up_gpu
from tests.unit.deploy.test_sequences import noise, with_sequences

LOAD = CameraLoad(4, 10.0)
REQUEST = EngineRequest("openvino", "f32", gpu_cached_cameras=4)
STATUSES: tuple[VerifyStatus, ...] = get_args(VerifyStatus)


def measured(
    *, cpu_ms: float = 10, p95_ms: float = 100, scored: int = 1000, clips_per_s: float = 40, status: VerifyStatus = "ok"
) -> Trial:
    figures = LoadTestResult(
        due=1000,
        scored=scored,
        clips_per_s=clips_per_s,
        cpu_s_per_clip=cpu_ms / 1000,
        latency_ms={"p50": p95_ms / 2, "p95": p95_ms, "p99": p95_ms},
        busy_share=0.5,
    )
    return Trial(REQUEST, status, "", {}, figures)


def test_least_cpu_time_wins() -> None:
    trials = [measured(cpu_ms=12, p95_ms=60), measured(cpu_ms=10), measured(cpu_ms=1, scored=989, clips_per_s=99)]
    assert best_trial(trials, Goal(LOAD)) is trials[1]


def test_latency_breaks_ties() -> None:
    trials = [measured(cpu_ms=10, p95_ms=100), measured(cpu_ms=10.4, p95_ms=90), measured(cpu_ms=10.6, p95_ms=10)]
    assert best_trial(trials, Goal(LOAD)) is trials[1]


def test_latency_limit_before_cpu_time() -> None:
    trials = [measured(cpu_ms=10, p95_ms=101), measured(cpu_ms=30, p95_ms=100), measured(cpu_ms=1, p95_ms=5, scored=900)]
    assert best_trial(trials, Goal(LOAD, 100.0)) is trials[1]
    assert best_trial(trials, Goal(LOAD, 50.0)) is trials[1]


def test_throughput_wins_if_none_keeps_up() -> None:
    trials = [measured(scored=900, clips_per_s=30, cpu_ms=1), measured(scored=500, clips_per_s=36)]
    assert best_trial(trials, Goal(LOAD)) is trials[1]


def test_no_best_without_measurement() -> None:
    assert best_trial([], Goal(LOAD)) is None
    assert best_trial([Trial(REQUEST, "ok", "")], Goal(LOAD)) is None


TRIALS = st.builds(
    measured,
    cpu_ms=st.floats(0.1, 100),
    p95_ms=st.floats(1, 1000),
    scored=st.sampled_from([1, 500, 989, 990, 1000]),
    clips_per_s=st.floats(0.1, 500),
    status=st.sampled_from(STATUSES),
)


@given(trials=st.lists(TRIALS, max_size=8), latency_ms=st.none() | st.floats(1, 1000))
def test_best_reaches_goal_if_any_does(trials: list[Trial], latency_ms: float | None) -> None:
    goal = Goal(LOAD, latency_ms)
    best = best_trial(trials, goal)
    judged = [goal.judge(trial.figures) for trial in trials if trial.status == "ok" and trial.figures is not None]
    assert (best is None) == (judged == [])
    if best is not None and best.figures is not None:
        assert best.status == "ok"
        assert goal.judge(best.figures) == min(judged, key=("good", "too late", "too slow").index)


def figures_of(trial: Trial) -> LoadTestResult:
    assert trial.figures is not None
    return trial.figures


def test_shortfall_names_figures() -> None:
    assert shortfall(figures_of(measured()), Goal(LOAD)) is None
    slow = shortfall(figures_of(measured(scored=700, clips_per_s=38)), Goal(CameraLoad(40, 10.0)))
    assert slow == (
        "no engine keeps up with 40 cameras of 10 frames/s here; the fastest scores 38.0 clips/s: "
        "this machine can carry at most 3 such cameras"
    )
    late = shortfall(figures_of(measured(p95_ms=80)), Goal(LOAD, 20.0))
    assert late == "no engine has its 95th percentile within 20 ms here; the best one's is 80 ms"


@pytest.mark.parametrize("latency_ms", [0.0, -1.0, float("nan"), float("inf")])
def test_rejects_bad_latency(latency_ms: float) -> None:
    with pytest.raises(ConfigError, match="latency must be above 0 ms, got"):
        Goal(LOAD, latency_ms)


def test_candidates_are_complete_and_unique() -> None:
    found = candidates(4)
    assert len(set(found)) == len(found)
    assert {(one.engine, one.precision) for one in found} == {(name, one) for name in PRECISIONS for one in PRECISIONS[name]}
    assert {one.engine for one in found if one.performance_hint == "latency"} == TUNABLE_ENGINES


class Fakes:
    """Fakes of validation, engines and load tests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.verdicts: dict[tuple[str, str], VerifyStatus] = {}
        self.validated: list[tuple[str, str, str]] = []
        self.turns: list[object] = []
        self.fails_at: BaseException | None = None
        monkeypatch.setattr("deploy.benchmark.optimize.verify_engine", self.verify)
        monkeypatch.setattr("deploy.benchmark.optimize.load_validated", self.load)
        monkeypatch.setattr("deploy.benchmark.optimize.start_load_test", lambda engine, *_: self.run(engine))

    def verify(self, _: Bundle, engine: str, precision: Any, hint: Any) -> VerifyResult:
        self.validated.append((engine, precision, hint))
        return VerifyResult(engine, precision, self.verdicts.get((engine, precision), "ok"), "as validated")

    def load(self, _: Bundle, request: EngineRequest) -> Any:
        class Engine:
            def describe(self) -> dict[str, str]:
                how = {"precision": request.precision, "performance_hint": request.performance_hint}
                return {"backend": request.engine, "threads": "2", **how}

            def close(self) -> None:
                pass

        return LoadedEngine(Engine())  # type: ignore[arg-type]  # all that is asked of it

    def run(self, engine: Any) -> Any:
        name, precision = engine.describe()["backend"], engine.describe()["precision"]

        class Test:
            def run(_, until_s: float) -> None:  # noqa: N805  the outer self is what it reports to
                self.turns.append((name, until_s))
                if self.fails_at is not None and name == "onnx":
                    raise self.fails_at

            def finish(_) -> None:  # noqa: N805  likewise
                self.turns.append((name, None))

            def result(_) -> LoadTestResult:  # noqa: N805  likewise
                return figures_of(measured(cpu_ms={"onnx": 5, "openvino": 10}.get(name, 50) - (precision == "bf16")))

        return Test()


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    return Fakes(monkeypatch)


def optimize_bundle(bundle: Bundle, progress: list[tuple[int, int]] | None = None) -> OptimizeResult:
    report = (progress if progress is not None else []).append
    return optimize(bundle, Goal(LOAD), lambda done, total: report((done, total)))


def test_best_becomes_default(bundle: Bundle, fakes: Fakes) -> None:
    progress: list[tuple[int, int]] = []
    result = optimize_bundle(bundle, progress)
    assert result.best is not None
    assert (result.best.request, result.shortfall) == (EngineRequest("onnx", "f32", gpu_cached_cameras=4), None)
    assert result.best.detail == "threads 2, performance_hint throughput"
    default = read_default(bundle)
    assert default is not None
    assert (default.engine, default.precision, default.performance_hint) == ("onnx", "f32", "throughput")
    assert (default.cameras, default.frame_rate, default.keeps_up) == (4, 10.0, True)
    assert default.model_sha256 == bundle.manifest.files["model.onnx"]
    assert default.fingerprint == {"backend": "onnx", "precision": "f32"}
    assert default.measured == result.best.figures
    assert default.chosen_at.utcoffset() is not None
    assert progress[-1][0] == progress[-1][1] == 5 * len(candidates(4))
    assert [done for done, _ in progress] == list(range(1, len(progress) + 1))


def test_interleaves_load_tests(bundle: Bundle, fakes: Fakes) -> None:
    optimize_bundle(bundle)
    order = [one.engine for one in candidates(4)]
    assert fakes.turns == [(name, until_s) for until_s in (4.0, 8.0, 12.0, None) for name in order]


def test_measures_only_validated_engines(bundle: Bundle, fakes: Fakes) -> None:
    fakes.verdicts = {("onnx", "f32"): "failed", ("openvino", "bf16"): "refused"}
    result = optimize_bundle(bundle)
    assert result.best is not None
    assert result.best.request == REQUEST
    assert ("onnx", "f32", "latency") not in fakes.validated
    assert "onnx" not in {turn[0] for turn in fakes.turns if isinstance(turn, tuple)}
    out = {(one.request.engine, one.status, one.detail) for one in result.trials if one.figures is None}
    assert out == {("onnx", "failed", "as validated"), ("openvino", "refused", "as validated")}


def test_failed_engine_drops_out(bundle: Bundle, fakes: Fakes) -> None:
    fakes.fails_at = EngineFailed("onnx: no memory")
    result = optimize_bundle(bundle)
    assert result.best is not None
    assert result.best.request.engine == "openvino"
    assert {(one.status, one.detail) for one in result.trials if one.request.engine == "onnx"} == {("failed", "onnx: no memory")}


def earlier_default() -> DefaultEngine:
    return DefaultEngine.model_validate(
        {
            "engine": "torch",
            "precision": "f32",
            "performance_hint": "throughput",
            "model_sha256": "abc",
            "fingerprint": {},
            "cameras": 1,
            "frame_rate": 1,
            "keeps_up": True,
            "measured": figures_of(measured()).model_dump(),
            "chosen_at": "2026-01-01T00:00:00Z",
        }
    )


@contextmanager
def unchanged(bundle: Bundle) -> Iterator[None]:
    """With an earlier default in place, which the block must leave."""
    path = bundle.path / "engines" / "default.json"
    path.parent.mkdir()
    path.write_text(earlier_default().model_dump_json())
    before = path.read_bytes()
    yield
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_default_unchanged_if_none_passes(bundle: Bundle, fakes: Fakes) -> None:
    fakes.verdicts = {(one.engine, one.precision): "failed" for one in candidates(4)}
    with unchanged(bundle):
        assert optimize_bundle(bundle).best is None


def test_default_unchanged_after_ctrl_c(bundle: Bundle, fakes: Fakes) -> None:
    fakes.fails_at = KeyboardInterrupt()
    with unchanged(bundle), pytest.raises(KeyboardInterrupt):
        optimize_bundle(bundle)


def test_unwritable_bundle_fails_first(bundle: Bundle, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.bundle.os.access", lambda *_: False)
    with pytest.raises(BundleError, match="cannot be written to"):
        optimize_bundle(bundle)
    assert fakes.validated == []


def test_missing_int8_plan_names_command(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_up_gpu(monkeypatch, tmp_path)
    monkeypatch.setattr("deploy.engines.tensorrt.read_plan", read_plan)
    monkeypatch.setattr("deploy.benchmark.optimize.PRECISIONS", {"tensorrt": ("int8",)})
    (trial,) = optimize(with_sequences(bundle, noise(bundle, 40)), Goal(LOAD), lambda *_: None).trials
    command = f"oddsight-deploy build {bundle.path} --engine tensorrt --precision int8 --calibration-data FOLDER"
    assert trial.status == "refused"
    assert trial.detail == f"tensorrt in int8 has no plan in this bundle; build it: {command}"


def test_measures_real_engines(recurrent_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.benchmark.optimize._ROUND_S", 0.05)
    monkeypatch.setattr("deploy.benchmark.optimize.PRECISIONS", {"onnx": ("f32",)})
    runs = []
    run = LoadTest.run
    monkeypatch.setattr(LoadTest, "run", lambda self, until_s: (runs.append(until_s), run(self, until_s)))
    result = optimize(recurrent_bundle, Goal(CameraLoad(2, 20.0)), lambda *_: None)
    assert len(runs) == 2 * 4
    assert [one.figures is not None and one.figures.scored > 0 for one in result.trials] == [True, True]
    assert read_default(recurrent_bundle) is not None
