"""The one reader of Redis: a thread that follows scores, events, health, marks and pictures, and hands on what is new."""

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from streamer.dashboard.board import Batch
from streamer.interfaces import RedisUnavailable
from streamer.redis.operators import OperatorStore
from streamer.redis.overview import OverviewReader
from streamer.redis.subscriber import Subscriber, Updates

log = structlog.get_logger("oddsight.dashboard")

_POLL_S: Final = 0.2
_PAUSE_S: Final = 0.05
"""Entries that come meanwhile are read at once."""
_RETRY_S: Final = 1.0
_PICTURES_EVERY_S: Final = 1.0

OnBatch = Callable[[Batch], None]
OnReachable = Callable[[str | None], None]
"""Called with why Redis cannot be read, or None once it can."""


class Feed:
    """Reads on until it is stopped. While Redis is away it tries again, and goes on where it was."""

    def __init__(
        self,
        subscribe: Callable[[], Subscriber],
        operators: OperatorStore,
        status: OverviewReader,
        on_batch: OnBatch,
        on_reachable: OnReachable,
    ) -> None:
        self._subscribe, self._operators, self._status = subscribe, operators, status
        self._on_batch, self._on_reachable = on_batch, on_reachable
        self._marks_lock = threading.Lock()
        self._last_mark = "0-0"
        self._subscriber: Subscriber | None = None
        self._cameras: set[str] = set()
        self._pictures_at_s = 0.0

    def run(self, stop: threading.Event) -> None:
        """Read until ``stop`` is set."""
        reachable: bool | None = None
        while not stop.is_set():
            try:
                self._read()
            except RedisUnavailable as error:
                if reachable is not False:
                    log.warning("Redis cannot be read, trying again", error=str(error))
                reachable = False
                self._on_reachable(str(error))
                stop.wait(_RETRY_S)
            else:
                if reachable is not True:
                    self._on_reachable(None)
                reachable = True
                stop.wait(_PAUSE_S)

    def read_marks(self) -> None:
        """Read the marks that are new; also called by who has just written one, so that it counts at once."""
        with self._marks_lock:
            while True:
                self._last_mark, marks = self._operators.marks_after(self._last_mark)
                if not marks:
                    return
                self._on_batch(Batch(marks=marks))

    def _read(self) -> None:
        if self._subscriber is None:
            self._subscriber = self._read_past()
        updates = self._subscriber.poll(_POLL_S)
        self._hand_on(updates)
        self.read_marks()
        self._read_pictures()

    def _read_past(self) -> Subscriber:
        subscriber = self._subscribe()
        for events in subscriber.history():
            self._on_batch(Batch(Updates([], events), is_past=True))
        self._hand_on(subscriber.recent(), is_past=True)
        return subscriber

    def _hand_on(self, updates: Updates, *, is_past: bool = False) -> None:
        for entries in (updates.scores, updates.events, updates.health):
            self._cameras.update(entry.camera_id for entry in entries)
        if any(updates):
            self._on_batch(Batch(updates, is_past=is_past))

    def _read_pictures(self) -> None:
        if time.monotonic() >= self._pictures_at_s and self._cameras:
            self._pictures_at_s = time.monotonic() + _PICTURES_EVERY_S
            self._on_batch(Batch(pictures=self._status.picture_times(sorted(self._cameras))))
