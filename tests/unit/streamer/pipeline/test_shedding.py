"""What is not looked at: frames beyond a camera's quota, and those that waited too long. All others count once."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.engine import Inputs, Scores
from deploy.spec import ClipSpec
from streamer.config import Settings
from streamer.interfaces import PollResult, Step
from streamer.types import FrameMessage, Partition
from tests.harness.fakes import FakeClock, MeanBrightnessEngine, MemoryFrameSource, MemoryProgressStore, MemoryTopic
from tests.harness.pipeline import CRASHES, OUTAGES, PLAIN, RECURRENT, SETTINGS, SPEC, Rig, message

P0 = Partition("frames", 0)
CALM, ODD = 0.1, 0.8
STATELESS = ClipSpec(length=1, height_px=16, width_px=16)
NOW_S = 1_700_000_000.0


def limits(camera: dict[str, Any] | None = None, **values: object) -> Settings:
    """Settings with these limits, and one camera's own."""
    decision = SETTINGS.decision.model_dump()
    return Settings.model_validate({"decision": decision, "limits": values, "cameras": camera or {}, **PLAIN})


def rig_now(messages: list[FrameMessage], **options: Any) -> Rig:
    """A rig at the time ``NOW_S``."""
    return Rig(messages, clock=FakeClock(NOW_S, tick_s=0.002), **options)


def shed(rig: Rig, camera_id: str, reason: str) -> float:
    return rig.counted("shed_frames_total", camera_id=camera_id, reason=reason)


class RealTime:
    """A rig in which messages arrive as time passes, with an engine of so many clips a second."""

    def __init__(self, messages: list[FrameMessage], clips_per_s: float, rig_settings: Settings) -> None:
        clock = FakeClock(NOW_S, tick_s=0.0001)
        self.rig = Rig(
            messages,
            max_clips=32,
            poll_messages=64,
            spec=RECURRENT,
            engine=_TimedEngine(clock, clips_per_s),
            settings=rig_settings,
            clock=clock,
            source=partial(_ArrivingSource, clock=clock),
        )
        self.rig.store = self._store = _TimedStore(clock)
        self.rig.start()
        self.rig.finish()

    def oldest_s(self, camera_id: str) -> float:
        """The greatest age of a camera's frame when its score was stored."""
        return max(age_s for name, age_s in self._store.ages_s if name == camera_id)


class _TimedEngine(MeanBrightnessEngine):
    def __init__(self, clock: FakeClock, clips_per_s: float) -> None:
        super().__init__(RECURRENT)
        self._clock, self._clips_per_s = clock, clips_per_s

    def _run(self, inputs: Inputs) -> Scores:
        self._clock.now_s += len(inputs["clips"]) / self._clips_per_s
        return super()._run(inputs)


class _TimedStore(MemoryProgressStore):
    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock, self.ages_s = clock, list[tuple[str, float]]()

    def apply(self, step: Step) -> None:
        super().apply(step)
        self.ages_s += [(name, self._clock.now_s - int(fields["captured_at_ms"]) / 1000) for name, fields in step.scores]


class _ArrivingSource(MemoryFrameSource):
    """Delivers what has arrived by now; waits by letting time pass."""

    def __init__(self, topic: MemoryTopic, poll_messages: int, clock: FakeClock) -> None:
        super().__init__(topic, poll_messages)
        self._clock = clock

    def poll(self, timeout_s: float) -> PollResult:
        polled, now_ms = super().poll(timeout_s), self._clock.now_s * 1000
        arrived = [each for each in polled.messages if each.timestamp_ms <= now_ms]
        for each in reversed(polled.messages):
            if each.timestamp_ms > now_ms:
                self.start(each.partition, each.offset)
        self._clock.now_s += 0 if arrived else timeout_s
        return polled._replace(messages=arrived)


