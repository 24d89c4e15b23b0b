"""The ``scenes`` command: writes generated footage as data sets, one for each camera, with labelled test clips.

OUT/plaza-1/training/videos/01.mp4 ...       ordinary, a minute each at most
OUT/plaza-1/testing/videos/ordinary.mp4 ...  one more, and one for each kind of anomaly
OUT/plaza-1/frame_labels.npz                 1 where an anomaly is in sight
OUT/plaza-1/scene.json                       what it is, and the stretches of anomalies
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from rich.console import Console

from deploy.bundle import unwritable_folder
from deploy.console import counting_bar
from deploy.errors import ConfigError
from trainer.data.labels import NPZ_NAME
from trainer.errors import OutputRefused
from trainer.scenes.anomalies import Anomaly, kinds_for, make_anomaly
from trainer.scenes.backdrop import paint_backdrop
from trainer.scenes.drawing import Image
from trainer.scenes.render import label_frames, render
from trainer.scenes.scene import Scene, ordinary_actors, random_scene

ORDINARY = "ordinary"
_VIDEO_S, _VIDEOS = 60.0, 5  # longest video, and least number of videos of a minute or more: fit holds out every fifth
_TEST_S = (2.0, 20.0)  # least and most seconds of a test clip
_TEST_SHARE = 0.1  # of the training footage, as long is a test clip
_ANOMALY_AT = 0.35  # of a test clip
_ATTEMPTS = 20  # to have an anomaly in sight
_MIN_LABELLED_S = 0.5


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


def write_video(path: Path, images: Iterable[Image], fps: int, done: Callable[[], None]) -> None:
    """Encode images, uint8 (H, W, 3), as H.264 in MP4, calling ``done`` after each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "24", "preset": "veryfast", "threads": "1"})
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        for number, image in enumerate(images):
            if not number:
                stream.height, stream.width = image.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
            done()
        container.mux(stream.encode())
