"""The loop with a model that carries a state: it goes from frame to frame of one camera, and a restart rebuilds it unseen."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.errors import EngineFailed
from streamer.interfaces import PartitionChange
from streamer.types import FrameMessage, Partition
from tests.unit.streamer.pipeline_kit import RECURRENT, Rig, message, run_of

P0 = Partition("frames", 0)
WARMUP_FRAMES = RECURRENT.warmup_frames
ROUNDING = 2e-6
"""Of what the frames before the warm-up weigh, 0.5 ** 24, and of a score's six digits."""


def wave(count: int) -> list[float]:
    """Grey values that never settle."""
    return [(index * 37 % 100) / 100 for index in range(count)]


def mean_by_hand(brightnesses: list[float]) -> list[float]:
    means: list[float] = []
    total = weight = 0.0
    for brightness in brightnesses:
        total, weight = total / 2 + round(brightness * 255) / 255, weight / 2 + 1
        means.append(total / weight)
    return means


def recurrent(messages: list[FrameMessage], max_clips: int = 4, poll_messages: int = 5) -> Rig:
    return Rig(messages, max_clips, poll_messages, spec=RECURRENT)


def scores(rig: Rig, camera_id: str = "gate") -> dict[int, float]:
    """By offset; each frame once."""
    entries = [(int(fields["offset"]), float(fields["score"])) for name, fields in rig.store.scores if name == camera_id]
    assert len(entries) == len(dict(entries))
    return dict(entries)


def by_hand(brightnesses: list[float]) -> dict[int, float]:
    return dict(enumerate(mean_by_hand(brightnesses)))


def test_the_state_goes_from_frame_to_frame_though_many_come_in_one_poll() -> None:
    rig = recurrent(run_of("gate", wave(12)), max_clips=8, poll_messages=12)

    rig.finish()

    assert scores(rig) == pytest.approx(by_hand(wave(12)), abs=ROUNDING)
    assert rig.counted("micro_batch_clips_count") == rig.counted("scored_clips_total") == 12


def test_cameras_share_micro_batches_and_no_state() -> None:
    waves = {"gate": wave(10), "yard": [0.2] * 10, "hall": wave(20)[10:]}
    messages = [
        message(0, 3 * index + place, name, waves[name][index]) for index in range(10) for place, name in enumerate(waves)
    ]
    rig = recurrent(messages, max_clips=3, poll_messages=9)

    rig.finish()

    for place, (name, brightnesses) in enumerate(waves.items()):
        assert list(scores(rig, name).values()) == pytest.approx(mean_by_hand(brightnesses), abs=ROUNDING), place
    assert rig.counted("micro_batch_clips_count") == 10


def test_a_gap_in_capture_time_forgets_the_state_even_between_frames_that_wait_together() -> None:
    times_ms = [0, 100, 200, 60_000, 60_100, 60_200]
    brightnesses = wave(6)
    messages = [message(0, n, "gate", brightnesses[n], at_ms=at_ms) for n, at_ms in enumerate(times_ms)]
    rig = recurrent(messages, poll_messages=6)

    rig.finish()

    assert list(scores(rig).values()) == pytest.approx(
        mean_by_hand(brightnesses[:3]) + mean_by_hand(brightnesses[3:]), abs=ROUNDING
    )


def test_a_restart_in_mid_stream_rebuilds_the_state_and_scores_nothing_twice() -> None:
    rig = recurrent(run_of("gate", wave(120)))

    while (rig.store.read(P0).next_offset or 0) < 70:
        rig.steps(1)
    done = rig.store.read(P0).next_offset
    rig.start()
    rig.finish()

    assert done is not None
    assert rig.store.read(P0).cameras["gate"].clip_from == 120 - WARMUP_FRAMES
    assert scores(rig) == pytest.approx(by_hand(wave(120)), abs=ROUNDING)
    assert rig.counted("replayed_frames_total") == WARMUP_FRAMES
    assert rig.counted("scored_clips_total") == rig.counted("frames_total", camera_id="gate") == 120 - done


