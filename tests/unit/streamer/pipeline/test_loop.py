"""Every frame counts once, whatever happens between two steps."""

from dataclasses import replace

import pytest
from hypothesis import example, given, settings

from deploy.decision import OpenEvent
from deploy.health import HealthState
from deploy.spec import ClipSpec
from streamer.interfaces import CameraState, PartitionChange, Progress, Step, TopicVersion
from streamer.pipeline.start_plan import FORGET_AFTER_S
from streamer.types import UNREADABLE, FrameMessage, Partition
from tests.harness.pipeline import CRASHES, OUTAGES, RECURRENT, SPEC, Rig, message, run_of, streams

CALM, ODD = 0.1, 0.8
P0 = Partition("frames", 0)
EVENT = [CALM] * 5 + [ODD] * 6 + [CALM] * 10


def test_event_starts_and_ends_once() -> None:
    rig = Rig(run_of("gate", EVENT))

    rig.finish()

    assert rig.events("kind", "camera_id", "started_at_ms", "ended_at_ms") == [
        ("start", "gate", "500", ""),
        ("end", "gate", "500", "1000"),
    ]


def test_a_crash_loses_no_dead_letter_that_waits() -> None:
    rig = Rig([message(0, 0, "gate", 0.1), message(0, 1, "gate", b"rubbish"), message(0, 2, "gate", 0.1)])
    rig.dead_letters.available = False
    rig.finish()
    assert [each.offset for each in rig.store.read(P0).letters.letters] == [1]

    rig.dead_letters.crash()
    rig.start()
    rig.dead_letters.available = True
    rig.topic.partitions[P0].append(message(0, 3, "gate", 0.1))
    rig.finish()

    assert [(each.message.offset, each.reason) for each in rig.dead_letters.stored] == [(1, "unsupported_type")]
    assert rig.store.read(P0).letters.letters == ()


def test_event_names_its_origin() -> None:
    rig = Rig(run_of("gate", EVENT))

    rig.finish()
    start = rig.store.events[0]

    assert (start["schema"], start["topic"], start["partition"], start["offset"]) == ("1", "frames", "0", "6")
    assert (start["threshold"], start["model_id"], start["engine"], start["region"]) == (
        "0.5",
        "brightness-0",
        "brightness",
        "0,0,16,16",
    )


def test_scores_each_full_clip_once() -> None:
    rig = Rig(run_of("gate", [0.2] * 12))

    rig.finish()

    assert rig.scored_offsets() == list(range(2, 12))
    assert rig.counted("unscored_frames_total") == 2


def test_cameras_do_not_mix() -> None:
    messages = [message(0, offset, f"camera-{offset % 3}", 0.1 * (offset % 3)) for offset in range(30)]
    rig = Rig(messages)

    rig.finish()

    for camera_id, fields in rig.store.scores:
        assert abs(float(fields["score"]) - 0.1 * int(camera_id[-1])) < 0.01


def test_time_gap_starts_new_clip() -> None:
    times_ms = [0, 100, 200, 60_000, 60_100, 60_200]
    rig = Rig([message(0, offset, "gate", CALM, at_ms=at_ms) for offset, at_ms in enumerate(times_ms)])

    rig.finish()

    assert rig.scored_offsets() == [2, 5]


def test_bad_messages_change_no_score() -> None:
    good = run_of("gate", EVENT)
    bad = [message(0, 100 + index, *what) for index, what in enumerate([("gate", b""), ("gate", b"no picture"), (None, CALM)])]
    mixed = [*good[:4], bad[0], *good[4:9], bad[1], *good[9:], bad[2]]
    renumbered = [FrameMessage(m.partition, offset, m.key, m.value, m.headers, m.timestamp_ms) for offset, m in enumerate(mixed)]
    clean, dirty = Rig(good), Rig(renumbered)

    clean.finish()
    dirty.finish()

    assert [rejected.reason for rejected in dirty.dead_letters.stored] == ["empty", "unsupported_type", "missing_key"]
    assert [f["score"] for _, f in dirty.store.scores] == [f["score"] for _, f in clean.store.scores]
    assert dirty.counted("rejected_messages_total", reason="empty") == 1
    assert dirty.counted("decoded_frames_total", decoder="cpu") == len(good)


def test_restart_replays_clips_unscored() -> None:
    rig = Rig(run_of("gate", [CALM] * 20), max_clips=1)

    rig.steps(3)
    done = rig.store.read(P0).next_offset
    rig.start()
    rig.finish()

    assert done is not None
    assert 3 < done < 20
    assert rig.scored_offsets() == list(range(2, 20))
    assert rig.counted("replayed_frames_total") == 2


