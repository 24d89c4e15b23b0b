"""However many camera ids arrive, only those that may be watched cost anything, and silent ones make room."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from deploy.decision import OpenEvent
from deploy.health import HealthState, Reference
from deploy.spec import ClipSpec
from streamer.config import Settings
from streamer.interfaces import CameraState, PartitionChange, Progress, Snapshot
from streamer.pipeline.registry import CameraRegistry, RefusalNotices
from streamer.pipeline.start_plan import FORGET_AFTER_S
from streamer.types import FrameMessage, Partition, QuotaUsed
from tests.harness.pipeline import PLAIN, RECURRENT, SPEC, Rig, message

P0, P1 = Partition("frames", 0), Partition("frames", 1)
CALM, ODD = 0.1, 0.8
IDLE_S = 600


def settings_of(*, health: bool = False, **registry: Any) -> Settings:
    decision = {"min_duration_s": 0.1, "merge_gap_s": 0.3}
    return Settings.model_validate({"decision": decision, **({} if health else PLAIN), "registry": registry})


def turns(*camera_ids: str, frames: int = 5, first: int = 0, brightness: float = CALM) -> list[FrameMessage]:
    """Frames of cameras that send in turn, on one partition."""
    sent = [(camera_id, number) for number in range(frames) for camera_id in camera_ids]
    return [
        message(0, first + place, name, brightness, at_ms=100 * (first + number)) for place, (name, number) in enumerate(sent)
    ]


def send(rig: Rig, messages: list[FrameMessage]) -> None:
    rig.topic.partitions[P0] += messages
    rig.finish()


def wait(rig: Rig, seconds: float) -> None:
    """Let time pass without frames, and the loop notice it."""
    rig.clock.now_s += seconds
    rig.steps(2)


def held(rig: Rig) -> dict[str, set[str]]:
    """The cameras of which something is held, by where."""
    pipeline = rig.pipeline
    active = pipeline._partitions.active[P0]
    series = {
        sample.labels["camera_id"]
        for family in rig.metrics.registry.collect()
        for sample in family.samples
        if "camera_id" in sample.labels
    }
    return {
        "windows": {camera_id for _, camera_id in pipeline.clips._windows},
        "health": set(pipeline.camera_health._cameras),
        "footage": set(pipeline.footage_check._cameras),
        "drift": set(pipeline.drift_watch._cameras),
        "recalibration": set(pipeline.recalibration._cameras),
        "metrics": series,
        "quotas": set(active.paces),
        "clocks": set(active.clocks.read),
        "states": set(active.cameras),
        "stored": set(rig.store.read(P0).cameras),
    }


# --- the registry by itself ---


class Machine(RuleBasedStateMachine):
    """Any number of names, two partitions, room for three cameras."""

    NAMES = st.sampled_from("abcdefgh")
    PARTITIONS = st.sampled_from([P0, P1])

    def __init__(self) -> None:
        super().__init__()
        self.registry = CameraRegistry(settings_of(max_cameras=3))
        self.cameras: dict[Partition, set[str]] = {}

    @property
    def count(self) -> int:
        return sum(map(len, self.cameras.values()))

    @rule(partition=PARTITIONS, stored=st.sets(NAMES))
    def load(self, partition: Partition, stored: set[str]) -> None:
        self.registry.load(partition, stored)
        self.cameras[partition] = set(stored)

    @rule(partition=PARTITIONS)
    def drop(self, partition: Partition) -> None:
        self.registry.drop(partition)
        assert self.registry.take_left() == self.cameras.pop(partition, set())

    @rule(partition=PARTITIONS, camera_id=NAMES)
    def admit(self, partition: Partition, camera_id: str) -> None:
        known, full = camera_id in self.cameras.get(partition, ()), self.count >= 3
        refusal = self.registry.admit(partition, camera_id)
        assert (refusal is None) == (known or not full)
        if refusal is None:
            self.cameras.setdefault(partition, set()).add(camera_id)

    @rule(partition=PARTITIONS, camera_id=NAMES)
    def forget(self, partition: Partition, camera_id: str) -> None:
        self.registry.forget(partition, [camera_id])
        self.cameras.get(partition, set()).discard(camera_id)

    @rule(partition=PARTITIONS, camera_id=NAMES)
    def make_room(self, partition: Partition, camera_id: str) -> None:
        """As many are to be forgotten as let a refused camera in."""
        self.registry.take_shortage()
        if self.registry.admit(partition, camera_id) is None:
            self.cameras.setdefault(partition, set()).add(camera_id)
            assert self.registry.take_shortage() == max(0, self.count - 3)
            return
        shortage = self.registry.take_shortage()
        assert shortage == self.count + 1 - 3
        for where, name in [(where, name) for where, names in self.cameras.items() for name in sorted(names)][:shortage]:
            self.forget(where, name)
        self.admit(partition, camera_id)
        assert camera_id in self.registry.cameras(partition)

    @invariant()
    def agrees(self) -> None:
        assert self.registry.count == self.count
        assert {where: self.registry.cameras(where) for where in self.cameras} == self.cameras


TestRegistry = Machine.TestCase
TestRegistry.settings = hypothesis_settings(max_examples=50, stateful_step_count=30, deadline=None)


def test_room_is_for_new_cameras_only() -> None:
    registry = CameraRegistry(settings_of(max_cameras=2))
    registry.load(P0, ["a", "b", "c"])
    refusal = registry.admit(P0, "d")
    assert refusal is not None
    assert refusal.detail == "camera 'd' is one too many: 3 are watched, and registry.max_cameras is 2"
    assert [registry.admit(P0, name) for name in "abc"] == [None] * 3
    for number in range(1_000):
        registry.admit(P0, f"invented-{number}")
    assert registry.take_shortage() == 3  # two of the thousand would have room
    assert registry.take_shortage() == 1


def test_list_has_no_limit() -> None:
    registry = CameraRegistry(settings_of(allowed=["a", "b", "c"], max_cameras=1))
    assert [registry.admit(P0, name) for name in "abc"] == [None] * 3
    refusal = registry.admit(P0, "d")
    assert refusal is not None
    assert registry.take_shortage() == 0
    assert refusal == ("unknown_camera", "camera 'd' is not in registry.allowed; add it if it is to be watched")


def test_refusals_are_told_within_bounds() -> None:
    notices = RefusalNotices()
    told = [notices.is_due(f"camera-{number % 5_000}".encode(), 100.0 + number / 1000) for number in range(20_000)]
    assert (sum(told), told.index(False)) == (100, 100)
    assert [notices.is_due(b"camera-1", at_s) for at_s in (200.0, 3_700.0, 3_701.0)] == [False, True, False]


# --- in the pipeline ---


@pytest.mark.parametrize(
    ("registry", "reason"),
    [({"max_cameras": 2}, "too_many_cameras"), ({"allowed": ["gate", "yard"]}, "unknown_camera")],
    ids=["limit", "list"],
)
def test_refused_cameras_cost_nothing(registry: dict[str, Any], reason: str) -> None:
    rig = Rig(turns("gate", "yard", "third", "fourth"), settings=settings_of(**registry))

    rig.finish()
    wait(rig, 2)

    assert rig.counted("rejected_messages_total", reason=reason) == 10
    assert rig.counted("decoded_frames_total", decoder="cpu") == 10
    assert [(letter.reason, letter.message.key) for letter in rig.dead_letters.stored] == [
        (reason, b"third"),
        (reason, b"fourth"),
    ]
    assert rig.counted("cameras") == 2
    assert set.union(*held(rig).values()) == held(rig)["windows"] == held(rig)["stored"] == {"gate", "yard"}


def test_refused_cameras_have_no_quota() -> None:
    """Whether their frames are too many or too late: each is refused."""
    many = [message(0, offset, "third", CALM, at_ms=offset) for offset in range(100)]
    late = [replace(each, offset=100 + each.offset, timestamp_ms=1) for each in many]
    rig = Rig([*many, *late, *turns("gate", first=200)], settings=settings_of(allowed=["gate"]))

    rig.finish()

    assert rig.counted("rejected_messages_total", reason="unknown_camera") == 200
    assert set.union(*held(rig).values()) == held(rig)["quotas"] == {"gate"}


def test_what_an_idle_camera_used_of_its_quota_is_put_away() -> None:
    rig = Rig([message(0, offset, "gate", CALM, at_ms=offset) for offset in range(100)])
    rig.finish()
    assert rig.counted("shed_frames_total", camera_id="gate", reason="over_rate") > 50
    assert held(rig)["quotas"] == rig.pipeline.shedding._told == {"gate"}
    wait(rig, IDLE_S + 1)
    wait(rig, 2)
    assert held(rig)["quotas"] == held(rig)["metrics"] == rig.pipeline.shedding._told == set()
    assert rig.store.read(P0).cameras["gate"].quota_used == QuotaUsed()


def test_stored_cameras_come_first_after_a_restart() -> None:
    rig = Rig(turns("gate", "yard"), settings=settings_of(max_cameras=2))
    rig.finish()
    before = len(rig.store.scores)

    rig.start()
    send(rig, turns("third", "gate", "yard", first=10))

    assert held(rig)["stored"] == {"gate", "yard"}
    assert len(rig.store.scores) == before + 10  # their clips were replayed


@pytest.mark.parametrize(("spec", "health"), [(SPEC, False), (RECURRENT, True)], ids=["windows", "recurrent"])
def test_idle_camera_is_put_away(spec: ClipSpec, health: bool) -> None:
    rig = Rig(turns("gate", "yard"), spec=spec, settings=settings_of(health=health))
    rig.finish()
    wait(rig, IDLE_S - 1)
    before = held(rig)
    assert all(before[where] == {"gate", "yard"} for where in ("windows", "metrics", "health" if health else "drift"))
    send(rig, turns("yard", first=10))
    wait(rig, 2)

    here = held(rig)
    assert here["states"] == here["stored"] == {"gate", "yard"}
    assert all(names <= {"yard"} for where, names in here.items() if where not in {"states", "stored", "clocks"})
    assert here["windows"] == here["metrics"] == {"yard"}
    assert {name: state.clip_from is None for name, state in rig.store.read(P0).cameras.items()} == {"gate": True, "yard": False}
    assert rig.counted("cameras") == 2


def test_restart_does_not_change_what_an_idle_camera_scores() -> None:
    """Its capture times go on without a gap: only the service knows that it was silent."""
    rigs = [Rig(turns("gate"), spec=RECURRENT) for _ in range(2)]
    for rig in rigs:
        rig.finish()
        wait(rig, IDLE_S + 1)
    rigs[1].start()
    for rig in rigs:
        send(rig, turns("gate", first=5, brightness=ODD))
    assert rigs[0].effects() == rigs[1].effects()
    assert float(rigs[0].store.scores[5][1]["score"]) == pytest.approx(ODD, abs=0.01)  # nothing of before in its state


def test_revoked_cameras_are_put_away_unless_they_come_back() -> None:
    rig = Rig(turns("gate"), settings=settings_of(health=True))
    rig.finish()
    rig.source.changes.append(PartitionChange("revoked", P0))
    rig.source.pause(P0)
    wait(rig, 2)
    wait(rig, IDLE_S - 1)
    assert rig.pipeline.camera_health._cameras.keys() == {"gate"}
    wait(rig, 2)
    assert rig.pipeline.camera_health._cameras.keys() == set()
    assert rig.counted("frames_total", camera_id="gate") == 0


def test_outage_puts_nothing_away() -> None:
    rig = Rig(turns("gate"))
    rig.finish()
    rig.topic.partitions[P0] += turns("gate", first=5)
    rig.store.failures.append("lost")
    rig.steps(5)
    rig.clock.now_s += IDLE_S + 1
    rig.finish()
    assert rig.counted("unscored_frames_total") == 2  # the clip went on


def test_longest_silent_camera_makes_room_and_may_return() -> None:
    rig = Rig([*turns("gate", frames=9, brightness=ODD), *turns("yard", first=9)], settings=settings_of(max_cameras=2))
    rig.store.progress[P0] = Progress(0)
    rig.finish()
    wait(rig, 10)
    send(rig, turns("yard", first=14, frames=1))
    send(rig, turns("new", first=15, frames=1))
    wait(rig, IDLE_S - 20)
    assert held(rig)["stored"] == {"gate", "yard"}

    send(rig, turns("new", first=16, frames=1))
    wait(rig, 15)
    assert held(rig)["stored"] == {"yard"}
    assert rig.events("camera_id", "kind") == [("gate", "start"), ("gate", "end")]
    send(rig, turns("new", first=17, frames=5))
    assert held(rig)["stored"] == {"yard", "new"}
    assert held(rig)["metrics"] == {"yard", "new"}

    send(rig, turns("gate", first=22))
    wait(rig, IDLE_S)
    send(rig, turns("gate", first=27))
    wait(rig, 2)
    send(rig, turns("gate", first=32))
    assert "gate" in held(rig)["stored"]


def test_rotating_names_fill_neither_memory_nor_redis_nor_metrics() -> None:
    rig = Rig(turns("gate"), settings=settings_of(max_cameras=10))
    offset = 5
    for group in range(6):
        names = [f"invented-{group}-{number}" for number in range(30)]
        send(rig, turns(*names, frames=3, first=offset))
        offset += 90
        assert len([name for name in held(rig)["stored"] if name.startswith(f"invented-{group}")]) == (10 if group else 9)
        wait(rig, IDLE_S + 1)
        assert max(map(len, held(rig).values())) <= 10
    assert rig.counted("rejected_messages_total", reason="too_many_cameras") > 300
    assert len(rig.metrics.exposition().splitlines()) < 500


def test_camera_that_left_the_list_ends_its_event_and_is_forgotten() -> None:
    event = OpenEvent(event_id="e", started_at_ms=0, last_active_ms=100, peak_score=1.0, announced_at_ms=100)
    rig = Rig(turns("gate"), settings=settings_of(allowed=["gate"]))
    learner = Snapshot(clip_from=0, content="")
    rig.store.progress[P0] = Progress(0, {"old": CameraState(event=event)}, {"old": learner})

    rig.finish()
    assert held(rig)["stored"] == {"gate", "old"}
    wait(rig, IDLE_S + 1)

    assert held(rig)["stored"] == {"gate"}
    assert not rig.store.read(P0).learners
    assert rig.events("camera_id", "kind") == [("old", "end")]


def test_camera_that_is_offline_for_a_month_is_forgotten_while_the_service_runs() -> None:
    rig = Rig(turns("gate", "yard"), settings=settings_of(health=True))
    rig.finish()
    picture: Any = None
    reference = Reference(picture, 1.0, 1.0, 1.0, 1.0, 1.0)
    rig.profiles.references |= {"gate": reference}
    rig.pipeline.camera_health.load()
    wait(rig, 31)
    assert [entry["camera_id"] for entry in rig.store.health if entry["problem"] == "offline"] == ["gate", "yard"]
    wait(rig, FORGET_AFTER_S - 60)
    assert held(rig)["stored"] == {"gate", "yard"}
    wait(rig, 61)
    assert held(rig)["stored"] == held(rig)["states"] == set()
    assert rig.profiles.references == {}
    assert rig.counted("cameras") == 0


def test_idle_cameras_beyond_the_limit_are_forgotten() -> None:
    rig = Rig(turns("yard"), settings=settings_of(max_cameras=2))
    rig.store.progress[P0] = Progress(0, {name: CameraState() for name in ("gate", "yard", "hall", "roof")})
    rig.finish()
    wait(rig, IDLE_S - 1)
    send(rig, turns("yard", first=5))
    wait(rig, 2)
    assert "yard" in held(rig)["stored"]
    assert len(held(rig)["stored"]) == 2


def test_cameras_offline_before_the_start_make_room_at_once() -> None:
    rig = Rig(turns("new", frames=1), settings=settings_of(max_cameras=1))
    gone = CameraState(health=HealthState(problem="offline", since_ms=round(rig.clock.now_s - IDLE_S - 1) * 1000))
    rig.store.progress[P0] = Progress(0, {"gone": gone})
    rig.finish()
    wait(rig, 2)
    send(rig, turns("new", first=1))
    assert held(rig)["stored"] == {"new"}
