"""The loop with a recurrent model: the state follows one camera's frames, and a restart rebuilds it."""

import numpy as np
import pytest

from deploy.engine import Inputs, Scores
from deploy.errors import EngineClosed, EngineFailed
from streamer.interfaces import PartitionChange
from streamer.types import FrameMessage, Partition
from tests.harness.fakes import FakeClock, MeanBrightnessEngine
from tests.harness.pipeline import RECURRENT, Rig, message, run_of

P0 = Partition("frames", 0)
PAIR = ("gate", "yard")
WARMUP_FRAMES = RECURRENT.warmup_frames
ROUNDING = 2e-6
"""From the weight of frames before the warm-up, 0.5 ** 24, and from scores of six digits."""


def wave(count: int) -> list[float]:
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
    """By offset; fails if a frame is scored twice."""
    entries = [(int(fields["offset"]), float(fields["score"])) for name, fields in rig.store.scores if name == camera_id]
    assert len(entries) == len(dict(entries))
    return dict(entries)


def by_hand(brightnesses: list[float]) -> dict[int, float]:
    return dict(enumerate(mean_by_hand(brightnesses)))


def test_state_follows_frames_of_one_poll() -> None:
    rig = recurrent(run_of("gate", wave(12)), max_clips=8, poll_messages=12)

    rig.finish()

    assert scores(rig) == pytest.approx(by_hand(wave(12)), abs=ROUNDING)
    assert rig.counted("micro_batch_clips_count") == rig.counted("scored_clips_total") == 12


def test_cameras_share_batches_not_state() -> None:
    waves = {"gate": wave(10), "yard": [0.2] * 10, "hall": wave(20)[10:]}
    messages = [
        message(0, 3 * index + place, name, waves[name][index]) for index in range(10) for place, name in enumerate(waves)
    ]
    rig = recurrent(messages, max_clips=3, poll_messages=9)

    rig.finish()

    for place, (name, brightnesses) in enumerate(waves.items()):
        assert list(scores(rig, name).values()) == pytest.approx(mean_by_hand(brightnesses), abs=ROUNDING), place
    assert rig.counted("micro_batch_clips_count") == 10


def test_time_gap_resets_state_in_queue() -> None:
    times_ms = [0, 100, 200, 60_000, 60_100, 60_200]
    brightnesses = wave(6)
    messages = [message(0, n, "gate", brightnesses[n], at_ms=at_ms) for n, at_ms in enumerate(times_ms)]
    rig = recurrent(messages, poll_messages=6)

    rig.finish()

    assert list(scores(rig).values()) == pytest.approx(
        mean_by_hand(brightnesses[:3]) + mean_by_hand(brightnesses[3:]), abs=ROUNDING
    )


def test_restart_rebuilds_state() -> None:
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


def test_ready_when_all_replays_are_done() -> None:
    """Also if no further frame comes, and the partition ends with offsets that hold no message."""
    rig = recurrent([*run_of("gate", wave(60)), *run_of("yard", wave(30), partition=1)])
    rig.finish()
    rig.topic.ends = {P0: 62, Partition("frames", 1): 30}
    rig.finish()

    rig.start()
    assert ready_problems(rig) == [
        "has not joined its consumer group yet",
        "replaying: 0 of 2 cameras are on watch",
        "replaying: 1 of 2 cameras are on watch",
    ]
    assert rig.counted("replayed_frames_total") == 2 * WARMUP_FRAMES


def test_not_ready_before_what_waited_is_counted() -> None:
    """After a start, and after an outage of Redis, during which frames came."""
    rig = recurrent(run_of("gate", wave(60)))
    seen = ready_problems(rig)
    assert [problem for problem in seen if problem.startswith("catching up: ")] == seen[1:]
    assert len(seen) > 3
    assert rig.store.read(P0).next_offset == 60

    rig.topic.partitions[P0] += run_of("gate", wave(90))[60:]
    rig.store.failures = ["unanswered"]
    rig.steps(1)
    while rig.health.ready() is None:
        rig.steps(1)
    seen = ready_problems(rig)
    assert any(problem.startswith("catching up: ") for problem in seen)
    assert rig.store.read(P0).next_offset == 90


def ready_problems(rig: Rig) -> list[str]:
    """What the service says in turn until it is ready."""
    seen: list[str] = []
    while (problem := rig.health.ready()) is not None:
        seen += [] if problem in seen else [problem]
        rig.steps(1)
        rig.clock.now_s += 0.05
    return seen


def test_not_ready_before_replayed_frames_are_scored() -> None:
    rig = recurrent(run_of("gate", wave(60)), max_clips=8)
    rig.finish()

    rig.clock = FakeClock(rig.clock.now_s)  # it stands still: no clip has waited long enough for others
    rig.start()
    rig.steps(20)
    assert rig.counted("replayed_frames_total") == WARMUP_FRAMES
    assert rig.health.ready() == "replaying: 0 of 1 cameras are on watch"

    rig.clock.now_s += 1
    rig.steps(1)
    assert rig.health.ready() is None


