"""Follows the events, and has the evidence of each written when it is time."""

import re
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import structlog

from deploy.errors import first_line
from streamer.config import Settings
from streamer.evidence.feedback import FeedbackFolder
from streamer.evidence.live import LivePictures
from streamer.evidence.marks import MarkKeeper
from streamer.evidence.pictures import Picture, UsualPictures
from streamer.evidence.store import EvidenceStore
from streamer.evidence.writer import EventSpan, EvidenceWriter, Scores
from streamer.interfaces import BrokerUnavailable, Fields, StoreUnavailable
from streamer.kafka.history import MessageHistory
from streamer.monitoring import EvidenceMetrics
from streamer.pipeline.areas import KnownAreas
from streamer.redis.evidence import EventHeatmap, RedisEvidence
from streamer.redis.groups import Entry
from streamer.types import EVENT_ID_PATTERN, Event, read_event

log = structlog.get_logger("oddsight.evidence")

_POLL_S: Final = 0.2
_RETRY_S: Final = 2.0
_MOST_RETRY_S: Final = 60.0
_GIVE_UP_AFTER_S: Final = 3_600.0
"""Of failures in a row. Kafka hardly has the frames for longer."""
_SWEEP_EVERY_S: Final = 600.0
_COUNT_EVERY_S: Final = 5.0
_MOST_WAITING: Final = 200
"""Clips that wait to be written; of more events at once, only the pictures are stored."""
_NO_CLIP: Final[Mapping[str, Any]] = {"clip": None, "missing": {"clip.mp4": "too many events at once"}}


@dataclass(slots=True, eq=False)
class _Job:
    """The evidence of one event."""

    entry_id: str
    """Of the event's start."""
    event: Event
    picture_due_s: float
    due_s: float
    """When its clip is written, at the latest."""
    ended_at_ms: int | None = None
    has_picture: bool = False
    running: "Future[None] | None" = None
    is_clip: bool = False
    """Whether what is running writes the clip."""
    attempts: int = 0
    """In a row, that failed."""
    failing_since_s: float | None = None
    """When the first of them began; kept when it is over."""
    retry_at_s: float = 0.0


class _Shown(NamedTuple):
    """What is stored of an event beside its frames."""

    heatmap: EventHeatmap | None
    usual: Picture | None
    scores: Scores


