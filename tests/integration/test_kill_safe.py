"""Real footage through a real broker and the real service, killed at random: scores and events equal those of an undisturbed run.

The model is small, so that the service waits for messages and not for scores. Other faults: ``test_chaos.py``.
"""

import random
import re
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
from tests.harness.recurrent_toy import toy_spec, write_toy_bundle
from tests.harness.replay import Cameras, footage, frame_index, ped2_cameras, produce
from tests.harness.service import Entry, Results, Service, running
from trainer.evaluation.runner import score_clips

pytestmark = [pytest.mark.data, pytest.mark.timeout(240)]

Sections = dict[str, dict[str, object]]

KILLS = 3
CAMERAS, FRAMES = 6, 90
"""Of twelve cameras; frames of each, of which there are 120 to 180."""
HALF = 45
"""Frames of each camera that are sent before another consumer comes."""
FAST_SESSION_MS = 2_000
"""How long the group waits for a killed member."""
EVENT_FACTS = ("event_id", "kind", "camera_id", "started_at_ms", "captured_at_ms", "ended_at_ms", "partition", "offset")
NO_EVENTS = calibration_of(enter=1e6, exit_=1e6)


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
    assert disturbed.summed_up() == {camera_id: len(entries) for camera_id, entries in found.items()}
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
        assert service.stop() == 0
        service.start()
        service.wait_until(lambda: service.get("/readyz")[0] == 200, "ready service")
        service.wait_until(lambda: replayed_frames(service) >= 2 * CAMERAS, "replay")  # ready before it has any partition
        service.wait_until(lambda: service.get("/readyz")[0] == 200, "service that has replayed")
        # Two of each camera that had a frame since the last kill; of the others, those since their last snapshot.
        assert replayed_frames(service) <= 48 * CAMERAS

    assert results.next_offsets() == CAMERAS * FRAMES
    assert_same(results, calm)


@pytest.fixture(scope="module")
def toy(cameras: Cameras, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A recurrent model: its scores show whether the states were kept."""
    spec = toy_spec(80, 120)
    golden = footage("01", cameras["01"][:8], spec).frames[:, np.newaxis]
    return write_toy_bundle(tmp_path_factory.mktemp("toy"), spec, golden, NO_EVENTS)


def assert_scores_of(bundle: Bundle, results: Results, cameras: Cameras) -> None:
    streamed, expected = results.scores(), lab_scores(bundle, cameras)
    assert streamed.keys() == expected.keys()
    for camera_id, entries in streamed.items():
        assert [frame_index(entry["captured_at_ms"]) for entry in entries] == list(range(FRAMES))
        np.testing.assert_allclose([float(entry["score"]) for entry in entries], expected[camera_id], rtol=1e-5)


def test_newcomer_disturbs_only_what_moves(
    tmp_path: Path, broker: Broker, redis_settings: RedisSettings, cameras: Cameras, toy: Bundle
) -> None:
    kafka, results = fast_session(broker), Results(redis_settings)
    stays, newcomer = (Service(tmp_path, kafka, redis_settings, engine={"bundle": str(toy.path)}) for _ in range(2))
    with running(stays):
        stays.wait_until(lambda: stays.get("/readyz")[0] == 200, "ready consumer")
        frames = produce(kafka, cameras, last=HALF)
        stays.wait_until(lambda: results.next_offsets() == frames, "first half")
        with running(newcomer):
            newcomer.wait_until(lambda: "oddsight_partitions 2.0" in newcomer.get("/metrics")[1], "two partitions")
            produce(kafka, cameras, first=HALF)
            wait_for_the_end(newcomer, results)
            assert replayed_frames(stays) == 0
            assert newcomer.stop() == 0
        stays.wait_until(lambda: "oddsight_partitions 4.0" in stays.get("/metrics")[1], "all partitions")
    changes: dict[str, list[str]] = {}
    for entry in stays.log():
        if entry["event"] == "partition changed":
            changes.setdefault(entry["partition"], []).append(entry["change"])

    assert sorted(changes.values(), key=len) == [["assigned"]] * 2 + [["assigned", "revoked", "assigned"]] * 2
    assert_scores_of(toy, results, cameras)


def replayed_frames(service: Service) -> float:
    found = re.search(r"^oddsight_replayed_frames_total (\S+)$", service.get("/metrics")[1], re.MULTILINE)
    assert found is not None
    return float(found[1])
