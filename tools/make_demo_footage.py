#!/usr/bin/env python3
"""Make the demo's footage from OpenCV's sample clip ``vtest.avi``: normal footage to train on, five cameras to play.

    python tools/make_demo_footage.py /usr/share/doc/opencv-doc/examples/data/vtest.avi

The tables ``TRAINING`` and ``CAMERAS`` say which source frames are shown, and which of them are edited. The same clip and the
same versions of the libraries give the same files.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import av
import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from deploy.video import open_video, to_bgr

FPS = 10
SOURCE_FRAMES = 795
MARGIN_X_PX, MARGIN_Y_PX = 24, 18
"""Cropped on all sides, in source pixels; a shaken camera shows part of it."""
WIDTH_PX, HEIGHT_PX = 384, 288
ENCODER = {"crf": "22", "preset": "veryslow", "threads": "1"}  # more threads would change the bits with the machine
ROOT = Path(__file__).parent.parent / "streamer" / "demo" / "data"

Image = NDArray[np.uint8]
"""uint8 (H, W, 3), BGR."""


@dataclass(frozen=True, slots=True)
class Anomaly:
    """An edit of the frames ``[start, end)`` of a camera, counted from its first frame."""

    kind: str
    description: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Camera:
    """What one camera shows: numbers of source frames, and the anomaly edited into them, if any."""

    frames: tuple[int, ...]
    anomaly: Anomaly | None = None


TRAINING = {"ordinary": range(345, 795)}

CAMERAS = {
    "gate": Camera(
        (*range(80), *range(82, 202, 3), *range(200, 280)),
        Anomaly("triple_speed", "everybody moves at three times the usual speed", 80, 120),
    ),
    "path": Camera(tuple(range(60, 260)), Anomaly("covered", "somebody holds a cloth over the lens", 90, 140)),
    "lawn": Camera(
        (*range(130, 230), *range(228, 178, -1), *range(180, 230)),
        Anomaly("backwards", "everybody walks backwards", 100, 150),
    ),
    "mast": Camera(tuple(range(120, 320)), Anomaly("shaken", "somebody shakes the camera's mast", 110, 160)),
    "yard": Camera(tuple(range(140, 340))),
}


def main(vtest: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="OpenCV's sample clip vtest.avi")]) -> None:
    """Write training and testing videos, labels and the list of anomalies to streamer/demo/data."""
    source = read_source(vtest)
    for name, numbers in TRAINING.items():
        write_video(ROOT / "training" / "videos" / f"{name}.mp4", (fit(source[number]) for number in numbers))
    for camera_id, camera in CAMERAS.items():
        write_video(ROOT / "testing" / "videos" / f"{camera_id}.mp4", render(camera, source))
    write_labels(ROOT / "frame_labels.npz")
    write_anomalies(ROOT / "stretches.json")


def read_source(path: Path) -> list[Image]:
    """All frames of ``vtest.avi``."""
    with open_video(path) as video:
        images = [to_bgr(frame) for frame in video.frames() if not isinstance(frame, str)]
    if len(images) != SOURCE_FRAMES:
        raise typer.BadParameter(f"{path} has {len(images)} frames; OpenCV's vtest.avi has {SOURCE_FRAMES}")
    return images


def fit(image: Image, shift_x_px: float = 0.0, shift_y_px: float = 0.0) -> Image:
    """The image without its margin at the demo's size, shifted by a few source pixels."""
    height_px, width_px = image.shape[:2]
    size = (width_px - 2 * MARGIN_X_PX, height_px - 2 * MARGIN_Y_PX)
    centre = (width_px / 2 - 0.5 + shift_x_px, height_px / 2 - 0.5 + shift_y_px)
    view = cv2.getRectSubPix(image, size, centre)
    return np.asarray(cv2.resize(view, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_AREA), np.uint8)


