"""Watches the cameras themselves: measures a picture of each about once a second, and at once when all of it changes.

What is found takes effect in the order of the frames and in their atomic step. While a picture is suspected, its score starts no
event: a hand before the lens is no anomaly of the place. References are stored beside, when they are learned and every few
minutes; a crash costs what was learned since.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from deploy.errors import backend_errors
from deploy.health import (
    REFERENCE_MEASURES,
    HealthChange,
    HealthProblem,
    HealthState,
    Look,
    Measures,
    PictureWatch,
    RateWatch,
    Reference,
    advance,
    advance_fault,
    follow,
    learn_reference,
)
from deploy.image import DeviceFrame
from deploy.light import LightWatch
from deploy.profile import Profile
from deploy.score_maps import Grid
from streamer.config import Settings
from streamer.interfaces import CameraState, Fields, RedisUnavailable, ReferenceStore
from streamer.monitoring import Metrics
from streamer.types import CameraFrame, FrameInfo

log = structlog.get_logger("oddsight.health")

TEXTS: Final[Mapping[HealthProblem, str]] = {
    "offline": "no frames arrive",
    "frozen": "the picture does not change at all",
    "covered": "nothing can be seen: the lens is covered, or the picture is empty",
    "dark": "the picture is dark",
    "overexposed": "the picture is over-exposed",
    "defocused": "the picture is out of focus, or the lens is dirty",
    "moved": "the camera was moved",
    "other_view": "the camera shows another view",
    "exposure": "the light or the exposure keeps changing",
    "unknown_light": "light that the camera was not learned in: it learns it if it was learned live; else enrol it in both",
    "rate": "frames come at another rate than in the footage that the camera was learned from: mend the camera, or relearn it",
    "damaged": "many of its images are damaged, and are not looked at",
    "clock": "its capture times stand still, run backward, jump or count seconds, and are not believed: set its clock",
}

_STORE_EVERY_MS = 600_000
_FOLLOW_EVERY_MS = 10_000


@dataclass(slots=True)
class _Watched:
    """What is held of a camera in memory."""

    pictures: PictureWatch
    light: LightWatch | None
    """None if the model's profiles hold no background."""
    rate: RateWatch = field(default_factory=RateWatch)
    longest_still_ms: int = 0
    measures: list[Measures] = field(default_factory=list)
    """For a reference that is still to be learned."""
    followed_ms: int = 0
    stored_ms: int = 0


