"""Where a partition starts: at the stored progress, else the committed offset, else what the settings say."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from deploy.clock import ClockRule, tick
from deploy.decision import OpenEvent
from deploy.dwell import Map
from deploy.health import HealthState
from deploy.memory import unpack_memory
from streamer.interfaces import CameraState, Fenced, Progress, Snapshot, TopicVersion
from streamer.pipeline.start_plan import MAX_REPLAY_MESSAGES, StartPlan, plan_start
from streamer.types import Partition, QuotaUsed
from tests.harness.fakes import MemoryFrameSource, MemoryProgressStore, MemoryTopic
from tests.harness.pipeline import message

P0 = Partition("frames", 0)
FIRST, END = 10, 20
OPEN_EVENT = OpenEvent(event_id="e", started_at_ms=1, last_active_ms=2, peak_score=0.9, announced_at_ms=1)


class Start:
    """A partition with offsets 10 to 19, and its stored progress."""

    def __init__(self, progress: Progress | None = None, committed: int | None = None, first: int = FIRST) -> None:
        self.topic = MemoryTopic([message(0, offset, "gate", b"never decoded") for offset in (first, END - 1)])
        if committed is not None:
            self.topic.committed[P0] = committed
        self.source = MemoryFrameSource(self.topic)
        self.store = MemoryProgressStore({} if progress is None else {P0: progress})

    def plan(self, start: str = "latest", *, out_of_range: bool = False, forget_before_ms: int = 0) -> StartPlan:
        return plan_start(self.source, self.store, P0, start, out_of_range=out_of_range, forget_before_ms=forget_before_ms)

    def remembers(self, unpack: Callable[[Snapshot], Map | None] = lambda _: MAPS) -> StartPlan:
        return plan_start(self.source, self.store, P0, "latest", unpack_memory=unpack)

    def stored(self) -> int | None:
        return self.store.read(P0).next_offset


MAPS = np.zeros((8, 2, 3), np.float32)


def memory(offset: int | None, clip_from: int | None) -> Snapshot:
    return Snapshot(clip_from=clip_from, content="", quota_used=QuotaUsed(70, 4), offset=offset, model_id="m")


def learner(offset: int | None) -> dict[str, Snapshot]:
    return {"gate": Snapshot(clip_from=11, content="", offset=offset)}


def needs(clip_from: int | None) -> dict[str, CameraState]:
    return {"gate": CameraState(clip_from=clip_from)}


@pytest.mark.parametrize(("start", "offset"), [("earliest", FIRST), ("latest", END)])
def test_new_group_follows_setting(start: str, offset: int) -> None:
    case = Start()

    plan = case.plan(start)

    assert plan == StartPlan(offset, END, offset, {}, {}, {}, 0, starts_over=False)
    assert case.stored() == offset


@pytest.mark.parametrize(("committed", "offset"), [(15, 15), (4, FIRST), (END, END)])
@pytest.mark.parametrize("start", ["earliest", "latest"])
def test_committed_offset_before_setting(start: str, committed: int, offset: int) -> None:
    case = Start(committed=committed)

    assert case.plan(start).next_offset == offset
    assert case.stored() == offset


def test_progress_before_committed_offset() -> None:
    case = Start(Progress(17, needs(15)), committed=12)

    plan = case.plan("earliest")

    assert (plan.next_offset, plan.read_from, plan.replay_from, plan.lost) == (17, 15, {"gate": 15}, 0)
    assert plan.cameras == needs(15)
    assert case.stored() == 17


def test_reads_from_oldest_needed_frame() -> None:
    cameras = {"gate": CameraState(clip_from=13), "yard": CameraState(clip_from=11), "hall": CameraState()}

    plan = Start(Progress(17, cameras)).plan()

    assert plan.read_from == 11
    assert plan.replay_from == {"gate": 13, "yard": 11}


def test_replay_begins_with_the_clock_of_its_first_frame() -> None:
    older, newer = (tick(ClockRule(5_000, 100), None, at_ms, None).after for at_ms in (1_100, 1_300))
    cameras = {name: CameraState(clip_from=13, clip_clock=newer) for name in ("gate", "yard")}

    plan = Start(Progress(17, cameras, {"gate": Snapshot(clip_from=11, content="", clip_clock=older)})).plan()

    assert plan.replay_from == {"gate": 11, "yard": 13}
    assert plan.replay_clocks == {"gate": older, "yard": newer}


def test_quota_goes_on_from_where_it_is_replayed() -> None:
    """A learner's snapshot needs older frames than the clip does; of the yard nothing is replayed."""
    cameras = {
        "gate": CameraState(clip_from=14, quota_used=QuotaUsed(140, 1)),
        "yard": CameraState(quota_used=QuotaUsed(170, 2)),
        "hall": CameraState(),
    }
    learners = {"gate": Snapshot(clip_from=12, content="", quota_used=QuotaUsed(120, 3))}

    plan = Start(Progress(17, cameras, learners)).plan()

    assert plan.replay_from == {"gate": 12}
    assert plan.quota_used == {"gate": QuotaUsed(120, 3), "yard": QuotaUsed(170, 2)}


