"""Load tests on a fake clock, which only scoring and waiting advance."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deploy.benchmark.load_test import CameraLoad, Clock, LoadTest, start_load_test
from deploy.engine import Scores
from deploy.errors import ConfigError
from deploy.gpu.engine import Call
from deploy.records import LoadTestResult
from tests.unit.deploy.gpu.test_cache import OnHost, spec_of

Cost = Callable[[int], float]
"""Seconds of a call, by its number."""


@dataclass
class World:
    """A clock, and an engine that takes its time on it; a state counts its camera's clips."""

    cost_s: Cost
    max_clips: int = 8
    recurrent: bool = False
    now_s: float = 1000.0
    cpu_s: float = 0.0
    batches: list[list[int]] = field(default_factory=list)
    """The cameras of each call, warming up included."""
    counts: list[list[int]] = field(default_factory=list)
    gpu_cached_cameras = 0

    @property
    def spec(self) -> Any:
        return SimpleNamespace(state_shape=(1,) if self.recurrent else None)

    def score(self, clips: NDArray[np.uint8], state: NDArray[np.float32] | None = None) -> Scores:
        taken_s = self.cost_s(len(self.batches))
        self.now_s += taken_s
        self.cpu_s += 2 * taken_s
        self.batches.append(clips[:, 0, 0, 0, 0].tolist())
        following = None
        if self.recurrent:
            following = (np.zeros((len(clips), 1), np.float32) if state is None else state) + 1
            self.counts.append(following[:, 0].tolist())
        return Scores(np.zeros(len(clips), np.float32), np.zeros((len(clips), 1, 1), np.float32), following)

    def sleep(self, wait_s: float) -> None:
        assert wait_s > 0
        self.now_s += wait_s

    def run(self, load: CameraLoad, run_s: float) -> LoadTest:
        clips = np.arange(self.max_clips, dtype=np.uint8).reshape(-1, 1, 1, 1, 1)
        engine: Any = self
        return start_load_test(engine, load, run_s, clips, Clock(lambda: self.now_s, lambda: self.cpu_s, self.sleep))


def run_test(world: World, load: CameraLoad, run_s: float = 2.0) -> LoadTestResult:
    run = world.run(load, run_s)
    run.run(run_s)
    run.finish()
    return run.result()


class Sending(OnHost):
    """Records the calls of its slots."""

    def _run_in_slots(self, n_clips: int, call: Call) -> None:
        self.sent = [*getattr(self, "sent", []), (call.mode, n_clips)]
        super()._run_in_slots(n_clips, call)


def at_once(_: int) -> float:
    return 0.0


def test_free_engine_waits_for_no_other_clip() -> None:
    world = World(at_once)
    figures = run_test(world, CameraLoad(4, 8.0), run_s=2.0)
    assert world.batches[2:5] == [[0], [1], [2]]
    assert (figures.due, figures.scored, figures.scored_share) == (64, 64, 1.0)
    assert figures.latency_ms == pytest.approx({"p50": 0, "p95": 0, "p99": 0}, abs=1e-6)
    assert figures.clips_per_s == pytest.approx(32, rel=0.05)


def test_micro_batches_grow_with_the_load() -> None:
    world = World(lambda _: 0.01, max_clips=4)
    figures = run_test(world, CameraLoad(300, 1.0))
    assert {len(batch) for batch in world.batches[4:-1]} == {3}
    assert figures.latency_ms["p99"] == pytest.approx(20, abs=4)


def test_one_clip_of_each_stateful_camera() -> None:
    world = World(lambda _: 0.05, recurrent=True)
    run_test(world, CameraLoad(3, 100.0))
    assert {tuple(sorted(batch)) for batch in world.batches[4:]} == {(0, 1, 2)}
    assert [count for counts in world.counts for count in counts] == sorted(count for counts in world.counts for count in counts)


@pytest.mark.parametrize("recurrent", [False, True])
def test_overload_ends_in_time(*, recurrent: bool) -> None:
    world = World(lambda _: 0.5, recurrent=recurrent)
    figures = run_test(world, CameraLoad(10**9, 1000.0))
    assert figures.due == 2 * 10**12
    assert figures.scored_share < 1e-10
    assert figures.clips_per_s == pytest.approx(16)
    assert figures.busy_share == pytest.approx(1)
    assert world.now_s < 1000 + 1.0 + 2.0 + 2 * 0.5 + 1e-6


