"""Scoring from a GPU cache (simulated on the host) has the same effects as scoring uploaded clips."""

import gc
from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from structlog.testing import capture_logs

from deploy.engine import FrameHandle, NewestScores, ProfileHandle
from deploy.errors import EngineFailed
from deploy.profile import Profile
from deploy.spec import ClipSpec
from streamer.monitoring import Metrics
from streamer.pipeline.clips import ClipBuffer
from streamer.pipeline.score import Scored, Scorer
from streamer.types import CameraFrame, Clip, FrameInfo, FrameMessage, Partition
from tests.harness.fakes import DEFAULT_VALUES
from tests.harness.pipeline import CRASHES, OUTAGES, Rig, message, profile_of, run_of, streams
from tests.unit.deploy.gpu.test_cache import OnHost, spec_of

KINDS = [(3, False), (1, True), (3, True)]
LARGEST = 6 * 255.0
"""Score of a white clip; half of it is the threshold."""


class Counting(OnHost):
    """Counts uploaded frames and profiles."""

    sent = 0
    sent_profiles = 0

    def score_newest(self, newest: NDArray[np.uint8], *rest: Any) -> NewestScores:  # type: ignore[override]  # passed on as it is
        self.sent += len(newest)
        return super().score_newest(newest, *rest)

    def upload(self, frames: NDArray[np.uint8]) -> list[FrameHandle]:
        self.sent += len(frames)
        return super().upload(frames)

    def upload_profiles(self, profiles: NDArray[np.float32]) -> list[ProfileHandle]:
        self.sent_profiles += len(profiles)
        return super().upload_profiles(profiles)


def recurrent(length: int) -> ClipSpec:
    return spec_of(length, recurrent=True).model_copy(update={"state_warmup_frames": 60})


def of_kind(kind: tuple[int, bool]) -> ClipSpec:
    return recurrent(kind[0]) if kind[1] else spec_of(kind[0], recurrent=False)


class CachedRig(Rig):
    """A crash ends the process, and with it all that its engine holds on the device: each consumer has an engine of its own."""

    def __init__(self, messages: list[FrameMessage], spec: ClipSpec, cameras: int, poll_messages: int) -> None:
        self._cameras = cameras
        super().__init__(messages, 4, poll_messages, spec, Counting(spec, cameras=cameras), LARGEST)

    def start(self) -> None:
        self.engine = Counting(self.engine.spec, cameras=self._cameras)
        super().start()


def rig(messages: list[FrameMessage], spec: ClipSpec, cameras: int, poll_messages: int = 5) -> Rig:
    return CachedRig(messages, spec, cameras, poll_messages)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(KINDS), st.integers(1, 6), streams(), CRASHES, OUTAGES)
def test_cached_effects_equal_uploaded(
    kind: tuple[int, bool], cameras: int, messages: list[FrameMessage], crashes: list[int], outages: list[str]
) -> None:
    uploaded, cached = rig(messages, of_kind(kind), cameras=0), rig(messages, of_kind(kind), cameras, poll_messages=2)

    uploaded.finish()
    cached.survive(crashes, outages)

    assert cached.effects() == uploaded.effects()


@pytest.mark.parametrize("kind", KINDS)
def test_uploads_each_frame_once(kind: tuple[int, bool]) -> None:
    messages = [message(0, n, f"camera-{n % 3}", (n * 37 % 100) / 100) for n in range(90)]
    served = rig(messages, of_kind(kind), cameras=3)

    served.finish()

    assert isinstance(served.engine, Counting)
    assert served.engine.sent == 90
    assert served.counted("scored_clips_total") == 90 - 3 * (kind[0] - 1)
    assert served.counted("gpu_cache_miss_clips_total") == 0


