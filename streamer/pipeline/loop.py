"""The loop: consume, decode, clip, micro-batch, score, decide, publish, commit.

The guarantee it keeps: every frame counts once. What a frame causes (scores, events, decision state) is written together with
the partition's next offset, in one atomic step that is refused unless the stored offset is the one this consumer started from.
Everything this process holds of a partition can therefore be thrown away at any time, and is, whenever something goes wrong
with it: the partition is paused, its progress read again, its clips and states replayed, and it goes on from there.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import structlog
from numpy.typing import NDArray

from deploy.batching import MicroBatcher
from streamer.errors import BrokerUnavailable, Fenced, RedisUnavailable
from streamer.event import Event
from streamer.interfaces import (
    CameraState,
    Change,
    ChangeKind,
    DeadLetterSink,
    Fields,
    FrameDecoder,
    FrameSource,
    ProgressStore,
    Step,
)
from streamer.monitoring import Health, Metrics
from streamer.pipeline.clips import ClipBuffer
from streamer.pipeline.decide import Decider
from streamer.pipeline.offsets import Ledger
from streamer.pipeline.replay import plan_start, start_over
from streamer.pipeline.score import Scorer
from streamer.types import CameraFrame, Clip, FrameMessage, Outcome, Partition, Rejected

log = structlog.get_logger("oddsight.pipeline")

_POLL_S = 0.1
_COMMIT_EVERY_S = 1.0
_RETRY_S = (0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """The built parts of the service; the pipeline only connects them."""

    source: FrameSource
    decoder: FrameDecoder
    clips: ClipBuffer
    batcher: MicroBatcher["_QueuedClip"]
    scorer: Scorer
    decider: Decider
    store: ProgressStore
    dead_letters: DeadLetterSink
    metrics: Metrics
    health: Health
    start: str
    """Where a group with no progress begins: ``earliest`` or ``latest``."""
    clock_s: Callable[[], float] = time.monotonic
    wall_clock_s: Callable[[], float] = time.time


@dataclass(slots=True, eq=False)
class _Work:
    """One partition in work. Thrown away whole when the partition is revoked, fenced or read again."""

    partition: Partition
    expected: int
    """The next offset in Redis."""
    ledger: Ledger[Outcome | None]
    """None is the outcome of a message that is no frame."""
    cameras: dict[str, CameraState]
    replay_from: Mapping[bytes, int]
    """The first message before ``expected`` that rebuilds a camera's clip and state, by message key."""

    def replays(self, message: FrameMessage) -> bool:
        """Whether a message before ``expected`` rebuilds a clip or a state."""
        return message.key is not None and message.offset >= self.replay_from.get(message.key, self.expected)


@dataclass(frozen=True, slots=True)
class _QueuedClip:
    work: _Work
    clip: Clip
    queued_at_s: float

    @property
    def replays(self) -> bool:
        """Whether the clip counted before and only rebuilds a state now."""
        return self.clip.newest.offset < self.work.expected


@dataclass(slots=True)
class _Effects:
    """What the done frames of one partition cause, in frame order."""

    cameras: dict[str, CameraState] = field(default_factory=dict)
    scores: list[tuple[str, Fields]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)