class CameraHealth:
    """Measures pictures and keeps the references; the states are passed in and returned."""

    def __init__(
        self,
        settings: Settings,
        store: ReferenceStore,
        metrics: Metrics,
        wall_clock_s: Callable[[], float] = time.time,
        grid: Grid | None = None,
    ) -> None:
        """``grid``: of the maps in the model's states, None if they hold none."""
        self._grid = grid
        self.enabled = settings.health.enabled
        self._offline_after_s = settings.health.offline_after_s
        self._max_gap_ms = round(settings.decision.max_gap_s * 1000)
        self._store, self._metrics, self._wall_clock_s = store, metrics, wall_clock_s
        self._cameras: dict[str, _Watched] = {}
        self._references: dict[str, Reference] = {}

    def load(self) -> None:
        """Read the references again: those of cameras that are to be learned anew are gone."""
        if not self.enabled:
            return
        try:
            self._references = dict(self._store.read_references())
        except RedisUnavailable as error:
            log.warning("references of the cameras' pictures cannot be read, those in use stay", error=str(error))
            return
        known = (name for name, camera in self._cameras.items() if camera.stored_ms and name not in self._references)
        for camera_id in list(known):
            del self._cameras[camera_id]

    def look(self, frame: CameraFrame, profile: Profile | None) -> tuple[HealthProblem | None] | None:
        """What a camera's next frame shows of its health, as a tuple; None if it was not measured.

        ``profile``: the camera's own; without one, neither its frame rate nor its light is known.
        """
        info = frame.info
        if not self.enabled:
            return None
        camera = self._cameras.get(info.camera_id)
        if camera is None:
            camera = self._cameras[info.camera_id] = self._watched(info.camera_id)
        seen = self._look_at(frame, camera, profile)
        if profile is None or camera.rate.is_usual(info.captured_at_ms, profile.info.fps, self._max_gap_ms):
            return seen
        return ("rate",) if seen is None or seen[0] is None else seen

    def advance(
        self, state: CameraState, info: FrameInfo, found: tuple[HealthProblem | None] | None, *, is_damaged: bool
    ) -> tuple[CameraState, tuple[HealthChange, ...]]:
        """A camera's state with the health and the clock that its next frame shows, and what is to be told of them.

        ``found``: what :meth:`look` said of the frame.
        """
        if info.tick is not None:
            state = state.model_copy(update={"clock": info.tick.after})
        if not self.enabled:
            return state, ()
        now_ms, is_odd = info.captured_at_ms, info.tick is not None and info.tick.fault is not None
        damaged, told_of_images = advance_fault(state.damaged, "damaged", now_ms, has_fault=is_damaged)
        odd_clock, told_of_clock = advance_fault(state.odd_clock, "clock", now_ms, has_fault=is_odd)
        health, changes = (state.health, ()) if found is None else advance(state.health, *found, now_ms)
        state = state.model_copy(update={"health": health, "damaged": damaged, "odd_clock": odd_clock})
        return state, (*changes, *told_of_images, *told_of_clock)

    def _watched(self, camera_id: str) -> _Watched:
        light = None if self._grid is None else LightWatch(self._grid)
        return _Watched(PictureWatch(self._references.get(camera_id)), light)

    def _look_at(self, frame: CameraFrame, camera: _Watched, profile: Profile | None) -> tuple[HealthProblem | None] | None:
        info, picture = frame.info, frame.frame
        if isinstance(picture, DeviceFrame):
            if not camera.pictures.is_due(info.captured_at_ms):  # copying every frame would cost more than it tells
                return None
            with backend_errors("a frame cannot be copied from the device"):
                picture = picture.on_host()
        look = camera.pictures.look(picture, info.captured_at_ms)
        if look is None:
            return None
        if look.problem is not None:
            return (look.problem,)
        if camera.light is not None and profile is not None and camera.light.is_unknown(picture, profile):
            return ("unknown_light",)
        self._learn(info, camera, look)
        return (None,)

    def _learn(self, info: FrameInfo, camera: _Watched, look: Look) -> None:
        now_ms, reference = info.captured_at_ms, camera.pictures.reference
        if reference is None:
            camera.longest_still_ms = max(camera.longest_still_ms, look.still_ms)
            camera.measures.append(look.seen)
            if len(camera.measures) < REFERENCE_MEASURES:
                return
            reference, camera.measures = learn_reference(camera.measures, camera.longest_still_ms), []
            log.info("picture of a camera learned", camera_id=info.camera_id, level=round(reference.level))
        elif abs(now_ms - camera.followed_ms) >= _FOLLOW_EVERY_MS:
            reference, camera.followed_ms = follow(reference, look.seen), now_ms
        camera.pictures.reference = reference
        if camera.stored_ms and abs(now_ms - camera.stored_ms) < _STORE_EVERY_MS:
            return
        try:
            self._store.put_reference(info.camera_id, reference)
        except RedisUnavailable:
            return  # the step of the frames finds out as well
        camera.stored_ms = now_ms
        self._references[info.camera_id] = reference

    def forget(self, camera_ids: Collection[str]) -> None:
        """Drop what is held of cameras in memory; their references stay."""
        for camera_id in camera_ids:
            self._cameras.pop(camera_id, None)

    def delete_references(self, camera_ids: Collection[str]) -> None:
        """Delete what is stored of forgotten cameras."""
        known = [camera_id for camera_id in camera_ids if self._references.pop(camera_id, None) is not None]
        if not known:
            return
        try:
            self._store.delete_references(known)
        except RedisUnavailable as error:
            log.warning("references of forgotten cameras stay in Redis", cameras=known, error=str(error))

    def is_offline(self, state: HealthState, silent_s: float) -> bool:
        """Whether a camera of which no frame arrived for so long is to be reported as offline."""
        return self.enabled and state.problem != "offline" and silent_s >= self._offline_after_s

    def entries(self, info: FrameInfo, changes: tuple[HealthChange, ...]) -> Iterator[Fields]:
        """What is written to Redis for the starts and ends of a camera's problems."""
        for change in changes:
            yield {
                "schema": "1",
                "kind": change.kind,
                "camera_id": info.camera_id,
                "problem": change.problem,
                "text": TEXTS[change.problem],
                "started_at_ms": str(change.since_ms),
                "captured_at_ms": str(info.captured_at_ms),
                "written_at_ms": str(round(self._wall_clock_s() * 1000)),
            }

    def count(self, entries: Sequence[Fields]) -> None:
        """Log and count entries that were written."""
        for entry in entries:
            self._metrics.health_changes.labels(entry["problem"], entry["kind"]).inc()
            log.warning("camera health", camera_id=entry["camera_id"], kind=entry["kind"], problem=entry["problem"])
