"""``oddsight-stream evidence``: stores pictures and clips of events, and shows what the cameras show now.

A process of its own beside the service: it costs scoring nothing, may be restarted at any time, and takes up what it had not
done. Frames come from Kafka again, events through a Redis consumer group, so that several processes share them.
"""

import re
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import structlog

from deploy.errors import first_line
from streamer.config import Settings
from streamer.evidence.feedback import FeedbackFolder
from streamer.evidence.footage import EventFootage
from streamer.evidence.live import LivePictures
from streamer.evidence.pictures import Picture, UsualPictures
from streamer.evidence.store import EvidenceStore
from streamer.evidence.writer import EventSpan, EvidenceWriter, Scores
from streamer.interfaces import BrokerUnavailable, Fields, RedisUnavailable
from streamer.kafka.client import silence_kafka_log
from streamer.kafka.history import MessageHistory
from streamer.pipeline.areas import KnownAreas
from streamer.redis.areas import RedisAreaStore
from streamer.redis.client import check_redis, make_redis
from streamer.redis.evidence import EventHeatmap, RedisEvidence
from streamer.redis.groups import Entry
from streamer.types import EVENT_ID_PATTERN, Event, read_event

log = structlog.get_logger("oddsight.evidence")

_POLL_S: Final = 0.2
_RETRY_S: Final = 2.0
_SWEEP_EVERY_S: Final = 600.0
_MOST_WAITING: Final = 200
"""Clips that wait to be written; of more events at once, only the pictures are stored."""
_NO_CLIP: Final[Mapping[str, Any]] = {"clip": None, "missing": {"clip.mp4": "too many events at once"}}
_MOST_ATTEMPTS: Final = 5


@dataclass(slots=True, eq=False)
class _Job:
    """The evidence of one event."""

    entry_id: str
    """Of the event's start."""
    event: Event
    due_s: float
    """When its clip is written, at the latest."""
    ended_at_ms: int | None = None
    has_picture: bool = False
    running: "Future[None] | None" = None
    is_clip: bool = False
    """Whether what is running writes the clip."""
    attempts: int = 0
    retry_at_s: float = 0.0


class _Shown(NamedTuple):
    """What is stored of an event beside its frames."""

    heatmap: EventHeatmap | None
    usual: Picture | None
    scores: Scores


def run_evidence(settings: Settings, stop: threading.Event) -> None:
    """Store evidence until ``stop`` is set; what is being written then is finished.

    Raises:
        ConfigError: ``evidence.dir`` is not set, or cannot be written to.
        BrokerUnavailable, RedisUnavailable: at start.
    """
    silence_kafka_log()
    store = EvidenceStore(settings.evidence)
    with ExitStack() as stack:
        client = stack.enter_context(make_redis(settings.redis))
        check_redis(client)
        live, clips = (stack.enter_context(closing(MessageHistory(settings.kafka))) for _ in range(2))
        pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="evidence"))
        areas = KnownAreas(settings, RedisAreaStore(client, settings.redis))
        writer = EvidenceWriter(areas, store, EventFootage(clips))
        recorder = EvidenceRecorder(settings, store, areas, RedisEvidence(client, settings.redis), live, writer, pool)
        log.info("storing evidence", dir=str(settings.evidence.dir))
        while not stop.is_set():
            try:
                recorder.step()
            except (BrokerUnavailable, RedisUnavailable) as error:
                log.warning("waiting before the next attempt", error=str(error), retry_in_s=_RETRY_S)
                stop.wait(_RETRY_S)


class EvidenceRecorder:
    """Follows the events, and has their evidence written when it is time. Call :meth:`step` repeatedly."""

    def __init__(
        self,
        settings: Settings,
        store: EvidenceStore,
        areas: KnownAreas,
        evidence: RedisEvidence,
        history: MessageHistory,
        writer: EvidenceWriter,
        pool: ThreadPoolExecutor,
    ) -> None:
        """``history`` must not be the one that ``writer`` reads from, on another thread."""
        self._settings, self._store, self._evidence, self._writer, self._pool = settings, store, evidence, writer, pool
        self._areas = areas
        self._usual = UsualPictures()
        self._live = LivePictures(settings, areas, history, evidence, self._usual)
        self._jobs: dict[str, _Job] = {}
        self._feedback = FeedbackFolder(store)
        self._marks: dict[str, Fields] = {}
        """Marks that are not taken up yet, by the ids of their entries."""
        self._sweep_at_s = 0.0

    def step(self) -> None:
        """Take up new events, write what is due, renew the live pictures.

        Raises:
            BrokerUnavailable, RedisUnavailable: call again later; no event is forgotten.
        """
        entries = self._evidence.poll(_POLL_S)
        self._areas.load()  # first: nothing may be stored or shown that has just been masked
        for entry in entries:
            self._take(entry)
        self._take_marks()
        for job in list(self._jobs.values()):
            self._advance(job)
        self._live.poll(job.event.camera_id for job in self._jobs.values() if job.ended_at_ms is None)
        if time.monotonic() >= self._sweep_at_s:
            self._sweep_at_s = time.monotonic() + _SWEEP_EVERY_S
            self._store.sweep()

    def _take(self, entry: Entry) -> None:
        event = _event(entry.fields)
        if event is not None and event.kind == "start":
            if event.event_id not in self._jobs:
                self._jobs[event.event_id] = _Job(entry.entry_id, event, self._due_s(event))
                return
            if self._jobs[event.event_id].entry_id == entry.entry_id:
                return  # claimed again while it is in hand
        elif event is not None and event.kind == "end" and event.event_id in self._jobs:
            job = self._jobs[event.event_id]
            job.ended_at_ms, job.due_s = event.ended_at_ms, time.monotonic()
        self._evidence.done(entry.entry_id)

    def _take_marks(self) -> None:
        """Keep the clips of marked events; a mark whose clip is still to be written waits for it."""
        for entry in self._evidence.marks():
            self._marks[entry.entry_id] = entry.fields
        for entry_id, mark in list(self._marks.items()):
            if mark.get("event_id") not in self._jobs:
                try:
                    self._feedback.take(mark)
                except OSError as error:
                    log.warning("the clip of a mark could not be kept", event_id=mark.get("event_id"), error=first_line(error))
                self._evidence.mark_done(entry_id)
                del self._marks[entry_id]

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
        waiting = sum(each.is_clip and each.running is not None for each in self._jobs.values())
        if waiting >= _MOST_WAITING:
            log.warning("too many events at once: no clip is stored of one", event_id=job.event.event_id)
        job.running = self._pool.submit(self._write_all, span, shown, with_clip=waiting < _MOST_WAITING)

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
        except (BrokerUnavailable, OSError) as error:
            job.attempts += 1
            name = job.event.event_id
            log.warning("evidence could not be stored", event_id=name, attempt=job.attempts, error=first_line(error))
            job.retry_at_s = time.monotonic() + _RETRY_S * 2**job.attempts
            if job.attempts < _MOST_ATTEMPTS:
                return
            job.is_clip = True
        job.has_picture = True
        if job.is_clip:
            self._evidence.done(job.entry_id)
            del self._jobs[job.event.event_id]


def _event(fields: Fields) -> Event | None:
    """The event of an entry, if there is one whose evidence can be stored."""
    event = read_event(fields)
    return event if event is not None and re.fullmatch(EVENT_ID_PATTERN, event.event_id) else None
