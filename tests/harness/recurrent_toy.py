"""The smallest model with a state and profiles: how bright each place was, the newest frame for half of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import Tensor, nn

from deploy.bundle import (
    GOLDEN_NAME,
    ONNX_NAME,
    PROFILE_NAME,
    WEIGHTS_NAME,
    Bundle,
    GoldenClips,
    ModelCard,
    golden_bytes,
    write_bundle,
)
from deploy.calibration import Calibration
from deploy.export.onnx import export_onnx, save_weights
from deploy.spec import ClipSpec

KIND = "recurrent-toy"
CELL_PX = 4
CHANNELS = 3
WARMUP_FRAMES = 24
"""Frames from before weigh 0.5 ** 24."""
DEFAULT_PROFILE, OTHER_PROFILE = (1.0, 0.0), (3.0, 0.5)


class RecurrentToy(nn.Module):
    """State (N, 3, h, w): mean brightness, its weight, and a trail in other units that no score depends on.

    The profile (N, 2) is a factor and an offset of the score. The heat map is the memory of the next state's first channel, as a
    network may do it. An all-white frame scores infinity, so that tests can provoke a bad score.
    """

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.Parameter(torch.tensor(0.5))

    def forward(self, clips: Tensor, state: Tensor, profile: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        frames = clips[:, -1, :, :, 0].float().unsqueeze(1) / 255
        seen = nn.functional.avg_pool2d(frames, CELL_PX)
        mean, weight, trail = state.split(1, dim=1)
        kept = self.memory * weight
        following = torch.cat([(kept * mean + seen) / (kept + 1), kept + 1, self.memory * trail + 255 * seen], dim=1)
        heatmap = following[:, 0]
        factor, offset = profile.unbind(1)
        return (factor * heatmap.amax((1, 2)) + offset) / (1 - frames.amin((1, 2, 3))), heatmap, following


def build(config: Mapping[str, Any]) -> RecurrentToy:
    return RecurrentToy()


def toy_spec(height_px: int, width_px: int, length: int = 1) -> ClipSpec:
    return ClipSpec(
        length=length,
        height_px=height_px,
        width_px=width_px,
        state_shape=(CHANNELS, height_px // CELL_PX, width_px // CELL_PX),
        state_warmup_frames=WARMUP_FRAMES,
        profile_size=len(DEFAULT_PROFILE),
    )


def chain(network: RecurrentToy, clips: NDArray[np.uint8]) -> GoldenClips:
    """The network's results for clips of one camera, one after the other, uint8 (N, T, H, W, C); its profiles take turns."""
    _, _, height_px, width_px, _ = clips.shape
    states = [torch.zeros(1, CHANNELS, height_px // CELL_PX, width_px // CELL_PX)]
    profiles = np.resize([DEFAULT_PROFILE, OTHER_PROFILE], (len(clips), len(DEFAULT_PROFILE))).astype(np.float32)
    scores, heatmaps = [], []
    with torch.inference_mode():
        for clip, profile in zip(clips, profiles, strict=True):
            score, heatmap, following = network(torch.tensor(clip[np.newaxis]), states[-1], torch.tensor(profile[np.newaxis]))
            scores.append(score)
            heatmaps.append(heatmap)
            states.append(following)
    score, heatmap, state = (torch.cat(values).numpy() for values in (scores, heatmaps, states))
    return GoldenClips(clips, score, heatmap, state[:-1], profiles, state[1:])


def write_toy_bundle(path: Path, spec: ClipSpec, clips: NDArray[np.uint8], calibration: Calibration) -> Bundle:
    """A real bundle whose golden clips are ``clips``, of one camera."""
    network = build({}).eval()
    files = {
        WEIGHTS_NAME: save_weights(network),
        ONNX_NAME: export_onnx(network, spec),
        GOLDEN_NAME: golden_bytes(chain(network, clips)),
        PROFILE_NAME: save({"profile": np.array(DEFAULT_PROFILE, np.float32)}),
    }
    card = ModelCard(kind=KIND, config={})
    return write_bundle(path, model=card, spec=spec, calibration=calibration, files=files, metrics={}, versions={})
