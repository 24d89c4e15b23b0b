"""Real footage through a real broker and the real service, killed at random: scores and events equal those of an undisturbed run.

The model is small, so that the service waits for messages and not for scores. Other faults: ``test_chaos.py``.
"""

import random
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from deploy.bundle import Bundle, read_bundle, replace_calibration
from deploy.engine import EngineRequest
from deploy.registry import load_engine
from streamer.config import KafkaSettings, RedisSettings
from tests.harness.apache_kafka import missing_part
from tests.harness.brokers import Broker, EmbeddedBroker, unique_kafka_settings
from tests.harness.calibration import calibration_of
from tests.harness.replay import Cameras, footage, ped2_cameras, produce
from tests.harness.service import Entry, Results, Service, running
from trainer.evaluation.runner import score_clips

pytestmark = [pytest.mark.data, pytest.mark.timeout(240)]

Sections = dict[str, dict[str, object]]

KILLS = 3
CAMERAS, FRAMES = 6, 90
"""Of twelve cameras; frames of each, of which there are 120 to 180."""
FAST_SESSION_MS = 2_000
"""How long the group waits for a killed member."""
EVENT_FACTS = ("event_id", "kind", "camera_id", "started_at_ms", "captured_at_ms", "ended_at_ms", "partition", "offset")


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    return {camera_id: pictures[:FRAMES] for camera_id, pictures in list(ped2_cameras().items())[:CAMERAS]}


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """The real one if it is installed, else an embedded one."""
    if missing_part() is None:
        yield request.getfixturevalue("apache_kafka")
    else:
        embedded = EmbeddedBroker()
        embedded.start()
        yield embedded
        embedded.kill()


@pytest.fixture(scope="module")
def replay(broker: Broker, cameras: Cameras) -> KafkaSettings:
    """A topic with all frames, which every group may read from the start."""
    settings = fast_session(broker)
    assert produce(settings, cameras) == CAMERAS * FRAMES
    return settings


@pytest.fixture
def kafka(replay: KafkaSettings) -> KafkaSettings:
    """Settings of a group of the test's own that reads ``replay``."""
    return replay.model_copy(update={"consumer_group": f"group-{uuid.uuid4().hex[:12]}"})


@pytest.fixture(scope="module")
def calm(replay: KafkaSettings, redis_server: str, sections: Sections, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The results of a group that read ``replay`` without disturbance."""
    return undisturbed(tmp_path_factory.mktemp("calm"), replay, redis_server, sections)


@pytest.fixture(scope="module")
def sections(cameras: Cameras, video_ede_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Sections:
    """Thresholds around the median score and short times: many events, so that one lost or doubled is noticed."""
    some = {name: cameras[name] for name in ("01", "03", "05")}
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


def fast_session(broker: Broker) -> KafkaSettings:
    return unique_kafka_settings(broker.address).model_copy(update={"session_timeout_ms": FAST_SESSION_MS})


def lab_scores(bundle: Bundle, cameras: Cameras) -> dict[str, np.ndarray]:
    with closing(load_engine(bundle, EngineRequest("openvino"))) as engine:
        return dict(score_clips(engine, (footage(name, pictures, bundle.spec) for name, pictures in cameras.items())))


def kill_repeatedly(service: Service, results: Results, seed: str) -> list[int]:
    """Kill and restart a running service at random times until all frames are done; how many were done at each kill."""
    rng, done_at_kill = random.Random(seed), []
    for kill in range(KILLS):
        goal = CAMERAS * FRAMES * (kill + rng.random()) / (KILLS + 1)
        service.wait_until(lambda goal=goal: results.next_offsets() >= goal, f"frame {goal:.0f}")
        time.sleep(rng.random() * 0.1)
        service.kill()
        done_at_kill.append(results.next_offsets())
        service.start()
    wait_for_the_end(service, results)
    return done_at_kill


def wait_for_the_end(service: Service, results: Results) -> None:
    service.wait_until(lambda: results.next_offsets() == CAMERAS * FRAMES, "end of the replay")


def undisturbed(folder: Path, kafka: KafkaSettings, redis_server: str, sections: Sections) -> Results:
    """The results of another group that reads the same topic without disturbance."""
    calm_kafka = kafka.model_copy(update={"consumer_group": kafka.consumer_group + "-calm"})
    calm_redis = RedisSettings(url=redis_server, prefix=f"calm-{kafka.topic}")
    results = Results(calm_redis)
    with running(Service(folder, calm_kafka, calm_redis, **sections)) as service:
        wait_for_the_end(service, results)
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
    tmp_path: Path, kafka: KafkaSettings, redis_settings: RedisSettings, sections: Sections, calm: Results
) -> None:
    results = Results(redis_settings)
    with running(Service(tmp_path, kafka, redis_settings, **sections)) as service:
        kill_repeatedly(service, results, kafka.topic)

    assert results.next_offsets() == CAMERAS * FRAMES
    assert_same(results, calm)