def test_camera_with_a_memory_is_replayed_from_the_frame_before_it() -> None:
    older, newer = (tick(ClockRule(5_000, 100), None, at_ms, None).after for at_ms in (1_100, 1_500))
    state = CameraState(clip_from=11, clip_clock=older, quota_used=QuotaUsed(40, 1))
    stored = memory(16, 15).model_copy(update={"clip_clock": newer})

    plan = Start(Progress(18, {"gate": state}, memories={"gate": stored})).remembers()

    assert (plan.read_from, plan.replay_from, plan.replay_clocks) == (15, {"gate": 15}, {"gate": newer})
    assert plan.quota_used == {"gate": QuotaUsed(70, 4)}
    assert plan.memories["gate"].offset == 16
    assert plan.fallbacks() == {"gate": (11, older)}


@pytest.mark.parametrize(
    ("clip_from", "stored", "learners", "replay_from"),
    [
        (12, memory(12, 12), {}, 12),  # the first frame of its clip
        (12, memory(17, 16), {}, 16),
        (12, memory(18, 17), {}, 12),  # not counted yet: of another topic, or put back from a copy
        (12, memory(11, 10), {}, 12),  # a gap lies between
        (None, memory(16, 15), {}, None),  # late frames lie between, or the camera was silent
        (12, memory(None, 15), {}, 12),
        (12, memory(16, None), {}, 12),
        (12, memory(14, 16), {}, 12),
        (8, memory(10, 9), {}, 10),  # Kafka has not the frame before any more
        (12, memory(16, 15), learner(16), 15),
        (12, memory(16, 15), learner(15), 11),  # the learner has not seen what came before the memory
        (12, memory(16, 15), learner(None), 11),
    ],
)
def test_memory_is_used_only_if_nothing_lies_between(
    clip_from: int | None, stored: Snapshot, learners: dict[str, Snapshot], replay_from: int | None
) -> None:
    case = Start(Progress(18, needs(clip_from), learners, {"gate": stored}))

    plan = case.remembers()

    assert plan.replay_from.get("gate") == replay_from
    assert bool(plan.memories) == (replay_from == stored.clip_from)
    assert bool(case.store.read(P0).memories) == bool(plan.memories)


def test_memory_of_another_model_is_deleted() -> None:
    case = Start(Progress(18, needs(12), memories={"gate": memory(16, 15)}))

    plan = case.remembers(lambda _: None)

    assert (plan.replay_from, plan.damaged) == ({"gate": 12}, ())
    assert not case.store.read(P0).memories


def test_damaged_memory_is_named_and_deleted() -> None:
    case = Start(Progress(18, needs(12), memories={"gate": memory(16, 15).model_copy(update={"content": "?"})}))

    plan = case.remembers(lambda snapshot: unpack_memory(snapshot.content, (2, 3)))

    assert (plan.replay_from, plan.damaged) == ({"gate": 12}, ("memory:gate",))
    assert not case.store.read(P0).memories


