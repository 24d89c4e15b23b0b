"""``oddsight-stream watch``: a terminal dashboard of cameras, scores and events, fed by Redis."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from streamer.config import RedisSettings
from streamer.interfaces import RedisUnavailable
from streamer.redis.client import check_redis, make_redis
from streamer.redis.subscriber import HealthEntry, ScoreEntry, Subscriber, Updates
from streamer.types import Event

_POLL_S = 0.2
_BAR_CELLS = 32
_THRESHOLD_CELL = 20
"""The threshold is marked at the same place in every bar, so that bars of cameras with different thresholds compare."""
_MAX_EVENTS = 8
_RATE_WINDOW_S = 3.0
_SILENT_AFTER_S = 10.0
_RETRY_S = 1.0
_KIND_STYLES = {"start": "bold red", "update": "red", "end": "green"}


def watch(settings: RedisSettings, console: Console, stop: threading.Event) -> None:
    """Show what is going on, then scores and events as they are written, until ``stop`` is set.

    A Redis that goes away is waited for. RedisUnavailable, if there is none at start, says what to check.
    """
    dashboard = Dashboard()
    with make_redis(settings) as client, live_dashboard(console, dashboard) as show:
        check_redis(client)
        subscriber = Subscriber(client, settings, from_start=False)
        recent = subscriber.recent()
        dashboard.recall(recent)
        show(still_open(recent))
        follow(subscriber, dashboard, show, console, stop)


class Poller(Protocol):
    """What new entries come from: :class:`streamer.redis.subscriber.Subscriber`."""

    def poll(self, wait_s: float) -> Updates: ...


def follow(
    poller: Poller, dashboard: "Dashboard", show: Callable[[Updates], None], console: Console, stop: threading.Event
) -> None:
    """Show new entries until ``stop`` is set; says so while they cannot be read."""
    connected = True
    while not stop.is_set():
        try:
            updates = poller.poll(_POLL_S)
        except RedisUnavailable as error:
            if connected:
                console.print(f"Redis does not answer, trying again: {error}", markup=False, soft_wrap=True)
            connected, updates = False, Updates([], [])
            stop.wait(_RETRY_S)
        else:
            if not connected:
                console.print("Redis answers again", markup=False)
            connected = True
        dashboard.update(updates)
        show(updates)


def still_open(updates: Updates) -> Updates:
    """The newest entry of each event, and of each problem of a camera, that has not ended."""
    events = {event.event_id: event for event in updates.events}
    problems = {entry.camera_id: entry for entry in updates.health}
    return Updates(
        [],
        [event for event in events.values() if event.kind != "end"],
        [entry for entry in problems.values() if entry.kind == "start"],
    )


@contextmanager
def live_dashboard(console: Console, dashboard: "Dashboard") -> Iterator[Callable[[Updates], None]]:
    """Yield a function to call with each poll's entries: it refreshes a terminal, and elsewhere prints a line for each."""

    def print_lines(updates: Updates) -> None:
        for cells in (*map(event_cells, updates.events), *map(health_cells, updates.health)):
            console.print("  ".join(cells), markup=False, soft_wrap=True)

    if not console.is_terminal:
        yield print_lines
        return
    with Live(console=console, auto_refresh=False, get_renderable=dashboard.render) as live:
        yield lambda _updates: live.refresh()


@dataclass(slots=True)
class _Camera:
    newest: ScoreEntry
    seen_s: float
    """When the newest score was written."""
    arrivals_s: deque[float] = field(default_factory=lambda: deque(maxlen=1_000))


