"""The real pipeline on in-memory Kafka and Redis, and streams of tiny images for it."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from hypothesis import strategies as st

from deploy.batching import MicroBatcher
from deploy.bundle import Bundle, Manifest, ModelCard
from deploy.engine import Engine
from deploy.image import CpuDecoder
from deploy.profile import Profile, ProfileInfo
from deploy.score_maps import Grid
from deploy.spec import ClipSpec
from streamer.config import Settings
from streamer.monitoring import Health, Metrics
from streamer.pipeline.adaptation import CameraAdaptation
from streamer.pipeline.areas import AreaRules, KnownAreas
from streamer.pipeline.capture_times import CaptureTimes
from streamer.pipeline.clips import ClipBuffer, MessageDecoder
from streamer.pipeline.decide import Decider
from streamer.pipeline.health import CameraHealth
from streamer.pipeline.learning import CameraLearning
from streamer.pipeline.loop import Pipeline
from streamer.pipeline.memories import MemorySnapshots
from streamer.pipeline.profiles import CameraProfiles, DriftWatch, FootageCheck
from streamer.pipeline.recalibration import Recalibration
from streamer.pipeline.registry import CameraRegistry
from streamer.pipeline.score import LoadEngine, Scorer
from streamer.pipeline.scoring import BatchScoring
from streamer.pipeline.shedding import Shedding
from streamer.types import FrameMessage, Partition
from tests.harness.calibration import calibration_of
from tests.harness.fakes import (
    DEFAULT_VALUES,
    AtOnce,
    BrightnessEngine,
    FakeClock,
    MeanBrightnessEngine,
    MemoryAreaStore,
    MemoryDeadLetters,
    MemoryFrameSource,
    MemoryProfileStore,
    MemoryProgressStore,
    MemoryTopic,
)

SPEC = ClipSpec(length=3, height_px=16, width_px=16)
RECURRENT = ClipSpec(length=1, height_px=16, width_px=16, state_shape=MeanBrightnessEngine.state_shape, state_warmup_frames=24)
CALIBRATION = calibration_of(enter=0.5, exit_=0.4)
BUNDLE = Bundle(
    path=Path("nowhere"),
    manifest=Manifest(
        format=2,
        model_id="brightness-0",
        model=ModelCard(kind="brightness", config={}),
        spec=SPEC,
        metrics={},
        versions={},
        files={},
    ),
    calibration=CALIBRATION,
)
PROFILED = SPEC.model_copy(update={"length": 1, "profile_size": 2})
PROFILED_BUNDLE = replace(BUNDLE, manifest=BUNDLE.manifest.model_copy(update={"spec": PROFILED}), default_profile=DEFAULT_VALUES)
PLAIN = {"health": {"enabled": False}}
"""The pictures of these tests show nothing."""
SETTINGS = Settings.model_validate({"decision": {"min_duration_s": 0.1, "merge_gap_s": 0.3}, **PLAIN})
FRAME_MS = 100


def picture(brightness: float) -> bytes:
    """A PNG of uniform grey."""
    done, encoded = cv2.imencode(".png", np.full((16, 16), round(brightness * 255), np.uint8))
    assert done
    return encoded.tobytes()


def profile_of(camera_id: str, factor: float, offset: float, model_id: str = BUNDLE.model_id, **thresholds: float) -> Profile:
    """A profile for :class:`tests.harness.fakes.BrightnessEngine` and the recurrent toy."""
    info = ProfileInfo(
        camera_id=camera_id,
        model_id=model_id,
        created_at=datetime(2026, 11, 28, 12, tzinfo=UTC),
        footage=("monday.mp4",),
        frames=6000,
        fps=10.0,
        height_px=480,
        width_px=640,
        calibration=calibration_of(enter=thresholds.get("enter", 0.5), exit_=thresholds.get("exit", 0.4)),
    )
    return Profile(info, np.array([factor, offset], np.float32))


def message(
    partition: int, offset: int, camera_id: str | None, brightness: float | bytes, *, at_ms: int | None = None
) -> FrameMessage:
    """One message; ``brightness`` may be raw bytes. Captured at 100 ms times the offset unless ``at_ms`` is given."""
    value = brightness if isinstance(brightness, bytes) else picture(brightness)
    captured_at_ms = offset * FRAME_MS if at_ms is None else at_ms
    return FrameMessage(
        partition=Partition("frames", partition),
        offset=offset,
        key=None if camera_id is None else camera_id.encode(),
        value=value,
        headers=(("captured_at_ms", str(captured_at_ms).encode()),),
        timestamp_ms=0,
    )


def run_of(camera_id: str, brightnesses: list[float], partition: int = 0) -> list[FrameMessage]:
    """The messages of one camera, alone on a partition."""
    return [message(partition, offset, camera_id, brightness) for offset, brightness in enumerate(brightnesses)]


@st.composite
def streams(draw: st.DrawFn) -> list[FrameMessage]:
    """Messages of a few cameras on two partitions: some are bad, offsets have holes, capture times have gaps."""
    messages = []
    for partition in (0, 1):
        offset = at_ms = 0
        for _ in range(draw(st.integers(1, 25))):
            offset += draw(st.integers(1, 3))
            at_ms += draw(st.sampled_from([100, 100, 100, 20_000]))
            value = draw(st.sampled_from([0.1, 0.45, 0.8, 0.8, 1.0, b"rubbish"]))
            messages.append(message(partition, offset, f"camera-{partition}-{draw(st.integers(0, 2))}", value, at_ms=at_ms))
    return messages


CRASHES = st.lists(st.integers(0, 4), max_size=8)
"""Turns of the loop before each crash."""
OUTAGES = st.lists(st.sampled_from(["lost", "unanswered", ""]), max_size=10)
"""See :attr:`tests.harness.fakes.MemoryProgressStore.failures`."""


class Rig:
    """A topic, a store and dead letters that survive crashes, and a pipeline on them that may be started again."""

    def __init__(
        self,
        messages: list[FrameMessage],
        max_clips: int = 4,
        poll_messages: int = 5,
        spec: ClipSpec = SPEC,
        engine: Engine | None = None,
        score_scale: float = 1.0,
        bundle: Bundle = BUNDLE,
        settings: Settings = SETTINGS,
        clock: FakeClock | None = None,
        source: Callable[[MemoryTopic, int], MemoryFrameSource] = MemoryFrameSource,
    ) -> None:
        self._settings, self._make_source = settings, source
        self.profiles = MemoryProfileStore()
        self.areas = MemoryAreaStore()
        self._bundle = bundle
        self.topic = MemoryTopic(messages)
        self.store: Any = MemoryProgressStore()  # tests on Redis put a store of it in its place
        self.dead_letters = MemoryDeadLetters()
        self.clock = clock or FakeClock(tick_s=0.002)
        self._max_clips = max_clips
        self._poll_messages = poll_messages
        self._score_scale = score_scale
        self._decoder = MessageDecoder(CpuDecoder(spec, threads=1))
        self.load_again: LoadEngine | None = None
        self.executor: Executor = AtOnce(1)
        self.engine = engine or (BrightnessEngine(spec) if spec.state_shape is None else MeanBrightnessEngine(spec))
        self.start()

    def start(self) -> None:
        """Start a consumer with nothing in memory, as after a crash."""
        self.source = self._make_source(self.topic, self._poll_messages)
        self.metrics = Metrics()
        self.health = Health(self.clock)
        decider = Decider(self._settings, self._bundle, "brightness", FakeClock(1.0))
        profiles = CameraProfiles(self.profiles, self._bundle, self._settings, self.metrics)
        profiles.load()
        learning = CameraLearning(self._bundle, self._settings, profiles, self.metrics)
        threshold, default_profile = decider.least_exit(profiles.all()), self._bundle.default_profile
        clips, registry, grid = ClipBuffer(self.engine.spec, 5_000), CameraRegistry(self._settings), Grid.find(self._bundle)
        scorer = Scorer(self.engine, self._score_scale, threshold, self.metrics, default_profile, grid, self.load_again)
        self.pipeline = Pipeline(
            source=self.source,
            decoder=self._decoder,
            capture_times=CaptureTimes(self._settings, self.engine.spec.fps, self.metrics),
            clips=clips,
            shedding=Shedding(self._settings, clips, learning, self.metrics, self.clock, self.clock),
            registry=registry,
            profiles=profiles,
            footage_check=FootageCheck(self._bundle, 5_000, self.metrics),
            drift_watch=DriftWatch(self.metrics),
            learning=learning,
            adaptation=CameraAdaptation(self._bundle, self._settings, learning, profiles, self.profiles, self.metrics),
            camera_health=CameraHealth(self._settings, self.profiles, self.metrics, self.clock, grid),
            recalibration=Recalibration(self._settings, profiles, self.profiles, grid),
            scorer=scorer,
            scoring=BatchScoring(MicroBatcher(self._max_clips, 0.05), scorer, profiles, learning, self.executor, self.metrics),
            memories=MemorySnapshots(self._bundle.model_id, scorer, registry, learning),
            areas=AreaRules(self._settings, KnownAreas(self._settings, self.areas), decider),
            decider=decider,
            store=self.store,
            dead_letters=self.dead_letters,
            metrics=self.metrics,
            health=self.health,
            start="earliest",
            clock_s=self.clock,
            wall_clock_s=self.clock,
        )

    def steps(self, count: int) -> None:
        """Turn the loop ``count`` times."""
        for _ in range(count):
            self.pipeline.step()

    def finish(self) -> None:
        """Turn the loop until every message is done. Ten outages in a row take 5,000 turns of backing off."""
        for _ in range(10_000):
            self.pipeline.step()
            if all(self._done(partition) for partition in self.topic.partitions):
                return
        raise AssertionError(f"not done: {[self.store.read(partition) for partition in self.topic.partitions]}")

    def survive(self, crashes: list[int], outages: list[str]) -> None:
        """Turn the loop until every message is done, through crashes and outages of Redis."""
        self.store.failures = list(outages)
        for steps in crashes:
            self.steps(steps)
            self.start()
        self.finish()

    def _done(self, partition: Partition) -> bool:
        return self.store.read(partition).next_offset == self.source.bounds(partition)[1]

    def events(self, *names: str) -> list[tuple[str, ...]]:
        """Some fields of the stored events."""
        return [tuple(event.get(name, "") for name in names) for event in self.store.events]

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"oddsight_{name}", labels) or 0.0

    def scored_offsets(self) -> list[int]:
        """Offsets of the stored scores, in the order they were written."""
        return [int(fields["offset"]) for _, fields in self.store.scores]

    def effects(self) -> tuple[object, ...]:
        """Everything stored that users of Oddsight can see, partition by partition."""
        scores = sorted((fields["partition"], int(fields["offset"]), name, fields["score"]) for name, fields in self.store.scores)
        events = {number: [event for event in self.store.events if event["partition"] == number] for number in ("0", "1")}
        minutes = sorted((name, sorted(fields.items())) for name, fields in self.store.minutes)
        return scores, events, minutes, self.store.progress
