"""A decoder may serve if scores stay what they are: rounding passes, another brightness or another way of fitting does not."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from deploy.bundle import Bundle, read_bundle
from deploy.engine import Engine, EngineRequest
from deploy.errors import DecoderRefused
from deploy.image import CpuDecoder, ImageDecoder
from deploy.registry import load_decoder, load_engine
from deploy.validation.accuracy import DECODER_TOLERANCE, check_decoder
from tests.harness import fake_nvimgcodec
from tests.unit.deploy.test_sequences import noise, with_sequences


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return fake_nvimgcodec.install(monkeypatch)


@pytest.fixture
def golden(bundle: Bundle) -> Bundle:
    return with_sequences(bundle, noise(bundle, 12))


@pytest.fixture
def engine(golden: Bundle) -> Iterator[Engine]:
    engine = load_engine(golden, EngineRequest("onnx", max_clips=1))  # fewer than there are sequences
    yield engine
    engine.close()


@pytest.fixture(params=[False, True], ids=["frames on the host", "frames on the device"])
def decoder(library: ModuleType, golden: Bundle, request: pytest.FixtureRequest) -> Iterator[ImageDecoder]:
    decoder = load_decoder("nvjpeg", golden.spec, threads=1, on_device=request.param)
    yield decoder
    decoder.close()


def rounded_otherwise(pixels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A tenth of all pixels one grey level off."""
    rng = np.random.default_rng(0)
    return np.clip(pixels + (rng.random(pixels.shape) < 0.1) * rng.choice([-1, 1], pixels.shape), 0, 255).astype(np.uint8)


def brighter(pixels: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.clip(pixels + 24, 0, 255).astype(np.uint8)


def test_cpu_decoder_has_no_error(engine: Engine, golden: Bundle) -> None:
    cpu = CpuDecoder(golden.spec, threads=2)
    assert check_decoder(cpu, engine, golden) == 0.0
    cpu.close()


def test_accepts_rounding(
    library: ModuleType, decoder: ImageDecoder, engine: Engine, golden: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "distort", rounded_otherwise)
    assert 0 < check_decoder(decoder, engine, golden) <= DECODER_TOLERANCE


def test_refuses_other_brightness(
    library: ModuleType, decoder: ImageDecoder, engine: Engine, golden: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "distort", brighter)
    with pytest.raises(
        DecoderRefused, match=r"nvjpeg: scores differ .* by up to 0\.\d+ .* at most 0\.01 is accepted; set decode"
    ):
        check_decoder(decoder, engine, golden)


def test_refuses_other_resizing(decoder: ImageDecoder, engine: Engine, golden: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.gpu.resize.jpeg_reduction", lambda *_: 1)  # in one step from the full size
    with pytest.raises(DecoderRefused, match="scores differ"):
        check_decoder(decoder, engine, golden)


def test_refuses_declined_jpeg(
    library: ModuleType, decoder: ImageDecoder, engine: Engine, golden: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "declines", lambda encoded: len(encoded) > 1000)  # not the one it is tried with at its start
    with pytest.raises(DecoderRefused, match="an ordinary JPEG, and it leaves it to cpu"):
        check_decoder(decoder, engine, golden)


def test_needs_golden_sequences(decoder: ImageDecoder, bundle_folder: Path, engine: Engine) -> None:
    bare = read_bundle(bundle_folder)
    with pytest.raises(DecoderRefused, match=r"holds no golden sequences to try the nvjpeg decoder on; make the bundle again"):
        check_decoder(decoder, engine, bare)