def test_replays_only_needed_frames() -> None:
    slow = [message(0, 3 * n, "slow", 0.5, at_ms=300 * n) for n in range(40)]
    quick = [message(0, offset, "quick", 0.5) for offset in range(120) if offset % 3]
    rig = recurrent(sorted([*slow, *quick], key=lambda each: each.offset), poll_messages=30)

    rig.finish()
    rig.start()
    rig.topic.partitions[P0].append(message(0, 120, "slow", 0.5, at_ms=12_000))
    rig.finish()

    assert rig.counted("replayed_frames_total") == 2 * WARMUP_FRAMES
    assert rig.counted("scored_clips_total") == 1


def test_partition_revoked_during_replay() -> None:
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


def test_reassignment_discards_queued_state() -> None:
    rig = recurrent(run_of("gate", wave(40)), max_clips=100, poll_messages=10)

    rig.steps(2)  # ten frames wait for their micro-batch
    rig.source.changes.append(PartitionChange("assigned", P0))
    rig.finish()

    assert scores(rig) == pytest.approx(by_hand(wave(40)), abs=ROUNDING)


def test_engine_failure_in_replay_keeps_progress(monkeypatch: pytest.MonkeyPatch) -> None:
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


def failing(rig: Rig, engine: MeanBrightnessEngine) -> Rig:
    """The rig in the middle of its frames, with an engine that fails from now on; ``engine`` is loaded in its place."""
    rig.load_again = lambda: (engine, 1.0)
    rig.start()
    while (rig.store.read(P0).next_offset or 0) < 60:
        rig.steps(1)
    rig.engine._run = fail
    return rig


def test_engine_that_fails_for_all_clips_is_loaded_again() -> None:
    waves = {"gate": wave(50), "yard": wave(70)[20:]}
    messages = [message(0, 2 * n + place, name, waves[name][n]) for n in range(50) for place, name in enumerate(PAIR)]
    rig = failing(recurrent(messages), MeanBrightnessEngine(RECURRENT))

    rig.finish()

    for name, brightnesses in waves.items():
        assert list(scores(rig, name).values()) == pytest.approx(mean_by_hand(brightnesses), abs=ROUNDING)
    assert rig.counted("engine_recoveries_total", action="reload") == 1
    assert rig.counted("replayed_frames_total") >= 2 * WARMUP_FRAMES
    with pytest.raises(EngineClosed):
        rig.engine.score(np.empty((0, *RECURRENT.clip_shape), np.uint8))


def test_engine_is_loaded_again_once() -> None:
    loaded = MeanBrightnessEngine(RECURRENT)
    loaded._run = fail
    rig = failing(recurrent(run_of("gate", wave(100))), loaded)
    before = rig.store.read(P0).next_offset

    with pytest.raises(EngineFailed, match="out of memory"):
        rig.finish()

    assert rig.counted("engine_recoveries_total", action="reload") == 1
    assert rig.store.read(P0).next_offset == before


def fail(*_: object) -> None:
    raise RuntimeError("out of memory")


class Choosy(MeanBrightnessEngine):
    """Its state is not finite after a white frame, and stays so."""

    def _run(self, inputs: Inputs) -> Scores:
        scores = super()._run(inputs)
        assert scores.state is not None
        white = inputs["clips"][:, -1].min(axis=(1, 2, 3)) == 255
        scores.state[white] = np.nan
        return scores


@pytest.mark.parametrize("poll_messages", [1, 12])
def test_clip_that_cannot_be_scored_harms_no_other(poll_messages: int) -> None:
    bright = [*wave(8), 1.0, *wave(8)]
    messages = [
        message(0, 2 * index + place, name, level) for index, level in enumerate(bright) for place, name in enumerate(PAIR)
    ]
    messages = [each if each.key == b"gate" or each.offset != 17 else message(0, 17, "yard", 0.5) for each in messages]
    rig = Rig(messages, 4, poll_messages, spec=RECURRENT, engine=Choosy(RECURRENT))

    rig.survive([3], [])

    assert [(each.reason, each.message.offset, each.message.key) for each in rig.dead_letters.stored] == [
        ("unscorable", 16, b"gate")
    ]
    assert rig.dead_letters.stored[0].detail.endswith("values that are not finite numbers")
    expected = {2 * index: value for index, value in enumerate([*mean_by_hand(bright[:8]), None, *mean_by_hand(bright[9:])])}
    assert scores(rig) == pytest.approx({offset: value for offset, value in expected.items() if value is not None}, abs=ROUNDING)
    assert len(scores(rig, "yard")) == len(bright)
