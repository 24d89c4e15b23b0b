"""A dashboard without Redis for unit tests, and events to fill it with."""

import queue
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi.testclient import TestClient

from streamer.areas import CameraAreas, Quieted
from streamer.config import Settings
from streamer.dashboard.access import Access
from streamer.dashboard.app import make_app
from streamer.dashboard.evidence import EvidenceReader
from streamer.dashboard.live import Live
from streamer.dashboard.parts import Parts
from streamer.dashboard.users import UserList
from streamer.evidence.files import EvidenceFiles
from streamer.interfaces import RedisUnavailable
from streamer.minutes import MINUTE_MS
from streamer.redis.minutes import MinuteEntry
from streamer.redis.operators import Attempts, AuditEntry, Mark
from streamer.redis.overview import Picture
from streamer.redis.subscriber import HealthEntry, ScoreEntry, Updates
from streamer.types import Event
from tests.harness.stream_entries import EVENT

DAY_MS = 1_764_374_400_000
"""The beginning of 2025-11-29, UTC."""


def event_of(number: int, kind: str = "start", camera_id: str = "gate", **fields: object) -> Event:
    """An entry of the event with this number, which began so many seconds after the beginning of a day."""
    started_at_ms = DAY_MS + number * 1000
    own = {
        "event_id": f"{number:016x}",
        "kind": kind,
        "camera_id": camera_id,
        "started_at_ms": started_at_ms,
        "captured_at_ms": started_at_ms,
    }
    return Event.model_validate({**EVENT, **own, **fields})


def mark_of(number: int, kind: str, user: str = "ada", at_ms: int = 1, text: str | None = None) -> Mark:
    """A mark of the event with this number."""
    return Mark.model_validate(
        {"event_id": f"{number:016x}", "camera_id": "gate", "kind": kind, "user": user, "at_ms": at_ms, "text": text}
    )


class FakeRedis:
    """Subscriber, operators' store and status reader in one, in memory."""

    def __init__(self) -> None:
        self.updates: queue.Queue[Updates] = queue.Queue()
        self.past: list[Event] = []
        self.marks: list[Mark] = []
        self.trail: list[AuditEntry] = []
        self.sessions: dict[str, str] = {}
        self.attempts: Counter[str] = Counter()
        self.pictures: dict[str, Picture] = {}
        self.areas: dict[str, CameraAreas] = {}
        self.minute_entries: list[MinuteEntry] = []
        self.quieted_events: dict[str, Quieted] = {}
        self.is_away = False

    def _check(self) -> None:
        if self.is_away:
            raise RedisUnavailable("Redis: nothing listens there")

    # Subscriber

    def history(self) -> Iterator[list[Event]]:
        self._check()
        yield self.past

    def recent(self) -> Updates:
        return Updates([], [])

    def poll(self, wait_s: float) -> Updates:
        self._check()
        try:
            return self.updates.get(timeout=0.01)
        except queue.Empty:
            return Updates([], [])

    # OperatorStore

    def add_mark(self, mark: Mark) -> None:
        self._check()
        self.marks.append(mark)

    def marks_after(self, last_id: str) -> tuple[str, list[Mark]]:
        self._check()
        first = int(last_id.partition("-")[0])
        return f"{len(self.marks)}-0", self.marks[first:]

    def audit(self, entry: AuditEntry) -> None:
        self._check()
        self.trail.append(entry)

    def newest_audit(self, count: int) -> list[AuditEntry]:
        return self.trail[::-1][:count]

    def put_session(self, token: str, content: str, expire_s: int) -> None:
        self.sessions[token] = content

    def read_session(self, token: str) -> str | None:
        self._check()
        return self.sessions.get(token)

    def delete_session(self, token: str) -> None:
        self.sessions.pop(token, None)

    def count_attempt(self, name: str, window_s: int) -> Attempts:
        self.attempts[name] += 1
        return Attempts(self.attempts[name], window_s)

    def uncount_attempt(self, name: str) -> None:
        self.attempts[name] -= 1

    def forget_attempts(self, name: str) -> None:
        self.attempts.pop(name, None)

    # StatusReader

    def picture_times(self, camera_ids: list[str]) -> dict[str, int]:
        return {name: self.pictures[name].captured_at_ms for name in camera_ids if name in self.pictures}

    def picture(self, camera_id: str) -> Picture | None:
        return self.pictures.get(camera_id)

    def forget_picture(self, camera_id: str) -> None:
        self.pictures.pop(camera_id, None)

    def scores(self, camera_id: str, from_ms: int, until_ms: int) -> list[tuple[int, float, float]]:
        return [(DAY_MS + 100 * number, 0.25, 0.5) for number in range(10_000)]

    def minutes(self, camera_id: str, from_ms: int, until_ms: int) -> list[MinuteEntry]:
        return [each for each in self.minute_entries if from_ms - MINUTE_MS < each.minute_at_ms <= until_ms]

    def minutes_since_ms(self, camera_id: str) -> int | None:
        return self.minute_entries[0].minute_at_ms if self.minute_entries else None

    def services(self) -> dict[str, dict[str, str]]:
        return {"a": {"host": "nvr"}}

    def stream_lengths(self, camera_ids: list[str]) -> dict[str, int]:
        return {"oddsight:events": 3}

    def server(self) -> dict[str, str]:
        return {"redis_version": "7.2.4"}

    # RedisProgressStore

    def quieted(self, topic: str, camera_id: str) -> dict[str, Quieted]:
        self._check()
        return self.quieted_events

    # RedisAreaStore

    def read(self) -> dict[str, CameraAreas]:
        self._check()
        return self.areas

    def change(self, camera_id: str, change: Callable[[CameraAreas], CameraAreas]) -> CameraAreas:
        changed = change(self.areas.get(camera_id, CameraAreas()))
        self.areas[camera_id] = CameraAreas.model_validate(changed.model_dump())
        return self.areas[camera_id]


