"""A service told to decode on a GPU does that, or does not start. nvImageCodec is a fake here: no GPU is needed."""

import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from deploy.bundle import DEFAULT_BUNDLE, read_bundle
from deploy.errors import DecoderRefused, DecoderUnavailable
from deploy.sequences import GoldenSequences, read_sequences
from streamer.config import Settings
from streamer.interfaces import RedisUnavailable
from streamer.service import run_service
from tests.harness import fake_nvimgcodec
from tests.harness.brokers import free_ports
from tests.unit.deploy.test_sequences import with_sequences

GATE_FRAMES = 12


def brighter(pixels: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.clip(pixels + 8, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped one, with golden sequences that a decoder's gate is soon done with."""
    bundle = read_bundle(shutil.copytree(DEFAULT_BUNDLE, tmp_path_factory.mktemp("short") / "bundle"))
    whole = read_sequences(bundle)
    short = (part[:, :GATE_FRAMES] for part in (whole.frames, whole.sped_up, whole.score))
    return with_sequences(bundle, GoldenSequences(*short)).path


def start(bundle: Path) -> list[str]:
    """Start a service whose Redis is away, which it only finds out once its decoder may serve; gives what it logged."""
    settings = Settings.model_validate(
        {
            "engine": {"bundle": str(bundle)},
            "decode": {"backend": "nvjpeg"},
            "redis": {"url": f"redis://127.0.0.1:{free_ports(1)[0]}/0"},
            "http": {"port": 0},
        }
    )
    with capture_logs() as logs, pytest.raises(RedisUnavailable):
        run_service(settings, threading.Event())
    return [line["event"] for line in logs]


def test_missing_library_stops_the_start(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia", None)
    with pytest.raises(DecoderUnavailable, match=r"pip install 'oddsight\[nvjpeg\]'"):
        start(bundle)


def test_accepts_equal_scores(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvimgcodec.install(monkeypatch)
    assert "decoder passed the accuracy check" in start(bundle)


def test_rejects_brighter_images(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = fake_nvimgcodec.install(monkeypatch)
    monkeypatch.setattr(library, "distort", brighter)
    with pytest.raises(DecoderRefused, match=r"by up to 0\.\d+ of the largest score; at most 0\.01 is accepted"):
        start(bundle)
    assert library.calls[-1] == -1
