#!/usr/bin/env python3
"""Make the demo's footage from OpenCV's sample clip ``vtest.avi``: ordinary footage to learn, five cameras to play.

    python tools/make_demo_footage.py /usr/share/doc/opencv-doc/examples/data/vtest.avi

Which source frames are shown when, and what is done to them, stands in the tables ``TRAINING`` and ``CAMERAS``;
the rest is reading, editing and writing. The same clip and the same versions of the libraries give the same files.
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

FPS = 10
SOURCE_FRAMES = 795
MARGIN_X_PX, MARGIN_Y_PX = 24, 18
"""Cut off all around, in source pixels: what a shaken camera sees beyond its edge."""
WIDTH_PX, HEIGHT_PX = 384, 288
ENCODER = {"crf": "22", "preset": "veryslow", "threads": "1"}  # more threads would change the bits with the machine
ROOT = Path(__file__).parent.parent / "streamer" / "demo" / "data"

Picture = NDArray[np.uint8]
"""uint8 (H, W, 3), BGR."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """The anomalous frames of a camera: ``[start, end)``, counted from the camera's first frame."""

    kind: str
    description: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Camera:
    """What one camera shows: numbers of source frames, and the stretch that was edited, if any."""

    frames: tuple[int, ...]
    stretch: Stretch | None = None


TRAINING = {"ordinary": range(345, 795)}

CAMERAS = {
    "gate": Camera(
        (*range(80), *range(82, 202, 3), *range(200, 280)),
        Stretch("triple_speed", "everybody moves at three times the usual speed", 80, 120),
    ),
    "path": Camera(tuple(range(60, 260)), Stretch("covered", "somebody holds a cloth over the lens", 90, 140)),
    "lawn": Camera(
        (*range(130, 230), *range(228, 178, -1), *range(180, 230)),
        Stretch("backwards", "everybody walks backwards", 100, 150),
    ),
    "mast": Camera(tuple(range(120, 320)), Stretch("shaken", "somebody shakes the camera's mast", 110, 160)),
    "yard": Camera(tuple(range(140, 340))),
}


def main(vtest: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="OpenCV's sample clip vtest.avi")]) -> None:
    """Write training and testing videos, labels and the list of stretches to streamer/demo/data."""
    source = read_source(vtest)
    for name, numbers in TRAINING.items():
        write_video(ROOT / "training" / "videos" / f"{name}.mp4", (fit(source[number]) for number in numbers))
    for camera_id, camera in CAMERAS.items():
        write_video(ROOT / "testing" / "videos" / f"{camera_id}.mp4", render(camera, source))
    write_labels(ROOT / "frame_labels.npz")
    write_stretches(ROOT / "stretches.json")


def read_source(path: Path) -> list[Picture]:
    """All pictures of ``vtest.avi``."""
    with av.open(str(path)) as container:
        pictures = [np.asarray(frame.to_ndarray(format="bgr24"), np.uint8) for frame in container.decode(video=0)]
    if len(pictures) != SOURCE_FRAMES:
        raise typer.BadParameter(f"{path} has {len(pictures)} frames; OpenCV's vtest.avi has {SOURCE_FRAMES}")
    return pictures


def fit(picture: Picture, shift_x_px: float = 0.0, shift_y_px: float = 0.0) -> Picture:
    """The picture without its margin at the demo's size, looked at from a little to the side (source pixels)."""
    height_px, width_px = picture.shape[:2]
    size = (width_px - 2 * MARGIN_X_PX, height_px - 2 * MARGIN_Y_PX)
    centre = (width_px / 2 - 0.5 + shift_x_px, height_px / 2 - 0.5 + shift_y_px)
    view = cv2.getRectSubPix(picture, size, centre)
    return np.asarray(cv2.resize(view, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_AREA), np.uint8)


def render(camera: Camera, source: list[Picture]) -> Iterable[Picture]:
    """The camera's pictures, edited where its stretch says so."""
    edit = EDITS.get(camera.stretch.kind) if camera.stretch else None
    for position, number in enumerate(camera.frames):
        if edit and camera.stretch and camera.stretch.start <= position < camera.stretch.end:
            yield edit(source[number], position - camera.stretch.start, camera.stretch.end - 1 - position)
        else:
            yield fit(source[number])


def shake(picture: Picture, since: int, _until: int) -> Picture:
    """A mast that is struck again and again: two swings out of step, never beyond the margin."""
    time_s = since / FPS
    strength = 0.7 + 0.3 * np.cos(2 * np.pi * time_s / 1.5)
    shift_x_px = MARGIN_X_PX * strength * np.sin(2 * np.pi * 1.7 * time_s + 0.6)
    shift_y_px = MARGIN_Y_PX * strength * np.sin(2 * np.pi * 2.3 * time_s)
    return fit(picture, shift_x_px, shift_y_px)


def cover(picture: Picture, since: int, until: int) -> Picture:
    """A cloth that is drawn over the lens in three frames and taken away in three; sensor noise in the dark."""
    drawn = min(since + 1, until + 1, 4) / 4
    view = fit(picture).astype(np.float32)
    glow = cv2.GaussianBlur(view, (0, 0), 40) * np.asarray([0.03, 0.04, 0.06], np.float32)
    noise = np.random.default_rng(since).normal(6.0, 3.0, view.shape)
    hidden = _cloth(drawn)[..., np.newaxis]
    return np.asarray(np.clip((1 - hidden) * view + hidden * (glow + noise), 0, 255), np.uint8)


def _cloth(drawn: float) -> NDArray[np.float32]:
    """How much each pixel is hidden, 0 to 1: a soft, slanting edge that comes from the upper left."""
    y, x = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX].astype(np.float32)
    depth = (x / WIDTH_PX + 0.6 * y / HEIGHT_PX) / 1.6
    softness = 0.25
    return np.asarray(np.clip((drawn * (1 + softness) - depth) / softness, 0, 1), np.float32)


EDITS: dict[str, Callable[[Picture, int, int], Picture]] = {"shaken": shake, "covered": cover}
"""Edits of the picture itself: (source picture, frames since the stretch began, frames until it ends) -> picture."""


def write_video(path: Path, pictures: Iterable[Picture]) -> None:
    """Encode pictures as H.264 in MP4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options=ENCODER)
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        stream.codec_context.time_base = Fraction(1, FPS)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode())


def write_labels(path: Path) -> None:
    """One uint8 array of 0 and 1 a camera, 1 within its stretch."""
    labels = {camera_id: np.zeros(len(camera.frames), np.uint8) for camera_id, camera in CAMERAS.items()}
    for camera_id, camera in CAMERAS.items():
        if camera.stretch:
            labels[camera_id][camera.stretch.start : camera.stretch.end] = 1
    np.savez_compressed(path, allow_pickle=False, **labels)


def write_stretches(path: Path) -> None:
    """What was edited, for people and for the demo's closing table."""
    stretches = [_describe(camera_id, camera, camera.stretch) for camera_id, camera in CAMERAS.items() if camera.stretch]
    path.write_text(json.dumps({"fps": FPS, "stretches": stretches}, indent=2) + "\n")


def _describe(camera_id: str, camera: Camera, stretch: Stretch) -> dict[str, str | float]:
    shown = camera.frames[stretch.start : stretch.end]
    return {
        "camera_id": camera_id,
        "kind": stretch.kind,
        "description": stretch.description,
        "start_s": stretch.start / FPS,
        "end_s": stretch.end / FPS,
        "source_start_s": min(shown) / FPS,
        "source_end_s": (max(shown) + 1) / FPS,
    }


if __name__ == "__main__":
    typer.run(main)
