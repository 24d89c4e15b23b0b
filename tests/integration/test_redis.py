"""The progress store and the subscriber on a real Redis; the in-memory store of other tests keeps the same contract."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from deploy.decision import OpenEvent
from deploy.health import HealthState
from streamer.config import RedisSettings
from streamer.demo.embedded import embedded_redis
from streamer.interfaces import (
    CameraState,
    Fenced,
    Fields,
    Progress,
    ProgressStore,
    RedisUnavailable,
    Snapshot,
    Step,
    TopicVersion,
)
from streamer.redis.client import RedisProgressStore, make_redis
from streamer.redis.profiles import RedisProfileStore
from streamer.redis.subscriber import HealthEntry, ScoreEntry, Subscriber, Updates, newest_scores
from streamer.types import Event, Partition
from tests.harness.fakes import MemoryProgressStore
from tests.harness.pipeline import Rig, profile_of, run_of
from tests.harness.service import Results
from tests.harness.stream_entries import EVENT, HEALTH

P0 = Partition("frames", 0)
STATE = CameraState(
    clip_from=3,
    event=OpenEvent(event_id="e", started_at_ms=1, last_active_ms=2, peak_score=0.1 + 0.2, announced_at_ms=None),
    health=HealthState(problem="dark", since_ms=7),
)
SCORE = {"captured_at_ms": "1", "score": "0.25", "threshold": "0.5", "partition": "0", "offset": "4", "scored_at_ms": "2"}
MINUTE = {"schema": "1", "minute_at_ms": "0", "frames": "600", "mean": "0.2", "highest": "0.5", "threshold": "0.5"}
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


def test_step_that_is_sent_again_is_written_once(stored: Stored) -> None:
    stored.store.apply(STEP)
    same_offset = Step(P0, 5, 5, events=[EVENT])

    for step in (STEP, same_offset, same_offset):
        stored.store.apply(step)

    assert stored.store.read(P0).next_offset == 5
    assert stored.effects() == ([("gate", SCORE)], [EVENT, EVENT], [HEALTH])
    with pytest.raises(Fenced):
        stored.store.apply(STEP)


def test_forgets_cameras(stored: Stored) -> None:
    stored.store.apply(
        replace(STEP, cameras={"yard": STATE, "gate": STATE}, learners={"yard": Snapshot(clip_from=1, content="A")})
    )

    stored.store.apply(Step(P0, 5, 5, forgotten=["yard"]))

    assert stored.store.read(P0) == Progress(5, {"gate": STATE})


def test_heat_maps_are_written_with_the_step_to_a_short_stream_of_their_own(redis_settings: RedisSettings) -> None:
    with make_redis(redis_settings) as client:
        store = RedisProgressStore(client, redis_settings, "group")
        store.apply(replace(STEP, heatmaps=[{"event_id": "e", "png": "x"}]))
        store.apply(Step(P0, 5, 6, heatmaps=[{"event_id": "e", "png": str(number)} for number in range(3_000)]))
        with pytest.raises(Fenced):
            store.apply(replace(STEP, heatmaps=[{"event_id": "f"}]))
        assert 2_000 <= client.xlen(redis_settings.heatmaps_key) < 2_500
        newest = cast("Any", client.xrevrange(redis_settings.heatmaps_key, count=1))[0][1]
        assert newest == {"event_id": "e", "png": "2999"}
        assert client.xlen(redis_settings.scores_key("gate")) == 1


def test_minutes_are_written_with_the_step_and_so_many_days_of_them_kept(redis_settings: RedisSettings) -> None:
    settings = redis_settings.model_copy(update={"minutes_keep_days": 0.5})
    with make_redis(settings) as client:
        store = RedisProgressStore(client, settings, "group")
        store.apply(replace(STEP, minutes=[("gate", MINUTE), ("yard", MINUTE)]))
        with pytest.raises(Fenced):
            store.apply(replace(STEP, minutes=[("gate", MINUTE)]))
        written = cast("Any", client.xrange(settings.minutes_key("gate")))
        assert [fields for _, fields in written] == [MINUTE]
        assert 2_591_900 < client.ttl(settings.minutes_key("yard")) <= 2_592_000
        store.apply(Step(P0, 5, 6, minutes=[("gate", {**MINUTE, "frames": str(number)}) for number in range(1_500)]))
        assert 720 <= client.xlen(settings.minutes_key("gate")) < 900
        client.persist(settings.minutes_key("yard"))
        store.apply(Step(P0, 6, 6, forgotten=["yard"]))
        assert client.ttl(settings.minutes_key("yard")) > 2_591_900


def test_streams_of_scores_expire(redis_settings: RedisSettings) -> None:
    settings = redis_settings.model_copy(update={"scores_expire_days": 2.0})
    with make_redis(settings) as client:
        client.xadd(settings.scores_key("yard"), SCORE)  # of before there was an expiry
        store = RedisProgressStore(client, settings, "group")
        store.apply(STEP)
        assert 172_700 < client.ttl(settings.scores_key("gate")) <= 172_800
        store.apply(Step(P0, 5, 5, forgotten=["yard", "hall"]))
        assert 172_700 < client.ttl(settings.scores_key("yard")) <= 172_800
        assert [client.ttl(key) for key in (settings.events_key, settings.health_key)] == [-1, -1]


@pytest.fixture(scope="module")
def own_redis() -> Iterator[RedisSettings]:
    """A Redis of this file's own, whose settings and users its tests change."""
    with embedded_redis() as url:
        yield RedisSettings(url=url)


