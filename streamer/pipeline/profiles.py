"""The profile that each camera is served with, kept in step with what operators import and roll back.

A profile that cannot be used is never an error here: it is logged and counted, and the bundle's default serves its camera.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import structlog

from deploy.bundle import Bundle
from deploy.errors import ConfigError, ProfileError
from deploy.health import MOST_RATE_RATIO
from deploy.profile import Profile, require_profile_of
from streamer.config import Settings, camera_thresholds
from streamer.interfaces import ProfileStore, RedisUnavailable
from streamer.monitoring import Metrics
from streamer.types import FrameInfo

log = structlog.get_logger("oddsight.profiles")

_SHAPE_TOLERANCE = 1.05
_RATE_FRAMES = 100  # frames over which a camera's rate is averaged
_DRIFT_MS = 600_000  # capture time whose median score is compared; shorter ones follow the hour's bustle
_DRIFT_PARTS = 3  # in a row that must have drifted
_MOST_DRIFT = 0.25  # of the way from the usual median to the threshold
_MAX_DRIFT_SCORES = 20_000


class CameraProfiles:
    """The cameras' current profiles. For a bundle whose model takes none, the store is never read."""

    def __init__(self, store: ProfileStore, bundle: Bundle, settings: Settings, metrics: Metrics) -> None:
        self._store, self._bundle, self._settings, self._metrics = store, bundle, settings, metrics
        self._profiles: dict[str, Profile] = {}
        self._version: str | None = None
        self._rejected: set[tuple[str, str]] = set()
        """(camera_id, profile_id) of current profiles that were logged as unusable."""
        self._store_failed = False
        self._frozen: Collection[str] = ()

    def get(self, camera_id: str) -> Profile | None:
        """The camera's profile, None for the bundle's default."""
        return self._profiles.get(camera_id)

    def all(self) -> Collection[Profile]:
        """The profiles of all cameras that have one of their own."""
        return self._profiles.values()

    def load(self) -> bool:
        """Read what has changed in the store; returns whether anything has. After a RedisUnavailable all is as before."""
        if not self._bundle.spec.profile_size:
            return False
        # Before the profiles: a change in between is then found the next time.
        version = self._store.version()
        if version == self._version:
            return False
        current, self._frozen = self._store.current(), self._store.frozen()
        usable = {camera_id: self._usable(camera_id, profile_id) for camera_id, profile_id in current.items()}
        self._rejected &= set(current.items())
        self._replace({camera_id: profile for camera_id, profile in usable.items() if profile is not None})
        self._version = version
        return True

    def refresh(self) -> bool:
        """As :meth:`load`, but while the store is unavailable the profiles stay in force."""
        try:
            changed = self.load()
        except RedisUnavailable as error:
            if not self._store_failed:
                log.warning("profiles cannot be read, those in use stay in force", error=str(error))
            self._store_failed = True
            return False
        self._store_failed = False
        return changed

    def adopt(self, profile: Profile) -> None:
        """Serve a camera with a profile that the service learned, from now on. Raises RedisUnavailable: nothing changed."""
        self._store.put_first(profile)
        self._replace({**self._profiles, profile.info.camera_id: profile})

    def adopt_after(self, profile: Profile, before: Profile) -> None:
        """As :meth:`adopt`, in place of the profile ``before``, unless the camera has another one by now."""
        if self._store.put_after(profile, before.profile_id):
            self._replace({**self._profiles, profile.info.camera_id: profile})

    def is_frozen(self, camera_id: str) -> bool:
        """Whether the camera's profile is to stay as it is."""
        return camera_id in self._frozen

    def has_been_rejected(self, camera_id: str) -> bool:
        """Whether the camera has a profile that cannot be used."""
        return any(camera_id == name for name, _ in self._rejected)

    def reject(self, profile: Profile, reason: str) -> None:
        """Serve the profile's camera with the default from now on, until the camera's profile changes."""
        camera_id = profile.info.camera_id
        self._log_rejected(camera_id, profile.profile_id, reason)
        self._replace({name: other for name, other in self._profiles.items() if name != camera_id})

    def _usable(self, camera_id: str, profile_id: str) -> Profile | None:
        served = self._profiles.get(camera_id)
        if served is not None and served.profile_id == profile_id:
            return served
        try:
            profile = self._store.read(camera_id, profile_id)
            require_profile_of(self._bundle, profile)
            camera_thresholds(self._settings, camera_id, profile.info.calibration)
        except (ProfileError, ConfigError) as error:
            self._log_rejected(camera_id, profile_id, str(error))
            return None
        return profile

    def _log_rejected(self, camera_id: str, profile_id: str, reason: str) -> None:
        if (camera_id, profile_id) in self._rejected:
            return
        self._rejected.add((camera_id, profile_id))
        self._metrics.rejected_profiles.inc()
        log.warning("unusable profile, the default serves the camera", camera_id=camera_id, profile_id=profile_id, reason=reason)

    def _replace(self, profiles: dict[str, Profile]) -> None:
        before, self._profiles = self._profiles, profiles
        self._metrics.camera_profiles.set(len(profiles))
        if self._version is None:
            log.info("profiles loaded", cameras=len(profiles))
            return
        for camera_id in sorted(before.keys() | profiles.keys()):
            ids = [None if each is None else each.profile_id for each in (before.get(camera_id), profiles.get(camera_id))]
            if ids[0] != ids[1]:
                log.info("profile changed", camera_id=camera_id, before=ids[0] or "default", profile_id=ids[1] or "default")


