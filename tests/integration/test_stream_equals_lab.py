"""Scores in Redis equal those of the offline evaluation, frame by frame."""

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.bundle import DEFAULT_BUNDLE, Bundle, read_bundle
from deploy.engine import EngineRequest
from deploy.registry import load_engine
from streamer.config import KafkaSettings, RedisSettings
from tests.harness.brokers import Broker, unique_kafka_settings
from tests.harness.replay import PED2, frame_index, ped2_cameras, produce
from tests.harness.service import Results, Service, running
from tests.harness.street import quiet
from trainer.data.datasets import labelled_clips
from trainer.data.footage import load_footage
from trainer.evaluation.metrics import Scores, frame_auc
from trainer.evaluation.runner import score_clips
from trainer.export import check_engines
from trainer.fit import FitConfig, fit

LENGTH = 5
FRAMES = 100
"""The beginning of each clip; the first one's anomaly begins at 60."""

pytestmark = [pytest.mark.data, pytest.mark.timeout(240)]


@pytest.fixture
def kafka(one_kafka_broker: Broker) -> KafkaSettings:
    return unique_kafka_settings(one_kafka_broker.address)


def stream_scores(folder: Path, bundle: Path, kafka: KafkaSettings, redis_settings: RedisSettings, clips: int) -> Scores:
    """Scores of Ped2's first test clips through Kafka, the service and Redis; NaN for frames without a score."""
    cameras = {camera_id: pictures[:FRAMES] for camera_id, pictures in list(ped2_cameras().items())[:clips]}
    frames = produce(kafka, cameras)
    results = Results(redis_settings)
    with running(Service(folder, kafka, redis_settings, engine={"bundle": str(bundle)})) as service:
        service.wait_until(lambda: results.next_offsets() == frames, "end of the replay", timeout_s=120)
        assert service.stop() == 0
    scores = {camera_id: np.full(len(pictures), np.nan, np.float32) for camera_id, pictures in cameras.items()}
    for camera_id, entries in results.scores().items():
        for entry in entries:
            scores[camera_id][frame_index(entry["captured_at_ms"])] = float(entry["score"])
    return scores


def lab_scores(path: Path, clips: int) -> Scores:
    bundle = read_bundle(path)
    footage = (load_footage(clip.source, bundle.spec) for clip in labelled_clips(PED2)[:clips])
    begins = (replace(clip, frames=clip.frames[:FRAMES], index=clip.index[:FRAMES], total=FRAMES) for clip in footage)
    with closing(load_engine(bundle, EngineRequest("openvino"))) as engine:
        return dict(score_clips(engine, begins))


def test_demo_model(tmp_path: Path, kafka: KafkaSettings, redis_settings: RedisSettings) -> None:
    streamed = stream_scores(tmp_path, DEFAULT_BUNDLE, kafka, redis_settings, clips=1)
    offline = lab_scores(DEFAULT_BUNDLE, clips=1)
    labels = {clip.source.name: clip.labels[:FRAMES] for clip in labelled_clips(PED2)[:1]}
    median = read_bundle(DEFAULT_BUNDLE).calibration.median

    assert streamed.keys() == offline.keys()
    for camera_id in offline:
        np.testing.assert_allclose(streamed[camera_id], offline[camera_id], rtol=1e-4)
    assert frame_auc(streamed, labels, median) == pytest.approx(frame_auc(offline, labels, median), abs=1e-3)


def test_default_recurrent_model(
    tmp_path: Path, kafka: KafkaSettings, redis_settings: RedisSettings, video_ede_bundle: Bundle
) -> None:
    streamed = stream_scores(tmp_path, video_ede_bundle.path, kafka, redis_settings, clips=2)
    for camera_id, row in lab_scores(video_ede_bundle.path, clips=2).items():
        assert np.isfinite(row).all(), "a camera's first frame is scored, too"
        np.testing.assert_allclose(streamed[camera_id], row, rtol=1e-4, atol=1e-4 * float(np.std(row)))


def test_model_of_a_paper(tmp_path: Path, kafka: KafkaSettings, redis_settings: RedisSettings) -> None:
    """A model of clips without a state. Hardly trained and small: only that all compute the same matters here."""
    for clip in ("01", "02"):
        shutil.copytree(PED2 / "training" / "frames" / clip, tmp_path / "own" / clip)
    network = {"length": LENGTH, "height_px": 64, "width_px": 96}
    bundle = fit(tmp_path / "own", tmp_path / "bundle", FitConfig(model="esad", max_steps=4, network=network), quiet())
    assert bundle is not None
    assert [line.split(" clips")[0] for line in check_engines(bundle)] == [
        f"engine {engine}: agrees on 8" for engine in ("openvino", "onnx", "torch")
    ]
    streamed = stream_scores(tmp_path, bundle.path, kafka, redis_settings, clips=1)
    offline = lab_scores(bundle.path, clips=1)
    assert [int(np.isfinite(row).sum()) for row in offline.values()] == [FRAMES - (LENGTH - 1)]
    for camera_id, row in offline.items():
        np.testing.assert_allclose(streamed[camera_id], row, rtol=1e-4, atol=1e-4 * float(np.nanstd(row)))
