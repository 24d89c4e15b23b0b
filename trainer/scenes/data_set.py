"""The ``scenes`` command: writes generated footage as data sets, one for each camera, with labelled test clips.

OUT/plaza-1/training/videos/01.mp4 ...       ordinary, a minute each at most
OUT/plaza-1/testing/videos/ordinary.mp4 ...  one more, and one for each kind of anomaly
OUT/plaza-1/frame_labels.npz                 1 where an anomaly is in sight
OUT/plaza-1/scene.json                       what it is, and the stretches of anomalies
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from rich.console import Console

from deploy.bundle import unwritable_folder
from deploy.console import counting_bar
from deploy.errors import ConfigError
from trainer.data.labels import NPZ_NAME
from trainer.errors import OutputRefused
from trainer.scenes.actors import Actor
from trainer.scenes.anomalies import Anomaly, kinds_for, make_anomaly
from trainer.scenes.backdrop import Field, paint_backdrop
from trainer.scenes.drawing import Image, Light, darken, draw, visible_share
from trainer.scenes.geometry import Floats
from trainer.scenes.scene import Faults, Scene, ordinary_actors, random_scene

ORDINARY = "ordinary"
_VIDEO_S, _VIDEOS = 60.0, 5  # longest video, and least number of videos of a minute or more: fit holds out every fifth
_TEST_S = (2.0, 20.0)  # least and most seconds of a test clip
_TEST_SHARE = 0.1  # of the training footage, as long is a test clip
_ANOMALY_AT = 0.35  # of a test clip
_ATTEMPTS = 20  # to have an anomaly in sight
_MIN_LABELLED_S = 0.5
_MIN_VISIBLE = 0.4  # of the culprit, for a frame to be anomalous
_NOISE_MARGIN_PX = 48


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip to be rendered."""

    path: Path
    seconds: float
    kind: str  # of its anomaly, or ordinary


def make_scenes(out: Path, cameras: int, minutes: float, seed: int, console: Console) -> list[Path]:
    """Render so many cameras with ``minutes`` of ordinary footage each, and test clips; the folders of their data sets.

    The same seed and versions of the libraries give the same files; a camera does not depend on how many there are.

    Raises:
        ConfigError: a number is out of range.
        OutputRefused: ``out`` cannot be written, or has content.
    """
    if not (1 <= cameras <= 100 and 0.1 <= minutes <= 600 and seed >= 0):
        raise ConfigError(f"cameras must be 1 to 100, minutes 0.1 to 600, seed 0 or more; got {cameras}, {minutes:g} and {seed}")
    if (parent := unwritable_folder(out / "camera")) is not None:
        raise OutputRefused(f"{out}: cannot be written, {parent} is not a folder that one may write to; give another --out")
    if out.exists() and any(out.iterdir()):
        raise OutputRefused(f"{out}: has content; give another --out, or delete it")
    scenes = [random_scene(number, np.random.default_rng([seed, number])) for number in range(cameras)]
    folders = [out / f"{scene.layout.kind}-{number}" for number, scene in enumerate(scenes, 1)]
    clips = [list(_clips(scene, folder, minutes)) for scene, folder in zip(scenes, folders, strict=True)]
    frames = sum(_frames(scene, clip) for scene, of_scene in zip(scenes, clips, strict=True) for clip in of_scene)
    with counting_bar(console, "rendering", frames) as advance:
        for number, (scene, folder) in enumerate(zip(scenes, folders, strict=True)):
            _write_camera(scene, folder, clips[number], (seed, number), advance)
    return folders


def _clips(scene: Scene, folder: Path, minutes: float) -> Iterator[Clip]:
    videos = max(_VIDEOS, math.ceil(minutes * 60 / _VIDEO_S)) if minutes >= 1.0 else 1
    for number in range(1, videos + 1):
        yield Clip(folder / "training" / "videos" / f"{number:02d}.mp4", minutes * 60 / videos, ORDINARY)
    seconds = float(np.clip(_TEST_SHARE * minutes * 60, *_TEST_S))
    for kind in (ORDINARY, *kinds_for(scene)):
        yield Clip(folder / "testing" / "videos" / f"{kind}.mp4", seconds, kind)