def test_exhausted_cache_warns_once_and_counts() -> None:
    messages = [message(0, n, f"camera-{n % 3}", 0.5) for n in range(30)]
    served = rig(messages, spec_of(3, recurrent=False), cameras=2)

    with capture_logs() as lines:
        served.finish()

    assert served.counted("scored_clips_total") == 24
    assert served.counted("gpu_cache_miss_clips_total") == 8
    assert [line["gpu_cached_cameras"] for line in lines if "GPU cache exhausted" in line["event"]] == [2]


def test_dropped_camera_frees_cache() -> None:
    spec = spec_of(3, recurrent=True)
    engine, clips = Counting(spec, cameras=1), ClipBuffer(spec, 5_000)
    metrics = Metrics()
    scorer = scorer_of(engine, metrics)
    room = engine.free

    for partition, camera_id in enumerate(["gate", "yard"]):
        for offset in range(5):
            score(scorer, clips, partition, camera_id, offset)
        clips.forget(Partition("frames", partition))

    assert metrics.registry.get_sample_value("oddsight_gpu_cache_miss_clips_total") == 0
    assert engine.free == room


def test_a_camera_whose_state_is_cached_keeps_it_there() -> None:
    """Also while its state is asked for, as of a camera that is learned: on the host it would begin anew."""

    def scores(asked: int | None) -> list[Scored]:
        clips = ClipBuffer(recurrent(1), 5_000)
        scorer = scorer_of(Counting(recurrent(1), cameras=1))
        return [score(scorer, clips, 0, "gate", offset, keep_state=offset == asked)[0] for offset in range(6)]

    plain, asked = scores(None), scores(3)
    assert [each.score for each in asked] == [each.score for each in plain]
    assert [each.state for each in asked] == [None] * 6


def scorer_of(engine: OnHost, metrics: Metrics | None = None) -> Scorer:
    return Scorer(engine, 1.0, -inf, metrics or Metrics())


def score(scorer: Scorer, clips: ClipBuffer, partition: int, camera_id: str, offset: int, *, keep_state: bool = False) -> Any:
    frame = np.full((16, 16, 1), 10 * offset, np.uint8)
    clip = clips.push(
        CameraFrame(FrameInfo(Partition("frames", partition), offset, camera_id, 100 * offset, 16, 16), frame, "cpu")
    )
    return scorer.score([clip], [None], [keep_state]) if clips.is_full(clip) else None


def test_engine_failure_keeps_memory() -> None:
    spec = recurrent(3)
    engine, clips = Counting(spec, cameras=1), ClipBuffer(spec, 5_000)
    scorer = scorer_of(engine)
    clip = full_clip(clips)
    engine.program.broken = RuntimeError("an illegal memory access")
    room = engine.free
    with pytest.raises(EngineFailed):
        scorer.score([clip], [None])
    assert clip.memory.device_handles is None
    engine.program.broken = None
    gc.collect()  # the error, and that of the trial with an empty clip, refer to each other
    assert scorer.score([clip], [None])[0].score == pytest.approx(1 * 10 + 2 * 20 + 3 * 30)
    assert engine.free == (room[0] - 2, room[1] - 1)


def full_clip(clips: ClipBuffer) -> Clip:
    for offset in range(3):
        frame = np.full((16, 16, 1), 10 * (offset + 1), np.uint8)
        clip = clips.push(CameraFrame(FrameInfo(Partition("frames", 0), offset, "gate", 100 * offset, 16, 16), frame, "cpu"))
    return clip


@pytest.mark.parametrize("cameras", [0, 1])
def test_scores_in_reference_units(cameras: int) -> None:
    spec = spec_of(3, recurrent=False)
    scorer = Scorer(OnHost(spec, cameras=cameras), 0.5, -inf, Metrics())
    assert scorer.score([full_clip(ClipBuffer(spec, 5_000))], [None])[0].score == 2 * (1 * 10 + 2 * 20 + 3 * 30)


