"""Footage made for the tests: a textured street, and textured blobs that cross it."""

from collections.abc import Callable, Iterable
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from deploy.image import encode_jpeg
from trainer.training.distributed import DistributedContext

HEIGHT_PX, WIDTH_PX, BLOB_PX = 64, 96, 14

Frames = NDArray[np.uint8]


def make_street(frames_n: int, speed_px: float, seed: int = 0) -> Frames:
    """uint8 (frames_n, 64, 96): one blob that crosses from left to right at ``speed_px`` pixels a frame, and again."""
    street = np.random.default_rng(7).normal(110, 6, (HEIGHT_PX, WIDTH_PX))
    rng = np.random.default_rng(seed)
    blob = np.kron(rng.uniform(30, 220, (7, 7)), np.ones((2, 2)))
    top, start = int(rng.integers(8, HEIGHT_PX - BLOB_PX - 8)), float(rng.uniform(0, WIDTH_PX))
    frames = np.repeat(street[None], frames_n, axis=0)
    for number in range(frames_n):
        left = (start + number * speed_px) % (WIDTH_PX - BLOB_PX - 1)
        whole, part = int(left), left % 1
        moved = np.zeros((BLOB_PX, BLOB_PX + 1))
        moved[:, :-1] += blob * (1 - part)
        moved[:, 1:] += blob * part
        frames[number, top : top + BLOB_PX, whole : whole + BLOB_PX + 1] = moved
    return frames.clip(0, 255).astype(np.uint8)


def write_pictures(folder: Path, frames: Iterable[Frames]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        (folder / f"{number}.jpg").write_bytes(encode_jpeg(frame, 95))
    return folder


def write_video(path: Path, frames: Frames, fps: int = 12) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=fps)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "gray"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def alone() -> DistributedContext:
    """One process, on the CPU."""
    return DistributedContext(accelerator="cpu")


@pytest.fixture(scope="session")
def street() -> Callable[..., Frames]:
    return make_street


@pytest.fixture(scope="session")
def pictures() -> Callable[[Path, Iterable[Frames]], Path]:
    return write_pictures


@pytest.fixture(scope="session")
def video() -> Callable[..., Path]:
    return write_video
