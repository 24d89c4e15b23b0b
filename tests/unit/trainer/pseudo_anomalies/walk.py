"""A street of 64 x 96 pixels on which a textured square walks, and what the pseudo-anomalies make of it."""

import numpy as np

from trainer.data.footage import Footage
from trainer.pseudo_anomalies.segments import CameraView, DisFlow, SegmentedView, camera_views, segment_views

HEIGHT_PX, WIDTH_PX, SQUARE_PX = 64, 96, 12

Frames = np.ndarray


def road(seed: int = 7) -> np.ndarray:
    """An empty street, float (64, 96); another seed is another street."""
    coarse = np.random.default_rng(seed).uniform(60, 160, (8, 12))
    return np.kron(coarse, np.ones((8, 8)))


def walk(frames_n: int, speed_px: float, top: int = 24, start: float = 6.0, street: np.ndarray | None = None) -> Frames:
    """uint8 (frames_n, 64, 96): the square goes to the right."""
    texture = np.kron(np.random.default_rng(3).choice([15, 245], (6, 6)), np.ones((2, 2)))
    frames = np.repeat((road() if street is None else street)[None], frames_n, axis=0)
    for number, frame in enumerate(frames):
        left, part = divmod(start + number * speed_px, 1)
        there = frame[top : top + SQUARE_PX, int(left) : int(left) + SQUARE_PX + 1]
        alpha = np.full((1, SQUARE_PX + 1), 1.0)
        alpha[0, 0], alpha[0, -1] = 1 - part, part
        moved = np.pad(texture, ((0, 0), (0, 1)), "edge") * (1 - part) + np.pad(texture, ((0, 0), (1, 0)), "edge") * part
        there += (moved - there) * alpha
    return frames.round().clip(0, 255).astype(np.uint8)


def footage(frames: Frames, name: str = "walk") -> Footage:
    return Footage(name, frames[..., None], np.arange(len(frames)), len(frames), ())


def one_view(*videos: Frames) -> CameraView:
    (found,) = camera_views([footage(video) for video in videos])
    return found


def segmented(*videos: Frames, frames: int = 40) -> SegmentedView:
    (found,) = segment_views([one_view(*videos)], frames, DisFlow(), lambda: None)
    return found
