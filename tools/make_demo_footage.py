#!/usr/bin/env python3
"""Render the demo's footage: four cameras of different places, and ordinary footage of those that get a profile beforehand.

    python tools/make_demo_footage.py --footage ordinary

writes the videos and ``stretches.json`` to streamer/demo/data, and for each known camera a data set for ``oddsight-train enrol``
to the folder of ``--footage``. The table ``CAMERAS`` says what each camera shows. The same versions of the libraries give the
same files. Of each anomaly the first draw is shown that can be seen for two seconds; no score plays a part in the draw.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.random import Generator

from trainer.scenes.anomalies import Anomaly, make_anomaly
from trainer.scenes.backdrop import paint_backdrop
from trainer.scenes.data_set import Image, label_frames, render, write_video
from trainer.scenes.scene import KINDS, Scene, ordinary_actors, random_scene

DEMO_S, FOOTAGE_S, FOOTAGE_VIDEOS = 60.0, 48.0, 16
"""Duration of a demo video, and of each ordinary video of a known camera and their number."""
MIN_VISIBLE_S = 2.0
PASSAGE_PEOPLE, PASSAGE_BEYOND_M = 2.0, 1.5
"""People in the picture of a passage at a time, on average, and how far beyond its edges they come from."""
COVER_LEVEL, COVER_NOISE = 14, 1.5  # grey level of a covered lens, and the standard deviation of its noise
small_video = partial(write_video, crf=27, preset="medium")
DATA = Path(__file__).parent.parent / "streamer" / "demo" / "data"


@dataclass(frozen=True, slots=True)
class Unusual:
    """What happens at a camera, in words, and the second from which it may be seen."""

    kind: str
    description: str
    at_s: float
    limit: str | None = None
    """Why the detector cannot find it, for what it is not made for."""


@dataclass(frozen=True, slots=True)
class Camera:
    """A rendered camera: its seed, its rate, its anomalies in the order of time, and when its lens is covered."""

    camera_id: str
    seed: int
    fps: int
    unusual: tuple[Unusual, ...] = ()
    known: bool = True
    """Whether it has a profile before the demo starts."""
    covered_s: float | None = None
    """From then on, to the end, the lens is covered."""
    passage_m: float | None = None
    """All people cross the picture at this distance, from the left to the right, and there are few of them."""


NO_DIRECTIONS = "the score knows no directions: where people go both ways they cost more than they found"

CAMERAS = (
    Camera("plaza", 5, 8, (Unusual("vehicle", "a vehicle drives where none drives", 20.0),), covered_s=48.0),
    Camera("street", 8, 20, (Unusual("cyclist", "somebody cycles on the pavement", 50.0),), known=False),
    Camera("park", 2, 8),
    Camera(
        "hall",
        7,
        8,
        (
            Unusual("wrong_way", "somebody walks against the one way", 9.5, NO_DIRECTIONS),
            Unusual("trolley", "somebody pushes a covered trolley", 21.0),
            Unusual("fall", "somebody falls and stays down", 35.0),
        ),
        passage_m=8.5,
    ),
)


def main(footage: Annotated[Path, typer.Option(help="Folder for the ordinary footage of the known cameras.")]) -> None:
    """Write the demo's videos and the list of what happens in them, and ordinary footage to enrol the known cameras from."""
    with ProcessPoolExecutor(4) as pool:
        stretches = list(pool.map(partial(write_camera, footage=footage), CAMERAS))
    covered = [describe_cover(camera) for camera in CAMERAS if camera.covered_s is not None]
    content = {"stretches": list(chain.from_iterable(stretches)), "health": covered}
    (DATA / "stretches.json").write_text(json.dumps(content, indent=2) + "\n")


def write_camera(camera: Camera, footage: Path) -> list[dict[str, Any]]:
    """Write all videos of a camera; returns its anomalies as they stand in ``stretches.json``."""
    number = KINDS.index(camera.camera_id)
    scene = scene_of(camera, number)
    backdrop = paint_backdrop(scene.view, scene.layout, np.random.default_rng([camera.seed, number, 0]))
    rng = np.random.default_rng([camera.seed, number, 1])
    frames = round(DEMO_S * camera.fps)
    anomalies = [visible_anomaly(scene, unusual, frames, rng) for unusual in camera.unusual]
    actors = [*ordinary_actors(scene, DEMO_S, rng), *chain.from_iterable(anomaly.actors for anomaly in anomalies)]
    images = covered(render(scene, backdrop, actors, frames, rng), camera)
    small_video(DATA / "videos" / f"{camera.camera_id}.mp4", images, camera.fps)
    for video in range(1, FOOTAGE_VIDEOS + 1) if camera.known else ():
        rng = np.random.default_rng([camera.seed, number, 1 + video])
        images = render(scene, backdrop, ordinary_actors(scene, FOOTAGE_S, rng), round(FOOTAGE_S * camera.fps), rng)
        small_video(footage / camera.camera_id / "training" / "videos" / f"{video:02d}.mp4", images, camera.fps)
    happenings = zip(camera.unusual, anomalies, strict=True)
    return [describe(camera.camera_id, scene, unusual, anomaly, frames) for unusual, anomaly in happenings]


def scene_of(camera: Camera, number: int) -> Scene:
    """The scene that the camera sees."""
    scene = replace(random_scene(number, np.random.default_rng([camera.seed, number])), fps=camera.fps)
    if camera.passage_m is None:
        return scene
    side_m = scene.view.half_width_m(camera.passage_m) + PASSAGE_BEYOND_M
    line = np.array([[-side_m, camera.passage_m], [side_m, camera.passage_m]])
    return replace(scene, routes=(line,), people=PASSAGE_PEOPLE, one_way=True)


def covered(images: Iterator[Image], camera: Camera) -> Iterator[Image]:
    """The images, with nothing but noise from the second on at which the lens is covered."""
    rng = np.random.default_rng(camera.seed)
    for number, image in enumerate(images):
        if camera.covered_s is None or number < camera.covered_s * camera.fps:
            yield image
        else:
            yield (COVER_LEVEL + rng.normal(0, COVER_NOISE, image.shape)).astype(np.uint8)


def visible_anomaly(scene: Scene, unusual: Unusual, frames: int, rng: Generator) -> Anomaly:
    """The first draw of the anomaly that is in sight for long enough."""
    while True:
        anomaly = make_anomaly(unusual.kind, scene, unusual.at_s, rng)
        if label_frames(scene, anomaly, frames).sum() >= MIN_VISIBLE_S * scene.fps:
            return anomaly


def describe_cover(camera: Camera) -> dict[str, Any]:
    """The covered lens as it stands in ``stretches.json``."""
    what = {"camera_id": camera.camera_id, "problem": "covered", "description": "somebody covers the lens"}
    return {**what, "start_s": camera.covered_s}


def describe(camera_id: str, scene: Scene, unusual: Unusual, anomaly: Anomaly, frames: int) -> dict[str, Any]:
    """The anomaly with the time from its first to its last frame in sight."""
    shown = np.flatnonzero(label_frames(scene, anomaly, frames))
    limit = {"limit": unusual.limit} if unusual.limit else {}
    return {
        "camera_id": camera_id,
        "kind": unusual.kind,
        "description": unusual.description,
        "start_s": float(shown[0]) / scene.fps,
        "end_s": float(shown[-1] + 1) / scene.fps,
        **limit,
    }


if __name__ == "__main__":
    typer.run(main)
