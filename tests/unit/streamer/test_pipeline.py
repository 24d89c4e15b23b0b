"""The loop on fakes: every frame counts once, whatever happens between two steps."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from deploy.decision import OpenEvent
from streamer.interfaces import CameraState, PartitionChange, Progress, Step
from streamer.types import FrameMessage, Partition
from tests.unit.streamer.pipeline_kit import Rig, message, run_of

CALM, ODD = 0.1, 0.8
P0 = Partition("frames", 0)
EVENT = [CALM] * 5 + [ODD] * 6 + [CALM] * 10


def test_an_event_starts_and_ends_once() -> None:
    rig = Rig(run_of("gate", EVENT))

    rig.finish()

    assert rig.events("kind", "camera_id", "started_at_ms", "ended_at_ms") == [
        ("start", "gate", "500", ""),
        ("end", "gate", "500", "1000"),
    ]


def test_an_event_names_where_it_comes_from() -> None:
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


def test_every_frame_that_completes_a_clip_is_scored_once() -> None:
    rig = Rig(run_of("gate", [0.2] * 12))

    rig.finish()

    assert [fields["offset"] for _, fields in rig.store.scores] == [str(offset) for offset in range(2, 12)]
    assert rig.counted("unscored_frames_total") == 2


def test_cameras_of_one_partition_do_not_mix() -> None:
    messages = [message(0, offset, f"camera-{offset % 3}", 0.1 * (offset % 3)) for offset in range(30)]
    rig = Rig(messages)

    rig.finish()

    for camera_id, fields in rig.store.scores:
        assert abs(float(fields["score"]) - 0.1 * int(camera_id[-1])) < 0.01


def test_a_gap_in_capture_time_begins_a_new_clip() -> None:
    times_ms = [0, 100, 200, 60_000, 60_100, 60_200]
    rig = Rig([message(0, offset, "gate", CALM, at_ms=at_ms) for offset, at_ms in enumerate(times_ms)])

    rig.finish()

    assert [fields["offset"] for _, fields in rig.store.scores] == ["2", "5"]


def test_bad_messages_are_dead_lettered_and_change_no_other_score() -> None:
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


def test_a_restart_replays_clips_without_scoring_them_again() -> None:
    rig = Rig(run_of("gate", [CALM] * 20), max_clips=1)

    rig.steps(3)
    done = rig.store.read(P0).next_offset
    rig.start()
    rig.finish()

    assert done is not None
    assert 3 < done < 20
    assert [fields["offset"] for _, fields in rig.store.scores] == [str(offset) for offset in range(2, 20)]
    assert rig.counted("replayed_frames_total") == 2


def test_a_revoked_partition_leaves_nothing_behind() -> None:
    rig = Rig(run_of("gate", EVENT), max_clips=100)

    rig.steps(2)
    rig.source.changes.append(PartitionChange("revoked", P0))
    rig.source.pause(P0)
    before = rig.store.read(P0).next_offset
    rig.steps(20)

    assert rig.store.read(P0).next_offset == before


def test_clips_that_wait_while_their_partition_begins_again_are_not_scored() -> None:
    rig = Rig(run_of("gate", [CALM] * 10), max_clips=100, poll_messages=10)

    rig.steps(2)
    rig.source.changes.append(PartitionChange("assigned", P0))
    rig.finish()

    assert rig.counted("scored_clips_total") == 8
    assert rig.counted("frames_total", camera_id="gate") == 18  # the eight that waited were read twice


def test_messages_polled_before_a_reassignment_are_read_again() -> None:
    rig = Rig(run_of("gate", EVENT), max_clips=100, poll_messages=4)

    rig.steps(2)
    rig.source.changes.append(PartitionChange("assigned", P0))  # with the next poll's messages, which follow those still unscored
    rig.finish()

    assert [fields["offset"] for _, fields in rig.store.scores] == [str(offset) for offset in range(2, len(EVENT))]


def test_a_zombie_is_fenced_and_goes_on_from_the_new_owners_progress() -> None:
    rig = Rig(run_of("gate", EVENT), poll_messages=2)

    rig.steps(2)
    stored = rig.store.read(P0)
    assert stored.next_offset is not None
    rig.store.apply(Step(P0, stored.next_offset, stored.next_offset + 4))
    rig.finish()

    offsets = [int(fields["offset"]) for _, fields in rig.store.scores]
    assert rig.counted("redis_commits_total", outcome="fenced") == 1
    assert offsets == sorted(set(offsets))
    assert not set(offsets) & set(range(stored.next_offset, stored.next_offset + 4))


def test_a_group_without_progress_begins_at_its_committed_offset() -> None:
    rig = Rig(run_of("gate", [CALM] * 10))
    rig.topic.committed[P0] = 6

    rig.finish()

    assert [fields["offset"] for _, fields in rig.store.scores] == ["8", "9"]


def test_messages_deleted_before_they_were_read_are_counted() -> None:
    rig = Rig(run_of("gate", [CALM] * 10)[4:])
    rig.store.progress[P0] = Progress(1, {"gate": CameraState(clip_from=0)})

    rig.finish()

    assert rig.counted("lost_messages_total") == 3
    assert [fields["offset"] for _, fields in rig.store.scores] == ["6", "7", "8", "9"]


def test_progress_beyond_a_remade_topic_starts_over() -> None:
    rig = Rig(run_of("gate", [CALM] * 6))
    open_event = OpenEvent(event_id="old", started_at_ms=1, last_active_ms=1, peak_score=1.0, announced_at_ms=1)
    rig.store.progress[P0] = Progress(500, {"gate": CameraState(clip_from=498, event=open_event)})
    rig.source.changes.append(PartitionChange("out_of_range", P0))

    rig.finish()

    assert [fields["offset"] for _, fields in rig.store.scores] == ["2", "3", "4", "5"]
    assert rig.store.read(P0).cameras["gate"].event is None


def test_the_service_is_ready_only_while_its_partitions_are_in_work() -> None:
    rig = Rig(run_of("gate", [CALM] * 10))
    assert rig.health.ready() is not None

    rig.steps(1)
    assert rig.health.ready() is None

    rig.store.failures.append("lost")
    rig.steps(2)
    assert rig.health.ready() == "the step was lost on the way"

    rig.finish()
    assert rig.health.ready() is None


def test_draining_scores_what_waits_and_commits() -> None:
    rig = Rig(run_of("gate", [CALM] * 10), max_clips=100, poll_messages=100)

    rig.steps(2)
    scored_before = len(rig.store.scores)
    rig.pipeline.drain()

    assert scored_before == 0
    assert len(rig.store.scores) == 8
    assert rig.topic.committed[P0] == 10


@st.composite
def streams(draw: st.DrawFn) -> list[FrameMessage]:
    """Messages of a few cameras on two partitions, some of them bad, offsets with holes."""
    messages = []
    for partition in (0, 1):
        offset = 0
        for _ in range(draw(st.integers(1, 25))):
            offset += draw(st.integers(1, 3))
            value = draw(st.sampled_from([CALM, 0.45, ODD, ODD, b"rubbish"]))
            messages.append(message(partition, offset, f"camera-{partition}-{draw(st.integers(0, 2))}", value))
    return messages


def effects(rig: Rig) -> tuple[object, ...]:
    """Everything stored that a consumer of Oddsight can see, partition by partition."""
    scores = sorted(
        (fields["partition"], int(fields["offset"]), camera_id, fields["score"]) for camera_id, fields in rig.store.scores
    )
    per_partition = {number: [event for event in rig.store.events if event["partition"] == number] for number in ("0", "1")}
    return scores, per_partition, rig.store.progress


@settings(deadline=None, max_examples=60)
@given(streams(), st.lists(st.integers(0, 4), max_size=8), st.lists(st.sampled_from(["lost", "unanswered", ""]), max_size=10))
@example(run_of("gate", EVENT), [], ["lost"] * 10)
def test_crashes_and_outages_change_nothing(messages: list[FrameMessage], lives: list[int], failures: list[str]) -> None:
    calm, troubled = Rig(messages), Rig(messages, max_clips=3, poll_messages=2)
    troubled.store.failures = list(failures)

    calm.finish()
    for steps in lives:
        troubled.steps(steps)
        troubled.start()
    troubled.finish()

    assert effects(troubled) == effects(calm)
    seen = {(str(rejected.message.partition), rejected.message.offset) for rejected in troubled.dead_letters.stored}
    assert seen == {(str(rejected.message.partition), rejected.message.offset) for rejected in calm.dead_letters.stored}
