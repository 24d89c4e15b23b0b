"""Golden sequences: a bundle's few stretches of footage, to try an engine on from frame to frame as it watches a camera.

Golden clips say whether an engine computes what the reference computes. An engine of another precision does not, quite; what
counts then is whether it ranks frames as the reference does, after many frames of its own states. The second half of each
sequence is footage played at three times its pace: unusual to a model of motion, so that ordinary and unusual scores are there.
Footage that a graph is made from is drawn in the same way, see :mod:`deploy.export.calibration_frames`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import SEQUENCES_NAME, Bundle
from deploy.engine import Clips, Engine, Scores, State
from deploy.errors import BundleIncompatible
from deploy.image import decode_picture, encode_png
from deploy.spec import ClipSpec

PACE = 3
"""How many times its own pace hurried footage is played at."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """Frames of some cameras, one after the other, with the reference's scores."""

    frames: NDArray[np.uint8]
    """uint8 (S, F, H, W, C)."""
    hurried: NDArray[np.bool_]
    """bool (S, F): what is played at three times its pace."""
    score: NDArray[np.float32]
    """float32 (S, F) of the reference; NaN where no clip ends: at the first ``length`` - 1 frames."""


def places_of(half: int) -> NDArray[np.int64]:
    """Which frames of a stretch of ``half * (1 + PACE)`` make a sequence, int64 (2 * half,): from the middle on it is hurried."""
    return np.concatenate([np.arange(half), half + PACE * np.arange(half)])


def sequences_bytes(sequences: Sequences) -> bytes:
    """Content of ``sequences.safetensors``: the frames are PNGs, one after the other."""
    from safetensors.numpy import save

    pictures = [encode_png(frame) for row in sequences.frames for frame in row]
    return save(
        {
            "pictures": np.frombuffer(b"".join(pictures), np.uint8),
            "sizes_bytes": np.array([len(picture) for picture in pictures]).reshape(sequences.hurried.shape),
            # safetensors writes the memory as it lies, whatever the strides say.
            "hurried": np.ascontiguousarray(sequences.hurried),
            "score": np.ascontiguousarray(sequences.score),
        }
    )


def read_sequences(bundle: Bundle) -> Sequences:
    """The bundle's golden sequences.

    Raises:
        BundleIncompatible: it holds none: it was made by an earlier version.
    """
    from safetensors.numpy import load_file

    if SEQUENCES_NAME not in bundle.manifest.files:
        raise BundleIncompatible(
            f"{bundle.path}: holds no golden sequences, without which no engine but those of float32 can be tried; "
            "make the bundle again with oddsight-train"
        )
    content = load_file(bundle.file(SEQUENCES_NAME))
    sizes = content["sizes_bytes"]
    frames = np.stack(list(_decoded(content["pictures"].tobytes(), sizes, bundle.spec)))
    return Sequences(frames.reshape(*sizes.shape, *bundle.spec.frame_shape), content["hurried"], content["score"])


def score_sequences(engine: Engine, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scores of sequences uint8 (S, F, H, W, C), all side by side, float32 (S, F); NaN where no clip ends. S <= ``max_clips``."""
    scores = np.full(frames.shape[:2], np.nan, np.float32)
    for frame, (_, _, found) in enumerate(walk(engine, frames), engine.spec.length - 1):
        scores[:, frame] = found.score
    return scores


def walk(engine: Engine, frames: NDArray[np.uint8]) -> Iterator[tuple[Clips, State | None, Scores]]:
    """What an engine is given and gives on its way through sequences uint8 (S, F, H, W, C), clip by clip."""
    length = engine.spec.length
    state = None
    for end in range(length, frames.shape[1] + 1):
        clips = frames[:, end - length : end]
        found = engine.score(clips, state)
        yield clips, state, found
        state = found.state


def _decoded(pictures: bytes, sizes: NDArray[np.int64], spec: ClipSpec) -> Iterator[NDArray[np.uint8]]:
    ends = np.cumsum(sizes.ravel())
    for end, size in zip(ends, sizes.ravel(), strict=True):
        yield decode_picture(pictures[end - size : end], spec).frame
