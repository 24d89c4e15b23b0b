"""A model that carries a state, in the real service killed at random moments: the scores are the lab's, each of them once."""

import random
import re
import time
from pathlib import Path

import numpy as np
import pytest

from deploy.bundle import Bundle, Calibration
from deploy.engine import EngineRequest
from deploy.engines.registry import load_engine
from streamer.config import KafkaSettings, RedisSettings
from tests.harness.brokers import Broker, unique_kafka_settings
from tests.harness.recurrent_toy import WARMUP_FRAMES, toy_spec, write_toy_bundle
from tests.harness.replay import Cameras, footage, frame_index, ped2_cameras, produce
from tests.harness.service import Results, Service, running
from trainer.evaluation.runner import score_clips

pytestmark = [pytest.mark.data, pytest.mark.timeout(240)]

KILLS = 3
FRAMES = 100
"""Of each camera; the clips have 120 to 180."""
SPEC = toy_spec(80, 120)
NO_EVENTS = Calibration(median=0.5, q99=0.6, q999=0.7, enter=1e6, exit=1e6, frames=1000)
FAST_SESSION_MS = 2_000


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    return {camera_id: pictures[:FRAMES] for camera_id, pictures in ped2_cameras().items()}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, cameras: Cameras) -> Bundle:
    clips = footage("01", cameras["01"][:8], SPEC).frames[:, np.newaxis]
    return write_toy_bundle(tmp_path_factory.mktemp("bundle"), SPEC, clips, NO_EVENTS)


@pytest.fixture
def kafka(kafka_broker: Broker) -> KafkaSettings:
    return unique_kafka_settings(kafka_broker.address).model_copy(update={"session_timeout_ms": FAST_SESSION_MS})


def lab_scores(bundle: Bundle, cameras: Cameras) -> dict[str, np.ndarray]:
    engine = load_engine(bundle, EngineRequest("openvino"))
    try:
        return dict(score_clips(engine, (footage(name, pictures, bundle.spec) for name, pictures in cameras.items())))
    finally:
        engine.close()


def replayed_frames(service: Service) -> float:
    found = re.search(r"^oddsight_replayed_frames_total (\S+)$", service.get("/metrics")[1], re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_a_service_killed_again_and_again_scores_as_the_lab_does(
    tmp_path: Path, kafka: KafkaSettings, redis_settings: RedisSettings, cameras: Cameras, bundle: Bundle
) -> None:
    frames = produce(kafka, cameras)
    results = Results(redis_settings)
    moments, killed_at = random.Random(kafka.topic), list[int]()
    with running(Service(tmp_path, kafka, redis_settings, engine={"bundle": str(bundle.path)})) as service:
        for kill in range(KILLS):
            goal = frames * (kill + moments.random()) / (KILLS + 1)
            service.wait_until(lambda goal=goal: results.next_offsets() >= goal, f"frame {goal:.0f}")
            time.sleep(moments.random() * 0.05)
            service.kill()
            killed_at.append(results.next_offsets())
            service.start()
        service.wait_until(lambda: results.next_offsets() == frames, "end of the replay")
        replayed = replayed_frames(service)

    assert killed_at[0] < frames, "no kill came in the middle of the replay"
    assert 0 < replayed <= WARMUP_FRAMES * len(cameras)
    streamed, expected = results.scores(), lab_scores(bundle, cameras)
    assert streamed.keys() == expected.keys()
    for camera_id, entries in streamed.items():
        assert [frame_index(entry["captured_at_ms"]) for entry in entries] == list(range(FRAMES))
        np.testing.assert_allclose([float(entry["score"]) for entry in entries], expected[camera_id], rtol=1e-5)
