"""From a scene to frames: who is where, shadows, light, and what the camera does to the picture."""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from trainer.scenes.actors import Actor
from trainer.scenes.anomalies import Anomaly
from trainer.scenes.backdrop import Field
from trainer.scenes.drawing import Image, Light, darken, draw, visible_share
from trainer.scenes.geometry import Floats
from trainer.scenes.scene import Faults, Scene

_MIN_VISIBLE = 0.4  # of the culprit, for a frame to be anomalous
_NOISE_MARGIN_PX = 48


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