def test_no_replay_without_clips() -> None:
    assert Start(Progress(17)).plan().read_from == 17


def test_no_replay_of_deleted_frames() -> None:
    plan = Start(Progress(12, needs(8))).plan()

    assert (plan.read_from, plan.replay_from, plan.lost) == (10, {"gate": 10}, 0)


@pytest.mark.parametrize(("beyond", "replayed"), [(0, True), (1, False)])
def test_replay_length_is_limited(beyond: int, replayed: bool) -> None:
    next_offset = 10 * MAX_REPLAY_MESSAGES
    clip_from = next_offset - MAX_REPLAY_MESSAGES - beyond
    case = Start(Progress(next_offset, {**needs(clip_from), "yard": CameraState(clip_from=next_offset - 1)}), first=0)

    plan = case.plan()

    assert plan.replay_from == {**({"gate": clip_from} if replayed else {}), "yard": next_offset - 1}
    assert plan.read_from == (clip_from if replayed else next_offset - 1)


def test_cameras_that_have_long_been_offline_are_forgotten() -> None:
    offline = HealthState(problem="offline", since_ms=99)
    cameras = {
        "gone": CameraState(health=offline),
        "open": CameraState(health=offline, event=OPEN_EVENT),
        "lately": CameraState(health=offline.model_copy(update={"since_ms": 100})),
        "dark": CameraState(health=HealthState(problem="dark", since_ms=1)),
    }
    case = Start(Progress(12, cameras, {"gone": Snapshot(clip_from=11, content="")}))

    plan = case.plan(forget_before_ms=100)

    assert (plan.cameras.keys(), plan.learners, plan.replay_from) == (cameras.keys() - {"gone"}, {}, {})
    assert case.store.read(P0) == Progress(12, plan.cameras, topic=TopicVersion(topic_id=None, partitions=1))


def test_replay_limit_fits_100_cameras() -> None:
    assert MAX_REPLAY_MESSAGES >= 60 * 100


def test_skips_and_counts_lost_messages() -> None:
    case = Start(Progress(4, needs(2)))

    plan = case.plan()

    assert (plan.next_offset, plan.read_from, plan.replay_from, plan.lost) == (FIRST, FIRST, {}, 6)
    assert case.stored() == FIRST
    assert plan.cameras == needs(2)


def test_planning_is_idempotent() -> None:
    case = Start(Progress(4, needs(2)))

    first, again = case.plan(), case.plan()

    assert (again.next_offset, again.lost) == (first.next_offset, 0)


class OvertakenStore(MemoryProgressStore):
    """Another consumer stores progress right after this one has read."""

    def read(self, partition: Partition) -> Progress:
        progress = super().read(partition)
        self.progress[partition] = Progress(12)
        return progress


def test_concurrent_start_is_fenced() -> None:
    case = Start()
    case.store = OvertakenStore()

    with pytest.raises(Fenced):
        case.plan("earliest")

    assert case.store.progress[P0] == Progress(12)


def test_recreated_topic_resets_progress() -> None:
    state = CameraState(clip_from=98, event=OPEN_EVENT)
    case = Start(Progress(100, {"gate": state, "yard": state}, memories={"gate": memory(99, 98)}))

    plan = case.plan(out_of_range=True)

    reset = {"gate": CameraState(), "yard": CameraState()}
    assert plan == StartPlan(FIRST, END, FIRST, {}, reset, {}, 0, starts_over=True)
    assert case.store.read(P0) == Progress(FIRST, reset, topic=TopicVersion(topic_id=None, partitions=0))


@pytest.mark.parametrize("progress", [Progress(12, needs(11)), Progress(END, needs(18))])
def test_out_of_range_keeps_valid_progress(progress: Progress) -> None:
    case = Start(progress)

    assert case.plan(out_of_range=True).next_offset == progress.next_offset
    assert replace(case.store.read(P0), topic=None) == progress
