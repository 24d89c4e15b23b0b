"""The store of camera profiles on a real Redis, and whatever else may lie under its keys."""

import base64
from collections.abc import Iterator

import pytest
import redis

from deploy.errors import ProfileCorrupt, ProfileError
from deploy.profile import MAX_FILE_BYTES, profile_bytes
from streamer.config import RedisSettings
from streamer.interfaces import RedisUnavailable
from streamer.monitoring import Metrics
from streamer.pipeline.profiles import CameraProfiles
from streamer.redis.client import make_redis
from streamer.redis.profiles import MAX_VERSIONS, RedisProfileStore
from tests.harness.pipeline import PROFILED_BUNDLE, SETTINGS, profile_of

GATE = [profile_of("gate", factor, 0) for factor in range(MAX_VERSIONS + 2)]
IDS = [profile.profile_id for profile in GATE]
YARD = profile_of("yard", 1, 0)


@pytest.fixture
def client(redis_settings: RedisSettings) -> Iterator[redis.Redis]:
    with make_redis(redis_settings) as client:
        yield client


@pytest.fixture
def store(client: redis.Redis, redis_settings: RedisSettings) -> RedisProfileStore:
    return RedisProfileStore(client, redis_settings)


def test_stores_profiles(store: RedisProfileStore) -> None:
    assert (store.version(), store.current(), store.versions("gate")) == ("0", {}, [])

    store.put(GATE[0])
    store.put(YARD)
    store.put(GATE[1])

    assert store.version() == "3"
    assert store.current() == {"gate": IDS[1], "yard": YARD.profile_id}
    assert store.versions("gate") == [IDS[1], IDS[0]]
    assert [profile_bytes(store.read("gate", profile_id)) for profile_id in IDS[:2]] == [*map(profile_bytes, GATE[:2])]


def test_keeps_few_versions(store: RedisProfileStore, client: redis.Redis, redis_settings: RedisSettings) -> None:
    for profile in GATE:
        store.put(profile)
    store.put(GATE[-2])

    newest_first = [IDS[-2], IDS[-1], *IDS[-3:1:-1]]
    assert store.versions("gate") == newest_first
    assert set(client.hkeys(f"{redis_settings.prefix}:profiles:content:gate")) == set(newest_first)
    with pytest.raises(ProfileCorrupt, match="its content is missing"):
        store.read("gate", IDS[0])


def test_rolls_back(store: RedisProfileStore) -> None:
    for profile in GATE[:3]:
        store.put(profile)

    assert store.roll_back("gate") == IDS[1]
    assert store.roll_back("gate") == IDS[0]
    assert store.current() == {"gate": IDS[0]}
    with pytest.raises(ProfileError, match="no earlier version"):
        store.roll_back("gate")
    assert store.roll_back("gate", IDS[2]) == IDS[2]
    with pytest.raises(ProfileError, match="'gate' has no version gate-nonsense; see: oddsight-stream cameras show gate"):
        store.roll_back("gate", "gate-nonsense")
    assert (store.current(), store.version()) == ({"gate": IDS[2]}, "6")


def test_removes(store: RedisProfileStore) -> None:
    store.put(GATE[0])
    store.put(GATE[1])

    store.remove("gate")

    assert (store.current(), store.version()) == ({}, "3")
    with pytest.raises(ProfileError, match="'gate' has no profile of its own"):
        store.remove("gate")
    assert store.roll_back("gate") == IDS[1]


TEXTS = {
    "not base64": "!!!",
    "not a profile": base64.b64encode(b"rubbish" * 9).decode(),
    "of another camera": base64.b64encode(profile_bytes(YARD)).decode(),
    "another version": base64.b64encode(profile_bytes(GATE[1])).decode(),
    "huge": "A" * (2 * MAX_FILE_BYTES),
    "empty": "",
    "no text": b"\xff\xfe\x00",
    "header without end": base64.b64encode(b"\xff" * 64).decode(),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_hostile_content(store: RedisProfileStore, client: redis.Redis, redis_settings: RedisSettings, kind: str) -> None:
    store.put(GATE[0])
    store.put(YARD)
    client.hset(f"{redis_settings.prefix}:profiles:content:gate", IDS[0], TEXTS[kind])

    assert served(store) == {"yard"}
    with pytest.raises(ProfileCorrupt, match=f"^profile {IDS[0]} of camera 'gate' in Redis: "):
        store.read("gate", IDS[0])


def test_keys_of_other_types(store: RedisProfileStore, client: redis.Redis, redis_settings: RedisSettings) -> None:
    prefix = f"{redis_settings.prefix}:profiles"
    store.put(YARD)
    client.hset(prefix, "gate", b"\xff")
    client.hset(prefix, "", "")
    client.hset(prefix, b"\xfe", IDS[0])
    client.set(f"{prefix}:content:gate", "a string")

    assert served(store) == {"yard"}
    client.delete(prefix)
    client.set(prefix, "a string")
    with pytest.raises(RedisUnavailable, match="WRONGTYPE"):
        store.current()


def served(store: RedisProfileStore) -> set[str]:
    """Cameras that the service would serve with a profile of their own."""
    profiles = CameraProfiles(store, PROFILED_BUNDLE, SETTINGS, Metrics())
    profiles.load()
    return {profile.info.camera_id for profile in profiles.all()}
