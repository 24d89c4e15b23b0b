"""Eight cameras of four views, two of them unknown: learned live through a real broker and Redis, killed in the middle."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.bundle import Bundle
from deploy.image import encode_jpeg
from deploy.profile import Profile, ProfileInfo
from streamer.config import RedisSettings
from streamer.redis.client import make_redis
from streamer.redis.profiles import RedisProfileStore
from tests.harness.brokers import EmbeddedBroker, unique_kafka_settings
from tests.harness.replay import Cameras, produce
from tests.harness.service import Results, Service, running
from tests.harness.street import SLOW_PX, street

LEARNED_FRAMES, WATCHED_FRAMES, KNOWN_FRAMES = 650, 30, 100
SECTIONS: dict[str, Any] = {"learning": {"enabled": True, "min_minutes": 0.2}, "decision": {"min_duration_s": 0.2}}
UNKNOWN = ("yard-0", "yard-1")


def view_of(number: int, frames: int, seed: int) -> list[bytes]:
    """Encoded images of one of four views: the street, mirrored, upside down, and both."""
    across, down = 1 - 2 * (number % 2), 1 - 2 * (number // 2)
    speeds = SLOW_PX * np.random.default_rng(seed).uniform(0.7, 1.3, frames)
    return [encode_jpeg(np.ascontiguousarray(frame[::down, ::across]), 90) for frame in street(frames, speeds, seed)]


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    views = [(name, number) for number, name in enumerate(("gate", "hall", "lane", "yard"))]
    return {
        f"{name}-{place}": view_of(
            number, LEARNED_FRAMES + WATCHED_FRAMES if name == "yard" else KNOWN_FRAMES, 10 * number + place
        )
        for name, number in views
        for place in range(2)
    }


def known_profile(bundle: Bundle, camera_id: str) -> Profile:
    assert bundle.default_profile is not None
    info = ProfileInfo(
        camera_id=camera_id,
        model_id=bundle.model_id,
        created_at="2026-11-28T12:00:00Z",
        footage=("monday",),
        frames=600,
        fps=10.0,
        height_px=64,
        width_px=96,
        calibration=bundle.calibration,
    )
    return Profile(info, bundle.default_profile)


def import_known(settings: RedisSettings, bundle: Bundle, cameras: Cameras) -> None:
    with make_redis(settings) as client:
        for camera_id in cameras.keys() - set(UNKNOWN):
            RedisProfileStore(client, settings).put(known_profile(bundle, camera_id))


def learned_profiles(settings: RedisSettings) -> dict[str, Profile]:
    with make_redis(settings) as client:
        store = RedisProfileStore(client, settings)
        return {camera_id: store.read(camera_id, profile_id) for camera_id, profile_id in store.current().items()}


def listed(service: Service) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "streamer.cli", "cameras", "--json", "--config", str(service.config_path)]
    answer = subprocess.run(command, check=True, timeout=60, stdout=subprocess.PIPE).stdout
    return {camera["camera_id"]: camera for camera in json.loads(answer)["cameras"]}


@pytest.mark.timeout(240)
def test_unknown_cameras_are_learned_through_kills(
    tmp_path: Path, embedded_broker: EmbeddedBroker, redis_settings: RedisSettings, cameras: Cameras, video_ede_bundle: Bundle
) -> None:
    kafka, results = unique_kafka_settings(embedded_broker.address), Results(redis_settings)
    import_known(redis_settings, video_ede_bundle, cameras)
    service = Service(tmp_path, kafka, redis_settings, engine={"bundle": str(video_ede_bundle.path)}, **SECTIONS)
    middle = produce(kafka, cameras, 0, 350)
    with running(service):
        for killed_at in (middle // 3, 2 * middle // 3):
            service.wait_until(lambda goal=killed_at: results.next_offsets() >= goal, f"frame {killed_at}")
            service.kill()
            service.start()
        service.wait_until(lambda: results.next_offsets() == middle, "first half")
        learning = listed(service)
        learned = middle + produce(kafka, cameras, 350, LEARNED_FRAMES)
        service.wait_until(lambda: results.next_offsets() == learned, "second half")
        # Frames that were fetched together with the last ones of learning are scored with the default profile.
        frames = learned + produce(kafka, cameras, LEARNED_FRAMES)
        service.wait_until(lambda: results.next_offsets() == frames, "frames on watch")
        watching = listed(service)

    assert {name: each["state"] for name, each in learning.items()} == {
        name: "learning" if name in UNKNOWN else "watching" for name in cameras
    }
    assert all(0.5 < learning[name]["learned_share"] <= 1 for name in UNKNOWN)
    assert {each["state"] for each in watching.values()} == {"watching"}
    assert {name: each["problem"] for name, each in watching.items() if each["problem"] is not None} == {}

    calm_redis = redis_settings.model_copy(update={"prefix": redis_settings.prefix + "-calm"})
    calm_kafka, calm = kafka.model_copy(update={"consumer_group": kafka.consumer_group + "-calm"}), Results(calm_redis)
    import_known(calm_redis, video_ede_bundle, cameras)
    undisturbed = Service(tmp_path, calm_kafka, calm_redis, engine={"bundle": str(video_ede_bundle.path)}, **SECTIONS)
    with running(undisturbed):
        undisturbed.wait_until(lambda: calm.next_offsets() == frames, "undisturbed run")
    disturbed_profiles, calm_profiles = learned_profiles(redis_settings), learned_profiles(calm_redis)
    for camera_id in UNKNOWN:
        actual, expected = disturbed_profiles[camera_id], calm_profiles[camera_id]
        assert actual.info.footage == ("live",)
        assert actual.info.frames == expected.info.frames
        np.testing.assert_allclose(actual.values, expected.values, rtol=1e-3, atol=1e-4)
        assert actual.info.calibration.peaks == pytest.approx(expected.info.calibration.peaks, rel=1e-2)
    assert len({entry["offset"] for entry in results.scores()["yard-0"]}) == LEARNED_FRAMES + WATCHED_FRAMES
