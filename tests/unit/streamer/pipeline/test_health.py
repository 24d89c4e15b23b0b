"""Health reports come in the atomic step of the frames, hold anomalies back, and are told once whatever crashes."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings

from deploy.image import encode_jpeg
from deploy.spec import ClipSpec
from streamer.config import Settings
from streamer.types import FrameMessage, Partition
from tests.harness.pipeline import CRASHES, OUTAGES, PROFILED, PROFILED_BUNDLE, Rig, message, profile_of

RNG = np.random.default_rng(3)
SCENE = np.clip(np.kron(RNG.uniform(20, 110, (6, 8)), np.ones((16, 16))), 0, 255)
"""It scores 0.25, the mean of its grey levels."""
SETTINGS = Settings.model_validate(
    {"decision": {"min_duration_s": 0.1, "merge_gap_s": 0.3}, "health": {"offline_after_s": 60}, "learning": {"memory_days": 0}}
)
ORDINARY, BRIGHT, COVERED = 0.0, 140.0, None
"""Grey levels that are added to the scene."""


def frame_of(number: int, added: float | None, camera_id: str = "gate") -> FrameMessage:
    noise = np.random.default_rng(number).normal(0, 1.5, SCENE.shape)
    picture = np.full(SCENE.shape, 250.0) + noise / 10 if added is None else SCENE + added + noise
    image = encode_jpeg(np.clip(picture, 0, 255).astype(np.uint8), 90)
    sent = message(0, number, camera_id, 0.0, at_ms=100 * number)
    return FrameMessage(sent.partition, sent.offset, sent.key, image, sent.headers, sent.timestamp_ms)


def stream(*parts: tuple[float | None, int]) -> list[FrameMessage]:
    levels = [added for added, count in parts for _ in range(count)]
    return [frame_of(number, added) for number, added in enumerate(levels)]


def told(rig: Rig) -> list[tuple[str, str]]:
    return [(entry["kind"], entry["problem"]) for entry in rig.store.health]


@pytest.fixture(scope="module")
def covered_for_ten_seconds() -> list[FrameMessage]:
    return stream((ORDINARY, 700), (COVERED, 100), (ORDINARY, 60), (BRIGHT, 20), (ORDINARY, 20))


def test_cover_is_no_anomaly_of_the_place(covered_for_ten_seconds: list[FrameMessage]) -> None:
    """White pictures score 1 and would start an event; the bright ones afterwards do."""
    rig = Rig(covered_for_ten_seconds, settings=SETTINGS)
    rig.finish()
    assert told(rig) == [("start", "overexposed"), ("end", "overexposed")]
    start, end = rig.store.health
    assert int(start["started_at_ms"]) in range(70_000, 70_200)
    assert int(start["captured_at_ms"]) <= 73_000
    assert int(end["captured_at_ms"]) in range(82_000, 84_000)
    assert start["text"] == "the picture is over-exposed"
    starts = [int(event["captured_at_ms"]) for event in rig.store.events if event["kind"] == "start"]
    assert starts
    assert all(at_ms >= 86_000 for at_ms in starts)
    assert rig.counted("health_changes_total", problem="overexposed", kind="start") == 1


@settings(max_examples=10)
@given(CRASHES, OUTAGES)
def test_crashes_tell_nothing_twice(covered_for_ten_seconds: list[FrameMessage], crashes: list[int], outages: list[str]) -> None:
    rig = Rig(covered_for_ten_seconds[650:900], poll_messages=40, settings=SETTINGS)
    rig.survive(crashes, outages)
    assert told(rig) == [("start", "overexposed"), ("end", "overexposed")]


FAULTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "covered": lambda picture: np.full_like(picture, 15.0),
    "overexposed": lambda picture: np.full_like(picture, 252.0),
    "dark": lambda picture: picture * 0.12,
    "defocused": lambda picture: np.asarray(cv2.GaussianBlur(picture, (0, 0), 4.0)),
    "moved": lambda picture: np.roll(picture, 24, axis=1),
    "frozen": lambda picture: picture,
}


@pytest.mark.parametrize("problem", FAULTS)
def test_fault_of_ten_minutes_stays_open_until_it_is_over(problem: str) -> None:
    """The reference must not follow it, nor must a restart forget it. One frame a second."""
    rng = np.random.default_rng(7)
    frames = []
    for second in range(740):
        is_faulty = 80 <= second < 700
        picture = FAULTS[problem](SCENE) if is_faulty else SCENE
        noise = 0.0 if is_faulty and problem == "frozen" else rng.normal(0, 1.5, SCENE.shape)
        image = encode_jpeg(np.clip(picture + noise, 0, 255).astype(np.uint8), 90)
        frames.append(replace(message(0, second, "gate", 0.0, at_ms=1000 * second), value=image))
    rig = Rig(frames[:400], spec=ClipSpec(length=1, height_px=96, width_px=128), settings=SETTINGS)
    rig.finish()
    assert told(rig) == [("start", problem)]
    assert int(rig.store.health[0]["captured_at_ms"]) <= 83_000
    rig.topic.partitions[frames[0].partition] += frames[400:]
    rig.start()
    rig.finish()
    assert told(rig) == [("start", problem), ("end", problem)]
    assert int(rig.store.health[1]["captured_at_ms"]) in range(700_000, 704_000)
    assert rig.store.events == []


def test_silent_camera_is_offline_and_its_event_ends() -> None:
    rig = Rig(stream((ORDINARY, 70), (130.0, 10)), settings=SETTINGS)
    rig.finish()
    assert [event["kind"] for event in rig.store.events] == ["start"]
    rig.clock.now_s += 59
    rig.steps(3)
    assert told(rig) == []
    rig.clock.now_s += 3
    rig.steps(3)
    assert told(rig) == [("start", "offline")]
    assert [event["kind"] for event in rig.store.events][-1] == "end"
    rig.start()  # a restart tells nothing again
    rig.clock.now_s += 200
    rig.steps(5)
    assert told(rig) == [("start", "offline")]


@pytest.mark.parametrize("failure", ["lost", "unanswered", ""])
def test_minute_of_a_silent_camera_is_told_once(failure: str) -> None:
    rig = Rig(stream((ORDINARY, 70), (130.0, 10)), settings=SETTINGS)
    rig.finish()
    assert rig.store.minutes == []
    rig.clock.now_s += 62
    rig.store.failures.append(failure)
    rig.steps(500)
    rig.start()
    rig.steps(5)
    [(camera_id, minute)] = rig.store.minutes
    assert (camera_id, minute["frames"]) == ("gate", str(len(rig.store.scores)))
    assert [state.minute for progress in rig.store.progress.values() for state in progress.cameras.values()] == [None]


@pytest.mark.parametrize("failure", ["lost", "unanswered"])
def test_silent_camera_is_reported_once_through_an_outage(failure: str) -> None:
    rig = Rig(stream((ORDINARY, 70), (130.0, 10)), settings=SETTINGS)
    rig.finish()
    rig.clock.now_s += 62
    rig.store.failures.append(failure)
    rig.steps(500)
    assert told(rig) == [("start", "offline")]
    assert [event["kind"] for event in rig.store.events] == ["start", "end"]
    assert rig.counted("health_changes_total", problem="offline", kind="start") == 1


def test_outage_makes_no_camera_offline() -> None:
    rig = Rig(stream((ORDINARY, 40)), settings=SETTINGS, poll_messages=1)
    rig.store.failures += ["lost", "", "", ""]
    while rig.store.failures:
        rig.steps(1)
    rig.clock.now_s += 90
    rig.finish()
    assert told(rig) == []


def test_reference_is_stored_and_read_again() -> None:
    rig = Rig(stream((ORDINARY, 700)), settings=SETTINGS)
    rig.finish()
    (reference,) = rig.profiles.references.values()
    assert reference.level == pytest.approx(SCENE.mean(), abs=2)
    rig.profiles.references.clear()  # relearn
    rig.pipeline.camera_health.load()
    assert rig.pipeline.camera_health._cameras == {}


def test_other_frame_rate_holds_events_back() -> None:
    """At half the rate everything seems twice as fast: that is told, and is no event."""
    half = [(frame_of(number, ORDINARY if number < 50 else BRIGHT), 200 * number) for number in range(90)]
    sent = [replace(each, headers=(("captured_at_ms", str(at_ms).encode()),)) for each, at_ms in half]
    rig = Rig(sent, spec=PROFILED, bundle=PROFILED_BUNDLE, settings=SETTINGS)
    rig.profiles.put(profile_of("gate", 1, 0, enter=0.5, exit=0.4))
    rig.start()
    rig.finish()
    assert told(rig) == [("start", "rate")]
    assert rig.store.events == []


def holed(sent: FrameMessage) -> FrameMessage:
    """The message, with a hole in its image that a lenient decoder fills with grey."""
    image = sent.value or b""
    return replace(sent, value=image[: len(image) // 2] + bytes(400) + image[len(image) // 2 + 400 :])


def test_damaged_frames_are_not_scored_and_many_of_them_are_told() -> None:
    sent = stream((ORDINARY, 300))
    damaged = [frame if frame.offset % 5 or not 20 <= frame.offset < 120 else holed(frame) for frame in sent]
    rig = Rig(damaged, settings=SETTINGS)
    rig.finish()
    assert [each.reason for each in rig.dead_letters.stored] == ["damaged"] * 20
    assert rig.counted("rejected_messages_total", reason="damaged") == 20
    assert rig.scored_offsets() == [offset for offset in range(2, 300) if offset % 5 or not 20 <= offset < 120]
    assert rig.store.events == []
    assert told(rig) == [("start", "damaged"), ("end", "damaged")]


def test_crashes_do_not_count_damaged_frames_twice() -> None:
    damaged = [frame if frame.offset % 2 else holed(frame) for frame in stream((ORDINARY, 12))]
    rig = Rig(damaged, settings=SETTINGS)
    rig.survive([1, 1, 2, 1], ["lost", "unanswered"])
    whole = Rig(damaged, settings=SETTINGS)
    whole.finish()
    assert told(rig) == told(whole) == [("start", "damaged")]
    assert rig.store.progress == whole.store.progress


def test_odd_clock_is_told_and_holds_no_event_back() -> None:
    """In seconds for a while; all records carry the true time."""
    sent = stream((ORDINARY, 60), (BRIGHT, 40), (ORDINARY, 300))
    timed = []
    for frame in sent:
        at_ms = 1_700_000_000_000 + 100 * frame.offset
        claim = str(at_ms // 1000 if 20 <= frame.offset < 120 else at_ms)
        timed.append(replace(frame, headers=(("captured_at_ms", claim.encode()),), timestamp_ms=at_ms + 5))
    rig = Rig(timed, settings=SETTINGS)
    rig.steps(20)
    rig.start()
    rig.finish()
    assert told(rig) == [("start", "clock"), ("end", "clock")]
    assert rig.store.health[0]["text"].startswith("its capture times")
    assert "start" in [event["kind"] for event in rig.store.events]
    assert rig.store.read(Partition("frames", 0)).cameras["gate"].problem is None


def test_camera_of_which_only_damaged_frames_arrive_is_not_offline() -> None:
    rig = Rig([holed(frame) for frame in stream((ORDINARY, 3))], settings=SETTINGS)
    rig.clock.now_s += 59
    rig.steps(3)
    rig.clock.now_s += 59
    rig.steps(1)
    assert told(rig) == []
