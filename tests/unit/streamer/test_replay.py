"""Where a partition begins: stored progress first, then the group's committed offset, then the settings."""

import pytest

from deploy.decision import OpenEvent
from streamer.errors import Fenced
from streamer.interfaces import CameraState, Progress
from streamer.pipeline.replay import MAX_REPLAY_MESSAGES, StartPlan, plan_start, start_over
from streamer.types import Partition
from tests.harness.fakes import MemoryFrameSource, MemoryProgressStore, MemoryTopic
from tests.unit.streamer.pipeline_kit import message

P0 = Partition("frames", 0)
FIRST, END = 10, 20
OPEN_EVENT = OpenEvent(event_id="e", started_at_ms=1, last_active_ms=2, peak_score=0.9, announced_at_ms=1)


class Start:
    """A partition that Kafka keeps from offset 10 to 19, and what is known of it."""

    def __init__(self, progress: Progress | None = None, committed: int | None = None, first: int = FIRST) -> None:
        self.topic = MemoryTopic([message(0, offset, "gate", b"never decoded") for offset in (first, END - 1)])
        if committed is not None:
            self.topic.committed[P0] = committed
        self.source = MemoryFrameSource(self.topic)
        self.store = MemoryProgressStore({} if progress is None else {P0: progress})

    def plan(self, start: str = "latest") -> StartPlan:
        return plan_start(self.source, self.store, P0, start)

    def stored(self) -> int | None:
        return self.store.read(P0).next_offset


def needs(clip_from: int | None) -> dict[str, CameraState]:
    return {"gate": CameraState(clip_from=clip_from)}


@pytest.mark.parametrize(("start", "offset"), [("earliest", FIRST), ("latest", END)])
def test_a_group_that_knows_nothing_begins_where_the_settings_say(start: str, offset: int) -> None:
    case = Start()

    plan = case.plan(start)

    assert plan == StartPlan(offset, offset, {}, {}, 0)
    assert case.stored() == offset


@pytest.mark.parametrize(("committed", "offset"), [(15, 15), (4, FIRST), (END, END)])
@pytest.mark.parametrize("start", ["earliest", "latest"])
def test_the_groups_committed_offset_comes_before_the_settings(start: str, committed: int, offset: int) -> None:
    case = Start(committed=committed)

    assert case.plan(start).next_offset == offset
    assert case.stored() == offset


def test_stored_progress_comes_before_the_committed_offset() -> None:
    case = Start(Progress(17, needs(15)), committed=12)

    plan = case.plan("earliest")

    assert (plan.next_offset, plan.read_from, plan.replay_from, plan.lost) == (17, 15, {"gate": 15}, 0)
    assert plan.cameras == needs(15)
    assert case.stored() == 17


def test_reading_begins_at_the_oldest_frame_that_any_camera_needs() -> None:
    cameras = {"gate": CameraState(clip_from=13), "yard": CameraState(clip_from=11), "hall": CameraState()}

    plan = Start(Progress(17, cameras)).plan()

    assert plan.read_from == 11
    assert plan.replay_from == {"gate": 13, "yard": 11}


def test_without_clips_under_way_reading_begins_at_the_progress() -> None:
    assert Start(Progress(17)).plan().read_from == 17


def test_frames_that_kafka_no_longer_has_are_not_replayed() -> None:
    plan = Start(Progress(12, needs(8))).plan()

    assert (plan.read_from, plan.replay_from, plan.lost) == (10, {"gate": 10}, 0)


@pytest.mark.parametrize(("beyond", "replayed"), [(0, True), (1, False)])
def test_a_camera_that_would_be_replayed_from_too_far_back_starts_afresh(beyond: int, replayed: bool) -> None:
    next_offset = 10 * MAX_REPLAY_MESSAGES
    clip_from = next_offset - MAX_REPLAY_MESSAGES - beyond
    case = Start(Progress(next_offset, {**needs(clip_from), "yard": CameraState(clip_from=next_offset - 1)}), first=0)

    plan = case.plan()

    assert plan.replay_from == {**({"gate": clip_from} if replayed else {}), "yard": next_offset - 1}
    assert plan.read_from == (clip_from if replayed else next_offset - 1)


def test_sixty_frames_of_a_hundred_cameras_on_one_partition_are_replayed() -> None:
    assert MAX_REPLAY_MESSAGES >= 60 * 100


def test_messages_deleted_before_they_were_read_are_counted_and_stepped_over() -> None:
    case = Start(Progress(4, needs(2)))

    plan = case.plan()

    assert (plan.next_offset, plan.read_from, plan.replay_from, plan.lost) == (FIRST, FIRST, {}, 6)
    assert case.stored() == FIRST
    assert plan.cameras == needs(2)


def test_planning_again_changes_nothing() -> None:
    case = Start(Progress(4, needs(2)))

    first, again = case.plan(), case.plan()

    assert (again.next_offset, again.lost) == (first.next_offset, 0)


class OvertakenStore(MemoryProgressStore):
    """Another consumer stores its beginning right after this one has read."""

    def read(self, partition: Partition) -> Progress:
        progress = super().read(partition)
        self.progress[partition] = Progress(12)
        return progress


def test_of_two_consumers_that_begin_at_once_only_one_may_store_where() -> None:
    case = Start()
    case.store = OvertakenStore()

    with pytest.raises(Fenced):
        case.plan("earliest")

    assert case.store.progress[P0] == Progress(12)


def test_starting_over_forgets_progress_beyond_the_topics_end() -> None:
    state = CameraState(clip_from=98, event=OPEN_EVENT)
    case = Start(Progress(100, {"gate": state, "yard": state}))

    start_over(case.source, case.store, P0)

    assert case.store.read(P0) == Progress(FIRST, {"gate": CameraState(), "yard": CameraState()})


@pytest.mark.parametrize("progress", [Progress(), Progress(12, needs(11)), Progress(END, needs(18))])
def test_starting_over_leaves_progress_alone_that_the_topic_still_has(progress: Progress) -> None:
    case = Start(progress)

    start_over(case.source, case.store, P0)

    assert case.store.read(P0) == progress
