"""The thresholds of watched cameras follow their scores; alarms do not raise them, and frozen cameras stay as they are."""

from dataclasses import replace

import numpy as np
import pytest

from deploy.calibration import calibrate_scores, scored_at_rate, thresholds
from deploy.decision import OpenEvent
from deploy.profile import Profile
from deploy.profile_learning import Normal
from deploy.score_maps import place_grid
from streamer.config import Settings, decision_times
from streamer.monitoring import Metrics
from streamer.pipeline.profiles import CameraProfiles
from streamer.pipeline.recalibration import Recalibration
from streamer.types import FrameInfo, Outcome, Partition
from tests.harness.fakes import MemoryProfileStore
from tests.harness.pipeline import profile_of
from tests.harness.video_bundle import GRID, UNIT, VIDEO

HOUR_FRAMES = 3600 + 1
"""At one frame a second."""
SETTINGS = Settings.model_validate({"decision": {"min_duration_s": 0, "merge_gap_s": 10}})
TIMES = decision_times(SETTINGS)


def ordinary(frames: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).exponential(1.0, frames).astype(np.float32)


def learned_profile(minutes: int = 15) -> Profile:
    calibration = calibrate_scores([scored_at_rate(ordinary(60 * minutes, 1), 1.0)], TIMES)
    return Profile(profile_of("gate", 1, 0).info.model_copy(update={"calibration": calibration}), UNIT)


class Watch:
    def __init__(self, profile: Profile, settings: Settings = SETTINGS) -> None:
        self.store, self.now_ms = MemoryProfileStore(), 0
        self.store.put(profile)
        self.profiles = CameraProfiles(self.store, VIDEO, settings, Metrics())
        self.profiles.load()
        self.recalibration = Recalibration(settings, self.profiles, self.store, GRID)

    @property
    def profile(self) -> Profile:
        found = self.profiles.get("gate")
        assert found is not None
        return found

    @property
    def enter(self) -> float:
        return thresholds(self.profile.info.calibration, 1.0, TIMES).enter

    def see(self, scores: np.ndarray, event_frames: range = range(0), brightness: int | None = None) -> None:
        for number, score in enumerate(scores):
            self.now_ms += 1000
            info = FrameInfo(Partition("frames", 0), self.now_ms, "gate", self.now_ms, 8, 8)
            times = {"started_at_ms": 0, "last_active_ms": 0, "announced_at_ms": 0}
            event = OpenEvent(event_id="a", peak_score=9, **times) if number in event_frames else None
            picture = None if brightness is None else np.full(place_grid(GRID.shape), brightness, np.uint8)
            outcome = Outcome(info, None, self.profile, float(score), picture=picture)
            self.recalibration.add(outcome, event, self.enter)
            if number % 100 == 0:
                self.profiles.refresh()
        self.profiles.refresh()


def test_bound_tightens_as_more_is_seen() -> None:
    watch = Watch(learned_profile())
    before = watch.profile
    watch.see(ordinary(3 * HOUR_FRAMES, 2))
    after = watch.profile.info.calibration
    assert after.observed_s == pytest.approx(3.25 * 3600, rel=0.01)
    limits = [thresholds(each, 1.0, TIMES) for each in (before.info.calibration, after)]
    assert limits[1].bound < limits[0].bound / 10
    assert watch.profile.values is not None
    np.testing.assert_array_equal(watch.profile.values, before.values)


def test_background_follows_what_is_seen_outside_of_events() -> None:
    watch = Watch(learned_profile())
    learned = Normal.from_values(watch.profile.values, GRID.shape).background.pictures
    watch.see(ordinary(HOUR_FRAMES, 2), brightness=100)
    once = Normal.from_values(watch.profile.values, GRID.shape).background.pictures
    np.testing.assert_allclose(once[0], (learned[0] + 100) / 2)
    np.testing.assert_array_equal(once[1], learned[1])
    watch.see(ordinary(4 * HOUR_FRAMES, 3), event_frames=range(4 * HOUR_FRAMES), brightness=200)
    np.testing.assert_array_equal(Normal.from_values(watch.profile.values, GRID.shape).background.pictures, once)


def test_threshold_follows_what_is_ordinary() -> None:
    busy, calm = (Watch(learned_profile()) for _ in range(2))
    busy.see(1.3 * ordinary(3 * HOUR_FRAMES, 3))
    calm.see(0.5 * ordinary(3 * HOUR_FRAMES, 3))
    assert calm.enter < busy.enter


def test_alarms_do_not_raise_the_threshold() -> None:
    """Half an hour of a score far above the threshold, as one event."""
    scores = ordinary(3 * HOUR_FRAMES, 4)
    alarm = range(1000, 2800)
    scores[alarm.start : alarm.stop] = 50
    watch = Watch(learned_profile())
    before = watch.enter
    watch.see(scores, alarm)
    assert watch.enter <= before
    assert max(watch.profile.info.calibration.peaks) < 50


def test_events_keep_the_threshold_from_falling() -> None:
    """Without an event the threshold of a calm camera falls; with more than the budget it stays."""
    scores = 0.5 * ordinary(6 * HOUR_FRAMES, 5)
    calm, alarmed = (Watch(learned_profile(180)) for _ in range(2))
    before = calm.enter
    calm.see(scores)
    alarmed.see(scores, range(100, 200))
    assert calm.enter < before
    assert alarmed.enter == before


def test_frozen_cameras_stay_as_they_are() -> None:
    watch = Watch(learned_profile())
    watch.store.frozen_cameras.add("gate")
    watch.store.put(replace(watch.profile))
    watch.profiles.load()
    before = watch.profile.profile_id
    watch.see(ordinary(2 * HOUR_FRAMES, 6))
    assert watch.profile.profile_id == before


def test_nothing_follows_without_memory() -> None:
    settings = SETTINGS.model_copy(update={"learning": SETTINGS.learning.model_copy(update={"memory_days": 0.0})})
    watch = Watch(learned_profile(), settings)
    before = watch.profile.profile_id
    watch.see(ordinary(2 * HOUR_FRAMES, 7))
    assert watch.profile.profile_id == before


def test_profile_of_an_operator_is_not_replaced() -> None:
    watch = Watch(learned_profile())
    stale, other = watch.profile, learned_profile(30)
    watch.see(ordinary(HOUR_FRAMES - 100, 8))
    watch.store.put(other)
    for number in range(200):  # scored before the change came
        info = FrameInfo(Partition("frames", 0), 0, "gate", watch.now_ms + 1000 * number, 8, 8)
        watch.recalibration.add(Outcome(info, None, stale, 1.0), None, 9.0)
    assert watch.store.current() == {"gate": other.profile_id}


def test_outage_of_redis_loses_nothing() -> None:
    watch = Watch(learned_profile())
    watch.store.available = False
    watch.see(ordinary(HOUR_FRAMES, 9))
    watch.store.available = True
    watch.see(ordinary(HOUR_FRAMES, 10))
    assert watch.profile.info.calibration.observed_s == pytest.approx(2.25 * 3600, rel=0.01)
