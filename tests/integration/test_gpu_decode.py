"""A service told to decode on a GPU does that, or does not start. nvImageCodec is a fake here: no GPU is needed."""

import sys
import threading

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from deploy.bundle import DEFAULT_BUNDLE
from deploy.errors import DecoderRefused, DecoderUnavailable
from streamer.config import Settings
from streamer.interfaces import RedisUnavailable
from streamer.service import run_service
from tests.harness import fake_nvimgcodec
from tests.harness.brokers import free_ports


def brighter(pixels: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.clip(pixels + 8, 0, 255).astype(np.uint8)


def start() -> list[str]:
    """Start a service whose Redis is away, which it only finds out once its decoder may serve; gives what it logged."""
    settings = Settings.model_validate(
        {
            "engine": {"bundle": str(DEFAULT_BUNDLE)},
            "decode": {"backend": "nvjpeg"},
            "redis": {"url": f"redis://127.0.0.1:{free_ports(1)[0]}/0"},
            "http": {"port": 0},
        }
    )
    with capture_logs() as logs, pytest.raises(RedisUnavailable):
        run_service(settings, threading.Event())
    return [line["event"] for line in logs]


def test_missing_library_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia", None)
    with pytest.raises(DecoderUnavailable, match=r"pip install 'oddsight\[nvjpeg\]'"):
        start()


def test_accepts_equal_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvimgcodec.install(monkeypatch)
    assert "decoder passed the accuracy check" in start()


def test_rejects_brighter_images(monkeypatch: pytest.MonkeyPatch) -> None:
    library = fake_nvimgcodec.install(monkeypatch)
    monkeypatch.setattr(library, "distort", brighter)
    with pytest.raises(DecoderRefused, match=r"by up to 0\.0\d+ of the largest score; at most 0\.01 is accepted"):
        start()
    assert library.calls[-1] == -1
