"""Golden sequences of held-out footage, see :mod:`deploy.sequences`: a stretch at its own pace, then one at three times it."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.sequences import PACE, Sequences, places_of
from deploy.spec import ClipSpec
from trainer.footage import Footage
from trainer.models.serving import Serving

SEQUENCES = 2
FRAMES = 48
"""Of a sequence: long enough for a recurrent model's averages, five times over; 96 frames of 240 x 360 are 5 MB."""


def golden_sequences(network: Serving, spec: ClipSpec, held_out: Sequence[Footage]) -> Sequences:
    """Sequences of held-out footage, scored by the network itself. Shorter footage gives shorter ones, less of it fewer."""
    frames, hurried = _sequences([video.frames for video in held_out])
    return Sequences(frames, hurried, _scores(network, spec, frames))


def _sequences(videos: list[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Frames uint8 (S, F, H, W, C), and which of them are hurried, bool (S, F)."""
    half = FRAMES // 2
    stretches = list(_stretches(videos, half * (1 + PACE)))
    if not stretches:
        longest = max(videos, key=len)
        half = max(1, len(longest) // (1 + PACE))
        stretches = [longest]
    chosen = np.unique(np.linspace(0, len(stretches) - 1, SEQUENCES).astype(int))
    frames = np.stack([stretches[number][np.minimum(places_of(half), len(stretches[number]) - 1)] for number in chosen])
    return frames, np.broadcast_to(np.arange(2 * half) >= half, frames.shape[:2]).copy()


def _stretches(videos: Iterable[NDArray[np.uint8]], length: int) -> Iterable[NDArray[np.uint8]]:
    for video in videos:
        for first in range(0, len(video) - length + 1, length):
            yield video[first : first + length]


@torch.inference_mode()
def _scores(network: Serving, spec: ClipSpec, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    scores = np.full(frames.shape[:2], np.nan, np.float32)
    state = None if spec.state_shape is None else torch.zeros((len(frames), *spec.state_shape))
    for end in range(spec.length, frames.shape[1] + 1):
        clips = torch.from_numpy(frames[:, end - spec.length : end])
        score, _, *rest = network(clips) if state is None else network(clips, state)
        state = rest[0] if rest else None
        scores[:, end - 1] = score.numpy()
    return scores
