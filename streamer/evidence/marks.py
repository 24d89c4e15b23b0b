"""Takes up what operators say of events, so that the clips of marked ones are kept."""

import time
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import structlog

from deploy.errors import first_line
from streamer.evidence.feedback import FeedbackFolder
from streamer.interfaces import Fields, StoreUnavailable
from streamer.redis.evidence import RedisEvidence

log = structlog.get_logger("oddsight.evidence")

_RETRY_S: Final = 5.0

Marks = list[tuple[str, Fields]]
"""Ids of entries, and the marks."""


class MarkKeeper:
    """Has marks taken up in their order, on another thread: a store that is slow or away holds up nothing. Call :meth:`step`."""

    def __init__(self, evidence: RedisEvidence, feedback: FeedbackFolder, pool: ThreadPoolExecutor) -> None:
        self._evidence, self._feedback, self._pool = evidence, feedback, pool
        self._waiting: dict[str, Fields] = {}
        """Marks that are not taken up yet, by the ids of their entries."""
        self._running: Future[list[str]] | None = None
        self._retry_at_s = 0.0

    def step(self, unfinished: Collection[str]) -> None:
        """Take up new marks; those of ``unfinished`` events, whose clips are still to be written, wait for these.

        Raises RedisUnavailable: call again later. A mark that is taken up twice does no harm.
        """
        for entry in self._evidence.marks():
            self._waiting[entry.entry_id] = entry.fields
        if self._running is not None and self._running.done():
            done, self._running = self._running.result(), None
            for entry_id in done:
                self._evidence.mark_done(entry_id)
                del self._waiting[entry_id]
        if self._running is None and time.monotonic() >= self._retry_at_s:
            marks = [each for each in self._waiting.items() if each[1].get("event_id") not in unfinished]
            if marks:
                self._running = self._pool.submit(self._take, marks)

    def _take(self, marks: Marks) -> list[str]:
        """Take up marks until the store fails; the ids of those that were."""
        done: list[str] = []
        for entry_id, mark in marks:
            try:
                self._feedback.take(mark)
            except StoreUnavailable as error:
                log.warning("a mark waits for the store", event_id=mark.get("event_id"), error=first_line(error))
                self._retry_at_s = time.monotonic() + _RETRY_S
                break
            done.append(entry_id)
        return done
