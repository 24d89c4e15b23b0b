"""The profiles in force follow the store, and nothing in the store stops the service."""

from math import inf, nan

import numpy as np
import pytest
from structlog.testing import capture_logs

from deploy.profile import Profile
from streamer.config import Settings
from streamer.interfaces import RedisUnavailable
from streamer.monitoring import Metrics
from streamer.pipeline.profiles import CameraProfiles, DriftWatch, FootageCheck
from streamer.types import FrameInfo, FrameMessage, Partition
from tests.harness.fakes import MemoryProfileStore
from tests.harness.pipeline import BUNDLE, PROFILED, PROFILED_BUNDLE, SETTINGS, Rig, message, profile_of

GATE, OTHER_GATE, YARD = profile_of("gate", 0.5, 0.1), profile_of("gate", 2, 0), profile_of("yard", 0.25, 0.2)


class Case:
    """A store and the profiles that are read from it."""

    def __init__(self, *profiles: Profile, settings: Settings = SETTINGS) -> None:
        self.store, self.metrics = MemoryProfileStore(), Metrics()
        self.store.put(*profiles)
        self.subject = CameraProfiles(self.store, PROFILED_BUNDLE, settings, self.metrics)

    def sample(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(f"oddsight_{name}") or 0.0


def test_reads_what_changed() -> None:
    case = Case(GATE, YARD)

    assert case.subject.load()
    assert (case.subject.get("gate"), case.subject.get("yard"), case.subject.get("hall")) == (GATE, YARD, None)
    assert not case.subject.refresh()
    case.store.put(OTHER_GATE)
    case.store.remove("yard")
    assert case.subject.refresh()
    assert (case.subject.get("gate"), case.subject.get("yard")) == (OTHER_GATE, None)
    assert [*case.subject.all()] == [OTHER_GATE]
    assert case.store.reads == [GATE.profile_id, YARD.profile_id, OTHER_GATE.profile_id]
    assert case.sample("camera_profiles") == 1


def test_logs_changes() -> None:
    case = Case(GATE)
    case.subject.load()
    case.store.put(OTHER_GATE, YARD)

    with capture_logs() as lines:
        case.subject.refresh()

    assert [(line["camera_id"], line["before"], line["profile_id"]) for line in lines] == [
        ("gate", GATE.profile_id, OTHER_GATE.profile_id),
        ("yard", "default", YARD.profile_id),
    ]


def test_outage_keeps_profiles() -> None:
    case = Case(GATE)
    case.subject.load()
    case.store.put(OTHER_GATE)
    case.store.available = False

    with capture_logs() as lines:
        assert not case.subject.refresh()
        assert not case.subject.refresh()
    assert [line["log_level"] for line in lines] == ["warning"]
    assert case.subject.get("gate") is GATE
    case.store.available = True
    assert case.subject.refresh()
    assert case.subject.get("gate") is OTHER_GATE


def test_outage_at_start_is_an_error() -> None:
    case = Case(GATE)
    case.store.available = False

    with pytest.raises(RedisUnavailable):
        case.subject.load()


UNUSABLE = {
    "damaged": None,
    "of another model": profile_of("gate", 1, 0, model_id="other-1"),
    "too long": Profile(GATE.info, np.ones(3, np.float32)),
    "against the settings": profile_of("gate", 1, 0, enter=0.2, exit=0.1),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_default_serves_if_unusable(kind: str) -> None:
    case = Case(YARD, settings=Settings.model_validate({"cameras": {"gate": {"exit": 0.3}}}))
    case.store.put_as("gate", "gate-1", UNUSABLE[kind])

    with capture_logs() as lines:
        case.subject.load()
        case.store.put(profile_of("hall", 1, 0))
        case.subject.refresh()

    assert case.subject.get("gate") is None
    assert case.subject.get("yard") is YARD
    [line] = [line for line in lines if line["log_level"] == "warning"]
    assert (line["camera_id"], line["profile_id"]) == ("gate", "gate-1")
    assert line["reason"]
    assert case.sample("rejected_profiles_total") == 1


def test_repaired_profile_is_used() -> None:
    case = Case()
    case.store.put_as("gate", GATE.profile_id, None)
    case.subject.load()
    case.store.put(GATE)

    case.subject.refresh()

    assert case.subject.get("gate") is GATE


@pytest.mark.parametrize("threshold", [nan, inf, -inf])
def test_thresholds_are_finite(threshold: float) -> None:
    calibration = GATE.info.calibration

    for changed in ({"median": threshold}, {"peaks": [threshold]}, {"observed_s": threshold}):
        with pytest.raises(ValueError, match="finite"):
            type(calibration).model_validate(calibration.model_dump() | changed)


def test_model_without_profiles_reads_nothing() -> None:
    store = MemoryProfileStore()
    store.available = False

    subject = CameraProfiles(store, BUNDLE, SETTINGS, Metrics())

    assert not subject.load()
    assert subject.get("gate") is None


def two_cameras(count: int = 40) -> list[FrameMessage]:
    """Both show the same: an anomaly in the middle."""
    bright = [0.8 if 10 <= n // 2 < 16 else 0.1 for n in range(count)]
    return [message(0, n, ("gate", "yard")[n % 2], bright[n], at_ms=100 * (n // 2)) for n in range(count)]


def served(*profiles: Profile) -> Rig:
    rig = Rig([], spec=PROFILED, bundle=PROFILED_BUNDLE)
    rig.profiles.put(*profiles)
    rig.topic.partitions[Partition("frames", 0)] = two_cameras()
    rig.start()
    return rig


def test_each_camera_has_its_profile() -> None:
    rig = served(profile_of("gate", 0.5, 0.1, enter=0.45, exit=0.3))

    rig.finish()

    scores = {name: [float(f["score"]) for n, f in rig.store.scores if n == name] for name in ("gate", "yard")}
    np.testing.assert_allclose(scores["gate"], 0.5 * np.array(scores["yard"]) + 0.1, atol=1e-5)
    assert {(name, fields["threshold"]) for name, fields in rig.store.scores} == {("gate", "0.45"), ("yard", "0.5")}
    starts = [event for event in rig.store.events if event["kind"] == "start"]
    [profile] = [profile_id for profile_id, _ in rig.profiles.profiles.values()]
    assert [(event["camera_id"], event.get("profile_id")) for event in starts] == [("gate", profile), ("yard", None)]
    assert all(event["region"] for event in starts)


@pytest.mark.parametrize("steps", range(1, 9))
def test_restart_with_profile_changes_nothing(steps: int) -> None:
    profile = profile_of("gate", 0.5, 0.1, enter=0.45, exit=0.3)
    calm, disturbed = served(profile), served(profile)

    calm.finish()
    disturbed.survive([steps, steps], [])

    assert disturbed.effects() == calm.effects()


def test_lower_threshold_lowers_heatmap_threshold() -> None:
    rig = served()
    rig.steps(1)
    assert rig.engine.heatmap_threshold == pytest.approx(0.4, rel=0.01)

    rig.profiles.put(profile_of("hall", 1, 0, enter=0.3, exit=0.2))
    rig.clock.now_s += 1
    rig.steps(1)

    assert rig.engine.heatmap_threshold == pytest.approx(0.2, rel=0.01)


def test_profile_that_breaks_the_engine_is_rejected() -> None:
    harmful = profile_of("gate", 3.4e38, 3.4e38)
    rig = served(harmful, profile_of("yard", 0.5, 0))

    with capture_logs() as lines:
        rig.finish()

    plain = served(profile_of("yard", 0.5, 0))
    plain.finish()
    assert rig.effects() == plain.effects()
    assert rig.counted("rejected_profiles_total") == 1
    [line] = [line for line in lines if line["event"].startswith("unusable")]
    assert (line["camera_id"], line["profile_id"]) == ("gate", harmful.profile_id)
    assert line["reason"].startswith("brightness: ")


def frames_of(fps: float, width_px: int, count: int = 150) -> list[FrameInfo]:
    return [FrameInfo(Partition("frames", 0), n, "gate", round(n * 1000 / fps), width_px, 90) for n in range(count)]


@pytest.mark.parametrize(
    ("fps", "width_px", "mismatch"), [(10, 120, []), (20, 120, ["rate"]), (5, 120, ["rate"]), (10, 160, ["shape"])]
)
def test_other_footage_than_learned_is_told_once(fps, width_px, mismatch):
    metrics = Metrics()
    check = FootageCheck(PROFILED_BUNDLE, 5_000, metrics)
    with capture_logs() as logs:
        for info in frames_of(fps, width_px):
            check.add(info, GATE)
    assert [entry["mismatch"] for entry in logs] == ([mismatch] if mismatch else [])
    assert metrics.registry.get_sample_value("oddsight_rate_ratio", {"camera_id": "gate"}) == pytest.approx(fps / 10, rel=0.01)


@pytest.mark.parametrize(("score", "told"), [(0.1, 0), (0.4, 1), (-0.5, 1)])
def test_drift_is_told_once(score, told):
    metrics = Metrics()
    watch = DriftWatch(metrics)
    with capture_logs() as logs:
        for number in range(3000):  # 50 minutes
            event = 0 < number % 600 < 100
            watch.add(frame_at(number * 1000), 5.0 if event else score, 0.0, 1.0)
    assert len(logs) == told
    assert metrics.registry.get_sample_value("oddsight_score_drift", {"camera_id": "gate"}) == pytest.approx(score)


def frame_at(captured_at_ms: int) -> FrameInfo:
    return FrameInfo(Partition("frames", 0), 0, "gate", captured_at_ms, 120, 90)
