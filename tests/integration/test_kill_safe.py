"""Real footage through a real broker and the real service, killed at random moments: the effects are those of a calm run.

The model is the default one, small, so that the machine waits for messages and not for scores.
"""

import random
import shutil
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from deploy.bundle import Bundle, read_bundle, replace_calibration
from deploy.engine import EngineRequest
from deploy.engines.registry import load_engine
from streamer.config import KafkaSettings, RedisSettings
from streamer.demo.embedded import embedded_redis
from tests.harness.brokers import Broker, free_ports, unique_kafka_settings
from tests.harness.replay import Cameras, footage, ped2_cameras, produce
from tests.harness.service import Entry, Results, Service, running
from trainer.evaluation.runner import score_clips

pytestmark = [pytest.mark.data, pytest.mark.timeout(240)]

Sections = dict[str, dict[str, object]]

KILLS = 3
FRAMES = 90
"""Of each camera; the clips have 120 to 180."""
HALF = 45
"""Frames of each camera sent before a consumer is killed."""
FAST_SESSION_MS = 2_000
"""A killed member is missed for this long by its group."""
EVENT_FACTS = ("event_id", "kind", "camera_id", "started_at_ms", "captured_at_ms", "ended_at_ms", "partition", "offset")


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    return {camera_id: pictures[:FRAMES] for camera_id, pictures in ped2_cameras().items()}


@pytest.fixture(scope="module")
def sections(cameras: Cameras, ped2_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Sections:
    """Settings with thresholds in the middle of the scores and short times: every step is a chance to lose or double an event."""
    some = {name: cameras[name] for name in ("01", "05", "09")}
    bundle = nervous_bundle(ped2_bundle, tmp_path_factory.mktemp("bundle"), some)
    return {
        "engine": {"bundle": str(bundle)},
        "decision": {"min_duration_s": 0.2, "merge_gap_s": 0.3, "update_interval_s": 0.5},
    }


@pytest.fixture
def kafka(kafka_broker: Broker) -> KafkaSettings:
    return unique_kafka_settings(kafka_broker.address).model_copy(update={"session_timeout_ms": FAST_SESSION_MS})


def facts(entries: list[Entry]) -> dict[str, list[tuple[str, ...]]]:
    """Event entries by camera, in order, without what differs from run to run."""
    by_camera: dict[str, list[tuple[str, ...]]] = {}
    for entry in entries:
        by_camera.setdefault(entry["camera_id"], []).append(tuple(entry.get(name, "") for name in EVENT_FACTS))
    return by_camera


def nervous_bundle(calm: Bundle, folder: Path, cameras: Cameras) -> Path:
    """A copy of a bundle with the median score of some footage as its threshold."""
    shutil.copytree(calm.path, folder, dirs_exist_ok=True)
    bundle = read_bundle(folder)
    with closing(load_engine(bundle, EngineRequest("openvino"))) as engine:
        found = dict(score_clips(engine, (footage(name, pictures, bundle.spec) for name, pictures in cameras.items())))
    scores = np.concatenate(list(found.values()))
    low, middle = (float(np.nanquantile(scores, q)) for q in (0.4, 0.5))
    replace_calibration(bundle, bundle.calibration.model_copy(update={"enter": middle, "exit": low}))
    return folder


def undisturbed(folder: Path, kafka: KafkaSettings, redis_settings: RedisSettings, frames: int, sections: Sections) -> Results:
    """Another group reads the same topic in peace."""
    calm_kafka = kafka.model_copy(update={"consumer_group": kafka.consumer_group + "-calm"})
    calm_redis = redis_settings.model_copy(update={"prefix": redis_settings.prefix + "-calm"})
    results = Results(calm_redis)
    with running(Service(folder, calm_kafka, calm_redis, **sections)) as service:
        service.wait_until(lambda: results.next_offsets() == frames, "end of the undisturbed replay")
    return results


def assert_same(disturbed: Results, calm: Results) -> None:
    assert len(calm.events()) > 50, "too few events to tell anything"
    assert facts(disturbed.events()) == facts(calm.events())
    found, expected = disturbed.scores(), calm.scores()
    assert found.keys() == expected.keys()
    for camera_id, entries in expected.items():
        assert [entry["offset"] for entry in found[camera_id]] == [entry["offset"] for entry in entries]
        for entry, other in zip(found[camera_id], entries, strict=True):
            assert float(entry["score"]) == pytest.approx(float(other["score"]), rel=1e-3, abs=1e-5)


def test_a_service_killed_again_and_again_loses_and_doubles_nothing(
    tmp_path: Path, kafka: KafkaSettings, redis_settings: RedisSettings, cameras: Cameras, sections: Sections
) -> None:
    frames = produce(kafka, cameras)
    results = Results(redis_settings)
    moments = random.Random(kafka.topic)
    with running(Service(tmp_path, kafka, redis_settings, **sections)) as service:
        for kill in range(KILLS):
            goal = frames * (kill + moments.random()) / (KILLS + 1)
            service.wait_until(lambda goal=goal: results.next_offsets() >= goal, f"frame {goal:.0f}")
            time.sleep(moments.random() * 0.1)
            service.kill()
            service.start()
        service.wait_until(lambda: results.next_offsets() == frames, "end of the replay")

    assert results.next_offsets() == frames
    assert_same(results, undisturbed(tmp_path, kafka, redis_settings, frames, sections))


def test_the_survivor_of_two_consumers_takes_over_without_loss_or_double(
    tmp_path: Path, kafka: KafkaSettings, redis_settings: RedisSettings, cameras: Cameras, sections: Sections
) -> None:
    results = Results(redis_settings)
    victim = Service(tmp_path, kafka, redis_settings, **sections)
    survivor = Service(tmp_path, kafka, redis_settings, **sections)
    with running(victim), running(survivor):
        for service in (victim, survivor):
            service.wait_until(lambda service=service: service.get("/readyz")[0] == 200, "ready consumer")
        frames = produce(kafka, cameras, last=HALF)
        victim.wait_until(lambda: results.next_offsets() >= frames // 3, "third of the first half")
        victim.kill()
        frames += produce(kafka, cameras, first=HALF)
        survivor.wait_until(lambda: results.next_offsets() == frames, "end of the replay")

    assert_same(results, undisturbed(tmp_path, kafka, redis_settings, frames, sections))


def test_a_redis_that_dies_and_comes_back_changes_nothing(
    tmp_path: Path, embedded_broker: Broker, redis_settings: RedisSettings, cameras: Cameras, sections: Sections
) -> None:
    kafka = unique_kafka_settings(embedded_broker.address).model_copy(update={"session_timeout_ms": FAST_SESSION_MS})
    frames = produce(kafka, cameras)
    port, data = free_ports(1)[0], tmp_path / "redis"
    data.mkdir()
    mortal = RedisSettings(url=f"redis://127.0.0.1:{port}/0", prefix="mortal")
    service, results = Service(tmp_path, kafka, mortal, **sections), Results(mortal)
    with embedded_redis(port, data):
        service.start()
        service.wait_until(lambda: results.next_offsets() >= frames // 3, "third of the replay")
    service.wait_until(lambda: service.get("/readyz")[0] == 503, "word that Redis is away")
    assert service.get("/livez")[0] == 200
    with embedded_redis(port, data), running(service, started=True):
        service.wait_until(lambda: results.next_offsets() == frames, "end of the replay")
        assert service.get("/readyz")[0] == 200
        assert_same(results, undisturbed(tmp_path, kafka, redis_settings, frames, sections))
