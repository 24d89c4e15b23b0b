"""Frames, states and profiles that stay on a GPU, from Kafka to Redis. Only the GPU is made up."""

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

from deploy.bundle import Bundle
from deploy.engine import EngineRequest
from deploy.image import DeviceFrame, decode_image, encode_jpeg, encode_png
from deploy.profile import Profile, with_profile
from deploy.registry import load_engine
from deploy.sequences import read_sequences, score_sequences
from streamer.config import RedisSettings, Settings
from streamer.redis.client import make_redis
from streamer.redis.profiles import RedisProfileStore
from streamer.service import run_service
from tests.harness import fake_nvimgcodec
from tests.harness.brokers import EmbeddedBroker, unique_kafka_settings
from tests.harness.gpu_engines import make_up_gpu
from tests.harness.pipeline import profile_of
from tests.harness.replay import frame_index, produce
from tests.harness.service import Results

FRAMES, RESTART_AT = 9, 5


def encoded(frames: NDArray[np.uint8], decoder: str) -> list[bytes]:
    """For a GPU JPEGs, but for one picture that OpenCV has to decode."""
    if decoder == "cpu":
        return [encode_png(frame) for frame in frames]
    return [encode_png(frame) if number == 1 else encode_jpeg(frame, 95) for number, frame in enumerate(frames)]


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


def cameras(bundle: Bundle) -> dict[str, NDArray[np.uint8]]:
    """Footage of the bundle's own, seen by three cameras: as it is, mirrored, and upside down."""
    frames = read_sequences(bundle).frames[0, :FRAMES]
    return {"as it is": frames, "mirrored": frames[:, :, ::-1], "upside down": frames[:, ::-1]}


def store_profiles(bundle: Bundle, settings: RedisSettings) -> dict[str, Bundle]:
    """Two cameras get a profile of their own; the bundle with the profile of each camera."""
    bundles = dict.fromkeys(cameras(bundle), bundle)
    assert bundle.default_profile is not None
    with make_redis(settings) as client:
        for camera_id, factor in (("mirrored", 1.25), ("upside down", 0.8)):
            info = profile_of(camera_id, 1, 0, bundle.model_id).info
            profile = Profile(info, bundle.default_profile * np.float32(factor))
            RedisProfileStore(client, settings).put(profile)
            bundles[camera_id] = with_profile(bundle, profile)
    return bundles


@pytest.mark.timeout(240)
@pytest.mark.parametrize("decoder", ["cpu", "nvjpeg"])
def test_scores_equal_the_reference_after_restart(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    video_ede_bundle: Bundle,
    embedded_broker: EmbeddedBroker,
    redis_settings: RedisSettings,
    decoder: str,
) -> None:
    make_up_gpu(monkeypatch, tmp_path)
    fake_nvimgcodec.install(monkeypatch)
    copied, on_host = [], DeviceFrame.on_host
    monkeypatch.setattr(DeviceFrame, "on_host", lambda frame: copied.append(frame) or on_host(frame))
    kafka, results = unique_kafka_settings(embedded_broker.address), Results(redis_settings)
    settings = Settings.model_validate(
        {
            "kafka": kafka.model_copy(update={"start": "earliest"}),
            "redis": redis_settings,
            "engine": {"bundle": str(video_ede_bundle.path), "backend": "torch-cuda", "gpu_cached_cameras": 2},
            "decode": {"backend": decoder},
            "batch": {"max_clips": 8},
            "health": {"enabled": False},  # it copies a frame of each camera a second
            "http": {"port": 0},
        }
    )
    watched, bundles = cameras(video_ede_bundle), store_profiles(video_ede_bundle, redis_settings)
    pictures = {camera_id: encoded(frames, decoder) for camera_id, frames in watched.items()}
    with capture_logs() as lines:
        for first, last in ((0, RESTART_AT), (RESTART_AT, FRAMES)):
            produce(kafka, pictures, first, last)
            serve_until(settings, partial(are_done, results, last * len(pictures)))

    seen = np.stack([[decode_image(picture, video_ede_bundle.spec).frame for picture in row] for row in pictures.values()])
    for camera_id, frames in zip(watched, seen, strict=True):
        [row] = score_sequences(load_engine(bundles[camera_id], EngineRequest("onnx")), frames[np.newaxis])
        found = {frame_index(entry["captured_at_ms"]): float(entry["score"]) for entry in results.scores()[camera_id]}
        assert sorted(found) == np.flatnonzero(np.isfinite(row)).tolist()
        np.testing.assert_allclose([found[frame] for frame in sorted(found)], row[np.isfinite(row)], rtol=1e-4, atol=1e-5)
    assert [line["gpu_cached_cameras"] for line in lines if line["event"] == "engine chosen"] == [2, 2]
    assert len([line for line in lines if line["event"].startswith("GPU cache exhausted")]) == 2
    # By the decoder's gate all golden frames in two sizes; then of the camera without room every frame, the first run's twice.
    shown = 2 * read_sequences(video_ede_bundle).score.size
    assert len(copied) == (0 if decoder == "cpu" else 2 * shown + FRAMES + RESTART_AT)
