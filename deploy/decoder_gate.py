"""May a decoder be put to work? Scores of golden frames decoded by it against scores of the same frames decoded on the CPU.

Decoders round differently, so pixels differ by a grey level or two. What counts is what that does to the scores.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import SEQUENCES_NAME, Bundle
from deploy.decoder import CpuDecoder, PictureDecoder
from deploy.device_frame import DeviceFrame
from deploy.engine import Engine
from deploy.errors import BadFrame, DecoderRefused
from deploy.frames import AnyFrame, Frame, encode_jpeg
from deploy.sequences import read_sequences, score_sequences

SCORE_TOLERANCE = 0.01
"""Largest difference of a score, by the largest score of all. Measured on the shipped model: one grey level off in 30 % of the
pixels 0.004, JPEG of quality 90 itself 0.005; but four grey levels off everywhere 0.011, eight 0.022, video's range of 16 to 235
taken for 0 to 255 0.034, pictures of 2.5 times the size fitted in another way 0.035 to 0.09."""

_QUALITY = 90
_ENLARGED = (1, 3)
"""Frames as they are, and with every pixel three times as wide and high: the CPU decodes such a JPEG at reduced size."""


def check_decoder(decoder: PictureDecoder[AnyFrame], engine: Engine, bundle: Bundle) -> float:
    """Score the bundle's golden frames as ``decoder`` and as the CPU decodes them; gives the largest difference found.

    Raises:
        DecoderRefused: there are no golden frames, it leaves ordinary JPEGs to another decoder, or its scores differ.
        DecoderFailed, EngineFailed: it cannot be tried.
    """
    if SEQUENCES_NAME not in bundle.manifest.files:
        raise DecoderRefused(
            f"{bundle.path}: holds no golden sequences to try the {decoder.name} decoder on; make the bundle again with "
            "oddsight-train, or set decode.backend to cpu"
        )
    frames = read_sequences(bundle).frames
    error = float(np.max([_error(decoder, engine, frames, times) for times in _ENLARGED]))
    if not error <= SCORE_TOLERANCE:
        raise DecoderRefused(
            f"{decoder.name}: scores differ from those of frames decoded on the CPU by up to {error:.2g} of the largest score; "
            f"at most {SCORE_TOLERANCE:g} is accepted; set decode.backend to cpu"
        )
    return error


def _error(decoder: PictureDecoder[AnyFrame], engine: Engine, frames: NDArray[np.uint8], times: int) -> float:
    pictures = [encode_jpeg(frame.repeat(times, axis=0).repeat(times, axis=1), _QUALITY) for row in frames for frame in row]
    cpu = CpuDecoder(engine.spec, threads=1)
    try:
        expected = _scores(engine, _decoded(cpu, pictures), frames.shape)
    finally:
        cpu.close()
    found = _scores(engine, _decoded(decoder, pictures), frames.shape)
    scored = np.isfinite(expected)
    largest = max(float(np.abs(expected[scored]).max()), float(np.finfo(np.float32).tiny))
    return float(np.abs(found - expected)[scored].max()) / largest


def _decoded(decoder: PictureDecoder[AnyFrame], pictures: list[bytes]) -> Iterator[Frame]:
    for result in decoder.decode(pictures):
        if isinstance(result, BadFrame) or result.decoder != decoder.name:
            said = f"refuses it: {result}" if isinstance(result, BadFrame) else f"leaves it to {result.decoder}"
            raise DecoderRefused(f"{decoder.name}: an ordinary JPEG, and it {said}; set decode.backend to cpu")
        yield result.frame.on_host() if isinstance(result.frame, DeviceFrame) else result.frame


def _scores(engine: Engine, frames: Iterator[Frame], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """float32 (S, F) of frames that belong to sequences of ``shape`` (S, F, H, W, C)."""
    sequences = np.stack(list(frames)).reshape(shape)
    parts = [sequences[first : first + engine.max_clips] for first in range(0, len(sequences), engine.max_clips)]
    return np.concatenate([score_sequences(engine, part) for part in parts])
