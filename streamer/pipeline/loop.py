"""The path of a frame: consume, decode, clip, micro-batch, score, decide, publish.

Every frame counts exactly once: its effects (scores, events, camera states) are written together with the partition's next
offset, in one atomic step that Redis refuses unless the stored offset is the one this consumer started from.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from deploy.errors import EngineFailed
from streamer.interfaces import (
    BrokerUnavailable,
    CameraState,
    DeadLetterSink,
    Fenced,
    FrameSource,
    PollResult,
    ProgressStore,
    RedisUnavailable,
    Step,
)
from streamer.monitoring import Health, Metrics
from streamer.pipeline.adaptation import CameraAdaptation
from streamer.pipeline.areas import AreaRules
from streamer.pipeline.capture_times import CaptureTimes
from streamer.pipeline.clips import ClipBuffer, MessageDecoder
from streamer.pipeline.decide import Decided, Decider, Decision
from streamer.pipeline.health import CameraHealth
from streamer.pipeline.learning import CameraLearning
from streamer.pipeline.memories import MemorySnapshots
from streamer.pipeline.partitions import ActivePartition, PartitionManager, Pending, QueuedClip
from streamer.pipeline.profiles import CameraProfiles, DriftWatch, FootageCheck
from streamer.pipeline.recalibration import Recalibration
from streamer.pipeline.registry import REFUSALS, CameraRegistry, RefusalNotices
from streamer.pipeline.score import Scored, Scorer
from streamer.pipeline.scoring import BatchScoring
from streamer.pipeline.shedding import Shedding
from streamer.pipeline.silent import SilentCameras
from streamer.types import (
    CameraFrame,
    Clip,
    FrameMessage,
    Outcome,
    Partition,
    Rejected,
    Shed,
)

log = structlog.get_logger("oddsight.pipeline")

_POLL_S = 0.1
_BUSY_S = 0.05
"""How long nothing more is read while a micro-batch is scored: to ask Kafka all the time would cost the engine a tenth."""
_SCORE_S = 0.25
_MOST_WAITING = 512  # clips of all partitions
_COMMIT_EVERY_S = 1.0


@dataclass(slots=True, kw_only=True, eq=False)
class Pipeline:
    """One consumer of the group, built from its stages. Call :meth:`step` repeatedly, then :meth:`drain` once."""

    source: FrameSource
    decoder: MessageDecoder
    capture_times: CaptureTimes
    clips: ClipBuffer
    shedding: Shedding
    registry: CameraRegistry
    profiles: CameraProfiles
    learning: CameraLearning
    adaptation: CameraAdaptation
    recalibration: Recalibration
    camera_health: CameraHealth
    memories: MemorySnapshots
    footage_check: FootageCheck
    drift_watch: DriftWatch
    scorer: Scorer
    scoring: BatchScoring
    areas: AreaRules
    decider: Decider
    store: ProgressStore
    dead_letters: DeadLetterSink
    metrics: Metrics
    health: Health
    start: str
    """Where a group without progress begins: ``earliest`` or ``latest``."""
    clock_s: Callable[[], float] = time.monotonic
    wall_clock_s: Callable[[], float] = time.time
    _partitions: PartitionManager = field(init=False)
    _silent: SilentCameras = field(init=False)
    _notices: RefusalNotices = field(default_factory=RefusalNotices, init=False)
    _commit_at_s: float = field(default=0.0, init=False)
    _uncommitted: dict[Partition, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._partitions = PartitionManager(
            source=self.source,
            store=self.store,
            clips=self.clips,
            start_at=self.start,
            learning=self.learning,
            unpack_memory=self.memories.unpack,
            registry=self.registry,
            dead_letters=self.dead_letters,
            metrics=self.metrics,
            health=self.health,
            clock_s=self.clock_s,
            wall_clock_s=self.wall_clock_s,
        )
        watching = (self.shedding, self.camera_health, self.footage_check, self.drift_watch, self.recalibration, self.adaptation)
        self._silent = SilentCameras(
            source=self.source,
            registry=self.registry,
            clips=self.clips,
            memories=(*watching, self.metrics),
            learning=self.learning,
            adaptation=self.adaptation,
            camera_health=self.camera_health,
            profiles=self.profiles,
            decider=self.decider,
            count_events=self.metrics.count_events,
            clock_s=self.clock_s,
            wall_clock_s=self.wall_clock_s,
        )

    def step(self) -> None:
        """Poll once and process what arrived; returns after about 0.1 s if nothing does.

        Raises:
            BrokerUnavailable: Kafka refuses this consumer permanently.
            EngineError, DecoderError: the engine, loaded again, or the decoder failed; the progress in Redis is not affected.
        """
        if not self.scoring.is_busy:  # else an engine that never returns would go unnoticed
            self.health.beat()
        polled = self._poll()
        for change in polled.changes:
            self._partitions.apply(change)
            if change.kind == "revoked":
                self._uncommitted.pop(change.partition, None)
        for active, frame in self._decode(polled.messages):
            self._add_to_clip(active, frame)
        # Only now: messages of this poll precede a change of their partition and must not reach its new start.
        self._partitions.start_waiting()
        self.scoring.wait(_BUSY_S)
        self._score_for(_SCORE_S)
        self._publish()
        self._commit()

    def drain(self) -> None:
        """Score and publish what has been read, store what else a restart needs, commit, and leave the group."""
        self._take_scored()
        while self.scoring.start_next(self.clock_s(), self._partitions.holds):
            self._take_scored()
        self._publish()
        for active, pending in self.memories.rest(self._partitions):
            self._apply(active, pending)
        self._commit_at_s = 0.0
        self._commit()
        self.source.close()

    def _poll(self) -> PollResult:
        """What has arrived, unless clips enough wait already: no message is read long before it can be scored."""
        self._partitions.limit_reading()
        if len(self.scoring) >= _MOST_WAITING:
            self.scoring.wait(_POLL_S)
            return PollResult([], [])
        return self.source.poll(min(_POLL_S, self.scoring.nothing_due_s(self.clock_s())))

    def _score_for(self, longest_s: float) -> None:
        """Take what is scored, and start the next micro-batch that is due.

        Where that is done at once others follow, but not for longer: then it is the turn of frames that arrived meanwhile.
        """
        until_s = self.clock_s() + longest_s
        while not self.scoring.is_busy or self.scoring.is_done:
            self._take_scored()
            now_s = self.clock_s()
            if now_s >= until_s or not self.scoring.start_due(now_s, self._partitions.holds):
                return

    def _decode(self, messages: list[FrameMessage]) -> Iterator[tuple[ActivePartition, CameraFrame]]:
        admit = self.registry.admit
        accepted = [(active, message) for message in messages if (active := self._partitions.accept(message)) is not None]
        needed = [(active, message) for active, message in accepted if not self.shedding.sheds(active, message, admit)]
        if not needed:
            return
        with self.metrics.decode_s.time():
            results = self.decoder.decode([message for _, message in needed], admit)
        for (active, message), decoded in zip(needed, results, strict=True):
            is_replay = active.is_replay(message.offset)
            self.shedding.begin_anew(active, message)
            result = self.capture_times.believe(active.clocks, message, decoded, is_replay=is_replay)
            if isinstance(result, Rejected):
                self._reject(active, result)
            else:
                self.metrics.decoded.labels(result.decoder).inc()
                if not is_replay:
                    self.adaptation.record(message, result.info)
                yield active, result

    def _reject(self, active: ActivePartition, rejected: Rejected) -> None:
        message = rejected.message
        if active.is_replay(message.offset):
            return
        if rejected.info is not None:
            active.seen_s[rejected.info.camera_id] = self.clock_s()
        self.metrics.rejected.labels(rejected.reason).inc(message.count)
        active.offsets.finish(message.offset, rejected.info)
        if rejected.reason in REFUSALS and not self._notices.is_due(message.key, self.clock_s()):
            return
        self.dead_letters.send(rejected)
        log.warning("message rejected", message=str(message), reason=rejected.reason, detail=rejected.detail)

    def _add_to_clip(self, active: ActivePartition, frame: CameraFrame) -> None:
        info, clip = frame.info, self.clips.push(frame)
        replay = active.is_replay(info.offset)
        active.seen_s[info.camera_id] = self.clock_s()
        if not replay and (found := self.camera_health.look(frame, self.profiles.get(info.camera_id))) is not None:
            active.findings[info.offset] = found
        (self.metrics.replayed if replay else self.metrics.frames.labels(info.camera_id)).inc()
        if self.memories.recall(active, clip):
            return
        if self.clips.is_full(clip) and (self.scorer.carries_state or not replay):
            self.scoring.add(QueuedClip(active, clip, self.clock_s()))
            active.queued_replays += replay
        elif not replay:
            self.metrics.unscored.inc()
            profile = self.profiles.get(info.camera_id)
            active.offsets.finish(info.offset, Outcome(info, clip.clip_from, profile, clip_clock=clip.clip_clock))

    def _take_scored(self) -> None:
        """Take the results of the micro-batch that was started last, without those of partitions that have been dropped since."""
        if not self.scoring.is_busy:
            return
        try:
            for queued, scored in self.scoring.take():
                if self._partitions.holds(queued.active):
                    self._finish(queued.active, queued.clip, scored)
            self.health.beat()
        except EngineFailed as error:
            if not self.scorer.reload(error):
                raise
            self._partitions.restart_all_later(error)
        except RedisUnavailable as error:  # a profile that was learned in a replay could not be stored
            self._partitions.restart_all_later(error)

    def _finish(self, active: ActivePartition, clip: Clip, scored: Scored) -> None:
        active.queued_replays -= active.is_replay(clip.info.offset)
        if scored.unscorable is not None:
            self._reject(active, scored.rejected(clip))
            active.findings.pop(clip.info.offset, None)
            return
        if scored.refused is not None:
            self.profiles.reject(*scored.refused)
        outcome = self.areas.apply(scored.outcome(clip))
        if not active.is_replay(clip.info.offset):
            active.offsets.finish(clip.info.offset, outcome)
            self.metrics.scored.inc()
        elif outcome.state is not None:
            self.learning.add(active.learners, outcome)

    def _publish(self) -> None:
        try:
            for active in list(self._partitions.active.values()):
                if self._partitions.is_backing_off:
                    return
                if (pending := active.pending or self._next_step(active)) is not None:
                    self._apply(active, pending)
        except RedisUnavailable as error:  # a learned profile could not be stored
            self._partitions.restart_all_later(error)
        if not self._partitions.is_backing_off:
            self._partitions.go_on()

    def _next_step(self, active: ActivePartition) -> Pending | None:
        """The step of the frames that are done; None if there are none."""
        decided = self._decide(active)
        if active.offsets.next_offset == active.stored_offset:
            return None
        self.dead_letters.flush()
        marked = self.shedding.mark(active, [each.info for each in decided], self.memories.due(active))
        step = Step(
            active.partition,
            expected=active.stored_offset,
            next_offset=active.offsets.next_offset,
            **marked.snapshots._asdict(),
            cameras=marked.cameras,
            scores=[(each.info.camera_id, each.decision.score) for each in decided if each.decision.score is not None],
            events=[event.fields() for each in decided for event in each.decision.events],
            health=[entry for each in decided for entry in self.camera_health.entries(each.info, each.health)],
            heatmaps=[entry for each in decided for entry in each.decision.heatmaps],
            minutes=[(each.info.camera_id, each.decision.minute) for each in decided if each.decision.minute is not None],
            letters=active.letters_to_store(self.dead_letters.owed(active.partition)),
        )
        return Pending(step, partial(self._count, decided, marked.sheds))

    def _apply(self, active: ActivePartition, pending: Pending) -> None:
        """Write a step. The partition is held if Redis may not have written it, and restarted if another consumer was faster."""
        active.pending, step = pending, pending.step
        try:
            with self.metrics.publish_s.time():
                self.store.apply(step)
        except Fenced as error:
            self.metrics.redis_commits.labels("fenced").inc()
            log.warning("fenced: another consumer moved the progress, reading it again", error=str(error))
            self._partitions.restart(active.partition)
        except RedisUnavailable as error:
            self._partitions.hold_all(error)
        else:
            self.metrics.redis_commits.labels("applied").inc()
            active.pending = None
            active.stored_offset = self._uncommitted[active.partition] = step.next_offset
            self.camera_health.count(step.health)
            pending.after()

    def _decide(self, active: ActivePartition) -> list[Decided]:
        decided = []
        for result in active.offsets.take_finished():
            if isinstance(result, Shed):
                self.shedding.apply(active, result)
            if result is None or isinstance(result, Shed):
                continue
            info = result.info if isinstance(result, Outcome) else result
            state, found = active.cameras.get(info.camera_id, CameraState()), active.findings.pop(info.offset, None)
            state, changes = self.camera_health.advance(state, info, found, is_damaged=not isinstance(result, Outcome))
            self.learning.end_light(active.learners, info.camera_id, changes)
            if isinstance(result, Outcome):
                self.memories.add(active, result)
                learned = self.learning.advance(active.learners, result, state.health)
                decision = self.decider.decide(state, result, learned)
                if state.health.is_trusted:
                    self._compare(result, decision)
                decided.append(Decided(info, result.score, decision, changes))
            else:
                decided.append(Decided(info, None, Decision(state, None, []), changes))
            active.cameras[info.camera_id] = decided[-1].decision.state
        return decided

    def _compare(self, outcome: Outcome, decision: Decision) -> None:
        """Compare what the camera sends, and its score, with what its profile was learned from."""
        self.footage_check.add(outcome.info, outcome.profile)
        if outcome.score is None or outcome.state is not None:  # the scores of a camera that is learned say nothing yet
            return
        own = self.decider.rule(outcome.info.camera_id, outcome.profile)
        self.drift_watch.add(outcome.info, outcome.score, own.calibration.median, own.rule.enter)
        self.recalibration.add(outcome, decision.state.event, own.rule.enter)

    def _count(self, decided: list[Decided], sheds: Sequence[Shed]) -> None:
        self.shedding.count(sheds)
        now_s = self.wall_clock_s()
        for info, score, _, _ in decided:
            self.metrics.frame_age_s.observe(max(0.0, now_s - info.captured_at_ms / 1000))
            if score is not None:
                self.metrics.score.labels(info.camera_id).set(score)
        self.metrics.count_events([event for each in decided for event in each.decision.events])

    def _commit(self) -> None:
        """About once a second: commit Kafka's offsets, which follow those in Redis, and refresh profiles and gauges."""
        if self.clock_s() < self._commit_at_s:
            return
        self._commit_at_s = self.clock_s() + _COMMIT_EVERY_S
        self.source.commit(self._uncommitted)
        self._uncommitted = {}
        self.adaptation.poll()
        self._report_silent_cameras()
        if self.profiles.refresh() | self.areas.refresh():
            self.scorer.set_heatmap_threshold(self.areas.least_exit(self.profiles.all()))
            self.camera_health.load()
        active_partitions = self._partitions.active.values()
        events = [state.event for active in active_partitions for state in active.cameras.values()]
        self.metrics.cameras.set(self.registry.count)
        self.metrics.open_events.set(sum(event is not None and event.announced_at_ms is not None for event in events))
        for active in active_partitions:
            # Written with the next step; else these offsets would lag for ever, and count as lost once Kafka deletes them.
            position = self.source.position(active.partition) or 0
            active.offsets.skip_to(position)
            active.read_to = max(active.read_to, position)
            lag = self.source.lag(active.partition, active.stored_offset)
            if lag is not None:
                self.metrics.lag.labels(str(active.partition.number)).set(lag)

    def _report_silent_cameras(self) -> None:
        try:
            for active, pending in self._silent.poll(self._partitions.active.values()):
                self._apply(active, pending)
        except BrokerUnavailable as error:
            self._partitions.restart_all_later(error)