def busy_topic(seconds: int, hog_fps: int, others: int, others_fps: int) -> list[FrameMessage]:
    """One camera beside others, all in one partition, in the order of their capture times."""
    rates = {"hog": hog_fps} | {f"camera-{number}": others_fps for number in range(others)}
    frames = sorted((1000 * index // fps, name) for name, fps in rates.items() for index in range(seconds * fps))
    begin_ms = round(NOW_S * 1000)
    return [
        replace(message(0, offset, name, CALM, at_ms=begin_ms + at_ms), timestamp_ms=begin_ms + at_ms)
        for offset, (at_ms, name) in enumerate(frames)
    ]


def test_a_fast_camera_starves_no_other() -> None:
    """A hundred frames a second beside ten cameras of five: 150 clips a second, of which the engine scores 100."""
    messages = busy_topic(20, 100, 10, 5)

    fair = RealTime(messages, 100, limits())
    unfair = RealTime(messages, 100, limits(mode="archive"))

    assert unfair.oldest_s("camera-3") > 5
    assert fair.oldest_s("camera-3") < 1
    assert shed(fair.rig, "hog", "over_rate") == 20 * 100 - (20 * 30 + 30)
    assert shed(fair.rig, "camera-3", "over_rate") == 0
    assert fair.rig.counted("frames_total", camera_id="camera-3") == 20 * 5
    assert fair.rig.dead_letters.stored == []


def test_a_partition_that_is_behind_delays_no_other() -> None:
    """Recorded footage at a hundred frames a second, beside two cameras in another partition: the engine scores 60 clips."""
    both = busy_topic(20, 100, 2, 5)
    cameras = [replace(each, partition=Partition("frames", 1)) for each in both if each.key != b"hog"]

    played = RealTime([*(each for each in both if each.key == b"hog"), *cameras], 60, limits(mode="archive"))

    assert played.oldest_s("hog") > 10
    assert played.oldest_s("camera-1") < 1


def test_a_service_that_is_too_slow_stays_timely() -> None:
    """Ten cameras of five frames a second, of which the engine scores half."""
    messages = busy_topic(60, 5, 9, 5)

    timely = RealTime(messages, 25, limits(max_frame_age_s=10))
    late = RealTime(messages, 25, limits(mode="archive"))

    assert late.oldest_s("camera-3") > 25
    assert timely.oldest_s("camera-3") < 15
    names = ["hog", *(f"camera-{number}" for number in range(9))]
    for name in names:
        assert timely.rig.counted("frames_total", camera_id=name) + shed(timely.rig, name, "late") == 60 * 5
    assert sum(shed(timely.rig, name, "late") for name in names) > 500


def test_a_camera_may_have_a_quota_of_its_own() -> None:
    times_ms = range(0, 10_000, 10)
    messages = [message(0, offset, "gate", CALM, at_ms=at_ms) for offset, at_ms in enumerate(times_ms)]
    rig = Rig(messages, poll_messages=100, settings=limits({"gate": {"max_fps": 50}}))

    rig.finish()

    assert shed(rig, "gate", "over_rate") == 1000 - (10 * 50 + 50)


@pytest.mark.parametrize(("section", "sheds"), [({}, True), ({"mode": "archive"}, False)])
def test_archive_looks_at_every_frame(section: dict[str, object], sheds: bool) -> None:
    messages = [message(0, offset, "gate", CALM, at_ms=offset) for offset in range(100)]
    old = [replace(message(0, 100 + offset, "gate", CALM, at_ms=20_000 + offset * 100), timestamp_ms=1) for offset in range(5)]
    rig = Rig([*messages, *old], settings=limits(**section))

    rig.finish()

    assert (rig.counted("frames_total", camera_id="gate") == 105) is not sheds
    assert (shed(rig, "gate", "over_rate") > 0, shed(rig, "gate", "late") == 5) == (sheds, sheds)


@st.composite
def fast_streams(draw: st.DrawFn) -> list[FrameMessage]:
    """Messages of two cameras, most of the time more than two a second of each; their clocks may stand or go back."""
    messages, at_ms = [], 10_000_000
    for offset in range(draw(st.integers(1, 80))):
        at_ms += draw(st.sampled_from([10, 40, 100, 100, 100, 200, 400, 6_000, 0, 0, -40, -9_000]))
        value = draw(st.sampled_from([0.1, 0.3, 0.45, 0.6, 0.8, 1.0, b"rubbish"]))
        messages.append(message(draw(st.integers(0, 1)), offset, draw(st.sampled_from(["gate", "yard"])), value, at_ms=at_ms))
    return messages


@pytest.mark.parametrize("spec", [SPEC, RECURRENT, STATELESS], ids=["windows", "recurrent", "stateless"])
@settings(deadline=None, max_examples=25)
@given(fast_streams(), CRASHES, OUTAGES)
def test_crashes_and_outages_change_nothing_of_thinned_cameras(
    spec: ClipSpec, messages: list[FrameMessage], crashes: list[int], outages: list[str]
) -> None:
    calm = Rig(messages, spec=spec, settings=limits(max_fps=2))
    troubled = Rig(messages, max_clips=3, poll_messages=2, spec=spec, settings=limits(max_fps=2))

    calm.finish()
    troubled.survive(crashes, outages)

    assert troubled.effects() == calm.effects()


@pytest.mark.parametrize("steps", [3, 10, 25])
@pytest.mark.parametrize("spec", [SPEC, RECURRENT], ids=["windows", "recurrent"])
def test_a_replay_is_thinned_as_the_frames_were(spec: ClipSpec, steps: int) -> None:
    messages = [message(0, n, "gate", (n * 37 % 100) / 100, at_ms=30 * n) for n in range(400)]
    calm, restarted = (Rig(messages, poll_messages=12, spec=spec, settings=limits(max_fps=10)) for _ in range(2))

    calm.finish()
    restarted.steps(steps)
    restarted.start()
    restarted.finish()

    assert restarted.effects() == calm.effects()
    assert 10 < shed(restarted, "gate", "over_rate") <= shed(calm, "gate", "over_rate")


def with_late_ones(count: int, late: Sequence[int]) -> list[FrameMessage]:
    """Frames of one camera at ten a second; those with the offsets ``late`` have waited for an hour."""
    now_ms = round(NOW_S * 1000)
    times_ms = [now_ms - (3_600_000 if offset in late else 0) for offset in range(count)]
    return [replace(message(0, n, "gate", ODD), timestamp_ms=timestamp_ms) for n, timestamp_ms in enumerate(times_ms)]


@pytest.mark.parametrize("poll_messages", [2, 40])
def test_late_frames_leave_the_clips_before_them_alone(poll_messages: int) -> None:
    waves = [(n * 37 % 100) / 100 for n in range(40)]
    late = with_late_ones(40, range(12, 20))
    messages = [replace(each, value=message(0, n, "gate", waves[n]).value) for n, each in enumerate(late)]
    rig = rig_now(messages, poll_messages=poll_messages, spec=RECURRENT)

    rig.finish()

    alone = rig_now([each for n, each in enumerate(messages) if n < 12], spec=RECURRENT)
    alone.finish()
    assert [fields["score"] for _, fields in rig.store.scores[:12]] == [fields["score"] for _, fields in alone.store.scores]
    assert float(rig.store.scores[12][1]["score"]) == pytest.approx(waves[20], abs=0.01)


@pytest.mark.parametrize("steps", range(1, 14))
def test_a_camera_begins_anew_behind_late_frames(steps: int) -> None:
    """As often as it is restarted: what led up to them is in no clip and no state, and is not replayed behind them."""
    messages = with_late_ones(40, range(12, 20))
    calm, restarted = (rig_now(messages, max_clips=1, poll_messages=2, spec=RECURRENT) for _ in range(2))

    calm.finish()
    restarted.steps(steps)
    done = restarted.store.read(P0).next_offset or 0
    restarted.start()
    restarted.finish()

    assert calm.scored_offsets() == [*range(12), *range(20, 40)]
    assert shed(calm, "gate", "late") == 8
    assert restarted.effects() == calm.effects()
    assert restarted.counted("replayed_frames_total") == (0 if 13 <= done <= 20 else min(done, done - 20 if done > 20 else done))


def test_goes_on_when_frames_are_half_as_old() -> None:
    ages_s = [0, 310, 200, 160, 140, 160, 310]
    now_ms = round(NOW_S * 1000)
    messages = [replace(message(0, n, "gate", CALM), timestamp_ms=now_ms - age_s * 1000) for n, age_s in enumerate(ages_s)]
    rig = rig_now(messages, spec=STATELESS)

    rig.finish()

    assert rig.scored_offsets() == [0, 4, 5]


def test_an_open_event_of_a_camera_with_late_frames_ends_once() -> None:
    messages = with_late_ones(60, range(20, 50))
    calm = [replace(each, value=message(0, 0, "gate", CALM).value) for each in messages[50:]]
    rig = rig_now([*messages[:50], *calm])

    rig.finish()

    assert rig.events("kind", "started_at_ms", "ended_at_ms") == [("start", "200", ""), ("end", "200", "1900")]


def test_keeps_nothing_of_senders_without_a_usable_frame() -> None:
    messages = [message(0, offset, f"nobody-{offset}", b"rubbish", at_ms=offset) for offset in range(20)]
    damaged = [replace(each, value=b"") for each in messages]
    rig = Rig(damaged)

    rig.finish()

    active = next(iter(rig.pipeline._partitions.active.values()))  # what is bounded here is memory, which nothing else shows
    assert set(active.paces) <= set(active.cameras)