def _frames(scene: Scene, clip: Clip) -> int:
    return round(clip.seconds * scene.fps)


def _write_camera(scene: Scene, folder: Path, clips: list[Clip], seed: tuple[int, int], advance: Callable[[int], None]) -> None:
    backdrop = paint_backdrop(scene.view, scene.layout, np.random.default_rng([*seed, 0]))
    labels: dict[str, NDArray[np.uint8]] = {}
    for number, clip in enumerate(clips, 1):
        rng, frames = np.random.default_rng([*seed, number]), _frames(scene, clip)
        anomaly, rows = _visible_anomaly(scene, clip, frames, rng)
        actors = [*ordinary_actors(scene, clip.seconds, rng), *(anomaly.actors if anomaly else ())]
        write_video(clip.path, render(scene, backdrop, actors, frames, rng), scene.fps, lambda: advance(1))
        if clip.path.parent.parent.name == "testing":
            labels[clip.path.stem] = rows
    np.savez_compressed(folder / NPZ_NAME, allow_pickle=False, **labels)
    (folder / "scene.json").write_text(json.dumps(_describe(scene, seed[0], labels), indent=2) + "\n", encoding="utf-8")


def _visible_anomaly(scene: Scene, clip: Clip, frames: int, rng: Generator) -> tuple[Anomaly | None, NDArray[np.uint8]]:
    """The clip's anomaly and labels; the first of some draws that can be seen long enough."""
    anomaly = None
    labels = np.zeros(frames, np.uint8)
    for _ in range(_ATTEMPTS if clip.kind != ORDINARY else 0):
        anomaly = make_anomaly(clip.kind, scene, _ANOMALY_AT * clip.seconds, rng)
        labels = label_frames(scene, anomaly, frames)
        if labels.sum() >= _MIN_LABELLED_S * scene.fps:
            break
    return anomaly, labels


def _describe(scene: Scene, seed: int, labels: dict[str, NDArray[np.uint8]]) -> dict[str, object]:
    anomalies = []
    for kind, rows in labels.items():
        edges = np.flatnonzero(np.diff(rows, prepend=0, append=0)).tolist()
        anomalies += [
            {"clip": kind, "kind": kind, "first_frame": first, "last_frame": end - 1}
            for first, end in zip(edges[::2], edges[1::2], strict=True)
        ]
    view = scene.view
    return {
        "kind": scene.layout.kind,
        "seed": seed,
        "fps": scene.fps,
        "width_px": view.width_px,
        "height_px": view.height_px,
        "anomalies": anomalies,
    }