def test_revoked_partition_is_dropped() -> None:
    rig = Rig(run_of("gate", EVENT), max_clips=100)

    rig.steps(2)
    rig.source.changes.append(PartitionChange("revoked", P0))
    rig.source.pause(P0)
    before = rig.store.read(P0).next_offset
    rig.steps(20)

    assert rig.store.read(P0).next_offset == before


def test_reassignment_drops_queued_clips() -> None:
    rig = Rig(run_of("gate", [CALM] * 10), max_clips=100, poll_messages=10)

    rig.steps(2)
    rig.source.changes.append(PartitionChange("assigned", P0))
    rig.finish()

    assert rig.counted("scored_clips_total") == 8
    assert rig.counted("frames_total", camera_id="gate") == 18  # the eight that waited were read twice


def test_reassignment_reads_polled_messages_again() -> None:
    rig = Rig(run_of("gate", EVENT), max_clips=100, poll_messages=4)

    rig.steps(2)
    rig.source.changes.append(PartitionChange("assigned", P0))  # with the next poll's messages, which follow those still unscored
    rig.finish()

    assert rig.scored_offsets() == list(range(2, len(EVENT)))


def test_fenced_consumer_follows_new_owner() -> None:
    rig = Rig(run_of("gate", EVENT), poll_messages=2)

    rig.steps(2)
    stored = rig.store.read(P0)
    assert stored.next_offset is not None
    rig.store.apply(Step(P0, stored.next_offset, stored.next_offset + 4))
    rig.finish()

    offsets = rig.scored_offsets()
    assert rig.counted("redis_commits_total", outcome="fenced") == 1
    assert offsets == sorted(set(offsets))
    assert not set(offsets) & set(range(stored.next_offset, stored.next_offset + 4))


def test_starts_at_committed_offset() -> None:
    rig = Rig(run_of("gate", [CALM] * 10))
    rig.topic.committed[P0] = 6

    rig.finish()

    assert rig.scored_offsets() == [8, 9]


def test_counts_lost_messages() -> None:
    rig = Rig(run_of("gate", [CALM] * 10)[4:])
    rig.store.progress[P0] = Progress(1, {"gate": CameraState(clip_from=0)})

    rig.finish()

    assert rig.counted("lost_messages_total") == 3
    assert rig.scored_offsets() == [6, 7, 8, 9]


def test_unreadable_stretch_is_rejected_as_a_whole() -> None:
    stretch = replace(message(0, 9, None, b""), first_offset=6, headers=((UNREADABLE, b"its checksum does not match"),))
    rig = Rig([*run_of("gate", [CALM] * 6), stretch, message(0, 10, "gate", CALM)])

    rig.finish()

    assert [each.message.offset for each in rig.dead_letters.stored] == [9]
    assert rig.counted("rejected_messages_total", reason="unreadable") == 4
    assert rig.scored_offsets() == [2, 3, 4, 5, 10]


def test_progress_passes_offsets_without_messages() -> None:
    """Marks of a transaction's end, for instance: without them a partition would lag for ever."""
    rig = Rig(run_of("gate", [CALM] * 6))
    rig.topic.ends[P0] = 9

    rig.finish()

    assert rig.store.read(P0).next_offset == 9
    rig.clock.now_s += 1.0
    rig.steps(1)
    assert rig.counted("lag_messages", partition="0") == 0


def test_recreated_topic_starts_over() -> None:
    rig = Rig(run_of("gate", [CALM] * 6))
    open_event = OpenEvent(event_id="old", started_at_ms=1, last_active_ms=1, peak_score=1.0, announced_at_ms=1)
    rig.store.progress[P0] = Progress(500, {"gate": CameraState(clip_from=498, event=open_event)})
    rig.source.changes.append(PartitionChange("out_of_range", P0))

    rig.finish()

    assert rig.scored_offsets() == [2, 3, 4, 5]
    assert rig.store.read(P0).cameras["gate"].event is None


def test_stranger_under_an_old_name_starts_over() -> None:
    """The topic was deleted and created again while the service was down, and is longer by now than the old one was."""
    rig = Rig(run_of("gate", [CALM] * 6))
    rig.topic.topic_id = "old"
    rig.finish()
    rig.topic.topic_id, rig.topic.partitions = "new", Rig(run_of("gate", [CALM] * 9)).topic.partitions
    rig.start()

    rig.finish()

    assert rig.scored_offsets() == [2, 3, 4, 5, 2, 3, 4, 5, 6, 7, 8]
    assert rig.counted("recreated_partitions_total") == 1
    assert rig.store.read(P0).topic == TopicVersion(topic_id="new", partitions=0)
    rig.start()
    rig.steps(3)
    assert rig.counted("recreated_partitions_total") == 0


