"""What the pages show, kept up to date by batches of entries from Redis: the cameras and the events."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from streamer.dashboard.index import EventIndex
from streamer.dashboard.models import CameraRow, EventRow, HealthChangeRow, HealthProblemRow, Learning, ScoreRow
from streamer.redis.operators import Mark
from streamer.redis.subscriber import HealthEntry, ScoreEntry, Updates
from streamer.types import Event

HEALTH_KEPT: Final = 50
"""Changes of the health of each camera."""
RECENT: Final = 120
"""Half seconds of which the wall shows scores."""


class Batch(NamedTuple):
    """What was read from Redis at once."""

    updates: Updates = Updates([], [])
    marks: Sequence[Mark] = ()
    pictures: Mapping[str, int] = MappingProxyType({})
    """camera_id -> when its newest picture was taken."""
    is_past: bool = False
    """Whether this was written before the dashboard began."""


class Changed(NamedTuple):
    """What a batch changed, other than scores."""

    cameras: list[CameraRow]
    events: list[EventRow]


@dataclass(slots=True)
class _Camera:
    newest: ScoreEntry | None = None
    highest: float | None = None
    """Since scores were told last."""
    problem: HealthProblemRow | None = None
    picture_at_ms: int | None = None
    health: deque[HealthChangeRow] = field(default_factory=lambda: deque(maxlen=HEALTH_KEPT))
    recent: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=RECENT))


class Board:
    """The state of the dashboard. All methods are called from one thread, and none of them waits."""

    def __init__(self) -> None:
        self.events = EventIndex()
        self._cameras: dict[str, _Camera] = {}

    @property
    def camera_ids(self) -> list[str]:
        """All cameras that are known, by name."""
        return sorted(self._cameras)

    def apply(self, batch: Batch) -> Changed:
        """Take in what was read."""
        self._add_scores(batch.updates.scores)
        rows = {row.event_id: row for event in batch.updates.events for row in self._add_event(event)}
        marked = (self.events.mark(mark) for mark in batch.marks)
        rows |= {row.event_id: row for row in marked if row is not None}
        touched = {row.camera_id for row in rows.values()} | {entry.camera_id for entry in batch.updates.health}
        for entry in batch.updates.health:
            self._add_health(entry)
        touched |= self._add_pictures(batch.pictures)
        return Changed([self.camera(camera_id) for camera_id in sorted(touched)], list(rows.values()))

    def take_scores(self) -> list[ScoreRow]:
        """The newest score of each camera that had any since this was called last, with the highest of them."""
        fresh = []
        for camera in self._cameras.values():
            newest, highest = camera.newest, camera.highest
            if newest is not None and highest is not None:
                camera.highest = None
                camera.recent.append((newest.captured_at_ms, round(highest, 4)))
                fresh.append(_score_row(newest, highest))
        return fresh

    def camera(self, camera_id: str) -> CameraRow:
        """What is known of a camera."""
        camera, alarm = self._cameras.get(camera_id, _Camera()), self.events.open_event(camera_id)
        newest = camera.newest
        learning = newest is not None and newest.learning is not None
        return CameraRow(
            camera_id=camera_id,
            state="alarm" if alarm else "problem" if camera.problem else "learning" if learning else "watching",
            newest=newest and _score_row(newest, newest.score),
            problem=camera.problem,
            alarm=None if alarm is None else alarm.event_id,
            picture_at_ms=camera.picture_at_ms,
            recent=tuple(camera.recent),
        )

    def cameras(self) -> list[CameraRow]:
        """All cameras, by name."""
        return [self.camera(camera_id) for camera_id in self.camera_ids]

    def health(self, camera_id: str) -> list[HealthChangeRow]:
        """The last changes of a camera's health, newest first."""
        return list(reversed(self._cameras.get(camera_id, _Camera()).health))

    def open_events(self) -> list[EventRow]:
        """The events that go on."""
        found: Iterable[EventRow | None] = map(self.events.open_event, self.camera_ids)
        return [row for row in found if row is not None]

    def _camera(self, camera_id: str) -> _Camera:
        return self._cameras.setdefault(camera_id, _Camera())

    def _add_scores(self, scores: Iterable[ScoreEntry]) -> None:
        for score in scores:
            camera = self._camera(score.camera_id)
            camera.newest = score
            camera.highest = score.score if camera.highest is None else max(camera.highest, score.score)

    def _add_event(self, event: Event) -> list[EventRow]:
        self._camera(event.camera_id)
        return self.events.add(event)

    def _add_health(self, entry: HealthEntry) -> None:
        camera, what = self._camera(entry.camera_id), {"problem": entry.problem, "text": entry.text}
        camera.problem = HealthProblemRow(**what, since_ms=entry.captured_at_ms) if entry.kind == "start" else None
        kind: Literal["start", "end"] = "start" if entry.kind == "start" else "end"
        camera.health.append(HealthChangeRow(**what, since_ms=entry.captured_at_ms, kind=kind))

    def _add_pictures(self, pictures: Mapping[str, int]) -> set[str]:
        fresh = {name: at_ms for name, at_ms in pictures.items() if self._camera(name).picture_at_ms != at_ms}
        for camera_id, at_ms in fresh.items():
            self._camera(camera_id).picture_at_ms = at_ms
        return set(fresh)


def _score_row(entry: ScoreEntry, highest: float) -> ScoreRow:
    learning = None if entry.learning is None else Learning(share=entry.learning, left_s=entry.learning_left_s or 0.0)
    return ScoreRow(
        camera_id=entry.camera_id,
        captured_at_ms=entry.captured_at_ms,
        scored_at_ms=entry.scored_at_ms,
        score=entry.score,
        highest=highest,
        threshold=entry.threshold,
        learning=learning,
    )