@pytest.mark.parametrize("cameras", [0, 1])
def test_events_have_regions(cameras: int) -> None:
    spec = spec_of(3, recurrent=False)
    engine = OnHost(spec, cameras=cameras)
    served = Rig(run_of("gate", [0.1] * 5 + [0.9] * 6 + [0.1] * 10), spec=spec, engine=engine, score_scale=LARGEST)

    served.finish()

    assert engine.heatmap_threshold == pytest.approx(0.4 * LARGEST, rel=0.01)
    assert served.events("kind", "region") == [("start", "0,0,16,16"), ("end", "")]


PROFILES = {"gate": profile_of("gate", 0.5, 10), "yard": profile_of("yard", 2, -5)}


class Profiled:
    """A scorer of three cameras, of which ``hall`` has the default profile."""

    def __init__(self, cameras: int) -> None:
        self.spec = recurrent(3).model_copy(update={"profile_size": 2})
        self.engine = Counting(self.spec, cameras=cameras)
        self.clips = ClipBuffer(self.spec, 5_000)
        self.scorer = Scorer(self.engine, 1.0, -inf, Metrics(), DEFAULT_VALUES)

    def score(self, offset: int, profiles: dict[str, Profile]) -> list[Scored]:
        """The results of the cameras' next frames, one micro-batch."""
        batch = []
        for place, name in enumerate(("gate", "hall", "yard")):
            frame = np.full((16, 16, 1), 10 * offset + place, np.uint8)
            info = FrameInfo(Partition("frames", 0), 3 * offset + place, name, 100 * offset, 16, 16)
            batch.append(self.clips.push(CameraFrame(info, frame, "cpu")))
        full = [clip for clip in batch if self.clips.is_full(clip)]
        return self.scorer.score(full, [profiles.get(clip.info.camera_id) for clip in full]) if full else []


@pytest.mark.parametrize("cameras", [0, 2, 4])
def test_scores_each_clip_with_its_profile(cameras: int) -> None:
    subject, plain = Profiled(cameras), Profiled(0)

    scored = [subject.score(offset, PROFILES) for offset in range(3)][-1]
    gate, hall, yard = (each.score for each in [plain.score(offset, {}) for offset in range(3)][-1])

    assert [each.score for each in scored] == [0.5 * gate + 10, hall, 2 * yard - 5]
    assert [each.profile for each in scored] == [PROFILES["gate"], None, PROFILES["yard"]]


def test_uploads_each_profile_once() -> None:
    subject = Profiled(cameras=4)
    other = {**PROFILES, "gate": profile_of("gate", 3, 0)}

    for offset in range(8):
        subject.score(offset, PROFILES)
    assert subject.engine.sent_profiles == 2
    for offset in range(8, 12):
        subject.score(offset, other)
    assert subject.engine.sent_profiles == 3
    assert free_profiles(subject.engine) == 8 - 2
    subject.score(12, {})
    assert free_profiles(subject.engine) == 8


def test_dropped_camera_frees_profile() -> None:
    subject = Profiled(cameras=4)
    for offset in range(4):
        subject.score(offset, PROFILES)

    subject.clips.forget(Partition("frames", 0))

    assert free_profiles(subject.engine) == 8


@pytest.mark.parametrize("cameras", [0, 2, 4])
def test_broken_profile_harms_no_other_camera(cameras: int) -> None:
    subject, plain = Profiled(cameras), Profiled(cameras)
    harmful = {**PROFILES, "gate": profile_of("gate", 3e38, 3e38)}

    for offset in range(5):
        found = subject.score(offset, harmful)
        expected = plain.score(offset, {"yard": PROFILES["yard"]})
        assert [each.score for each in found] == [each.score for each in expected]

    gate, hall, yard = found
    assert gate.profile is None
    assert gate.refused is not None
    assert gate.refused.profile is harmful["gate"]
    assert (hall.refused, yard.refused) == (None, None)
    assert cameras == 0 or subject.engine.free == plain.engine.free


def free_profiles(engine: OnHost) -> int:
    assert engine._store is not None
    assert engine._store.profiles is not None
    return engine._store.profiles.n_free