class EvidenceRecorder:
    """Call :meth:`step` repeatedly. The store is asked on the pool's thread only, so that its outage holds up no live picture."""

    def __init__(
        self,
        settings: Settings,
        store: EvidenceStore,
        areas: KnownAreas,
        evidence: RedisEvidence,
        history: MessageHistory,
        writer: EvidenceWriter,
        pool: ThreadPoolExecutor,
        metrics: EvidenceMetrics,
    ) -> None:
        """``history`` must not be the one that ``writer`` reads from, on another thread."""
        self._settings, self._store, self._evidence, self._writer, self._pool = settings, store, evidence, writer, pool
        self._areas, self._metrics = areas, metrics
        self._usual = UsualPictures()
        self._live = LivePictures(settings, areas, history, evidence, self._usual)
        self._jobs: dict[str, _Job] = {}
        self._marks = MarkKeeper(evidence, FeedbackFolder(store), pool)
        self._sweeping: Future[int] | None = None
        self._sweep_at_s = self._count_at_s = 0.0
        self.problem: str | None = None
        """Why nothing can be stored at the moment; None if it can."""

    def step(self) -> None:
        """Take up new events, write what is due, renew the live pictures.

        Raises:
            BrokerUnavailable, RedisUnavailable: call again later; no event is forgotten.
        """
        entries = self._evidence.poll(_POLL_S)
        self._areas.load()  # first: nothing may be stored or shown that has just been masked
        for entry in entries:
            self._take(entry)
        self._marks.step(self._jobs.keys())
        for job in list(self._jobs.values()):
            self._advance(job)
        self._live.poll(job.event.camera_id for job in self._jobs.values() if job.ended_at_ms is None)
        self._sweep()
        self._count()

    def _take(self, entry: Entry) -> None:
        event = _event(entry.fields)
        if event is not None and event.kind == "start":
            if event.event_id not in self._jobs:
                self._jobs[event.event_id] = _Job(entry.entry_id, event, time.monotonic(), self._due_s(event))
                return
            if self._jobs[event.event_id].entry_id == entry.entry_id:
                return  # claimed again while it is in hand
        elif event is not None and event.kind == "end" and event.event_id in self._jobs:
            job = self._jobs[event.event_id]
            job.ended_at_ms, job.due_s = event.ended_at_ms, time.monotonic()
        self._evidence.done(entry.entry_id)

    def _due_s(self, event: Event) -> float:
        """When all frames of the clip have been sent, even if the event has not ended by then."""
        limits = self._settings.evidence
        age_s = max(0.0, time.time() - event.scored_at_ms / 1000)
        return time.monotonic() + max(0.0, limits.max_clip_s + limits.post_roll_s - age_s)

    def _advance(self, job: _Job) -> None:
        if job.running is not None:
            if job.running.done():
                self._take_result(job, job.running)
        elif time.monotonic() < job.retry_at_s:
            return
        elif not job.has_picture:
            self._start(job, is_clip=False)
        elif time.monotonic() >= job.due_s:
            self._start(job, is_clip=True)

    def _start(self, job: _Job, *, is_clip: bool) -> None:
        waiting = sum(each.is_clip and each.running is not None for each in self._jobs.values())
        is_too_much = is_clip and waiting >= _MOST_WAITING
        if is_too_much and job.failing_since_s is not None:
            return  # there was an outage, and now all of its events come at once
        span = self._span(job)
        shown = _Shown(
            self._evidence.heatmap(job.event.event_id),
            self._usual.get(job.event.camera_id),
            self._evidence.scores(job.event.camera_id, span.from_ms, span.until_ms),
        )
        job.is_clip = is_clip
        if not is_clip:
            job.running = self._pool.submit(self._write_picture, span, shown)
            return
        if is_too_much:
            log.warning("too many events at once: no clip is stored of one", event_id=job.event.event_id)
            self._metrics.lost.labels("too_many").inc()
        job.running = self._pool.submit(self._write_all, span, shown, with_clip=not is_too_much)

    def _write_picture(self, span: EventSpan, shown: _Shown) -> None:
        about = self._writer.write_picture(span.event, shown.heatmap, shown.usual)
        self._writer.write_manifest(span.event, {**about, "ended_at_ms": None, "clip": None}, shown.scores)

    def _write_all(self, span: EventSpan, shown: _Shown, *, with_clip: bool) -> None:
        about = self._writer.write_picture(span.event, shown.heatmap, shown.usual)
        clip = self._writer.write_clip(span) if with_clip else _NO_CLIP
        missing = {**about["missing"], **clip.get("missing", {})}
        self._writer.write_manifest(
            span.event, {**about, **clip, "ended_at_ms": span.ended_at_ms, "missing": missing}, shown.scores
        )

    def _span(self, job: _Job) -> EventSpan:
        limits, event = self._settings.evidence, job.event
        longest_ms = event.started_at_ms + round(limits.max_clip_s * 1000)
        until_ms = longest_ms if job.ended_at_ms is None else min(job.ended_at_ms, longest_ms)
        before_ms, after_ms = round(limits.pre_roll_s * 1000), round(limits.post_roll_s * 1000)
        return EventSpan(event, event.started_at_ms - before_ms, until_ms + after_ms, until_ms)

    def _take_result(self, job: _Job, running: "Future[None]") -> None:
        job.running = None
        try:
            running.result()
        except (BrokerUnavailable, StoreUnavailable, OSError) as error:
            if not self._is_given_up(job, error):
                return
            job.is_clip = True
        else:
            self.problem, job.attempts = None, 0
        job.has_picture = True
        if job.is_clip:
            self._evidence.done(job.entry_id)
            del self._jobs[job.event.event_id]

    def _is_given_up(self, job: _Job, error: Exception) -> bool:
        """Whether a failed attempt was the last one."""
        name, now_s, self.problem = job.event.event_id, time.monotonic(), first_line(error)
        since_s = now_s if job.failing_since_s is None or not job.attempts else job.failing_since_s
        job.failing_since_s = since_s
        job.attempts += 1
        job.retry_at_s = now_s + min(_MOST_RETRY_S, _RETRY_S * 2.0 ** min(job.attempts, 10))
        self._metrics.failures.inc()
        log.warning("evidence could not be stored", event_id=name, attempt=job.attempts, error=self.problem)
        if now_s - since_s < _GIVE_UP_AFTER_S:
            return False
        log.error("evidence of an event is given up", event_id=name, error=self.problem)
        self._metrics.lost.labels("given_up").inc()
        return True

    def _sweep(self) -> None:
        """Have the limits of age and size kept to from time to time."""
        if self._sweeping is not None and self._sweeping.done():
            done, self._sweeping = self._sweeping, None
            try:
                done.result()
            except StoreUnavailable as error:
                log.warning("old evidence could not be deleted", error=first_line(error))
        if self._sweeping is None and time.monotonic() >= self._sweep_at_s:
            self._sweep_at_s = time.monotonic() + _SWEEP_EVERY_S
            self._sweeping = self._pool.submit(self._store.sweep)

    def _count(self) -> None:
        now_s = time.monotonic()
        if now_s < self._count_at_s:
            return
        self._count_at_s = now_s + _COUNT_EVERY_S
        due_s = (job.due_s if job.has_picture else job.picture_due_s for job in self._jobs.values())
        self._metrics.waiting.set(len(self._jobs))
        self._metrics.delay_s.set(max(0.0, now_s - min(due_s, default=now_s)))
        self._metrics.unread.set(self._evidence.unread())


def _event(fields: Fields) -> Event | None:
    """The event of an entry, if there is one whose evidence can be stored."""
    event = read_event(fields)
    return event if event is not None and re.fullmatch(EVENT_ID_PATTERN, event.event_id) else None
