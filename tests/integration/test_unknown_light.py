"""A camera changes from colour to infrared: told as light that it was not learned in, and no event meanwhile.

A camera that was learned live learns the second light, too.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import DEFAULT_BUNDLE, Bundle, read_bundle
from deploy.dwell import PLACE_PX, learn_background, reduce_frame
from deploy.image import encode_jpeg
from deploy.profile import Profile
from deploy.profile_learning import Normal, replace_normal
from deploy.score_maps import Grid
from streamer.config import KafkaSettings, RedisSettings
from streamer.redis.client import make_redis
from streamer.redis.profiles import RedisProfileStore
from tests.harness.brokers import EmbeddedBroker, unique_kafka_settings
from tests.harness.replay import produce
from tests.harness.service import Results, Service, running
from tests.integration.test_learning import known_profile, listed

DAYS, NIGHTS = 25, 115  # frames, ten a second: a night of 11.5 s


def by_day(bundle: Bundle) -> NDArray[np.float64]:
    """What the camera shows by day, of the size of the bundle's frames: (H, W)."""
    places = np.random.default_rng(5).uniform(40, 200, (bundle.spec.height_px // PLACE_PX, bundle.spec.width_px // PLACE_PX))
    return np.kron(places, np.ones((PLACE_PX, PLACE_PX)))


def frames_of(light: NDArray[np.float64], count: int, seed: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(0, 2, (count, *light.shape))
    return np.clip(light + noise, 0, 255).astype(np.uint8)


def learned_by_day(bundle: Bundle, camera_id: str) -> Profile:
    profile, grid = known_profile(bundle, camera_id), Grid.of(bundle).shape
    pictures = np.stack([reduce_frame(frame[..., None]) for frame in frames_of(by_day(bundle), 40, 1)]).astype(np.float32)
    normal = Normal.from_values(profile.values, grid)._replace(background=learn_background(pictures, footage_s=40.0))
    return replace(profile, values=replace_normal(profile.values, grid, normal))


def watched_by(bundle: Bundle, folder: Path, kafka: KafkaSettings, redis: RedisSettings, **sections: Any) -> Service:
    return Service(folder, kafka, redis, engine={"bundle": str(bundle.path)}, health={"enabled": True}, **sections)


def test_infrared_is_told_and_starts_no_event(
    tmp_path: Path, embedded_broker: EmbeddedBroker, redis_settings: RedisSettings
) -> None:
    kafka, results = unique_kafka_settings(embedded_broker.address), Results(redis_settings)
    bundle = read_bundle(DEFAULT_BUNDLE)
    day = by_day(bundle)
    with make_redis(redis_settings) as client:
        RedisProfileStore(client, redis_settings).put(learned_by_day(bundle, "gate"))
    parts = [frames_of(day, DAYS, 2), frames_of(255 - day, NIGHTS, 3), frames_of(day, DAYS, 4)]
    cameras = {"gate": [encode_jpeg(frame, 90) for frame in np.concatenate(parts)]}
    with running(watched_by(bundle, tmp_path, kafka, redis_settings)) as service:
        sent = produce(kafka, cameras, 0, DAYS + NIGHTS + DAYS)
        service.wait_until(lambda: results.next_offsets() == sent, "all frames", 120)
    told = results.health()
    assert [(entry["kind"], entry["problem"]) for entry in told] == [("start", "unknown_light"), ("end", "unknown_light")]
    assert told[0]["text"].startswith("light that the camera was not learned in")
    first_ms = int(told[0]["started_at_ms"])
    assert [event for event in results.events() if event["kind"] == "start" and int(event["started_at_ms"]) >= first_ms] == []


def test_a_camera_that_was_learned_live_learns_a_second_light_across_a_restart(
    tmp_path: Path, embedded_broker: EmbeddedBroker, redis_settings: RedisSettings, video_ede_bundle: Bundle
) -> None:
    """After one night the next one is known, and what was learned by day stays as it was."""
    kafka, results = unique_kafka_settings(embedded_broker.address), Results(redis_settings)
    day, first = by_day(video_ede_bundle), learned_by_day(video_ede_bundle, "gate")
    first = replace(first, info=first.info.model_copy(update={"footage": ("live",)}))
    with make_redis(redis_settings) as client:
        RedisProfileStore(client, redis_settings).put(first)
    lights = [(day, DAYS), (255 - day, 730), (day, DAYS), (255 - day, NIGHTS)]
    frames = np.concatenate([frames_of(light, count, seed) for seed, (light, count) in enumerate(lights)])
    cameras = {"gate": [encode_jpeg(frame, 90) for frame in frames]}
    learning = {"enabled": True, "min_minutes": 0.2}
    service = watched_by(video_ede_bundle, tmp_path, kafka, redis_settings, learning=learning)
    sent, states = 0, []
    for end in (400, len(frames)):  # in the midst of the first night
        with running(service):
            sent += produce(kafka, cameras, sent, end)
            service.wait_until(lambda expected=sent: results.next_offsets() == expected, "all frames", 180)
        states += [listed(service)["gate"]["state"]]
    assert states == ["learning", "watching"]
    told = [(entry["kind"], entry["problem"]) for entry in results.health()]
    assert told == [("start", "unknown_light"), ("end", "unknown_light")]
    with make_redis(redis_settings) as client:
        store = RedisProfileStore(client, redis_settings)
        profile = store.read("gate", store.current()["gate"])
    before, after = (Normal.from_values(each.values, Grid.of(video_ede_bundle).shape) for each in (first, profile))
    assert before.knows_one_light
    assert not after.knows_one_light
    assert after.ranges[0] == before.ranges[0]
    assert np.array_equal(after.background.pictures[0], before.background.pictures[0])
    assert np.abs(after.background.pictures[1] - reduce_frame((255 - day)[..., None])).mean() < 2
    assert profile.info.calibration.observed_s > first.info.calibration.observed_s