class Dashboard:
    """The state of the dashboard: newest score, frame rate and state of each camera, and the newest events."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic, wall_clock_s: Callable[[], float] = time.time) -> None:
        self._clock_s, self._wall_clock_s = clock_s, wall_clock_s
        self._cameras: dict[str, _Camera] = {}
        self._alarmed: set[str] = set()
        """Cameras with an open event, which may arrive before the camera's first score."""
        self._problems: dict[str, str] = {}
        """What is wrong with cameras."""
        self._events: deque[Event] = deque(maxlen=_MAX_EVENTS)

    def update(self, updates: Updates) -> None:
        """Add new entries."""
        now_s = self._clock_s()
        for score in updates.scores:
            camera = self._cameras.setdefault(score.camera_id, _Camera(score, now_s))
            camera.newest, camera.seen_s = score, now_s
            camera.arrivals_s.append(now_s)
        self._add(updates)

    def recall(self, updates: Updates) -> None:
        """Add entries that were written before now."""
        now_s, now_ms = self._clock_s(), self._wall_clock_s() * 1000
        for score in updates.scores:
            self._cameras[score.camera_id] = _Camera(score, now_s - max(0.0, now_ms - score.scored_at_ms) / 1000)
        self._add(updates)

    def _add(self, updates: Updates) -> None:
        for event in updates.events:
            self._events.append(event)
            if event.kind == "end":
                self._alarmed.discard(event.camera_id)
            else:
                self._alarmed.add(event.camera_id)
        for entry in updates.health:
            if entry.kind == "start":
                self._problems[entry.camera_id] = entry.problem
            else:
                self._problems.pop(entry.camera_id, None)

    def render(self) -> Group:
        """The dashboard as it is now."""
        headings = ("captured", "camera", "kind", "event_id", "score", "peak", "region x,y,w,h", "what")
        events = Table(*headings, title="events", title_justify="left")
        for event in self._events:
            events.add_row(*map(Text, event_cells(event)), style=_KIND_STYLES[event.kind])
        return Group(self._camera_table(), events)

    def _camera_table(self) -> Table:
        numbers = (Column(heading, justify="right") for heading in ("score", "threshold", "frames/s"))
        table = Table("camera", "score against threshold", *numbers, "state", title="cameras", title_justify="left")
        for camera_id, camera in sorted(self._cameras.items()):
            rate = f"{self._rate(camera):.1f}"
            # As Text: rich would read a camera_id like "gate[/]" as markup.
            table.add_row(Text(camera_id), *_score_cells(camera.newest), rate, self._state(camera_id, camera))
        for camera_id in sorted(self._problems.keys() - self._cameras.keys()):
            table.add_row(Text(camera_id), "", "-", "-", "0.0", Text(self._problems[camera_id], style="bold magenta"))
        if self._cameras:
            table.add_section()
            table.add_row("all", "", "", "", f"{sum(map(self._rate, self._cameras.values())):.1f}", "")
        return table

    def _state(self, camera_id: str, camera: _Camera) -> Text:
        if camera_id in self._problems:
            return Text(self._problems[camera_id], style="bold magenta")
        silent_s = self._clock_s() - camera.seen_s
        if silent_s > _SILENT_AFTER_S:  # the service may have ended, and then nobody else says so
            return Text(f"no score for {silent_s:.0f} s", style="bold magenta")
        if camera_id in self._alarmed:  # also while it is learned, if provisional events are on
            return Text("ANOMALY", style="bold red")
        return Text("normal", style="green") if camera.newest.learning is None else Text("learning", style="yellow")

    def _rate(self, camera: _Camera) -> float:
        since_s = self._clock_s() - _RATE_WINDOW_S
        return sum(arrival_s >= since_s for arrival_s in camera.arrivals_s) / _RATE_WINDOW_S


def event_cells(event: Event) -> tuple[str, ...]:
    """Capture time, camera, kind, id, score, peak score, region, and what happens in words, of one event entry, as text."""
    score = "-" if event.score is None else f"{event.score:.3f}"
    return (
        _clock(event.captured_at_ms),
        event.camera_id,
        event.kind,
        event.event_id,
        score,
        f"{event.peak_score:.3f}",
        event.region or "-",
        event.text or "-",
    )


def health_cells(entry: HealthEntry) -> tuple[str, ...]:
    """Time, camera, kind, problem, and the problem in words, as text."""
    return _clock(entry.captured_at_ms), entry.camera_id, f"health {entry.kind}", entry.problem, entry.text


def _clock(time_ms: int) -> str:
    seconds, ms = divmod(time_ms, 1000)
    return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{ms // 100}"


def _score_cells(entry: ScoreEntry) -> tuple[Text | str, str, str]:
    """The score against the threshold, as a bar and in numbers; how far the camera is learned, if it is being learned."""
    if entry.learning is None:
        return _bar(entry), f"{entry.score:.3f}", f"{entry.threshold:.3f}"
    left = f"{entry.learning_left_s:.0f} s left" if entry.learning_left_s else "until certain"
    return Text(f"learning {entry.learning:.0%}, {left}", style="yellow"), "-", "-"


def _bar(entry: ScoreEntry) -> Text:
    relative = entry.score / entry.threshold if entry.threshold > 0 else 0.0
    filled = max(0, min(_BAR_CELLS, round(relative * _THRESHOLD_CELL)))
    cells = ["█" if cell < filled else "·" for cell in range(_BAR_CELLS)]
    cells[_THRESHOLD_CELL] = "┃"
    return Text("".join(cells), style="red" if relative >= 1 else "green")