@pytest.fixture
def admin(own_redis: RedisSettings) -> Iterator[redis.Redis]:
    with make_redis(own_redis) as client:
        client.flushall()
        yield client


@pytest.mark.parametrize(
    "key",
    ["oddsight:events", "oddsight:health", "oddsight:scores:yard", "oddsight:minutes:gate", "oddsight:progress:group:frames:0"],
)
def test_other_content_of_a_key_is_named_and_nothing_written(admin: redis.Redis, own_redis: RedisSettings, key: str) -> None:
    admin.set(key, "not ours")

    with pytest.raises(RedisUnavailable, match=rf"{key} is a string, but must be a (stream|hash): rename or delete it"):
        RedisProgressStore(admin, own_redis, "group").apply(
            replace(STEP, scores=[("gate", SCORE), ("yard", SCORE)], minutes=[("gate", MINUTE)])
        )

    assert admin.keys() == [key]


USERS = [
    ("~oddsight:* +@all -xadd", "XADD on the key oddsight:events"),
    ("~oddsight:* +@all -hset", "HSET on the key oddsight:"),
    ("~oddsight:progress:* ~oddsight:trial:* ~oddsight:scores:* ~oddsight:health +@all", "ACL forbids"),
    ("~oddsight:* +@all -expire", "EXPIRE on the key oddsight:"),
    ("~oddsight:* +@all -hdel", "HDEL on the key oddsight:"),
    ("~oddsight:* +@all -type", "ACL forbids this user"),
]


@pytest.mark.parametrize(("rights", "named"), USERS)
def test_missing_right_is_named_and_nothing_written(
    admin: redis.Redis, own_redis: RedisSettings, rights: str, named: str
) -> None:
    admin.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">secret", *rights.split())
    settings = own_redis.model_copy(update={"url": own_redis.url.replace("redis://", "redis://limited:secret@")})
    with make_redis(settings) as client:
        store = RedisProgressStore(client, settings, "group")

        with pytest.raises(RedisUnavailable, match=named):
            store.try_step()
        with pytest.raises(RedisUnavailable, match=named):
            store.apply(STEP)

    assert admin.keys() == []


def test_documented_rights_are_enough(admin: redis.Redis, own_redis: RedisSettings) -> None:
    (line,) = (line for line in Path("docs/operate.md").read_text().splitlines() if line.startswith("    ACL SETUSER"))
    admin.execute_command(*line.split())
    settings = own_redis.model_copy(update={"url": own_redis.url.replace("redis://", "redis://oddsight:PASSWORD@")})
    with make_redis(settings) as client:
        store, profiles = RedisProgressStore(client, settings, "group"), RedisProfileStore(client, settings)
        store.try_step()
        store.apply(STEP)
        profiles.put(profile_of("gate", 1, 0))
        profiles.freeze("gate", frozen=True)
        assert store.read(P0).next_offset == 5
        assert store.camera_states("frames").keys() == {"gate"}
        assert newest_scores(client, settings).keys() == {"gate"}
        assert len(Subscriber(client, settings, from_start=True).poll(0.01).events) == 1