def write_video(
    path: Path,
    images: Iterable[Image],
    fps: int,
    done: Callable[[], None] = lambda: None,
    *,
    crf: int = 24,
    preset: str = "veryfast",
) -> None:
    """Encode images, uint8 (H, W, 3), as H.264 in MP4, calling ``done`` after each. ``crf`` and ``preset``: see libx264."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"crf": str(crf), "preset": preset, "threads": "1"}  # more threads would change the bits with the machine
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        for number, image in enumerate(images):
            if not number:
                stream.height, stream.width = image.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
            done()
        container.mux(stream.encode())


class CameraModel:
    """The faults of a camera: vignette, gain, gamma, blur, noise and compression."""

    def __init__(self, faults: Faults, height_px: int, width_px: int, rng: Generator) -> None:
        self._faults, self._rng = faults, rng
        down, across = np.mgrid[-1 : 1 : height_px * 1j, -1 : 1 : width_px * 1j]
        dark = 1.0 - faults.vignette * (down**2 + across**2) / 2
        self._gain: Field = np.repeat(dark[..., None], 3, axis=2).astype(np.float32)
        shape = (height_px + _NOISE_MARGIN_PX, width_px + _NOISE_MARGIN_PX)
        grey = np.asarray(cv2.GaussianBlur(rng.normal(0, 1, shape).astype(np.float32), (0, 0), 0.6), np.float32)
        grey /= grey.std()
        colour = rng.normal(0, 0.35, (*shape, 3)).astype(np.float32)
        self._noise: Field = ((grey[..., None] + colour) * faults.noise).astype(np.float32)
        levels = 255.0 * (np.arange(256) / 255.0) ** faults.gamma
        self._curve = np.clip(levels, 0, 255).round().astype(np.uint8)

    def take(self, image: Image, light: float) -> Image:
        """The picture that the camera makes of what is there, uint8 (H, W, 3)."""
        faults, (height, width) = self._faults, image.shape[:2]
        if faults.blur_px:
            image = np.asarray(cv2.GaussianBlur(image, (3, 3), faults.blur_px), np.uint8)
        gain = light * (1.0 + faults.flicker * float(self._rng.normal()))
        top, left = self._rng.integers(0, _NOISE_MARGIN_PX, 2)
        lit = np.asarray(cv2.multiply(image, self._gain, scale=gain, dtype=cv2.CV_32F), np.float32)
        lit += self._noise[top : top + height, left : left + width]
        taken: NDArray[Any] = cv2.LUT(cv2.convertScaleAbs(np.maximum(lit, 0.0, out=lit)), self._curve)
        if faults.jpeg_quality is not None:
            _, encoded = cv2.imencode(".jpg", taken, [cv2.IMWRITE_JPEG_QUALITY, faults.jpeg_quality])
            taken = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
        return np.asarray(taken, np.uint8)


def render(scene: Scene, backdrop: Image, actors: Sequence[Actor], frames: int, rng: Generator) -> Iterator[Image]:
    """The frames of a clip in which these actors are about, in order."""
    camera = CameraModel(scene.faults, backdrop.shape[0], backdrop.shape[1], rng)
    first, second = rng.uniform(0, 2 * np.pi, 2)
    for number in range(frames):
        time_s = number / scene.fps
        cloud = 0.5 + 0.25 * np.sin(time_s / 7.3 + first) + 0.25 * np.sin(time_s / 23.0 + second)  # 0 to 1
        image = backdrop.copy()
        _draw_all(scene, image, actors, time_s, Light(scene.sun, scene.shadow * (1.0 - 0.5 * float(cloud))))
        yield camera.take(image, 1.0 + scene.faults.clouds * (0.5 - float(cloud)))


def _draw_all(scene: Scene, image: Image, actors: Sequence[Actor], time_s: float, light: Light) -> None:
    """Draw shadows, then everybody, the farthest first."""
    present = [actor for actor in actors if actor.present(time_s) and _near(scene, actor.place(time_s))]
    outlines = [actor.outlines(scene.view, time_s, light) for actor in present]
    for _, shadow in outlines:
        darken(image, shadow, light.shadow)
    for actor, (body, _) in sorted(zip(present, outlines, strict=True), key=lambda each: -each[0].place(time_s)[1]):
        draw(image, body, actor.grain)


def _near(scene: Scene, place: Floats) -> bool:
    """Whether something there may be in the picture."""
    return bool(abs(place[0]) < scene.view.half_width_m(max(place[1], 1.0)) + 4.0 and place[1] > scene.view.nearest_m - 3.0)


def label_frames(scene: Scene, anomaly: Anomaly | None, frames: int) -> NDArray[np.uint8]:
    """uint8 (frames,): 1 where the anomaly is in sight."""
    labels = np.zeros(frames, np.uint8)
    if anomaly is None:
        return labels
    for number in range(frames):
        time_s = number / scene.fps
        if time_s >= anomaly.begins_s and anomaly.culprit.present(time_s) and _near(scene, anomaly.culprit.place(time_s)):
            body, _ = anomaly.culprit.outlines(scene.view, time_s, Light(scene.sun, scene.shadow))
            labels[number] = visible_share(scene.view, body) >= _MIN_VISIBLE
    return labels
