"""Golden sequences: footage with the reference's scores in a bundle, to validate engines of other precisions than float32.

Such an engine does not reproduce the reference's scores exactly. What counts is that it ranks frames in the same order, also
after many frames of a recurrent state. The second half of each sequence is sped up, so that it holds normal and anomalous scores.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import SEQUENCES_NAME, Bundle
from deploy.engine import Clips, Engine, Scores, State
from deploy.errors import BundleIncompatible
from deploy.image import decode_image, encode_png

SPEEDUP = 3  # sped-up footage consists of every third frame


@dataclass(frozen=True, slots=True)
class GoldenSequences:
    """Consecutive frames of some cameras with the reference's scores."""

    frames: NDArray[np.uint8]  # (S, F, H, W, C)
    sped_up: NDArray[np.bool_]  # (S, F): the frames of the sped-up half
    score: NDArray[np.float32]  # (S, F); NaN for the first length - 1 frames, which complete no clip


def sequence_indices(half: int) -> NDArray[np.int64]:
    """Indices int64 (2 * half,) of a sequence's frames in a stretch of ``half * (1 + SPEEDUP)`` frames."""
    return np.concatenate([np.arange(half), half + SPEEDUP * np.arange(half)])


def sequences_bytes(sequences: GoldenSequences) -> bytes:
    """Content of ``sequences.safetensors``; the frames are stored as concatenated PNGs."""
    from safetensors.numpy import save

    images = [encode_png(frame) for sequence in sequences.frames for frame in sequence]
    return save(
        {
            "pictures": np.frombuffer(b"".join(images), np.uint8),
            "sizes_bytes": np.array([len(image) for image in images]).reshape(sequences.sped_up.shape),
            # safetensors writes the memory as it is and ignores strides.
            "hurried": np.ascontiguousarray(sequences.sped_up),
            "score": np.ascontiguousarray(sequences.score),
        }
    )


def read_sequences(bundle: Bundle) -> GoldenSequences:
    """The bundle's golden sequences. Raises BundleIncompatible if it has none, because an earlier version made it."""
    from safetensors.numpy import load_file

    if SEQUENCES_NAME not in bundle.manifest.files:
        raise BundleIncompatible(
            f"{bundle.path}: has no golden sequences, which engines of other precisions than f32 are validated with; "
            "make the bundle again with oddsight-train"
        )
    content = load_file(bundle.file(SEQUENCES_NAME))
    sizes = content["sizes_bytes"]
    images = np.split(content["pictures"], np.cumsum(sizes.ravel())[:-1])
    frames = np.stack([decode_image(image.tobytes(), bundle.spec).frame for image in images])
    return GoldenSequences(frames.reshape(*sizes.shape, *bundle.spec.frame_shape), content["hurried"], content["score"])


def score_sequences(engine: Engine, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scores float32 (S, F) of sequences uint8 (S, F, H, W, C), S <= ``max_clips``; NaN where no clip is complete."""
    result = np.full(frames.shape[:2], np.nan, np.float32)
    for frame, (_, _, scores) in enumerate(run_sequences(engine, frames), engine.spec.length - 1):
        result[:, frame] = scores.score
    return result


def run_sequences(engine: Engine, frames: NDArray[np.uint8]) -> Iterator[tuple[Clips, State | None, Scores]]:
    """Score sequences uint8 (S, F, H, W, C) frame by frame; yields the inputs and outputs of each call."""
    length = engine.spec.length
    state = None
    for end in range(length, frames.shape[1] + 1):
        clips = frames[:, end - length : end]
        scores = engine.score(clips, state)
        yield clips, state, scores
        state = scores.state
