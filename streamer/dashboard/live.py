"""The state of one dashboard process: takes in what the feed reads, and publishes what changed."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from sse_starlette import ServerSentEvent

from streamer.dashboard.board import Batch, Board
from streamer.dashboard.feed import Feed
from streamer.dashboard.hub import Hub, message
from streamer.dashboard.models import Row
from streamer.redis.operators import OperatorStore
from streamer.redis.overview import OverviewReader
from streamer.redis.subscriber import Subscriber

SCORES_EVERY_S: Final = 0.5
T = TypeVar("T")
_MANY: Final = 50
"""Events of which more changed at once are not told one by one, but by another snapshot."""
_TICK_EVERY: Final = 4
"""Every how many times a sign of life is sent besides the scores."""


class Link(Row):
    """Whether what the dashboard shows is up to date."""

    reachable: bool
    """Whether Redis can be read."""
    since_ms: int
    """Since when, in milliseconds since the Unix epoch."""
    problem: str | None = None
    """Why it cannot."""


class Live:
    """Board, pages and feed. State is touched by the event loop only; the feed's thread hands its batches over."""

    def __init__(self, subscribe: Callable[[], Subscriber], operators: OperatorStore, status: OverviewReader) -> None:
        self.board, self.hub = Board(), Hub()
        self.link = Link(reachable=False, since_ms=_now_ms(), problem="not connected yet")
        self.started_at_ms = _now_ms()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = threading.Event()
        self._feed = Feed(
            subscribe,
            operators,
            status,
            lambda batch: self._in_loop(self._take, batch),
            lambda problem: self._in_loop(self._set_link, problem),
        )

    async def run(self) -> None:
        """Follow Redis and publish changes until cancelled."""
        self._loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._feed.run, args=(self._stop,), name="feed", daemon=True)
        thread.start()
        try:
            await self._publish_scores()
        finally:
            self._stop.set()

    def read_marks(self) -> None:
        """Take in the marks that are new; waits for Redis, so not to be called from the event loop."""
        self._feed.read_marks()

    def snapshot(self) -> ServerSentEvent:
        """All that a page begins with."""
        return message("snapshot", self._content())

    def _content(self) -> dict[str, object]:
        return {
            "now_ms": _now_ms(),
            "link": self.link,
            "cameras": self.board.cameras(),
            "events": self.board.open_events(),
        }

    async def _publish_scores(self) -> None:
        count = 0
        while True:
            await asyncio.sleep(SCORES_EVERY_S)
            if scores := self.board.take_scores():
                self.hub.publish("scores", scores)
            count += 1
            if count % _TICK_EVERY == 0:
                self.hub.publish("tick", {"now_ms": _now_ms()})

    def _take(self, batch: Batch) -> None:
        changed = self.board.apply(batch)
        if batch.is_past:
            return
        if len(changed.events) > _MANY:
            self.hub.publish("snapshot", self._content())
            return
        for row in changed.events:
            self.hub.publish("event", row)
        if changed.cameras:
            self.hub.publish("cameras", [row.model_dump(mode="json", exclude={"recent", "newest"}) for row in changed.cameras])

    def _set_link(self, problem: str | None) -> None:
        if self.link.reachable != (problem is None) or self.link.problem != problem:
            since_ms = self.link.since_ms if not self.link.reachable and problem is not None else _now_ms()
            self.link = Link(reachable=problem is None, since_ms=since_ms, problem=problem)
            self.hub.publish("link", self.link)
            if self.link.reachable:
                self.hub.publish("snapshot", self._content())

    def _in_loop(self, function: Callable[[T], None], argument: T) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, argument)


def _now_ms() -> int:
    return round(time.time() * 1000)