@pytest.mark.parametrize("recurrent", [False, True])
def test_caching_engine_gets_newest_frames(*, recurrent: bool) -> None:
    engine, world = Sending(spec_of(3, recurrent=recurrent), max_clips=4, cameras=4), World(at_once)
    room, clips = engine.free, np.ones((2, *engine.spec.clip_shape), np.uint8)

    run = start_load_test(engine, CameraLoad(3, 1000.0), 0.01, clips, Clock(lambda: world.now_s, lambda: 0.0, world.sleep))
    run.finish()

    assert engine.sent[:3] == [("upload", 3), ("upload", 3), ("newest", 3)]
    assert {way for way, _ in engine.sent[2:]} == {"newest"}
    assert max(n_frames for _, n_frames in engine.sent) == 3
    assert sum(n_frames for _, n_frames in engine.sent[4:]) == run.result().scored == 30
    del run
    assert engine.free == room


def test_slow_engine_does_not_keep_up() -> None:
    figures = run_test(World(lambda _: 8 / 90), CameraLoad(100, 1.0), run_s=12.0)
    assert figures.scored_share < 0.95
    assert figures.clips_per_s == pytest.approx(90, rel=0.01)


def test_stall_costs_latency_only() -> None:
    figures = run_test(World(lambda call: 0.5 if call == 3 else 0.01), CameraLoad(100, 1.0))
    assert figures.scored_share == 1.0
    assert figures.latency_ms["p99"] > 450


def test_clock_stops_between_turns() -> None:
    def figures(pause_s: float) -> LoadTestResult:
        world, load = World(lambda _: 0.02), CameraLoad(100, 1.0)
        run = world.run(load, 2.0)
        for until_s in (0.5, 1.0, 2.0):
            run.run(until_s)
            world.now_s += pause_s
            world.cpu_s += pause_s
        run.finish()
        return run.result()

    others, alone = figures(100.0), figures(0.0)
    assert others.scored == alone.scored == 200
    assert others.latency_ms == pytest.approx(alone.latency_ms)
    assert others.cpu_s_per_clip == pytest.approx(alone.cpu_s_per_clip)


def test_cpu_time_and_busy_share() -> None:
    figures = run_test(World(lambda _: 0.025), CameraLoad(1, 10.0))
    assert figures.cpu_s_per_clip == pytest.approx(0.05)
    assert figures.busy_share == pytest.approx(0.025 * 20 / 2)


def test_scores_at_least_one_clip() -> None:
    assert run_test(World(at_once), CameraLoad(1, 0.001), run_s=0.0).scored == 1


@given(
    cameras=st.integers(1, 50),
    frame_rate=st.floats(0.1, 100),
    cost_s=st.floats(0, 0.2),
    max_clips=st.integers(1, 9),
    recurrent=st.booleans(),
)
def test_batches_obey_limits(*, cameras: int, frame_rate: float, cost_s: float, max_clips: int, recurrent: bool) -> None:
    world = World(lambda _: cost_s, max_clips, recurrent)
    figures = run_test(world, CameraLoad(cameras, frame_rate), run_s=1.0)
    calls = world.batches[2:]
    assert sum(map(len, calls)) == figures.scored <= figures.due
    assert all(1 <= len(call) <= max_clips for call in calls)
    assert not recurrent or all(len(set(call)) == len(call) for call in calls)
    assert figures.latency_ms["p50"] >= cost_s * 1000 - 1e-6
    assert world.now_s <= 1000 + 2 * cost_s + 1.0 + 2 * cost_s + 1e-6


@pytest.mark.parametrize(
    ("cameras", "frame_rate", "says"),
    [
        (0, 10.0, "cameras must be at least 1, got 0"),
        (1, 0.0, "above 0 and at most 1000 frames/s, got 0"),
        (1, -1.0, "above 0 and at most 1000 frames/s, got -1"),
        (1, 1001.0, "above 0 and at most 1000 frames/s, got 1001"),
        (1, float("nan"), "above 0 and at most 1000 frames/s, got nan"),
        (1, float("inf"), "above 0 and at most 1000 frames/s, got inf"),
    ],
)
def test_rejects_bad_load(cameras: int, frame_rate: float, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        CameraLoad(cameras, frame_rate)
