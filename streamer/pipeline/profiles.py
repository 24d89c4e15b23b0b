"""The profile that each camera is served with, kept in step with what operators import and roll back.

A profile that cannot be used is never an error here: it is logged and counted, and the bundle's default serves its camera.
"""

from collections.abc import Collection

import structlog

from deploy.bundle import Bundle
from deploy.errors import ConfigError, ProfileError
from deploy.profile import Profile, require_profile_of
from streamer.config import Settings, camera_thresholds
from streamer.errors import RedisUnavailable
from streamer.interfaces import ProfileStore
from streamer.monitoring import Metrics

log = structlog.get_logger("oddsight.profiles")


class CameraProfiles:
    """The cameras' current profiles. For a bundle whose model takes none, the store is never read."""

    def __init__(self, store: ProfileStore, bundle: Bundle, settings: Settings, metrics: Metrics) -> None:
        self._store, self._bundle, self._settings, self._metrics = store, bundle, settings, metrics
        self._profiles: dict[str, Profile] = {}
        self._version: str | None = None
        self._rejected: set[tuple[str, str]] = set()
        """(camera_id, profile_id) of current profiles that were logged as unusable."""
        self._store_failed = False

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
        current = self._store.current()
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