def test_ready_only_while_partitions_run() -> None:
    rig = Rig(run_of("gate", [CALM] * 10))
    assert rig.health.ready() is not None

    rig.finish()
    assert rig.health.ready() is None

    rig.topic.partitions[P0] += run_of("gate", [CALM] * 20)[10:]
    rig.store.failures.append("lost")
    rig.steps(3)
    assert rig.health.ready() == "the step was lost on the way"

    rig.finish()
    assert rig.health.ready() is None


def test_partition_with_unusable_progress_waits_alone() -> None:
    rig = Rig([*run_of("gate", [CALM] * 10), *run_of("yard", [CALM] * 10, partition=1)])
    rig.store.unusable.add(P0)

    rig.steps(20)
    assert rig.health.ready() == "frames[0]: not a number"
    assert rig.store.progress.keys() == {Partition("frames", 1)}

    rig.store.unusable.clear()
    rig.finish()
    assert rig.health.ready() is None
    assert len(rig.store.scores) == 16


def test_damaged_states_are_counted() -> None:
    rig = Rig(run_of("gate", [CALM] * 10))
    rig.store.progress[P0] = Progress(4, damaged=["camera:gate"])

    rig.finish()

    assert rig.counted("damaged_states_total") == 1
    assert rig.scored_offsets() == [6, 7, 8, 9]


def test_forgets_cameras_that_have_long_been_offline() -> None:
    rig = Rig(run_of("gate", [CALM] * 10))
    rig.clock.now_s = FORGET_AFTER_S + 1000
    rig.store.progress[P0] = Progress(0, {"gone": CameraState(health=HealthState(problem="offline", since_ms=999_000))})

    rig.finish()

    assert rig.store.read(P0).cameras.keys() == {"gate"}


def test_drain_scores_queue_and_commits() -> None:
    rig = Rig(run_of("gate", [CALM] * 10), max_clips=100, poll_messages=100)

    rig.steps(2)
    scored_before = len(rig.store.scores)
    rig.pipeline.drain()

    assert scored_before == 0
    assert len(rig.store.scores) == 8
    assert rig.topic.committed[P0] == 10


@pytest.mark.parametrize("spec", [SPEC, RECURRENT], ids=["windows", "recurrent"])
@settings(deadline=None, max_examples=60)
@given(streams(), CRASHES, OUTAGES)
@example(run_of("gate", EVENT), [], ["lost"] * 10)
def test_crashes_and_outages_change_nothing(
    spec: ClipSpec, messages: list[FrameMessage], crashes: list[int], outages: list[str]
) -> None:
    calm, troubled = Rig(messages, spec=spec), Rig(messages, max_clips=3, poll_messages=2, spec=spec)

    calm.finish()
    troubled.survive(crashes, outages)

    assert troubled.effects() == calm.effects()
    assert set(rejected(troubled)) == set(rejected(calm))


@pytest.mark.parametrize("spec", [SPEC, RECURRENT], ids=["windows", "recurrent"])
@settings(deadline=None, max_examples=60)
@given(streams(), OUTAGES)
@example(run_of("gate", EVENT), ["lost"] * 10)
def test_outages_alone_cost_no_work(spec: ClipSpec, messages: list[FrameMessage], outages: list[str]) -> None:
    calm, troubled = Rig(messages, spec=spec), Rig(messages, max_clips=3, poll_messages=2, spec=spec)

    calm.finish()
    troubled.survive([], ["", "", *outages, "", ""])  # the first and the last steps start the partitions

    assert troubled.effects() == calm.effects()
    assert sorted(rejected(troubled)) == sorted(rejected(calm))
    assert troubled.counted("replayed_frames_total") == 0
    for name in ("scored_clips_total", "unscored_frames_total"):
        assert troubled.counted(name) == calm.counted(name)


def test_held_partition_follows_a_new_owner() -> None:
    rig = Rig(run_of("gate", EVENT), poll_messages=2)
    rig.steps(2)
    rig.store.failures.append("lost")
    while rig.store.failures:
        rig.steps(1)
    before = rig.store.read(P0).next_offset
    assert before is not None

    rig.store.apply(Step(P0, before, before + 4))
    rig.finish()

    assert rig.counted("redis_commits_total", outcome="fenced") == 1
    assert rig.scored_offsets() == [*range(2, before), *range(before + 4, len(EVENT))]


def rejected(rig: Rig) -> list[str]:
    return [str(letter.message) for letter in rig.dead_letters.stored]
