"""Real footage through a real broker and the real service, killed at random: scores and events equal those of an undisturbed run.

The models are small, so that the service waits for messages and not for scores.
"""

import random
import re
import shutil
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from deploy.bundle import Bundle, read_bundle, replace_calibration
from deploy.engine import EngineRequest
from deploy.registry import load_engine
from streamer.config import KafkaSettings, RedisSettings
from streamer.demo.embedded import embedded_redis
from tests.harness.brokers import Broker, free_ports, unique_kafka_settings
from tests.harness.calibration import calibration_of
from tests.harness.recurrent_toy import WARMUP_FRAMES, toy_spec, write_toy_bundle
from tests.harness.replay import Cameras, footage, frame_index, ped2_cameras, produce
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
"""How long the group waits for a killed member."""
EVENT_FACTS = ("event_id", "kind", "camera_id", "started_at_ms", "captured_at_ms", "ended_at_ms", "partition", "offset")
NO_EVENTS = calibration_of(enter=1e6, exit_=1e6)


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    return {camera_id: pictures[:FRAMES] for camera_id, pictures in ped2_cameras().items()}


@pytest.fixture(scope="module")
def sections(cameras: Cameras, video_ede_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Sections:
    """Thresholds around the median score and short times: many events, so that one lost or doubled is noticed."""
    some = {name: cameras[name] for name in ("01", "05", "09")}
    folder = tmp_path_factory.mktemp("bundle")
    shutil.copytree(video_ede_bundle.path, folder, dirs_exist_ok=True)
    bundle = read_bundle(folder)
    scores = np.concatenate(list(lab_scores(bundle, some).values()))
    low, middle = (float(np.nanquantile(scores, q)) for q in (0.4, 0.5))
    replace_calibration(bundle, calibration_of(enter=middle, exit_=low))
    return {
        "engine": {"bundle": str(folder)},
        "decision": {"min_duration_s": 0.2, "merge_gap_s": 0.3, "update_interval_s": 0.5},
    }


@pytest.fixture
def kafka(one_kafka_broker: Broker) -> KafkaSettings:
    return fast_session(one_kafka_broker)


def fast_session(broker: Broker) -> KafkaSettings:
    return unique_kafka_settings(broker.address).model_copy(update={"session_timeout_ms": FAST_SESSION_MS})


def lab_scores(bundle: Bundle, cameras: Cameras) -> dict[str, np.ndarray]:
    with closing(load_engine(bundle, EngineRequest("openvino"))) as engine:
        return dict(score_clips(engine, (footage(name, pictures, bundle.spec) for name, pictures in cameras.items())))


def kill_repeatedly(service: Service, results: Results, frames: int, seed: str) -> list[int]:
    """Kill and restart a running service at random times until all frames are done; how many were done at each kill."""
    rng, done_at_kill = random.Random(seed), []
    for kill in range(KILLS):
        goal = frames * (kill + rng.random()) / (KILLS + 1)
        service.wait_until(lambda goal=goal: results.next_offsets() >= goal, f"frame {goal:.0f}")
        time.sleep(rng.random() * 0.1)
        service.kill()
        done_at_kill.append(results.next_offsets())
        service.start()
    service.wait_until(lambda: results.next_offsets() == frames, "end of the replay")
    return done_at_kill


def undisturbed(folder: Path, kafka: KafkaSettings, redis_settings: RedisSettings, frames: int, sections: Sections) -> Results:
    """The results of another group that reads the same topic without disturbance."""
    calm_kafka = kafka.model_copy(update={"consumer_group": kafka.consumer_group + "-calm"})
    calm_redis = redis_settings.model_copy(update={"prefix": redis_settings.prefix + "-calm"})
    results = Results(calm_redis)
    with running(Service(folder, calm_kafka, calm_redis, **sections)) as service:
        service.wait_until(lambda: results.next_offsets() == frames, "end of the undisturbed replay")
    return results


def facts(entries: list[Entry]) -> dict[str, list[tuple[str, ...]]]:
    """Event entries by camera, in order, without what differs from run to run."""
    by_camera: dict[str, list[tuple[str, ...]]] = {}
    for entry in entries:
        by_camera.setdefault(entry["camera_id"], []).append(tuple(entry.get(name, "") for name in EVENT_FACTS))
    return by_camera


def assert_same(disturbed: Results, calm: Results) -> None:
    assert len(calm.events()) > 50, "too few events for a meaningful comparison"
    assert facts(disturbed.events()) == facts(calm.events())
    found, expected = disturbed.scores(), calm.scores()
    assert found.keys() == expected.keys()
    for camera_id, entries in expected.items():
        assert [entry["offset"] for entry in found[camera_id]] == [entry["offset"] for entry in entries]
        for entry, other in zip(found[camera_id], entries, strict=True):
            assert float(entry["score"]) == pytest.approx(float(other["score"]), rel=1e-3, abs=1e-5)


def test_killed_service(
    tmp_path: Path, kafka: KafkaSettings, redis_settings: RedisSettings, cameras: Cameras, sections: Sections
) -> None:
    frames = produce(kafka, cameras)
    results = Results(redis_settings)
    with running(Service(tmp_path, kafka, redis_settings, **sections)) as service:
        kill_repeatedly(service, results, frames, kafka.topic)

    assert results.next_offsets() == frames
    assert_same(results, undisturbed(tmp_path, kafka, redis_settings, frames, sections))


def test_survivor_takes_over(
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


def test_redis_outage(
    tmp_path: Path, embedded_broker: Broker, redis_settings: RedisSettings, cameras: Cameras, sections: Sections
) -> None:
    kafka = fast_session(embedded_broker)
    frames = produce(kafka, cameras)
    port, data = free_ports(1)[0], tmp_path / "redis"
    data.mkdir()
    mortal = RedisSettings(url=f"redis://127.0.0.1:{port}/0", prefix="mortal")
    service, results = Service(tmp_path, kafka, mortal, **sections), Results(mortal)
    with embedded_redis(port, data):
        service.start()
        service.wait_until(lambda: results.next_offsets() >= frames // 3, "third of the replay")
    service.wait_until(lambda: service.get("/readyz")[0] == 503, "answer that Redis is away")
    assert service.get("/livez")[0] == 200
    with embedded_redis(port, data), running(service, started=True):
        service.wait_until(lambda: results.next_offsets() == frames, "end of the replay")
        assert service.get("/readyz")[0] == 200
        assert_same(results, undisturbed(tmp_path, kafka, redis_settings, frames, sections))


def test_killed_service_rebuilds_state(
    tmp_path: Path, kafka: KafkaSettings, redis_settings: RedisSettings, cameras: Cameras
) -> None:
    spec = toy_spec(80, 120)
    golden = footage("01", cameras["01"][:8], spec).frames[:, np.newaxis]
    (tmp_path / "bundle").mkdir()
    bundle = write_toy_bundle(tmp_path / "bundle", spec, golden, NO_EVENTS)
    frames = produce(kafka, cameras)
    results = Results(redis_settings)
    with running(Service(tmp_path, kafka, redis_settings, engine={"bundle": str(bundle.path)})) as service:
        done_at_kill = kill_repeatedly(service, results, frames, kafka.topic)
        replayed = replayed_frames(service)

    assert done_at_kill[0] < frames, "no kill came in the middle of the replay"
    assert 0 < replayed <= WARMUP_FRAMES * len(cameras)
    streamed, expected = results.scores(), lab_scores(bundle, cameras)
    assert streamed.keys() == expected.keys()
    for camera_id, entries in streamed.items():
        assert [frame_index(entry["captured_at_ms"]) for entry in entries] == list(range(FRAMES))
        np.testing.assert_allclose([float(entry["score"]) for entry in entries], expected[camera_id], rtol=1e-5)


def replayed_frames(service: Service) -> float:
    found = re.search(r"^oddsight_replayed_frames_total (\S+)$", service.get("/metrics")[1], re.MULTILINE)
    assert found is not None
    return float(found[1])