@dataclass(slots=True)
class _Observed:
    """What a camera sends."""

    captured_at_ms: int
    interval_ms: float = 0.0  # mean of the last intervals
    intervals: int = 0
    told: frozenset[str] = frozenset()  # warnings that are in force


class FootageCheck:
    """Compares what cameras send with the footage that their profiles were learned from: frames per second, and shape of images.

    A mismatch makes everything look faster, slower or distorted, and there is nothing else that would tell.
    """

    def __init__(self, bundle: Bundle, max_gap_ms: int, metrics: Metrics) -> None:
        self._spec, self._max_gap_ms, self._metrics = bundle.spec, max_gap_ms, metrics
        self._cameras: dict[str, _Observed] = {}

    def add(self, info: FrameInfo, profile: Profile | None) -> None:
        """Look at a camera's next frame; ``profile``: None for the bundle's default."""
        camera = self._cameras.setdefault(info.camera_id, _Observed(info.captured_at_ms))
        between_ms, camera.captured_at_ms = info.captured_at_ms - camera.captured_at_ms, info.captured_at_ms
        if 0 < between_ms <= self._max_gap_ms:
            camera.intervals = min(camera.intervals + 1, _RATE_FRAMES)
            camera.interval_ms += (between_ms - camera.interval_ms) / camera.intervals
        if camera.intervals == _RATE_FRAMES:
            self._compare(camera, info, profile)

    def forget(self, camera_ids: Collection[str]) -> None:
        """Drop what is held of cameras."""
        for camera_id in camera_ids:
            self._cameras.pop(camera_id, None)

    def _compare(self, camera: _Observed, info: FrameInfo, profile: Profile | None) -> None:
        learned = self._spec if profile is None else profile.info
        fps, shape = 1000 / camera.interval_ms, info.width_px / info.height_px
        rate_ratio, shape_ratio = fps / learned.fps, shape / (learned.width_px / learned.height_px)
        self._metrics.rate_ratio.labels(info.camera_id).set(rate_ratio)
        now = frozenset(
            name
            for name, ratio, most in (("rate", rate_ratio, MOST_RATE_RATIO), ("shape", shape_ratio, _SHAPE_TOLERANCE))
            if not 1 / most <= ratio <= most
        )
        if new := now - camera.told:
            log.warning(
                "a camera does not send what its profile was learned from; learn it again, or mend the camera",
                camera_id=info.camera_id,
                mismatch=sorted(new),
                fps=round(fps, 1),
                learned_fps=round(learned.fps, 1),
                image=f"{info.width_px}x{info.height_px}",
                learned_image=f"{learned.width_px}x{learned.height_px}",
            )
        camera.told = now


@dataclass(slots=True)
class _RecentScores:
    """A camera's scores since ``since_ms``, and how many parts in a row have drifted."""

    since_ms: int
    scores: list[float] = field(default_factory=list)
    parts: int = 0


class DriftWatch:
    """Tells when a camera's ordinary scores are no longer what they were when its profile was learned."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._cameras: dict[str, _RecentScores] = {}

    def forget(self, camera_ids: Collection[str]) -> None:
        """Drop what is held of cameras."""
        for camera_id in camera_ids:
            self._cameras.pop(camera_id, None)

    def add(self, info: FrameInfo, score: float, median: float, enter: float) -> None:
        """Look at the score of a camera's next frame; ``median``: of normal scores, ``enter``: the threshold."""
        recent = self._cameras.setdefault(info.camera_id, _RecentScores(info.captured_at_ms))
        if len(recent.scores) < _MAX_DRIFT_SCORES:
            recent.scores.append(score)
        if abs(info.captured_at_ms - recent.since_ms) < _DRIFT_MS:
            return
        # The median: an event of a few minutes does not move it.
        drift = (float(np.median(recent.scores)) - median) / max(enter - median, 1e-9)
        self._metrics.score_drift.labels(info.camera_id).set(drift)
        parts = recent.parts + 1 if abs(drift) > _MOST_DRIFT else 0
        if parts == _DRIFT_PARTS:
            log.warning(
                "a camera's ordinary scores have drifted from its profile: look whether it was moved, is dirty or dark; "
                "if what it shows now is right, learn it anew: oddsight-stream cameras relearn",
                camera_id=info.camera_id,
                drift=round(drift, 2),
                minutes=_DRIFT_PARTS * _DRIFT_MS // 60_000,
            )
        self._cameras[info.camera_id] = _RecentScores(info.captured_at_ms, parts=parts)