def render(camera: Camera, source: list[Image]) -> Iterable[Image]:
    """The camera's frames, with its anomaly edited in."""
    edit = EDITS.get(camera.anomaly.kind) if camera.anomaly else None
    for position, number in enumerate(camera.frames):
        if edit and camera.anomaly and camera.anomaly.start <= position < camera.anomaly.end:
            yield edit(source[number], position - camera.anomaly.start, camera.anomaly.end - 1 - position)
        else:
            yield fit(source[number])


def shake(image: Image, since: int, _until: int) -> Image:
    """A mast that is struck repeatedly: two oscillations of different frequency, within the margin."""
    time_s = since / FPS
    strength = 0.7 + 0.3 * np.cos(2 * np.pi * time_s / 1.5)
    shift_x_px = MARGIN_X_PX * strength * np.sin(2 * np.pi * 1.7 * time_s + 0.6)
    shift_y_px = MARGIN_Y_PX * strength * np.sin(2 * np.pi * 2.3 * time_s)
    return fit(image, shift_x_px, shift_y_px)


def cover(image: Image, since: int, until: int) -> Image:
    """A cloth drawn over the lens in three frames and removed in three; sensor noise in the dark."""
    drawn = min(since + 1, until + 1, 4) / 4
    view = fit(image).astype(np.float32)
    glow = cv2.GaussianBlur(view, (0, 0), 40) * np.asarray([0.03, 0.04, 0.06], np.float32)
    noise = np.random.default_rng(since).normal(6.0, 3.0, view.shape)
    hidden = _cloth(drawn)[..., np.newaxis]
    return np.asarray(np.clip((1 - hidden) * view + hidden * (glow + noise), 0, 255), np.uint8)


def _cloth(drawn: float) -> NDArray[np.float32]:
    """How much of each pixel is hidden, 0 to 1: a soft, slanting edge that moves in from the upper left."""
    y, x = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX].astype(np.float32)
    depth = (x / WIDTH_PX + 0.6 * y / HEIGHT_PX) / 1.6
    softness = 0.25
    return np.asarray(np.clip((drawn * (1 + softness) - depth) / softness, 0, 1), np.float32)


EDITS: dict[str, Callable[[Image, int, int], Image]] = {"shaken": shake, "covered": cover}
"""Edits of image content: (source image, frames since the anomaly began, frames until it ends) -> image."""


def write_video(path: Path, images: Iterable[Image]) -> None:
    """Encode images as H.264 in MP4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options=ENCODER)
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        stream.codec_context.time_base = Fraction(1, FPS)
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode())


def write_labels(path: Path) -> None:
    """One uint8 array of 0 and 1 per camera, 1 during its anomaly."""
    labels = {camera_id: np.zeros(len(camera.frames), np.uint8) for camera_id, camera in CAMERAS.items()}
    for camera_id, camera in CAMERAS.items():
        if camera.anomaly:
            labels[camera_id][camera.anomaly.start : camera.anomaly.end] = 1
    np.savez_compressed(path, allow_pickle=False, **labels)


def write_anomalies(path: Path) -> None:
    """The list of anomalies, for people and for the table that the demo prints."""
    anomalies = [_describe(camera_id, camera, camera.anomaly) for camera_id, camera in CAMERAS.items() if camera.anomaly]
    path.write_text(json.dumps({"fps": FPS, "stretches": anomalies}, indent=2) + "\n")


def _describe(camera_id: str, camera: Camera, anomaly: Anomaly) -> dict[str, str | float]:
    shown = camera.frames[anomaly.start : anomaly.end]
    return {
        "camera_id": camera_id,
        "kind": anomaly.kind,
        "description": anomaly.description,
        "start_s": anomaly.start / FPS,
        "end_s": anomaly.end / FPS,
        "source_start_s": min(shown) / FPS,
        "source_end_s": (max(shown) + 1) / FPS,
    }


if __name__ == "__main__":
    typer.run(main)