class Pipeline:
    """One consumer of the group. Call :meth:`step` again and again, then :meth:`drain`."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._works: dict[Partition, _Work] = {}
        self._waiting: dict[Partition, ChangeKind] = {}
        """Partitions whose progress must be read before they are started, and why."""
        self._retry_at_s = 0.0
        self._failures = 0
        self._commit_at_s = 0.0
        self._uncommitted: dict[Partition, int] = {}

    def step(self) -> None:
        """Advance the stream once; returns within about a tenth of a second when nothing comes.

        Raises:
            BrokerUnavailable: Kafka refuses us for good.
            EngineError, DecoderError: the engine or the decoder failed; the progress in Redis is not affected.
        """
        stages = self._stages
        stages.health.beat()
        polled = stages.source.poll(self._poll_timeout_s())
        for change in polled.changes:
            self._take_change(change)
        self._take_messages(polled.messages)
        # Only now: messages of this poll that belong to a partition's earlier work must not meet its new one.
        self._start_waiting()
        while batch := stages.batcher.take(stages.clock_s()):
            self._score(batch)
        self._publish()
        self._commit()

    def drain(self) -> None:
        """Score and publish what has been read, commit, and leave the group."""
        while batch := self._stages.batcher.take_all():
            self._score(batch)
        self._publish()
        self._commit_at_s = 0.0
        self._commit()
        self._stages.source.close()

    # --- partitions come and go ---------------------------------------------------------------------------------------

    def _take_change(self, change: Change) -> None:
        log.info("partition changed", partition=str(change.partition), change=change.kind)
        self._drop_work(change.partition)
        if change.kind == "revoked":
            self._waiting.pop(change.partition, None)
            self._uncommitted.pop(change.partition, None)
        else:
            self._stages.source.pause(change.partition)
            self._waiting[change.partition] = change.kind

    def _drop_work(self, partition: Partition) -> None:
        """Forget all this process holds of a partition. Clips of it still in the batcher find their work gone."""
        self._works.pop(partition, None)
        self._stages.clips.forget(partition)
        self._stages.metrics.partitions.set(len(self._works))

    def _restart(self, partition: Partition) -> None:
        """Begin a partition again from its stored progress."""
        self._take_change(Change("assigned", partition))

    def _start_waiting(self) -> None:
        if self._stages.clock_s() < self._retry_at_s:
            return
        try:
            for partition in sorted(self._waiting):
                self._start(partition, self._waiting[partition])
                del self._waiting[partition]
        except Fenced as error:
            log.info("another consumer moved first, reading again", error=str(error))
        except (RedisUnavailable, BrokerUnavailable) as error:
            self._back_off(error)
        else:
            self._failures = 0
            if self._stages.source.joined:
                self._stages.health.working()

    def _start(self, partition: Partition, reason: ChangeKind) -> None:
        """Read a partition's progress, store where it begins if nobody did, and ask Kafka for its frames."""
        stages = self._stages
        if reason == "out_of_range":
            start_over(stages.source, stages.store, partition)
        plan = plan_start(stages.source, stages.store, partition, stages.start)
        stages.metrics.lost.inc(plan.lost)
        replay_from = {camera_id.encode(): offset for camera_id, offset in plan.replay_from.items()}
        self._works[partition] = _Work(partition, plan.next_offset, Ledger(plan.next_offset), dict(plan.cameras), replay_from)
        stages.source.start(partition, plan.read_from)
        stages.metrics.partitions.set(len(self._works))
        log.info("partition started", partition=str(partition), offset=plan.next_offset, replay_from=plan.read_from)

    def _back_off(self, error: Exception) -> None:
        """Redis or Kafka is away. Kafka keeps the frames; nothing is consumed until progress can be read again."""
        pause_s = _RETRY_S[min(self._failures, len(_RETRY_S) - 1)]
        self._failures += 1
        self._retry_at_s = self._stages.clock_s() + pause_s
        self._stages.health.waiting(str(error))
        log.warning("waiting", error=str(error), retry_in_s=pause_s)

    # --- messages to outcomes -----------------------------------------------------------------------------------------

    def _poll_timeout_s(self) -> float:
        deadline_s = self._stages.batcher.deadline_s()
        if deadline_s is None:
            return _POLL_S
        return min(_POLL_S, max(0.0, deadline_s - self._stages.clock_s()))

    def _take_messages(self, messages: list[FrameMessage]) -> None:
        wanted = [(work, message) for message in messages if (work := self._wants(message)) is not None]
        if not wanted:
            return
        with self._stages.metrics.decode_s.time():
            results = self._stages.decoder.decode(message for _, message in wanted)
        for (work, _), result in zip(wanted, results, strict=True):
            if isinstance(result, Rejected):
                self._reject(work, result)
            else:
                self._stages.metrics.decoded.labels(result.decoder).inc()
                self._admit(work, result)

    def _wants(self, message: FrameMessage) -> _Work | None:
        """The work a message belongs to; None for what lies before the progress and rebuilds nothing."""
        work = self._works.get(message.partition)
        if work is None:
            return None
        if message.offset >= work.expected:
            work.ledger.open(message.offset)
            return work
        return work if work.replays(message) else None

    def _reject(self, work: _Work, rejected: Rejected) -> None:
        message = rejected.message
        if message.offset < work.expected:
            return
        self._stages.metrics.rejected.labels(rejected.reason).inc()
        self._stages.dead_letters.send(rejected)
        work.ledger.close(message.offset, None)
        log.warning("message rejected", message=str(message), reason=rejected.reason, detail=rejected.detail)

    def _admit(self, work: _Work, frame: CameraFrame) -> None:
        stages = self._stages
        clip = stages.clips.push(frame)
        if frame.offset < work.expected:
            stages.metrics.replayed.inc()
            if stages.scorer.carries_state and stages.clips.is_full(clip):
                self._queue(work, clip)
            return
        stages.metrics.frames.labels(frame.camera_id).inc()
        if stages.clips.is_full(clip):
            self._queue(work, clip)
        else:
            stages.metrics.unscored.inc()
            work.ledger.close(frame.offset, _outcome(clip, None, None))

    def _queue(self, work: _Work, clip: Clip) -> None:
        now_s = self._stages.clock_s()
        self._stages.batcher.add(_QueuedClip(work, clip, now_s), now_s, clip.memory if self._stages.scorer.one_by_one else None)

    def _score(self, batch: list[_QueuedClip]) -> None:
        batch = [queued for queued in batch if self._works.get(queued.work.partition) is queued.work]
        if not batch:
            return
        metrics = self._stages.metrics
        metrics.batch_clips.observe(len(batch))
        metrics.batch_wait_s.observe(self._stages.clock_s() - batch[0].queued_at_s)
        with metrics.score_s.time():
            scores = self._stages.scorer.score([queued.clip for queued in batch])
        for queued, (score, heatmap) in zip(batch, scores, strict=True):
            if not queued.replays:
                queued.work.ledger.close(queued.clip.newest.offset, _outcome(queued.clip, score, heatmap))
                metrics.scored.inc()

    # --- outcomes to effects ------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        """Write the effects of every unbroken run of done frames, a step a partition."""
        try:
            for work in list(self._works.values()):
                self._publish_partition(work)
        except (RedisUnavailable, BrokerUnavailable) as error:
            for partition in list(self._works):
                self._restart(partition)
            self._back_off(error)

    def _publish_partition(self, work: _Work) -> None:
        effects = self._effects(work)
        if work.ledger.next_offset == work.expected:
            return
        self._stages.dead_letters.flush()
        events = [event.fields() for event in effects.events]
        step = Step(work.partition, work.expected, work.ledger.next_offset, effects.cameras, effects.scores, events)
        try:
            with self._stages.metrics.publish_s.time():
                self._stages.store.apply(step)
        except Fenced as error:
            self._stages.metrics.redis_commits.labels("fenced").inc()
            log.warning("fenced, reading the progress again", error=str(error))
            self._restart(work.partition)
            return
        self._stages.metrics.redis_commits.labels("applied").inc()
        work.expected = step.next_offset
        self._uncommitted[work.partition] = step.next_offset
        self._count(effects)

    def _effects(self, work: _Work) -> _Effects:
        effects = _Effects()
        for outcome in work.ledger.take_done():
            if outcome is None:
                continue
            state = work.cameras.get(outcome.camera_id, CameraState())
            decision = self._stages.decider.take(work.partition, state, outcome)
            work.cameras[outcome.camera_id] = effects.cameras[outcome.camera_id] = decision.state
            effects.outcomes.append(outcome)
            effects.events += decision.events
            if decision.score is not None:
                effects.scores.append((outcome.camera_id, decision.score))
        return effects

    def _count(self, effects: _Effects) -> None:
        """Count only what has been stored."""
        metrics = self._stages.metrics
        now_s = self._stages.wall_clock_s()
        for outcome in effects.outcomes:
            metrics.frame_age_s.observe(max(0.0, now_s - outcome.captured_at_ms / 1000))
            if outcome.score is not None:
                metrics.score.labels(outcome.camera_id).set(outcome.score)
        for event in effects.events:
            metrics.events.labels(event.kind).inc()
            peak_score = round(event.peak_score, 4)
            log.info("event", kind=event.kind, camera_id=event.camera_id, event_id=event.event_id, peak_score=peak_score)

    def _commit(self) -> None:
        """About once a second: let Kafka's own offsets follow behind, and refresh the gauges."""
        if self._stages.clock_s() < self._commit_at_s:
            return
        self._commit_at_s = self._stages.clock_s() + _COMMIT_EVERY_S
        self._stages.source.commit(self._uncommitted)
        self._uncommitted = {}
        self._report()

    def _report(self) -> None:
        metrics = self._stages.metrics
        states = (state.event for work in self._works.values() for state in work.cameras.values())
        metrics.open_events.set(sum(event is not None and event.announced_at_ms is not None for event in states))
        for work in self._works.values():
            lag = self._stages.source.lag(work.partition, work.expected)
            if lag is not None:
                metrics.lag.labels(str(work.partition.number)).set(lag)


def _outcome(clip: Clip, score: float | None, heatmap: NDArray[np.float32] | None) -> Outcome:
    newest = clip.newest
    return Outcome(
        offset=newest.offset,
        camera_id=newest.camera_id,
        captured_at_ms=newest.captured_at_ms,
        width_px=newest.width_px,
        height_px=newest.height_px,
        clip_from=clip.clip_from,
        score=score,
        heatmap=heatmap,
    )