REFUSALS = {
    "memory is full": (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]),
    "replicas": (["CONFIG", "SET", "min-replicas-to-write", "1"], ["CONFIG", "SET", "min-replicas-to-write", "0"]),
    "must name the primary": (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]),
}
"""What the error says -> the command after which Redis takes no writes, and the one that ends it."""


@contextmanager
def refusing(admin: redis.Redis, named: str) -> Iterator[None]:
    """Redis can be read and takes no writes while the block lasts."""
    begin, end = REFUSALS[named]
    admin.execute_command(*begin)
    try:
        yield
    finally:
        admin.execute_command(*end)


@pytest.mark.parametrize("named", REFUSALS)
def test_redis_that_takes_no_writes_is_found_out(admin: redis.Redis, own_redis: RedisSettings, named: str) -> None:
    store = RedisProgressStore(admin, own_redis, "group")
    store.apply(STEP)
    with refusing(admin, named):
        with pytest.raises(RedisUnavailable, match=named):
            store.try_step()
        with pytest.raises(RedisUnavailable, match=named):
            store.apply(replace(STEP, expected=5, next_offset=6))
    assert (store.read(P0).next_offset, admin.xlen("oddsight:events")) == (5, 1)


@pytest.mark.parametrize("named", REFUSALS)
def test_nothing_is_scored_again_and_again_while_redis_takes_no_writes(
    admin: redis.Redis, own_redis: RedisSettings, named: str
) -> None:
    rig = Rig(run_of("gate", [0.1] * 30 + [0.8] * 10 + [0.1] * 60))
    results = Results(own_redis)
    rig.store = RedisProgressStore(admin, own_redis, "group")
    rig.start()
    rig.steps(6)
    stored, scored = results.next_offsets(), rig.counted("scored_clips_total")
    with refusing(admin, named):
        rig.steps(3)
        reasons = {rig.health.ready() for _ in range(1_000) if rig.pipeline.step() is None}
        assert 0 < stored == results.next_offsets() < 100
    in_vain = rig.counted("scored_clips_total") - scored
    rig.finish()

    assert all(reason is not None and named in reason for reason in reasons)
    assert in_vain <= 8
    assert [int(entry["offset"]) for entry in results.scores()["gate"]] == list(range(2, 100))
    assert [event["kind"] for event in results.events()] == ["start", "end"]


@pytest.mark.parametrize("key", ["oddsight:events", "oddsight:scores:gate"])
def test_service_waits_until_a_key_is_free(admin: redis.Redis, own_redis: RedisSettings, key: str) -> None:
    admin.set(key, "not ours")
    rig = Rig(run_of("gate", [0.1] * 5 + [0.8] * 10 + [0.1] * 15))
    rig.store = RedisProgressStore(admin, own_redis, "group")
    rig.start()

    rig.steps(500)
    assert key in str(rig.health.ready())
    admin.delete(key)
    rig.finish()

    assert rig.health.ready() is None
    assert rig.counted("scored_clips_total") == len(Results(own_redis).scores()["gate"]) == 28
    assert [event["kind"] for event in Results(own_redis).events()] == ["start", "end"]


def test_trial_leaves_nothing_behind(admin: redis.Redis, own_redis: RedisSettings) -> None:
    RedisProgressStore(admin, own_redis, "group").try_step()

    assert admin.keys() == []


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
        assert new.recent() == expected
        assert Subscriber(client, settings, from_start=True).recent() == Updates([], [], [])

        end, update, later = (
            {**EVENT, "kind": kind, "offset": offset} for kind, offset in (("end", "8"), ("update", "5"), ("update", "7"))
        )
        again = [EVENT, {**EVENT, "offset": "5"}, update, update, later, end, {**end, "offset": "9"}]
        store.apply(replace(STEP, expected=5, next_offset=6, scores=[("gate", SCORE), ("yard", SCORE)], events=again))
        assert [(event.kind, event.offset) for event in old.poll(0.01).events] == [("update", 5), ("update", 7), ("end", 8)]
        time.sleep(1.0)  # streams of new cameras are looked for once a second
        assert sorted(entry.camera_id for entry in new.poll(0.01).scores) == ["gate", "yard"]
