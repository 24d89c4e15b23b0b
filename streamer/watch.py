"""``oddsight-stream watch``: the terminal view of whatever writes to Redis.

The terminal view: cameras with their scores against thresholds, frames a second, and events as they come.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streamer.config import RedisSettings
from streamer.event import Event
from streamer.redis.client import check_redis, make_redis
from streamer.redis.subscriber import ScoreEntry, Subscriber, Updates

_BAR_CELLS = 32
_THRESHOLD_CELL = 20
"""Where in the bar the threshold stands: a score's distance to it is what an operator reads."""
_EVENTS_SHOWN = 8
_RATE_OVER_S = 3.0
_KIND_STYLES = {"start": "bold red", "update": "red", "end": "green"}


@dataclass(slots=True)
class _Row:
    score: ScoreEntry
    arrivals_s: deque[float] = field(default_factory=lambda: deque(maxlen=1_000))


class Dashboard:
    """What the view shows. Feed it with :meth:`take`, show :meth:`render`."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._rows: dict[str, _Row] = {}
        self._open: set[str] = set()
        """Cameras with an open event; an event may be read before the camera's first score."""
        self._events: deque[Event] = deque(maxlen=_EVENTS_SHOWN)

    def take(self, news: Updates) -> None:
        """Put what is new on the board."""
        now_s = self._clock_s()
        for score in news.scores:
            row = self._rows.setdefault(score.camera_id, _Row(score))
            row.score = score
            row.arrivals_s.append(now_s)
        for event in news.events:
            self._events.append(event)
            if event.kind == "end":
                self._open.discard(event.camera_id)
            else:
                self._open.add(event.camera_id)

    def render(self) -> Group:
        """The board as it stands."""
        return Group(self._camera_table(), self._event_table())

    def _camera_table(self) -> Table:
        table = Table(title="cameras", title_justify="left", expand=False)
        for heading in ("camera", "score against threshold", "score", "threshold", "frames/s", "state"):
            table.add_column(heading, justify="right" if heading in {"score", "threshold", "frames/s"} else "left")
        for camera_id, row in sorted(self._rows.items()):
            state = Text("ANOMALY", style="bold red") if camera_id in self._open else Text("normal", style="green")
            entry = row.score
            rate = f"{self._rate(row):.1f}"
            # As Text: rich would read a camera_id like "gate[/]" as markup.
            table.add_row(Text(camera_id), _bar(entry), f"{entry.score:.3f}", f"{entry.threshold:.3f}", rate, state)
        if self._rows:
            total = sum(self._rate(row) for row in self._rows.values())
            table.add_section()
            table.add_row("all", "", "", "", f"{total:.1f}", "")
        return table

    def _event_table(self) -> Table:
        table = Table(title="events", title_justify="left", expand=False)
        for heading in ("captured", "camera", "kind", "event_id", "score", "peak", "region x,y,w,h"):
            table.add_column(heading)
        for event in self._events:
            table.add_row(*map(Text, event_cells(event)), style=_KIND_STYLES[event.kind])
        return table

    def _rate(self, row: _Row) -> float:
        since_s = self._clock_s() - _RATE_OVER_S
        return sum(arrival_s >= since_s for arrival_s in row.arrivals_s) / _RATE_OVER_S


def event_cells(event: Event) -> tuple[str, ...]:
    """One event entry as words: capture time, camera, kind, id, score, peak score, region."""
    seconds, ms = divmod(event.captured_at_ms, 1000)
    captured = f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{ms // 100}"
    score = "-" if event.score is None else f"{event.score:.3f}"
    return captured, event.camera_id, event.kind, event.event_id, score, f"{event.peak_score:.3f}", event.region or "-"


def event_line(event: Event) -> str:
    """One event entry as a line for a log."""
    return "  ".join(event_cells(event))


def _bar(entry: ScoreEntry) -> Text:
    """Score as a bar whose marked cell is the threshold."""
    relative = entry.score / entry.threshold if entry.threshold > 0 else 0.0
    filled = max(0, min(_BAR_CELLS, round(relative * _THRESHOLD_CELL)))
    cells = ["█" if cell < filled else "·" for cell in range(_BAR_CELLS)]
    cells[_THRESHOLD_CELL] = "┃"
    return Text("".join(cells), style="red" if relative >= 1 else "green")


_LOOK_EVERY_S = 0.2


def watch(settings: RedisSettings, console: Console, stop: threading.Event) -> None:
    """Show what comes from now on, until ``stop`` is set.

    Raises:
        RedisUnavailable: says what to check.
    """
    board = Dashboard()
    with make_redis(settings) as client, live_dashboard(console, board) as show:
        check_redis(client)
        feed = Subscriber(client, settings, from_start=False)
        while not stop.is_set():
            news = feed.poll(_LOOK_EVERY_S)
            board.take(news)
            show(news.events)


@contextmanager
def live_dashboard(console: Console, board: Dashboard) -> Iterator[Callable[[list[Event]], None]]:
    """A function to call after each look: refreshes a live view on a terminal, elsewhere prints a line an event entry."""

    def print_lines(events: list[Event]) -> None:
        for event in events:
            console.print(event_line(event), markup=False, soft_wrap=True)

    if not console.is_terminal:
        yield print_lines
        return
    with Live(console=console, auto_refresh=False, get_renderable=board.render) as live:
        yield lambda _events: live.refresh()