def score_of(camera_id: str, number: int, score: float = 0.25) -> ScoreEntry:
    """The score of a camera's frame with this number, ten a second."""
    return ScoreEntry(camera_id, DAY_MS + number * 100, score, 0.5, DAY_MS + number * 100 + 50)


def health_of(camera_id: str, kind: str, problem: str = "covered") -> HealthEntry:
    """The start or the end of a problem with a camera."""
    return HealthEntry(camera_id, kind, problem, "nothing can be seen", DAY_MS)


class Dashboard:
    """An application on a fake Redis, and a client of it."""

    def __init__(self, fake: FakeRedis, parts: Parts, client: TestClient) -> None:
        self.redis, self.parts, self.client = fake, parts, client

    def write(self, *events: Event, scores: list[ScoreEntry] | None = None, health: list[HealthEntry] | None = None) -> None:
        """Have entries written to Redis, and wait until the dashboard has taken them in."""
        self.redis.updates.put(Updates(scores or [], list(events), health or []))
        wanted = {event.event_id for event in events}
        wait_for(lambda: all(self.parts.live.board.events.get(event_id) for event_id in wanted) and self.redis.updates.empty())

    def csrf(self) -> dict[str, str]:
        """The header that a change needs."""
        return {"X-CSRF-Token": self.client.get("/api/v1/me").json()["csrf"]}

    def log_in(self, name: str, password: str) -> None:
        assert self.client.post("/api/v1/login", json={"name": name, "password": password}).status_code == 200


@contextmanager
def dashboard(
    users: Path | None = None, evidence: EvidenceFiles | None = None, address: str = "http://localhost"
) -> Iterator[Dashboard]:
    """A running dashboard."""
    fake, settings = FakeRedis(), Settings()
    live = Live(lambda: fake, fake, fake)  # type: ignore[arg-type,return-value]  # it has their methods
    access = Access(UserList(users) if users else None, fake, 3600)  # type: ignore[arg-type]  # likewise
    parts = Parts(settings, live, fake, fake, access, EvidenceReader(evidence), fake, fake)  # type: ignore[arg-type]  # likewise
    with TestClient(make_app(parts), base_url=address) as client:
        wait_for(lambda: live.link.reachable)
        yield Dashboard(fake, parts, client)


def wait_for(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Wait until ``condition()`` holds."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s"
        time.sleep(0.005)