def test_only_the_frames_that_a_camera_needs_are_read_again() -> None:
    slow = [message(0, 3 * n, "slow", 0.5, at_ms=300 * n) for n in range(40)]
    quick = [message(0, offset, "quick", 0.5) for offset in range(120) if offset % 3]
    rig = recurrent(sorted([*slow, *quick], key=lambda each: each.offset), poll_messages=30)

    rig.finish()
    rig.start()
    rig.topic.partitions[P0].append(message(0, 120, "slow", 0.5, at_ms=12_000))
    rig.finish()

    assert rig.counted("replayed_frames_total") == 2 * WARMUP_FRAMES
    assert rig.counted("scored_clips_total") == 1


def test_a_partition_revoked_while_it_is_replayed_leaves_nothing_behind_and_may_come_back() -> None:
    rig = recurrent(run_of("gate", wave(100)))
    while (rig.store.read(P0).next_offset or 0) < 60:
        rig.steps(1)
    rig.start()
    rig.steps(3)
    assert 0 < rig.counted("replayed_frames_total") < WARMUP_FRAMES

    rig.source.changes.append(PartitionChange("revoked", P0))
    rig.source.pause(P0)
    before = rig.store.read(P0).next_offset
    rig.steps(20)
    assert rig.store.read(P0).next_offset == before
    rig.source.changes.append(PartitionChange("assigned", P0))
    rig.finish()

    assert scores(rig) == pytest.approx(by_hand(wave(100)), abs=ROUNDING)


def test_a_frame_that_waits_while_its_partition_begins_again_leaves_no_trace_in_the_state() -> None:
    rig = recurrent(run_of("gate", wave(40)), max_clips=100, poll_messages=10)

    rig.steps(2)  # ten frames wait for their micro-batch
    rig.source.changes.append(PartitionChange("assigned", P0))
    rig.finish()

    assert scores(rig) == pytest.approx(by_hand(wave(40)), abs=ROUNDING)


def test_an_engine_that_fails_while_a_state_is_rebuilt_leaves_the_progress_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = recurrent(run_of("gate", wave(100)))
    while (rig.store.read(P0).next_offset or 0) < 60:
        rig.steps(1)
    before = rig.store.read(P0)
    rig.start()
    monkeypatch.setattr(rig.engine, "_run", fail)
    with pytest.raises(EngineFailed, match="out of memory"):
        rig.steps(100)
    assert rig.store.read(P0) == before

    monkeypatch.undo()
    rig.start()
    rig.finish()

    assert scores(rig) == pytest.approx(by_hand(wave(100)), abs=ROUNDING)


def fail(*_: object) -> None:
    raise RuntimeError("out of memory")


@st.composite
def streams(draw: st.DrawFn) -> list[FrameMessage]:
    """Messages of a few cameras on two partitions, some of them bad, offsets with holes, some with a gap in time."""
    messages = []
    for partition in (0, 1):
        offset = at_ms = 0
        for _ in range(draw(st.integers(1, 25))):
            offset += draw(st.integers(1, 3))
            at_ms += draw(st.sampled_from([100, 100, 100, 20_000]))
            value = draw(st.sampled_from([0.1, 0.45, 0.8, 1.0, b"rubbish"]))
            messages.append(message(partition, offset, f"camera-{partition}-{draw(st.integers(0, 2))}", value, at_ms=at_ms))
    return messages


def effects(rig: Rig) -> tuple[object, ...]:
    """Everything stored that a consumer of Oddsight can see, partition by partition."""
    entries = sorted((fields["partition"], int(fields["offset"]), name, fields["score"]) for name, fields in rig.store.scores)
    per_partition = {number: [event for event in rig.store.events if event["partition"] == number] for number in ("0", "1")}
    return entries, per_partition, rig.store.progress


@settings(deadline=None, max_examples=60)
@given(streams(), st.lists(st.integers(0, 4), max_size=8), st.lists(st.sampled_from(["lost", "unanswered", ""]), max_size=10))
def test_crashes_and_outages_change_nothing(messages: list[FrameMessage], lives: list[int], failures: list[str]) -> None:
    calm, troubled = recurrent(messages), recurrent(messages, max_clips=3, poll_messages=2)
    troubled.store.failures = list(failures)

    calm.finish()
    for steps in lives:
        troubled.steps(steps)
        troubled.start()
    troubled.finish()

    assert effects(troubled) == effects(calm)
