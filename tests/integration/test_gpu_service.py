"""Frames and states that stay on a GPU, from Kafka to Redis. Only the GPU is made up."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from deploy.bundle import read_bundle
from deploy.engine import load_engine
from deploy.frames import encode_png
from deploy.sequences import read_sequences, score_sequences
from streamer.config import RedisSettings, Settings
from streamer.demo import DEMO_BUNDLE
from streamer.service import run_service
from tests.harness.brokers import EmbeddedBroker, unique_kafka_settings
from tests.harness.gpu_engines import make_up_gpu
from tests.harness.replay import frame_index, produce
from tests.harness.service import Results

FRAMES, RESTART_AT = 16, 10


def serve_until(settings: Settings, is_so: Callable[[], bool]) -> None:
    """The service in a thread of this process, where the GPU is made up."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        service = pool.submit(run_service, settings, stop)
        try:
            deadline_s = time.monotonic() + 90
            while not is_so() and not service.done() and time.monotonic() < deadline_s:
                time.sleep(0.05)
        finally:
            stop.set()
        service.result(timeout=60)
    assert is_so()


def are_done(results: Results, frames: int) -> bool:
    return results.next_offsets() == frames


def cameras() -> dict[str, NDArray[np.uint8]]:
    """Footage of the bundle's own, seen by three cameras: as it is, mirrored, and upside down."""
    frames = read_sequences(read_bundle(DEMO_BUNDLE)).frames[0, :FRAMES]
    return {"as it is": frames, "mirrored": frames[:, :, ::-1], "upside down": frames[:, ::-1]}


@pytest.mark.timeout(240)
def test_scores_in_redis_are_those_of_the_reference_after_a_restart_and_with_one_camera_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded_broker: EmbeddedBroker, redis_settings: RedisSettings
) -> None:
    make_up_gpu(monkeypatch, tmp_path)
    kafka, results = unique_kafka_settings(embedded_broker.address), Results(redis_settings)
    settings = Settings.model_validate(
        {
            "kafka": kafka.model_copy(update={"start": "earliest"}),
            "redis": redis_settings,
            "engine": {"bundle": str(DEMO_BUNDLE), "backend": "torch-cuda", "resident_cameras": 2},
            "batch": {"max_clips": 8},
            "http": {"port": 0},
        }
    )
    watched = cameras()
    pictures = {camera_id: [encode_png(frame) for frame in frames] for camera_id, frames in watched.items()}
    with capture_logs() as lines:
        for first, last in ((0, RESTART_AT), (RESTART_AT, FRAMES)):
            produce(kafka, pictures, first, last)
            serve_until(settings, partial(are_done, results, last * len(pictures)))

    expected = score_sequences(load_engine(read_bundle(DEMO_BUNDLE), "onnx"), np.stack(list(watched.values())))
    for camera_id, row in zip(watched, expected, strict=True):
        found = {frame_index(entry["captured_at_ms"]): float(entry["score"]) for entry in results.scores()[camera_id]}
        assert sorted(found) == np.flatnonzero(np.isfinite(row)).tolist()
        np.testing.assert_allclose([found[frame] for frame in sorted(found)], row[np.isfinite(row)], rtol=1e-4, atol=1e-5)
    assert [line["resident_cameras"] for line in lines if line["event"] == "engine chosen"] == [2, 2]
    assert len([line for line in lines if line["event"].startswith("more cameras than stay on the device")]) == 2
