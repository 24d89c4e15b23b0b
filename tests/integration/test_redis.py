"""The progress store and the subscriber on a real Redis; the in-memory store of other tests keeps the same contract."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from deploy.decision import OpenEvent
from deploy.health import HealthState
from streamer.config import RedisSettings
from streamer.interfaces import CameraState, Fenced, Fields, Progress, ProgressStore, Step, TopicVersion
from streamer.redis.client import RedisProgressStore, make_redis
from streamer.redis.subscriber import HealthEntry, ScoreEntry, Subscriber, Updates
from streamer.types import Event, Partition
from tests.harness.fakes import MemoryProgressStore
from tests.harness.service import Results

P0 = Partition("frames", 0)
STATE = CameraState(
    clip_from=3,
    event=OpenEvent(event_id="e", started_at_ms=1, last_active_ms=2, peak_score=0.1 + 0.2, announced_at_ms=None),
    health=HealthState(problem="dark", since_ms=7),
)
SCORE = {"captured_at_ms": "1", "score": "0.25", "threshold": "0.5", "partition": "0", "offset": "4", "scored_at_ms": "2"}
EVENT = Event(
    event_id="e",
    kind="start",
    camera_id="gate",
    started_at_ms=1,
    captured_at_ms=1,
    peak_score=0.5,
    threshold=0.5,
    budget=1.0,
    observed_s=600.0,
    calibration_id="c",
    model_id="m",
    engine="onnx",
    topic="frames",
    partition=0,
    offset=4,
    scored_at_ms=2,
).fields()
HEALTH = {"schema": "1", "kind": "start", "camera_id": "gate", "problem": "dark", "text": "dark", "captured_at_ms": "1"}
STEP = Step(P0, None, 5, {"gate": STATE}, [("gate", SCORE)], [EVENT], health=[HEALTH])


class Stored:
    """A store, and what it has written."""

    def __init__(self, store: ProgressStore, results: MemoryProgressStore | Results) -> None:
        self.store = store
        self._results = results

    def effects(self) -> tuple[list[tuple[str, Fields]], list[Fields], list[Fields]]:
        if isinstance(self._results, MemoryProgressStore):
            return self._results.scores, self._results.events, self._results.health
        scores = [(name, entry) for name, entries in self._results.scores().items() for entry in entries]
        return scores, [*self._results.events()], [*self._results.health()]


@pytest.fixture(params=["memory", "redis"])
def stored(request: pytest.FixtureRequest) -> Iterator[Stored]:
    if request.param == "memory":
        memory = MemoryProgressStore()
        yield Stored(memory, memory)
        return
    settings: RedisSettings = request.getfixturevalue("redis_settings")
    with make_redis(settings) as client:
        yield Stored(RedisProgressStore(client, settings, "group"), Results(settings))


def test_applies_step(stored: Stored) -> None:
    assert stored.store.read(P0) == Progress()

    stored.store.apply(STEP)

    assert stored.store.read(P0) == Progress(5, {"gate": STATE})
    assert stored.effects() == ([("gate", SCORE)], [EVENT], [HEALTH])


@pytest.mark.parametrize("expected", [None, 4, 6])
def test_fences_unexpected_step(stored: Stored, expected: int | None) -> None:
    stored.store.apply(STEP)

    with pytest.raises(Fenced, match=rf"frames\[0\]: stored progress is 5, expected {expected}"):
        stored.store.apply(replace(STEP, expected=expected, next_offset=9, cameras={"gate": CameraState()}))

    assert stored.store.read(P0) == Progress(5, {"gate": STATE})
    assert stored.effects() == ([("gate", SCORE)], [EVENT], [HEALTH])


def test_keeps_which_topic_it_is(stored: Stored) -> None:
    topic = TopicVersion(topic_id="01a22645", partitions=4)
    stored.store.apply(replace(STEP, topic=topic))

    stored.store.apply(replace(STEP, expected=5, next_offset=6))

    assert stored.store.read(P0) == Progress(6, {"gate": STATE}, topic=topic)


def test_step_keeps_other_cameras(stored: Stored) -> None:
    stored.store.apply(replace(STEP, cameras={"yard": STATE}))

    stored.store.apply(replace(STEP, expected=5, next_offset=6))

    assert stored.store.read(P0) == Progress(6, {"yard": STATE, "gate": STATE})


@pytest.mark.parametrize("protocol", [2, 3])
def test_subscriber_follows_streams(redis_settings: RedisSettings, protocol: int) -> None:
    settings = redis_settings.model_copy(update={"url": f"{redis_settings.url}?protocol={protocol}"})
    expected = Updates(
        [ScoreEntry("gate", 1, 0.25, 0.5, 2)], [Event.model_validate(EVENT)], [HealthEntry("gate", "start", "dark", "dark", 1)]
    )
    with make_redis(settings) as client:
        store = RedisProgressStore(client, settings, "group")
        store.apply(replace(STEP, events=[EVENT, {"schema": "2"}], health=[HEALTH, {"schema": "2"}]))
        old, new = (Subscriber(client, settings, from_start=from_start) for from_start in (True, False))
        assert old.poll(0.01) == expected
        assert new.poll(0.01) == Updates([], [], [])

        store.apply(replace(STEP, expected=5, next_offset=6, scores=[("gate", SCORE), ("yard", SCORE)]))
        time.sleep(1.0)  # streams of new cameras are looked for once a second
        assert sorted(entry.camera_id for entry in new.poll(0.01).scores) == ["gate", "yard"]
