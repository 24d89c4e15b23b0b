"""Keeps the calibrations of watched cameras up to date: the longer a camera is watched, the better its budget is kept.

The scores of each hour outside of events are calibrated as those of learned footage are, and merged with the camera's profile as
soon as they are as much as it was learned from. An event counts as one that just reached the threshold. So it can keep the
threshold from falling, but never raises it: what raised an alarm does not become normal by that. The background of the profile
follows pictures from outside of events at the same time.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import structlog
from numpy.typing import NDArray

from deploy.calibration import Calibration, calibrate_scores, merge, split_at_gaps, thresholds, with_peaks
from deploy.decision import OpenEvent
from deploy.profile import Profile
from deploy.profile_learning import follow_pictures
from deploy.score_maps import Grid
from streamer.config import Settings, decision_times
from streamer.interfaces import ProfileStore, RedisUnavailable
from streamer.pipeline.profiles import CameraProfiles
from streamer.types import Outcome

log = structlog.get_logger("oddsight.recalibration")

_PART_MS = 3_600_000
_MAX_PART_FRAMES = 100_000
_MOST_WAIT_S = 4 * 3600.0  # observed time after which a profile follows: light changes within hours
_PICTURE_EVERY_MS = 60_000
_MOST_PICTURES, _LEAST_PICTURES = 300, 30
_DAY_S = 86_400.0


@dataclass(slots=True)
class _Watched:
    """What a camera has shown since its profile came into force."""

    profile_id: str
    scores: list[float] = field(default_factory=list)
    """Of the present part; NaN during events."""
    times_ms: list[int] = field(default_factory=list)
    events: int = 0
    """That began in the present part."""
    event_id: str | None = None
    """Of the newest event."""
    seen: Calibration | None = None
    """All parts before."""
    seen_events: int = 0
    pictures: deque[NDArray[np.uint8]] = field(default_factory=lambda: deque(maxlen=_MOST_PICTURES))
    """The newest from outside of events, in all parts."""
    pictured_ms: int = -_PICTURE_EVERY_MS


class Recalibration:
    """Follows the scores of cameras with profiles of their own, except those that operators froze."""

    def __init__(self, settings: Settings, profiles: CameraProfiles, store: ProfileStore, grid: Grid | None) -> None:
        """``grid``: of the maps in the model's states, None if they hold none."""
        self._profiles, self._store, self._grid = profiles, store, grid
        self._memory_s, self._budget = settings.learning.memory_days * _DAY_S, settings.decision.false_events_per_camera_day
        self._times, self._max_gap_ms = decision_times(settings), settings.decision.max_gap_s * 1000
        self._cameras: dict[str, _Watched] = {}

    def add(self, outcome: Outcome, event: OpenEvent | None, enter: float) -> None:
        """Look at a camera's next frame; ``event``: after the frame, ``enter``: the threshold in force."""
        profile, camera_id = outcome.profile, outcome.info.camera_id
        if profile is None or outcome.score is None or not self._memory_s:
            return
        camera = self._cameras.get(camera_id)
        if camera is None or camera.profile_id != profile.profile_id:
            camera = self._cameras[camera_id] = _Watched(profile.profile_id)
        is_event = event is not None and event.announced_at_ms is not None
        if event is not None and is_event and event.event_id != camera.event_id:
            camera.events, camera.event_id = camera.events + 1, event.event_id
        camera.scores.append(np.nan if is_event else outcome.score)
        camera.times_ms.append(outcome.info.captured_at_ms)
        if event is None and outcome.picture is not None:
            _keep(camera, outcome.picture, outcome.info.captured_at_ms)
        is_long = abs(camera.times_ms[-1] - camera.times_ms[0]) >= _PART_MS
        if is_long or len(camera.scores) >= _MAX_PART_FRAMES:
            self._end_part(camera, profile, enter)

    def forget(self, camera_ids: Collection[str]) -> None:
        """Drop what is held of cameras; what their profiles have followed already stays."""
        for camera_id in camera_ids:
            self._cameras.pop(camera_id, None)

    def _end_part(self, camera: _Watched, profile: Profile, enter: float) -> None:
        scores, times_ms, events = np.array(camera.scores, np.float32), np.array(camera.times_ms, np.int64), camera.events
        camera.scores, camera.times_ms, camera.events = [], [], 0
        camera.seen_events += events
        if np.isfinite(scores).sum() < 2:
            return
        part = calibrate_scores(split_at_gaps(times_ms, scores, self._max_gap_ms), self._times)
        # An event is a peak of which nothing is known but that it reached the threshold.
        part = with_peaks(part, [enter] * events)
        camera.seen = part if camera.seen is None else merge(camera.seen, part, self._memory_s)
        if camera.seen.observed_s >= min(profile.info.calibration.observed_s, _MOST_WAIT_S):
            self._publish(camera, profile, enter, times_ms[-1] / 1000)

    def _publish(self, camera: _Watched, profile: Profile, enter: float, now_s: float) -> None:
        """Make the profile with the merged calibration the camera's, unless it is frozen or events would raise the threshold."""
        camera_id = profile.info.camera_id
        if camera.seen is None or self._profiles.is_frozen(camera_id):
            return
        merged = merge(profile.info.calibration, camera.seen, self._memory_s)
        after = thresholds(merged, self._budget, self._times).enter
        if camera.seen_events and after > enter:
            return
        created_at = datetime.fromtimestamp(now_s, UTC)
        info = profile.info.model_copy(update={"calibration": merged, "created_at": created_at})
        values = profile.values
        if self._grid is not None and len(camera.pictures) >= _LEAST_PICTURES:
            values = follow_pictures(values, self._grid.shape, np.stack(camera.pictures).astype(np.float32))
        try:
            self._store.put_after(Profile(info, values), profile.profile_id)
        except RedisUnavailable as error:
            log.warning("a calibration was not stored, and is tried again within the hour", camera_id=camera_id, error=str(error))
        else:
            log.info("calibration followed", camera_id=camera_id, observed_s=round(merged.observed_s), before=enter, enter=after)


def _keep(camera: _Watched, picture: NDArray[np.uint8], now_ms: int) -> None:
    """Keep a picture a minute."""
    if abs(now_ms - camera.pictured_ms) >= _PICTURE_EVERY_MS:
        camera.pictures.append(picture)
        camera.pictured_ms = now_ms
